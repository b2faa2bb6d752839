"""The scene of the tests of the command line."""

from __future__ import annotations

import pytest

from tests.support.filesystems import Filesystem
from tests.support.scene import Scene


@pytest.fixture
def scene(disks: tuple[Filesystem, Filesystem]) -> Scene:
    """Return a small source and a destination of a test's own."""
    return Scene(*disks, is_small=True)
