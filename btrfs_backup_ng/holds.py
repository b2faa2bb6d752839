"""Own the recorded reasons not to delete a snapshot, for each destination.

They lie next to the snapshots they are about, so whoever prunes there sees them. An
absent destination keeps the base of its next incremental backup, and nothing else.
"""

import enum
import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any
from uuid import UUID

from btrfs_backup_ng.__util__ import visible
from btrfs_backup_ng.endpoint.common import BtrfsEndpoint
from btrfs_backup_ng.model import Snapshot

log = logging.getLogger(__name__)

#: File of our bookkeeping at a source.
HOLDS = "holds.json"
_VERSION = 1


class Why(enum.Enum):
    """Why a destination needs a snapshot of the source."""

    BASE = "last common"
    SENDING = "being sent"
    UNKNOWN = "perhaps needed"
    """The records were lost, and this destination has not been seen since."""


@dataclass(frozen=True, slots=True)
class Hold:
    """One snapshot that must stay, as the one destination needs it."""

    origin: UUID
    name: str
    why: Why


@dataclass(frozen=True, slots=True)
class Place:
    """Which destination: another disk at the same path is another place.

    :ivar filesystem: ``""`` if it was never seen.
    """

    location: str
    filesystem: str = ""


class Unreadable(ValueError):
    """The recorded holds are damaged, or of a newer version."""


Records = Mapping[Place, frozenset[Hold]]


def parse_holds(content: bytes) -> Records:
    """Read recorded holds.

    :raises Unreadable: if they are not fully understood; then nothing is known.
    """
    records: dict[Place, frozenset[Hold]] = {}
    try:
        document = json.loads(content)
        if document["version"] != _VERSION or document["version"] is True:
            raise Unreadable(f"version {document['version']!r}")
        for entry in _list(document["destinations"]):
            place = Place(_text(entry["location"]), _text(entry["filesystem"]))
            holds = {
                Hold(UUID(_text(h["origin"])), _text(h["name"]), Why(h["why"]))
                for h in _list(entry["holds"])
            }
            records[place] = records.get(place, frozenset()) | holds
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Unreadable(str(error)) from error
    return records


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise Unreadable(f"{value!r:.40} where a list belongs")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise Unreadable(f"{value!r:.40} where a text belongs")
    return value


def format_holds(records: Records) -> bytes:
    """Write holds so that :func:`parse_holds` reads the same, in a stable order."""
    destinations = [
        {
            "location": place.location,
            "filesystem": place.filesystem,
            "holds": [
                {"origin": str(h.origin), "name": h.name, "why": h.why.value}
                for h in sorted(holds, key=lambda h: (h.name, h.why.value))
            ],
        }
        for place, holds in sorted(
            records.items(), key=lambda item: (item[0].location, item[0].filesystem)
        )
        if holds
    ]
    document = {"version": _VERSION, "destinations": destinations}
    return json.dumps(document, indent=1).encode() + b"\n"


class Holds:
    """The holds of one source during a run; every change is on its disk at once.

    :ivar trusted: nothing may be deleted at the source in this run if not.
    """

    def __init__(
        self, source: BtrfsEndpoint, records: Records, *, trusted: bool, dry_run: bool
    ) -> None:
        self._source = source
        self._records = dict(records)
        self._dry_run = dry_run
        self._settled: set[Place] = set()
        self.trusted = trusted

    def reasons(self) -> dict[UUID, str]:
        """Give for each origin that must stay a reason for people."""
        reasons = {}
        for place, holds in self._records.items():
            for hold in holds:
                reasons[hold.origin] = f"{hold.why.value}: {visible(place.location)}"
        return reasons

    def set(self, place: Place, holds: Iterable[Hold]) -> None:
        """Record what a destination needs from now on, instead of what it did.

        What was held since nobody knew better is settled by this, too.
        """
        unknown = replace(place, filesystem="")
        changed = {**self._records, place: frozenset(holds)}
        changed.pop(unknown, None)
        self._settled |= {place, unknown}
        self._store(changed)

    def read_again(self) -> None:
        """Take over what another run recorded while our lock was lost.

        What this run settled stays as it is.

        :raises BackupError: if the source cannot be looked at.
        """
        _, recorded = self._source.listing(HOLDS)
        try:
            found = dict(parse_holds(recorded)) if recorded else {}
        except Unreadable as error:
            self.trusted = False
            text = "%s: the holds cannot be read (%s), so nothing is deleted there"
            log.warning(text, self._source, visible(str(error)))
            return
        mine = {p: h for p, h in self._records.items() if p in self._settled}
        others = {p: h for p, h in found.items() if p not in self._settled}
        self._records = {**others, **mine}

    def forget(self, locations: Collection[str]) -> list[tuple[str, Hold]]:
        """Drop the holds of destinations.

        :returns: what was held, and for which of them.
        """
        gone = {p: h for p, h in self._records.items() if p.location in locations}
        self._store({p: h for p, h in self._records.items() if p not in gone})
        return [(place.location, hold) for place in gone for hold in gone[place]]

    def _store(self, records: dict[Place, frozenset[Hold]]) -> None:
        kept = {place: holds for place, holds in records.items() if holds}
        if kept != self._records and not self._dry_run:
            self._source.write_note(HOLDS, format_holds(kept))
        self._records = kept


def base_hold(snapshot: Snapshot) -> Hold:
    """Hold what the next incremental backup starts from."""
    return Hold(snapshot.origin, snapshot.name, Why.BASE)


def sending_hold(snapshot: Snapshot) -> Hold:
    """Hold what is on its way."""
    return Hold(snapshot.origin, snapshot.name, Why.SENDING)


def open_holds(
    source: BtrfsEndpoint,
    recorded: bytes | None,
    existing: Collection[Snapshot],
    locations: Collection[str],
    *,
    now: datetime,
    dry_run: bool,
    warn: Callable[[str, str], None],
) -> Holds:
    """Give the holds of a source, made anew from what is there if they are lost.

    Then all existing snapshots are held for each destination of this run until it is
    seen again. Records that cannot be read are moved aside, and nothing is deleted
    in this run.

    :param recorded: content of the file, ``None`` if there is none.
    :param existing: the snapshots that were made for backups.
    :param now: aware UTC.
    """
    held = frozenset(Hold(s.origin, s.name, Why.UNKNOWN) for s in existing)
    anew = {Place(location): held for location in locations if held}
    if recorded is None:
        return Holds(source, anew, trusted=True, dry_run=dry_run)
    try:
        records = parse_holds(recorded)
    except Unreadable as error:
        stamp = now.astimezone(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        aside = f"{HOLDS}.unreadable-{stamp}"
        if not dry_run:
            source.set_aside(HOLDS, aside)
        warn(
            str(source.location),
            f"{visible(source.state)}/{HOLDS} cannot be read ({visible(str(error))});"
            f" moved to {aside} and made anew. Nothing is deleted at {source} now",
        )
        return Holds(source, anew, trusted=False, dry_run=dry_run)
    return Holds(source, records, trusted=True, dry_run=dry_run)


def recorded_locations(recorded: bytes | None) -> list[str]:
    """Give every destination for which there is a hold; none if unreadable."""
    try:
        records = parse_holds(recorded) if recorded else {}
    except Unreadable:
        return []
    return sorted({place.location for place in records})
