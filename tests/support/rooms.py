"""The filesystems that the tests of a module share, each in a room of its own."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import filesystems, ours
from tests.support.places import output

_numbers = itertools.count(1)


class Room(NamedTuple):
    """A directory on each of two filesystems, for one test alone."""

    here: Path
    there: Path

    def source(self, name: str = "source", content: str = "first") -> Path:
        """Make a subvolume to back up, with a small file in it."""
        path = self.here / name
        output("btrfs", "-q", "subvolume", "create", "--", path)
        (path / "file").write_text(content)
        return path

    def destination(self, name: str = "backups") -> Path:
        """Make a directory to back up to."""
        path = self.there / name
        path.mkdir()
        return path


@pytest.fixture(scope="module")
def shared_filesystems() -> (
    Iterator[tuple[filesystems.Filesystem, filesystems.Filesystem]]
):
    """Make the two filesystems, where any user may look in."""
    directory = ours.public_directory()
    try:
        with contextlib.ExitStack() as stack:
            yield (
                stack.enter_context(filesystems.btrfs_filesystem(directory)),
                stack.enter_context(filesystems.btrfs_filesystem(directory)),
            )
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def room(
    shared_filesystems: tuple[filesystems.Filesystem, filesystems.Filesystem],
) -> Room:
    """Make room for one test on the shared filesystems."""
    name = f"room-{next(_numbers)}"
    paths = [filesystem.path / name for filesystem in shared_filesystems]
    for path in paths:
        path.mkdir()
    return Room(*paths)
