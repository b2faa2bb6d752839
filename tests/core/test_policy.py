"""What a policy says, and which periods a moment is in."""

from datetime import date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btrfs_backup_ng.core.policy import Policy, Unit, parse_policy
from btrfs_backup_ng.core.retention import keep_dated
from tests.core.making import made

UTC = timezone.utc
BERLIN, LORD_HOWE, NEW_YORK = map(
    ZoneInfo, ("Europe/Berlin", "Australia/Lord_Howe", "America/New_York")
)
ZONES = [UTC, BERLIN, LORD_HOWE, NEW_YORK, ZoneInfo("Asia/Kathmandu")]
MOMENTS = st.datetimes(
    datetime(1980, 1, 1), datetime(2060, 1, 1), timezones=st.just(UTC)
)
COUNTS = st.integers(1, 40)
POLICIES = st.builds(
    Policy,
    latest=st.integers(1, 5),
    counts=st.dictionaries(st.sampled_from(Unit), COUNTS | st.none()).map(
        lambda counts: tuple((unit, counts[unit]) for unit in Unit if unit in counts)
    ),
    minimum=st.none() | st.tuples(COUNTS, st.sampled_from(Unit)),
    whole_weeks=st.booleans(),
    first_day=st.sampled_from([0, 0, 3, 6]),
    first_hour=st.sampled_from([0, 0, 1, 23]),
    zone=st.sampled_from(ZONES),
)


@given(POLICIES)
def test_what_is_written_is_read_again(policy):
    assert parse_policy(str(policy), policy.zone) == policy


@given(POLICIES, POLICIES, st.lists(MOMENTS, max_size=30), MOMENTS)
def test_a_policy_that_keeps_all_of_another_never_lets_more_go(one, other, times, now):
    assert one.keeps_all_of(one.for_record)
    assert Policy(everything=True).keeps_all_of(one.for_record)
    assert not one.keeps_all_of("") and not one.keeps_all_of("of a newer version")
    dated = [(time, made(number)) for number, time in enumerate(times)]
    if one.keeps_all_of(other.for_record):
        kept = set(keep_dated(one, dated, now))
        assert kept >= set(keep_dated(other, dated, now))


@pytest.mark.parametrize(
    ("more", "less"),
    [
        ("latest=3", "latest=2"),
        ("latest=3 1d", "latest=3"),
        ("all", "*y"),
        ("*d 5w", "7d 4w"),
        ("min=3d", "min=2d"),
        ("latest=3 7d whole-weeks", "latest=3"),
    ],
)
def test_of_two_policies_the_one_that_keeps_more_is_known(more, less):
    policies = [parse_policy(text, BERLIN) for text in (more, less)]
    assert policies[0].keeps_all_of(policies[1].for_record)
    assert not policies[1].keeps_all_of(policies[0].for_record)


@pytest.mark.parametrize(
    "one", ["7d", "3d 9w", "min=9w", "7d 12m whole-weeks", "latest"]
)
@pytest.mark.parametrize("other", ["9h", "min=3d", "8d 12m", "all"])
def test_of_other_policies_none_is_known_to_keep_more(one, other):
    policies = [parse_policy(text, UTC) for text in (one, other)]
    assert not policies[0].keeps_all_of(policies[1].for_record)
    elsewhere = parse_policy("3d", BERLIN)
    assert not parse_policy("7d", UTC).keeps_all_of(elsewhere.for_record)
    for word in ("whole-weeks", "week=sunday", "day=5h"):
        otherwise = parse_policy(f"7d {word}", UTC)
        assert not parse_policy("7d", UTC).keeps_all_of(otherwise.for_record)


def test_the_words_of_a_policy():
    policy = parse_policy(" 24h\tlatest 7d 4w  12m *y min=2d", UTC)
    assert str(policy) == "latest 24h 7d 4w 12m *y min=2d"
    assert policy.counts[-1] == (Unit.YEAR, None)
    assert policy == parse_policy("*y min=2d 12m 4w 7d 24h", UTC)
    assert parse_policy("all", UTC) == Policy(everything=True)
    assert str(Policy(everything=True)) == "all"
    assert parse_policy("latest", UTC).keeps_only_newest
    for text in ("latest=2", "1h", "min=1h", "all"):
        assert not parse_policy(text, UTC).keeps_only_newest
    with pytest.raises(ValueError):
        Policy(latest=0)


NO_POLICIES = """
    / /7/d/7D/7 d/-7d/0d/latest=0/min=0d/min=*d/7d 8d/latest latest=2/min=1d min=2h
    /all 7d/all all/whole-weeks/whole-weeks whole-weeks 1d/1.5d/7d,4w/1234567d/latest=
    /min=2/*/1d 1x/\u0667d/week=sunday/week=sunday day=5h/7d week=Sunday/7d week=
    /7d day=0h/7d day=24h/7d day=5/7d week=sunday week=monday/all week=sunday"""


@pytest.mark.parametrize("text", NO_POLICIES.replace("\n", "").split("/"))
def test_what_is_no_policy(text):
    with pytest.raises(ValueError):
        parse_policy(text, UTC)


@given(MOMENTS, st.sampled_from(ZONES), st.integers(0, 6), st.integers(0, 23))
def test_days_and_weeks_begin_when_the_policy_says(moment, zone, first_day, hour):
    policy = Policy(zone=zone, first_day=first_day, first_hour=hour)
    local = moment.astimezone(zone)
    day = (local.replace(tzinfo=None) - timedelta(hours=hour)).date()
    assert date.fromordinal(policy.period(Unit.DAY, moment)) == day
    assert policy.period_name(Unit.DAY, moment) == f"{day}"
    begin = day - timedelta(days=(day.weekday() - first_day) % 7)
    week = policy.period(Unit.WEEK, moment)
    assert date.fromordinal(week * 7 + 1 + first_day) == begin
    if first_day:
        assert policy.period_name(Unit.WEEK, moment) == f"{begin}"
    month = policy.period(Unit.MONTH, moment)
    assert (month // 12, month % 12 + 1) == (local.year, local.month)


@given(MOMENTS, st.sampled_from(ZONES), st.booleans())
def test_a_period_is_what_the_calendar_says(moment, zone, whole_weeks):
    policy = Policy(zone=zone, whole_weeks=whole_weeks)
    local = moment.astimezone(zone)
    day = local.date()
    assert date.fromordinal(policy.period(Unit.DAY, moment)) == day
    year, week, weekday = day.isocalendar()
    monday = date.fromordinal(policy.period(Unit.WEEK, moment) * 7 + 1)
    assert monday == day - timedelta(days=weekday - 1)
    assert policy.period_name(Unit.WEEK, moment) == f"{year}-W{week:02}"
    counted = monday if whole_weeks else day
    month = policy.period(Unit.MONTH, moment)
    assert (month // 12, month % 12 + 1) == (counted.year, counted.month)
    assert policy.period(Unit.YEAR, moment) == counted.year
    assert policy.period_name(Unit.MONTH, moment) == f"{counted:%Y-%m}"
    assert policy.period_name(Unit.YEAR, moment) == f"{counted.year}"
    assert policy.period_name(Unit.DAY, moment) == f"{day}"
    assert policy.period_name(Unit.HOUR, moment) == f"{day} {local.hour:02}h"


@given(MOMENTS, st.sampled_from(ZONES), st.sampled_from(Unit), st.booleans())
def test_time_goes_on_and_so_do_periods(moment, zone, unit, whole_weeks):
    """Each is later than, or the same as, the one of any earlier moment."""
    policy = Policy(zone=zone, whole_weeks=whole_weeks)
    steps = [timedelta(minutes=7 * n) for n in range(30)]
    periods = [policy.period(unit, moment + step) for step in steps]
    assert periods == sorted(periods)
    gaps = [later - sooner for sooner, later in zip(periods, periods[1:], strict=False)]
    assert set(gaps) <= {0, 1}, "a period was left out"


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        (BERLIN, (2026, 10, 25), 25),
        (BERLIN, (2026, 3, 29), 23),
        (NEW_YORK, (2026, 11, 1), 25),
        (NEW_YORK, (2026, 3, 8), 23),
        (LORD_HOWE, (2026, 4, 5), 24),  # half an hour more, within the hour of 1
        (LORD_HOWE, (2026, 10, 4), 24),
        (UTC, (2026, 10, 25), 24),
    ],
)
def test_an_hour_that_comes_twice_is_two_and_one_that_is_left_out_is_none(
    zone, day, hours
):
    policy = Policy(zone=zone)
    midnight = datetime(day[0], day[1], day[2], tzinfo=zone).astimezone(UTC)
    minutes = [midnight + timedelta(minutes=n) for n in range(26 * 60)]
    today = [m for m in minutes if m.astimezone(zone).date() == date(*day)]
    assert len({policy.period(Unit.HOUR, m) for m in today}) == hours
    assert len({policy.period(Unit.DAY, m) for m in today}) == 1
    following = policy.period(Unit.DAY, today[-1] + timedelta(minutes=1))
    assert following == policy.period(Unit.DAY, today[0]) + 1


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("unit", Unit)
def test_the_ends_of_all_time_are_in_some_period(zone, unit):
    policy = Policy(whole_weeks=True, first_day=6, first_hour=23, zone=zone)
    first, last = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, tzinfo=UTC)
    assert policy.period(unit, first) < policy.period(unit, last)
    assert policy.period_name(unit, first) < policy.period_name(unit, last)
