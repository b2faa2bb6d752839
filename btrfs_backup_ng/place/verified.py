"""The record, at a place, of verified snapshots: the time, the depth and the result."""

import enum
from collections.abc import Collection, Mapping
from datetime import datetime, timezone
from typing import Any
from uuid import UUID

from btrfs_backup_ng.__util__ import BackupError, visible
from btrfs_backup_ng.core.cleared import (
    VERIFIED,
    VERSION,
    Cleared,
    build_cleared,
    format_cleared,
    parse_cleared,
)
from btrfs_backup_ng.core.document import Aged
from btrfs_backup_ng.core.model import Result
from btrfs_backup_ng.core.record import (
    Content,
    Unreadable,
    format_document,
    parse_document,
)
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.endpoint.common import Place


class Depth(enum.Enum):
    """The depth of a check, the shallowest first."""

    IDENTITY = "identity"
    DATA = "data"
    RESTORE = "restore-test"


class Verified(Value):
    """The last check of a snapshot at one level.

    :ivar when: aware UTC.
    """

    level: Depth
    when: Aged[datetime]
    result: Result


#: UUID of a snapshot at its place -> its last check at each level.
Record = Mapping[UUID, Mapping[Depth, Verified]]


def parse_verified(content: Content) -> Record:
    """Read a record.

    :raises Unreadable: if it is not fully understood.
    """
    return {} if content is None else parse_document(content, VERSION, _built)


def _built(document: Any) -> Record:
    build_cleared(document)  # the rest of it must be understood, too
    return {
        UUID(uuid): {
            level: Verified(level, _time(seen["when"]), Result(seen["result"]))
            for level, seen in ((Depth(key), value) for key, value in levels.items())
        }
        for uuid, levels in document["snapshots"].items()
    }


def _time(text: Any) -> datetime:
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        raise Unreadable(f"{text!r:.40} has no time zone")
    return when.astimezone(timezone.utc)


def format_verified(record: Record, cleared: Cleared) -> bytes:
    """Write a record so that :func:`parse_verified` reads the same."""
    snapshots = {
        str(uuid): {
            level.value: {
                "when": seen.when.isoformat(timespec="seconds"),
                "result": seen.result.value,
            }
            for level, seen in sorted(levels.items(), key=lambda item: item[0].value)
        }
        for uuid, levels in sorted(record.items())
    }
    fields = {"snapshots": snapshots, "cleared": format_cleared(cleared)}
    return format_document(VERSION, fields, indent=1)


def last_verified(record: Record, uuid: UUID) -> Verified | None:
    """Return the check that decides the state of a snapshot.

    That is the deepest bad one, or else the deepest. A bad result counts until a check
    of the same level is good and :class:`Memory` has replaced it.
    """
    seen, order = record.get(uuid, {}).values(), list(Depth)
    bad = [one for one in seen if one.result is Result.BAD]
    return max(bad or seen, key=lambda one: order.index(one.level), default=None)


def read_verified(content: Content) -> Mapping[UUID, Verified]:
    """Parse a record, and return the deciding check of each snapshot.

    :param content: of the file :data:`VERIFIED`.
    :raises Unreadable: if it is not fully understood.
    """
    found = parse_verified(content)
    counting = {uuid: last_verified(found, uuid) for uuid in found}
    return {uuid: seen for uuid, seen in counting.items() if seen}


def last_restore(record: Record) -> datetime | None:
    """Return when a restore was last tested, or None."""
    tests = [seen[Depth.RESTORE] for seen in record.values() if Depth.RESTORE in seen]
    return max((one.when for one in tests), default=None)


class Memory:
    """The record of a place while it is verified.

    :ivar notes: problems with the record, for people; these are not errors.
    :param now: aware.
    """

    def __init__(self, place: Place, now: datetime) -> None:
        self._place = place
        self._now = now.astimezone(timezone.utc).replace(microsecond=0)
        self._record: dict[UUID, dict[Depth, Verified]] = {}
        self._cleared: dict[UUID, int] = {}
        self._changed = self._failed = False
        self.notes: list[str] = []

    def read(self, content: Content, existing: Collection[UUID]) -> None:
        """Read the record; a damaged one is moved aside.

        :param content: of the file :data:`VERIFIED`.
        :param existing: UUIDs of the snapshots at the place. Other entries are dropped,
            but for the last restore test, the time of which still counts.
        """
        try:
            found = parse_verified(content)
        except Unreadable as error:
            self._set_aside(error)
            return
        last = last_restore(found)
        self._record = {
            uuid: dict(seen)
            for uuid, seen in found.items()
            if uuid in existing or (last and last_restore({uuid: seen}) == last)
        }
        cleared = parse_cleared(content)
        self._cleared = {u: last for u, last in cleared.items() if u in existing}

    def _set_aside(self, error: Unreadable) -> None:
        aside = error.name_aside(VERIFIED, self._now)
        path = self._place.record_path(VERIFIED)
        text = f"{path} cannot be read ({visible(str(error))})"
        try:
            self._place.set_aside(VERIFIED, aside)
            self.notes.append(f"{text}; moved to {aside}")
        except BackupError as failed:
            self._failed = True  # do not overwrite a record that may be whole
            self.notes.append(
                f"{text} or moved aside, so verifications are not recorded there:"
                f" {failed.message}"
            )

    def last_times(self) -> dict[UUID, datetime]:
        """Return when each snapshot was last verified, at any level."""
        return {
            uuid: max(one.when for one in seen.values())
            for uuid, seen in self._record.items()
            if seen
        }

    def note(self, uuid: UUID, level: Depth, result: Result) -> None:
        """Record the result of a check; ignore an unchecked snapshot."""
        if result is Result.UNCHECKED:
            return
        self._record.setdefault(uuid, {})[level] = Verified(level, self._now, result)
        self._changed = True

    def clear(self, uuid: UUID, last_change: int) -> bool:
        """Record that a snapshot counts as unchanged up to a change, and write that.

        :returns: whether it is recorded now.
        """
        self._cleared[uuid] = last_change
        self._changed = True
        self.write()
        return not self._failed

    def write(self) -> None:
        """Write the record if it has changed; a failure is one note."""
        if not self._changed or self._failed:
            return
        self._changed = False
        try:
            self._place.write_record(
                VERIFIED, format_verified(self._record, self._cleared)
            )
        except BackupError as error:
            self._failed = True
            text = f"cannot record the verifications at {self._place}: "
            self.notes.append(text + error.message)
