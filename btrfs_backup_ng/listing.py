"""Own the look at what a place keeps: snapshots, backups, transfers that wait."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from btrfs_backup_ng import preflight
from btrfs_backup_ng.btrfs.facts import STATE
from btrfs_backup_ng.endpoint import open_destination, open_source
from btrfs_backup_ng.endpoint.common import BtrfsEndpoint
from btrfs_backup_ng.endpoint.ssh import Connections
from btrfs_backup_ng.location import Location
from btrfs_backup_ng.model import Facts, Seal, Snapshot, SshOptions, Waiting
from btrfs_backup_ng.naming import Naming, time_in
from btrfs_backup_ng.retention import in_order
from btrfs_backup_ng.verified import VERIFIED, Verified, read_verified

#: Whoever looks does not know the prefixes; a time at the end of a name must do.
ANY_NAME = Naming("")


class Kind(enum.Enum):
    """What a read-only subvolume is to its place."""

    SNAPSHOT = "snapshot"
    BACKUP = "backup"


class State(enum.Enum):
    """Whether it can be relied upon."""

    COMPLETE = "complete"
    FOREIGN = "foreign"
    """Not made by this program, which never deletes it."""
    CHANGED = "changed"
    """Somebody wrote to it after it was made."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A snapshot or backup.

    :ivar why: the reason for its state, where that is not complete.
    """

    snapshot: Snapshot
    kind: Kind
    state: State
    why: str = ""


@dataclass(frozen=True, slots=True)
class Contents:
    """All that one look at a place found.

    :ivar kept: oldest first.
    :ivar waiting: transfers that were cut, or that run; in the order they began.
    :ivar verified: UUID of a snapshot -> how it was verified last.
    """

    kept: tuple[Kept, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    verified: Mapping[UUID, Verified] = field(default_factory=dict)

    @property
    def newest(self) -> Kept | None:
        """Give the newest of those that are complete."""
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


def read_contents(place: BtrfsEndpoint, access: Access) -> Contents:
    """Find what a place keeps, by one listing, or two where it is both.

    :param place: from :func:`open_place`.
    :raises ListingFailed: if it cannot be listed.
    """
    kept: list[Kept] = []
    record: bytes | None = None
    is_source = place.facts.is_subvolume and place.facts.has_folder
    if is_source:
        seen, record = place.listing(VERIFIED)
        kept += [_judged(s, Kind.SNAPSHOT) for s in seen.snapshots]
    if not is_source or _may_have_backups(place.facts):
        keeper = open_destination(
            place.location,
            ANY_NAME,
            connections=access.connections,
            ssh=access.ssh,
        ).keeper
        if keeper and (keeper.directory != place.directory or not is_source):
            seen, record = keeper.listing(VERIFIED)
            kept += [_judged(s, Kind.BACKUP) for s in seen.snapshots]
    waiting = place.waiting(place.facts.leftovers)
    return Contents(
        _oldest_first(kept),
        tuple(sorted(waiting, key=_began)),
        read_verified(record),
    )


def _may_have_backups(source: Facts) -> bool:
    """Tell whether a source has subvolumes where backups would be."""
    return any("/" not in path and path != STATE for path in source.nested)


def _began(waiting: Waiting) -> str:
    return waiting.transfer_id


def _judged(snapshot: Snapshot, kind: Kind) -> Kept:
    time = time_in(snapshot.name)
    if kind is Kind.BACKUP and snapshot.received_uuid is None:
        state, why = State.FOREIGN, "not received"
    elif time is None:
        state, why = State.FOREIGN, "not named by us"
    elif snapshot.seal is Seal.BROKEN:
        state, why = State.CHANGED, "written to after it was made"
    else:
        state, why = State.COMPLETE, ""
    dated = replace(snapshot, created=time or snapshot.created)
    return Kept(dated, kind, state, why)


def _oldest_first(kept: Sequence[Kept]) -> tuple[Kept, ...]:
    by_uuid = {item.snapshot.uuid: item for item in kept}
    ordered = in_order([item.snapshot for item in kept])
    return tuple(by_uuid[snapshot.uuid] for snapshot in ordered)
