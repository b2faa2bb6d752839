"""Which policy is on record after kills, and after runs that meet."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.faults.conftest import Disks
from tests.faults.faulty import faulty_btrfs, was_faulty
from tests.faults.test_kills import BEFORE
from tests.support import processes
from tests.support.command_line import must
from tests.support.many import add_history, write_records
from tests.support.places import MIB, STATE, ssh_place, ssh_words
from tests.support.program import finish, run_program, start_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs


def _on_record(scene: Scene) -> tuple[str, dict[str, str]]:
    """Return the policies on record, at the source and at the destination."""
    (here,) = json.loads(scene.holds.read_text())["policies"]
    there = json.loads((scene.destination / STATE / "sources.json").read_text())
    policies: dict[str, str] = there["policies"]
    return here["policy"], policies


def test_a_kill_before_the_deletion_lets_no_tighter_policy_through(
    scene: Scene, tmp_path: Path
) -> None:
    add_history(scene, range(20, 13, -1))
    write_records(scene)
    env = faulty_btrfs(tmp_path, '" subvolume delete "*" in "*/snapshots', BEFORE)
    killed = scene.run("-N5", "-n5", env=env)
    assert killed.returncode == -signal.SIGKILL and was_faulty(tmp_path)
    scene.wait_for_quiet()
    told = scene.back_up("-S", "-N1", "-n1").stderr
    assert "new for the backups" in told and "new for the snapshots" in told
    assert told.count("(until now: latest=5)") == 2
    assert (len(scene.snapshots), len(scene.backups)) == (8, 5)
    add_history(scene, range(40, 25, -1))  # more than half is to go by now
    assert scene.back_up("-N5", "-n5").stderr == ""
    assert len(scene.snapshots) == len(scene.backups) == 5
    assert _on_record(scene) == ("latest=5", {"x-": "latest=5"})


def test_of_two_runs_at_once_each_deletes_by_its_own_policy(scene: Scene) -> None:
    add_history(scene, range(20, 13, -1))
    write_records(scene, policy="latest=9")
    scene.write(4 * MIB)
    with scene.start("--rate", "4M", "-N4", "-n6") as first:
        scene.wait_for_data(100)
        second = scene.start("-S", "-N1", "-n9", "--wait", "300")
        assert finish(first).returncode == 0
    told = must(finish(second)).stderr
    assert "the policy latest is new for the snapshots" in told
    assert "(until now: latest=4)" in told and "new for the backups" not in told
    assert (len(scene.snapshots), len(scene.backups)) == (4, 6)
    assert _on_record(scene) == ("latest=4", {"x-": "latest=9"})


def test_a_lost_lock_loses_nothing_that_another_run_recorded(
    disks: Disks, sshd: Sshd
) -> None:
    """Both places are behind one connection, which ends in the middle of a transfer."""
    scene, other = Scene(*disks, sshd), Scene(*disks)
    other.place, other.options = str(scene.destination), ["-p", "o-"]
    place = ssh_place(sshd, scene.source, user="root")
    add_history(scene, range(20, 14, -1))
    write_records(scene, policy="latest=9")
    scene.write(8 * MIB)
    words = [*ssh_words(sshd), "-p", "x-", place, scene.place]
    with start_program(*words, "--rate=4M", "--retries=2", "-N3", "-n4") as program:
        scene.wait_for_data(100)
        (master,) = [
            child for child in processes.children(program.pid) if "-M" in child.argv
        ]
        program.send_signal(signal.SIGSTOP)
        try:
            processes.kill([master])
            wait = "--wait=60"  # until the server has noticed it
            other.back_up(wait, "-n7")
            must(run_program("-p", "x-", "-S", "-T", "-N5", wait, scene.source))
            assert len(scene.snapshots) == 5
        finally:
            program.send_signal(signal.SIGCONT)
        done = must(finish(program))
    assert "connection" in done.stderr and "deleted" in done.stdout
    assert len(scene.snapshots) == 3
    assert len([name for name in scene.backup_names if name[0] == "x"]) == 4
    assert _on_record(scene) == ("latest=3", {"x-": "latest=4", "o-": "latest=7"})
    scene.wait_for_quiet()
