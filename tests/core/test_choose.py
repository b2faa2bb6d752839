"""A word chooses one snapshot, or says why it does not."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btrfs_backup_ng.__util__ import UsageError
from btrfs_backup_ng.core.choose import NotChosen, choose
from btrfs_backup_ng.core.model import Snapshot
from btrfs_backup_ng.core.naming import prefix_in, split_name, time_in
from btrfs_backup_ng.core.value import replace

NOW = datetime(2026, 11, 26, 12, tzinfo=timezone.utc)


@pytest.fixture(autouse=True)
def _berlin() -> Iterator[None]:
    """Let local time be another one than UTC."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "CET-1CEST,M3.5.0,M10.5.0/3"
    time.tzset()
    split_name.cache_clear()
    yield
    os.environ.pop("TZ")
    os.environ.update({"TZ": before} if before else {})
    time.tzset()
    split_name.cache_clear()


def made(name: str, uuid: str = "", received: str = "") -> Snapshot:
    return Snapshot(
        name=name,
        created=time_in(name),
        uuid=UUID(uuid) if uuid else uuid4(),
        parent_uuid=None,
        received_uuid=UUID(received) if received else None,
        generation=1,
    )


def chosen(word: str, *names: str | Snapshot, now: datetime = NOW) -> str:
    snapshots = [n if isinstance(n, Snapshot) else made(n) for n in names]
    dated = [s for s in snapshots if s.created]
    return choose(word, snapshots, dated=dated, place="/b", now=now).name


DAYS = [
    "home-20261101-030000",
    "home-20261124-030000",
    "home-20261125-103030",
    "home-20261125-235959",
    "home-20261126-000000",
    "home-20261126-110000",
]


@pytest.mark.parametrize(
    ("word", "index"),
    [
        ("latest", -1),
        ("yesterday", 3),
        ("2026-11-26", -1),
        ("2026-11-25", 3),
        ("2026-11-23", 0),
        ("2030-01-01", -1),
        ("2026-11-25 10:30", 2),  # all of that minute
        ("2026-11-25T10:30:30", 2),
        ("2026-11-25 10:30:29", 1),
        ("2026-11-25 09:30Z", 2),  # an hour later here
        ("2026-11-25 10:30+02:00", 1),
        ("home-20261124-030000", 1),
    ],
)
def test_a_word_about_time_means_the_newest_until_then(word: str, index: int):
    assert chosen(word, *DAYS) == DAYS[index]
    assert chosen(word, *reversed(DAYS)) == DAYS[index]


def test_a_day_ends_at_midnight_here_also_where_an_hour_comes_twice():
    autumn = ["x-20261024-235959", "x-20261025-233000", "x-20261026-000000"]
    assert chosen("2026-10-25", *autumn) == autumn[1]
    assert chosen("2026-10-24", *autumn) == autumn[0]
    noon = datetime(2026, 10, 26, 12, tzinfo=timezone.utc)
    assert chosen("yesterday", *autumn, now=noon) == autumn[1]


def test_what_is_dated_in_the_future_is_not_the_latest():
    assert chosen("latest", *DAYS, "home-20361126-110000") == DAYS[-1]
    with pytest.raises(NotChosen, match="from 'latest' or before"):
        chosen("latest", "home-20361126-110000")


def test_a_uuid_needs_four_digits_and_means_one():
    one = made("a-20260101-000000", "deadbeef-0000-0000-0000-000000000001")
    other = made("a-20260102-000000", "deadbeef-0000-0000-0000-000000000002")
    copy = made("c", "12345678-0000-0000-0000-000000000003", str(one.uuid))
    assert chosen("deadbeef000000000000000000000001", one, other) == one.name
    assert chosen("1234", one, copy) == "c"
    assert chosen("DEADBEEF-0000-0000-0000-000000000002", one, other) == other.name
    with pytest.raises(NotChosen) as error:
        chosen("deadbeef", one, other)
    assert str(one.uuid) in error.value.hint and str(other.uuid) in error.value.hint
    with pytest.raises(NotChosen, match="no snapshot 'dea'"):
        chosen("dea", one, other)
    assert chosen("deadbeef", one, copy) == one.name  # a copy of it is no other one


def test_a_name_wins_over_everything_it_could_also_mean():
    for word in ("latest", "yesterday", "2026-11-25", "deadbeef"):
        assert chosen(word, *DAYS, word) == word
    twin = made(DAYS[0])
    with pytest.raises(NotChosen, match="2 snapshots"):
        chosen(DAYS[0], made(DAYS[0]), twin)
    same = replace(twin, uuid=uuid4(), received_uuid=twin.uuid)
    assert chosen(DAYS[0], twin, same) == DAYS[0]


def test_of_several_subvolumes_none_is_guessed():
    with pytest.raises(NotChosen) as error:
        chosen("latest", *DAYS, "srv-20261126-110001")
    assert "-p 'home-'" in error.value.hint and "-p 'srv-'" in error.value.hint
    assert chosen("srv-20261126-110001", *DAYS, "srv-20261126-110001")[:4] == "srv-"


def test_what_is_not_there_is_told_with_what_is():
    with pytest.raises(NotChosen) as error:
        chosen("2026-10-01", *DAYS)
    assert DAYS[-1] in error.value.hint and "1 more" in error.value.hint
    with pytest.raises(NotChosen, match="no complete snapshot"):
        chosen("latest")
    for word in ("2026-13-01", "2026-02-30", "2026-11-25 25:00"):
        with pytest.raises(UsageError, match="not a time that exists"):
            chosen(word, *DAYS)
    for word in ("", "nope", "2026", "x\n\x1b[31m"):
        with pytest.raises(NotChosen) as error:
            chosen(word, *DAYS)
        assert "\x1b" not in error.value.message


@given(st.lists(st.integers(0, 10**6), min_size=1, unique=True), st.integers(0, 10**6))
def test_it_is_the_newest_of_those_that_are_old_enough(ages: list[int], limit: int):
    start = datetime(2025, 1, 1, tzinfo=timezone.utc)
    times = {
        f"x-{start + timedelta(seconds=age):%Y%m%d-%H%M%S}+0000": age for age in ages
    }
    word = f"{start + timedelta(seconds=limit):%Y-%m-%d %H:%M:%S}Z"
    old_enough = [age for age in ages if age <= limit]
    if old_enough:
        assert times[chosen(word, *times)] == max(old_enough)
    else:
        with pytest.raises(NotChosen):
            chosen(word, *times)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("home-20261126-110000", "home-"),
        ("20261126-110000_2", ""),
        ("a\nb-20261126-110000+0100", "a\nb-"),
        ("home-yesterday", "home-yesterday"),
    ],
)
def test_a_prefix_is_what_stands_before_the_time(name: str, prefix: str):
    assert prefix_in(name) == prefix
