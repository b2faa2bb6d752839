"""The scene of the tests of the command line."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ours
from tests.support.filesystems import Filesystem
from tests.support.scene import Scene


@pytest.fixture
def scene(disks: tuple[Filesystem, Filesystem]) -> Scene:
    """Return a small source and a destination of a test's own."""
    return Scene(*disks, is_small=True)


@pytest.fixture
def public_path() -> Iterator[Path]:
    """Return a directory that every user of the machine can reach."""
    directory = ours.public_directory()
    yield directory
    shutil.rmtree(directory)
