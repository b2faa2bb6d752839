"""The recorded reasons not to delete a snapshot, for each destination.

The record is stored next to the snapshots, so every run that prunes there sees it. For
an absent destination, only the parent of its next incremental backup is kept. The
record also has the policy that the last run applied to each series of snapshots, and
the mounts below the source, so that a run notices new ones.
"""

import enum
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from btrfs_backup_ng.__util__ import BackupError, Refused, visible
from btrfs_backup_ng.btrfs.parse import is_full
from btrfs_backup_ng.core.events import Level, Noted
from btrfs_backup_ng.core.model import Snapshot
from btrfs_backup_ng.core.naming import are_of_btrbk
from btrfs_backup_ng.core.policy import Policy
from btrfs_backup_ng.core.record import (
    Content,
    Unread,
    Unreadable,
    as_list,
    as_text,
    format_document,
    parse_document,
)
from btrfs_backup_ng.core.value import EMPTY, Value, replace
from btrfs_backup_ng.endpoint.common import Place
from btrfs_backup_ng.host.facts import is_same_filesystem

log = logging.getLogger(__name__)

#: Name of the record at a source.
HOLDS = "holds.json"
_VERSION = 1
#: Of :meth:`Holds.forget`: all disks at a location.
EVERY_DISK = "all"


class Why(enum.Enum):
    """Why a destination needs a snapshot of the source."""

    BASE = "last common"
    SENDING = "being sent"
    UNKNOWN = "perhaps needed"
    """The record was lost, and this destination has not been seen since."""


class Hold(Value):
    """One snapshot that must stay because one destination needs it."""

    origin: UUID
    name: str
    why: Why


class HeldPlace(Value):
    """A destination, and the folder at the source that it gets snapshots from.

    Another disk at the same path is another destination; the same directory of a disk
    under another path, or behind ssh, is the same one.

    :ivar filesystem: see :class:`Facts`; ``""`` if it was never seen, or says nothing,
        as a clone of it was mounted, too. The location then tells one from the other.
    :ivar inside: see :class:`Facts`; ``""`` if that is not known.
    :ivar folder: ``""`` for the usual one.
    """

    location: str
    filesystem: str = ""
    inside: str = ""
    folder: str = ""

    @property
    def disk(self) -> str:
        """Return a short name of its filesystem, for people."""
        return self.filesystem[:8]

    def is_same(self, other: "HeldPlace") -> bool:
        """Return whether both are the same destination, as it is known now."""
        known = self.filesystem, other.filesystem
        if not (all(known) and self.inside and other.inside):
            is_known = known[0] == known[1] or not all(known)
            return self.location == other.location and is_known
        if not is_same_filesystem(self.filesystem, other.filesystem):
            return False
        return self.inside == other.inside


Records = Mapping[HeldPlace, frozenset[Hold]]

#: Folder ("" for the usual one) and prefix of snapshots -> the policy that was applied
#: there last, as ``Policy.for_record``.
Policies = Mapping[tuple[str, str], str]


class HoldsRecord(Value):
    """The content of the record.

    :ivar mounts: the mounts below the source, as the last run saw them.
    """

    holds: Records = EMPTY
    policies: Policies = EMPTY
    mounts: frozenset[str] = frozenset()


def parse_record(content: bytes | Unread) -> HoldsRecord:
    """Read the record.

    :raises Unreadable: if it is not fully understood.
    """
    return parse_document(content, _VERSION, _built)


def parse_holds(content: bytes | Unread) -> Records:
    """Read the holds of the record.

    :raises Unreadable: if the record is not fully understood.
    """
    return parse_record(content).holds


def _built(document: Any) -> HoldsRecord:
    policies = {
        (as_text(entry["folder"]), as_text(entry["prefix"])): as_text(entry["policy"])
        for entry in as_list(document.get("policies", []))
    }
    mounts = frozenset(map(as_text, as_list(document.get("mounts", []))))
    return HoldsRecord(_built_holds(document), policies, mounts)


def _built_holds(document: Any) -> Records:
    records: dict[HeldPlace, frozenset[Hold]] = {}
    for entry in as_list(document["destinations"]):
        place = HeldPlace(
            as_text(entry["location"]),
            as_text(entry["filesystem"]),
            as_text(entry.get("inside", "")),
            as_text(entry.get("folder", "")),
        )
        holds = {
            Hold(UUID(as_text(h["origin"])), as_text(h["name"]), Why(h["why"]))
            for h in as_list(entry["holds"])
        }
        records[place] = records.get(place, frozenset()) | holds
    return records


def format_holds(
    records: Records,
    policies: Policies | None = None,
    mounts: Collection[str] = (),
) -> bytes:
    """Write the record so that :func:`parse_record` reads the same; in stable order."""
    destinations = [
        {
            "location": place.location,
            "filesystem": place.filesystem,
            **({"inside": place.inside} if place.inside else {}),
            **({"folder": place.folder} if place.folder else {}),
            "holds": [
                {"origin": str(h.origin), "name": h.name, "why": h.why.value}
                for h in sorted(holds, key=lambda h: (h.name, h.why.value))
            ],
        }
        for place, holds in sorted(records.items(), key=_in_order)
        if holds
    ]
    applied = [
        {"folder": folder, "prefix": prefix, "policy": policy}
        for (folder, prefix), policy in sorted((policies or {}).items())
    ]
    fields = {
        "destinations": destinations,
        **({"policies": applied} if applied else {}),
        **({"mounts": sorted(mounts)} if mounts else {}),
    }
    return format_document(_VERSION, fields, indent=1)


def _in_order(item: tuple[HeldPlace, object]) -> tuple[str, ...]:
    place = item[0]
    return place.location, place.filesystem, place.inside, place.folder


class Holds:
    """The holds of one source during a run; every change is written at once.

    Where the source is full, they stay in memory until :meth:`settle`: the run then
    sends what exists, and thins the source. Until that is written, the record holds
    what an earlier run needed.

    :ivar withheld: reasons why this run deletes nothing at the source, each a sentence
        without its end; empty if it may delete.
    :ivar is_read_again: another run may have changed the source meanwhile.
    :ivar lacks_room: the source has no room for the record.
    :param existing: the snapshots in the folder of this run.
    :param is_on_disk: a file with these records is at the source.
    """

    def __init__(
        self,
        source: Place,
        record: HoldsRecord,
        *,
        dry_run: bool,
        existing: Collection[Snapshot] = (),
        withheld: tuple[str, ...] = (),
        is_on_disk: bool = True,
    ) -> None:
        self._source = source
        self._records = dict(record.holds)
        self._policies = dict(record.policies)
        self._applied: dict[tuple[str, str], str] = {}
        self._mounts = record.mounts
        self._dry_run = dry_run
        self._folder = _folder_of(source)
        self._existing = frozenset(snapshot.origin for snapshot in existing)
        self._updated: set[HeldPlace] = set()
        self._is_on_disk = is_on_disk
        self._is_due = not is_on_disk
        self.is_read_again = False
        self.lacks_room = False
        self.withheld = withheld

    def reasons(self) -> dict[UUID, str]:
        """Return the reason, for people, by the origin that must stay."""
        return {
            hold.origin: f"{hold.why.value}: {visible(place.location)}"
            for place, holds in self._records.items()
            for hold in holds
        }

    def applied(self, prefix: str) -> str:
        """Return the policy on record for the snapshots with a prefix; "" for none."""
        key = self._folder, prefix
        return self._applied.get(key, self._policies.get(key, ""))

    def take_mounts(self, mounts: frozenset[str]) -> bool:
        """Take down the mounts below the source; return whether there is a new one.

        They are written with the next change of the holds, or at the end of the run.
        """
        is_new, is_other = not mounts <= self._mounts, mounts != self._mounts
        self._mounts = mounts
        self._is_due = self._is_due or is_other
        return is_new

    def begin(self, prefix: str, policy: Policy | None, *, is_first: bool) -> None:
        """Take down the policy of the first run of a series.

        It is written with the next change of the holds. The policy of a series that was
        there before counts no longer; one that the series has stays on record if a run
        has none.

        :param policy: None to keep all.
        :param is_first: there is no snapshot with the prefix yet.
        """
        if is_first:
            text = policy.for_record if policy else ""
            self._applied[self._folder, prefix] = text

    def apply(self, prefixes: Collection[str], policy: Policy) -> None:
        """Record the policy that is applied to the snapshots with some prefixes."""
        for prefix in prefixes:
            self._applied[self._folder, prefix] = policy.for_record
        self._store(self._records)

    def set(self, place: Place, holds: Iterable[Hold]) -> None:
        """Replace the holds that a destination has on snapshots of this folder.

        Those from before it was seen go, too, and those under another path of it.
        """
        held = replace(held_place(place), folder=self._folder)
        self._updated.add(held)
        others = self._not_replaced(self._records, held)
        self._store({**others, held: frozenset(holds)})

    def _not_replaced(
        self, records: Records, held: HeldPlace
    ) -> dict[HeldPlace, frozenset[Hold]]:
        """Return the holds that are kept if those of one destination are replaced.

        Records of earlier versions do not name the folder of a snapshot.
        """
        left = {}
        for place, holds in records.items():
            if place.is_same(held) and place.folder == held.folder:
                continue
            if place.is_same(held) and not (place.inside or place.folder):
                holds = frozenset(h for h in holds if h.origin not in self._existing)
            left[place] = holds
        return left

    def read_again(self) -> None:
        """Read the record again, as another run may have changed it without the lock.

        Holds that this run has set stay as they are.

        :raises BackupError: if the source cannot be read.
        """
        self.is_read_again = True
        _, (recorded,) = self._source.snapshots.listing(HOLDS)
        path = self._source.record_path(HOLDS)
        doubts = why_unknown(recorded, path, ())
        if recorded is None and self._is_on_disk:
            doubts = (f"{path} is gone",)
        if doubts:
            self.withheld += doubts
            log.warning("%s. Nothing is deleted at %s now", doubts[0], self._source)
            return
        record = parse_record(recorded) if recorded is not None else HoldsRecord()
        found = dict(record.holds)
        self._policies = dict(record.policies)
        own = {p: h for p, h in self._records.items() if p in self._updated}
        for held in self._updated:
            found = self._not_replaced(found, held)
        self._records = {**found, **own}

    def forget(self, locations: Collection[str], disk: str) -> list[tuple[str, Hold]]:
        """Delete the holds of destinations.

        :param disk: the one meant if a location has holds of several; "" for any.
        :returns: the location and the hold, for each.
        :raises Refused: if a location has holds of several disks, and none is meant.
        """
        gone = {
            place: holds
            for place, holds in self._records.items()
            if place.location in locations
            and (disk in ("", EVERY_DISK) or place.disk == disk)
        }
        for location in locations if not disk else ():
            disks = {p.disk for p in gone if p.location == location and p.disk}
            if len(disks) > 1:
                raise Refused(
                    f"{visible(location)} has holds of {len(disks)} disks:"
                    f" {_disks_in(location, gone)}",
                    hint="Choose one:  --disk ID     or all of them:"
                    f"  --disk {EVERY_DISK}",
                )
        self._store({p: h for p, h in self._records.items() if p not in gone})
        self.settle()
        return [(place.location, hold) for place in gone for hold in gone[place]]

    def keep_record(self) -> None:
        """Write the record if it is missing, so that a later loss is noticed."""
        self._store(self._records)

    def settle(self) -> None:
        """Write the holds that could not be written before the source was thinned.

        :raises BackupError: if there is still no room for it.
        """
        if self._is_due and not self._dry_run:
            self._source.sync()  # until the space of deleted snapshots is free
            self._write()

    def _store(self, records: dict[HeldPlace, frozenset[Hold]]) -> None:
        kept = {place: holds for place, holds in records.items() if holds}
        merged = {**self._policies, **self._applied}
        policies = {series: policy for series, policy in merged.items() if policy}
        is_new = (kept, policies) != (self._records, self._policies)
        self._is_due = self._is_due or is_new
        self._records, self._policies = kept, policies
        if not self._is_due or self._dry_run:
            return
        try:
            self._write()
        except BackupError as error:
            if not is_full(error.message):
                raise
            self.lacks_room = True
            text = "%s; it is written after snapshots were deleted"
            log.info(text, visible(error.message))

    def _write(self) -> None:
        content = format_holds(self._records, self._policies, self._mounts)
        self._source.write_record(HOLDS, content)
        self._is_on_disk, self._is_due = True, False
        self.lacks_room = False


def held_place(place: Place) -> HeldPlace:
    """Return a destination that was looked at as the record names it."""
    facts = place.facts
    filesystem = "" if facts.has_twin else facts.filesystem
    return HeldPlace(str(place.location), filesystem, facts.inside)


def _folder_of(source: Place) -> str:
    """Return the folder of a source's snapshots, "" for the usual one."""
    folder = source.snapshots.directory
    inside = f"{source.location.path.rstrip('/')}//"
    return "" if folder.startswith(f"{source.state}/") else folder.removeprefix(inside)


def _disks_in(location: str, records: Records) -> str:
    """Return the disks at a location, each with the snapshots held for it."""
    held: dict[str, list[str]] = {}
    for place, holds in records.items():
        if place.location == location:
            held.setdefault(place.disk, []).extend(hold.name for hold in holds)
    return ", ".join(
        f"{disk or 'never seen'} (for {visible(', '.join(sorted(names)))})"
        for disk, names in sorted(held.items())
    )


def base_hold(snapshot: Snapshot) -> Hold:
    """Return the hold of the parent of the next incremental backup."""
    return Hold(snapshot.origin, snapshot.name, Why.BASE)


def sending_hold(snapshot: Snapshot) -> Hold:
    """Return the hold of a snapshot that is being sent."""
    return Hold(snapshot.origin, snapshot.name, Why.SENDING)


def why_unknown(
    recorded: Content, path: str, snapshots: Collection[Snapshot]
) -> tuple[str, ...]:
    """Return why the needs of the destinations of a source are not known.

    :param path: of the record, for people.
    :param snapshots: those at the source that were made for backups.
    :returns: sentences without their end; empty if the needs are known.
    """
    if recorded is None:
        # After a restore there is no record yet, and only the one received snapshot.
        made_here = any(snapshot.received_uuid is None for snapshot in snapshots)
        if not made_here and len(snapshots) <= 1:
            return ()
        return (f"{path} is missing, the record of the needs of destinations",)
    try:
        parse_holds(recorded)
    except Unreadable as error:
        return (f"{path} cannot be read ({visible(str(error))})",)
    return ()


def open_holds(
    source: Place,
    recorded: Content,
    existing: Collection[Snapshot],
    locations: Collection[str],
    *,
    now: datetime,
    dry_run: bool,
    emit: Callable[[Noted], None],
    last_arrived: Callable[[], Mapping[str, UUID]] = dict,
) -> Holds:
    """Return the holds of a source; rebuild them if the record is lost or unreadable.

    A rebuilt record holds all existing snapshots for each destination of this run until
    it is seen again, and for each other known destination its last backup. An
    unreadable record is moved aside. This run then deletes nothing at the source.

    :param recorded: content of the record.
    :param existing: the snapshots that were made for backups.
    :param now: aware UTC.
    :param last_arrived: returns the origin of the last backup at each destination, from
        the history of this machine; called only if the record is lost.
    """
    path = source.record_path(HOLDS)
    doubts = why_unknown(recorded, path, existing)
    done = "it is created again"
    try:
        if recorded is not None:
            record = parse_record(recorded)
            return Holds(source, record, dry_run=dry_run, existing=existing)
    except Unreadable as error:
        aside = error.name_aside(HOLDS, now)
        done = f"it is moved to {aside} and created again"
        if not dry_run:
            source.set_aside(HOLDS, aside)
    if doubts:
        level = Level.WARNING
        text = f"{doubts[0]}; {done}. Nothing is deleted at {source} now"
        if recorded is None and are_of_btrbk([one.name for one in existing]):
            level = Level.INFO
            text = f"{source}: all snapshots are btrbk's, so this is the first run: it"
            text += " records which of them are needed, and deletes none"
        emit(Noted(str(source.location), level, text))
    last = last_arrived() if doubts else {}
    record = HoldsRecord(_rebuilt(_folder_of(source), existing, locations, last))
    return Holds(
        source,
        record,
        dry_run=dry_run,
        existing=existing,
        withheld=doubts,
        is_on_disk=False,
    )


def _rebuilt(
    folder: str,
    existing: Collection[Snapshot],
    locations: Collection[str],
    last_arrived: Mapping[str, UUID],
) -> Records:
    held = frozenset(Hold(s.origin, s.name, Why.UNKNOWN) for s in existing)
    records = {
        HeldPlace(location, folder=folder): frozenset(
            hold for hold in held if hold.origin == origin
        )
        for location, origin in last_arrived.items()
    }
    records |= {HeldPlace(location, folder=folder): held for location in locations}
    return {place: holds for place, holds in records.items() if holds}


def recorded_locations(recorded: Content) -> list[str]:
    """Return every destination for which there is a hold.

    :raises Unreadable: if the record is not fully understood.
    """
    records = parse_holds(recorded) if recorded is not None else {}
    return sorted({place.location for place in records})
