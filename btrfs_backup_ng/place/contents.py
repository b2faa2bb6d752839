"""One look at a place: its snapshots, its backups, the interrupted transfers.

This program makes all names with a date in a snapshot folder, and those with a recorded
prefix at a destination. A name is *broken* if it is not a read-only subvolume, and
*damaged* if it is a snapshot at a destination without a received UUID.
"""

import enum
import logging
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__util__ import BackupError, attempt, visible
from btrfs_backup_ng.core.cleared import VERIFIED
from btrfs_backup_ng.core.location import Location, parse_location
from btrfs_backup_ng.core.model import (
    Integrity,
    Listing,
    Role,
    Snapshot,
    Waiting,
)
from btrfs_backup_ng.core.naming import Naming, prefix_in, time_in
from btrfs_backup_ng.core.record import Content, Unread, Unreadable
from btrfs_backup_ng.core.retention import in_order
from btrfs_backup_ng.core.value import EMPTY, Value, replace
from btrfs_backup_ng.endpoint.common import Endpoint, Place
from btrfs_backup_ng.host.entry import SOURCES, STATE
from btrfs_backup_ng.place.holds import HOLDS, Records, parse_holds
from btrfs_backup_ng.place.preflight import READING, look_at
from btrfs_backup_ng.place.sources import (
    Series,
    Sources,
    is_snapshot_of,
    own_listing,
    parse_sources,
    place_on_record,
)
from btrfs_backup_ng.place.verified import Verified, read_verified
from btrfs_backup_ng.session.history import Record, known_places, origins_of
from btrfs_backup_ng.session.session import Session

log = logging.getLogger(__name__)

T = TypeVar("T")

#: The record about the snapshots of each role.
RECORDS = {Role.SNAPSHOT: HOLDS, Role.BACKUP: SOURCES}


class State(enum.Enum):
    """Whether a snapshot or backup can be relied upon."""

    COMPLETE = "complete"
    FOREIGN = "foreign"
    """Not made by this program, so never deleted."""
    CHANGED = "changed"
    """It was written to after it was made."""
    DAMAGED = "damaged"
    """Named like a backup, but not one."""


class Kept(Value):
    """A snapshot or backup.

    :ivar endpoint: its directory.
    :ivar why: the reason for a state other than complete, or a remark.
    """

    snapshot: Snapshot
    endpoint: Endpoint
    state: State
    why: str = ""

    @property
    def kind(self) -> Role:
        """Return the role of the snapshot at its place."""
        return self.endpoint.role

    @property
    def path(self) -> str:
        return self.endpoint.path(self.snapshot.name)


class Broken(Value):
    """A name in the form of this program that is not a read-only subvolume.

    :ivar created: the time in its name.
    """

    name: str
    kind: Role
    created: datetime
    why: str = "not a read-only subvolume: incomplete or made writable"


class Seen(Value):
    """One look at a directory of snapshots: its listing and the records about it.

    :ivar record: content of ``holds.json`` for snapshots, ``sources.json`` for backups.
    :ivar verified: content of ``verified.json``.
    """

    endpoint: Endpoint
    listing: Listing
    record: Content = None
    verified: Content = None

    @classmethod
    def of(cls, endpoint: Endpoint) -> "Seen":
        """List a directory and read its records, in one step.

        :raises ListingFailed: if that is not possible.
        """
        listing, records = endpoint.listing(RECORDS[endpoint.role], VERIFIED)
        if endpoint.role is Role.SNAPSHOT:
            own = own_listing(endpoint.place, listing)
            others = {s.name for s in listing.snapshots}
            others -= {s.name for s in own.snapshots}
            listing = replace(own, names=listing.names - others)
        return cls(endpoint, listing, *records)

    @property
    def role(self) -> Role:
        return self.endpoint.role

    @property
    def place(self) -> Place:
        return self.endpoint.place

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        return self.listing.snapshots

    @property
    def record_path(self) -> str:
        """Return the path of the record about them, for people."""
        return self.place.record_path(RECORDS[self.role])


def see(place: Place) -> tuple[Seen, ...]:
    """List the snapshots of a place, and its backups if it has any.

    :param place: one that was looked at.
    :raises ListingFailed: if one of the directories cannot be listed.
    """
    snapshots, backups = place.snapshots, place.backups
    if not place.has_snapshots:
        return (Seen.of(backups),)
    found = [Seen.of(snapshots)]
    if found[0].record is None and _keeps_backups_alone(place, found[0].snapshots):
        return (Seen.of(backups),)  # an absolute folder, of another place
    nested = place.facts.nested
    may_have_backups = any("/" not in path and path != STATE for path in nested)
    if may_have_backups and backups.directory != snapshots.directory:
        found.append(Seen.of(backups))
    return tuple(found)


def _keeps_backups_alone(place: Place, snapshots: Iterable[Snapshot]) -> bool:
    """Return whether a place is a destination, so these snapshots belong to another."""
    is_source = (
        place.facts.is_subvolume
        and place.facts.destination_above != place.location.path
    )
    return not is_source and not any(is_snapshot_of(place, s) for s in snapshots)


class Contents(Value):
    """The result of one look at a place.

    :ivar seen: the look at its snapshots, and the look at its backups.
    :ivar kept: the oldest first.
    :ivar waiting: interrupted or running transfers, in the order they began.
    :ivar broken: in the order of their dates.
    :ivar holds: the record of holds, if the place is a source.
    :ivar sources: the record of the sources of its backups.
    :ivar verified: UUID of a snapshot -> its last verification.
    :ivar unread: sentences about records that cannot be read.
    """

    seen: tuple[Seen, ...] = ()
    kept: tuple[Kept, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    broken: tuple[Broken, ...] = ()
    holds: Records = EMPTY
    sources: Sources = EMPTY
    verified: Mapping[UUID, Verified] = EMPTY
    unread: tuple[str, ...] = ()

    def owner_of(self, kept: Kept) -> str:
        """Return the place of the source of a backup; "" if it is not known."""
        if kept.kind is Role.SNAPSHOT:
            return ""
        series = self.sources.get(prefix_in(kept.snapshot.name), Series())
        owner = series.owner_of(kept.snapshot)
        return owner.place if owner else ""

    def has_several(self, kept: Kept) -> bool:
        """Return whether backups of several sources have the prefix of this one."""
        series = self.sources.get(prefix_in(kept.snapshot.name), Series())
        return kept.kind is Role.BACKUP and len(series.sources) > 1

    def warn(self) -> "Contents":
        """Log a warning for each record that cannot be read.

        :returns: itself.
        """
        for text in self.unread:
            log.warning("%s", text)
        return self

    def of_source(
        self, source: Location, prefix: str, sent: Collection[UUID]
    ) -> "Contents":
        """Return the backups of one source, and its transfers, without all others.

        A backup is of a source if the record of sources says so; if it names no other,
        also by its prefix; if it does, also by the history.

        :param prefix: of the snapshots that are made of the source now.
        :param sent: origins that the history says this source sent.
        """
        own, naming = place_on_record(source), Naming(prefix)

        def is_own(kept: Kept) -> bool:
            owner = self.owner_of(kept)
            is_named = naming.time_of(kept.snapshot.name) is not None
            is_sent = kept.snapshot.origin in sent
            return owner == own or (is_named and (not owner or is_sent))

        kept = (one for one in self.kept if one.kind is Role.BACKUP and is_own(one))
        waiting = (t for t in self.waiting if t.name.startswith(prefix) or not t.name)
        broken = (one for one in self.broken if naming.time_of(one.name) is not None)
        return replace(
            self, kept=tuple(kept), waiting=tuple(waiting), broken=tuple(broken)
        )

    @property
    def made_here(self) -> frozenset[UUID]:
        """Return the origins of the snapshots of the subvolume that is there now."""
        return frozenset(
            snapshot.origin
            for one in self.seen
            for snapshot in one.snapshots
            if one.role is Role.SNAPSHOT
            and snapshot.parent_uuid == one.place.facts.uuid
        )

    @property
    def complete(self) -> tuple[Kept, ...]:
        """Return the complete snapshots and backups, oldest first."""
        return tuple(kept for kept in self.kept if kept.state is State.COMPLETE)


def look_at_all(
    places: Iterable[tuple[Location, str]], session: Session, *, follow: bool = False
) -> dict[str, Contents | BackupError]:
    """Look at places one after the other; an error does not stop the rest.

    :param places: each with the folder of its snapshots, "" for that of the session.
    :param follow: look at the destinations in the records of sources, too.
    :returns: the contents or the error of each, in the order of the looks.
    """
    seen: dict[str, Contents | BackupError] = {}
    waiting = list(places)
    while waiting:
        location, folder = waiting.pop(0)
        if str(location) in seen:
            continue

        def look() -> Contents:
            place = look_at(location, session, READING, folder=folder)
            return read_contents(place).warn()

        found = seen[str(location)] = attempt(look)
        if follow and not isinstance(found, BackupError):
            waiting += [(place, "") for place in destinations_in(found.holds)]
    return seen


def places_in(
    records: Iterable[Record], folder: str = ""
) -> list[tuple[Location, str]]:
    """Return the places in the history, with folders, for :func:`look_at_all`.

    :param folder: of the snapshots of all sources, instead of the recorded ones.
    """
    return [
        (place, folder or known.folder)
        for known in known_places(records)
        if (place := recorded_place(known.place))
    ]


def new_paths(
    lost: Iterable[str],
    found: Mapping[str, Collection[UUID]],
    records: Sequence[Record],
) -> dict[str, str]:
    """Return the sources that were renamed: the recorded path -> the one now.

    The snapshots that were sent from the one are those of the other's subvolume.

    :param lost: places that cannot be looked at.
    :param found: the others, with :attr:`Contents.made_here` of each.
    :param records: the history.
    """
    now = {origin: place for place, made in found.items() for origin in made}
    return {
        old: now[origin]
        for old in lost
        for origin in origins_of(records, old)
        if origin in now
    }


def forget_hint(place: str) -> str:
    """Return how to remove a place from the history of this machine."""
    line = f"{PROGRAM} status --forget {shlex.quote(place)}"
    return f"If it will not come back:  {line}"


def destinations_in(holds: Records) -> list[Location]:
    """Return the destinations with recorded holds, if they can be looked at."""
    texts = sorted({place.location for place in holds})
    return [place for text in texts if (place := recorded_place(text))]


def recorded_place(text: str) -> Location | None:
    """Parse the name of a place in a record; None if it cannot be looked at."""
    location = attempt(lambda: parse_location(text, working_directory="/"))
    if isinstance(location, BackupError) or location.is_command:
        return None
    return location


def read_contents(place: Place) -> Contents:
    """Read the contents of a place.

    :param place: one that was looked at.
    :raises ListingFailed: if it cannot be listed.
    """
    kept: list[Kept] = []
    broken: list[Broken] = []
    holds: Records = {}
    sources: Sources = {}
    reader = _Reader(place)
    everything = see(place)
    for seen in everything:
        is_ours: Callable[[str], bool] = lambda name: time_in(name) is not None
        if seen.role is Role.SNAPSHOT:
            holds = reader.read(HOLDS, parse_holds, seen.record) or {}
        else:
            sources = reader.read(SOURCES, parse_sources, seen.record) or {}
            is_ours = _namer(sources)
        kept += [_judge(snapshot, seen, is_ours) for snapshot in seen.snapshots]
        broken += _broken(seen, is_ours)
    waiting = place.waiting(place.facts.leftovers)
    verified = everything[-1].verified  # the same record in each look
    return Contents(
        seen=everything,
        kept=_oldest_first(kept),
        waiting=tuple(sorted(waiting, key=lambda one: one.transfer_id)),
        broken=tuple(sorted(broken, key=lambda one: (one.created, one.name))),
        holds=holds,
        sources=sources,
        verified=reader.read(VERIFIED, read_verified, verified) or {},
        unread=tuple(reader.unread),
    )


#: The consequence of a record that cannot be read, after "so".
_UNKNOWN = {
    HOLDS: "holds are not shown",
    SOURCES: "the sources of its backups are not shown",
    VERIFIED: "verifications are not shown",
}


class _Reader:
    """Reads the records of a place for a look.

    :ivar unread: a sentence for each record that cannot be read.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self.unread: list[str] = []

    def read(
        self, name: str, parse: Callable[[bytes | Unread], T], content: Content
    ) -> T | None:
        """Parse a record; None if it is missing or cannot be read."""
        if content is None:
            return None
        try:
            return parse(content)
        except Unreadable as error:
            path = self._place.record_path(name)
            text = f"cannot be read ({error}), so {_UNKNOWN[name]}"
            self.unread.append(f"{path} {visible(text)}")
            return None


def _namer(sources: Sources) -> Callable[[str], bool]:
    """Return a function that checks whether a name has a recorded prefix and a date."""
    namings = [Naming(prefix) for prefix in sources]
    return lambda name: any(n.time_of(name) is not None for n in namings)


def _judge(snapshot: Snapshot, seen: Seen, is_ours: Callable[[str], bool]) -> Kept:
    """Judge a snapshot.

    :param is_ours: whether only snapshots and backups of this program have a name.
    """
    carriers = len(seen.listing.carriers.get(snapshot.origin, ()))
    state, why = State.COMPLETE, ""
    if seen.role is Role.BACKUP and snapshot.received_uuid is None:
        state, why = State.FOREIGN, "not received"
        if is_ours(snapshot.name):
            state, why = (
                State.DAMAGED,
                "it was made writable, which drops the received UUID",
            )
    elif time_in(snapshot.name) is None:
        state, why = State.FOREIGN, "not named by this program"
    elif snapshot.integrity is Integrity.CHANGED:
        state, why = (
            State.CHANGED,
            "written to after it was made, by a user or by deduplication",
        )
    elif snapshot.received_uuid and carriers > 1:
        more = "another copy" if carriers == 2 else f"{carriers - 1} more copies"
        why = f"{more} on this filesystem"
    return Kept(snapshot, seen.endpoint, state, why)


def _broken(seen: Seen, is_ours: Callable[[str], bool]) -> list[Broken]:
    """Find the names in the form of this program without a read-only subvolume."""
    others = seen.listing.names.difference(s.name for s in seen.snapshots)
    return [
        Broken(name, seen.role, time)
        for name in others
        if (time := time_in(name)) and is_ours(name)
    ]


def _oldest_first(kept: Sequence[Kept]) -> tuple[Kept, ...]:
    by_uuid = {item.snapshot.uuid: item for item in kept}
    ordered = in_order([item.snapshot for item in kept])
    return tuple(by_uuid[snapshot.uuid] for snapshot in ordered)
