"""The dropping of transfers that wait to go on."""

from collections.abc import Collection
from datetime import datetime

from btrfs_backup_ng.__util__ import BackupError
from btrfs_backup_ng.core.model import Waiting
from btrfs_backup_ng.endpoint.common import Place
from btrfs_backup_ng.place.locks import Holder, busy


class NoSuchTransfer(BackupError):
    """None of that id waits there."""


def find(place: Place, ids: Collection[str]) -> tuple[Waiting, ...]:
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


def check_free(place: Place) -> None:
    """Go on only if nobody works on a place, before somebody is asked in vain.

    :raises Busy: if somebody does.
    """
    holder = place.held()
    if holder is not None:
        raise busy(place, holder)


def drop(
    place: Place, waiting: Collection[Waiting], *, wait_s: float, now: datetime
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
