"""Predictions of the next backup from a source to a destination.

``verify --source``, ``restore --writable``, ``list`` and ``prune`` call
:func:`foresee`, which plans as a backup run does (``planner``). So a prediction and a
run cannot differ.

``foresee`` plans a snapshot that is made now. The prefix of the next backup is not
known, so it plans for several: the prefixes recorded for this source at the
destination, or else the usual one, and a prefix that no snapshot has. If the results
differ, each is shown with its ``-p``, and ``verify`` calls the backup unchecked. A
snapshot recorded as being sent is named, too: once it has arrived, it is the parent.
"""

import shlex
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime
from uuid import UUID

from btrfs_backup_ng.core.model import Integrity, Listing, Snapshot
from btrfs_backup_ng.core.naming import Naming, split_name
from btrfs_backup_ng.core.plan import WhyFull
from btrfs_backup_ng.core.record import Content, Unreadable
from btrfs_backup_ng.core.value import Value, replace
from btrfs_backup_ng.endpoint.common import Endpoint, Place
from btrfs_backup_ng.host.machine import usual_prefix
from btrfs_backup_ng.place.contents import Seen
from btrfs_backup_ng.place.holds import Why, parse_holds
from btrfs_backup_ng.place.planner import Planner, next_snapshot
from btrfs_backup_ng.place.sources import identity_of, parse_sources

#: Number of reasons that are shown.
_SHOWN = 3


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
