"""Whether other users can change a configuration: the file, and the way to it."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from btrfs_backup_ng.__util__ import Refused, UsageError
from btrfs_backup_ng.cli.config.file import read_configuration
from tests.support.command_line import NOBODY

TEXT = "[volumes.home]\nsource = '/home'\n"


class Room:
    """A directory with a configuration that is safe, as deep as /etc has it."""

    def __init__(self, directory: Path) -> None:
        self.top = directory / "etc"
        self.inner = self.top / "with a space"
        self.inner.mkdir(parents=True)
        self.file = self.inner / "config.toml"
        self.file.write_text(TEXT)
        self.shared = directory / "shared"  # as /tmp is
        self.shared.mkdir()
        self.shared.chmod(0o1777)
        self.theirs = directory / "theirs"
        self.theirs.mkdir()
        os.chown(self.theirs, NOBODY, NOBODY)


def link(path: Path, target: Path | str, owner: int = 0) -> Path:
    path.symlink_to(target)
    os.lchown(path, owner, owner)
    return path


def let_write(path: Path) -> None:
    """Let another user write by an access control list, as setfacl(1) does."""
    nobody, rw = 0xFFFFFFFF, 6
    entries = [(1, rw, nobody), (2, rw, NOBODY), (4, 0, nobody)]
    entries += [(0x10, rw, nobody), (0x20, 0, nobody)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)
    os.setxattr(path, "system.posix_acl_access", acl)


def test_a_configuration_is_read_where_only_root_can_change_it(tmp_path: Path):
    room = Room(tmp_path)
    shared = room.shared / "config.toml"
    shared.write_text(TEXT)
    paths = [
        room.file,
        shared,
        link(room.shared / "link", room.file),
        link(room.shared / "directory", "../etc/./with a space") / "config.toml",
        link(room.top / "last", "../shared/directory/config.toml"),
    ]
    for path in paths:
        assert "home" in read_configuration(str(path)).volumes, path
    loop = link(room.top / "loop", "loop")
    with pytest.raises(UsageError, match="cannot read .*loop: Too many levels"):
        read_configuration(str(loop))


def of_another(room: Room) -> Path:
    os.chown(room.file, NOBODY, 0)
    return room.file


def of_a_group(room: Room) -> Path:
    room.file.chmod(0o660)
    return room.file


def with_a_list(room: Room) -> Path:
    room.file.chmod(0o600)
    let_write(room.file)
    return room.file


def in_a_directory_with_a_list(room: Room) -> Path:
    let_write(room.inner)
    return room.file


def below_a_directory_of_a_group(room: Room) -> Path:
    room.top.chmod(0o775)
    return room.file


def below_their_sticky_directory(room: Room) -> Path:
    os.chown(room.shared, NOBODY, 0)
    file = room.shared / "config.toml"
    file.write_text(TEXT)
    return file


def behind_their_link(room: Room) -> Path:
    return link(room.shared / "link", room.file, NOBODY)


def behind_a_link_in_their_directory(room: Room) -> Path:
    return link(room.top / "link", link(room.theirs / "link", room.file))


def below_their_link(room: Room) -> Path:
    return link(room.shared / "directory", room.inner, NOBODY) / "config.toml"


def below_a_link_through_their_directory(room: Room) -> Path:
    through = link(room.theirs / "directory", room.inner)
    return link(room.top / "directory", through) / "config.toml"


def beside_their_directory(room: Room) -> Path:
    return room.theirs / ".." / "etc" / "with a space" / "config.toml"


@pytest.mark.parametrize(
    "make",
    [
        of_another,
        of_a_group,
        with_a_list,
        in_a_directory_with_a_list,
        below_a_directory_of_a_group,
        below_their_sticky_directory,
        behind_their_link,
        behind_a_link_in_their_directory,
        below_their_link,
        below_a_link_through_their_directory,
        beside_their_directory,
    ],
)
def test_a_configuration_that_others_can_change_or_exchange_is_refused(
    tmp_path: Path, make: Callable[[Room], Path]
):
    path = make(Room(tmp_path))
    with pytest.raises(Refused, match="not used") as caught:
        read_configuration(str(path))
    if "chown" in caught.value.hint:
        assert f"chmod go-w '{path}'" in caught.value.hint, caught.value.hint
