"""What is worth sending to a destination that keeps only so many."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btrfs_backup_ng.actions.prune.rules import worth_sending
from btrfs_backup_ng.core.judgement import Course
from btrfs_backup_ng.core.model import Listing, Snapshot
from btrfs_backup_ng.core.plan import plan_transfers
from btrfs_backup_ng.core.policy import Policy
from btrfs_backup_ng.core.retention import judge, keep_origins
from tests.core.making import (
    NAMING,
    START,
    copy_of,
    keep_by_name,
    listing,
    made,
    with_transfers,
)


def latest(count):
    return Policy(latest=count) if count else None


def now_of(run):
    return START + timedelta(hours=run, minutes=1)


def one_run(run, here, there, *, keep_source, keep_there):
    """Make a snapshot, send what is worth it, prune both places.

    :returns: how many were sent, and what both places have then.
    """
    now = now_of(run)
    here = [*here, made(run)]
    wanted = worth_sending(here, there, latest(keep_there), NAMING, Course(now))
    plan = plan_transfers(
        wanted, listing(here), there, related={s.uuid for s in here}, integrity_there={}
    )
    there = with_transfers(there, plan.transfers)
    base = plan.transfers[-1].snapshot if plan.transfers else plan.base
    assert base
    held = keep_origins({base.origin: "last common"})
    if keep_there:
        there = listing(survivors(there.snapshots, keep_there, now, held))
    if keep_source:
        here = survivors(here, keep_source, now, held)
    return len(plan.transfers), here, there


def survivors(snapshots, count, now, held):
    verdicts = judge(snapshots, [keep_by_name(Policy(latest=count), now), held])
    return [verdict.snapshot for verdict in verdicts if verdict.kept]


@pytest.mark.parametrize("keep_source", [None, 1, 2, 7])
@pytest.mark.parametrize("keep_there", [None, 1, 2, 7])
def test_each_of_thirty_runs_sends_exactly_one(keep_source, keep_there):
    here: list[Snapshot] = []
    there = Listing()
    for run in range(30):
        sent, here, there = one_run(
            run, here, there, keep_source=keep_source, keep_there=keep_there
        )
        assert sent == 1
        assert len(there.snapshots) == min(run + 1, keep_there or 99)
        assert len(here) == min(run + 1, keep_source or 99)


@pytest.mark.parametrize("backlog", [0, 3, 20])
@pytest.mark.parametrize("keep_there", [1, 2, 7])
def test_a_backlog_is_sent_as_far_as_it_is_kept(backlog, keep_there):
    here = [made(run) for run in range(backlog)]
    sent, here, there = one_run(
        backlog, here, Listing(), keep_source=None, keep_there=keep_there
    )
    assert sent == min(backlog + 1, keep_there)
    sent, here, there = one_run(
        backlog + 1, here, there, keep_source=None, keep_there=keep_there
    )
    assert sent == 1


@given(
    st.sets(st.integers(0, 12)),
    st.sets(st.integers(0, 12)),
    st.none() | st.integers(1, 6),
)
def test_what_the_destination_would_delete_at_once_is_not_sent(ours, present, keep):
    now = now_of(20)
    here = [made(run) for run in ours]
    there = listing([copy_of(made(run)) for run in present])
    worth = worth_sending(here, there, latest(keep), NAMING, Course(now))
    missing = [s for s in worth if s not in [made(run) for run in present]]
    assert set(worth) <= set(here)
    assert set(worth) >= {s for s in here if s in [made(run) for run in present]}
    if keep is None:
        assert worth == here
        return
    after = [*there.snapshots, *(copy_of(snapshot) for snapshot in missing)]
    newest = {made(run).origin: "last common" for run in ours if run == max(ours)}
    rules = [keep_by_name(Policy(latest=keep), now), keep_origins(newest)]
    verdicts = judge(after, rules)
    gone = {v.snapshot.received_uuid for v in verdicts if not v.kept}
    assert gone.isdisjoint(s.origin for s in missing)


def test_the_newest_is_always_worth_it():
    here = [made(1)]
    there = listing([copy_of(made(run)) for run in (2, 3, 4)])
    assert worth_sending(
        [*here, made(9)], there, latest(1), NAMING, Course(now_of(9))
    ) == [made(9)]


def test_what_others_put_there_does_not_count_as_a_backup():
    here, strangers = [made(1), made(2)], [made(3), made(4)]
    assert (
        worth_sending(here, listing(strangers), latest(2), NAMING, Course(now_of(9)))
        == here
    )
