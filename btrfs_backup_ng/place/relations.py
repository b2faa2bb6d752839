"""What snapshots and backups at several places are to each other."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from uuid import UUID

from btrfs_backup_ng.__util__ import BackupError, attempt
from btrfs_backup_ng.core.model import Role, Snapshot
from btrfs_backup_ng.host.facts import is_same_filesystem
from btrfs_backup_ng.place.contents import Contents, Seen, State
from btrfs_backup_ng.place.forecast import Forecast, foresee
from btrfs_backup_ng.place.holds import HeldPlace, Why

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Relation:
    """What a snapshot or backup is to other places.

    :ivar common: places that have it, too.
    :ivar parent: at a source: destinations, the next transfer to which starts from it;
        at a destination: sources, the next transfer from which does.
    :ivar perhaps_parent: the same, where that depends on the prefix of the next
        transfer, or on what is on its way.
    :ivar parent_on_record: the same of destinations that were not looked at.
    :ivar sending: destinations that it is recorded to be on its way to.
    :ivar needed: destinations that may need it; nobody knows.
    """

    common: tuple[str, ...] = ()
    parent: tuple[str, ...] = ()
    perhaps_parent: tuple[str, ...] = ()
    parent_on_record: tuple[str, ...] = ()
    sending: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()


def foresee_all(
    seen: Mapping[str, Contents], now: datetime
) -> dict[tuple[str, str], Forecast]:
    """Foretell the next backup from each source to each place that has some of it.

    :param now: aware.
    :returns: by the names of both; nothing of those that cannot be looked at closely.
    """
    sources = _looks(seen, Role.SNAPSHOT)
    found: dict[tuple[str, str], Forecast] = {}
    for source, here in sources:
        for place, there in _looks(seen, Role.BACKUP):
            origins = {s.origin for s in here.snapshots}
            if source == place or origins.isdisjoint(
                s.received_uuid for s in there.snapshots
            ):
                continue
            forecast = attempt(partial(foresee, here, there, now, name=place))
            if isinstance(forecast, BackupError):
                log.warning("%s", forecast.message)
            else:
                found[source, place] = forecast
    return found


def _looks(seen: Mapping[str, Contents], role: Role) -> list[tuple[str, Seen]]:
    """Return the looks at snapshots, or at backups, with the names of their places."""
    return [
        (place, one)
        for place, contents in seen.items()
        for one in contents.seen
        if one.role is role
    ]


def relate(
    seen: Mapping[str, Contents], forecasts: Mapping[tuple[str, str], Forecast]
) -> Callable[[str, Snapshot], Relation]:
    """Find out what snapshots at places that were looked at are to each other.

    What is common is told by origin, and where several at one place share an origin,
    by name, too. What the next transfer between two of them starts from is foretold;
    to a destination that was not looked at, it is as recorded at the source.

    :param forecasts: from :func:`foresee_all`.
    :returns: gives the relation of a snapshot at one of these places.
    """
    names = {place: _origin_names(contents) for place, contents in seen.items()}
    held: dict[tuple[str, UUID, Why], list[str]] = {}
    for source, contents in seen.items():
        for place, holds in contents.holds.items():
            for hold in holds:
                if hold.why is Why.BASE and _is_foretold(
                    source, place, forecasts, seen
                ):
                    continue
                held.setdefault((source, hold.origin, hold.why), []).append(
                    place.location
                )
    starts: dict[tuple[str, UUID, bool], list[str]] = {}
    for (source, destination), forecast in forecasts.items():
        for origin in forecast.parents:
            certain = forecast.is_certain
            starts.setdefault((source, origin, certain), []).append(destination)
            starts.setdefault((destination, origin, certain), []).append(source)

    def relation(place: str, snapshot: Snapshot) -> Relation:
        origin = snapshot.origin
        here = names[place].get(origin, ())
        shared = [
            other
            for other, there in names.items()
            if other != place
            and (found := there.get(origin))
            and (len(here) == len(found) == 1 or snapshot.name in found)
            and snapshot.name in here
        ]
        parent = starts.get((place, origin, True), ())
        perhaps = starts.get((place, origin, False), ())
        recorded = held.get((place, origin, Why.BASE), ())
        return Relation(
            common=_once([*shared, *parent, *perhaps, *recorded]),
            parent=_once(parent),
            perhaps_parent=_once(perhaps),
            parent_on_record=_once(recorded),
            sending=_once(held.get((place, origin, Why.SENDING), ())),
            needed=_once(held.get((place, origin, Why.UNKNOWN), ())),
        )

    return relation


def _is_foretold(
    source: str,
    place: HeldPlace,
    forecasts: Mapping[tuple[str, str], Forecast],
    seen: Mapping[str, Contents],
) -> bool:
    """Tell whether the very disk that something is held for was looked at."""
    if (source, place.location) not in forecasts:
        return False
    facts = seen[place.location].seen[0].place.facts
    known = place.filesystem
    return not known or is_same_filesystem(known, facts.filesystem)


def _origin_names(contents: Contents) -> Mapping[UUID, Sequence[str]]:
    """Return the names of what is unchanged at a place, by origin."""
    found: dict[UUID, list[str]] = {}
    for kept in contents.kept:
        if kept.state in (State.COMPLETE, State.FOREIGN):
            found.setdefault(kept.snapshot.origin, []).append(kept.snapshot.name)
    return found


def _once(places: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(places))
