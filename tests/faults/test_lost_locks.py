"""A holder of a lock behind ssh falls silent; another one is alive."""

from __future__ import annotations

import signal
import time

import pytest

from tests.faults.conftest import Disks
from tests.support import processes
from tests.support.command_line import assert_fails
from tests.support.places import MIB, STATE
from tests.support.program import finish
from tests.support.scene import Scene
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs


def test_a_lock_whose_holder_fell_silent_is_free_after_half_a_minute(
    disks: Disks, sshd: Sshd
) -> None:
    """Who comes meanwhile waits for that, and the loser deletes nothing more there.

    What it has sent already may appear: nothing is in the way of that.
    """
    scene, other = Scene(*disks, sshd), Scene(*disks, sshd)
    other.place, other.options[1] = scene.place, "o-"
    scene.back_up()
    scene.write(8 * MIB)
    with scene.start("--rate", "4M", "-N1", "-n1") as program:
        scene.wait_for_data(100)
        program.send_signal(signal.SIGSTOP)
        # Its last sign of life may still be on its way; they come each 5 s.
        beat = scene.destination / STATE / "beat"
        processes.wait_until(lambda: time.time() - beat.stat().st_mtime > 4)
        try:
            began = time.monotonic()
            done = other.run()
            waited_s = time.monotonic() - began
            before = scene.backups
        finally:
            program.send_signal(signal.SIGCONT)
        loser = finish(program)
    assert done.returncode == 0, done.stderr
    assert 15 < waited_s < 55
    assert loser.returncode in (1, 10), loser
    assert_fails(loser, loser.returncode, "was lost, and with it the lock on")
    assert {b.uuid for b in before} <= {b.uuid for b in scene.backups}
    assert len(scene.snapshots) == 1  # its lock on the source it never lost
    scene.wait_for_quiet()
    scene.check_laws()
    again = scene.back_up()
    assert scene.staging == [], again.stderr


def test_a_holder_that_is_alive_is_reported_soon(disks: Disks, sshd: Sshd) -> None:
    scene, other = Scene(*disks, sshd), Scene(*disks, sshd)
    other.place, other.options[1] = scene.place, "o-"
    scene.write(24 * MIB)
    with scene.start("--rate", "2M") as program:
        scene.wait_for_data(100)
        began = time.monotonic()
        done = other.run()
        assert time.monotonic() - began < 10
        assert program.poll() is None
        assert_fails(done, 3, "another run is working on", f"pid {program.pid}")
        processes.kill(processes.children(program.pid), signal.SIGTERM)
        program.terminate()
        finish(program)
    assert other.snapshots == []
