"""The dropping of transfers that wait to go on."""

from collections.abc import Collection
from datetime import datetime

from btrfs_backup_ng.__util__ import BackupError, UsageError
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import Waiting
from btrfs_backup_ng.endpoint import open_destination
from btrfs_backup_ng.endpoint.common import BtrfsEndpoint
from btrfs_backup_ng.place import preflight
from btrfs_backup_ng.place.contents import ANY_NAME, Access
from btrfs_backup_ng.place.locks import Holder, busy


class NoSuchTransfer(BackupError):
    """None of that id waits there."""


def open_staging(location: Location, access: Access) -> BtrfsEndpoint:
    """Look at a place; what is staged there does not depend on what it is.

    :raises Refused: if it cannot be looked at, or may not be mounted.
    """
    keeper = open_destination(
        location, ANY_NAME, connections=access.connections, ssh=access.ssh
    ).keeper
    if keeper is None:
        raise UsageError(f"{location} keeps nothing")
    preflight.check_readable(keeper, access.sudo_line)
    preflight.check_ours(keeper)
    return keeper


def find(place: BtrfsEndpoint, ids: Collection[str]) -> tuple[Waiting, ...]:
    """Return the transfers that were left at a place, the first one first.

    :param place: one that was looked at.
    :param ids: of those that are wanted, nothing for all.
    :raises NoSuchTransfer: if one of them is not there.
    """
    waiting = sorted(
        place.waiting(place.facts.leftovers), key=lambda one: one.transfer_id
    )
    missing = set(ids) - {one.transfer_id for one in waiting}
    if missing:
        raise NoSuchTransfer(f"no transfer {min(missing)} waits at {place}")
    return tuple(one for one in waiting if not ids or one.transfer_id in ids)


def check_free(place: BtrfsEndpoint) -> None:
    """Go on only if nobody works on a place, before somebody is asked in vain.

    :raises Busy: if somebody does.
    """
    holder = place.held()
    if holder is not None:
        raise busy(place, holder)


def drop(
    place: BtrfsEndpoint, waiting: Collection[Waiting], *, wait_s: float, now: datetime
) -> frozenset[str]:
    """Drop transfers, under the lock of their place.

    :param now: aware.
    :returns: the ids of those that somebody works on all the same; they stay.
    :raises Busy: if another run works on the place for longer than ``wait_s``.
    """
    holder = Holder(now)
    with holder.holding(place, wait_s):
        holder.tell("dropping what cut transfers left", place)
        return frozenset(place.discard([one.transfer_id for one in waiting]))
