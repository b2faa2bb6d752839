"""What a policy would leave of snapshots that are still to be made."""

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from uuid import UUID

from btrfs_backup_ng.core.model import Snapshot
from btrfs_backup_ng.core.policy import Policy
from btrfs_backup_ng.core.retention import keep_dated

#: More than this takes too long to be of use.
SNAPSHOTS_AT_MOST = 1_000_000


@dataclass(frozen=True, slots=True)
class Outlook:
    """What exists at the end.

    :ivar start: aware UTC, when the first snapshot is made.
    :ivar end: aware UTC.
    :ivar made: how many there were.
    :ivar kept: time and reasons of each that is left, the oldest first.
    """

    start: datetime
    end: datetime
    made: int
    kept: tuple[tuple[datetime, tuple[str, ...]], ...]


def simulate(
    policy: Policy, start: datetime, span: timedelta, every: timedelta
) -> Outlook:
    """Make a snapshot at regular times, prune after each, and see what is left.

    What is not kept at the end is gone, however often was pruned before: as time goes
    on a rule claims less and less of what there is, and the first snapshot of a period
    stays as long as the rule wants any of that period. So one judgement will do.

    :param start: aware UTC.
    :raises ValueError: if that makes too many snapshots, or ends beyond all calendars.
    """
    if not timedelta() < every <= span:
        raise ValueError("there would be no second snapshot")
    count = span // every + 1
    if count > SNAPSHOTS_AT_MOST:
        raise ValueError(f"that makes {count} snapshots, more than can be judged")
    if span > datetime(9998, 1, 1, tzinfo=timezone.utc) - start:
        raise ValueError("that ends in a year that nobody can write")
    end = start + span
    dated = [(start + number * every, _planned(number)) for number in range(count)]
    kept = keep_dated(policy, dated, end)
    left = tuple((moment, kept[s.uuid]) for moment, s in dated if s.uuid in kept)
    return Outlook(start, end, count, left)


def _planned(number: int) -> Snapshot:
    return Snapshot("", None, UUID(int=number + 1), None, None, number)
