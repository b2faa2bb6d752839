"""A room for one test alone on the disks that all tests of a worker share."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.filesystems import Filesystem
from tests.support.places import command

_numbers = itertools.count(1)


class Room(NamedTuple):
    """A directory on each of two filesystems, for one test alone."""

    here: Path
    there: Path

    def source(self, name: str = "source", content: str = "first") -> Path:
        """Make a subvolume to back up, with a small file in it."""
        path = self.here / name
        command("btrfs", "-q", "subvolume", "create", "--", path)
        (path / "file").write_text(content)
        return path

    def destination(self, name: str = "backups") -> Path:
        """Make a directory to back up to."""
        path = self.there / name
        path.mkdir()
        return path


@pytest.fixture
def room(
    disks: tuple[Filesystem, Filesystem],
) -> Room:
    """Make room for one test on the shared disks."""
    name = f"room-{next(_numbers)}"
    paths = [filesystem.path / name for filesystem in disks]
    for path in paths:
        path.mkdir()
    return Room(*paths)
