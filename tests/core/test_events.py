"""The exit status that follows from what became of the parts of a run."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btrfs_backup_ng.core.events import Tally, exit_status

TALLIES = st.lists(
    st.builds(
        Tally,
        done=st.integers(0, 3),
        failures=st.lists(st.sampled_from([1, 2, 3, 4, 10]), max_size=3).map(tuple),
    ),
    max_size=5,
)


@pytest.mark.parametrize(
    ("tallies", "status"),
    [
        ([], 0),
        ([Tally()], 0),
        ([Tally(done=3)], 0),
        ([Tally(failures=(1,))], 1),
        ([Tally(failures=(3,))], 3),
        ([Tally(failures=(4, 4))], 4),
        ([Tally(failures=(3, 4))], 1),
        ([Tally(done=1, failures=(4,))], 10),
        ([Tally(done=1), Tally(failures=(1,))], 10),
        ([Tally(failures=(3,)), Tally(failures=(3,))], 3),
        ([Tally(), Tally(failures=(2,))], 2),
    ],
)
def test_the_exit_status_follows_from_the_tallies(tallies, status):
    assert exit_status(tallies) == status


@given(TALLIES)
def test_the_status_is_zero_exactly_if_nothing_failed(tallies):
    failed = any(tally.failures for tally in tallies)
    assert (exit_status(tallies) == 0) == (not failed)


@given(TALLIES)
def test_the_status_is_ten_exactly_if_a_part_failed_and_a_part_is_done(tallies):
    failures = [status for tally in tallies for status in tally.failures]
    if 10 not in failures:
        partly = bool(failures) and any(tally.done for tally in tallies)
        assert (exit_status(tallies) == 10) == partly


@given(TALLIES)
def test_the_order_of_the_tasks_is_irrelevant_and_nothing_is_counted_twice(tallies):
    before = [(tally.done, tally.failures) for tally in tallies]
    statuses = {
        exit_status(some) for some in itertools.islice(_orders(tallies), 24)
    } | {exit_status(tallies)}
    assert len(statuses) == 1
    assert [(tally.done, tally.failures) for tally in tallies] == before


def _orders(tallies):
    return itertools.permutations(tallies)


def test_a_tally_counts_another_one_in():
    tally = Tally(done=1)
    tally.add(Tally(done=2, failures=(3,)))
    tally.add(Tally(failures=(4,)))
    assert (tally.done, tally.failures) == (3, (3, 4))
