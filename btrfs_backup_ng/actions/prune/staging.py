"""The deletion of interrupted transfers by the user."""

from collections.abc import Collection
from datetime import datetime

from btrfs_backup_ng.__util__ import BackupError
from btrfs_backup_ng.core.model import Waiting
from btrfs_backup_ng.endpoint.common import Place
from btrfs_backup_ng.place.locks import Holder, busy


class NoSuchTransfer(BackupError):
    """No interrupted transfer has this id."""


def find(place: Place, ids: Collection[str]) -> tuple[Waiting, ...]:
    """Return the interrupted transfers at a place, in the order they began.

    :param place: one that was looked at.
    :param ids: of the transfers to return; empty for all.
    :raises NoSuchTransfer: if one of them is not there.
    """
    waiting = sorted(
        place.waiting(place.facts.leftovers), key=lambda one: one.transfer_id
    )
    missing = set(ids) - {one.transfer_id for one in waiting}
    if missing:
        raise NoSuchTransfer(f"no interrupted transfer {min(missing)} at {place}")
    return tuple(one for one in waiting if not ids or one.transfer_id in ids)


def check_free(place: Place) -> None:
    """Check that no run works on a place, before the user is asked.

    :raises Busy: if a run does.
    """
    holder = place.held()
    if holder is not None:
        raise busy(place, holder)


def discard(
    place: Place, waiting: Collection[Waiting], *, wait_s: float, now: datetime
) -> frozenset[str]:
    """Delete interrupted transfers, under the lock of their place.

    :param now: aware.
    :returns: the ids of those that are running in spite of the lock; they stay.
    :raises Busy: if another run works on the place for longer than ``wait_s``.
    """
    holder = Holder(now)
    with holder.holding(place, wait_s):
        holder.note("discarding interrupted transfers", place)
        return frozenset(place.discard([one.transfer_id for one in waiting]))
