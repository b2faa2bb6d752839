"""A tree read here and the same one read by the verb ``hash`` are one tree."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from btrfs_backup_ng.actions.verify.local_tree import CannotRead, walk
from btrfs_backup_ng.actions.verify.manifest import Entry, Garbled, compare
from btrfs_backup_ng.actions.verify.remote_tree import read_xattrs, split
from btrfs_backup_ng.actions.verify.tree import answering, reading
from btrfs_backup_ng.host.common import Host
from btrfs_backup_ng.host.local import LocalHost
from btrfs_backup_ng.host.ssh import SshHost
from tests.support import filesystems, trees, variety
from tests.support.command_line import path_without
from tests.support.processes import nothing_left_behind
from tests.wire.test_shells import Straight, shells

__all__ = ["shells"]

pytestmark = [pytest.mark.btrfs, pytest.mark.root]

HERE = LocalHost()
#: Names whose order is another one if a slash is taken for a byte like others.
ORDER = ["a", "a-", "a-b", "a!", "a/b", "a/b-", "a/b/c", "a0", "a\x01", "!"]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[filesystems.Filesystem]:
    """Return a filesystem with a snapshot of one of everything, and its copy."""
    with filesystems.btrfs_filesystem(tmp_path_factory.mktemp("disk")) as disk:
        home = disk.subvolume("home")
        variety.fill(home, 7)
        for name in ORDER:
            path = home / "order" / name
            path.mkdir(parents=True, exist_ok=True)
            (path / "file").write_text(name)
        for name in ("nested", "order/a/nested"):
            disk.subvolume(f"home/{name}")
        (home / "before 1970").touch()
        os.utime(home / "before 1970", ns=(0, -1_750_000_000))
        os.symlink("x -> y", home / "l -> k")
        disk.snapshot("home", "snapshot")
        (disk.path / "copies").mkdir()
        with subprocess.Popen(
            ["btrfs", "send", "-q", disk.path / "snapshot"], stdout=subprocess.PIPE
        ) as sender:
            words = ["btrfs", "receive", "-q", str(disk.path / "copies")]
            subprocess.run(words, stdin=sender.stdout, check=True)
        yield disk


@pytest.fixture(scope="module")
def here(disk: filesystems.Filesystem) -> list[Entry]:
    """Return the snapshot as it is read in process."""
    return list(walk(str(disk.path / "snapshot")))


def use(shells: Path, inner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{shells / inner}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(shells / "home"))


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ("dash", "dash"),
        ("tcsh", "busybox"),
        ("fish", "bash"),
    ],
)
def test_what_a_shell_reads_is_what_is_read_here(
    disk: filesystems.Filesystem,
    here: list[Entry],
    shells: Path,
    monkeypatch: pytest.MonkeyPatch,
    outer: str,
    inner: str,
) -> None:
    use(shells, inner, monkeypatch)
    there = SshHost(Straight(outer))
    with reading(there, str(disk.path / "snapshot")) as tree:
        entries = list(tree.entries)
        assert tree.no_xattrs == ""
    assert entries == here
    assert [entry.path for entry in here] == sorted(entry.path for entry in here)


def test_it_is_what_another_reader_finds(
    disk: filesystems.Filesystem, here: list[Entry]
) -> None:
    described = trees.describe(disk.path / "snapshot")
    stubs = {b"nested", b"order/a/nested"}
    assert {entry.path[2:] or b"." for entry in here} == described.keys() - stubs
    for entry in here:
        other = described[entry.path[2:] or b"."]
        assert entry.type == other.type
        assert (entry.mode & 0o7777, entry.uid, entry.gid) == (
            other.mode,
            other.uid,
            other.gid,
        )
        assert entry.mtime_ns == other.mtime_ns
        assert (entry.size or None) == (other.size or None)
        assert entry.target == other.target
        assert entry.xattrs == {os.fsencode(n): v for n, v in other.xattrs.items()}
        assert (entry.digest.hex() if entry.digest else None) == other.sha256
        first = b"./" + min(other.links) if other.links else None
        assert entry.link == first
        assert bool(entry.device) == bool(other.rdev)


def test_what_receive_brings_is_the_same(
    disk: filesystems.Filesystem, here: list[Entry]
) -> None:
    """Nested subvolumes leave an empty directory in a snapshot; receive has none."""
    copy = disk.path / "copies/snapshot"
    assert (disk.path / "snapshot/nested").stat().st_ino == 2
    assert not (copy / "nested").exists()
    with answering(HERE, str(copy)) as tree:
        assert list(compare(here, tree.entries)) == []


@pytest.mark.parametrize("way", [reading, answering])
def test_each_file_is_read_once_whatever_names_it_has(
    disk: filesystems.Filesystem, here: list[Entry], way: object
) -> None:
    firsts = [entry for entry in here if entry.link in (None, entry.path)]
    assert len(firsts) < len(here)
    size = sum(entry.size for entry in firsts)
    before = read_so_far()
    with (reading if way is reading else answering)(
        HERE, str(disk.path / "snapshot")
    ) as tree:
        assert list(tree.entries) == here
    assert size <= read_so_far() - before < 1.01 * size + 2**20


def read_so_far() -> int:
    """Return the bytes that this process and its ended children have read: proc(5)."""
    line, *_ = Path("/proc/self/io").read_text().splitlines()
    return int(line.removeprefix("rchar: "))


def test_without_gnu_programs_nothing_is_read_and_it_is_said(
    disk: filesystems.Filesystem, shells: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(shells, "busybox userland", monkeypatch)
    there = SshHost(Straight("dash"))
    with pytest.raises(CannotRead) as raised, reading(there, str(disk.path)) as tree:
        list(tree.entries)
    assert "no GNU" in raised.value.message and "coreutils" in raised.value.hint


def test_without_getfattr_the_rest_is_compared(
    disk: filesystems.Filesystem,
    here: list[Entry],
    shells: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("PATH", path_without(tmp_path, "getfattr"))
    monkeypatch.setenv("HOME", str(shells / "home"))
    with reading(SshHost(Straight("dash")), str(disk.path / "snapshot")) as tree:
        assert tree.no_xattrs == "there has no getfattr"
        entries = list(tree.entries)
    assert all(entry.xattrs is None for entry in entries)
    assert [entry.digest for entry in entries] == [entry.digest for entry in here]
    assert list(compare(here, entries)) == []


def hosts() -> list[Host]:
    return [HERE, SshHost(Straight("dash"))]


def test_what_is_not_there_cannot_be_read(disk: filesystems.Filesystem) -> None:
    for host in hosts():
        with pytest.raises(CannotRead):
            with reading(host, str(disk.path / "no such")) as tree:
                list(tree.entries)


def test_who_stops_reading_leaves_nothing_behind(
    disk: filesystems.Filesystem, here: list[Entry]
) -> None:
    for host in hosts():
        with nothing_left_behind():
            with reading(host, str(disk.path / "snapshot")) as tree:
                assert [next(tree.entries) for _ in range(5)] == here[:5]


def test_what_has_no_end_is_not_kept():
    endless = itertools.repeat(b"x" * 65536)
    with pytest.raises(Garbled, match="longer than"):
        next(split(endless, b"\0"))
    lines = (b"user.%d=0x%s" % (number, b"00" * 50000) for number in itertools.count())
    with pytest.raises(Garbled, match="too much of b'a'"):
        next(read_xattrs(itertools.chain([b"# file: a"], lines)))
