"""The record, at a destination, of the sources of its backups.

If two sources use the same prefix and directory, their backups cannot be told apart. A
limit on the number of backups would delete those of the other source. So each source
registers in this record, and nothing is deleted under a prefix with two sources.

If the record is lost, a source owns the backups that it still has as snapshots, and
those that the history says it sent. The owner of the others is unknown; they are
recorded as unknown and never deleted.

The record also has the policy that the last run applied to each series, so that a run
notices a new one.
"""

import logging
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from btrfs_backup_ng.__util__ import BackupError, Refused, visible
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import Listing, Snapshot
from btrfs_backup_ng.core.naming import Naming, split_name
from btrfs_backup_ng.core.policy import Policy
from btrfs_backup_ng.core.record import (
    Content,
    Unreadable,
    as_dict,
    as_list,
    as_text,
    format_document,
    parse_document,
)
from btrfs_backup_ng.core.value import EMPTY, Value, replace
from btrfs_backup_ng.endpoint.common import Place
from btrfs_backup_ng.host.entry import SOURCES, plain

log = logging.getLogger(__name__)

_VERSION = 1


class SourceIdentity(Value):
    """A source; two are the same if the UUID or the place is the same.

    After a restore, the UUID is different; after a move, the place is.
    """

    uuid: UUID
    place: str

    def is_same(self, other: "SourceIdentity") -> bool:
        """Return whether both describe the same source."""
        return self.uuid == other.uuid or self.place == other.place


class Series(Value):
    """The sources of the backups with one prefix.

    :ivar sources: in the order in which they registered.
    :ivar unknown: origins of backups whose owner is unknown.
    :ivar owners: where there are several sources: origin of a backup -> UUID of its
        source.
    :ivar policy: that was applied to them last, as ``Policy.for_record``; "" for none.
    """

    sources: tuple[SourceIdentity, ...] = ()
    unknown: frozenset[UUID] = frozenset()
    owners: Mapping[UUID, UUID] = EMPTY
    policy: str = ""

    def owner_of(self, backup: Snapshot) -> SourceIdentity | None:
        """Return the source of a backup; None if that is not known."""
        if len(self.sources) == 1 and backup.origin not in self.unknown:
            return self.sources[0]
        uuid = self.owners.get(backup.origin)
        return next((one for one in self.sources if one.uuid == uuid), None)


#: Prefix of the backups -> their sources.
Sources = Mapping[str, Series]


def identity_of(source: Place) -> SourceIdentity:
    """Return the identity of a source, with the name of its machine.

    :raises Refused: if there is no subvolume, as when it was replaced meanwhile.
    """
    place = place_on_record(source.location)
    if source.facts.uuid is None:
        raise Refused(f"{source} is not a subvolume, or no longer one")
    return SourceIdentity(source.facts.uuid, place)


def place_on_record(source: Location) -> str:
    """Return a source as records name it: with its machine."""
    return f"{os.uname().nodename}:{source}" if source.is_here else str(source)


def path_of_source(place: str) -> str:
    """Return the path in the recorded place of a source, without its machine."""
    match = re.fullmatch(r"(?s)(?:ssh://[^/]*|[^/:]*:)?(/.*)", place)
    return match[1] if match else place


def is_snapshot_of(source: Place, snapshot: Snapshot) -> bool:
    """Return whether a snapshot in the folder of a source is of this source.

    A folder outside the source may have snapshots of several sources.
    """
    inside = f"{source.location.path.rstrip('/')}/"
    is_inside = source.snapshots.directory.startswith(inside)
    return is_inside or snapshot.parent_uuid == source.facts.uuid


def own_listing(source: Place, here: Listing) -> Listing:
    """Leave out the snapshots of other sources in a folder that several share.

    Those of a subvolume that is gone stay: a source that was restored, rolled back or
    moved has another UUID. All names stay, as they are in use. The filesystem is asked
    only if there are snapshots of another subvolume.
    """
    if "//" in source.snapshots.directory:  # in the source itself
        return here
    doubtful = [
        s
        for s in here.snapshots
        if s.parent_uuid not in (None, source.facts.uuid)
        and s.received_uuid is None
        and split_name(s.name)
    ]
    if not doubtful:
        return here
    try:
        found = source.subvolumes()
        others = of_others(
            doubtful, found.everything, found.writable, source.facts.uuid
        )
    except BackupError as error:
        others = {s.uuid for s in doubtful}
        text = "%s: the subvolumes of %d snapshots are not known, so these stay: %s"
        log.warning(text, source, len(others), visible(str(error)))
    if not others:
        return here
    directory = plain(source.snapshots.directory)
    text = "%s: %d snapshots of other sources in %s do not count"
    log.info(text, source, len(others), visible(directory))
    own = (s for s in here.snapshots if s.uuid not in others)
    return replace(here, snapshots=tuple(own))


def of_others(
    snapshots: Collection[Snapshot],
    subvolumes: Iterable[Snapshot],
    writable: Collection[UUID],
    source: UUID | None,
) -> set[UUID]:
    """Return the snapshots in a shared folder that are those of other sources.

    Another source is a writable subvolume that still exists. One that the source was
    made of, by a rollback or a restore, only counts if it has a newer snapshot than the
    source itself: the source continues its snapshots.

    :param snapshots: those that were not made of the source, as it is now.
    :param subvolumes: all of the filesystem.
    :param writable: UUIDs of those that are writable.
    """
    known = {one.uuid: one for one in subvolumes}

    def maker(snapshot: Snapshot) -> UUID | None:
        """Return the writable subvolume, also of a snapshot of a snapshot."""
        passed = {snapshot.uuid}
        parent = snapshot.parent_uuid
        while parent in known and parent not in writable and parent not in passed:
            passed.add(parent)
            parent = known[parent].parent_uuid
        return parent if parent in writable else None

    makers = {s.uuid: maker(s) for s in snapshots}
    former: set[UUID | None] = set()
    waiting = [source]
    while waiting:
        one = known.get(uuid) if (uuid := waiting.pop()) else None
        if one and uuid not in former:
            former.add(uuid)
            waiting += [one.parent_uuid, one.received_uuid]
    born = known[source].generation if source in known else 0
    former -= {makers[s.uuid] for s in snapshots if s.generation > born}
    own = former | {None, source}
    return {uuid for uuid, made_by in makers.items() if made_by not in own}


def parse_sources(content: Content) -> Sources:
    """Parse the record; a missing one has no prefix.

    :raises Unreadable: if it is not fully understood.
    """
    return {} if content is None else parse_document(content, _VERSION, _built)


def _built(document: Any) -> Sources:
    unknown = as_dict(document.get("unknown", {}))
    owners = as_dict(document.get("owners", {}))
    policies = as_dict(document.get("policies", {}))
    prefixes = as_dict(document["prefixes"])
    if not unknown.keys() | owners.keys() | policies.keys() <= prefixes.keys():
        raise Unreadable("it names a prefix as unknown that it does not list")
    return {
        prefix: Series(
            tuple(
                SourceIdentity(UUID(as_text(uuid)), as_text(place))
                for uuid, place in map(as_list, as_list(entries))
            ),
            frozenset(UUID(as_text(u)) for u in as_list(unknown.get(prefix, []))),
            {
                UUID(origin): UUID(as_text(uuid))
                for origin, uuid in as_dict(owners.get(prefix, {})).items()
            },
            as_text(policies.get(prefix, "")),
        )
        for prefix, entries in prefixes.items()
    }


def format_sources(sources: Sources) -> bytes:
    """Write the record so that :func:`parse_sources` reads the same."""
    ordered = sorted(sources.items())
    prefixes = {
        prefix: [[str(source.uuid), source.place] for source in series.sources]
        for prefix, series in ordered
    }
    unknown = {
        prefix: sorted(map(str, series.unknown))
        for prefix, series in ordered
        if series.unknown
    }
    owners = {
        prefix: {str(o): str(uuid) for o, uuid in sorted(series.owners.items())}
        for prefix, series in ordered
        if series.owners
    }
    policies = {prefix: series.policy for prefix, series in ordered if series.policy}
    rare = {"unknown": unknown, "owners": owners, "policies": policies}
    fields = {"prefixes": prefixes, **{key: some for key, some in rare.items() if some}}
    return format_document(_VERSION, fields)


def with_source(series: Series, own: SourceIdentity) -> Series:
    """Add a source, or update its entry."""
    others = tuple(o for o in series.sources if not o.is_same(own))
    former = {o.uuid for o in series.sources if o.is_same(own)}
    owners = {
        origin: own.uuid if uuid in former else uuid
        for origin, uuid in series.owners.items()
    }
    return replace(series, sources=(*others, own), owners=owners)


def why_unknown(recorded: Content, path: str, prefix: str | None) -> tuple[str, ...]:
    """Return why the owners of the backups at a destination are not known.

    :param path: of the record, for people.
    :param prefix: of the backups there; ``None`` without backups.
    :returns: sentences without their end; empty if the owners are known.
    """
    try:
        sources = parse_sources(recorded)
    except Unreadable as error:
        return (f"{path} cannot be read ({visible(str(error))})",)
    if prefix is None or prefix in sources:
        return ()
    if recorded is None:
        return (f"{path} is missing, the record of the sources of backups",)
    which = f"backups that begin with {visible(prefix)!r}"
    return (f"{path} does not name the source of {which}",)


class Ownership:
    """The owners of the backups with one prefix at a destination, during a run.

    :ivar withheld: reasons why this run deletes nothing there, each a sentence without
        its end; empty if it may delete.
    :ivar unknown: origins of backups that stay, as their owner is unknown.
    :ivar others: the places of other sources.
    :ivar is_damaged: the record cannot be read.
    :ivar is_new: the record does not name this source yet, and no backup there is of it
        (as of a restored one, which continues them).
    """

    def __init__(
        self, place: Place, own: SourceIdentity, prefix: str, keep: Policy | None = None
    ) -> None:
        """Prepare to read the record.

        :param keep: the policy of this run for the backups, None to keep all.
        """
        self._place = place
        self._own = own
        self._prefix = prefix
        self._keep = keep
        self._recorded: Sources = {}
        self._present: frozenset[UUID] = frozenset()
        self._owned: frozenset[UUID] = frozenset()
        self.withheld: tuple[str, ...] = ()
        self.unknown: frozenset[UUID] = frozenset()
        self.others: tuple[str, ...] = ()
        self.is_damaged = False
        self.is_new = False

    def read(
        self,
        content: Content,
        there: Listing,
        own_snapshots: Collection[UUID],
        remembered: Callable[[], Collection[UUID]],
        *,
        now: datetime,
        dry_run: bool,
    ) -> str:
        """Read the record, and find the owners that it does not name.

        A record that cannot be read is moved aside. May be repeated, if another run may
        have changed it.

        :param content: of the record.
        :param there: the listing of the destination.
        :param own_snapshots: origins of the snapshots of the source.
        :param remembered: returns the origins of the backups that the history says this
            source sent; called only if the record does not name their owner.
        :param now: aware.
        :returns: the action on a missing or damaged record, for people; else "".
        """
        naming = Naming(self._prefix)
        present = {s.origin for s in backups_of(there, naming)}
        owned = present.intersection(own_snapshots)
        prefix = self._prefix if present else None
        doubts = why_unknown(content, self._place.record_path(SOURCES), prefix)
        self.withheld += doubts
        done = "it is created again"
        try:
            self._recorded = parse_sources(content)
        except Unreadable as error:
            self.is_damaged = True
            aside = error.name_aside(SOURCES, now)
            done = f"it is moved to {aside} and created again"
            if not dry_run:
                self._place.set_aside(SOURCES, aside)
        series = self._recorded.get(self._prefix, Series())
        if doubts:
            owned |= present.intersection(remembered())
            series = replace(series, unknown=frozenset(present))
        self._present, self._owned = frozenset(present), frozenset(owned)
        self.unknown = series.unknown & present - owned
        self.others = tuple(o.place for o in series.sources if not o.is_same(self._own))
        named = any(o.is_same(self._own) for o in series.sources)
        self.is_new = not (named or owned)
        return done if doubts else ""

    @property
    def older_prefixes(self) -> tuple[str, ...]:
        """Return other prefixes of backups of this source alone, if its own is new."""
        if self._prefix in self._recorded:
            return ()
        return tuple(
            prefix
            for prefix, series in sorted(self._recorded.items())
            if series.sources and all(one.is_same(self._own) for one in series.sources)
        )

    @property
    def applied(self) -> str:
        """Return the policy on record for these backups; "" for none."""
        return self._recorded.get(self._prefix, Series()).policy

    def apply(self, policy: Policy) -> None:
        """Record the policy that is applied to these backups."""
        series = self._recorded.get(self._prefix, Series())
        self._write(replace(series, policy=policy.for_record))

    def register(self, sent: Collection[UUID]) -> None:
        """Register this source in the record, if that changes it.

        The policy of the run goes there, too, if there are no backups yet.

        :param sent: origins of the backups that this run sends to the destination.
        """
        series = self._recorded.get(self._prefix, Series())
        series = replace(series, unknown=self.unknown)
        if sent and not self._present:
            policy = self._keep.for_record if self._keep else ""
            series = replace(series, policy=policy)
        if sent or (self.withheld and self._owned):
            series = self._with_owners(series, sent)
            series = with_source(series, self._own)
        if series == Series() and not self.withheld:
            return
        self._write(series)

    def _write(self, series: Series) -> None:
        """Write the record of these backups, if it is new."""
        sources = {**self._recorded, self._prefix: series}
        if sources != self._recorded:
            self._place.write_record(SOURCES, format_sources(sources))
            self._recorded = sources

    def _with_owners(self, series: Series, sent: Collection[UUID]) -> Series:
        """Record the source of each backup, as soon as there are several."""
        if not self.others:
            return series
        owners = dict(series.owners)
        if len(series.sources) == 1:  # so far
            first, known = series.sources[0].uuid, self._present - self.unknown
            owners |= dict.fromkeys(known, first)
        owners |= dict.fromkeys([*self._owned, *sent], self._own.uuid)
        there = self._present.union(sent)
        return replace(series, owners={o: u for o, u in owners.items() if o in there})

    def known_in(self, there: Listing) -> Listing:
        """Return a listing without the backups whose owner is unknown."""
        known = (s for s in there.snapshots if s.received_uuid not in self.unknown)
        return replace(there, snapshots=tuple(known))


def backups_of(there: Listing, naming: Naming) -> Sequence[Snapshot]:
    """Return the received snapshots with names of one prefix."""
    return [
        snapshot
        for snapshot in there.snapshots
        if snapshot.received_uuid and naming.time_of(snapshot.name) is not None
    ]


def with_one_source(recorded: Sources, prefix: str) -> Sources:
    """Record that all backups of a prefix are of one source.

    If several are recorded, delete them: the next source that sends there becomes it.
    A policy was not applied to those that it could not delete.
    """
    series = recorded.get(prefix, Series())
    is_one = len(series.sources) == 1
    policy = "" if series.unknown or len(series.sources) > 1 else series.policy
    one = Series(series.sources if is_one else (), policy=policy)
    return {**recorded, prefix: one}
