"""A receiver freezes at the very end, a cable is pulled, a connection is reset."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import Disks
from tests.faults.cutting import Line
from tests.faults.faulty import faulty_btrfs, was_faulty
from tests.support import processes
from tests.support.command_line import assert_fails
from tests.support.places import MIB
from tests.support.program import finish
from tests.support.scene import Scene
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs

Servers = Callable[..., Sshd]


# The receiver stops before it has read anything: all of the stream is in the pipe.


def test_a_receiver_that_freezes_at_the_end_is_a_stall(
    scene: Scene, tmp_path: Path
) -> None:
    env = faulty_btrfs(tmp_path, "receive*", "kill -STOP $$; real")
    done = scene.run("--stall-timeout", "2", env=env, timeout=60)
    assert was_faulty(tmp_path)
    assert_fails(done, 1, "no data moved for 2 s (--stall-timeout)")
    assert "btrfs receive took no more data" in done.stderr
    scene.wait_for_quiet()
    assert scene.backups == []
    scene.check_converges()


def test_a_receiver_that_freezes_at_the_end_behind_ssh_is_a_stall(
    disks: Disks, new_sshd: Servers, tmp_path: Path
) -> None:
    os.chmod(tmp_path, 0o755)
    env = faulty_btrfs(tmp_path, "receive*", "kill -STOP $$; real")
    scene = Scene(*disks, new_sshd(config=(f"SetEnv PATH={env['PATH']}",)))
    try:
        done = scene.run("--stall-timeout", "2", timeout=60)
        assert was_faulty(tmp_path)
        assert_fails(done, 1, "no data moved for 2 s (--stall-timeout)")
        assert "btrfs receive on root@127.0.0.1 took no more data" in done.stderr
        assert scene.backups == []
    finally:
        wrapper = str(tmp_path / "faulty" / "btrfs")
        frozen = [p for p in processes.everything() if wrapper in p.argv]
        processes.kill(frozen, signal.SIGCONT)
    scene.wait_for_quiet()
    scene.check_converges()


# Two machines, as far as the network knows.


def _scene(cable: Line, disks: Disks) -> Scene:
    """Return places with the destination at the other end."""
    scene = Scene(*disks)
    cable.connect(scene)
    return scene


@contextlib.contextmanager
def _transfer(cable: Line, scene: Scene) -> Iterator[subprocess.Popen[str]]:
    """Have a second backup under way in the body."""
    done = cable.run(scene)
    assert done.returncode == 0, done.stderr
    scene.write(12 * MIB)
    with cable.start(scene, "--rate", "4M", "-N1", "-n1") as program:
        scene.wait_for_data(100)
        yield program


def _converges(cable: Line, scene: Scene) -> None:
    """Check that a plain run, started right away, makes all good."""
    done = cable.run(scene)
    assert done.returncode == 0, done.stderr
    scene.check_laws()
    assert {s.uuid for s in scene.snapshots} == {b.received_uuid for b in scene.backups}
    assert scene.staging == []


def test_a_pulled_cable_is_a_lost_connection(cable: Line, disks: Disks) -> None:
    scene = _scene(cable, disks)
    with _transfer(cable, scene) as program:
        cable.pull()
        done = finish(program)
    first = done.stderr.splitlines()[0]
    assert_fails(done, 1, "connection")
    assert f"btrfs receive on root@{cable.address}" in first, done.stderr
    assert len(scene.backups) == 1
    scene.check_laws()
    cable.repair()
    _converges(cable, scene)


def test_a_reset_connection_is_a_lost_connection(cable: Line, disks: Disks) -> None:
    scene = _scene(cable, disks)
    reset = ("-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset")
    with _transfer(cable, scene) as program:
        for chain in ("INPUT", "OUTPUT"):
            assert cable.inside("iptables", "-A", chain, *reset)
        done = finish(program)
    first = done.stderr.splitlines()[0]
    assert_fails(done, 1, "connection")
    assert f"btrfs receive on root@{cable.address}" in first, done.stderr
    assert len(scene.backups) == 1
    scene.check_laws()
    assert cable.inside("iptables", "-F")
    _converges(cable, scene)
