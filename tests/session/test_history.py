"""What happened is remembered, bounded, and never in anybody's way."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btrfs_backup_ng.core.value import replace
from btrfs_backup_ng.session import history
from btrfs_backup_ng.session.deed import Act, Deed, deed
from btrfs_backup_ng.session.history import (
    HISTORY,
    Entry,
    History,
    HistoryUnreadable,
    KnownPlace,
    Record,
    forget,
    format_entry,
    format_record,
    known_places,
    last_at,
    parse_entry,
    read_entries,
    read_history,
    sizes_sent,
    state_directory,
)
from tests.support.staged import locked

NOW = datetime(2026, 11, 26, 12, tzinfo=timezone.utc)
RECORD = Record(
    time=NOW,
    source="/home",
    folder=".btrfs-backup-ng/snapshots",
    destination="/mnt/usb",
    name="x-20261126-120000",
    target="x-20261126-120000",
    origin=UUID(int=1),
    parent="",
    size_bytes=1234,
)
_TEXTS = st.text(max_size=40) | st.binary(max_size=40).map(os.fsdecode)
_NUMBERS = st.integers(0, 2**63)


def _path(directory: Path) -> Path:
    return directory / HISTORY


def _write(directory: Path, *records: Entry) -> None:
    log = History(str(directory))
    for record in records:
        log.add(record)


def _names(directory: Path) -> list[str]:
    return [record.name for record in read_history(str(directory))]


def _numbered(count: int) -> list[Record]:
    return [replace(RECORD, name=f"x-{number}") for number in range(count)]


@given(
    st.builds(
        Record,
        time=st.datetimes().map(lambda t: t.replace(microsecond=0, tzinfo=NOW.tzinfo)),
        source=_TEXTS,
        folder=_TEXTS,
        destination=_TEXTS,
        name=_TEXTS,
        target=_TEXTS,
        origin=st.none() | st.uuids(),
        parent=_TEXTS,
        size_bytes=st.none() | _NUMBERS,
        resumed_bytes=_NUMBERS,
        elapsed_s=st.integers(0, 10**6).map(float),
        error=_TEXTS,
    )
)
def test_a_record_is_read_as_it_was_written(record: Record) -> None:
    line = format_record(record)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert parse_entry(line) == record


@given(
    st.builds(
        Deed,
        time=st.datetimes().map(lambda t: t.replace(microsecond=0, tzinfo=NOW.tzinfo)),
        place=_TEXTS,
        act=st.sampled_from(Act),
        how=_TEXTS,
        count=_NUMBERS,
        first=_TEXTS,
        last=_TEXTS,
        error=_TEXTS,
    )
)
def test_a_deed_is_read_as_it_was_written(one: Deed) -> None:
    line = format_entry(one)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert parse_entry(line) == one


def test_a_deed_changes_nothing_about_the_outcomes_of_runs(tmp_path: Path) -> None:
    failed = replace(RECORD, error="no")
    deeds = [deed(NOW, "/mnt/usb", act, ["x-1", "x-2"]) for act in Act]
    _write(tmp_path, failed, *deeds)
    assert read_entries(str(tmp_path)) == [failed, *deeds]
    records = read_history(str(tmp_path))
    assert records == [failed] and last_at(records, "/mnt/usb").failed == (failed,)
    # A version of the program that knows fewer kinds of lines keeps the others.
    lines = [
        json.loads(line) for line in (format_record(failed), *map(format_entry, deeds))
    ]
    assert [line["version"] for line in lines] == [1, 2, 2, 3]
    assert forget(str(tmp_path), "/mnt/usb") == 1 + len(Act)
    assert read_entries(str(tmp_path)) == []


@given(st.binary(max_size=60), st.integers(0, 300))
def test_damage_is_an_error_and_nothing_else(noise: bytes, at: int) -> None:
    line = format_record(RECORD)
    at = min(at, len(line) - 2)
    for damaged in (noise, line[:at], line[:at] + noise + line[at + 1 :]):
        try:
            parse_entry(damaged)
        except ValueError:
            continue
        json.loads(damaged)  # what is read is JSON, be it of another version


@pytest.mark.parametrize(
    "change",
    [{"time": 5}, {"source": None}, {"size_bytes": "1"}, {"origin": "no"}]
    + [{"size_bytes": True}, {"elapsed_s": None}, {"time": "2026-13-01"}],
)
def test_a_field_of_another_kind_is_damage(change: dict[str, object]) -> None:
    fields = {**json.loads(format_record(RECORD)), **change}
    with pytest.raises(ValueError):
        parse_entry(json.dumps(fields).encode())


def test_the_file_is_for_nobody_else(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "state"
    assert read_history(str(directory)) == []
    assert not directory.exists()
    _write(directory, RECORD)
    assert read_history(str(directory)) == [RECORD]
    assert stat.S_IMODE(_path(directory).stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_torn_last_line_is_ignored_and_gone_with_the_next(tmp_path: Path) -> None:
    _write(tmp_path, *_numbered(2))
    with open(_path(tmp_path), "ab") as file:
        file.write(format_record(RECORD)[:50])
    assert _names(tmp_path) == ["x-0", "x-1"]
    _write(tmp_path, replace(RECORD, name="x-2"))
    assert _names(tmp_path) == ["x-0", "x-1", "x-2"]
    assert os.listdir(tmp_path) == [HISTORY]


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: bytes(len(line)),
        lambda line: line[:100],
        lambda line: line[100:],
        lambda line: line[:100] + b"\xff" + line[100:],
        lambda line: line.replace(b"version", b"vers\0on"),
        lambda line: b"",
    ],
)
def test_damage_is_moved_aside_and_what_is_good_goes_on(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[bytes], bytes],
) -> None:
    _write(tmp_path, *_numbered(3))
    lines = _path(tmp_path).read_bytes().splitlines(keepends=True)
    lines[1] = damage(lines[1].rstrip(b"\n")) + b"\n"
    damaged = b"".join(lines)
    _path(tmp_path).write_bytes(damaged)
    assert _names(tmp_path) == ["x-0", "x-2"]
    assert "1 damaged line" in caplog.text
    assert _path(tmp_path).read_bytes() == damaged, "reading changes nothing"
    caplog.clear()
    log = History(str(tmp_path))
    for record in _numbered(2):
        log.add(record)
    assert caplog.text.count("damaged") == 1
    assert _names(tmp_path) == ["x-0", "x-2", "x-0", "x-1"]
    (aside,) = set(os.listdir(tmp_path)) - {HISTORY}
    assert aside == f"{HISTORY}.unreadable-20261126T120000Z"
    assert (tmp_path / aside).read_bytes() == damaged


def test_however_long_it_is_a_run_does_not_parse_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deeds = [deed(NOW, "/mnt/usb", act, ["x-1", "x-2"]) for act in Act]
    _write(tmp_path, *_numbered(3), *deeds)
    with monkeypatch.context() as patched:
        patched.setattr(history, "parse_versions", lambda *_: 1 / 0)
        _write(tmp_path, RECORD)
    assert len(read_entries(str(tmp_path))) == 3 + len(Act) + 1


def test_what_a_newer_version_wrote_is_ignored_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = b'{"version": 4, "new": "words"}\n'
    _path(tmp_path).write_bytes(newer)
    _write(tmp_path, RECORD)
    assert _path(tmp_path).read_bytes().startswith(newer)
    assert read_history(str(tmp_path)) == [RECORD]
    monkeypatch.setattr(history, "LIMIT_BYTES", 4000)
    _write(tmp_path, *_numbered(7))
    with open(_path(tmp_path), "ab") as file:
        file.write(newer)
    _write(tmp_path, *_numbered(3))
    assert newer in _path(tmp_path).read_bytes()


def test_it_stays_bounded_and_keeps_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "LIMIT_BYTES", 20_000)
    records = _numbered(200)
    sizes = []
    log = History(str(tmp_path))
    for record in records:
        log.add(record)
        sizes.append(_path(tmp_path).stat().st_size)
    assert 10_000 < max(sizes) <= 20_000
    kept = read_history(str(tmp_path))
    assert kept == records[-len(kept) :]
    assert len(kept) >= 20
    assert os.listdir(tmp_path) == [HISTORY]


def test_the_last_delivery_to_a_place_that_is_away_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its backups are as old as that, and are reported in time: on the 33rd day."""
    monkeypatch.setattr(history, "LIMIT_BYTES", 20_000)
    away = [replace(RECORD, destination=f"/mnt/{name}") for name in ("one", "two")]
    older = [replace(one, time=NOW - timedelta(days=1)) for one in away]
    failed = [replace(one, time=NOW + timedelta(days=1), error="no") for one in away]
    log = History(str(tmp_path))
    for record in (*older, *away, *failed, *_numbered(300)):
        log.add(record)
        assert _path(tmp_path).stat().st_size <= 20_000
    kept = read_history(str(tmp_path))
    assert kept[: len(away)] == away and older[0] not in kept
    for one in away:
        assert last_at(kept, one.destination).arrived == one
    # However many they are, there is room for what comes.
    for number in range(300):
        log.add(replace(RECORD, destination=f"/mnt/{number}"))
        assert _path(tmp_path).stat().st_size <= 20_000


def test_runs_side_by_side_lose_nothing(tmp_path: Path) -> None:
    def run(source: str) -> None:
        _write(tmp_path, *(replace(r, source=source) for r in _numbered(40)))

    threads = [threading.Thread(target=run, args=(f"/{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = read_history(str(tmp_path))
    for number in range(4):
        mine = [record.name for record in found if record.source == f"/{number}"]
        assert mine == [record.name for record in _numbered(40)]


def _link(path: Path) -> None:
    (path.parent / "victim").write_text("precious")
    path.symlink_to(path.parent / "victim")


@pytest.mark.parametrize("make", [_link, os.mkfifo, Path.mkdir])
def test_what_is_no_file_of_ours_is_moved_and_never_written_to(
    tmp_path: Path, make: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    make(_path(tmp_path))
    with pytest.raises(HistoryUnreadable, match="cannot be read"):
        read_history(str(tmp_path))
    _write(tmp_path, RECORD, RECORD)
    assert "moved to" in caplog.text
    assert read_history(str(tmp_path)) == [RECORD, RECORD]
    if make is _link:
        assert (tmp_path / "victim").read_text() == "precious"


def test_what_cannot_be_written_is_told_once_and_is_no_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    _write(tmp_path / "file" / "state", *_numbered(3))
    assert caplog.text.count("cannot be written") == 1
    caplog.clear()
    monkeypatch.setattr(history, "WAIT_S", 0.1)
    with locked(tmp_path):  # by a process that does not go on
        _write(tmp_path, RECORD)
    assert caplog.text.count("cannot be written") == 1
    assert read_history(str(tmp_path)) == []


def test_a_full_disk_leaves_no_half_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path, RECORD)
    before = _path(tmp_path).read_bytes()
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:30]))
    _write(tmp_path, RECORD)
    assert _path(tmp_path).read_bytes() == before


@pytest.mark.parametrize(
    ("user", "variables", "expected"),
    [
        (0, {}, "/var/lib/btrfs-backup-ng"),
        (0, {"XDG_STATE_HOME": "/x"}, "/var/lib/btrfs-backup-ng"),
        (5, {"XDG_STATE_HOME": "/x"}, "/x/btrfs-backup-ng"),
        (5, {"XDG_STATE_HOME": "x"}, "/h/.local/state/btrfs-backup-ng"),
        (5, {}, "/h/.local/state/btrfs-backup-ng"),
        (0, {"BTRFS_BACKUP_NG_STATE": "/s"}, "/s"),
    ],
)
def test_where_it_is(
    user: int,
    variables: dict[str, str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("XDG_STATE_HOME", "BTRFS_BACKUP_NG_STATE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/h", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert state_directory() == expected


def test_what_it_tells() -> None:
    later = NOW + timedelta(hours=1)
    failed = replace(RECORD, time=later, size_bytes=None, error="no luck")
    unmade = replace(failed, origin=None)
    other = replace(RECORD, destination="ssh://nas/b", folder="/f", size_bytes=7)
    command = replace(RECORD, destination="shell://cat >x")
    chained = replace(RECORD, source="/mnt/usb", destination="/z", folder="")
    records = [RECORD, failed, unmade, command, chained, other]
    assert sizes_sent(records) == {
        ("/mnt/usb", UUID(int=1)): 1234,
        ("ssh://nas/b", UUID(int=1)): 7,
        ("shell://cat >x", UUID(int=1)): 1234,
        ("/z", UUID(int=1)): 1234,
    }
    assert known_places(records) == [
        KnownPlace("/home", "/f"),
        KnownPlace("/mnt/usb"),
        KnownPlace("ssh://nas/b"),
        KnownPlace("/z"),
    ]
    last = last_at(records, "/mnt/usb")
    assert (last.arrived, last.failed) == (RECORD, (unmade,))
    last = last_at([failed, RECORD], "/mnt/usb")
    assert (last.arrived, last.failed) == (RECORD, ())
    assert last_at(records, "/nowhere") == history.Last()


def test_the_last_run_of_each_source_decides_with_all_that_it_did() -> None:
    later = NOW + timedelta(hours=1)
    lost = replace(RECORD, time=later, error="no luck")
    here = replace(lost, destination="", name="")
    arrived = replace(RECORD, time=later)
    other = replace(RECORD, source="/srv", time=later)
    for records, failed in (
        ([RECORD, lost, arrived], [lost]),  # one of two did not arrive
        ([RECORD, lost, other], [lost]),
        ([lost, replace(RECORD, time=later + timedelta(minutes=1))], []),
        ([lost, replace(here, time=later + timedelta(minutes=1))], []),
        ([RECORD, lost, RECORD], []),  # a long run goes on after one that was refused
        ([RECORD, here], []),
    ):
        if records[-1].destination:
            assert last_at(records, "/mnt/usb").failed == tuple(failed)
    assert last_at([RECORD, here], "/home").failed == (here,)
    assert last_at([RECORD, here, arrived], "/home").failed == (here,)
    assert last_at([here, RECORD], "/home").failed == ()
    assert last_at([RECORD, lost], "/home").failed == ()


def test_a_place_is_forgotten_and_nothing_else(tmp_path: Path) -> None:
    assert forget(str(tmp_path / "none"), "/home") == 0
    other = replace(RECORD, source="/srv", destination="/home")
    kept = replace(RECORD, source="/srv")
    _write(tmp_path, RECORD, other, kept)
    newer = b'{"version": 4, "source": "/home"}\n'
    with open(_path(tmp_path), "ab") as file:
        file.write(newer + b"\0 /home\n")
    assert forget(str(tmp_path), "/home") == 2
    assert read_history(str(tmp_path)) == [kept]
    assert _path(tmp_path).read_bytes().endswith(newer + b"\0 /home\n")
    assert forget(str(tmp_path), "/home") == 0
    os.mkdir(tmp_path / "d")
    os.mkdir(_path(tmp_path / "d"))
    with pytest.raises(HistoryUnreadable):
        forget(str(tmp_path / "d"), "/home")
