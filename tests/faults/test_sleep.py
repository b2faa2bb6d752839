"""A machine sleeps while it sends, or a signal stops the sender: nothing is spoilt."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from btrfs_backup_ng.host.clock import SLEEP_VARIABLE
from tests.support import processes
from tests.support.command_line import assert_fails, must
from tests.support.places import MIB, assert_equal
from tests.support.program import finish
from tests.support.scene import Scene

pytestmark = pytest.mark.btrfs


def _stop_sender(program: subprocess.Popen[str]) -> None:
    """Stop the sender while it waits for its reader, and let it go on."""

    def find() -> list[processes.Process]:
        below = processes.descendants(program.pid)
        return [one for one in below if one.argv[:2] == ("btrfs", "send")]

    (sender,) = processes.wait_until(find)
    time.sleep(0.5)  # the pipes are full then
    processes.kill([sender], signal.SIGSTOP)
    status = Path(f"/proc/{sender.pid}/stat")
    processes.wait_until(lambda: status.read_text().rsplit(") ")[1][0] == "T")
    processes.kill([sender], signal.SIGCONT)


def test_a_command_gets_no_stream_that_begins_again_and_counts_as_sent(
    scene: Scene, tmp_path: Path
) -> None:
    scene.write(6 * MIB)
    go, stored = tmp_path / "go", tmp_path / "stored"
    sink = f"shell://until [ -e {go} ]; do sleep 0.1; done; cat >{stored}"
    scene.place = sink
    with scene.start() as program:
        _stop_sender(program)
        go.touch()
        done = finish(program)
    assert_fails(done, 1, "sender was stopped", "damaged at byte", "delete it")
    assert "sent x-" not in done.stdout
    must(scene.run("-S"))
    checked = ["btrfs", "receive", "--dump", "-q", "-f", str(stored)]
    subprocess.run(checked, check=True, stdout=subprocess.DEVNULL)


def test_a_backup_whose_sender_is_stopped_is_sent_again_by_itself(scene: Scene) -> None:
    _check_sent_again(scene, {}, "as if its sender was stopped")


def test_a_backup_over_ssh_during_which_the_machine_slept_says_so(
    ssh_scene: Scene, tmp_path: Path
) -> None:
    slept = tmp_path / "slept"
    slept.write_text("60")
    ssh_scene.options += ("--checkpoint-interval", "1M")
    _check_sent_again(ssh_scene, {SLEEP_VARIABLE: str(slept)}, "slept for 2 h")


def _check_sent_again(scene: Scene, env: dict[str, str], why: str) -> None:
    """Stop the sender of an incremental backup; the run completes by itself."""
    scene.back_up()
    scene.write(7 * MIB)
    with scene.start("--rate", "4M", env=env) as program:
        _stop_sender(program)
        for path in env.values():
            Path(path).write_text("7260")
        done = must(finish(program))
    assert why in done.stderr and "Trying again" in done.stderr
    assert "in full" not in done.stdout
    newest = max(scene.backups, key=lambda backup: backup.made)
    assert_equal(scene.snapshot_folder / newest.path.name, newest.path)
    scene.check_converges()
