"""The line for Nagios: a text, a bar, and a value for each place."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from btrfs_backup_ng.actions.status import Standing, Word
from btrfs_backup_ng.cli.commands.status.check import Severity, check, unknown
from btrfs_backup_ng.session.history import Last, Record
from tests.support.command_line import covers, must
from tests.support.program import run_program
from tests.support.statuses import HOSTILE, NOW, entry

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
#: A value, as the guidelines for plugins write it.
VALUE = r"'((?:[^'=|\n]|'')+)'=(U|\d+s);(\d*);(\d*);0"


def _arrived(age: timedelta) -> Last:
    return Last(arrived=Record(NOW - age, "/home", "f", "/mnt/usb", "x", "x"))


@pytest.mark.parametrize(
    ("word", "age", "more", "severity"),
    [
        (Word.OK, HOUR, {}, Severity.OK),
        (Word.RUNNING, HOUR, {}, Severity.OK),
        (Word.OK, 8 * DAY, {}, Severity.CRITICAL),
        (Word.RUNNING, 8 * DAY, {}, Severity.CRITICAL),
        (Word.STALE, 3 * DAY, {}, Severity.WARNING),
        (Word.STALE, 8 * DAY, {}, Severity.CRITICAL),
        (Word.WAITING, HOUR, {}, Severity.WARNING),
        (Word.FAILED, HOUR, {}, Severity.CRITICAL),
        (Word.NEVER, None, {}, Severity.CRITICAL),
        (Word.AWAY, None, {}, Severity.UNKNOWN),
        (Word.AWAY, None, {"last": _arrived(HOUR)}, Severity.UNKNOWN),
        (Word.AWAY, None, {"last": _arrived(8 * DAY)}, Severity.CRITICAL),
        (Word.AWAY, None, {"is_optional": True}, Severity.WARNING),
        (
            Word.AWAY,
            None,
            {"is_optional": True, "last": _arrived(HOUR)},
            Severity.OK,
        ),
    ],
)
def test_the_state_of_one_place(word, age, more, severity):
    found = entry(word, age, max_age=2 * DAY, **more)
    level, line = check([found, entry(Word.OK, HOUR)], 7 * DAY, NOW)
    assert level is severity
    assert line.startswith(f"BACKUP {severity.name}: ")
    is_named = f"/mnt/usb is {word.value}" in line
    assert is_named == (severity is not Severity.OK)


def test_the_worst_state_counts_and_all_values_are_there():
    entries = [
        entry(Word.AWAY, place="/mnt/a"),
        entry(Word.STALE, 3 * DAY, volume="home", target="usb", max_age=2 * DAY),
        entry(Word.OK, HOUR, volume="home", target="nas"),
    ]
    level, line = check(entries, 7 * DAY, NOW)
    text, _, data = line.partition(" | ")
    assert level is Severity.WARNING
    assert text == (
        "BACKUP WARNING: home at usb is STALE, 3 days old; /mnt/a is AWAY; 1 of 3 fine"
    )
    assert re.findall(VALUE, data) == [
        ("/mnt/a", "U", "", "604800"),
        ("home at usb", "259200s", "172800", "604800"),
        ("home at nas", "3600s", "", "604800"),
    ]
    _, line = check(entries[2:], None, NOW)
    assert line.startswith("BACKUP OK: 1 of 1 fine; the oldest is 60 min old | ")


def test_no_name_or_message_can_add_a_line_or_a_value():
    failed = Last(failed=(Record(NOW, "/h", "f", "/mnt/usb", error=f"\n{HOSTILE}"),))
    entries = [
        entry(Word.FAILED, HOUR, place=f"/mnt/{HOSTILE}", last=failed),
        entry(Word.AWAY, standing=Standing(Word.AWAY, reason=HOSTILE)),
    ]
    for line in (check(entries, None, NOW)[1], unknown(HOSTILE)):
        assert line.isprintable() and line.count("|") == (line.startswith("BACKUP C"))
        _, _, data = line.partition(" | ")
        assert re.fullmatch(f"({VALUE} ?)*", data)


@covers("--check", "--warn", "--crit")
def test_an_error_is_unknown_and_has_a_line_on_stdout(tmp_path):
    for words, reason in (
        (["--crit", "x"], "--max-age: 'x' is not a duration; write it like 14d"),
        (["--warn", "2d", "--crit", "1d"], "--crit is a shorter time than --warn"),
        (["--json"], "--check prints a line of its own; leave out --json"),
        (["--forget", "/"], "--check prints a line of its own; leave out --forget"),
        (["shell://x"], "shell:// destinations cannot be listed"),
    ):
        done = must(run_program("status", "--check", *words), 3)
        assert (done.stdout, done.stderr) == (f"BACKUP UNKNOWN: {reason}\n", "")
    assert run_program("status", "--warn", "2d", tmp_path).returncode == 2
    done = must(run_program("status", "--check", "--crit", "1d", tmp_path / "no"), 3)
    away = rf"BACKUP UNKNOWN: {tmp_path}/no is AWAY \({tmp_path}/no does not exist\); "
    assert re.match(away + "0 of 1 fine", done.stdout)
