"""Interrupted transfers that are deleted to make room, or because they expired."""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta

from btrfs_backup_ng.__util__ import format_size, visible
from btrfs_backup_ng.core.model import Waiting
from btrfs_backup_ng.endpoint import staging
from btrfs_backup_ng.endpoint.common import Place

#: Returns whether a transfer fits into this number of free bytes.
Fits = Callable[[int], bool]


def find_expendable(
    place: Place, wanted: Collection[str], fits: Fits, beside: int
) -> tuple[Waiting, ...]:
    """Find interrupted transfers that may free enough space; change nothing.

    :param wanted: ids of transfers that will be resumed; they stay.
    :param beside: bytes that each may occupy beyond its known size.
    :returns: the oldest first; empty if deleting all of them would not be enough.
    """
    ids = [name for name in place.facts.leftovers if name not in wanted]
    found = [one for one in place.waiting(ids) if one.size_bytes and not one.running]
    if not fits(place.facts.size_free + sum(w.size_bytes + beside for w in found)):
        return ()
    return tuple(sorted(found, key=lambda one: (one.started, one.transfer_id)))


def first_needed(
    waiting: Sequence[Waiting], free: int, fits: Fits
) -> tuple[tuple[Waiting, ...], int]:
    """Return the transfers to delete, and the estimated free bytes after that."""
    for count, one in enumerate(waiting):
        if fits(free):
            return tuple(waiting[:count]), free
        free += one.size_bytes
    return tuple(waiting), free


def make_room(
    place: Place,
    waiting: Sequence[Waiting],
    fits: Fits,
    report: Callable[[Waiting], None],
) -> None:
    """Delete interrupted transfers, one after the other, until there is room.

    The caller holds the lock of the place. The facts of the place are up to date
    afterwards.

    :param waiting: from :func:`find_expendable`.
    :param report: called with each that was deleted.
    """
    for one in waiting:
        if fits(place.facts.size_free):
            return
        if not place.discard([one.transfer_id]):
            report(one)
            place.sync()
            place.look()


def drop_expired(
    place: Place,
    resumed: Collection[str],
    now: datetime,
    age: timedelta,
    *,
    is_sure: bool,
) -> None:
    """Delete interrupted transfers that began too long ago.

    If the time is sure, delete those with a date in the future, too.

    :param resumed: ids of transfers that will be resumed; they stay.
    :param now: the earliest time that it can be.
    """
    expired = staging.expired(place.facts.leftovers, now, age, is_sure=is_sure)
    place.discard([one for one in expired if one not in resumed])


def about(one: Waiting) -> str:
    """Return the name, date and size of an interrupted transfer, for a message."""
    when = one.started.astimezone()
    size = format_size(one.size_bytes)
    return f"the interrupted transfer of {visible(one.name)} ({when:%Y-%m-%d}, {size})"
