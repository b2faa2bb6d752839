"""Units of systemd: systemd reads them as they are meant."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from btrfs_backup_ng.__util__ import UsageError
from btrfs_backup_ng.core.units import (
    MARKER,
    Plan,
    cron_line,
    mount_unit,
    read_key,
    write_units,
)

#: Words that mean something to systemd, or to a shell.
HOSTILE = ["a b", "100%h", "$HOME", "${HOME}", '"', "'", "\\", ";", "\u00e4", "x\\"]


def verified(directory: Path, *names: str) -> str:
    """Let systemd judge units; return all that it says about how it reads them."""
    words = ["systemd-analyze", "verify", "--man=no", *names]
    env = {**os.environ, "SYSTEMD_UNIT_PATH": f"{directory}:"}
    for level in ("notice", "debug"):
        done = subprocess.run(
            words,
            env={**env, "SYSTEMD_LOG_LEVEL": level},
            cwd=directory,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert level == "debug" or done.stderr == ""
    return done.stdout


def test_systemd_reads_the_units_as_they_are_meant(tmp_path: Path):
    mount = "/mnt/a b-c/.x%"
    command = ("/bin/sh", "-c", *HOSTILE, "run")
    plans = [
        Plan(command=command, inhibitor="/usr/bin/env", volumes=("srv/a\\", "%n")),
        Plan(command=("/bin/true", "one"), is_users=True, calendar="*:0/30"),
        Plan(command=("/bin/true", "two"), calendar="", mount=mount, target="usb"),
    ]
    units = {k: v for plan in plans for k, v in write_units(plan).items()}
    assert len(units) == 5 and all(v.startswith(MARKER + "\n") for v in units.values())
    where = f"[Mount]\nWhat=/dev/null\nWhere={mount.replace('%', '%%')}\n"
    for name, text in (units | {mount_unit(mount): where}).items():
        (tmp_path / name).write_text(text)
    said = verified(tmp_path, *(f"./{name}" for name in units))
    lines = re.findall(r"^\s*Command Line: (.*)$", said, re.MULTILINE)
    started = [tuple(shlex.split(line.replace("\\$", "$"))) for line in lines]
    assert all(plan.command in started for plan in plans[1:])
    inhibited = [words for words in started if words[0] == "/usr/bin/env"]
    assert [words[-len(command) :] for words in inhibited] == [command]
    assert "Description: Back up srv/a\\, %n.\n" in said
    assert f"BindsTo: {mount_unit(mount)} " in said
    (service,) = write_units(plans[0]).keys() - {plans[0].starter}
    assert read_key(units[service], "Description") == "Back up srv/a\\, %n."


def test_the_unit_of_a_mount_has_its_name_by_the_rules_of_systemd():
    points = ["/", "/mnt/usb", "/mnt/a b-c", "/.x/.y", "/\u00e4%:_.z", "/a//b/"]
    done = subprocess.run(
        ["systemd-escape", "--path", "--suffix=mount", *points],
        capture_output=True,
        text=True,
        check=True,
    )
    assert [mount_unit(point) for point in points] == done.stdout.split()


def test_each_choice_of_volumes_has_a_timer_of_its_own():
    choices: list[tuple[str, ...]] = [(), ("a",), ("a", "b"), ("a-b",), ("a/b",)]
    plans = [
        Plan(command=("/p",), volumes=volumes, mount=mount, target=target)
        for volumes in [*choices, ("on-usb",)]
        for mount, target in (("", ""), ("/m", "usb"), ("/m", "usb-a"))
    ]
    assert len({plan.name for plan in plans}) == len(plans) == 18
    with pytest.raises(UsageError, match="too many volumes"):
        write_units(Plan(command=("/p",), volumes=("\u00e4" * 50,)))


@pytest.mark.parametrize("word", ["a\nExecStart=/bin/sh", "\udcff", "\x1b[2J"])
def test_a_word_that_no_unit_can_have_is_refused(word: str):
    for plan in (Plan(command=("/p", word)), Plan(command=("/p",), volumes=(word,))):
        with pytest.raises(UsageError, match="cannot be written into a unit"):
            write_units(plan)
    with pytest.raises(UsageError, match="quotes in its path"):
        write_units(Plan(command=('/opt/"x"/p',)))


def test_cron_gets_a_line_that_its_shell_reads_as_it_is_meant():
    line = cron_line(Plan(command=("/p", *HOSTILE)))
    *times, user, command = line.split(" ", 6)
    assert (times, user) == (["15", "*", "*", "*", "*"], "root")
    # cron(8) takes a percent sign without a backslash for a new line.
    assert "%" not in command.replace("\\%", "")
    words = ("/p", *HOSTILE, "-q")
    assert tuple(shlex.split(command.replace("\\%", "%"))) == words
    own = cron_line(Plan(command=("/p",), calendar="daily", is_users=True))
    assert own == "15 3 * * * /p -q"
    assert cron_line(Plan(command=("/p",), calendar="*:0/30")) == ""
    assert cron_line(Plan(command=("/p",), mount="/m", target="usb")) == ""
