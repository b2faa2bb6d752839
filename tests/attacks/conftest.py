"""The arena of the attacks, one for each worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.attacks.scene import Arena
from tests.attacks.scene import arena as made_arena


@pytest.fixture(scope="session")
def arena() -> Iterator[Arena]:
    """Make the filesystems, victims, accounts and the server."""
    with made_arena() as arena:
        yield arena


@pytest.fixture(autouse=True)
def whole_victims(arena: Arena) -> Iterator[None]:
    """Leave whole victims to the next test, also where one broke off."""
    yield
    if arena.unchecked:
        arena.check_victims(arena.unchecked[-1], may_have_passed=True)
