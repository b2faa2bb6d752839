"""A wrong clock deletes nothing: histories with jumps, pauses and clocks set back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from btrfs_backup_ng.core.judgement import (
    Clock,
    Course,
    Question,
    find_course,
    judge_series,
    later,
)
from btrfs_backup_ng.core.model import Snapshot
from btrfs_backup_ng.core.policy import Policy, parse_policy
from btrfs_backup_ng.core.retention import UNCONFIRMED
from btrfs_backup_ng.core.value import replace
from tests.core.making import NAMING, uid
from tests.core.test_policy import POLICIES

UTC = timezone.utc
START = datetime(2026, 2, 14, 3, 17, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
YEAR = 365 * DAY
USUAL = parse_policy("24h 7d 4w 12m 5y min=2h", UTC)
BY_TIME = POLICIES.filter(lambda policy: policy.looks_at_time)
AHEAD = st.integers(49, 40 * 366 * 24).map(lambda hours: hours * HOUR)
FAR = st.integers(60, 40 * 366).map(lambda days: days * DAY)
PACES = st.sampled_from([HOUR, 6 * HOUR, DAY, DAY + HOUR, 7 * DAY])


class Machine:
    """A source and a destination that is here, too, with one clock and one policy.

    :ivar made: all snapshots that were ever made, as if all clocks had been right.
    :ivar applied: the policy on record at the source, and at the destination.
    """

    def __init__(self, policy: Policy, *, pace: timedelta = HOUR) -> None:
        self.policy = policy
        self.pace = pace
        self.time = START
        self.made: list[Snapshot] = []
        self.here: list[Snapshot] = []
        self.there: list[Snapshot] = []
        self.told: list[str] = []
        self.applied = dict.fromkeys((True, False), policy.for_record)

    def run(
        self,
        wrong: timedelta = timedelta(),
        *,
        synchronised: bool = False,
        others: Iterable[datetime] = (),
        fails: bool = False,
        forced: bool = False,
    ) -> None:
        """Make a snapshot, send it, and delete what the judgement lets go.

        :param wrong: how far the clock is ahead.
        :param fails: it ends before anything is deleted.
        """
        now = later(self.time, wrong.total_seconds())
        number = len(self.made) + 1
        name = NAMING.name_at(now.astimezone(), ())
        new = Snapshot(name, now, uid(number), uid(0), None, number, otime=now)
        copy = replace(new, uuid=uid(10**7 + number), received_uuid=new.uuid)
        name = NAMING.name_at(self.time.astimezone(), ())
        self.made.append(replace(new, name=name, created=self.time))
        self.here.append(new)
        self.there.append(copy)
        self.told = []
        if fails:
            return
        course = find_course(
            Clock(now, synchronised, tuple(others)), [self.here, self.there]
        )
        for of_source, place in ((True, self.here), (False, self.there)):
            question = _question(self.policy, of_source, self.applied[of_source])
            question = replace(question, is_forced=forced)
            judgement = judge_series(question, list(place), course)
            self.told += judgement.dangers + judgement.waiting
            if not judgement.withheld:
                self.applied[of_source] = self.policy.for_record
                to_delete = set(judgement.to_delete)
                place[:] = [s for s in place if s not in to_delete]

    def runs(self, count: int, wrong: timedelta = timedelta(), **how: Any) -> None:
        """Do that again and again."""
        for _ in range(count):
            self.run(wrong, **how)
            self.time += self.pace

    def numbers(self, place: Sequence[Snapshot]) -> set[int]:
        """Say which of all snapshots are at a place."""
        return {s.origin.int for s in place}

    def wanted(self, known: Iterable[int], time: datetime) -> set[int]:
        """Say which of these a policy wants at a time, if no clock was ever wrong."""
        those = [s for s in self.made if s.uuid.int in set(known)]
        question = replace(_question(self.policy, True), is_forced=True)
        verdicts = judge_series(question, those, Course(time)).verdicts
        return {v.snapshot.uuid.int for v in verdicts if v.kept}


def _question(policy: Policy, of_source: bool, applied: str = "") -> Question:
    noun = "snapshot" if of_source else "backup"
    return Question(
        "/place", noun, "home-", policy, {}, of_source=of_source, applied=applied
    )


def old(machine: Machine, before: int) -> tuple[set[int], set[int]]:
    """Say which of the first snapshots are at both places."""
    here, there = machine.numbers(machine.here), machine.numbers(machine.there)
    return {n for n in here if n <= before}, {n for n in there if n <= before}


# (a) A clock that is ahead


@settings(max_examples=15, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(BY_TIME, PACES, st.integers(1, 60), AHEAD, st.integers(1, 25), st.data())
def test_after_a_day_ahead_all_is_there_that_the_policy_wants(
    policy: Policy,
    pace: timedelta,
    count: int,
    ahead: timedelta,
    length: int,
    data: st.DataObject,
) -> None:
    machine = Machine(policy, pace=pace)
    machine.runs(count)
    before = old(machine, count)
    machine.time -= machine.pace - HOUR
    machine.pace = HOUR
    for _ in range(length):
        more = data.draw(st.sampled_from([timedelta(), timedelta(), 3 * DAY]))
        machine.runs(1, ahead + more)
    for left in old(machine, count):
        assert left >= machine.wanted(before[0] & before[1], machine.time)
    machine.runs(1)
    right = {*range(1, count + 1), len(machine.made)}
    for left in (machine.numbers(machine.here), machine.numbers(machine.there)):
        assert left >= machine.wanted(right, machine.time - HOUR)


@settings(max_examples=12, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    BY_TIME,
    st.lists(st.tuples(FAR, st.integers(1, 9), st.integers(9, 30)), max_size=3),
)
def test_however_often_the_clock_is_wrong_nothing_is_lost_in_the_end(
    policy: Policy, episodes: list[tuple[timedelta, int, int]]
) -> None:
    """A machine whose clock is wrong at each start until something sets it right."""
    machine = Machine(policy)
    machine.runs(20)
    right = set(range(1, 21))
    for ahead, wrong_runs, right_runs in episodes:
        machine.runs(wrong_runs, ahead)
        first = len(machine.made) + 1
        machine.runs(right_runs)
        right |= set(range(first, len(machine.made) + 1))
        for place in (machine.here, machine.there):
            now = machine.time - HOUR
            assert machine.numbers(place) >= machine.wanted(right, now)


@pytest.mark.parametrize(
    ("ahead", "length"),
    [
        (61 * DAY, 4),
        (YEAR, 1),
        (3652 * DAY, 1),
        (40 * YEAR, 4),
    ],
)
@pytest.mark.parametrize("synchronised", [False, True])
def test_later_runs_thin_out_as_if_the_clock_had_never_been_wrong(
    ahead: timedelta, length: int, synchronised: bool
) -> None:
    machine = Machine(USUAL, pace=6 * HOUR)
    machine.runs(80)
    before = len(machine.made)
    machine.runs(length, ahead)
    told = machine.told
    assert any("the policy no longer keeps" in text for text in told), told
    wrong = set(range(before + 1, before + length + 1))
    machine.runs(60, synchronised=synchronised)
    right = set(range(1, len(machine.made) + 1)) - wrong
    expected = machine.wanted(right, machine.time - machine.pace)
    for place in (machine.here, machine.there):
        found = machine.numbers(place)
        assert found - wrong == expected
        if synchronised:
            assert len(found & wrong) <= 2, "what is dated in the future is thinned"
        else:
            assert wrong <= found
            assert any("dated later" in text for text in machine.told)


def test_what_is_dated_in_the_future_counts_where_it_was_made() -> None:
    """A day of hourly backups with a wrong date is a day of hourly backups."""
    machine = Machine(USUAL)
    machine.runs(48)
    machine.runs(12, 61 * DAY)
    machine.runs(3, synchronised=True)
    assert machine.numbers(machine.here) >= set(range(49, 61))
    machine.runs(24, synchronised=True)
    left = machine.numbers(machine.here) & set(range(49, 61))
    assert len(left) <= 2, "these hours are over"
    assert not machine.told


def test_what_was_dated_in_the_future_replaces_nothing_when_its_date_has_come() -> None:
    machine = Machine(parse_policy("12m", UTC), pace=12 * HOUR)
    machine.runs(60)
    machine.runs(1, datetime(2026, 5, 1, tzinfo=UTC) - machine.time)
    wrong = len(machine.made)
    machine.runs(200)
    (may,) = [
        s for s in machine.here if s.created and s.created.month == 5
        if s.uuid.int != wrong
    ]  # fmt: skip
    assert may.created and may.created.day == 1


@settings(max_examples=25)
@given(st.integers(1, 6), AHEAD, st.integers(1, 30), st.booleans())
def test_numbers_are_kept_whatever_the_clock_says(
    latest: int, ahead: timedelta, length: int, synchronised: bool
) -> None:
    machine = Machine(Policy(latest=latest))
    machine.runs(20)
    machine.runs(length, ahead)
    machine.runs(latest + 1, synchronised=synchronised)
    newest = set(range(len(machine.made) - latest + 1, len(machine.made) + 1))
    for place in (machine.here, machine.there):
        right = machine.numbers(place) - set(range(21, 21 + length))
        assert right == newest
        if synchronised:
            assert machine.numbers(place) == newest


def test_a_clock_that_another_machine_contradicts_deletes_nothing() -> None:
    """Not even after days: it is known which time it may be."""
    machine = Machine(USUAL, pace=6 * HOUR)
    machine.runs(80)
    before = len(machine.made)
    for _ in range(4 * 10):
        machine.run(3652 * DAY, others=[machine.time])
        machine.time += machine.pace
    for left in old(machine, before):
        assert left >= machine.wanted(range(1, before + 1), machine.time)


# (b) A machine that was off


@pytest.mark.parametrize("off", [3 * DAY, 61 * DAY, 400 * DAY])
@pytest.mark.parametrize("pace", [HOUR, DAY])
def test_a_machine_that_was_off_thins_out_after_backups_on_four_days(
    off: timedelta, pace: timedelta
) -> None:
    machine = Machine(USUAL, pace=pace)
    machine.runs(60)
    machine.time += off
    machine.runs(3 * DAY // pace)
    kept = old(machine, 60)[0]
    machine.runs(1)
    expected = machine.wanted(range(1, len(machine.made) + 1), machine.time - pace)
    for place in (machine.here, machine.there):
        assert machine.numbers(place) == expected
    assert pace == HOUR or kept >= expected & set(range(1, 61))
    assert not machine.told


@settings(max_examples=15)
@given(BY_TIME, PACES, st.integers(3, 800), st.booleans())
def test_a_machine_that_was_off_thins_out_at_once_if_its_clock_is_confirmed(
    policy: Policy, pace: timedelta, days: int, by_another: bool
) -> None:
    machine = Machine(policy, pace=pace)
    machine.runs(40, synchronised=True)
    machine.time += days * DAY
    others = [machine.time + timedelta(minutes=9)] if by_another else []
    machine.run(synchronised=not by_another, others=others)
    expected = machine.wanted(range(1, 42), machine.time)
    for place in (machine.here, machine.there):
        assert machine.numbers(place) == expected
    assert not machine.told, "more than half may go, as time went by"


def test_weekly_backups_of_a_machine_without_any_time_service_lag_by_three() -> None:
    machine = Machine(parse_policy("5w", UTC), pace=7 * DAY)
    machine.runs(50)
    assert machine.numbers(machine.here) == set(range(42, 51))
    assert not machine.told, "that is its pace, and no surprise"
    machine.runs(1, synchronised=True)
    assert machine.numbers(machine.here) == set(range(46, 52))


# (c) A clock that is behind


@settings(max_examples=15, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    BY_TIME,
    PACES,
    st.integers(1, 40),
    st.integers(1, 24 * 366 * 60).map(lambda hours: hours * HOUR),
    st.integers(1, 60),
)
def test_a_clock_set_back_deletes_nothing(
    policy: Policy, pace: timedelta, count: int, back: timedelta, length: int
) -> None:
    machine = Machine(policy, pace=pace)
    machine.runs(count)
    back = min(back, machine.time - datetime(1970, 1, 1, tzinfo=UTC))
    machine.pace = HOUR
    machine.runs(length, -back)
    before = set(range(1, count + 1))
    for more in (0, 2):
        machine.runs(more)
        made = range(1, len(machine.made) + 1)
        wanted = machine.wanted(made, machine.time - HOUR) & before
        for place in (machine.here, machine.there):
            assert machine.numbers(place) >= wanted


# The rest


@pytest.mark.parametrize("policy", ["2d 12m", "min=2d", "latest=3 1w", "latest=3"])
@pytest.mark.parametrize("before", ["all", "min=1y", "latest=400 3y", ""])
def test_a_new_policy_that_drops_more_than_half_waits_for_a_person(
    policy: str, before: str
) -> None:
    machine = Machine(parse_policy(before or "all", UTC))
    machine.runs(24 * 7, fails=True)
    machine.policy = parse_policy(policy, UTC)
    if not before:  # an earlier version of the program, which took nothing down
        machine.applied = dict.fromkeys((True, False), "")
    for _ in range(3):
        machine.runs(1)
        assert len(machine.here) == len(machine.made)
        assert all("more than half" in text for text in machine.told)
        assert all(policy in text and before in text for text in machine.told)
        assert len(machine.told) == 2
    machine.runs(1, forced=True)
    assert len(machine.here) < len(machine.made) / 2
    machine.runs(10, fails=True)
    machine.runs(1, synchronised=True)
    assert not machine.told, "it is not new any more"


#: Runs: with which policy, how many, and whether they fail.
STREAKS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(1, 20), st.booleans()),
    min_size=1,
    max_size=6,
)


@settings(max_examples=15)
@given(st.lists(POLICIES, min_size=3, max_size=3), STREAKS, PACES)
def test_more_than_half_goes_only_by_what_was_applied_before_and_that_converges(
    policies: list[Policy], streaks: list[tuple[int, int, bool]], pace: timedelta
) -> None:
    machine = Machine(policies[0], pace=pace)
    last = {True: policies[0], False: policies[0]}
    for chosen, count, fails in streaks:
        machine.policy = policies[chosen]
        for _ in range(count):
            before = [*machine.here], [*machine.there]
            machine.runs(1, synchronised=True, fails=fails)
            time = machine.time - pace
            for (of_source, at), place in zip(last.items(), before, strict=True):
                now = machine.here if of_source else machine.there
                there = {s.origin.int for s in place} | {len(machine.made)}
                left = machine.numbers(now)
                if 2 * len(there - left) > len(there):
                    allowed = Machine(at)
                    allowed.made = machine.made
                    assert left >= allowed.wanted(there, time), "a user misses it"
                if fails:
                    continue
                wants = machine.wanted(there, time)
                if machine.policy == at and of_source:
                    assert left == wants, "it does not converge"
                if left == wants:
                    last[of_source] = machine.policy


@settings(max_examples=20)
@given(BY_TIME, PACES, st.integers(1, 60))
def test_a_policy_that_was_there_from_the_start_never_waits_for_a_person(
    policy: Policy, pace: timedelta, count: int
) -> None:
    machine = Machine(policy, pace=pace)
    for _ in range(count):
        machine.runs(1)
        assert not any("half" in text for text in machine.told)


def test_a_doubt_is_handed_on_and_stands_against_all_deletion() -> None:
    machine = Machine(Policy(everything=True))
    machine.runs(9)
    question = replace(
        _question(Policy(latest=1), True, "latest"), doubts=("a record is damaged",)
    )
    judgement = judge_series(question, machine.here, Course(machine.time))
    assert judgement.withheld == ("a record is damaged",)
    forced = judge_series(
        replace(question, is_forced=True), machine.here, Course(machine.time)
    )
    assert forced.withheld, "what is not known cannot be forced"


def test_reasons_name_the_clock_only_where_nothing_else_keeps_it() -> None:
    machine = Machine(USUAL)
    machine.runs(200)
    machine.time += 61 * DAY
    machine.run()
    course = find_course(Clock(machine.time), [machine.here])
    verdicts = judge_series(_question(USUAL, True), machine.here, course).verdicts
    reasons = {v.snapshot.uuid.int: v.reasons for v in verdicts}
    assert reasons[201][0] == "latest"
    assert (UNCONFIRMED,) in reasons.values()
    assert not any(UNCONFIRMED in r and len(r) > 1 for r in reasons.values())


@pytest.mark.parametrize("seconds", [10.0**12, -(10.0**12)])
def test_a_clock_beyond_all_calendars_is_the_last_time_there_is(seconds: float) -> None:
    assert later(START, seconds).year in (1, 9999)
    machine = Machine(USUAL)
    machine.runs(30)
    machine.run(others=[later(START, seconds)])


def test_unknown_identities_do_no_harm() -> None:
    snapshot = Snapshot("x", None, UUID(int=1), None, None, 1)
    assert find_course(Clock(START), [[snapshot], []]).earlier == ()
