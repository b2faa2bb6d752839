"""The snapshots that btrbk would keep, without any filesystem.

btrbk asks ``cat`` for the mounts, ``readlink`` for paths and ``btrfs`` for subvolumes;
stand-ins answer with a filesystem that does not exist. Its clock is Perl's ``time``.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID

BTRBK = "/usr/bin/btrbk"
_MOUNTS = """\
25 1 0:42 / /pool rw,relatime shared:1 - btrfs /dev/pool rw,subvolid=5,subvol=/
1 0 0:1 / / rw,relatime - ext4 /dev/root rw
"""
_VERDICT = re.compile(
    r"^format=\"schedule\" topic='snapshot' action='(\w*)'"
    r" url='/pool/snapshots/s(\d+)\.(\S+?)'",
    re.MULTILINE,
)
_DELETED = re.compile(
    r"^format=\"schedule\" .* action='delete' url='(?:ssh://[^/]*)?(/\S+?)'",
    re.MULTILINE,
)
_FORMAT = "%Y%m%dT%H%M%S%z"


@dataclass(frozen=True)
class History:
    """Snapshots of one subvolume, and the policy of btrbk for them.

    :ivar moments: their times, all different, in whole seconds.
    :ivar minimum: ``snapshot_preserve_min``.
    :ivar preserve: ``snapshot_preserve``.
    """

    moments: Sequence[datetime]
    minimum: str
    preserve: str


def ask_btrbk(
    directory: Path,
    histories: Sequence[History],
    now: datetime,
    zone: str,
    *,
    day: str = "monday",
    hour: int = 0,
) -> list[set[datetime]]:
    """Return the snapshots that btrbk keeps of each history at a moment, in one call.

    :param directory: an empty one, for its files.
    :param day: with which its weeks begin.
    :param hour: with which its days begin.
    """
    sources, listed = _describe(histories)
    _write_answers(directory, sources, listed)
    config = ["timestamp_format long-iso", "snapshot_create no"]
    config += [f"preserve_day_of_week {day}", f"preserve_hour_of_day {hour}"]
    config += ["volume /pool", "snapshot_dir snapshots"]
    for number, history in enumerate(histories):
        config += [f"subvolume s{number}"]
        config += [f"snapshot_preserve_min {history.minimum}"]
        config += [f"snapshot_preserve {history.preserve}"]
    (directory / "config").write_text("\n".join(config) + "\n")
    words = ["-n", "-S", "--format=raw", "prune"]
    told_all = run_btrbk(directory, words, now, zone)
    told: list[dict[datetime, bool]] = [{} for _ in histories]
    for action, number, stamp in _VERDICT.findall(told_all):
        told[int(number)][datetime.strptime(stamp, _FORMAT)] = action != "delete"
    for history, verdicts in zip(histories, told, strict=True):
        assert set(verdicts) == set(history.moments), "btrbk did not judge all"
    return [{m for m, stays in verdicts.items() if stays} for verdicts in told]


def run_btrbk(directory: Path, words: Sequence[str], now: datetime, zone: str) -> str:
    """Run btrbk at a moment, and return what it prints.

    :param directory: with the file ``config``; its programs are first in PATH.
    """
    (directory / "FixedTime.pm").write_text(
        "package FixedTime; BEGIN { *CORE::GLOBAL::time = sub () {"
        f" {int(now.timestamp())} }} }} 1;\n"
    )
    done = subprocess.run(
        [BTRBK, "-c", directory / "config", *words],
        env={
            "PATH": f"{directory}:/usr/sbin:/usr/bin:/sbin:/bin",
            "TZ": zone,
            "PERL5OPT": f"-I{directory} -MFixedTime",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, ""), (done.stdout, done.stderr)
    return done.stdout


def deleted_by(printed: str) -> set[str]:
    """Return the paths that a dry run with ``-S --format=raw`` says it would delete."""
    return set(_DELETED.findall(printed))


def _describe(histories: Sequence[History]) -> tuple[list[str], list[str]]:
    """Write the lines of ``btrfs subvolume list`` for sources and their snapshots."""
    sources, snapshots = [], []
    number = 1000
    for index, history in enumerate(histories):
        number += 1
        source = number
        sources.append(_line(source, f"s{index}", "-"))
        for moment in history.moments:
            number += 1
            path = f"snapshots/s{index}.{moment.strftime(_FORMAT)}"
            snapshots.append(_line(number, path, str(UUID(int=source))))
    return sources, snapshots


def _line(number: int, path: str, parent: str) -> str:
    return (
        f"ID {number} gen {number} cgen {number} top level 5 parent_uuid {parent:<36}"
        f" received_uuid {'-':<36} uuid {UUID(int=number)} path {path}\n"
    )


def _write_answers(directory: Path, sources: list[str], snapshots: list[str]) -> None:
    read_only = "".join(
        re.sub(r"cgen \d+ |parent_uuid .* (?=path)", "", line) for line in snapshots
    )
    (directory / "mounts").write_text(_MOUNTS)
    (directory / "list").write_text("".join(sources + snapshots))
    (directory / "read-only").write_text(read_only)
    fields = {"Name": "<FS_TREE>", "UUID": UUID(int=5), "Parent UUID": "-"}
    fields |= {"Received UUID": "-", "Creation time": "2020-01-01 00:00:00 +0000"}
    fields |= {"Subvolume ID": 5, "Generation": 999999, "Gen at creation": 0}
    fields |= {"Parent ID": 0, "Top level ID": 0, "Flags": "-", "Snapshot(s)": ""}
    shown = "".join(f"\t{key}: \t\t\t{value}\n" for key, value in fields.items())
    (directory / "show").write_text(f"/\n{shown}")
    stand_ins = {
        "cat": f"exec /bin/cat {directory}/mounts",
        "readlink": 'for last; do :; done; echo "${last%/}"',
        "btrfs": f"""case "$*" in
            "subvolume show "*) exec /bin/cat {directory}/show;;
            "subvolume list -a -r "*) exec /bin/cat {directory}/read-only;;
            "subvolume list "*) exec /bin/cat {directory}/list;;
            *) exit 1;; esac""",
    }
    for name, text in stand_ins.items():
        path = directory / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
