"""``restore --file``: files come back as they were, and nothing else happens."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import MakesFilesystems
from tests.support import trees, variety
from tests.support.command_line import Done, complaint, covers, must
from tests.support.filesystems import Filesystem
from tests.support.places import fingerprint
from tests.support.program import Argument, run_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd
from tests.support.staged import Way, local_way, ssh_way
from tests.support.variety import HOSTILE_NAMES

pytestmark = pytest.mark.btrfs


def restored(*words: Argument, input: str | None = None) -> Done:
    """Run it."""
    return run_program("restore", *words, input=input)


def _part(tree: trees.Tree, *tops: bytes) -> trees.Tree:
    """Return what is at or below some paths, and the directories above them."""
    return {
        path: entry
        for path, entry in tree.items()
        for top in tops
        if path == top or path.startswith(top + b"/") or top.startswith(path + b"/")
    }


def _without_sockets(tree: trees.Tree) -> trees.Tree:
    return {path: entry for path, entry in tree.items() if entry.type != "socket"}


@covers("--file")
def test_everything_about_a_file_comes_back(scene: Scene, sshd: Sshd, tmp_path: Path):
    variety.fill(scene.source, 7)
    scene.back_up()
    whole = trees.describe(scene.destination / scene.backup_names[0])
    wanted = [b"sizes", b"names", b"special", b"links", b"empty", b"deep"]
    ssh = ssh_way(sshd)
    ways: list[tuple[Way, Way]] = [
        (local_way, local_way),
        (ssh, local_way),
        (local_way, ssh),
    ]
    for number, (here, there) in enumerate(ways):
        to = scene.source.parent / f"out {number}"
        to.mkdir()
        *words, place = there(to)
        words += here(scene.destination)
        done = restored(*words, "--to", place, "--file", "/links/", *wanted)
        must(done, 10 if number else 0)
        assert ("left out  special/socket: a socket" in done.stdout) == bool(number)
        assert "restored  6 files or folders below" in done.stdout
        back, expected = trees.describe(to), _part(whole, *wanted)
        if number:  # tar leaves sockets out
            expected = _without_sockets(expected)
        del back[b"."]
        if number:
            back = _without_sockets(back)
        assert trees.differences(expected, back) == []
        assert expected[b"special/holes"].blocks >= back[b"special/holes"].blocks
        assert b"deep/hard link" in back[b"links/original"].links

    # Part of a tree: the directories above are as they were, too.
    to = scene.source.parent / "part"
    to.mkdir()
    deep = b"deep/level 0/level 1/level 2/file"
    must(restored(scene.destination, "--to", to, "--file", deep, "sizes/4096"))
    back = trees.describe(to)
    del back[b"."]
    assert trees.differences(_part(whole, deep, b"sizes/4096"), back) == []
    # On the same disk no data is copied.
    on_disk = scene.destination.parent / "same"
    on_disk.mkdir()
    must(restored(scene.destination, "--to", on_disk, "--file", "sizes/3145728"))
    original = scene.destination / scene.backup_names[0] / "sizes/3145728"
    assert trees.shares_extents(original, on_disk / "sizes/3145728")


@covers("--files-from", "-0", "--null")
def test_one_or_ten_thousand_files_come_back(scene: Scene, sshd: Sshd, tmp_path: Path):
    count = 10_000
    many = os.fsencode(scene.source) + b"/many"
    os.mkdir(many)
    names = [name[:240] + b" %d" % n for n, name in enumerate(HOSTILE_NAMES)]
    names += [b"%06d " % number + b"x" * 80 for number in range(count - len(names))]
    for name in names:
        with open(os.path.join(many, name), "wb") as file:
            file.write(name)
    scene.back_up()
    listed = tmp_path / "listed"
    ways: list[tuple[Way, list[bytes]]]
    ways = [(local_way, names[:100]), (ssh_way(sshd), names)]
    for number, (way, some) in enumerate(ways):
        listed.write_bytes(b"".join(b"many/" + name + b"\0" for name in some))
        to = tmp_path / str(number)
        (to / "many").mkdir(parents=True)  # so that each file has its own move
        (to / "many/there").touch()
        null = "-0" if number else "--null"
        words: list[Argument] = [*way(scene.destination), "--to", to, null]
        words += ["--files-from", listed]
        done = must(restored(*words))
        assert f"restored  {len(some)} files or folders" in done.stdout
        found = set(os.listdir(os.fsencode(to / "many")))
        assert found == {*some, b"there"}
        for name in some[:: len(some) // 50]:
            path = os.path.join(os.fsencode(to), b"many", name)
            with open(path, "rb") as file:
                assert file.read() == name
        assert os.listdir(to) == ["many"]
    to = tmp_path / "one"
    to.mkdir()
    text = "first\n\n./many/000001 " + "x" * 80 + "\n"
    words = [scene.destination, "--to", to, "--files-from", "-", "--json"]
    document = json.loads(must(restored(*words, input=text)).stdout)
    files = ["first", "many/000001 " + "x" * 80]
    assert document["files"] == files
    assert document["restored"] == [f"{to}/{one}" for one in files]
    assert document["originals"] == [f"{scene.source}/{one}" for one in files]
    assert sorted(os.listdir(to)) == ["first", "many"]
    assert (to / "first").read_bytes() == (scene.source / "first").read_bytes()


def test_a_socket_in_a_list_costs_nothing_but_itself(scene: Scene, sshd: Sshd):
    (scene.source / "folder").mkdir()
    (scene.source / "folder/file").write_text("x")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(scene.source / "folder/socket"))
    scene.back_up()
    (scene.source / "first").unlink()
    files = ("first", "folder/socket", "folder/file")
    for number, way in enumerate((local_way, ssh_way(sshd))):
        to = scene.source.parent / f"to {number}"
        to.mkdir()
        words = [*way(scene.destination), "--to", str(to), "--file"]
        done = must(restored(*words, *files), 10 if number else 0)
        assert (to / "first").exists() and (to / "folder/file").exists()
        assert (to / "folder/socket").exists() == (not number)
        assert ("left out  folder/socket: a socket" in done.stdout) == bool(number)
        assert f"now at    {to}/first\n" in done.stdout
        assert f"          {to}/folder/file\n" in done.stdout
        assert f"{scene.source}/folder/file is still there" in done.stdout
        assert f"{scene.source}/first is still" not in done.stdout
    complaint(
        restored(*words, files[1]), 4, "sockets cannot be restored: folder/socket"
    )
    (to / "folder/file").unlink()  # and one inside a folder
    (to / "folder").rmdir()
    done = must(restored(*words, "folder"), 10)
    assert "left out  folder/socket: a socket" in done.stdout
    assert os.listdir(to / "folder") == ["file"]
    done = must(restored(scene.destination, "--to", scene.source, "--file", "first"))
    assert f"now at    {scene.source}/first" in done.stdout
    assert "original" not in done.stdout  # as this is its path


def _rot(disk: Filesystem, marks: Sequence[bytes]) -> None:
    """Damage a block of each file that begins with one of these marks."""
    disk.unmount()
    data = disk.image.read_bytes()
    with open(disk.image, "r+b") as image:
        for mark in marks:
            assert data.count(mark) == 1
            image.seek(data.index(mark) + 4096)
            image.write(b"rot")
    disk.mount()


def test_a_file_that_cannot_be_read_costs_nothing_but_itself(
    disks: tuple[Filesystem, Filesystem], btrfs: MakesFilesystems, sshd: Sshd
):
    dying = btrfs(size="300M", mkfs_options=("-m", "single", "-d", "single"))
    scene = Scene(disks[0], dying, is_small=True)
    hostile = "it's: Cannot open:\n\u00fc"
    files = (hostile, "folder/bad", "folder/in/good", "folder/good", "alone/bad")
    marks = []
    for name in files:
        path = scene.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(65536))
        marks += [path.read_bytes()[:64]] if "good" not in name else []
    scene.back_up()
    _rot(dying, marks)
    for number, way in enumerate((local_way, ssh_way(sshd))):
        to = scene.source.parent / f"to {number}"
        to.mkdir()
        words = [*way(scene.destination), "--to", str(to), "--file"]
        done = restored(*words, "folder", "first", hostile, "alone/bad", "--json")
        document = json.loads(must(done, 10).stdout)
        lost = {hostile, "folder/bad", "alone/bad"}
        assert {*document["unreadable"]} == {*document["left_out"]} == lost
        assert document["restored"] == [f"{to}/folder", f"{to}/first"]
        good = {"first", "folder", "folder/good", "folder/in", "folder/in/good"}
        assert {*trees.describe(to)} == {b".", *map(os.fsencode, good)}
        for name in ("first", "folder/good", "folder/in/good"):
            assert (to / name).read_bytes() == (scene.source / name).read_bytes()
        other = scene.source.parent / f"other {number}"
        other.mkdir()
        words[words.index(str(to))] = str(other)
        said = must(restored(*words, "alone/bad", "folder/good"), 10).stdout
        assert "restored  1 file or folder below" in said
        assert "left out  alone/bad: cannot be read: " in said
        assert os.listdir(other) == ["folder"]
        complaint(restored(*words, "alone/bad"), 1, "alone/bad cannot be read: ")
        assert os.listdir(other) == ["folder"]


@covers("--no-check-space")
def test_what_is_in_the_way_is_told_before_any_byte_moves(
    scene: Scene, sshd: Sshd, tmp_path: Path
):
    (scene.source / "a/b").mkdir(parents=True)
    (scene.source / "a/b/c").write_text("c")
    (scene.source / "a/other").write_text("o")
    (scene.source / "link").symlink_to("a")
    scene.back_up()
    to = scene.source.parent / "to"
    (to / "a/b").mkdir(parents=True)
    for way in (local_way, ssh_way(sshd)):
        before = fingerprint(to)
        words: list[Argument] = [*way(scene.destination), "--to", to]

        def refused(*files: str, because: str, status: int = 4) -> None:
            done = restored(*words, "--file", *files)
            complaint(done, status, because)
            assert fingerprint(to) == before

        refused("a/other", "a/b", because="a/b already exists below")
        refused("first", "nope", "a/b/nope/x", because="not contain nope, a/b/nope/x")
    refused("link/b/c", because="not directories in ")
    done = restored(*words, "-n", "--file", "first", "a/b/c", "--json")
    assert json.loads(must(done).stdout)["files"] == ["first", "a/b/c"]
    assert fingerprint(to) == before
    (to / "a/b").rmdir()
    (to / "a").rmdir()
    (to / "a").symlink_to(tmp_path)
    done = restored(*words, "--file", "a/b/c")
    complaint(done, 4, "a below", "is not a directory")
    (to / "a").unlink()
    subprocess.run(["btrfs", "-q", "subvolume", "create", to / "a"], check=True)
    done = restored(*words, "--file", "a/b/c")
    complaint(done, 4, "a subvolume or filesystem of its own")
    done = restored(*words[:-1], tmp_path / "nowhere", "--file", "a/b/c")
    complaint(done, 4, "is not a directory", "mkdir -p")
    assert os.listdir(tmp_path) == []
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "t", small], check=True)
    try:
        words = [scene.destination, "--to", small, "--file", "first"]
        complaint(restored(*words), 4, "free", "--no-check-space")
        must(restored(*words, "--no-check-space"))
        assert os.listdir(small) == ["first"]
    finally:
        subprocess.run(["umount", small], check=True)
