"""A filesystem that is frozen, as backups of virtual machines do, or hangs."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import MakesFilesystems
from tests.support.places import MIB
from tests.support.processes import killed, wait_until
from tests.support.program import run_program
from tests.support.scene import Scene

pytestmark = pytest.mark.btrfs


@contextmanager
def frozen(path: Path) -> Iterator[None]:
    """Freeze a filesystem: who writes to it waits until it is thawed."""
    subprocess.run(["fsfreeze", "--freeze", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", path], check=True)


def test_a_transfer_from_a_frozen_disk_is_shown_and_can_be_interrupted(
    btrfs: MakesFilesystems,
) -> None:
    """What status shows of it is kept in memory: a thread that writes would hang."""
    source, target = btrfs(), btrfs()
    scene = Scene(source, target)
    scene.write(90 * MIB)

    def shown() -> str:
        text = run_program("status", scene.destination).stdout
        return text if " MiB" in text else ""

    with killed(scene.start("--progress", "--rate", "1M")) as program:
        seen = [wait_until(shown, 60)]
        with frozen(source.path):
            for _ in range(2):
                seen.append(wait_until(lambda: {shown()} - {"", *seen}, 60).pop())
            program.send_signal(signal.SIGINT)
            assert program.wait(30) == 130
    scene.wait_for_quiet()
