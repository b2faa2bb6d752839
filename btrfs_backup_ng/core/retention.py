"""What may be deleted: rules only keep, and deleted is what no rule claims.

A policy (``24h 7d 4w 12m 5y min=2d``) keeps the **first** snapshot of each period, so
that another one that comes or goes changes nothing: pruning twice is pruning once, and
a simulation needs one judgement at its end. Periods are those of the calendar in a
stated zone, counted back from now, with or without snapshots in them, as btrbk counts;
tests hold that to btrbk itself. An hour that the clock shows twice is two hours (one
for btrbk). btrbk's months are made of whole weeks, which ``whole-weeks`` says. The
newest always stays.

Of a backup two times are known. Its name comes from whoever sent it, the time of its
arrival (``otime``) from the place itself, where nobody who sends can change it. What
must stay by its arrival stays, whatever names somebody invents; but a backlog arrives
all at once, so what must stay by its name stays as well. For the same reason only names
tell what is worth sending. Other machines list no times; ``prune.ages_and_sizes`` asks
for them with one more command, if the policy needs them.

A snapshot of another prefix is of another series, judged for itself. Ours is everything
with a time in its name in the folder that only we write to, elsewhere what has a prefix
that is recorded or given; of backups only what was received. What is held, what places
of the same call have last in common, and what was made or arrived last in a series
stays. ``prune`` lists a place, judges, shows, asks, takes the lock, lists and judges
again, and deletes what both times was to go with one command. It and a run list once
more then: what is still there came back, and is an error. How much a deletion frees is
the sum of what is each one's alone, from quota groups or ``du``; what is shared among
those that go comes on top.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from btrfs_backup_ng.core.model import Snapshot
from btrfs_backup_ng.core.naming import Naming
from btrfs_backup_ng.core.policy import Policy

#: What is dated later than this after the start of the run is no "newest". More
#: than the run itself needs to make a snapshot, less than a clock jump that hurts.
TOLERANCE = timedelta(minutes=10)

#: Behind the reasons that rest on the time at which a backup came to its place.
BY_ARRIVAL = " by arrival"
#: Reasons for what is kept and does not count.
NOT_OURS = "not named by us"
FUTURE, CAME_IN_FUTURE = "dated in the future", "arrived in the future"
#: The reason for what another time would keep that it may be.
UNCONFIRMED = "until the clock is confirmed"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to become of one snapshot, and why.

    :ivar reasons: why it stays; empty means that it is deleted.
    """

    snapshot: Snapshot
    reasons: tuple[str, ...]

    @property
    def kept(self) -> bool:
        """Whether any rule claimed it."""
        return bool(self.reasons)


#: A rule gives reasons to keep for each snapshot (by UUID) that it claims.
Rule = Callable[[Sequence[Snapshot]], Mapping[UUID, tuple[str, ...]]]


def in_order(snapshots: Collection[Snapshot]) -> list[Snapshot]:
    """Sort oldest first; the order of the input never matters."""
    return sorted(snapshots, key=_age_key)


def _age_key(snapshot: Snapshot) -> tuple[float, int, str]:
    created = snapshot.created.timestamp() if snapshot.created else float("-inf")
    return created, snapshot.generation, snapshot.name


def keep_latest(count: int, naming: Naming, now: datetime) -> Rule:
    """Keep the ``count`` newest of our own names, and all that are not ours.

    :param count: at least 1: the newest is always kept.
    :param now: aware UTC.
    :raises ValueError: if ``count`` is below 1.
    """
    return keep_by_name(Policy(latest=count), naming, now)


def keep_by_name(policy: Policy, naming: Naming, now: datetime) -> Rule:
    """Keep what a policy wants by the times in our names, and all that are not ours.

    A name that is not ours, or that is dated in the future, is kept and does not
    count, so that a clock that jumped never makes a snapshot look superseded.

    :param now: aware UTC.
    """

    def claims(snapshots: Sequence[Snapshot]) -> Mapping[UUID, tuple[str, ...]]:
        dated = [(naming.time_of(s.name), s) for s in snapshots]
        foreign = {s.uuid: (NOT_OURS,) for moment, s in dated if moment is None}
        ours = [(moment, s) for moment, s in dated if moment is not None]
        return foreign | keep_dated(policy, ours, now, FUTURE)

    return claims


def keep_dated(
    policy: Policy,
    dated: Collection[tuple[datetime, Snapshot]],
    now: datetime,
    future: str = FUTURE,
    suffix: str = "",
) -> dict[UUID, tuple[str, ...]]:
    """Return the reasons of a policy to keep snapshots with these times.

    The first snapshot of a period stands for it, so that another one that comes later
    or goes away changes nothing.

    :param now: aware UTC, like all the times.
    :param future: the reason for what is later than now.
    :param suffix: behind each other reason.
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
    for unit, limit in policy.counts:
        first = None if limit is None else policy.oldest(unit, now, limit)
        seen = set()
        for moment, snapshot in ordered:
            period = policy.period(unit, moment)
            if period in seen:
                continue
            seen.add(period)
            if first is None or period >= first:
                claim(snapshot, f"{unit.adjective} {policy.period_name(unit, moment)}")
    return {uuid: tuple(reasons) for uuid, reasons in kept.items()}


def keep_origins(reasons: Mapping[UUID, str]) -> Rule:
    """Keep the snapshots with these origins: held, or common with some place."""

    def claims(snapshots: Sequence[Snapshot]) -> Mapping[UUID, tuple[str, ...]]:
        return {s.uuid: (reasons[s.origin],) for s in snapshots if s.origin in reasons}

    return claims


def judge(snapshots: Collection[Snapshot], rules: Sequence[Rule]) -> list[Verdict]:
    """Decide which snapshots no rule wants to keep.

    A rule can only claim snapshots, so adding one never deletes more. Without
    any rule everything is kept.

    :returns: one verdict per snapshot, oldest first.
    """
    ordered = in_order(snapshots)
    claims = [rule(ordered) for rule in rules]
    return [
        Verdict(
            snapshot,
            (
                tuple(r for found in claims for r in found.get(snapshot.uuid, ()))
                if rules
                else ("no limit set",)
            ),
        )
        for snapshot in ordered
    ]
