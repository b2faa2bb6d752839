"""What may be deleted: rules only keep."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btrfs_backup_ng.core.policy import Policy
from btrfs_backup_ng.core.retention import judge, keep_origins
from btrfs_backup_ng.core.value import replace
from tests.core.making import START, copy_of, keep_by_name, made, uid

NOW = START + timedelta(days=2)
HOURS = st.lists(st.integers(0, 40), unique=True, max_size=12)


def kept(snapshots, *rules):
    return [v.snapshot for v in judge(snapshots, rules) if v.kept]


def latest(count):
    return keep_by_name(Policy(latest=count), NOW)


@given(HOURS, st.integers(1, 15), st.integers(0, 5))
def test_keeping_more_never_deletes_what_keeping_less_keeps(hours, count, more):
    snapshots = [made(hour) for hour in hours]
    few = kept(snapshots, latest(count))
    assert set(few) <= set(kept(snapshots, latest(count + more)))
    assert len(few) == min(count, len(snapshots))


@given(HOURS, st.integers(1, 15))
def test_the_latest_ones_are_what_is_kept(hours, count):
    snapshots = [made(hour) for hour in hours]
    expected = [made(hour) for hour in sorted(hours)[-count:]]
    assert kept(snapshots, latest(count)) == expected


@given(HOURS.filter(bool), st.integers(1, 3))
def test_the_newest_survives_any_limit(hours, count):
    assert made(max(hours)) in kept([made(hour) for hour in hours], latest(count))


@pytest.mark.parametrize("count", [0, -1])
def test_a_limit_that_keeps_nothing_is_no_rule(count):
    with pytest.raises(ValueError):
        latest(count)


@given(HOURS, st.sets(st.integers(0, 40)), st.integers(1, 4))
def test_what_is_held_survives_and_nothing_else_dies_of_it(hours, held, count):
    snapshots = [made(hour) for hour in hours]
    reasons = {made(hour).origin: "last common: /mnt" for hour in held}
    without = set(kept(snapshots, latest(count)))
    with_it = set(kept(snapshots, latest(count), keep_origins(reasons)))
    assert with_it == without | {s for s in snapshots if s.origin in reasons}


def test_what_is_held_is_known_by_its_origin_in_copies_and_restored_ones():
    restored, plain = made(1, received=uid(7)), made(2)
    copies = [copy_of(restored), copy_of(plain), made(3), made(4)]
    held = keep_origins({uid(7): "a", plain.uuid: "b"})
    assert kept(copies, latest(1), held) == [*copies[:2], copies[3]]


@given(st.permutations([made(hour) for hour in range(8)]), st.integers(1, 8))
def test_the_order_of_the_input_is_irrelevant(snapshots, count):
    ordered = [made(hour) for hour in range(8)]
    assert judge(snapshots, [latest(count)]) == judge(ordered, [latest(count)])


def test_without_any_rule_everything_is_kept():
    verdicts = judge([made(hour) for hour in range(5)], [])
    assert all(verdict.kept for verdict in verdicts) and len(verdicts) == 5


def test_what_is_dated_in_the_future_is_kept_and_does_not_count():
    future = made(24 * 365 * 10)
    snapshots = [made(1), made(2), made(3), future]
    verdicts = {v.snapshot: v.reasons for v in judge(snapshots, [latest(2)])}
    assert verdicts[future] == ("dated in the future",)
    assert [s for s in snapshots if verdicts[s]] == [made(2), made(3), future]


@pytest.mark.parametrize(
    "late",
    [
        timedelta(0),
        timedelta(seconds=90),
    ],
)
def test_the_snapshot_of_this_very_run_is_not_from_the_future(late):
    """A run takes a while, and the clock of the filesystem is not ours."""
    newest = made(99, created=NOW + late)
    assert kept([made(1), newest], latest(1)) == [newest]


def test_a_copy_that_was_received_later_than_named_counts_by_its_name():
    """``created`` of a backup is the time in its name, as the listing gives it."""
    snapshots = [copy_of(made(hour)) for hour in range(4)]
    assert kept(snapshots, latest(2)) == snapshots[2:]


@pytest.mark.parametrize("name", ["homework", "home-old-20260301-120000", "x", "\n"])
def test_what_we_did_not_name_is_kept_and_does_not_count(name):
    foreign = made(30, name=name)
    assert kept([made(1), made(2), foreign], latest(1)) == [made(2), foreign]


def test_a_snapshot_of_unknown_age_is_kept():
    ageless = replace(made(1, name="restored by hand"), created=None)
    assert ageless in kept([ageless, made(2)], latest(1))


def test_two_of_one_second_are_told_apart_by_their_generation():
    first = made(1, generation=10)
    second = made(2, created=first.created, name=f"{first.name}_1", generation=11)
    third = made(3, created=first.created, name=f"{first.name}_10", generation=12)
    fourth = made(4, created=first.created, name=f"{first.name}_2", generation=13)
    assert kept([fourth, third, second, first], latest(2)) == [third, fourth]


def test_each_verdict_says_why():
    reasons = {made(1).origin: "last common: /mnt/usb"}
    verdicts = judge([made(1), made(2), made(3)], [latest(1), keep_origins(reasons)])
    assert [v.reasons for v in verdicts] == [
        ("last common: /mnt/usb",),
        (),
        ("latest",),
    ]
