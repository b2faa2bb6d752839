"""Plans and predictions of the next transfers from a source to a destination.

A backup run plans with :class:`Planner`. ``verify --source``, ``restore --writable``,
``list`` and ``prune`` call :func:`foresee`, which uses the same ``Planner``. So a
prediction and a run cannot differ.

A parent must be unchanged on both sides. ``btrfs receive`` builds an incremental backup
on any subvolume of its filesystem that carries the parent's UUID. It does not notice if
that subvolume was changed: the result is silently wrong. In an unchanged snapshot, the
transaction of the last change (``ctransid``) is not later than the one that made it
(``otransid``). This machine reads both by ioctl. For other machines, the listing gives
a coarser answer (``gen`` = ``cgen``: certainly unchanged). Where that is not enough, or
where several subvolumes carry the UUID, the root tree is read (``items``). Other tools
receive a copy in place, so it was written after it was made; such a copy is accepted
if it is read-only and has a received UUID.

``Planner`` decides which snapshots of a source may be parents:

1. those made of the source, and those whose name has its prefix, from any tool;
2. only if the destination has none of these: the subvolume that the source itself was
   made of, and other snapshots of it. So the backups of a restored subvolume continue
   from its first snapshot, whatever its name. (Otherwise two subvolumes, one made of
   the other, would build on each other's newer snapshots.)
3. only if it has none of these, either, and the source was made of another subvolume:
   snapshots of that one and of its ancestors, wherever they are on the filesystem. So
   the backups of a source that came out of a rollback continue from the snapshots that
   it left behind.

``foresee`` plans a snapshot that is made now. The prefix of the next backup is not
known, so it plans for several: the prefixes recorded for this source at the
destination, or else the usual one, and a prefix that no snapshot has. If the results
differ, each is shown with its ``-p``, and ``verify`` calls the backup unchecked. A
snapshot recorded as being sent is named, too: once it has arrived, it is the parent.
"""

import shlex
import uuid
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from uuid import UUID

from btrfs_backup_ng.core.model import Facts, Incremental, Integrity, Listing, Snapshot
from btrfs_backup_ng.core.naming import Naming, split_name
from btrfs_backup_ng.core.plan import TransferPlan, WhyFull, plan_transfers
from btrfs_backup_ng.core.record import Content, Unreadable
from btrfs_backup_ng.core.value import Value, replace
from btrfs_backup_ng.endpoint.common import Endpoint, Place
from btrfs_backup_ng.host.machine import usual_prefix
from btrfs_backup_ng.place.contents import Seen
from btrfs_backup_ng.place.holds import Why, parse_holds
from btrfs_backup_ng.place.sources import identity_of, parse_sources

#: Generation of a snapshot that is planned and not made yet: later than all.
NOT_MADE_YET = 2**63
#: Number of reasons that are shown.
_SHOWN = 3


def next_snapshot(
    source: Place, naming: Naming, now: datetime, taken: Collection[str]
) -> Snapshot:
    """Describe the snapshot that a run is going to make.

    :param now: aware.
    :param taken: names that are not free.
    """
    name = naming.name_at(now, taken)
    return Snapshot(
        name=name,
        created=naming.time_of(name) or now,
        uuid=uuid.uuid4(),
        parent_uuid=source.facts.uuid,
        received_uuid=None,
        generation=NOT_MADE_YET,
    )


class Planner:
    """Plans transfers from a source to a destination; inspects no snapshot twice."""

    def __init__(self, snapshots: Endpoint, backups: Endpoint) -> None:
        self._snapshots = snapshots
        self._backups = backups
        self._here: dict[UUID, Integrity] = {}
        self._there: dict[UUID, Integrity] = {}
        self._found: tuple[Snapshot, ...] | None = None

    def plan(
        self,
        here: Listing,
        there: Listing,
        wanted: Collection[UUID],
        naming: Naming | None,
        incremental: Incremental = Incremental.AUTO,
    ) -> TransferPlan:
        """Plan the transfers, and inspect each parent that may have been changed.

        :param here: the snapshots of the source.
        :param wanted: UUIDs of the snapshots that the destination should have.
        :param naming: of the source's snapshots; ``None``: names do not count.
        """
        children, kin = _relatives(self._snapshots.place.facts, here, naming)
        plan = self._plan_among(here, there, wanted, children, incremental)
        if plan.base is None and kin:
            plan = self._plan_among(here, there, wanted, children | kin, incremental)
        if plan.base is None and self._is_made_of_another and plan.is_full:
            others = self._relatives(here, there)
            if others:
                here = replace(here, snapshots=(*here.snapshots, *others))
                related = children | kin | {one.uuid for one in others}
                plan = self._plan_among(here, there, wanted, related, incremental)
        return plan

    @property
    def _is_made_of_another(self) -> bool:
        return self._snapshots.place.facts.parent_uuid is not None

    def _relatives(self, here: Listing, there: Listing) -> tuple[Snapshot, ...]:
        """Return possible parents that are not in the snapshot folder."""
        if self._found is None:
            origins = {s.received_uuid for s in there.snapshots if s.received_uuid}
            origins -= {s.origin for s in here.snapshots}
            self._found = self._snapshots.relatives(origins) if origins else ()
        return self._found

    def _plan_among(
        self,
        here: Listing,
        there: Listing,
        wanted: Collection[UUID],
        related: Collection[UUID],
        incremental: Incremental,
    ) -> TransferPlan:
        """Plan until every parent of the plan is known to be unchanged."""
        while True:
            here = self._with_findings(here)
            plan = plan_transfers(
                [s for s in here.snapshots if s.uuid in wanted],
                here,
                there,
                related=related,
                integrity_there=self._there,
                incremental=incremental,
            )
            if plan.doubtful_here:
                doubtful = plan.doubtful_here
                found = self._snapshots.look_closely([doubtful.tree_id])
                # A snapshot that is not known to be intact is treated as changed.
                is_intact = found is Integrity.INTACT
                self._here[doubtful.uuid] = (
                    Integrity.INTACT if is_intact else Integrity.CHANGED
                )
            elif plan.doubtful:
                carriers = there.carriers.get(plan.doubtful, ())
                self._there[plan.doubtful] = self._backups.look_closely(carriers)
            else:
                return plan

    def _with_findings(self, here: Listing) -> Listing:
        known = self._here
        snapshots = (
            replace(s, integrity=known.get(s.uuid, s.integrity)) for s in here.snapshots
        )
        return replace(here, snapshots=tuple(snapshots)) if known else here


def _relatives(
    source: Facts, here: Listing, naming: Naming | None
) -> tuple[set[UUID], set[UUID]]:
    """Return the UUIDs of possible parents, and of substitutes if none is common."""
    children, kin = set(), set()
    for snapshot in here.snapshots:
        named = naming and naming.time_of(snapshot.name) is not None
        if snapshot.parent_uuid == source.uuid or named:
            children.add(snapshot.uuid)
        elif source.parent_uuid in (snapshot.uuid, snapshot.parent_uuid):
            kin.add(snapshot.uuid)
    return children, kin if source.parent_uuid else set()


class NextBackup(Value):
    """A prediction of the next backup, for one prefix.

    :ivar prefix: ``None`` for one that no snapshot at the source has.
    :ivar parent: ``None`` if the backup is full.
    :ivar why_full: set exactly when there is no parent.
    :ivar refusals: one line for each snapshot that is not trusted as parent.
    """

    prefix: str | None
    parent: Snapshot | None
    why_full: WhyFull | None
    refusals: tuple[str, ...]

    def describe(self) -> str:
        """Return "full" or "incremental", with the reason."""
        why = "; ".join(self.refusals[:_SHOWN])
        if self.parent:
            also = f" ({why})" if why else ""
            return f"incremental, with parent {self.parent.name}{also}"
        assert self.why_full
        return f"full ({why or self.why_full.value})"

    def is_same(self, other: "NextBackup") -> bool:
        """Return whether both have the same parent."""
        uuids = [one.parent.uuid if one.parent else None for one in (self, other)]
        return uuids[0] == uuids[1]


def _with_prefix(prefix: str | None) -> str:
    if prefix is None:
        return "with any other prefix"
    if prefix == usual_prefix():
        return "without -p"
    return f"with -p {shlex.quote(prefix)}"


class Forecast(Value):
    """A prediction of the next backup from a source to a destination.

    This backup makes a snapshot, in the same folder and with the usual options.

    :ivar source: name of the source, for people.
    :ivar place: name of the destination, for people.
    :ivar outcomes: for each prefix recorded for the source at the destination, or else
        for the usual prefix.
    :ivar otherwise: for a prefix that no snapshot has.
    :ivar better: for other prefixes that both sides have, if the backup would be
        incremental with them; only if one of the outcomes is full.
    :ivar coming: names of snapshots recorded as being sent; one that arrives before
        the next backup becomes the parent instead.
    """

    source: str
    place: str
    outcomes: tuple[NextBackup, ...]
    otherwise: NextBackup
    better: tuple[NextBackup, ...] = ()
    coming: tuple[str, ...] = ()

    @property
    def is_incremental(self) -> bool | None:
        """Return whether it is incremental; ``None``: that depends on the prefix."""
        found = {one.parent is not None for one in (*self.outcomes, *self.better)}
        return found.pop() if len(found) == 1 else None

    @property
    def is_certain(self) -> bool:
        """Return whether it is the same for any prefix, and nothing is being sent."""
        return not self.coming and len(self.cases) == 1

    @property
    def cases(self) -> tuple[NextBackup, ...]:
        """Return the outcomes that differ, the most likely first."""
        every = (*self.outcomes, *self.better)
        if all(one.is_same(self.otherwise) for one in every):
            return every[:1]
        return (*every, self.otherwise)

    def describe(self) -> str:
        """Return its kind and the conditions for that: "incremental, ..."."""
        cases = self.cases
        texts = [case.describe() for case in cases]
        if len(cases) > 1:
            texts = [f"{c.describe()} {_with_prefix(c.prefix)}" for c in cases]
        text = "; ".join(texts)
        if self.coming:
            names = ", ".join(self.coming)
            text += f"; if a transfer under way arrives before it, with parent {names}"
        return text

    @property
    def parents(self) -> dict[UUID, Snapshot]:
        """Return the possible parents, by origin."""
        found = (one.parent for one in self.cases)
        return {parent.origin: parent for parent in found if parent}


def foresee(
    here: Seen,
    there: Seen,
    now: datetime,
    *,
    name: str = "",
    prefix: str | None = None,
) -> Forecast:
    """Predict the next backup from a source to a destination.

    :param now: aware.
    :param name: of the destination, if it is not its location.
    :param prefix: of the next backup's name; ``None`` if it is not known.
    :raises BackupError: if a snapshot on either side cannot be inspected.
    """
    planner = Planner(here.endpoint, there.endpoint)
    source, place = str(here.place.location), name or str(there.place.location)
    coming = tuple(_coming(here.record, place, there.listing))

    def outcome(begin: str | None) -> NextBackup:
        naming = None if begin is None else Naming(begin)
        taken = here.listing.names
        planned = next_snapshot(here.place, naming or Naming(""), now, taken)
        listing = replace(here.listing, snapshots=(*here.snapshots, planned))
        # Other missing snapshots have the same parent, or one that is sent before.
        plan = planner.plan(listing, there.listing, {planned.uuid}, naming)
        why = next((t.why_full for t in plan.transfers if t.why_full), None)
        return NextBackup(begin, plan.base, why, plan.refusals)

    if prefix is not None:
        only = outcome(prefix)
        return Forecast(source, place, (only,), only, (), coming)
    likely = _recorded_prefixes(here.place, there.record) or [usual_prefix()]
    outcomes = [outcome(one) for one in likely]
    better: list[NextBackup] = []
    if any(one.parent is None for one in outcomes):
        others = [one for one in _shared_prefixes(here, there) if one not in likely]
        better = [one for one in map(outcome, others) if one.parent]
    return Forecast(
        source, place, tuple(outcomes), outcome(None), tuple(better), coming
    )


def _recorded_prefixes(source: Place, record: Content) -> list[str]:
    """Return the prefixes under which a source is recorded at a destination."""
    own = identity_of(source)
    try:
        recorded = parse_sources(record)
    except Unreadable:
        return []
    return [
        prefix
        for prefix, series in recorded.items()
        if any(entry.is_same(own) for entry in series.sources)
    ]


def _shared_prefixes(here: Seen, there: Seen) -> list[str]:
    """Return the prefixes of the snapshots that both places have."""
    origins = {s.received_uuid for s in there.snapshots if s.received_uuid}
    found = (split_name(s.name) for s in here.snapshots if s.origin in origins)
    return sorted({split[0] for split in found if split})


def _coming(holds: Content, place: str, there: Listing) -> Iterator[str]:
    """Return the names of snapshots recorded as being sent that have not arrived."""
    arrived = {snapshot.received_uuid for snapshot in there.snapshots}
    try:
        records = parse_holds(holds) if holds is not None else {}
    except Unreadable:
        return
    for held_for, held in records.items():
        for hold in held if held_for.location == place else ():
            if hold.why is Why.SENDING and hold.origin not in arrived:
                yield hold.name


class Unchanged(Endpoint):
    """A directory that is not inspected; its snapshots count as unchanged."""

    def look_closely(self, tree_ids: Sequence[int], **how: bool) -> Integrity:
        """Return INTACT without a look."""
        return Integrity.INTACT


def any_place_with(snapshot: Snapshot, source: Place) -> Seen:
    """Return a look at an imaginary place that has a good copy of one snapshot only."""
    copy = replace(
        snapshot,
        uuid=uuid.uuid4(),
        received_uuid=snapshot.origin,
        integrity=Integrity.INTACT,
    )
    carriers = {snapshot.origin: (copy.tree_id,)}
    listing = Listing((copy,), frozenset({snapshot.name}), carriers)
    return Seen(Unchanged(source), listing)
