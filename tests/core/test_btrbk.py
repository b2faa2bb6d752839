"""What policies keep is what btrbk keeps, where both can say the same."""

import os
import random
from datetime import datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from btrfs_backup_ng.core.policy import DAYS, Policy, Unit, parse_policy
from btrfs_backup_ng.core.retention import judge
from tests.core.making import keep_by_name, made
from tests.support.btrbk import History, ask_btrbk

#: How many histories; more of them outside CI:  BBNG_HISTORIES=1000
COUNT = int(os.environ.get("BBNG_HISTORIES", "30"))
#: So many at once: btrbk compares each with each.
AT_ONCE = 30
UNITS = "hdwmy"


def random_history(
    chance: random.Random, now: datetime, units: str
) -> tuple[History, str]:
    """Make snapshots at odd times, and one policy in the words of both."""
    span = timedelta(days=chance.choice([2, 30, 400, 2000]))
    steps = [span * chance.random() ** chance.choice([1, 3]) for _ in range(40)]
    moments = {(now - step).replace(microsecond=0) for step in steps}
    counts = [
        f"{chance.choice(['*', *range(1, 10)])}{unit}"
        for unit in units
        if chance.random() < 0.6
    ]
    minimum = f"{chance.randint(1, 20)}{chance.choice(units)}"
    minimum = chance.choice(["latest", minimum])
    kept = minimum if minimum == "latest" else f"min={minimum}"
    history = History(sorted(moments), minimum, " ".join(counts) or "no")
    return history, " ".join([*counts, kept])


def kept_by_us(history: History, policy: Policy, now: datetime) -> set[datetime]:
    """Return what we keep."""
    snapshots = [
        made(number, created=moment, name=f"home-{moment:%Y%m%d-%H%M%S%z}")
        for number, moment in enumerate(history.moments)
    ]
    verdicts = judge(snapshots, [keep_by_name(policy, now)])
    return {v.snapshot.created for v in verdicts if v.kept and v.snapshot.created}


@pytest.mark.parametrize(
    ("zone", "units", "suffix"),
    [
        ("UTC", UNITS, " whole-weeks"),
        # Without that word, a month is one of the calendar.
        ("UTC", "hdw", ""),
        # An hour that the clock shows twice is one for btrbk, and two for us.
        ("Europe/Berlin", "dwmy", " whole-weeks"),
        ("America/New_York", "dwmy", " whole-weeks"),
        ("Australia/Lord_Howe", "dwmy", " whole-weeks"),
        ("UTC", UNITS, " whole-weeks week=sunday"),
        ("UTC", UNITS, " whole-weeks day=5h"),
        ("Europe/Berlin", "dwmy", " whole-weeks week=thursday day=23h"),
    ],
)
def test_it_keeps_what_btrbk_keeps(
    tmp_path: Path, zone: str, units: str, suffix: str
) -> None:
    chance = random.Random(f"{zone} {units}{suffix}")
    seconds = chance.randint(1_400_000_000, 2_000_000_000)
    now = datetime.fromtimestamp(seconds, timezone.utc)
    told = [random_history(chance, now, units) for _ in range(COUNT)]
    where = timezone.utc if zone == "UTC" else ZoneInfo(zone)
    rules = parse_policy("1d" + suffix, where)
    histories = [history for history, _ in told]
    theirs = [
        kept
        for at in range(0, COUNT, AT_ONCE)
        for kept in ask_btrbk(
            tmp_path,
            histories[at : at + AT_ONCE],
            now,
            zone,
            day=DAYS[rules.first_day],
            hour=rules.first_hour,
        )
    ]
    differing = 0
    for (history, words), expected in zip(told, theirs, strict=True):
        policy = parse_policy(words + suffix, where)
        ours = kept_by_us(history, policy, now)
        # The newest always stays with us.
        assert ours == expected | {history.moments[-1]}, (words, history, now)
        differing += len(ours) < len(history.moments)
    assert differing > COUNT / 2, "hardly anything was deleted"


def test_an_hour_that_comes_twice_is_kept_twice(tmp_path: Path) -> None:
    """Where btrbk keeps one snapshot of two hours, we keep more, never less."""
    berlin = ZoneInfo("Europe/Berlin")
    now = datetime(2026, 10, 25, 9, 30, tzinfo=berlin).astimezone(timezone.utc)
    moments = [now - timedelta(minutes=30) * n for n in reversed(range(30))]
    history = History(moments, "latest", "9h")
    (theirs,) = ask_btrbk(tmp_path, [history], now, "Europe/Berlin")
    policy = Policy(counts=((Unit.HOUR, 9),), zone=berlin)
    ours = kept_by_us(history, policy, now)
    twice = [m for m in ours if m.astimezone(berlin).hour == 2]
    assert len(twice) == 2 and len([m for m in theirs if m in twice]) == 1
