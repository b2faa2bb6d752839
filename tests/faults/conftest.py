"""The scenes of the fault tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.faults.cutting import Line, laid_line
from tests.support.filesystems import Filesystem
from tests.support.scene import Scene
from tests.support.sshd import Sshd

Disks = tuple[Filesystem, Filesystem]


@pytest.fixture
def scene(disks: Disks) -> Scene:
    """Return a source and a destination of one's own on the shared disks."""
    return Scene(*disks)


@pytest.fixture
def ssh_scene(disks: Disks, sshd: Sshd) -> Scene:
    """Return the same with the destination behind ssh."""
    return Scene(*disks, sshd)


@pytest.fixture(params=["local", "ssh"])
def any_scene(
    request: pytest.FixtureRequest, disks: Disks, get_sshd: Callable[[], Sshd]
) -> Scene:
    """Return either of them."""
    return Scene(*disks, get_sshd() if request.param == "ssh" else None)


@pytest.fixture
def get_sshd(request: pytest.FixtureRequest) -> Callable[[], Sshd]:
    """Start the ssh server only if it is asked for."""
    return lambda: request.getfixturevalue("sshd")


@pytest.fixture
def cable(new_sshd: Callable[..., Sshd]) -> Iterator[Line]:
    """Lay a cable to a server that is on another machine, as far as anybody knows."""
    with laid_line(lambda config: new_sshd(config=tuple(config))) as line:
        yield line
