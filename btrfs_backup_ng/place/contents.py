"""The look at what a place keeps: snapshots, backups, transfers that wait."""

import enum
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from btrfs_backup_ng.__util__ import BackupError, attempt, visible
from btrfs_backup_ng.core.location import Location, Scheme, parse_location
from btrfs_backup_ng.core.model import (
    Facts,
    Integrity,
    Listing,
    Snapshot,
    SshOptions,
    Waiting,
)
from btrfs_backup_ng.core.naming import Naming, time_in
from btrfs_backup_ng.core.record import Content, Unread, Unreadable
from btrfs_backup_ng.core.retention import in_order
from btrfs_backup_ng.endpoint import open_destination, open_source
from btrfs_backup_ng.endpoint.common import BtrfsEndpoint
from btrfs_backup_ng.endpoint.ssh import Connections
from btrfs_backup_ng.host.entry import STATE, plain
from btrfs_backup_ng.place import preflight
from btrfs_backup_ng.place.holds import HOLDS, Records, parse_holds
from btrfs_backup_ng.place.sources import ORIGINS, Origins, parse_origins
from btrfs_backup_ng.place.verified import VERIFIED, Verified, read_verified
from btrfs_backup_ng.session.history import Record, known_places

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Whoever looks does not know the prefixes; a time at the end of a name must do.
ANY_NAME = Naming("")


class Role(enum.Enum):
    """What a read-only subvolume is to its place."""

    SNAPSHOT = "snapshot"
    BACKUP = "backup"

    @property
    def record(self) -> str:
        """Name the file of our bookkeeping about them."""
        return HOLDS if self is Role.SNAPSHOT else ORIGINS


class State(enum.Enum):
    """Whether it can be relied upon."""

    COMPLETE = "complete"
    FOREIGN = "foreign"
    """Not made by this program, which never deletes it."""
    CHANGED = "changed"
    """Somebody wrote to it after it was made."""
    DAMAGED = "damaged"
    """It has a name of ours, and is not what stands under such a name."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A snapshot or backup.

    :ivar why: the reason for its state, where that is not complete; else what else is
        to be known of it.
    """

    snapshot: Snapshot
    kind: Role
    state: State
    why: str = ""


@dataclass(frozen=True, slots=True)
class Broken:
    """Something of a name of ours that is no read-only subvolume.

    :ivar created: the time in its name.
    """

    name: str
    kind: Role
    created: datetime
    why: str = "not a read-only subvolume: cut short, or made writable"


@dataclass(frozen=True, slots=True)
class Side:
    """What one listing of a place saw.

    :ivar record: our bookkeeping there of that kind, ``None`` if there is none.
    """

    endpoint: BtrfsEndpoint
    kind: Role
    listing: Listing
    record: Content


@dataclass(frozen=True, slots=True)
class Contents:
    """All that one look at a place found.

    :ivar kept: oldest first.
    :ivar waiting: transfers that were cut, or that run; in the order they began.
    :ivar broken: what is damaged beyond being a snapshot; by name.
    :ivar holds: what is recorded there of what destinations need, if it is a source.
    :ivar origins: what is recorded there of whose backups it has.
    :ivar verified: UUID of a snapshot -> how it was verified last.
    :ivar sides: what was seen of it, as a source and as a destination.
    :ivar unread: what of that is not known, as a record cannot be read; sentences.
    """

    kept: tuple[Kept, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    broken: tuple[Broken, ...] = ()
    holds: Records = field(default_factory=dict)
    origins: Origins = field(default_factory=dict)
    verified: Mapping[UUID, Verified] = field(default_factory=dict)
    sides: tuple[Side, ...] = ()
    unread: tuple[str, ...] = ()

    def warn(self) -> "Contents":
        """Say what is not known, for a look that somebody asked for.

        :returns: itself.
        """
        for text in self.unread:
            log.warning("%s", text)
        return self

    @property
    def newest(self) -> Kept | None:
        """Return the newest of those that are complete."""
        complete = [kept for kept in self.kept if kept.state is State.COMPLETE]
        return complete[-1] if complete else None


@dataclass(frozen=True, slots=True)
class Access:
    """How all places of a call are reached.

    :ivar folder: where a source's snapshots are, relative to it or absolute.
    :ivar sudo_line: runs the same as root, for hints.
    """

    connections: Connections
    ssh: SshOptions
    folder: str
    sudo_line: str


def open_place(location: Location, access: Access) -> BtrfsEndpoint:
    """Look at a place, whatever it is; changes nothing.

    :returns: its endpoint as a source: a destination has no folder for snapshots.
    :raises UsageError: if it keeps nothing that could be seen.
    :raises Refused: if it cannot be looked at, or may not be mounted.
    """
    place = open_source(
        location,
        ANY_NAME,
        access.folder,
        connections=access.connections,
        ssh=access.ssh,
    )
    preflight.check_readable(place, access.sudo_line)
    return place


def look_at(
    places: Iterable[tuple[Location, str]], access: Access, *, follow: bool = False
) -> dict[str, Contents | BackupError]:
    """Look at places one after the other; one that fails does not keep the others.

    :param places: with the folder of its snapshots each, "" for that of the access.
    :param follow: look at the destinations that are recorded at sources, too.
    :returns: what each keeps, or why nobody knows; in the order they were looked at.
    """
    seen: dict[str, Contents | BackupError] = {}
    waiting = list(places)
    while waiting:
        location, folder = waiting.pop(0)
        if str(location) in seen:
            continue
        way = replace(access, folder=folder) if folder else access

        def look() -> Contents:
            return read_contents(open_place(location, way), way).warn()

        found = seen[str(location)] = attempt(look)
        if follow and not isinstance(found, BackupError):
            waiting += [(place, "") for place in destinations_in(found.holds)]
    return seen


def places_in(
    records: Iterable[Record], folder: str = ""
) -> list[tuple[Location, str]]:
    """Return the places that the history knows, as :func:`look_at` wants them.

    :param folder: of all sources, if it is not to be as recorded.
    """
    return [
        (place, folder or known.folder)
        for known in known_places(records)
        if (place := recorded_place(known.place))
    ]


def destinations_in(holds: Records) -> list[Location]:
    """Return the places that are recorded at a source, and can be looked at."""
    texts = sorted({place.location for place in holds})
    return [place for text in texts if (place := recorded_place(text))]


def recorded_place(text: str) -> Location | None:
    """Read the name of a place in our own records; nothing if nobody can look there."""
    location = attempt(lambda: parse_location(text, working_directory="/"))
    if isinstance(location, BackupError) or location.scheme is Scheme.SHELL:
        return None
    return location


def read_contents(place: BtrfsEndpoint, access: Access) -> Contents:
    """Find what a place keeps, by one listing, or two where it is both.

    :param place: from :func:`open_place`.
    :raises ListingFailed: if it cannot be listed.
    """
    kept: list[Kept] = []
    broken: list[Broken] = []
    holds: Records = {}
    origins: Origins = {}
    record: Content = None
    reader = _Reader(place)
    sides: list[Side] = []
    for keeper, kind in keepers(place, access):
        seen, (content, record) = keeper.listing_with(kind.record, VERIFIED)
        sides.append(Side(keeper, kind, seen, content))
        is_ours: Callable[[str], bool] = _is_dated
        if kind is Role.SNAPSHOT:
            holds = reader.read(HOLDS, parse_holds, content) or {}
        else:
            origins = reader.read(ORIGINS, parse_origins, content) or {}
            is_ours = _namer(origins)
        kept += _judged(seen, kind, is_ours)
        broken += _broken(seen, kind, is_ours)
    waiting = place.waiting(place.facts.leftovers)
    return Contents(
        _oldest_first(kept),
        tuple(sorted(waiting, key=_began)),
        tuple(sorted(broken, key=lambda one: (one.created, one.name))),
        holds,
        origins,
        reader.read(VERIFIED, read_verified, record) or {},
        tuple(sides),
        tuple(reader.unread),
    )


def keepers(
    place: BtrfsEndpoint, access: Access
) -> Iterator[tuple[BtrfsEndpoint, Role]]:
    """Return what keeps something at a place, and what that is: two where it is both.

    :param place: from :func:`open_place`.
    """
    is_source = place.facts.is_subvolume and place.facts.has_folder
    if is_source:
        yield place, Role.SNAPSHOT
    if not is_source or _may_have_backups(place.facts):
        keeper = open_destination(
            place.location,
            ANY_NAME,
            connections=access.connections,
            ssh=access.ssh,
        ).keeper
        if keeper and (keeper.directory != place.directory or not is_source):
            keeper.facts = place.facts
            yield keeper, Role.BACKUP


#: What is not told if a record cannot be read.
_UNTOLD = {
    HOLDS: "what destinations need is not told",
    ORIGINS: "whose backups are there is not known",
    VERIFIED: "what was verified there is not told",
}


class _Reader:
    """Reads the records of a place for a look.

    :ivar unread: of each that cannot be read: why, and what is not known now.
    """

    def __init__(self, place: BtrfsEndpoint) -> None:
        self._place = place
        self.unread: list[str] = []

    def read(
        self, name: str, parse: Callable[[bytes | Unread], T], content: Content
    ) -> T | None:
        """Return what a record says; nothing if there is none, or it cannot be read."""
        if content is None:
            return None
        try:
            return parse(content)
        except Unreadable as error:
            path = plain(f"{self._place.state}/{name}")
            text = f"{path} cannot be read ({error}), so {_UNTOLD[name]}"
            self.unread.append(visible(text))
            return None


def _may_have_backups(source: Facts) -> bool:
    """Tell whether a source has subvolumes where backups would be."""
    return any("/" not in path and path != STATE for path in source.nested)


def _began(waiting: Waiting) -> str:
    return waiting.transfer_id


def _is_dated(name: str) -> bool:
    return time_in(name) is not None


def _namer(origins: Origins) -> Callable[[str], bool]:
    """Return what tells whether a name at a destination must be a backup's."""
    namings = [Naming(prefix) for prefix in origins]
    return lambda name: any(n.time_of(name) is not None for n in namings)


def _judged(seen: Listing, kind: Role, is_ours: Callable[[str], bool]) -> list[Kept]:
    """Judge what is there.

    :param is_ours: tells that a name is one that only our own may have there.
    """
    return [
        _judge(snapshot, kind, is_ours, len(seen.carriers.get(snapshot.origin, ())))
        for snapshot in seen.snapshots
    ]


def _judge(
    snapshot: Snapshot, kind: Role, is_ours: Callable[[str], bool], carriers: int
) -> Kept:
    time = time_in(snapshot.name)
    state, why = State.COMPLETE, ""
    if kind is Role.BACKUP and snapshot.received_uuid is None:
        state, why = State.FOREIGN, "not received"
        if is_ours(snapshot.name):
            state, why = State.DAMAGED, "its received UUID is gone: made writable"
    elif time is None:
        state, why = State.FOREIGN, "not named by us"
    elif snapshot.integrity is Integrity.CHANGED:
        state, why = State.CHANGED, "written to after it was made"
    elif snapshot.received_uuid and carriers > 1:
        why = f"{carriers} subvolumes carry its received UUID"
    if time and time != snapshot.created:
        snapshot = replace(snapshot, created=time)
    return Kept(snapshot, kind, state, why)


def _broken(seen: Listing, kind: Role, is_ours: Callable[[str], bool]) -> list[Broken]:
    """Find names of ours that no read-only subvolume has."""
    others = seen.names.difference(snapshot.name for snapshot in seen.snapshots)
    return [
        Broken(name, kind, time)
        for name in others
        if (time := time_in(name)) and is_ours(name)
    ]


def _oldest_first(kept: Sequence[Kept]) -> tuple[Kept, ...]:
    by_uuid = {item.snapshot.uuid: item for item in kept}
    ordered = in_order([item.snapshot for item in kept])
    return tuple(by_uuid[snapshot.uuid] for snapshot in ordered)
