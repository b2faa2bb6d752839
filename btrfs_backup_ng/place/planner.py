"""Plans of the transfers from a source to a destination, with parents to be trusted.

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
"""

import uuid
from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from btrfs_backup_ng.core.model import Facts, Incremental, Integrity, Listing, Snapshot
from btrfs_backup_ng.core.naming import Naming
from btrfs_backup_ng.core.plan import TransferPlan, plan_transfers
from btrfs_backup_ng.core.value import replace
from btrfs_backup_ng.endpoint.common import Endpoint, Place

#: Generation of a snapshot that is planned and not made yet: later than all.
NOT_MADE_YET = 2**63


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
