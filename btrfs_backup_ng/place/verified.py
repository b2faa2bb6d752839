"""The record at a place of what was verified there, when, and how thoroughly."""

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any
from uuid import UUID

from btrfs_backup_ng.__util__ import BackupError, visible
from btrfs_backup_ng.core.model import Result
from btrfs_backup_ng.core.record import (
    Content,
    Unreadable,
    format_document,
    parse_document,
)
from btrfs_backup_ng.endpoint.common import Place

#: File of our bookkeeping at a place.
VERIFIED = "verified.json"
_VERSION = 1


class Depth(enum.Enum):
    """How thoroughly, the least first."""

    IDENTITY = "identity"
    DATA = "data"
    RESTORE = "restore-test"


@dataclass(frozen=True, slots=True)
class Verified:
    """How a snapshot was verified the last time at a level.

    :ivar when: aware UTC.
    """

    level: Depth
    when: datetime
    result: Result


#: UUID of a snapshot at its place -> the last time for each level.
Record = Mapping[UUID, Mapping[Depth, Verified]]


def parse_verified(content: Content) -> Record:
    """Read a record.

    :raises Unreadable: if it is not fully understood.
    """
    return {} if content is None else parse_document(content, _VERSION, _built)


def _built(document: Any) -> Record:
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
        raise Unreadable(f"{text!r:.40} has no zone")
    return when.astimezone(timezone.utc)


def format_verified(record: Record) -> bytes:
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
    return format_document(_VERSION, {"snapshots": snapshots}, indent=1)


def last_verified(record: Record, uuid: UUID) -> Verified | None:
    """Return what counts of the times that a snapshot was verified.

    The most thorough one; but what was found bad stays bad until a check of the same
    level finds it good (then :class:`Memory` has put that in its place).
    """
    seen, order = record.get(uuid, {}).values(), list(Depth)
    bad = [one for one in seen if one.result is Result.BAD]
    return max(bad or seen, key=lambda one: order.index(one.level), default=None)


def read_verified(content: Content) -> Mapping[UUID, Verified]:
    """Return what counts for each snapshot of a record.

    :param content: of the file :data:`VERIFIED`.
    :raises Unreadable: if it is not fully understood.
    """
    found = parse_verified(content)
    counting = {uuid: last_verified(found, uuid) for uuid in found}
    return {uuid: seen for uuid, seen in counting.items() if seen}


class Memory:
    """The record of a place while it is verified.

    :ivar notes: what did not go well with it, for people; no error.
    """

    def __init__(self, place: Place, now: datetime) -> None:
        """Prepare.

        :param now: aware.
        """
        self._place = place
        self._now = now.astimezone(timezone.utc).replace(microsecond=0)
        self._record: dict[UUID, dict[Depth, Verified]] = {}
        self._changed = self._failed = False
        self.notes: list[str] = []

    def read(self, content: Content, existing: Collection[UUID]) -> None:
        """Read what is recorded; what is damaged is moved aside.

        :param content: of the file :data:`VERIFIED` there.
        :param existing: UUIDs of what is there; the rest is forgotten.
        """
        try:
            found = parse_verified(content)
        except Unreadable as error:
            self._set_aside(error)
            return
        self._record = {u: dict(seen) for u, seen in found.items() if u in existing}

    def _set_aside(self, error: Unreadable) -> None:
        aside = error.name_aside(VERIFIED, self._now)
        path = self._place.record_path(VERIFIED)
        text = f"{path} cannot be read ({visible(str(error))})"
        try:
            self._place.set_aside(VERIFIED, aside)
            self.notes.append(f"{text}; moved to {aside}")
        except BackupError as failed:
            self._failed = True  # what may be whole is not overwritten
            self.notes.append(
                f"{text} and not be moved aside, so what was verified cannot be"
                f" remembered there: {failed.message}"
            )

    def note(self, uuid: UUID, level: Depth, result: Result) -> None:
        """Note how a snapshot was found; what could not be checked leaves no mark."""
        if result is Result.UNCHECKED:
            return
        self._record.setdefault(uuid, {})[level] = Verified(level, self._now, result)
        self._changed = True

    def write(self) -> None:
        """Bring what is new to the disk; where nobody may write, that is one note."""
        if not self._changed or self._failed:
            return
        self._changed = False
        try:
            self._place.write_record(VERIFIED, format_verified(self._record))
        except BackupError as error:
            self._failed = True
            text = f"what was verified at {self._place} cannot be remembered there: "
            self.notes.append(text + error.message)
