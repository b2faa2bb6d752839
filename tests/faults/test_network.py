"""Peers freeze, crawl or vanish in the middle of a transfer."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.faults.conftest import Disks
from tests.support import processes
from tests.support.command_line import assert_fails
from tests.support.places import MIB
from tests.support.program import finish
from tests.support.scene import Scene
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs


def _stop_receiver(scene: Scene) -> processes.Process:
    receiver = scene.wait_for_worker("btrfs", "receive")
    processes.kill([receiver], signal.SIGSTOP)
    return receiver


def test_a_receiver_that_froze_is_a_stall_that_names_its_limit(scene: Scene) -> None:
    scene.back_up()
    scene.write(12 * MIB)
    with scene.start("--rate", "4M", "--stall-timeout", "3", "-N1", "-n1") as program:
        scene.wait_for_data(100)
        _stop_receiver(scene)
        done = finish(program)
    assert_fails(done, 1, "no data moved for 3 s (--stall-timeout)", "btrfs receive")
    scene.wait_for_quiet()
    assert len(scene.backups) == 1
    scene.check_laws()
    scene.check_converges()


def test_a_receiver_that_froze_behind_ssh_does_not_stop_the_next_run(
    ssh_scene: Scene,
) -> None:
    scene = ssh_scene
    scene.back_up()
    scene.write(16 * MIB)
    words = ("--no-mbuffer", "--stall-timeout", "3", "-N1", "-n1")
    with scene.start("--rate", "8M", *words) as program:
        scene.wait_for_data(100)
        frozen = _stop_receiver(scene)
        done = finish(program)
    assert_fails(done, 1, "no data moved for 3 s (--stall-timeout)", "btrfs receive")
    assert len(scene.backups) == 1
    scene.check_laws()
    assert len(scene.staging) == 1
    assert frozen.alive()
    scene.check_converges()  # which ends it
    processes.wait_until(lambda: not frozen.alive())


def test_a_sender_that_froze_is_a_stall_that_names_it(scene: Scene) -> None:
    scene.write(12 * MIB)
    with scene.start("--rate", "4M", "--stall-timeout", "2") as program:
        scene.wait_for_data(100)
        processes.kill([scene.wait_for_worker("btrfs", "send")], signal.SIGSTOP)
        done = finish(program)
    assert_fails(done, 1, "no data moved for 2 s (--stall-timeout)", "btrfs send")
    scene.wait_for_quiet()
    scene.check_converges()


def test_slow_but_alive_is_not_ended(scene: Scene) -> None:
    scene.write(4 * MIB)
    scene.back_up("--rate", "1M", "--stall-timeout", "1")
    scene.check_laws()


def test_a_pause_shorter_than_the_limit_is_not_a_stall(scene: Scene) -> None:
    scene.write(6 * MIB)
    with scene.start("--rate", "3M", "--stall-timeout", "30") as program:
        scene.wait_for_data(100)
        receiver = _stop_receiver(scene)
        processes.kill([receiver], signal.SIGCONT)
        done = finish(program)
    assert done.returncode == 0, done.stderr


_RESUMES = (
    "The next run resumes from its last checkpoint there (one each 4.0 MiB), or begins"
    " again."
)


@pytest.mark.parametrize(
    "interval, next_step",
    [("4M", _RESUMES), ("1G", "The next run sends it again.")],
    ids=["with checkpoints", "too short for one"],
)
def test_a_master_killed_in_a_transfer_is_a_lost_connection(
    ssh_scene: Scene, interval: str, next_step: str
) -> None:
    scene = ssh_scene
    scene.options += ("--checkpoint-interval", interval)
    scene.back_up()
    scene.write(6 * MIB)
    with scene.start("--rate", "2M", "-N1", "-n1") as program:
        scene.wait_for_data(100)
        (master,) = [
            child for child in processes.children(program.pid) if "-M" in child.argv
        ]
        processes.kill([master])
        done = finish(program)
    assert_fails(done, 1, "btrfs receive on root@127.0.0.1", "connection")
    assert "btrfs receive" in done.stderr.splitlines()[0]
    assert next_step in done.stderr
    assert len(scene.backups) == 1
    scene.wait_for_quiet()
    scene.check_laws()
    scene.check_converges()


def test_a_server_that_goes_down_in_a_transfer_is_a_lost_connection(
    disks: Disks, new_sshd: Callable[..., Sshd]
) -> None:
    sshd = new_sshd()
    scene = Scene(*disks, sshd)
    scene.back_up()
    scene.write(6 * MIB)
    with scene.start("--rate", "2M", "-N1", "-n1") as program:
        scene.wait_for_data(100)
        sshd.stop()
        done = finish(program)
    assert_fails(done, 1, "connection")
    scene.wait_for_quiet()
    assert len(scene.backups) == 1
    down = scene.run()
    assert_fails(down, 10, "127.0.0.1", "onnection refused")
    assert len(scene.snapshots) == 3, "it has been there before, so the source goes on"
    sshd.start()
    scene.check_converges()
