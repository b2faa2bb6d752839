"""The staging of an interrupted transfer, made by hand; and the names of places."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.support.command_line import Done, must
from tests.support.many import make_pairs
from tests.support.places import by_age, ssh_place, ssh_words
from tests.support.program import Argument
from tests.support.scene import Scene
from tests.support.sshd import Sshd

STATE = ".btrfs-backup-ng"
#: The present form, and the one before checkpoints.
ID = "20260102T030405Z-1a2b3c4d-00112233445566ff-ffeeddccbbaa9988"
OLD_ID = "20260203T040506Z-99999999"
NAME = "x-20260102-030000"
#: Of the stream; no file there has this size.
SEALED = 1_288_490_189

#: A path -> the words that name it, on this machine or behind ssh.
Way = Callable[[Path], list[str]]


def local_way(path: Path) -> list[str]:
    """Name a place of this machine."""
    return [str(path)]


def ssh_way(server: Sshd) -> Way:
    """Return the way to places behind an ssh server."""
    return lambda path: [*ssh_words(server), ssh_place(server, path)]


def both_ways(server: Sshd) -> tuple[Way, Way]:
    """Return the local way, and the way through ssh to the same places."""
    return local_way, ssh_way(server)


def fill(scene: Scene, count: int = 1) -> list[str]:
    """Make snapshots and backups of 2020, without any transfer."""
    folder = scene.source / STATE / "snapshots"
    folder.mkdir(parents=True)
    (scene.destination / STATE).mkdir()
    make_pairs(folder, scene.destination, "x-", range(count))
    return by_age(scene.destination)


def interrupted_transfer(
    scene: Scene,
    transfer_id: str = ID,
    *,
    name: str | bytes = NAME,
    sealed_bytes: int = SEALED,
) -> Path:
    """Make the staging of an interrupted transfer at the destination.

    :param sealed_bytes: the saved part of the stream; 0 if it was interrupted before
        the first checkpoint, or has none.
    """
    directory = scene.destination / STATE / "incoming" / transfer_id
    directory.mkdir(mode=0o700, parents=True)
    directory.parent.chmod(0o700)
    name = os.fsencode(name)
    if sealed_bytes:
        _received(scene, directory, b".seal-%020d-" % sealed_bytes + name)
        # An older, smaller one, too.
        older = os.fsencode(directory / f".seal-{sealed_bytes // 2:020}-") + name
        newer = os.fsencode(directory / f".seal-{sealed_bytes:020}-") + name
        _btrfs("subvolume", "snapshot", "-r", newer, older)
        name = b".body-%020d-" % (2 * sealed_bytes) + name
    _btrfs("subvolume", "create", os.path.join(os.fsencode(directory), name))
    return directory


def _received(scene: Scene, directory: Path, name: bytes) -> None:
    """Receive the present source, under its own name."""
    taken = scene.source.parent / "taken"
    _btrfs("subvolume", "snapshot", "-r", scene.source, taken)
    stream = subprocess.run(["btrfs", "send", "-q", taken], stdout=subprocess.PIPE)
    subprocess.run(
        ["btrfs", "receive", "-q", directory], input=stream.stdout, check=True
    )
    _btrfs("subvolume", "delete", taken)
    os.rename(directory / "taken", os.path.join(os.fsencode(directory), name))


def _btrfs(*argv: Argument) -> None:
    subprocess.run(["btrfs", "-q", *argv], check=True)


def read_only(path: Path, *, content: str = "x") -> Path:
    """Make a read-only subvolume that was not received."""
    _btrfs("subvolume", "create", path)
    (path / "file").write_text(content)
    _btrfs("property", "set", "-ts", path, "ro", "true")
    return path


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a process that works in a directory."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def document(done: Done, status: int = 0) -> list[dict[str, Any]]:
    """Read the JSON that a verb printed, and return its places."""
    read = json.loads(must(done, status).stdout)
    assert (read["version"], read["exit_status"]) == (1, status)
    places = read["places"]
    assert isinstance(places, list)
    return places
