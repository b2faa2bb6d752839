"""The program is killed, or told to end, at every step of a backup."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.faults.faulty import faulty_btrfs, was_faulty
from tests.support import processes
from tests.support.command_line import assert_fails
from tests.support.places import MIB
from tests.support.program import PROGRAM, environment, finish, start_program
from tests.support.scene import Scene

pytestmark = pytest.mark.btrfs

#: What btrfs is told at each step of a run.
STEPS = {
    "snapshot": '" subvolume snapshot -r -- "*/fd/5" "*',
    "send": '" send "*',
    "receive": '" receive "*',
    "publish": '" subvolume snapshot -r -- "*/fd/9/*',
    "delete what was staged": '" subvolume delete "*" in "*/incoming/*',
    "prune": '" subvolume delete "*" in "*[!a-f0-9]',
}
BEFORE, AFTER = "kill_program", 'real "$@"; kill_program'


@pytest.mark.parametrize(
    ("step", "moment"),
    [
        *((step, AFTER) for step in STEPS),
        ("snapshot", BEFORE),
        ("receive", BEFORE),
    ],
)
def test_kill_9_around_every_step_is_made_good_by_the_next_run(
    scene: Scene, tmp_path: Path, step: str, moment: str
) -> None:
    scene.back_up("-N1", "-n1")
    scene.write()
    env = faulty_btrfs(tmp_path, STEPS[step], moment)
    killed = scene.run("-N1", "-n1", env=env)
    assert was_faulty(tmp_path), killed.stderr
    assert killed.returncode == -signal.SIGKILL
    scene.wait_for_quiet()
    scene.check_laws()
    scene.check_converges("-N1", "-n1")
    assert len(scene.snapshots) == len(scene.backups) == 1


def test_kill_9_at_ten_random_moments_is_made_good_by_the_next_run(
    scene: Scene,
) -> None:
    _check_random_kills(scene, kills=10, longest_s=1.2)


def test_kill_9_at_random_moments_over_ssh_is_made_good_by_the_next_run(
    ssh_scene: Scene,
) -> None:
    _check_random_kills(ssh_scene, kills=2, longest_s=2.0)


def _check_random_kills(scene: Scene, *, kills: int, longest_s: float) -> None:
    dice = random.Random(f"{kills} moments")
    scene.back_up()
    for number in range(kills):
        scene.write(3 * MIB)
        moment_s = longest_s * (number + dice.random()) / kills
        with scene.start("--rate", "4M", "-N2", "-n2") as program:
            time.sleep(moment_s)
            program.kill()
        scene.wait_for_quiet()
        scene.check_laws()
        scene.check_converges("-N2", "-n2")


@pytest.mark.parametrize("where", ["write", "renameat"])
def test_kill_9_while_holds_are_written_leaves_the_old_or_the_new(
    scene: Scene, where: str
) -> None:
    scene.back_up()
    old = scene.holds.read_bytes()
    scene.write()
    words = [*scene.options, "-N1", str(scene.source), scene.place]
    paths = {"write": f"{scene.holds}.new", "renameat": scene.holds.parent}
    traced = [
        *("strace", "-f", "-o", "/dev/null", "-P", str(paths[where])),
        *("-e", f"trace={where}", "-e", f"inject={where}:signal=SIGKILL:when=1"),
    ]
    killed = subprocess.run(
        [*traced, *PROGRAM, *words], env=environment(), capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert scene.holds.read_bytes() == old
    scene.wait_for_quiet()
    scene.check_laws()
    done = scene.check_converges("-N1")
    assert "cannot be read" not in done.stderr


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_in_a_transfer_ends_all_and_the_next_run_completes(
    scene: Scene, name: str
) -> None:
    _check_signal(scene, signal.Signals[name])


def test_a_signal_in_a_transfer_over_ssh_ends_all_and_the_next_run_completes(
    ssh_scene: Scene,
) -> None:
    _check_signal(ssh_scene, signal.SIGTERM)


def _check_signal(scene: Scene, number: signal.Signals) -> None:
    scene.back_up()
    scene.write(6 * MIB)
    with scene.start("--rate", "2M", "-N1", "-n1") as program:
        scene.wait_for_data(100)
        program.send_signal(number)
        done = finish(program)
    assert_fails(done, 128 + number, number.name)
    assert scene.workers() == [] or scene.sshd, "it did not wait for its children"
    scene.wait_for_quiet()
    assert len(scene.backups) == 1
    scene.check_laws()
    scene.check_converges()


def test_a_second_signal_ends_a_run_that_cannot_end_its_children(
    scene: Scene, tmp_path: Path
) -> None:
    ready, told = tmp_path / "ready", tmp_path / "told"
    stubborn = f"trap ': >{told}' TERM; : >{ready}; while :; do sleep 0.1; done"
    env = faulty_btrfs(tmp_path, STEPS["receive"], stubborn)
    scene.write(4 * MIB)
    with scene.start(env=env) as program:
        processes.wait_until(ready.exists)
        program.send_signal(signal.SIGINT)
        processes.wait_until(told.exists)  # the first signal lets the children end
        program.send_signal(signal.SIGINT)
        done = finish(program)
    assert done.returncode == 128 + signal.SIGINT
    scene.wait_for_quiet()
    scene.check_laws()
    scene.check_converges()


@pytest.mark.parametrize("victim", ["send", "receive"])
def test_a_killed_end_of_a_transfer_is_named_and_the_next_run_completes(
    any_scene: Scene, victim: str
) -> None:
    scene = any_scene
    scene.back_up()
    scene.write(6 * MIB)
    with scene.start("--rate", "2M", "-N1", "-n1") as program:
        scene.wait_for_data(100)
        processes.kill([scene.wait_for_worker("btrfs", victim)])
        done = finish(program)
    assert_fails(done, 1, f"btrfs {victim}", "SIGKILL")
    blamed = done.stderr.splitlines()[0]
    assert f"btrfs {victim}" in blamed, "another one is blamed"
    assert "roken pipe" not in blamed
    assert len(scene.backups) == 1, "pruned, or published, after a failure"
    scene.wait_for_quiet()
    assert scene.staging == [], "what was received is not dropped at once"
    scene.check_laws()
    scene.check_converges()


def test_a_lock_dies_with_its_process(any_scene: Scene) -> None:
    scene = any_scene
    scene.write(6 * MIB)
    with scene.start("--rate", "2M") as program:
        scene.wait_for_data(100)
        program.kill()
    scene.back_up()
    scene.wait_for_quiet()
    scene.check_converges()


def test_closed_outputs_do_not_end_a_backup(scene: Scene) -> None:
    script = '"$@" >&- 2>&-'
    words = [*scene.options, str(scene.source), scene.place]
    done = subprocess.run(
        ["sh", "-c", script, "sh", *PROGRAM, *words],
        env=environment(),
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0
    assert len(scene.backups) == 1
    scene.check_converges()


def test_a_full_stdout_does_not_end_a_backup(scene: Scene) -> None:
    with open("/dev/full", "w") as full:
        with scene.start(stdout=full.fileno()) as program:
            done = finish(program)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert len(scene.backups) == 1


def test_a_command_that_reads_nothing_dies_with_a_killed_program(
    scene: Scene,
) -> None:
    words = [*scene.options, str(scene.source), "shell://exec sleep 100"]
    with start_program(*words) as program:
        try:
            (sleeper,) = processes.wait_until(
                lambda: [
                    child
                    for child in processes.children(program.pid)
                    if "sleep" in child.argv[:1]
                ]
            )
        finally:
            program.kill()
    processes.wait_until(lambda: not sleeper.alive(), 5)
    scene.wait_for_quiet()
    scene.check_converges()


def test_a_signal_is_heeded_while_processes_start(
    ssh_scene: Scene, tmp_path: Path
) -> None:
    """fork(2) in one thread can take the signal away from the one that waits."""
    env = {"XDG_RUNTIME_DIR": None, "TMPDIR": str(tmp_path)}
    for _ in range(10):
        with ssh_scene.start(env=env) as program:
            processes.wait_until(
                lambda: os.listdir(tmp_path) or program.poll() is not None,
                interval_s=0.001,
            )
            program.send_signal(signal.SIGTERM)
            done = finish(program)
        assert_fails(done, 128 + signal.SIGTERM, "SIGTERM")
        assert os.listdir(tmp_path) == [], "the directory of the ssh socket is left"
        assert ssh_scene.snapshots == []
