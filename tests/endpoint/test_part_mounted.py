"""Destinations where only a part of the filesystem is mounted: a folder, a subvolume.

``btrfs receive`` looks for parents by their path from the top of the filesystem.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import accounts, places
from tests.support.command_line import complaint, must
from tests.support.filesystems import Filesystem
from tests.support.places import command
from tests.support.program import run_program
from tests.support.rooms import Room
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs

Disks = tuple[Filesystem, Filesystem]
Mounts = Callable[..., Path]
Get = Callable[[str], Path]


@pytest.fixture
def mounted(disks: Disks, room: Room) -> Iterator[Mounts]:
    """Mount a folder, or a subvolume, of the disk with the backups beside it."""
    points: list[Path] = []

    def mount(part: Path, *, is_subvolume: bool = False) -> Path:
        point = room.here / f"mounted-{part.name}"
        point.mkdir()
        inner = part.relative_to(disks[1].path)
        if is_subvolume:
            command("mount", "-o", f"subvol={inner}", disks[1].device, point)
        else:
            command("mount", "--bind", part, point)
        points.append(point)
        return point

    yield mount
    for point in points:
        command("umount", point)


@pytest.fixture(params=["local", "ssh"])
def words(request: pytest.FixtureRequest) -> tuple[list[str], Callable[[Path], str]]:
    """Return the options, and a function that writes a place on the command line."""
    if request.param == "local":
        return [], str
    sshd: Sshd = request.getfixturevalue("sshd")
    return places.ssh_words(sshd), lambda p: places.ssh_place(sshd, p, user="root")


def _back_up_twice(words, source: Path, *points: Path) -> None:
    options, word = words
    for number in range(2):
        (source / "file").write_text(str(number))
        run = places.back_up(*options, "-N1", "--", str(source), *map(word, points))
        parents = [sent["parent"] for sent in run.sent]
        assert len(parents) == len(points)
        assert all(parents) if number else not any(parents)


def test_a_bind_mount_of_a_folder_takes_incremental_backups(words, mounted, room):
    source, destination = room.source(), room.destination()
    point = mounted(destination)
    _back_up_twice(words, source, point)
    contents = [(one / "file").read_text() for one in places.subvolumes(destination)]
    assert contents == ["0", "1"]
    # Another way to the same directory goes on from there.
    options, word = words
    run = places.back_up(*options, "--", str(source), word(destination))
    assert all(sent["parent"] for sent in run.sent)
    # Nothing is left of the mounts, and the place can be looked after through one.
    assert str(destination / ".btrfs-backup-ng") not in Path("/proc/mounts").read_text()
    places.back_up(*options, "-n", "2", "--", str(source), word(point))
    assert len(places.subvolumes(destination)) == 2


def test_a_bind_mount_of_a_folder_is_no_source(words, mounted, room):
    folder = room.there / "folder"
    folder.mkdir()
    options, word = words
    done = run_program(*options, word(mounted(folder)), room.destination("to"))
    hint = complaint(done, 4, "a bind mount of the folder", str(folder.name))
    assert f"{folder}\n" in hint and f"mv {folder} {folder}.old" in hint


def test_two_subvolumes_of_one_disk_take_the_same_backups(words, mounted, room):
    source, parts = room.source(), [room.there / "one", room.there / "two"]
    for part in parts:
        command("btrfs", "-q", "subvolume", "create", part)
    points = [mounted(part, is_subvolume=True) for part in parts]
    _back_up_twice(words, source, *points)
    for part in parts:
        assert len(places.subvolumes(part)) == 2


def test_a_folder_of_a_subvolume_that_is_mounted_is_found(mounted, room):
    """The parent outside is found through a folder inside, too, spaces and all."""
    source = room.source()
    part = room.there / "the one"
    command("btrfs", "-q", "subvolume", "create", part)
    (part / "a b").mkdir()
    point = mounted(part, is_subvolume=True) / "a b"
    _back_up_twice(([], str), source, room.destination(), point)


def test_another_subvolume_at_the_same_path_is_not_taken_for_the_parent(mounted, room):
    """Below the folder lies what receive would find at the parent's path."""
    source, destination = room.source(), room.destination()
    point = mounted(destination)
    first = places.back_up(str(source), str(point)).sent[0]["name"]
    false = destination / (destination / first).relative_to(room.there.parent)
    false.parent.mkdir(parents=True)
    command("btrfs", "-q", "subvolume", "create", false)
    (false / "file").write_text("false")
    places.back_up(str(source), str(point))
    places.assert_copies(
        places.subvolumes(source / places.FOLDER), places.subvolumes(destination)
    )


def test_a_restore_finds_its_parent_in_a_bind_mount(words, mounted, room):
    options, word = words
    source, destination = room.source(), room.destination()
    target = room.there / "target"
    target.mkdir()
    point = mounted(target)
    for number in range(2):
        (source / "file").write_text(str(number))
        places.back_up(*options, "--", str(source), word(destination))
    for backup in places.subvolumes(destination):
        where = word(destination), backup.name, "--to", word(point)
        must(run_program("restore", *options, *where))
    places.assert_copies(places.subvolumes(destination), places.subvolumes(target))


def test_without_the_right_to_mount_a_bind_mount_is_refused_before_anything(
    mounted, room, sshd, account
):
    user = account(sudoers=accounts.SUDO_BTRFS)
    source, destination = room.source(), room.destination()
    point = mounted(destination)
    os.chown(point, user.uid, user.gid)
    place = places.ssh_place(sshd, point, user=user.name)
    words = places.ssh_words(sshd)
    done = run_program(*words, source, place)
    complaint(done, 4, "bind mount of the folder", f"{destination}\n")
    assert not (source / places.FOLDER).exists()
    assert "FAIL" in run_program("doctor", *words, place).stdout
