"""The snapshots that a policy would keep in the future."""

from datetime import datetime, timedelta, timezone
from uuid import UUID

from btrfs_backup_ng.core.model import Snapshot
from btrfs_backup_ng.core.policy import Policy
from btrfs_backup_ng.core.retention import keep_dated
from btrfs_backup_ng.core.value import Value

SNAPSHOTS_AT_MOST = 1_000_000


class Outlook(Value):
    """The snapshots that are left at the end.

    :ivar start: aware UTC, when the first snapshot is made.
    :ivar end: aware UTC.
    :ivar made: how many were made.
    :ivar kept: time and reasons of each that is left, oldest first.
    """

    start: datetime
    end: datetime
    made: int
    kept: tuple[tuple[datetime, tuple[str, ...]], ...]


def simulate(
    policy: Policy, start: datetime, span: timedelta, every: timedelta
) -> Outlook:
    """Make a snapshot at regular times, prune after each, and return those left.

    One judgement at the end is enough, however often pruning ran before: with time a
    rule claims fewer and fewer snapshots, and keeps the first snapshot of a period as
    long as it claims any of that period.

    :param start: aware UTC.
    :raises ValueError: if that makes too many snapshots, or ends after the year 9999.
    """
    if not timedelta() < every <= span:
        raise ValueError("only one snapshot would be made")
    count = span // every + 1
    if count > SNAPSHOTS_AT_MOST:
        raise ValueError(
            f"that is {count} snapshots; at most {SNAPSHOTS_AT_MOST} are simulated"
        )
    if span > datetime(9998, 1, 1, tzinfo=timezone.utc) - start:
        raise ValueError("that ends after the year 9999")
    end = start + span
    dated = [
        (start + i * every, Snapshot("", None, UUID(int=i + 1), None, None, i))
        for i in range(count)
    ]
    kept = keep_dated(policy, dated, end)
    left = tuple((moment, kept[s.uuid]) for moment, s in dated if s.uuid in kept)
    return Outlook(start, end, count, left)
