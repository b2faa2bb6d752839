"""What policies keep: properties, and a slow reference that is obviously right."""

from datetime import date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btrfs_backup_ng.core.judgement import Course, rules_of
from btrfs_backup_ng.core.policy import Policy, Unit
from btrfs_backup_ng.core.retention import judge, keep_origins
from btrfs_backup_ng.core.simulation import simulate
from btrfs_backup_ng.core.value import replace
from tests.core.making import NAMING, copy_of, keep_by_name, made
from tests.core.test_policy import (
    BERLIN,
    LORD_HOWE,
    NEW_YORK,
    POLICIES,
)

UTC = timezone.utc
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NOWS = st.datetimes(datetime(2010, 1, 1), datetime(2040, 1, 1)).map(
    lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
)
#: Many near now, some far away.
AGES = st.integers(0, 10**4) | st.integers(0, 10**6) | st.integers(0, 10**8)
HISTORIES = st.lists(AGES, max_size=25, unique=True)


def snapshots_of(now, ages, *, future=()):
    """Make snapshots of so many seconds ago, in the order in which they came."""
    moments = [now - timedelta(seconds=age) for age in sorted(ages, reverse=True)]
    moments += [now + DAY * days for days in future]
    return [
        made(number, created=moment, name=f"home-{moment:%Y%m%d-%H%M%S%z}")
        for number, moment in enumerate(moments)
    ]


def backup_rules(policy, now):
    return rules_of(policy, NAMING, Course(now), of_source=False)


def kept(snapshots, policy, now, *more):
    rules = [keep_by_name(policy, now), *more]
    return [v.snapshot for v in judge(snapshots, rules) if v.kept]


def months_before(day, months):
    total = day.year * 12 + day.month - 1 - months
    return (total // 12, total % 12 + 1)


def reference(policy, moments, now):
    """Say what a policy keeps of moments, in a slow way that is easy to follow."""
    zone = policy.zone

    def day(moment):
        local = moment.astimezone(zone).replace(tzinfo=None)
        return (local - policy.first_hour * HOUR).date()

    def week(moment):
        return day(moment) - (day(moment).weekday() - policy.first_day) % 7 * DAY

    def anchor(moment):
        whole = policy.whole_weeks
        return week(moment) if whole else moment.astimezone(zone).date()

    def hour(moment):
        # In all zones here an hour on the clock begins at a fixed minute in UTC.
        local = moment.astimezone(zone)
        begin = moment - timedelta(minutes=local.minute, seconds=local.second)
        return begin.astimezone(UTC).replace(minute=0)

    keys = {
        Unit.HOUR: hour,
        Unit.DAY: day,
        Unit.WEEK: week,
        Unit.MONTH: lambda m: (anchor(m).year, anchor(m).month),
        Unit.YEAR: lambda m: anchor(m).year,
    }

    def oldest(unit, count):
        """Return the key of the period that is so many periods back."""
        match unit:
            case Unit.HOUR:
                return hour(now) - count * HOUR
            case Unit.DAY:
                return day(now) - count * DAY
            case Unit.WEEK:
                return week(now) - 7 * count * DAY
            case Unit.MONTH:
                return months_before(now.astimezone(zone).date(), count)
            case Unit.YEAR:
                return now.astimezone(zone).year - count

    result = set(sorted(moments)[-policy.latest :])
    for unit, count in policy.counts:
        for moment in moments:
            same = [m for m in moments if keys[unit](m) == keys[unit](moment)]
            if moment == min(same):
                if count is None or keys[unit](moment) >= oldest(unit, count):
                    result.add(moment)
    if policy.minimum:
        count, unit = policy.minimum
        result |= {m for m in moments if keys[unit](m) >= oldest(unit, count)}
    return result


@given(POLICIES, NOWS, HISTORIES)
def test_it_keeps_what_the_reference_keeps(policy, now, ages):
    if policy.whole_weeks:  # with both, months are those of btrbk: test_btrbk.py
        policy = replace(policy, first_hour=0)
    snapshots = snapshots_of(now, ages)
    found = {s.created for s in kept(snapshots, policy, now)}
    assert found == reference(policy, [s.created for s in snapshots], now)


def stronger(policy, more):
    """Return a policy that wants all that another one wants, and more."""
    counts = {unit: count and count + more for unit, count in policy.counts}
    counts.setdefault(list(Unit)[more % 5], more or 1)
    minimum = policy.minimum and (policy.minimum[0] + more, policy.minimum[1])
    return replace(
        policy,
        latest=policy.latest + more,
        counts=tuple((unit, counts[unit]) for unit in Unit if unit in counts),
        minimum=minimum or (more or 1, Unit.DAY),
    )


@given(POLICIES, NOWS, HISTORIES, st.integers(0, 30))
def test_a_stronger_policy_never_keeps_less(policy, now, ages, more):
    snapshots = snapshots_of(now, ages)
    few = kept(snapshots, policy, now)
    assert set(few) <= set(kept(snapshots, stronger(policy, more), now))
    everything = Policy(everything=True, zone=policy.zone)
    assert kept(snapshots, everything, now) == snapshots


@given(POLICIES, NOWS, HISTORIES, st.sets(st.integers(0, 24)), st.integers(0, 10**7))
def test_pruning_twice_is_pruning_once_and_later_only_takes_away(
    policy, now, ages, held, later_s
):
    snapshots = snapshots_of(now, ages)
    hold = keep_origins(
        {s.origin: "held" for n, s in enumerate(snapshots) if n in held}
    )
    once = kept(snapshots, policy, now, hold)
    assert kept(once, policy, now, hold) == once
    # What was pruned in between never makes another one go.
    later = now + timedelta(seconds=later_s)
    assert set(kept(once, policy, later)) >= set(kept(snapshots, policy, later))


@given(POLICIES, NOWS, HISTORIES.filter(bool), st.data())
def test_newest_and_held_survive_and_order_is_irrelevant(policy, now, ages, data):
    snapshots = snapshots_of(now, ages, future=(1, 400))
    shuffled = data.draw(st.permutations(snapshots))
    base = data.draw(st.sampled_from(snapshots))
    rules = [keep_by_name(policy, now), keep_origins({base.origin: "base"})]
    verdicts = judge(shuffled, rules)
    assert verdicts == judge(snapshots, rules)
    reasons = {v.snapshot: v.reasons for v in verdicts}
    assert snapshots[-3] in [v.snapshot for v in verdicts if v.kept]
    assert "base" in reasons[base]
    assert reasons[snapshots[-1]][0] == "dated in the future"
    # Those in the future do not count: nobody else goes or stays because of them.
    without = judge(snapshots[:-2], rules)
    assert [v for v in verdicts if v.snapshot in snapshots[:-2]] == without


@given(POLICIES, NOWS, HISTORIES.filter(bool), st.data())
def test_no_name_that_somebody_invents_makes_a_backup_go(policy, now, ages, data):
    """Backups that arrived when their names say, among forged ones that came later."""
    honest = [replace(copy_of(s), otime=s.created) for s in snapshots_of(now, ages)]
    rules = backup_rules(policy, now)
    before = {
        verdict.snapshot
        for verdict in judge(honest, rules)
        if any(r.endswith(" by arrival") and "latest" not in r for r in verdict.reasons)
    }
    by_name = {s for s in honest if s in kept(honest, replace(policy, latest=1), now)}
    assert by_name - {honest[-1]} <= before
    forged = [
        replace(copy_of(s, number=s.uuid.int + 5 * 10**6), otime=now)
        for s in snapshots_of(now, data.draw(HISTORIES))
        if s.created not in {h.created for h in honest}
    ]
    after = {v.snapshot for v in judge([*honest, *forged], rules) if v.kept}
    assert before <= after
    if not policy.looks_at_time:
        assert len(after) == min(policy.latest, len(honest) + len(forged))


@given(POLICIES.filter(lambda p: p.looks_at_time), NOWS, HISTORIES)
def test_a_backlog_that_arrives_at_once_is_kept_by_its_names(policy, now, ages):
    backlog = [replace(copy_of(s), otime=now) for s in snapshots_of(now, ages)]
    by_name = set(kept(backlog, policy, now))
    found = {v.snapshot for v in judge(backlog, backup_rules(policy, now))
             if v.kept}  # fmt: skip
    assert by_name <= found
    old = replace(policy, minimum=None)
    found = {v.snapshot for v in judge(backlog, backup_rules(old, now))
             if v.kept}  # fmt: skip
    assert len(found - set(kept(backlog, old, now))) <= 1 + policy.latest


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [(BERLIN, date(2026, 10, 25), 25), (BERLIN, date(2026, 3, 29), 23)]
    + [(NEW_YORK, date(2026, 11, 1), 25), (NEW_YORK, date(2026, 3, 8), 23)]
    + [(LORD_HOWE, date(2026, 4, 5), 24), (LORD_HOWE, date(2026, 10, 4), 24)],
)
@pytest.mark.parametrize("minutes", [10, 30])
def test_where_the_clock_is_changed_each_hour_and_day_is_kept(
    zone, day, hours, minutes
):
    midnight = datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
    now = midnight + 36 * HOUR
    step = timedelta(minutes=minutes)
    ages = [n * step.total_seconds() for n in range(int(72 * HOUR / step))]
    snapshots = snapshots_of(now, ages)
    policy = Policy(counts=((Unit.HOUR, 48), (Unit.DAY, 1)), zone=zone)
    found = [s.created for s in kept(snapshots, policy, now)]
    of_day = [m for m in found if m.astimezone(zone).date() == day]
    assert len(of_day) == hours
    assert of_day[0] == midnight
    # Of each hour on the clock, also of one that comes twice, the first is there.
    for moment in of_day:
        before = moment - step
        same = (before.astimezone(zone).strftime("%H%z")
                == moment.astimezone(zone).strftime("%H%z"))  # fmt: skip
        assert not same


@given(
    POLICIES.filter(lambda policy: not policy.everything),
    NOWS,
    st.integers(1, 400),
    st.integers(1, 300),
)
def test_a_simulation_ends_as_pruning_after_each_snapshot_does(
    policy, start, every_h, count
):
    every = every_h * HOUR
    count = min(count, 60)
    outlook = simulate(policy, start, count * every, every)
    assert outlook.made == count + 1
    there = []
    for number in range(count + 1):
        now = start + number * every
        there += [made(number, created=now, name=f"home-{now:%Y%m%d-%H%M%S%z}")]
        there = kept(there, policy, now)
    assert [moment for moment, _ in outlook.kept] == [s.created for s in there]
    assert all(reasons for _, reasons in outlook.kept)
