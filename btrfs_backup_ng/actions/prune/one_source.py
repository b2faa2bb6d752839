"""What a person settles about a place: that backups there are of one source."""

from dataclasses import dataclass
from datetime import datetime

from btrfs_backup_ng.actions.prune.staging import open_staging
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.naming import Naming
from btrfs_backup_ng.core.record import Unreadable
from btrfs_backup_ng.endpoint.common import BtrfsEndpoint
from btrfs_backup_ng.place.contents import Access
from btrfs_backup_ng.place.locks import Holder
from btrfs_backup_ng.place.sources import (
    ORIGINS,
    Origins,
    backups_of,
    format_origins,
    parse_origins,
    settled,
)


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
    access: Access,
    prefix: str,
    *,
    wait_s: float,
    now: datetime,
    dry_run: bool,
) -> Settled:
    """Record at a destination that its backups of a prefix are of one source.

    :param now: aware.
    :raises Busy: if another run works there for longer than ``wait_s``.
    :raises Refused: if it cannot be looked at.
    """
    keeper = open_staging(location, access)
    if dry_run:
        return _settle(keeper, prefix, now, dry_run=True)
    holder = Holder(now)
    with holder.holding(keeper, wait_s):
        holder.tell("recording whose backups are there", keeper)
        return _settle(keeper, prefix, now, dry_run=False)


def _settle(
    keeper: BtrfsEndpoint, prefix: str, now: datetime, *, dry_run: bool
) -> Settled:
    there, content = keeper.listing(ORIGINS)
    count = len(backups_of(there, Naming(prefix)))
    aside = ""
    recorded: Origins = {}
    try:
        recorded = parse_origins(content)
    except Unreadable as error:
        aside = error.name_aside(ORIGINS, now)
        if not dry_run:
            keeper.set_aside(ORIGINS, aside)
    if not dry_run:
        keeper.write_note(ORIGINS, format_origins(settled(recorded, prefix)))
    return Settled(count, aside)
