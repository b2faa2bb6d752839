"""The places between which the tests of the command line back up."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ours
from tests.support.filesystems import Filesystem, btrfs_filesystem
from tests.support.scenes import Scene

_numbers = itertools.count(1)


@contextlib.contextmanager
def two_filesystems() -> Iterator[tuple[Filesystem, Filesystem]]:
    """Make two filesystems that every user may look at."""
    directory = ours.public_directory()
    try:
        with contextlib.ExitStack() as stack:
            one = stack.enter_context(btrfs_filesystem(directory))
            other = stack.enter_context(btrfs_filesystem(directory))
            yield one, other
    finally:
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def two_disks() -> Iterator[tuple[Filesystem, Filesystem]]:
    """Make two filesystems for all tests of a worker."""
    with two_filesystems() as made:
        yield made


@pytest.fixture
def scene(two_disks: tuple[Filesystem, Filesystem]) -> Scene:
    """Return a source and a destination of a test's own."""
    one, other = two_disks
    number = str(next(_numbers))
    for filesystem in two_disks:
        (filesystem.path / number).mkdir()
    scene = Scene(
        one.subvolume(f"{number}/home"), other.path / number / "backups", one, other
    )
    scene.destination.mkdir()
    scene.more("first")
    return scene


@pytest.fixture
def public_path() -> Iterator[Path]:
    """Return a directory that every user of the machine can reach."""
    directory = ours.public_directory()
    yield directory
    shutil.rmtree(directory)
