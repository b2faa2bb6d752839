"""The user's statement that the backups of a prefix at a place are of one source."""

from datetime import datetime

from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.naming import Naming
from btrfs_backup_ng.core.record import Unreadable
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.endpoint.common import Place
from btrfs_backup_ng.host.entry import SOURCES
from btrfs_backup_ng.place.locks import Holder
from btrfs_backup_ng.place.preflight import CHANGING, look_at
from btrfs_backup_ng.place.sources import (
    Sources,
    backups_of,
    format_sources,
    parse_sources,
    with_one_source,
)
from btrfs_backup_ng.session.session import Session


class Settled(Value):
    """The result of :func:`settle`.

    :ivar backups: number of backups with the prefix.
    :ivar aside: the name that an unreadable record was moved to, or "".
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
    :raises Refused: if the place cannot be looked at.
    """
    place = look_at(location, session, CHANGING, with_snapshots=False)
    if dry_run:
        return _settle(place, prefix, session.now, dry_run=True)
    holder = Holder(session.now)
    with holder.holding(place, wait_s):
        holder.note("recording whose backups are there", place)
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
        place.write_record(SOURCES, format_sources(with_one_source(recorded, prefix)))
    return Settled(count, aside)
