"""The snapshots to send, and their parents: a pure function of two listings."""

import bisect
import enum
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from operator import attrgetter
from uuid import UUID

from btrfs_backup_ng.core.model import Incremental, Integrity, Listing, Snapshot
from btrfs_backup_ng.core.naming import free_name, stem_of
from btrfs_backup_ng.core.retention import in_order
from btrfs_backup_ng.core.value import Value

#: What the filesystem takes for a change, too.
_OR_DEDUPLICATED = ", or deduplicated (verify --data finds out, and clears that)"


class WhyFull(enum.Enum):
    """Why a transfer has no parent."""

    FIRST = "first backup there"
    ASKED = "full was asked for"
    NOTHING_COMMON = "no common snapshot"
    CHANGED = "the common snapshots cannot be parents"
    STREAM = "a command gets whole streams"


class Transfer(Value):
    """One snapshot to send.

    :ivar parent: base of the difference; the destination has it by then.
    :ivar target: its name there; another than its own only if that is taken.
    :ivar why_full: set exactly if there is no parent.
    """

    snapshot: Snapshot
    parent: Snapshot | None
    target: str
    why_full: WhyFull | None


class TransferPlan(Value):
    """The transfers to one destination.

    :ivar transfers: in the order in which they must run.
    :ivar present: how many of the wanted snapshots are there already.
    :ivar base: newest snapshot that both places have before the first transfer.
    :ivar refusals: one line for each snapshot that is not trusted as parent.
    :ivar doubtful: origin of a parent; a close look must first confirm that all its
        copies at the destination are unchanged.
    :ivar doubtful_here: a parent at the source that needs a close look first.
    """

    transfers: tuple[Transfer, ...]
    present: int
    base: Snapshot | None
    refusals: tuple[str, ...]
    doubtful: UUID | None
    doubtful_here: Snapshot | None

    @property
    def is_full(self) -> bool:
        """Return whether a transfer has no parent, though the destination has some."""
        lacking = (WhyFull.NOTHING_COMMON, WhyFull.CHANGED)
        return any(t.why_full in lacking for t in self.transfers)


def plan_transfers(
    wanted: Collection[Snapshot],
    here: Listing,
    there: Listing,
    *,
    related: Collection[UUID],
    integrity_there: Mapping[UUID, Integrity],
    incremental: Incremental = Incremental.AUTO,
) -> TransferPlan:
    """Decide what to send: all missing snapshots, in the order of their creation.

    That is the order of the filesystem, not of the names, as clocks jump: a transfer
    that was begun under a wrong clock is resumed before newer ones. The parent of each
    is the nearest older snapshot that both places have by then, else the nearest newer
    one. Snapshots are matched by origin, never by name: one re-created under an old
    name is new. If several snapshots share one origin (a source that was made writable
    while it carried a received UUID) only their names differ, so they are matched by
    both, and are not used as parents.

    :param wanted: the snapshots of ``here`` to have there.
    :param related: UUIDs of the snapshots of ``here`` that may serve as parents:
        of the same subvolume as the wanted ones.
    :param integrity_there: origin -> result of a close look at its copies there.
    """
    repeated = _repeated(here)
    present = _present(wanted, here, there, repeated)
    missing = [s for s in _in_order_of_making(wanted) if s.uuid not in present]
    common, refusals = _common(here, there, repeated, related, integrity_there)
    bases = [] if incremental is Incremental.NEVER else common
    why_full = _why_full(there, incremental, is_refused=bool(refusals))
    chain = sorted(bases, key=_position)
    names = set(there.names)
    transfers = []
    for snapshot in missing:
        parent = _nearest(snapshot, chain)
        name = snapshot.name
        # If origins repeat, a copy belongs to the snapshot of its name.
        taken = names | here.names if snapshot.origin in repeated else names
        target = free_name(name, taken) if name in names else name
        transfers.append(
            Transfer(snapshot, parent, target, None if parent else why_full)
        )
        names.add(target)
        if incremental is Incremental.NEVER or snapshot.origin in repeated:
            continue
        looked = integrity_there.get(snapshot.origin, Integrity.INTACT)
        if looked is Integrity.INTACT and snapshot.integrity is not Integrity.CHANGED:
            bisect.insort(chain, snapshot, key=_position)
    return TransferPlan(
        transfers=tuple(transfers),
        present=len(wanted) - len(missing),
        base=max(common, key=_position, default=None),
        refusals=tuple(refusals) if missing and bases is common else (),
        doubtful=_doubtful(transfers, there, integrity_there),
        doubtful_here=next(
            (
                t.parent
                for t in transfers
                if t.parent and t.parent.integrity is Integrity.UNKNOWN
            ),
            None,
        ),
    )


def _repeated(here: Listing) -> frozenset[UUID]:
    """Return the origins that several snapshots of this place share."""
    counts = Counter(s.origin for s in here.snapshots)
    return frozenset(origin for origin, count in counts.items() if count > 1)


def _present(
    wanted: Collection[Snapshot],
    here: Listing,
    there: Listing,
    repeated: Collection[UUID],
) -> frozenset[UUID]:
    """Return the UUIDs of the snapshots that have a copy there.

    If several share one origin, each copy belongs to one of them: to the one of its
    name, else to one whose copy got another name.
    """
    copies: dict[UUID, list[str]] = {}
    for received in _received(there):
        copies.setdefault(received.origin, []).append(received.name)
    unique = (s for s in here.snapshots if s.origin not in repeated)
    present = {s.uuid for s in unique if s.origin in copies}
    same = [s for s in in_order(here.snapshots) if s.origin in repeated]
    same.sort(key=lambda snapshot: snapshot not in wanted)
    exact: Callable[[str], str] = str
    for form in (exact, stem_of):  # exact names first, for all of them
        for snapshot in same:
            names, name = copies.get(snapshot.origin, []), form(snapshot.name)
            found = next((copy for copy in names if form(copy) == name), None)
            if found is not None and snapshot.uuid not in present:
                names.remove(found)
                present.add(snapshot.uuid)
    return frozenset(present)


def _received(listing: Listing) -> Iterable[Snapshot]:
    return (s for s in listing.snapshots if s.received_uuid)


def _integrity_of_copies(there: Listing) -> dict[UUID, Integrity]:
    """Return for each origin the worst integrity of its copies in the listing."""
    rank = (Integrity.INTACT, Integrity.UNKNOWN, Integrity.CHANGED)
    worst: dict[UUID, Integrity] = {}
    for copy in _received(there):
        origin, found = copy.origin, copy.integrity
        known = worst.setdefault(origin, found)
        if known is not found:
            worst[origin] = max(known, found, key=rank.index)
    return worst


def _common(
    here: Listing,
    there: Listing,
    repeated: Collection[UUID],
    related: Collection[UUID],
    integrity_there: Mapping[UUID, Integrity],
) -> tuple[list[Snapshot], list[str]]:
    """Return the snapshots that both places have and that are trusted, and refusals."""
    copies = _integrity_of_copies(there)
    common, refusals = [], []
    for snapshot in in_order(here.snapshots):
        origin = snapshot.origin
        copy, looked = copies.get(origin), integrity_there.get(origin)
        if copy is None or snapshot.uuid not in related:
            continue
        if origin in repeated:
            why = f"another snapshot has the same received UUID, {origin}"
        elif snapshot.integrity is Integrity.CHANGED:
            why = f"it was changed at the source after it was made{_OR_DEDUPLICATED}"
        elif Integrity.CHANGED in (copy, looked):
            count = len(there.carriers.get(origin, ()))
            which = f"one of {count} copies" if count > 1 else "its copy"
            why = f"{which} at the destination was changed after it was received"
            why += _OR_DEDUPLICATED
        elif looked is Integrity.UNKNOWN:
            why = "it is not known whether its copy at the destination is unchanged"
        else:
            common.append(snapshot)
            continue
        refusals.append(f"{snapshot.name} is not used as parent: {why}")
    return common, refusals


#: Clocks may jump; the filesystem's own time does not.
_position = attrgetter("generation")


def _in_order_of_making(snapshots: Collection[Snapshot]) -> list[Snapshot]:
    return sorted(in_order(snapshots), key=_position)


def _nearest(snapshot: Snapshot, chain: list[Snapshot]) -> Snapshot | None:
    """Return the nearest older snapshot of a sorted chain, else the nearest newer."""
    index = bisect.bisect_left(chain, snapshot.generation, key=_position)
    if index:
        return chain[index - 1]
    return chain[index] if chain else None


def _why_full(there: Listing, incremental: Incremental, *, is_refused: bool) -> WhyFull:
    if incremental is Incremental.NEVER:
        return WhyFull.ASKED
    if is_refused:
        return WhyFull.CHANGED
    if any(_received(there)):
        return WhyFull.NOTHING_COMMON
    return WhyFull.FIRST


def _doubtful(
    transfers: Collection[Transfer],
    there: Listing,
    integrity_there: Mapping[UUID, Integrity],
) -> UUID | None:
    """Return the origin of the first parent that needs a close look at the destination.

    Its copy may have been changed, or the filesystem holds more copies than the listed
    one, and ``btrfs receive`` might take another.
    """
    copies = _integrity_of_copies(there) if transfers else {}
    for transfer in transfers:
        if transfer.parent is None or transfer.parent.origin in integrity_there:
            continue
        origin = transfer.parent.origin
        known = 1 if origin in copies else 0
        others = len(there.carriers.get(origin, ())) > known
        if others or copies.get(origin) is Integrity.UNKNOWN:
            return origin
    return None


def plan_whole_stream(wanted: Collection[Snapshot]) -> TransferPlan:
    """Plan for a destination without listings: the newest snapshot, in full."""
    newest = _in_order_of_making(wanted)[-1:]
    transfers = tuple(Transfer(s, None, s.name, WhyFull.STREAM) for s in newest)
    return TransferPlan(transfers, 0, None, (), None, None)
