"""The records of a place, and the close inspection of its snapshots."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from btrfs_backup_ng.place.holds import HeldPlace, Why, held_place, parse_holds
from btrfs_backup_ng.place.sources import parse_sources


def check_records(everything: Iterable[Seen]) -> Iterator[Finding]:
    """Judge whether the records of backups can be read."""
    for seen in everything:
        why = _damage(seen)
        if why:
            text = f"{seen.record_path} cannot be read ({why})"
            if isinstance(seen.record, Unread) and seen.record.may_be_whole:
                yield Finding(Result.UNCHECKED, Check.RECORDS, text)
                continue
            hint = "The next backup moves it aside and creates it again."
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
    """Return the snapshots that sources hold as parents of the next backups to a place.

    Holds for another disk at the same path do not count.

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
    """Return whether holds are for this place, under any name of it."""
    if held_for.inside and place.facts.inside:
        return held_for.is_same(held_place(place))
    here, filesystem = place.location, place.facts.filesystem
    if held_for.location == str(here):
        known = held_for.filesystem
        return not known or is_same_filesystem(known, filesystem)
    return held_for.filesystem == filesystem and held_for.location.endswith(here.path)


#: A snapshot, with its look.
Item = tuple[Seen, Snapshot]

#: Number of snapshots that one command can inspect.
_AT_ONCE = 2000


class CloseLooks:
    """The results of close inspections.

    :ivar inspected: UUID of a snapshot -> its integrity, if the listing has none.
    :ivar others: received UUID -> the worst integrity of other subvolumes with it.
    """

    def __init__(self) -> None:
        self.inspected: dict[UUID, Integrity] = {}
        self.others: dict[UUID, Integrity] = {}

    def integrity(self, snapshot: Snapshot) -> Integrity:
        """Return the integrity of a snapshot, as far as it is known."""
        return self.inspected.get(snapshot.uuid, snapshot.integrity)


def look_closely(chosen: Sequence[Item], originals: Sequence[Item] = ()) -> CloseLooks:
    """Inspect snapshots, and other subvolumes with the received UUID of a chosen one.

    :param originals: snapshots to inspect without a search for other subvolumes.
    :raises BackupError: if a place cannot be looked at.
    """
    known, doubtful = CloseLooks(), [*chosen, *originals]
    for seen in _looks(doubtful):
        unknown = {
            snapshot.tree_id: snapshot.uuid
            for home, snapshot in doubtful
            if home is seen and snapshot.integrity is Integrity.UNKNOWN
        }
        found = inspect_each(seen.endpoint.look_closely, sorted(unknown))
        known.inspected |= {unknown[tree_id]: one for tree_id, one in found.items()}
    wanted = {snapshot.received_uuid for _, snapshot in chosen}
    for seen in _looks(chosen):
        for uuid, tree_ids in carried_elsewhere(seen.listing).items():
            if uuid in wanted:
                known.others[uuid] = _integrity_of_others(seen.endpoint, tree_ids)
    return known


def _looks(items: Sequence[Item]) -> list[Seen]:
    return list({id(seen): seen for seen, _ in items}.values())


def inspect_each(
    look: Callable[[Sequence[int]], Integrity], tree_ids: Sequence[int]
) -> dict[int, Integrity]:
    """Inspect subvolumes one by one, with few looks if most are intact.

    :param look: returns the worst integrity of a group.
    """
    integrity: dict[int, Integrity] = {}
    for start in range(0, len(tree_ids), _AT_ONCE):
        some = tree_ids[start : start + _AT_ONCE]
        found = look(some)
        if found is not Integrity.CHANGED or len(some) == 1:
            integrity |= dict.fromkeys(some, found)
            continue
        middle = len(some) // 2
        integrity |= inspect_each(look, some[:middle]) | inspect_each(
            look, some[middle:]
        )
    return integrity


def _integrity_of_others(endpoint: Endpoint, tree_ids: Sequence[int]) -> Integrity:
    """Inspect other subvolumes with the same received UUID.

    If a run works there, a changed one may be the snapshot that it is receiving.
    """
    integrity = endpoint.look_closely(tree_ids)
    if integrity is Integrity.CHANGED and endpoint.place.held() is not None:
        return Integrity.UNKNOWN
    return integrity
