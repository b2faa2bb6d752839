"""What was seen of a file is put in order: its versions, and since when each was."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from btrfs_backup_ng.actions.versions.timeline import (
    Content,
    Run,
    Sighting,
    in_runs,
    nearest,
    versions,
)

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
FILES = {letter: Content("file", 10, letter) for letter in "ABC"}


def seen(hour: int, what: str, place: int = 0) -> Sighting:
    """Make what was seen in the snapshot of an hour; ``-``: no file."""
    return Sighting(
        place=place,
        snapshot=f"x-{hour}",
        time=START + timedelta(hours=hour),
        origin=UUID(int=hour),
        content=FILES.get(what),
    )


def now(what: str) -> Sighting:
    """Make what is there now."""
    return Sighting(0, "", START + timedelta(days=9), None, FILES.get(what))


def told(runs: list[Run]) -> str:
    """Write runs shortly: the number of each and how many snapshots have it."""
    return " ".join(f"{run.number}x{len(run.sightings)}" for run in runs)


def of(history: str) -> list[Sighting]:
    """Make a history, a letter an hour."""
    return [seen(hour, what) for hour, what in enumerate(history)]


def test_each_change_begins_a_run_and_what_comes_back_has_its_number():
    for history, expected in (
        ("", ""),
        ("---", ""),
        ("AAA", "1x3"),
        ("--AAB", "1x2 2x1"),
        ("AB-BA", "1x1 2x1 0x1 2x1 1x1"),
        ("A--", "1x1 0x2"),
        ("-A-A-", "1x1 0x1 1x1 0x1"),
    ):
        assert told(in_runs(of(history))) == expected, history


def test_copies_of_a_snapshot_are_one_moment_and_now_is_the_last():
    both = [*of("AAB"), *(seen(hour, what, 1) for hour, what in enumerate("AAB"))]
    runs = in_runs([now("B"), *both])
    assert told(runs) == "1x4 2x3"
    assert [run.is_now for run in runs] == [False, True]
    assert [sighting.place for sighting in runs[0].sightings] == [0, 1, 0, 1]
    assert [run.since for run in runs] == [START, START + timedelta(hours=2)]
    assert told(in_runs([*both, now("-")])) == "1x4 2x2 0x1"
    # A clock that was set back makes no difference: now is now.
    assert told(in_runs([seen(999, "A"), now("B")])) == "1x1 2x1"


def test_two_snapshots_of_one_second_are_not_mixed_up():
    twins = [
        Sighting(place, f"x-{number}", START, UUID(int=number), FILES[what])
        for number, what in ((1, "A"), (2, "B"))
        for place in (0, 1)
    ]
    assert told(in_runs(twins)) == "1x2 2x2"


def test_a_version_is_taken_from_the_newest_snapshot_at_the_nearest_place():
    sightings = [*of("AA"), *(seen(hour, "A", 1) for hour in range(5)), now("A")]
    best = nearest(sightings)
    assert best and (best.place, best.snapshot) == (0, "x-1")
    best = nearest(s for s in sightings if s.place == 1)
    assert best and (best.place, best.snapshot) == (1, "x-4")
    assert nearest([now("A")]) is None


_SIGHTINGS = st.lists(
    st.tuples(st.integers(0, 9), st.sampled_from("ABC-"), st.integers(0, 2)),
    unique_by=lambda one: (one[0], one[2]),
).map(lambda many: [seen(*one) for one in many])


@given(_SIGHTINGS, st.randoms(use_true_random=False))
def test_order_does_not_matter_and_nothing_is_lost(sightings, dice):
    runs = in_runs(sightings)
    mixed = list(sightings)
    dice.shuffle(mixed)
    assert in_runs(mixed) == runs
    found = [sighting for run in runs for sighting in run.sightings]
    lost = [sighting for sighting in sightings if sighting not in found]
    assert len(found) + len(lost) == len(sightings)
    assert all(sighting.content is None for sighting in lost)
    assert sorted(versions(runs)) == list(range(1, len(versions(runs)) + 1))
    for run, following in zip(runs, runs[1:], strict=False):
        assert run.content != following.content
        assert run.since <= following.since
    for number, many in versions(runs).items():
        assert len({sighting.content for sighting in many}) == 1
        assert all(
            run.content == many[0].content for run in runs if run.number == number
        )
