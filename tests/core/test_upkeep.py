"""The upkeep of backups: each one has its turn, and a restore is tested in time."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btrfs_backup_ng.__util__ import UsageError
from btrfs_backup_ng.cli.config.jobs import plan_volumes
from btrfs_backup_ng.cli.config.keys import configuration_keys
from btrfs_backup_ng.core.configuration import parse_configuration
from btrfs_backup_ng.core.upkeep import (
    UPKEEP_KEYS,
    Upkeep,
    choose_longest_unverified,
)
from tests.core.making import START, made

KEYS = configuration_keys()
TEXT = """\
{top}
[targets.usb]
place = "/mnt/usb/{{volume}}"
{usb}
[targets.pipe]
place = "shell://cat"
{pipe}
[volumes.home]
source = "/home"
to = ["usb", "pipe"]
{home}
[volumes.home.at.usb]
{at}
"""


def upkeep(top: str = "", usb: str = "", home: str = "", at: str = "") -> Upkeep:
    text = TEXT.format(top=top, usb=usb, home=home, at=at, pipe="")
    (plan,) = plan_volumes(parse_configuration(text, "/c", KEYS))
    return plan.targets[0].upkeep


@given(st.integers(0, 40), st.integers(1, 12), st.data())
def test_each_backup_has_its_turn_within_so_many_runs(count, parts, data):
    snapshots = [made(number) for number in range(count)]
    old = data.draw(st.lists(st.sampled_from(snapshots), unique=True) if count else
                    st.just([]))  # fmt: skip
    last = {one.uuid: START + timedelta(hours=i) for i, one in enumerate(old)}
    turns = set()
    for run in range(parts):
        chosen = choose_longest_unverified(snapshots, parts, last)
        assert len(chosen) == -(-count // parts)
        assert [one for one in snapshots if one in chosen] == chosen
        waiting = {one.uuid for one in snapshots} - {one.uuid for one in chosen}
        oldest_left = min((last.get(uuid, START) for uuid in waiting), default=None)
        for one in chosen:
            seen = last.get(one.uuid)
            assert seen is None or oldest_left is None or seen <= oldest_left
        last |= {one.uuid: START + timedelta(days=10 + run) for one in chosen}
        turns |= {one.uuid for one in chosen}
    assert turns == {one.uuid for one in snapshots}


def test_the_most_special_setting_about_upkeep_counts():
    assert [key.name for key in UPKEEP_KEYS] == list(Upkeep.NAMES)
    assert upkeep() == Upkeep()
    every = {"verify": "auto/30", "restore-test": "monthly", "scratch": "/s"}
    top = "".join(f'{key} = "{value}"\n' for key, value in every.items())
    assert upkeep(top) == Upkeep(30, timedelta(days=30), "/s")
    for levels in ({"usb": "x"}, {"usb": "y", "home": "x"}, {"home": "y", "at": "x"}):
        lines = {
            level: f'verify = "auto/{7 if word == "x" else 9}"'
            for level, word in levels.items()
        }
        assert upkeep(top, **lines).verify == 7
    assert upkeep(top, usb='verify = "off"\nrestore-test = "off"') == Upkeep(
        scratch="/s"
    )
    for text, days in {"daily": 1, "weekly": 7, "36h": 1.5}.items():
        assert upkeep(f"{top}".replace("monthly", text)).restore_test == timedelta(days)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top": 'verify = "1/30"'}, "line 1 of /c: verify: '1/30' is no part"),
        ({"top": 'verify = "auto/0"'}, "'auto/0' is no part"),
        ({"usb": 'restore-test = "often"'}, "'often' is no time; expected daily, "),
        ({"home": 'restore-test = "0d"'}, "longer than zero"),
        ({"usb": 'scratch = "x"'}, "'x' is not an absolute path"),
        ({"usb": 'restore-test = "daily"'}, "line 4 .* needs a directory on btrfs"),
        ({"pipe": 'verify = "auto/3"'}, "cannot be looked at"),
    ],
)  # fmt: skip
def test_settings_about_upkeep_that_make_no_sense_are_errors(settings, message):
    levels = dict.fromkeys(("top", "usb", "pipe", "home", "at"), "") | settings
    with pytest.raises(UsageError, match=message):
        plan_volumes(parse_configuration(TEXT.format(**levels), "/c", KEYS))
