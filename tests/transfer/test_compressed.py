"""Compressed data goes as it lies on the disk, where both ends can do that."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

import pytest

from tests.support import places
from tests.support.places import FOLDER

pytestmark = pytest.mark.btrfs

SIZE = 8 << 20
OLD = """if [ "$1" = --version ]; then echo "btrfs-progs v5.10"; exit; fi"""

_FS_IOC_FIEMAP, _ENCODED = 0xC020660B, 0x8  # linux/fs.h, linux/fiemap.h


def is_compressed(path: Path) -> bool:
    """Tell whether all extents of a file are compressed on the disk."""
    request = bytearray(32 + 512 * 56)
    struct.pack_into("=QQIIII", request, 0, 0, 2**64 - 1, 1, 0, 512, 0)
    with open(path, "rb") as file:
        fcntl.ioctl(file, _FS_IOC_FIEMAP, request)
    count = struct.unpack_from("=I", request, 20)[0]
    flags = [
        struct.unpack_from("=I", request, 32 + 56 * n + 40)[0] for n in range(count)
    ]
    assert flags, "no extents"
    return all(flag & _ENCODED for flag in flags)


@pytest.fixture
def source(btrfs) -> Path:
    """Make a source on a filesystem that compresses."""
    path: Path = btrfs(mount_options=("compress-force=zstd",)).subvolume("source")
    (path / "file").write_bytes(b"all work and no play " * (SIZE // 21))
    places.command("sync", "-f", path)
    assert is_compressed(path / "file")
    return path


@pytest.fixture
def old(tmp_path: Path) -> str:
    """Return a PATH in which btrfs-progs say that they are old ones."""
    return f"{places.wrapper(tmp_path / 'bin', OLD)}:{os.environ['PATH']}"


def check(source: Path, destination: Path, size: int, *, compressed: bool) -> None:
    """Check what was sent: how much, in which form, and that it is right."""
    assert (size < SIZE // 4) == compressed
    places.assert_backed_up(source, destination)
    (copy,) = places.subvolumes(destination)
    assert is_compressed(copy / "file") == compressed
    assert is_compressed(places.subvolumes(source / FOLDER)[0] / "file")


@pytest.mark.parametrize("where", ["local", "push", "pull"])
def test_compressed_data_stays_compressed(source, room, sshd, where):
    destination = room.destination()
    here = places.ssh_place(sshd, source, user="root") if where == "pull" else source
    there = (
        places.ssh_place(sshd, destination, user="root")
        if where == "push"
        else destination
    )
    (sent,) = places.back_up(*places.ssh_words(sshd), here, there).sent
    check(source, destination, sent["size_bytes"], compressed=True)


def test_old_btrfs_progs_here_get_a_plain_stream(source, room, old):
    destination = room.destination()
    (sent,) = places.back_up(source, destination, env={"PATH": old}).sent
    check(source, destination, sent["size_bytes"], compressed=False)


@pytest.mark.parametrize("old_end", ["source", "destination"])
def test_old_btrfs_progs_at_one_end_get_a_plain_stream(
    source, room, old, new_sshd, old_end
):
    server = new_sshd(config=(f'SetEnv "PATH={old}"',))
    server.mark()
    destination = room.destination()
    words = [source, destination]
    words[old_end == "destination"] = places.ssh_place(
        server, words[old_end == "destination"], user="root"
    )
    (sent,) = places.back_up(*places.ssh_words(server), *words).sent
    check(source, destination, sent["size_bytes"], compressed=False)
