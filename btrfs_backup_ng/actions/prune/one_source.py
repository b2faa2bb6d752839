"""What a person settles about a place: that backups there are of one source."""

from dataclasses import dataclass
from datetime import datetime

from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.naming import Naming
from btrfs_backup_ng.core.record import Unreadable
from btrfs_backup_ng.endpoint.common import Place
from btrfs_backup_ng.place.locks import Holder
from btrfs_backup_ng.place.preflight import CHANGING, look_at
from btrfs_backup_ng.place.sources import (
    SOURCES,
    Sources,
    backups_of,
    format_sources,
    parse_sources,
    settled,
)
from btrfs_backup_ng.session.session import Session


@dataclass(frozen=True, slots=True)
class Settled:
    """What was settled about a place.

    :ivar backups: how many there are.
    :ivar aside: the name that a record was moved to that could not be read; "" if
        there was none.
    """

    backups: int
    aside: str


def settle(
    location: Location,
    session: Session,
    prefix: str,
    *,
    wait_s: float,
    dry_run: bool,
) -> Settled:
    """Record at a destination that its backups of a prefix are of one source.

    :raises Busy: if another run works there for longer than ``wait_s``.
    :raises Refused: if it cannot be looked at.
    """
    place = look_at(location, session, CHANGING, with_snapshots=False)
    if dry_run:
        return _settle(place, prefix, session.now, dry_run=True)
    holder = Holder(session.now)
    with holder.holding(place, wait_s):
        holder.tell("recording whose backups are there", place)
        return _settle(place, prefix, session.now, dry_run=False)


def _settle(place: Place, prefix: str, now: datetime, *, dry_run: bool) -> Settled:
    there, (content,) = place.backups.listing(SOURCES)
    count = len(backups_of(there, Naming(prefix)))
    aside = ""
    recorded: Sources = {}
    try:
        recorded = parse_sources(content)
    except Unreadable as error:
        aside = error.name_aside(SOURCES, now)
        if not dry_run:
            place.set_aside(SOURCES, aside)
    if not dry_run:
        place.write_record(SOURCES, format_sources(settled(recorded, prefix)))
    return Settled(count, aside)
