"""The whole look at what a place keeps: its snapshots, and the records of them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from btrfs_backup_ng.actions.verify.identity import (
    Check,
    Finding,
    carried_elsewhere,
    find_twins,
)
from btrfs_backup_ng.core.model import Integrity, Listing, Result, Snapshot
from btrfs_backup_ng.core.record import Content, Unread, Unreadable
from btrfs_backup_ng.endpoint.common import BtrfsEndpoint
from btrfs_backup_ng.host.entry import plain
from btrfs_backup_ng.host.facts import is_same_filesystem
from btrfs_backup_ng.place.contents import Access, Role, keepers
from btrfs_backup_ng.place.holds import HeldPlace, Why, parse_holds
from btrfs_backup_ng.place.sources import parse_origins
from btrfs_backup_ng.place.verified import VERIFIED


@dataclass(frozen=True, slots=True)
class Shelf:
    """A directory of snapshots.

    :ivar kind: what they are to their place.
    :ivar record: the file of our bookkeeping about them.
    :ivar verified: that of what was verified at its place, likewise.
    :ivar twins: received UUID -> names of those here that share it.
    """

    endpoint: BtrfsEndpoint
    kind: Role
    listing: Listing
    record: Content
    verified: Content
    twins: Mapping[UUID, Sequence[str]]

    @classmethod
    def read(cls, endpoint: BtrfsEndpoint, kind: Role) -> "Shelf":
        """Look at one.

        :raises ListingFailed: if it cannot be listed.
        """
        seen, (record, verified) = endpoint.listing_with(kind.record, VERIFIED)
        return cls(endpoint, kind, seen, record, verified, find_twins(seen))


def read_shelves(place: BtrfsEndpoint, access: Access) -> tuple[Shelf, ...]:
    """Look at what a place keeps, by one listing, or two where it is both.

    :param place: from ``listing.open_place``.
    :raises ListingFailed: if it cannot be listed.
    """
    return tuple(Shelf.read(*keeper) for keeper in keepers(place, access))


def check_records(shelves: Iterable[Shelf]) -> Iterator[Finding]:
    """Judge whether the records of backups are what they should be."""
    for shelf in shelves:
        why = _damage(shelf)
        if why:
            path = plain(f"{shelf.endpoint.state}/{shelf.kind.record}")
            text = f"{path} cannot be read ({why})"
            if isinstance(shelf.record, Unread) and shelf.record.may_be_whole:
                yield Finding(Result.UNCHECKED, Check.RECORDS, text)
                continue
            hint = "The next backup moves it aside and makes it anew."
            yield Finding(Result.BAD, Check.RECORDS, text, hint)


def _damage(shelf: Shelf) -> str:
    if shelf.record is None:
        return ""
    try:
        if shelf.kind is Role.SNAPSHOT:
            parse_holds(shelf.record)
        else:
            parse_origins(shelf.record)
    except Unreadable as error:
        return str(error)
    return ""


def parents_for(place: BtrfsEndpoint, sources: Iterable[Shelf]) -> Mapping[UUID, str]:
    """Return what sources hold as parents of the next backups to a place.

    What is held for another disk at the same path says nothing of this one.

    :returns: origin -> name.
    """
    found: dict[UUID, str] = {}
    for shelf in sources:
        if shelf.kind is not Role.SNAPSHOT or shelf.record is None or _damage(shelf):
            continue
        for held_for, holds in parse_holds(shelf.record).items():
            if not _is_same(held_for, place):
                continue
            found |= {hold.origin: hold.name for hold in holds if hold.why is Why.BASE}
    return found


def _is_same(held_for: HeldPlace, place: BtrfsEndpoint) -> bool:
    """Tell whether a place that is held for is this one, whoever reaches it and how."""
    here, filesystem = place.location, place.facts.filesystem
    if held_for.location == str(here):
        known = held_for.filesystem
        return not known or is_same_filesystem(known, filesystem)
    return held_for.filesystem == filesystem and held_for.location.endswith(here.path)


#: A snapshot, and where it is.
Item = tuple[Shelf, Snapshot]

#: A look at this many snapshots fits into one command.
_AT_ONCE = 2000


@dataclass(slots=True)
class CloseLooks:
    """What close looks found.

    :ivar seals: UUID of a snapshot -> its seal, where the listing left that open.
    :ivar others: received UUID -> the seal of who else carries it on its filesystem.
    """

    seals: dict[UUID, Integrity] = field(default_factory=dict)
    others: dict[UUID, Integrity] = field(default_factory=dict)

    def seal(self, snapshot: Snapshot) -> Integrity:
        """Return all that is known of a seal."""
        return self.seals.get(snapshot.uuid, snapshot.integrity)


def look_closely(chosen: Sequence[Item], originals: Sequence[Item] = ()) -> CloseLooks:
    """Find out seals, and who has the received UUID of a chosen snapshot, too.

    :param originals: snapshots of which only the seal is of interest.
    :raises BackupError: if a place cannot be looked at.
    """
    known, doubtful = CloseLooks(), [*chosen, *originals]
    for shelf in _shelves(doubtful):
        unknown = {
            snapshot.tree_id: snapshot.uuid
            for home, snapshot in doubtful
            if home is shelf and snapshot.integrity is Integrity.UNKNOWN
        }
        seals = settle(shelf.endpoint.look_closely, sorted(unknown))
        known.seals |= {unknown[tree_id]: seal for tree_id, seal in seals.items()}
    wanted = {snapshot.received_uuid for _, snapshot in chosen}
    for shelf in _shelves(chosen):
        for uuid, tree_ids in carried_elsewhere(shelf.listing).items():
            if uuid in wanted:
                known.others[uuid] = _seal_of_others(shelf.endpoint, tree_ids)
    return known


def _shelves(items: Sequence[Item]) -> list[Shelf]:
    return list({id(shelf): shelf for shelf, _ in items}.values())


def settle(
    look: Callable[[Sequence[int]], Integrity], tree_ids: Sequence[int]
) -> dict[int, Integrity]:
    """Find out the seal of each of some subvolumes, with few looks if most are intact.

    :param look: gives the worst seal of some.
    """
    seals: dict[int, Integrity] = {}
    for start in range(0, len(tree_ids), _AT_ONCE):
        some = tree_ids[start : start + _AT_ONCE]
        found = look(some)
        if found is not Integrity.CHANGED or len(some) == 1:
            seals |= dict.fromkeys(some, found)
            continue
        middle = len(some) // 2
        seals |= settle(look, some[:middle]) | settle(look, some[middle:])
    return seals


def _seal_of_others(endpoint: BtrfsEndpoint, tree_ids: Sequence[int]) -> Integrity:
    """Find out whether who else carries a received UUID is unchanged.

    While another run works there, that may be what it is receiving.
    """
    seal = endpoint.look_closely(tree_ids)
    if seal is Integrity.CHANGED and endpoint.held() is not None:
        return Integrity.UNKNOWN
    return seal
