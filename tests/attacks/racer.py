"""The racer: as another user it exchanges names as fast as it can."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from types import FrameType

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h
_libc = ctypes.CDLL(None, use_errno=True)

#: What the racer calls the things that it has moved out of the way.
STOLEN = ".stolen-"
LURE = ".lure-"


def exchange(one: str, other: str) -> None:
    """Exchange two names in one step.

    :raises OSError: if one of them is not there.
    """
    words = (os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    if _libc.renameat2(_AT_FDCWD, *words) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), one)


def race(swaps: Sequence[Mapping[str, str]]) -> int:
    """Swap until SIGTERM comes, then put things back.

    :param swaps: each has a ``path`` and the ``victim`` that a link there leads to.
        Where the path ends with ``/*``, each name in that directory that does not
        begin with a dot is one, and the victim is in the directory ``victim``.
    :returns: how often it did.
    """
    told_to_end = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal told_to_end
        told_to_end = True

    signal.signal(signal.SIGTERM, end)
    print("ready", flush=True)
    count = 0
    dice = random.Random(os.getpid())
    while not told_to_end:
        # A run is to come further now and then.
        time.sleep(dice.choice((0, 0, 0.0005, 0.002, 0.01, 0.05)))
        swap = dice.choice(swaps)
        with contextlib.suppress(OSError):
            for path, victim in _chosen(swap["path"], swap["victim"], dice):
                count += dice.choice((_by_exchange, _by_renames))(path, victim, dice)
    _put_back({os.path.dirname(swap["path"]) for swap in swaps})
    return count


def _chosen(path: str, victim: str, dice: random.Random) -> list[tuple[str, str]]:
    """Return the path itself, or one of those that it stands for, if there is any."""
    if not path.endswith("/*"):
        return [(path, victim)]
    directory = path[:-2]
    names = [name for name in os.listdir(directory) if name[0] != "."]
    chosen = dice.sample(names, min(len(names), 1))
    return [(f"{directory}/{name}", f"{victim}/{name}") for name in chosen]


def _by_exchange(path: str, victim: str, dice: random.Random) -> int:
    directory, name = os.path.split(path)
    lure = os.path.join(directory, LURE + name)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(lure)
    os.symlink(victim, lure)
    exchange(path, lure)
    time.sleep(dice.choice((0, 0, 0.0005, 0.005)))
    exchange(path, lure)
    os.unlink(lure)
    return 2


def _by_renames(path: str, victim: str, dice: random.Random) -> int:
    directory, name = os.path.split(path)
    stolen = os.path.join(directory, STOLEN + name)
    os.rename(path, stolen)
    try:
        os.symlink(victim, path)
        time.sleep(dice.choice((0, 0, 0.0005, 0.005)))
        os.unlink(path)
    finally:
        os.rename(stolen, path)
    return 2


def _put_back(directories: set[str]) -> None:
    """Rename everything back, if nothing else has taken that meanwhile."""
    for directory in directories:
        for entry in list(os.scandir(directory)):
            for mark in (STOLEN, LURE):
                if not entry.name.startswith(mark):
                    continue
                path = os.path.join(directory, entry.name[len(mark) :])
                with contextlib.suppress(OSError):
                    if os.path.islink(entry.path):
                        os.unlink(entry.path)
                        continue
                    if os.path.islink(path):
                        os.unlink(path)
                    if not os.path.lexists(path):
                        os.rename(entry.path, path)


if __name__ == "__main__":
    os.setgroups([])
    os.setgid(int(sys.argv[2]))
    os.setuid(int(sys.argv[1]))
    print(race(json.loads(sys.argv[3])))
