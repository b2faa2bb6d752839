"""A thousand snapshots on both sides, made without a thousand transfers."""

from __future__ import annotations

import fcntl
import os
import struct
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

from btrfs_backup_ng.host.entry import SOURCES
from btrfs_backup_ng.place.holds import HOLDS, format_holds
from btrfs_backup_ng.place.sources import Series, format_sources
from tests.support.places import STATE
from tests.support.scene import Scene

# linux/btrfs.h
_SUBVOL_CREATE = 0x5000940E
_SNAP_CREATE = 0x50009417
_SUBVOL_SETFLAGS = 0x4008941A
_SET_RECEIVED_SUBVOL = 0xC0C89425
_GET_SUBVOL_INFO = 0x81F8943C
_READ_ONLY = 1 << 1
#: uuid, stransid, rtransid, stime, rtime, flags, reserved
_RECEIVED = struct.Struct("=16s2Q QI4x QI4x Q 128x")


def make_pairs(snapshots: Path, backups: Path, prefix: str, numbers: range) -> None:
    """Make snapshots, and copies elsewhere that were "received" from them.

    :param numbers: seconds of a day in 2020, of which each gets one pair.
    """
    here, there = _open(snapshots), _open(backups)
    try:
        for name in _names(prefix, numbers):
            identity = _make(here, name, None)
            _make(there, name, identity)
    finally:
        os.close(here)
        os.close(there)


def make_named(
    snapshots: Path | None,
    backups: Path | None,
    names: list[str],
    *,
    template: Path | None = None,
) -> None:
    """Make snapshots of these names, and copies that were "received" from them.

    :param template: a subvolume; the copies are snapshots of it, as published ones are.
    """
    here = _open(snapshots) if snapshots else None
    there = _open(backups) if backups else None
    of = _open(template) if template else None
    try:
        for name in names:
            identity = uuid.uuid4() if here is None else _make(here, name, None)
            if there is not None:
                _make(there, name, identity, of)
    finally:
        for descriptor in (here, there, of):
            if descriptor is not None:
                os.close(descriptor)


def make_snapshots(folder: Path, prefix: str, numbers: range) -> None:
    """Make only the source's side, which is quicker: "receiving" ends with a commit."""
    here = _open(folder)
    try:
        for name in _names(prefix, numbers):
            _make(here, name, None)
    finally:
        os.close(here)


def _names(prefix: str, numbers: range) -> Iterator[str]:
    for number in numbers:
        hours, seconds = divmod(number, 3600)
        clock = f"{hours:02}{seconds // 60:02}{seconds % 60:02}"
        yield f"{prefix}20200202-{clock}"


def _open(path: Path | str, directory: int | None = None) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)


def _make(
    directory: int, name: str, received: uuid.UUID | None, of: int | None = None
) -> uuid.UUID:
    """Make a read-only subvolume, and return its UUID."""
    if of is None:
        arguments = bytearray(struct.pack("=q4088s", 0, os.fsencode(name)))
        fcntl.ioctl(directory, _SUBVOL_CREATE, arguments)
    else:
        arguments = bytearray(struct.pack("=q48x4040s", of, os.fsencode(name)))
        fcntl.ioctl(directory, _SNAP_CREATE, arguments)
    subvolume = _open(name, directory)
    try:
        if received:
            words = _RECEIVED.pack(received.bytes, 7, 0, 0, 0, 0, 0, 0)
            fcntl.ioctl(subvolume, _SET_RECEIVED_SUBVOL, bytearray(words))
        fcntl.ioctl(subvolume, _SUBVOL_SETFLAGS, struct.pack("=Q", _READ_ONLY))
        info = bytearray(504)
        fcntl.ioctl(subvolume, _GET_SUBVOL_INFO, info)
        return uuid.UUID(bytes=bytes(info[296:312]))
    finally:
        os.close(subvolume)


def add_history(scene: Scene, hours: range) -> None:
    """Make snapshots with their backups that are so old, to a few seconds."""
    scene.snapshot_folder.mkdir(parents=True, exist_ok=True)
    taken = {*os.listdir(scene.snapshot_folder), *os.listdir(scene.destination)}
    now = datetime.now(timezone.utc)
    names = _names_at(now, hours)
    while not taken.isdisjoint(names):  # called twice in a second
        now -= timedelta(seconds=1)
        names = _names_at(now, hours)
    make_named(scene.snapshot_folder, scene.destination, names)


def _names_at(now: datetime, hours: range) -> list[str]:
    return [f"x-{now - timedelta(hours=n):%Y%m%d-%H%M%S+0000}" for n in hours]


def write_records(scene: Scene, prefix: str = "x-", policy: str = "") -> None:
    """Write the records that go with such a history, as runs would have.

    :param policy: that was applied by them; "" by those of an earlier version.
    """
    policies = {("", prefix): policy}
    (scene.source / STATE / HOLDS).write_bytes(format_holds({}, policies))
    state = scene.destination / STATE
    state.mkdir(mode=0o700, exist_ok=True)
    (state / SOURCES).write_bytes(format_sources({prefix: Series(policy=policy)}))
