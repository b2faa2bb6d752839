"""What gives way where a transfer lacks room: what interrupted ones have left."""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta

from btrfs_backup_ng.__util__ import format_size, visible
from btrfs_backup_ng.core.model import Waiting
from btrfs_backup_ng.endpoint import staging
from btrfs_backup_ng.endpoint.common import Place

#: Tells whether a transfer fits into so many free bytes.
Fits = Callable[[int], bool]


def find_what_gives_way(
    place: Place, wanted: Collection[str], fits: Fits, beside: int
) -> tuple[Waiting, ...]:
    """Find interrupted transfers at a place whose room may be enough; changes nothing.

    :param wanted: ids of those that are gone on with; they stay.
    :param beside: so many bytes each may have left beside what is known of it.
    :returns: the oldest first; nothing if the room of all of them would not do.
    """
    ids = [name for name in place.facts.leftovers if name not in wanted]
    found = [one for one in place.waiting(ids) if one.size_bytes and not one.running]
    if not fits(place.facts.size_free + sum(w.size_bytes + beside for w in found)):
        return ()
    return tuple(sorted(found, key=lambda one: (one.started, one.transfer_id)))


def needed_of(
    waiting: Sequence[Waiting], free: int, fits: Fits
) -> tuple[tuple[Waiting, ...], int]:
    """Tell which of them would be dropped, and what would be free then, about."""
    for count, one in enumerate(waiting):
        if fits(free):
            return tuple(waiting[:count]), free
        free += one.size_bytes
    return tuple(waiting), free


def make_room(
    place: Place,
    waiting: Sequence[Waiting],
    fits: Fits,
    tell: Callable[[Waiting], None],
) -> None:
    """Drop interrupted transfers, one after the other, until there is room.

    The lock of the place has to be held. What is free then is in the endpoint's facts.

    :param waiting: from :func:`find_what_gives_way`.
    :param tell: told of each that was dropped.
    """
    for one in waiting:
        if fits(place.facts.size_free):
            return
        if not place.discard([one.transfer_id]):
            tell(one)
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
    """Drop interrupted transfers that began too long ago.

    Those with a date in the future are dropped, too, if the time is sure.

    :param resumed: ids of transfers that are resumed; they stay.
    :param now: the first of all times that it may be.
    """
    expired = staging.expired(place.facts.leftovers, now, age, is_sure=is_sure)
    place.discard([one for one in expired if one not in resumed])


def about(one: Waiting) -> str:
    """Name an interrupted transfer and what it has left."""
    when = one.started.astimezone()
    size = format_size(one.size_bytes)
    return f"the interrupted transfer of {visible(one.name)} ({when:%Y-%m-%d}, {size})"
