"""The record at a destination of where its backups come from.

Two sources whose backups have one prefix in one directory cannot be told apart
there, and a limit on the number of backups would delete those of the other one. So
each source signs in, and where two did, nothing is deleted.

Where the record is lost, the backups that a source has as snapshots, or is remembered
to have sent, are its own. Of the others it is not known whose they are: they are
recorded as such, and stay.
"""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from btrfs_backup_ng.__util__ import visible
from btrfs_backup_ng.core.model import Listing, Snapshot
from btrfs_backup_ng.core.naming import Naming
from btrfs_backup_ng.core.record import (
    Content,
    Unreadable,
    as_dict,
    as_list,
    as_text,
    format_document,
    parse_document,
)
from btrfs_backup_ng.endpoint.common import Place

#: File of our bookkeeping at a destination.
SOURCES = "sources.json"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class SourceIdentity:
    """A source: the same one if its UUID or its place is the same.

    A restored source has another UUID, a moved one another place.
    """

    uuid: UUID
    place: str

    def is_same(self, other: "SourceIdentity") -> bool:
        """Tell whether two descriptions mean one source."""
        return self.uuid == other.uuid or self.place == other.place


@dataclass(frozen=True, slots=True)
class Series:
    """Where the backups of one prefix come from.

    :ivar sources: the one that signed in last is the last.
    :ivar unknown: origins of backups of which it is not known whose they are.
    """

    sources: tuple[SourceIdentity, ...] = ()
    unknown: frozenset[UUID] = frozenset()


#: Prefix of the backups -> where they come from.
Sources = Mapping[str, Series]


def identity_of(source: Place) -> SourceIdentity:
    """Return the identity of a source, with the name of its machine."""
    place = str(source.location)
    if source.location.is_here:
        place = f"{os.uname().nodename}:{place}"
    assert source.facts.uuid
    return SourceIdentity(source.facts.uuid, place)


def parse_sources(content: Content) -> Sources:
    """Read the record; where there is none, it names no prefix.

    :raises Unreadable: if it is not fully understood; then nothing is known.
    """
    return {} if content is None else parse_document(content, _VERSION, _built)


def _built(document: Any) -> Sources:
    unknown = as_dict(document.get("unknown", {}))
    prefixes = as_dict(document["prefixes"])
    if not unknown.keys() <= prefixes.keys():
        raise Unreadable("it names a prefix as unknown that it does not list")
    return {
        prefix: Series(
            tuple(
                SourceIdentity(UUID(as_text(uuid)), as_text(place))
                for uuid, place in map(as_list, as_list(entries))
            ),
            frozenset(UUID(as_text(u)) for u in as_list(unknown.get(prefix, []))),
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
    fields = {"prefixes": prefixes, "unknown": unknown}
    return format_document(_VERSION, fields if unknown else {"prefixes": prefixes})


def signed_in(series: Series, own: SourceIdentity) -> Series:
    """Add a source, or bring its entry up to date."""
    others = tuple(o for o in series.sources if not o.is_same(own))
    return replace(series, sources=(*others, own))


def why_unknown(recorded: Content, path: str, prefix: str | None) -> tuple[str, ...]:
    """Return why it is not known whose backups a destination has.

    :param path: of the record, for people.
    :param prefix: of backups that are there; ``None`` if there are none.
    :returns: sentences without their end; empty if it is known.
    """
    try:
        sources = parse_sources(recorded)
    except Unreadable as error:
        return (f"{path} cannot be read ({visible(str(error))})",)
    if prefix is None or prefix in sources:
        return ()
    if recorded is None:
        return (f"{path} is missing, which says whose backups are there",)
    which = f"those that begin with {visible(prefix)!r}"
    return (f"{path} does not say whose backups {which} are",)


class Ownership:
    """Whose backups of one prefix a destination has, during a run.

    :ivar withheld: why nothing may be deleted there in this run, each a sentence
        without its end; empty if it may.
    :ivar unknown: origins of backups that stay, as it is not known whose they are.
    :ivar others: the places of other sources.
    """

    def __init__(self, place: Place, own: SourceIdentity, prefix: str) -> None:
        self._place = place
        self._own = own
        self._prefix = prefix
        self._recorded: Sources = {}
        self._is_own_there = False
        self.withheld: tuple[str, ...] = ()
        self.unknown: frozenset[UUID] = frozenset()
        self.others: tuple[str, ...] = ()

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
        """Read the record, and find out what it does not say.

        A record that cannot be read is moved aside.

        :param content: what lies under the name of the record.
        :param there: what is at the destination.
        :param own_snapshots: origins of the snapshots of the source.
        :param remembered: gives the origins of what it is remembered to have sent;
            asked only if the record does not say whose backups are there.
        :param now: aware.
        :returns: what is done with the record, for people; "" if it is whole.
        """
        naming = Naming(self._prefix)
        present = {s.origin for s in backups_of(there, naming)}
        mine = present.intersection(own_snapshots)
        prefix = self._prefix if present else None
        self.withheld = why_unknown(content, self._place.record_path(SOURCES), prefix)
        done = "it is made anew"
        try:
            self._recorded = parse_sources(content)
        except Unreadable as error:
            aside = error.name_aside(SOURCES, now)
            done = f"it is moved to {aside} and made anew"
            if not dry_run:
                self._place.set_aside(SOURCES, aside)
        series = self._recorded.get(self._prefix, Series())
        if self.withheld:
            mine |= present.intersection(remembered())
            series = replace(series, unknown=frozenset(present))
        self._is_own_there = bool(mine)
        self.unknown = series.unknown & present - mine
        self.others = tuple(o.place for o in series.sources if not o.is_same(self._own))
        return done if self.withheld else ""

    def sign_in(self, *, sends: bool) -> None:
        """Bring the record up to date; does nothing if it is.

        :param sends: the destination gets backups from the source in this run.
        """
        series = self._recorded.get(self._prefix, Series())
        series = replace(series, unknown=self.unknown)
        if sends or (self.withheld and self._is_own_there):
            series = signed_in(series, self._own)
        if series == Series() and not self.withheld:
            return
        sources = {**self._recorded, self._prefix: series}
        if sources != self._recorded:
            self._place.write_record(SOURCES, format_sources(sources))
            self._recorded = sources

    def known_in(self, there: Listing) -> Listing:
        """Return a listing without the backups of which the owner is not known."""
        known = (s for s in there.snapshots if s.received_uuid not in self.unknown)
        return replace(there, snapshots=tuple(known))


def backups_of(there: Listing, naming: Naming) -> Sequence[Snapshot]:
    """Return what was received under names of one kind."""
    return [
        snapshot
        for snapshot in there.snapshots
        if snapshot.received_uuid and naming.time_of(snapshot.name) is not None
    ]


def settled(recorded: Sources, prefix: str) -> Sources:
    """Note that all backups of a prefix are of one source.

    If several have signed in, they are forgotten: the next one to send there is it.
    """
    sources = recorded.get(prefix, Series()).sources
    return {**recorded, prefix: Series(sources if len(sources) == 1 else ())}
