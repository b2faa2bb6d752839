"""Relations between the snapshots and backups at several places."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from uuid import UUID

from btrfs_backup_ng.__util__ import BackupError, attempt
from btrfs_backup_ng.core.model import Integrity, Role, Snapshot
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.host.facts import is_same_filesystem
from btrfs_backup_ng.place.contents import Contents, Seen, State
from btrfs_backup_ng.place.forecast import Forecast, foresee
from btrfs_backup_ng.place.holds import HeldPlace, Why

log = logging.getLogger(__name__)


class Relation(Value):
    """How other places use one snapshot or backup.

    :ivar common_with: places that have it, too.
    :ivar next_parent: other ends of a next transfer whose parent it is: destinations if
        it is at a source, sources if it is at a destination.
    :ivar perhaps_next_parent: the same, if that depends on the prefix of the next
        transfer, or on transfers that are running.
    :ivar next_parent_on_record: the same, for destinations that were not looked at.
    :ivar being_sent_to: destinations that it is being sent to, according to the record.
    :ivar perhaps_needed_by: destinations that may need it; this is not known.
    """

    common_with: tuple[str, ...] = ()
    next_parent: tuple[str, ...] = ()
    perhaps_next_parent: tuple[str, ...] = ()
    next_parent_on_record: tuple[str, ...] = ()
    being_sent_to: tuple[str, ...] = ()
    perhaps_needed_by: tuple[str, ...] = ()


def foresee_all(
    seen: Mapping[str, Contents], now: datetime
) -> dict[tuple[str, str], Forecast]:
    """Predict the next backup from each source to each place that has a backup of it.

    :param now: aware.
    :returns: by the names of both; pairs that cannot be inspected are left out.
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
    """Relate the snapshots at places to each other.

    Two snapshots are the same if they have the same origin; if several snapshots at one
    place share it, they must have the same name, too. The parent of the next transfer
    comes from the forecast; for a destination that was not looked at, from the record
    at the source.

    :param forecasts: from :func:`foresee_all`.
    :returns: a function from a place and a snapshot there to their relation.
    """
    names = {place: _origin_names(contents) for place, contents in seen.items()}
    held: dict[tuple[str, UUID, Why], list[str]] = {}
    for source, contents in seen.items():
        for place, holds in contents.holds.items():
            is_predicted = _is_predicted(source, place, forecasts, seen)
            for hold in holds:
                if hold.why is not Why.BASE or not is_predicted:
                    key = source, hold.origin, hold.why
                    held.setdefault(key, []).append(place.location)
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
        if snapshot.integrity is Integrity.CHANGED:  # whatever a record says
            parent = perhaps = recorded = ()
        return Relation(
            common_with=_once([*shared, *parent, *perhaps, *recorded]),
            next_parent=_once(parent),
            perhaps_next_parent=_once(perhaps),
            next_parent_on_record=_once(recorded),
            being_sent_to=_once(held.get((place, origin, Why.SENDING), ())),
            perhaps_needed_by=_once(held.get((place, origin, Why.UNKNOWN), ())),
        )

    return relation


def _is_predicted(
    source: str,
    place: HeldPlace,
    forecasts: Mapping[tuple[str, str], Forecast],
    seen: Mapping[str, Contents],
) -> bool:
    """Return whether the disk that a hold is for is one of those looked at."""
    if (source, place.location) not in forecasts:
        return False
    facts = seen[place.location].seen[0].place.facts
    known = place.filesystem
    return not known or is_same_filesystem(known, facts.filesystem)


def _origin_names(contents: Contents) -> Mapping[UUID, Sequence[str]]:
    """Return the names of the unchanged snapshots at a place, by origin."""
    found: dict[UUID, list[str]] = {}
    for kept in contents.kept:
        if kept.state in (State.COMPLETE, State.FOREIGN):
            found.setdefault(kept.snapshot.origin, []).append(kept.snapshot.name)
    return found


def _once(places: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(places))
