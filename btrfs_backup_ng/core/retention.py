"""Which snapshots may be deleted: rules only keep, and a snapshot without a rule goes.

A policy (``24h 7d 4w 12m 5y min=2d``) keeps the **first** snapshot of each period, so
that a later one that comes or goes changes nothing: pruning twice is pruning once, and
a simulation needs one judgement at its end. Periods are those of the calendar in a
stated zone, counted back from now, with or without snapshots in them, as btrbk counts;
tests compare with btrbk itself. An hour that the clock shows twice is two hours (one
for btrbk). btrbk's months are made of whole weeks, as with ``whole-weeks``. The newest
snapshot is always kept.

A backup has two times. The sender chooses its name; the place itself sets the time of
its arrival (``otime``), which the sender cannot change. A backup is kept by its
arrival, whatever names a sender invents; but a backlog arrives all at once, so it is
kept by its name, too. For the same reason only names decide what is worth sending.
Other machines list no times; ``prune.ages`` asks for them with one more
command, if the policy needs them.

A snapshot of another prefix belongs to another series, judged by itself. A snapshot
belongs to the program if it has a time in its name and is in the program's own folder,
or if its prefix is recorded or given; of backups only received ones. Held snapshots,
the latest one that two places of the same call share, and the one that was made or
arrived last in a series are kept. ``prune`` lists a place, judges, shows, asks, takes
the lock, lists and judges again, and deletes with one command the snapshots to delete
both times. It and a run then list once more: a snapshot that is still there came back,
which is an error. The space that a deletion frees is at least the sum of the exclusive
sizes, from quota groups or ``du``; data shared among the deleted snapshots comes on
top.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from btrfs_backup_ng.core.model import Snapshot
from btrfs_backup_ng.core.policy import Policy, Unit
from btrfs_backup_ng.core.value import Value

#: A snapshot dated later than this after the start of the run is not "newest". More
#: than the run needs to make a snapshot, less than a harmful jump of the clock.
TOLERANCE = timedelta(minutes=10)

#: Added to reasons that rest on the time of arrival of a backup.
BY_ARRIVAL = " by arrival"
#: Reasons for snapshots that are kept and do not count.
NOT_OURS = "not named by this program"
FUTURE = "dated in the future"
CAME_IN_FUTURE = "arrived in the future"
#: The reason for snapshots wanted at another time that it may be.
UNCONFIRMED = "until the clock is confirmed"


class Verdict(Value):
    """Whether a snapshot is kept, and why.

    :ivar reasons: to keep it; empty if it is to be deleted.
    """

    snapshot: Snapshot
    reasons: tuple[str, ...]

    @property
    def kept(self) -> bool:
        return bool(self.reasons)


#: A rule gives reasons to keep for each snapshot (by UUID) that it claims.
Rule = Callable[[Sequence[Snapshot]], Mapping[UUID, tuple[str, ...]]]


def in_order(snapshots: Collection[Snapshot]) -> list[Snapshot]:
    """Return the snapshots, oldest first."""
    return sorted(snapshots, key=_age_key)


def _age_key(snapshot: Snapshot) -> tuple[float, int, str]:
    created = snapshot.created.timestamp() if snapshot.created else float("-inf")
    return created, snapshot.generation, snapshot.name


def keep_dated(
    policy: Policy,
    dated: Collection[tuple[datetime, Snapshot]],
    now: datetime,
    future: str = FUTURE,
    suffix: str = "",
) -> dict[UUID, tuple[str, ...]]:
    """Return the reasons of a policy to keep snapshots with these times.

    The first snapshot of a period represents it, so that a later one that comes or
    goes changes nothing. A snapshot dated in the future is kept and does not count, so
    that a clock that jumped never makes another one look superseded.

    :param now: aware UTC, like all the times.
    :param future: the reason for snapshots later than now.
    :param suffix: added to each other reason.
    """
    ordered = sorted(
        (item for item in dated if item[0] <= now + TOLERANCE),
        key=lambda item: (item[0], item[1].generation, item[1].name),
    )
    kept = {s.uuid: [future] for moment, s in dated if moment > now + TOLERANCE}

    def claim(snapshot: Snapshot, reason: str) -> None:
        kept.setdefault(snapshot.uuid, []).append(reason + suffix)

    if policy.everything:
        for _, snapshot in ordered:
            claim(snapshot, "all")
    for _, snapshot in ordered[-policy.latest :]:
        claim(snapshot, "latest" if policy.latest == 1 else f"latest {policy.latest}")
    if policy.minimum:
        count, unit = policy.minimum
        oldest = policy.oldest(unit, now, count)
        for moment, snapshot in ordered:
            if policy.period(unit, moment) >= oldest:
                claim(snapshot, f"min {count}{unit.value}")
    weekly = _firsts(policy, Unit.WEEK, ordered) if policy.whole_weeks else ordered
    for unit, limit in policy.counts:
        first = None if limit is None else policy.oldest(unit, now, limit)
        is_long = unit in (Unit.MONTH, Unit.YEAR)
        for moment, snapshot in _firsts(policy, unit, weekly if is_long else ordered):
            if first is None or policy.period(unit, moment) >= first:
                claim(snapshot, f"{unit.adjective} {policy.period_name(unit, moment)}")
    return {uuid: tuple(reasons) for uuid, reasons in kept.items()}


_Dated = Sequence[tuple[datetime, Snapshot]]


def _firsts(policy: Policy, unit: Unit, ordered: _Dated) -> _Dated:
    """Return the first snapshot of each period.

    :param ordered: the snapshots with their times, oldest first.
    """
    found: dict[int, tuple[datetime, Snapshot]] = {}
    for moment, snapshot in ordered:
        found.setdefault(policy.period(unit, moment), (moment, snapshot))
    return list(found.values())


def keep_origins(reasons: Mapping[UUID, str]) -> Rule:
    """Keep the snapshots with these origins: held, or common with another place."""

    def claims(snapshots: Sequence[Snapshot]) -> Mapping[UUID, tuple[str, ...]]:
        return {s.uuid: (reasons[s.origin],) for s in snapshots if s.origin in reasons}

    return claims


def judge(snapshots: Collection[Snapshot], rules: Sequence[Rule]) -> list[Verdict]:
    """Decide which snapshots no rule keeps.

    A rule can only keep, so adding one never deletes more. Without any rule everything
    is kept.

    :returns: one verdict per snapshot, oldest first.
    """
    ordered = in_order(snapshots)
    if not rules:
        return [Verdict(snapshot, ("no limit set",)) for snapshot in ordered]
    claims = [rule(ordered) for rule in rules]
    return [
        Verdict(s, tuple(why for claim in claims for why in claim.get(s.uuid, ())))
        for s in ordered
    ]
