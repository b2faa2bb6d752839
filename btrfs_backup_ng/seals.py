"""Own the close look at snapshots of which a listing leaves something open."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from btrfs_backup_ng.endpoint.common import BtrfsEndpoint
from btrfs_backup_ng.identity import carried_elsewhere
from btrfs_backup_ng.model import Seal, Snapshot
from btrfs_backup_ng.shelves import Shelf

#: A snapshot, and where it is.
Item = tuple[Shelf, Snapshot]

#: A look at this many snapshots fits into one command.
_AT_ONCE = 2000


@dataclass(slots=True)
class Known:
    """What close looks found.

    :ivar seals: UUID of a snapshot -> its seal, where the listing left that open.
    :ivar others: received UUID -> the seal of who else carries it on its filesystem.
    """

    seals: dict[UUID, Seal] = field(default_factory=dict)
    others: dict[UUID, Seal] = field(default_factory=dict)

    def seal(self, snapshot: Snapshot) -> Seal:
        """Give all that is known of a seal."""
        return self.seals.get(snapshot.uuid, snapshot.seal)


def look_closely(chosen: Sequence[Item], originals: Sequence[Item] = ()) -> Known:
    """Find out seals, and who has the received UUID of a chosen snapshot, too.

    :param originals: snapshots of which only the seal is of interest.
    :raises BackupError: if a place cannot be looked at.
    """
    known, doubtful = Known(), [*chosen, *originals]
    for shelf in _shelves(doubtful):
        unknown = {
            snapshot.tree_id: snapshot.uuid
            for home, snapshot in doubtful
            if home is shelf and snapshot.seal is Seal.UNKNOWN
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
    look: Callable[[Sequence[int]], Seal], tree_ids: Sequence[int]
) -> dict[int, Seal]:
    """Find out the seal of each of some subvolumes, with few looks if most are intact.

    :param look: gives the worst seal of some.
    """
    seals: dict[int, Seal] = {}
    for start in range(0, len(tree_ids), _AT_ONCE):
        some = tree_ids[start : start + _AT_ONCE]
        found = look(some)
        if found is not Seal.BROKEN or len(some) == 1:
            seals |= dict.fromkeys(some, found)
            continue
        middle = len(some) // 2
        seals |= settle(look, some[:middle]) | settle(look, some[middle:])
    return seals


def _seal_of_others(endpoint: BtrfsEndpoint, tree_ids: Sequence[int]) -> Seal:
    """Find out whether who else carries a received UUID is unchanged.

    While another run works there, that may be what it is receiving.
    """
    seal = endpoint.look_closely(tree_ids)
    if seal is Seal.BROKEN and endpoint.held() is not None:
        return Seal.UNKNOWN
    return seal
