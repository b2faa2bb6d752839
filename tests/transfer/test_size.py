"""A dry run tells how much is going to be sent."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from uuid import uuid4

import pytest

from btrfs_backup_ng.core.location import Location, Scheme
from btrfs_backup_ng.core.model import Snapshot
from btrfs_backup_ng.endpoint.local import local_place
from btrfs_backup_ng.transfer.size import quick_stream_size, stream_size
from btrfs_backup_ng.wire import verbs
from tests.conftest import MakesFilesystems
from tests.support.places import wrapper
from tests.support.program import run_program

pytestmark = pytest.mark.btrfs

MIB = 1 << 20
NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


def _write(path: Path, size: int, seed: int = 0) -> None:
    path.write_bytes(random.Random(seed).randbytes(size))


def _new(top: Path) -> None:
    _write(top / "new", 5 * MIB + 77)


def _overwritten(top: Path) -> None:
    with open(top / "large", "r+b") as file:
        for at in (0, 3 * MIB + 5, 7 * MIB):
            file.seek(at)
            file.write(random.Random(at).randbytes(MIB // 2))


def _renamed(top: Path) -> None:
    (top / "large").rename(top / "directory" / "moved")
    (top / "directory").rename(top / "other")


def _reflinked(top: Path) -> None:
    files = os.fspath(top / "large"), os.fspath(top / "clone")
    subprocess.run(["cp", "--reflink=always", *files], check=True)
    _write(top / "beside", 2 * MIB)


def _deleted(top: Path) -> None:
    (top / "large").unlink()
    shutil.rmtree(top / "directory")


def _sparse(top: Path) -> None:
    with open(top / "sparse", "wb") as file:
        for at in range(0, 200 * MIB, 20 * MIB):
            file.seek(at)
            file.write(random.Random(at).randbytes(100_000))
        file.truncate(500 * MIB)


def _preallocated(top: Path) -> None:
    with open(top / "preallocated", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 8 * MIB)
        file.write(random.Random(1).randbytes(MIB))


def _compressed(top: Path) -> None:
    (top / "text").write_bytes(
        b"".join(b"%d compresses well\n" % n for n in range(400_000))
    )
    _write(top / "noise", MIB)
    (top / "short").write_bytes(b"y" * 3000)
    os.sync()
    with open(top / "text", "r+b") as file:  # a part of an extent stays
        file.seek(1_000_003)
        file.write(b"changed" * 1000)


def _tiny_files(top: Path) -> None:
    (top / "many").mkdir()
    for number in range(2000):
        _write(top / "many" / f"{number}", number % 300, number)


def _nothing(top: Path) -> None:
    pass


CHANGES: list[Callable[[Path], None]] = [
    _new,
    _overwritten,
    _renamed,
    _reflinked,
    _deleted,
    _sparse,
    _preallocated,
    _compressed,
    _tiny_files,
    _nothing,
]


def _sizes(*words: object) -> list[int]:
    done = run_program("--json", "-p", "s-", *map(str, words))
    assert done.returncode == 0, done.stderr
    events = json.loads(done.stdout)["events"]
    return [event["size_bytes"] for event in events if event["event"] == "sent"]


@pytest.mark.parametrize("compress", ["no", "zstd"])
def test_a_dry_run_tells_the_size_of_ten_changes(
    btrfs: MakesFilesystems, compress: str
) -> None:
    source = btrfs(size="4G", mount_options=(f"compress={compress}",))
    top, target = source.subvolume("source"), btrfs(size="4G").path
    _write(top / "large", 10 * MIB)
    (top / "directory").mkdir()
    _write(top / "directory" / "in it", MIB)
    _sizes(top, target)
    for change in CHANGES:
        if not (top / "large").exists():
            _write(top / "large", 10 * MIB, 2)
            (top / "directory").mkdir(exist_ok=True)
            _sizes(top, target)
        change(top)
        source.sync()
        before = sorted(os.listdir(top / ".btrfs-backup-ng"))
        (told,) = _sizes("--dry-run", top, target)
        assert sorted(os.listdir(top / ".btrfs-backup-ng")) == before
        (sent,) = _sizes(top, target)
        # A name made in the same second is longer by its _1.
        assert abs(told - sent) <= sent / 1000 + 2, (change.__name__, told, sent)


def test_data_written_just_before_the_parent_counts_as_part_of_it(
    btrfs: MakesFilesystems,
) -> None:
    """Both are of one transaction; the copy has no place yet for a measurement."""
    source, target = btrfs(), btrfs().path
    top = source.subvolume("source")
    _sizes(top, target)
    newest = f"{top.name}/.btrfs-backup-ng/snapshots/s-20990101-000000"
    _write(top / "large", 8 * MIB)  # not synced
    source.snapshot(top, newest)
    _sizes("-S", top, target)
    again = source.snapshot(newest, "again", writable=True)
    (again / "small").write_text("x")
    (told,) = _sizes("--dry-run", again, target)
    (sent,) = _sizes(again, target)
    assert max(told, sent) < 1000


def test_clones_need_no_room(btrfs: MakesFilesystems) -> None:
    """What find-new counts twice, and a stream holds once, is measured."""
    source, target = btrfs(size="1G"), btrfs(size="600M")
    top = source.subvolume("source")
    _sizes(top, target.path)
    _write(top / "large", 100 * MIB)
    for number in range(6):
        files = os.fspath(top / "large"), os.fspath(top / f"clone {number}")
        subprocess.run(["cp", "--reflink=always", *files], check=True)
    source.sync()
    (sent,) = _sizes(top, target.path)
    assert 100 * MIB < sent < 101 * MIB


def test_measuring_beside_a_transfer_has_the_lowest_priority(
    btrfs: MakesFilesystems, tmp_path: Path
) -> None:
    """And a second of CPU time; whatever sends in its place says so."""
    disk = btrfs()
    disk.subvolume("source")
    sent = str(disk.snapshot("source", "snapshot"))
    spy = wrapper(tmp_path / "bin", "chrt -p $$; ionice -p $$; ulimit -t; exit 0")
    path = {**os.environ, "PATH": f"{spy}:{os.environ['PATH']}"}
    for form, expected in (
        ("i1", ["SCHED_IDLE", "idle\n1\n"]),
        ("n1", ["SCHED_OTHER", "unlimited\n"]),
    ):
        argv = verbs.SEND.local_argv(("none", form, "", sent, "none", ""))
        done = subprocess.run(argv, env=path, stdout=subprocess.PIPE, text=True)
        assert all(word in done.stdout for word in expected), done.stdout


def test_the_size_of_many_small_files_is_measured_only_if_it_is_needed(
    btrfs: MakesFilesystems,
) -> None:
    disk = btrfs()
    top = disk.subvolume("source")
    _new(top)
    _tiny_files(top)
    disk.snapshot("source", "many")
    shutil.rmtree(top / "many")
    disk.snapshot("source", "large")
    location = Location(Scheme.LOCAL, str(disk.path))
    source = local_place(location, str(disk.path)).snapshots
    for name, is_cheap in (("many", False), ("large", True)):
        snapshot = Snapshot(name, NOW, uuid4(), None, None, 0)
        size = len(subprocess.check_output(["btrfs", "send", "-q", disk.path / name]))
        assert stream_size(source, snapshot, None, "1") == size
        quick = quick_stream_size(source, snapshot, None, "1")
        assert quick == (size if is_cheap else None)


def test_a_dry_run_of_several_transfers_tells_the_total(
    btrfs: MakesFilesystems,
) -> None:
    source, target = btrfs(), btrfs().path
    top = source.subvolume("source")
    for number in range(2):
        _write(top / f"{number}", MIB, number)
        run_program("-p", f"s-{number}", top)
    done = run_program("--dry-run", "-p", "s-", top, target)
    assert "in total: about 2.0 MiB in 3 transfers" not in done.stdout
    for _ in range(2):
        assert run_program("-p", "t-", top).returncode == 0
    done = run_program("--dry-run", "-S", "-p", "t-", top, target)
    assert done.stdout.splitlines()[-1] == "in total: about 2.0 MiB in 2 transfers"
