"""The link between a snapshot's name and its time."""

import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btrfs_backup_ng.__util__ import UsageError
from btrfs_backup_ng.core.naming import Naming, free_name, split_name

PREFIXES = st.text(max_size=20).filter(lambda text: not {"/", "\0"} & set(text))
MOMENTS = st.datetimes(
    datetime(1971, 1, 2), datetime(2037, 12, 30), timezones=st.just(timezone.utc)
).map(lambda moment: moment.replace(microsecond=0))
#: zone, the hour that is repeated, the hour that is skipped
ZONES = [
    ("Europe/Berlin", datetime(2026, 10, 25, 2, 30), datetime(2026, 3, 29, 2, 30)),
    ("America/St_Johns", datetime(2026, 11, 1, 1, 30), datetime(2026, 3, 8, 2, 30)),
    ("Australia/Lord_Howe", datetime(2026, 4, 5, 1, 45), datetime(2026, 10, 4, 2, 15)),
]


@pytest.fixture
def in_zone() -> Iterator[Callable[[str], None]]:
    """Let this process live in another zone for a while."""
    before = os.environ.get("TZ")

    def move(zone: str | None) -> None:
        if zone is None:
            os.environ.pop("TZ", None)
        else:
            os.environ["TZ"] = zone
        time.tzset()
        split_name.cache_clear()

    yield move
    move(before)


def second_of(naming: Naming, name: str) -> datetime:
    found = naming.time_of(name)
    assert found
    return found.replace(microsecond=0)


@given(PREFIXES, MOMENTS)
def test_a_name_tells_the_time_it_was_made_at(prefix, moment):
    naming = Naming(prefix)
    name = naming.name_at(moment.astimezone(), ())
    found = naming.time_of(name)
    assert found == moment and found.utcoffset() == timedelta(0)


@given(PREFIXES, MOMENTS, st.integers(1, 30))
def test_names_of_one_second_are_different_and_tell_the_same_time(prefix, when, count):
    naming = Naming(prefix)
    taken: set[str] = set()
    for _ in range(count):
        taken.add(naming.name_at(when.astimezone(), taken))
    assert len(taken) == count
    assert {second_of(naming, name) for name in taken} == {when}


def test_names_of_one_second_sort_as_they_were_made():
    naming = Naming("h-")
    names: list[str] = []
    for _ in range(12):
        names.append(naming.name_at(datetime(2026, 5, 1).astimezone(), names))
    assert names[0].endswith("-000000") and names[-1].endswith("_11")
    times = [naming.time_of(name) for name in names]
    assert None not in times and times == sorted(times, key=str)
    assert len(set(times)) == len(times)


@pytest.mark.parametrize(("zone", "fold", "gap"), ZONES)
def test_every_moment_around_a_clock_change_has_its_name(in_zone, zone, fold, gap):
    in_zone(zone)
    naming = Naming("home-")
    for turn in (fold, gap):
        begin = turn.replace(tzinfo=ZoneInfo(zone)).astimezone(timezone.utc)
        names: list[tuple[datetime, str]] = []
        taken: set[str] = set()
        for minutes in range(-180, 181, 15):
            moment = begin + timedelta(minutes=minutes)
            name = naming.name_at(moment.astimezone(), taken)
            assert name not in taken
            taken.add(name)
            names.append((moment, name))
        for moment, name in names:
            assert naming.time_of(name) == moment
            assert moment.astimezone(ZoneInfo(zone)).strftime("%H%M%S") in name


@pytest.mark.parametrize(("zone", "fold", "gap"), ZONES)
def test_a_name_has_an_offset_only_where_the_time_alone_would_mean_another(
    in_zone, zone, fold, gap
):
    in_zone(zone)
    naming = Naming("home-")
    for which in (0, 1):
        moment = fold.replace(fold=which, tzinfo=ZoneInfo(zone))
        moment = moment.astimezone(timezone.utc)
        name = naming.name_at(moment.astimezone(), ())
        assert ("+" in name or name.count("-") > 2) == bool(which)
        assert naming.time_of(name) == moment
    assert naming.name_at((gap + timedelta(days=1)).astimezone(), ()).count("-") == 2


@pytest.mark.parametrize(("zone", "fold", "gap"), ZONES)
def test_a_time_that_the_clock_skips_is_read_all_the_same(in_zone, zone, fold, gap):
    """Somebody may have named a snapshot by hand, or moved to another zone."""
    in_zone(zone)
    found = Naming("home-").time_of(f"home-{gap:%Y%m%d-%H%M%S}")
    assert found is not None
    around = gap.replace(tzinfo=ZoneInfo(zone)).astimezone(timezone.utc)
    assert abs(found - around) <= timedelta(hours=1)


@pytest.mark.parametrize(("zone", "fold", "gap"), ZONES)
def test_an_offset_decides_which_of_the_two_hours_is_meant(in_zone, zone, fold, gap):
    in_zone("UTC")
    for which in (0, 1):
        moment = fold.replace(fold=which, tzinfo=ZoneInfo(zone))
        name = f"home-{moment:%Y%m%d-%H%M%S%z}"
        assert Naming("home-").time_of(name) == moment.astimezone(timezone.utc)


def test_an_offset_may_be_followed_by_a_number():
    expected = datetime(2026, 11, 23, 8, 15, tzinfo=timezone.utc)
    for name in ("h-20261123-101500+0200", "h-20261123-101500+0200_1"):
        assert second_of(Naming("h-"), name) == expected


@pytest.mark.parametrize(
    "name",
    [
        "home-old-20261123-101500",
        "home20261123-101500",
        "Home-20261123-101500",
        "-20261123-101500",
        "20261123-101500",
        "home-20261123-101500 ",
        "home-20261123-101500\n",
        "home-20261123-101500_",
        "home-20261123-101500_x",
        "home-20261123-101500_12345",
        "home-20261123-101500_١",
        "home-20261123-101500_1_2",
        "home-20261123-101500.broken",
        "home-20261323-101500",
        "home-20260230-101500",
        "home-20261123-250000",
        "home-20261123-101560",
        "home-20261123-1015",
        "home-2026112-101500",
        "home-20261123_101500",
        "home-20261123-101500+02:00",
        "home-20261123-101500+2500",
        "home-20261123-101500Z",
        "home-٢٠٢٦١١٢٣-101500",
        "home-00000000-000000",
        "home-",
        "",
    ],
)
def test_what_is_not_exactly_our_form_is_not_ours(name):
    assert Naming("home-").time_of(name) is None


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("20261123T1015", datetime(2026, 11, 23, 10, 15)),
        ("20261123T101507Z", datetime(2026, 11, 23, 10, 15, 7)),
        ("20261123T101507+0200", datetime(2026, 11, 23, 8, 15, 7)),
        ("20261123T101507-0330_2", datetime(2026, 11, 23, 13, 45, 7)),
        ("20261123T1015_12", datetime(2026, 11, 23, 10, 15)),
    ],
)
def test_a_prefix_with_a_dot_continues_the_names_of_btrbk(in_zone, time, expected):
    in_zone("UTC")
    naming = Naming("home.")
    assert second_of(naming, f"home.{time}") == expected.replace(tzinfo=timezone.utc)
    assert split_name(f"home.{time}") == ("home.", naming.time_of(f"home.{time}"))
    for prefix, name in (("home-", f"home-{time}"), ("", time), ("home", time)):
        assert Naming(prefix).time_of(name) is None, "btrbk puts a dot there"


@pytest.mark.parametrize(
    "time",
    """20261123/20261123T10/20261123T1015+0100/20261123T101507/20261123T1015Z
    20261123T2515/20261123T1015.btrfs/20261123T101507+01:00/20261123t1015""".split("/"),
)
def test_what_is_not_exactly_the_form_of_btrbk_has_no_time(time):
    for name in time.split():
        assert Naming("home.").time_of(f"home.{name}") is None


def test_an_empty_prefix_takes_only_bare_times():
    naming = Naming("")
    assert naming.time_of("20261123-101500") and naming.time_of("20261123-101500_3")
    for name in ("home-20261123-101500", "x20261123-101500", "20261123", "1", ""):
        assert naming.time_of(name) is None


def test_a_prefix_is_no_pattern():
    assert Naming("h.me-").time_of("home-20261123-101500") is None
    assert Naming("[a]*").time_of("[a]*20261123-101500")


@given(
    st.text() | st.from_regex(r"home[.-][\d+_TZ-]{0,30}"), PREFIXES | st.just("home-")
)
def test_no_name_whatever_raises(name, prefix):
    for naming in (Naming(prefix), Naming("home-")):
        assert naming.time_of(name) is None or name.startswith(naming.prefix)


@pytest.mark.parametrize("year", ["0001", "9999"])
@pytest.mark.parametrize("offset", ["", "+1400", "-1200", "+0000"])
def test_the_ends_of_the_calendar_do_not_raise(year, offset):
    for day in ("0101-000000", "1231-235959"):
        Naming("").time_of(f"{year}{day}{offset}")


@pytest.mark.parametrize("prefix", ["a/b", "/", "nul\0", "x" * 236, "ü" * 120])
def test_a_prefix_that_no_name_can_have_is_refused(prefix):
    with pytest.raises(UsageError):
        Naming(prefix)


@pytest.mark.parametrize("prefix", ["", " ", "\n", "-", "x" * 230, "\udcff", "ü" * 115])
def test_any_other_prefix_makes_a_name_that_a_filesystem_takes(prefix):
    name = Naming(prefix).name_at(datetime.now().astimezone(), ())
    assert 0 < len(os.fsencode(f"{name}+0000_9999")) <= 255


@given(st.text(min_size=1), st.integers(0, 20))
def test_a_free_name_is_free_and_follows_the_one_asked_for(name, count):
    taken: set[str] = set()
    for _ in range(count):
        taken.add(free_name(name, taken))
    found = free_name(name, taken)
    assert found not in taken and len(taken) == count
    assert free_name(name, ()) == name


def test_a_free_name_counts_on_instead_of_adding_a_second_number():
    assert free_name("a_1", {"a_1"}) == "a_2"
    assert free_name("a", {"a", "a_1", "a_2"}) == "a_3"
    assert free_name("_", {"_"}) == "__1"
