"""The plan of the next transfers from a source to a place, made or foretold.

A run plans with :class:`Planner`. Verbs that tell of the next backup ask
:func:`foresee`, which plans the same, so the prediction and the run cannot differ.

``btrfs receive`` builds an incremental backup on any subvolume of its filesystem that
carries the parent's UUID, and does not notice when that was changed: the result is
silently wrong. So a parent must be known to be unchanged on both sides. The transaction
of a snapshot's last change (``ctransid``) never passes the one that made it
(``otransid``), unless somebody edits it. This machine reads both by ioctl. On another
one the listing gives a coarser answer (``gen`` = ``cgen``: surely unchanged); where
that is not enough, or where several subvolumes carry the UUID, the root tree is read
(``items``). Copies that other tools received in place were written after they were
made, so being read-only with a received UUID must do there.

``forecast.Planner`` is what a run plans with: it says which snapshots of a source may
be parents, calls ``plan_transfers``, and takes the close looks that this asks for. May
be: what was made of the source, and what has a name of its prefix, whoever made it and
copied it. If none of these is common, what the source itself was made of, and what else
was made of that: so a restored subvolume goes on from its first snapshot, whatever that
is called. (Only then: two subvolumes made of one another would else build upon each
other's newer snapshots.)

``forecast.foresee`` lets the same ``Planner`` plan a snapshot that is made now.
``verify --source``, ``restore --writable``, ``list`` and ``prune`` (what it must not
delete) all ask it; none of them says by itself what the next backup is. The prefix is
not known to them. So it is foretold for the prefixes under which this source signed in
at the place, else for the usual one, and for one that no snapshot has; where these
differ, each is told with its ``-p``, and ``verify`` calls it unchecked. What is
recorded to be on its way is named, too, as it would be the parent once it has arrived.
"""

import os
import shlex
import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from btrfs_backup_ng.core.model import Facts, Incremental, Integrity, Listing, Snapshot
from btrfs_backup_ng.core.naming import Naming, split_name
from btrfs_backup_ng.core.plan import TransferPlan, WhyFull, plan_transfers
from btrfs_backup_ng.core.record import Content, Unreadable
from btrfs_backup_ng.endpoint.common import Endpoint, Place
from btrfs_backup_ng.place.contents import Seen
from btrfs_backup_ng.place.holds import Why, parse_holds
from btrfs_backup_ng.place.sources import identity_of, parse_sources

#: Generation of a snapshot that is planned and not made yet: later than all.
NOT_MADE_YET = 2**63
#: So many reasons are shown.
_SHOWN = 3


def usual_prefix() -> str:
    """Return what names begin with unless another prefix is asked for."""
    return f"{os.uname().nodename}-"


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
    """Plans of what goes from a source to a place; no look is taken twice."""

    def __init__(self, snapshots: Endpoint, backups: Endpoint) -> None:
        self._snapshots = snapshots
        self._backups = backups
        self._here: dict[UUID, Integrity] = {}
        self._there: dict[UUID, Integrity] = {}

    def plan(
        self,
        here: Listing,
        there: Listing,
        wanted: Collection[UUID],
        naming: Naming | None,
        incremental: Incremental = Incremental.AUTO,
    ) -> TransferPlan:
        """Decide what to send, with a close look at a parent that needs one.

        Parents are snapshots of the source, and those with its names. Where none of
        them will do, it is the subvolume that the source itself was made of, or
        another snapshot of that: as after a restore.

        :param here: what the source has.
        :param wanted: UUIDs of the snapshots to have there.
        :param naming: of the names that are the source's, ``None`` for no name.
        """
        children, kin = _relatives(self._snapshots.place.facts, here, naming)
        plan = self._settled(here, there, wanted, children, incremental)
        if plan.base is None and kin:
            return self._settled(here, there, wanted, children | kin, incremental)
        return plan

    def _settled(
        self,
        here: Listing,
        there: Listing,
        wanted: Collection[UUID],
        related: Collection[UUID],
        incremental: Incremental,
    ) -> TransferPlan:
        """Plan until no parent of the plan is in doubt."""
        while True:
            here = self._with_seals(here)
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
                # A seal that is not sure is taken for a broken one.
                seal = (
                    Integrity.INTACT if found is Integrity.INTACT else Integrity.CHANGED
                )
                self._here[doubtful.uuid] = seal
            elif plan.doubtful:
                carriers = there.carriers.get(plan.doubtful, ())
                self._there[plan.doubtful] = self._backups.look_closely(carriers)
            else:
                return plan

    def _with_seals(self, here: Listing) -> Listing:
        known = self._here
        if not known:
            return here
        snapshots = (
            replace(s, integrity=known.get(s.uuid, s.integrity)) for s in here.snapshots
        )
        return replace(here, snapshots=tuple(snapshots))


def _relatives(
    source: Facts, here: Listing, naming: Naming | None
) -> tuple[set[UUID], set[UUID]]:
    """Return the UUIDs of possible parents, and of those that serve for want of one."""
    children, kin = set(), set()
    for snapshot in here.snapshots:
        named = naming and naming.time_of(snapshot.name) is not None
        if snapshot.parent_uuid == source.uuid or named:
            children.add(snapshot.uuid)
        elif source.parent_uuid in (snapshot.uuid, snapshot.parent_uuid):
            kin.add(snapshot.uuid)
    return children, kin if source.parent_uuid else set()


@dataclass(frozen=True, slots=True)
class NextBackup:
    """What the next backup is going to be, with names of one prefix.

    :ivar prefix: ``None`` for one that no snapshot at the source has.
    :ivar parent: what it starts from; ``None``: it is full.
    :ivar why_full: set exactly when there is no parent.
    :ivar refusals: one line for each snapshot that is not trusted as parent.
    """

    prefix: str | None
    parent: Snapshot | None
    why_full: WhyFull | None
    refusals: tuple[str, ...]

    def describe(self) -> str:
        """Say what it is, and why."""
        why = "; ".join(self.refusals[:_SHOWN])
        if self.parent:
            also = f" ({why})" if why else ""
            return f"incremental, since {self.parent.name}{also}"
        assert self.why_full
        return f"full ({why or self.why_full.value})"

    def is_same(self, other: "NextBackup") -> bool:
        """Tell whether both start from the same."""
        uuids = [one.parent.uuid if one.parent else None for one in (self, other)]
        return uuids[0] == uuids[1]


def _with_prefix(prefix: str | None) -> str:
    if prefix is None:
        return "with any other prefix"
    if prefix == usual_prefix():
        return "without -p"
    return f"with -p {shlex.quote(prefix)}"


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the next backup from a source to a place is going to be.

    It is one that makes a snapshot, from the same folder and in the usual way.

    :ivar source: its name, for people.
    :ivar place: the name of the destination, for people.
    :ivar outcomes: for each prefix that it may have: those under which the source has
        signed in there, else the usual one.
    :ivar otherwise: for a prefix that no snapshot has.
    :ivar better: for prefixes of names that both sides have, and with which it would be
        incremental; only where an outcome is not.
    :ivar coming: names of snapshots that are recorded to be on their way there; one
        that arrives before is the parent instead.
    """

    source: str
    place: str
    outcomes: tuple[NextBackup, ...]
    otherwise: NextBackup
    better: tuple[NextBackup, ...] = ()
    coming: tuple[str, ...] = ()

    @property
    def is_incremental(self) -> bool | None:
        """Tell whether it is; ``None``: that depends on the prefix."""
        found = {one.parent is not None for one in (*self.outcomes, *self.better)}
        return found.pop() if len(found) == 1 else None

    @property
    def is_certain(self) -> bool:
        """Tell whether it is the same with any prefix, and nothing is on its way."""
        return not self.coming and len(self.cases) == 1

    @property
    def cases(self) -> tuple[NextBackup, ...]:
        """Return the outcomes that differ, the likeliest first."""
        every = (*self.outcomes, *self.better)
        if all(one.is_same(self.otherwise) for one in every):
            return every[:1]
        return (*every, self.otherwise)

    def describe(self) -> str:
        """Say what the next backup is, and what that depends on: "incremental, ..."."""
        told = [one.describe() for one in self.cases]
        if len(told) > 1:
            words = (_with_prefix(one.prefix) for one in self.cases)
            told = [f"{one} {by}" for one, by in zip(told, words, strict=True)]
        text = "; ".join(told)
        if self.coming:
            names = ", ".join(self.coming)
            text += f"; if what is on its way there arrives before, since that: {names}"
        return text

    @property
    def parents(self) -> dict[UUID, Snapshot]:
        """Return what it may start from, by origin."""
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
    """Foretell the next backup from a source to a place.

    :param here: the look at the snapshots of the source.
    :param there: the look at the backups of the place.
    :param now: aware.
    :param name: of the place, if it is not its location.
    :param prefix: of the next backup's name, ``None`` if that is not known.
    :raises BackupError: if one of the two cannot be looked at closely.
    """
    planner = Planner(here.endpoint, there.endpoint)
    source, place = str(here.place.location), name or str(there.place.location)
    coming = tuple(_coming(here.record, place, there.listing))

    def outcome(begin: str | None) -> NextBackup:
        naming = None if begin is None else Naming(begin)
        taken = here.listing.names
        planned = next_snapshot(here.place, naming or Naming(""), now, taken)
        listing = replace(here.listing, snapshots=(*here.snapshots, planned))
        # Other missing ones go from the same, or from one that is sent before.
        plan = planner.plan(listing, there.listing, {planned.uuid}, naming)
        why = next((t.why_full for t in plan.transfers if t.why_full), None)
        return NextBackup(begin, plan.base, why, plan.refusals)

    if prefix is not None:
        only = outcome(prefix)
        return Forecast(source, place, (only,), only, (), coming)
    likely = _signed_in(here.place, there.record) or [usual_prefix()]
    outcomes = [outcome(likely_one) for likely_one in likely]
    better: list[NextBackup] = []
    if any(one.parent is None for one in outcomes):
        tried = {one.prefix for one in outcomes}
        prefixes = _shared_prefixes(here, there)
        shared = [outcome(prefix) for prefix in prefixes if prefix not in tried]
        better = [one for one in shared if one.parent]
    return Forecast(
        source, place, tuple(outcomes), outcome(None), tuple(better), coming
    )


def _signed_in(source: Place, record: Content) -> list[str]:
    """Return the prefixes under which a source is recorded at a place."""
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
    """Return the prefixes of names at a source whose snapshots are at a place, too."""
    origins = {s.received_uuid for s in there.snapshots if s.received_uuid}
    found = (split_name(s.name) for s in here.snapshots if s.origin in origins)
    return sorted({split[0] for split in found if split})


def _coming(holds: Content, place: str, there: Listing) -> Iterator[str]:
    """Return the names of snapshots that are recorded as on their way, and missing."""
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
    """A directory that is not looked at; its snapshots are taken for unchanged."""

    def look_closely(self, tree_ids: Sequence[int], **how: bool) -> Integrity:
        """Return that they are intact."""
        return Integrity.INTACT


def any_place_with(snapshot: Snapshot, source: Place) -> Seen:
    """Return the look at a place that has a good copy of a snapshot, and no other."""
    copy = replace(
        snapshot,
        uuid=uuid.uuid4(),
        received_uuid=snapshot.origin,
        integrity=Integrity.INTACT,
    )
    carriers = {snapshot.origin: (copy.tree_id,)}
    listing = Listing((copy,), frozenset({snapshot.name}), carriers)
    return Seen(Unchanged(source), listing)
