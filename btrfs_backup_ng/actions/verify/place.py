"""The records and the seals of snapshots: the look that a listing leaves open."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from btrfs_backup_ng.actions.verify.identity import (
    Check,
    Finding,
    carried_elsewhere,
)
from btrfs_backup_ng.core.model import Integrity, Result, Role, Snapshot
from btrfs_backup_ng.core.record import Unread, Unreadable
from btrfs_backup_ng.endpoint.common import Endpoint, Place
from btrfs_backup_ng.host.facts import is_same_filesystem
from btrfs_backup_ng.place.contents import Seen
from btrfs_backup_ng.place.holds import HeldPlace, Why, parse_holds
from btrfs_backup_ng.place.sources import parse_sources


def check_records(everything: Iterable[Seen]) -> Iterator[Finding]:
    """Judge whether the records of backups are what they should be."""
    for seen in everything:
        why = _damage(seen)
        if why:
            text = f"{seen.record_path} cannot be read ({why})"
            if isinstance(seen.record, Unread) and seen.record.may_be_whole:
                yield Finding(Result.UNCHECKED, Check.RECORDS, text)
                continue
            hint = "The next backup moves it aside and makes it anew."
            yield Finding(Result.BAD, Check.RECORDS, text, hint)


def _damage(seen: Seen) -> str:
    if seen.record is None:
        return ""
    try:
        if seen.role is Role.SNAPSHOT:
            parse_holds(seen.record)
        else:
            parse_sources(seen.record)
    except Unreadable as error:
        return str(error)
    return ""


def parents_for(place: Place, sources: Iterable[Seen]) -> Mapping[UUID, str]:
    """Return what sources hold as parents of the next backups to a place.

    What is held for another disk at the same path says nothing of this one.

    :returns: origin -> name.
    """
    found: dict[UUID, str] = {}
    for seen in sources:
        if seen.role is not Role.SNAPSHOT or seen.record is None or _damage(seen):
            continue
        for held_for, holds in parse_holds(seen.record).items():
            if not _is_same(held_for, place):
                continue
            found |= {hold.origin: hold.name for hold in holds if hold.why is Why.BASE}
    return found


def _is_same(held_for: HeldPlace, place: Place) -> bool:
    """Tell whether a place that is held for is this one, whoever reaches it and how."""
    here, filesystem = place.location, place.facts.filesystem
    if held_for.location == str(here):
        known = held_for.filesystem
        return not known or is_same_filesystem(known, filesystem)
    return held_for.filesystem == filesystem and held_for.location.endswith(here.path)


#: A snapshot, and where it is.
Item = tuple[Seen, Snapshot]

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
    for seen in _looks(doubtful):
        unknown = {
            snapshot.tree_id: snapshot.uuid
            for home, snapshot in doubtful
            if home is seen and snapshot.integrity is Integrity.UNKNOWN
        }
        seals = settle(seen.endpoint.look_closely, sorted(unknown))
        known.seals |= {unknown[tree_id]: seal for tree_id, seal in seals.items()}
    wanted = {snapshot.received_uuid for _, snapshot in chosen}
    for seen in _looks(chosen):
        for uuid, tree_ids in carried_elsewhere(seen.listing).items():
            if uuid in wanted:
                known.others[uuid] = _seal_of_others(seen.endpoint, tree_ids)
    return known


def _looks(items: Sequence[Item]) -> list[Seen]:
    return list({id(seen): seen for seen, _ in items}.values())


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


def _seal_of_others(endpoint: Endpoint, tree_ids: Sequence[int]) -> Integrity:
    """Find out whether who else carries a received UUID is unchanged.

    While another run works there, that may be what it is receiving.
    """
    seal = endpoint.look_closely(tree_ids)
    if seal is Integrity.CHANGED and endpoint.place.held() is not None:
        return Integrity.UNKNOWN
    return seal
