"""The file for Prometheus: each line has the text format, whatever the names are."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from btrfs_backup_ng.__util__ import BackupError, UsageError
from btrfs_backup_ng.actions.status import Word
from btrfs_backup_ng.cli.commands.status.metrics import metrics
from btrfs_backup_ng.cli.whole_file import replace_whole
from btrfs_backup_ng.session.history import Record, runs_of
from tests.support.command_line import covers
from tests.support.statuses import HOSTILE, NOW, entry

_NAME = "[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = r'([a-zA-Z_]\w*)="((?:[^"\\\n]|\\["\\n])*)"'
_SAMPLE = re.compile(rf"({_NAME})(?:\{{({_LABEL}(?:,{_LABEL})*)\}})? (\S+)")

Sample = tuple[str, tuple[tuple[str, str], ...]]


def parse(text: str) -> dict[Sample, float]:
    """Read the text format as strictly as its description is."""
    assert text.endswith("\n") and "\r" not in text
    found: dict[Sample, float] = {}
    done: list[str] = []
    for line in text.removesuffix("\n").split("\n"):
        if header := re.fullmatch(rf"# HELP ({_NAME}) (?:[^\\]|\\[\\n])+", line):
            assert header[1] not in done, "the lines of a metric are together"
            done.append(header[1])
            typed = False
        elif line.startswith("# "):
            assert line == f"# TYPE {done[-1]} gauge" and not typed
            typed = True
        else:
            sample = _SAMPLE.fullmatch(line)
            assert sample and sample[1] == done[-1] and typed, line
            key = sample[1], tuple(_pairs(sample[2] or ""))
            assert key not in found, "no set of labels comes twice"
            found[key] = float(sample[len(sample.groups())])
    return found


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for name, value in re.findall(_LABEL, text):
        yield name, re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), value)


def of(name: str, volume: str, target: str, place: str, **more: str) -> Sample:
    labels = {"volume": volume, "target": target, "place": place, **more}
    return f"btrfs_backup_ng_{name}", tuple(labels.items())


@covers("--metrics")
def test_each_place_has_its_values():
    minute = timedelta(minutes=1)
    sent = Record(NOW - minute, "/home", "f", "/mnt/usb", "a", "a", size_bytes=5)
    run, bad = runs_of(
        [
            sent,
            Record(**{**vars(sent), "name": "b", "size_bytes": 7, "resumed_bytes": 3}),
            Record(NOW, "/home", "f", "/mnt/usb", error="no luck"),
        ]
    )
    hour = timedelta(hours=1)
    names: dict[str, Any] = {"volume": "home", "target": "usb", "max_age": 2 * hour}
    entries = [
        entry(Word.OK, hour, last_run=run, **names),
        entry(Word.FAILED, place="/mnt/b", last_run=bad),
        entry(Word.FAILED, place="/mnt/b", last_run=bad),
    ]
    found = parse(metrics(entries, NOW))
    at = ("home", "usb", "/mnt/usb")
    assert found[of("newest_age_seconds", *at)] == 3600
    assert found[of("newest_timestamp_seconds", *at)] == NOW.timestamp() - 3600
    assert found[of("max_age_seconds", *at)] == 7200
    assert found[of("last_run_sent_bytes", *at)] == 9
    assert found[of("last_run_success", *at)] == found[of("fine", *at)] == 1
    assert found[of("free_bytes", *at)] == 3 << 30
    assert found[of("state", *at, state="ok")] == 1
    assert found[of("state", *at, state="failed")] == 0
    other = ("", "", "/mnt/b")
    assert found[of("last_run_success", *other)] == 0
    assert found[of("last_run_timestamp_seconds", *other)] == NOW.timestamp()
    assert of("newest_age_seconds", *other) not in found
    assert found["btrfs_backup_ng_status_timestamp_seconds", ()] == NOW.timestamp()


def test_no_name_ends_its_label():
    found = parse(metrics([entry(Word.OK, place=HOSTILE, target=HOSTILE)], NOW))
    shown = r"a\"b'c\d\ne|f=g<script>&\x1b[31m\xff".replace(r"\"", '"')
    assert found[of("state", "", shown, shown, state="ok")] == 1


def test_a_file_is_replaced_in_one_step_or_not_at_all(tmp_path: Path):
    path = tmp_path / "backup.prom"
    replace_whole(str(path), "old\n")
    with path.open() as reader:
        replace_whole(str(path), "new\n")
        assert (reader.read(), path.read_text()) == ("old\n", "new\n")
    assert os.listdir(tmp_path) == [path.name]
    assert path.stat().st_mode & 0o777 == 0o644 & ~_umask()
    link = tmp_path / "link"
    link.symlink_to(path)
    for other, error in (
        (link, UsageError),
        (tmp_path, UsageError),
        (Path("/dev/null"), UsageError),
        (tmp_path / "no" / "x", BackupError),
        (Path(f"{tmp_path}/a\0b"), BackupError),
    ):
        with pytest.raises(error):
            replace_whole(str(other), "lost\n")
    with pytest.raises(BackupError):
        replace_whole(str(path), "\udcff")
    assert path.read_text() == "new\n" and link.is_symlink()
    assert sorted(os.listdir(tmp_path)) == [path.name, "link"]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
