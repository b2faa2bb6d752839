"""Two runs meet at a source or at a destination."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

import pytest

from tests.faults.conftest import Disks
from tests.support.command_line import assert_fails, covers, must
from tests.support.places import MIB, ssh_place, ssh_words
from tests.support.program import Argument, finish, run_program, start_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs


@contextlib.contextmanager
def _busy(scene: Scene) -> Iterator[subprocess.Popen[str]]:
    """Have a run at work as long as the body, which must not disturb it."""
    scene.write(5 * MIB)
    with scene.start("--rate", "1M") as program:
        scene.wait_for_data(100)
        yield program
        done = finish(program)
    assert done.returncode == 0, done.stderr
    scene.check_laws()


def test_a_second_run_ends_at_once_with_3_and_changes_nothing(scene: Scene) -> None:
    with _busy(scene) as program:
        done = scene.run()
        assert program.poll() is None, "the second run waited"
        assert_fails(done, 3, "another run is working on", f"pid {program.pid}")
        assert "--wait" in done.stderr
        assert len(scene.snapshots) == 1
    scene.check_converges()


@covers("--no-transfer")
@pytest.mark.parametrize("kind", ["local", "ssh"])
def test_a_snapshot_alone_does_not_wait_for_a_run_that_sends(
    scene: Scene, sshd: Sshd, kind: str
) -> None:
    words: list[Argument] = [*scene.options, "-T", scene.source]
    if kind == "ssh":
        words[-1:] = [*ssh_words(sshd), ssh_place(sshd, scene.source, user="root")]
    scene.write(5 * MIB)
    with scene.start("--rate", "100k") as program:
        scene.wait_for_data(100)
        must(run_program(*words))
        done = run_program(*words, "-N1")
        assert program.poll() is None, "it waited"
        program.terminate()
        finish(program)
        told = "the snapshot was made, and nothing was deleted"
        assert_fails(done, 10, f"pid {program.pid}", told, "--wait")
        assert len(scene.snapshots) == 3
    scene.check_converges()


def test_a_second_run_with_wait_waits_and_succeeds(any_scene: Scene) -> None:
    scene = any_scene
    with _busy(scene):
        waited = scene.back_up("--wait", "60")
    assert "since" in waited.stdout, "it did not build upon the first"
    assert len(scene.backups) == 2
    scene.check_laws()


def test_a_wait_that_is_too_short_ends_with_3(scene: Scene) -> None:
    with _busy(scene) as program:
        done = scene.run("--wait", "0.3")
        assert program.poll() is None
        assert_fails(done, 3, "another run is working on")


def test_two_sources_meet_at_one_destination(disks: Disks) -> None:
    scene, other = Scene(*disks), Scene(*disks)
    with _busy(scene) as program:
        done = run_program("-p", "other-", other.source, scene.place)
        assert program.poll() is None
        assert_fails(done, 3, f"another run is working on {scene.place}")
        assert other.snapshots == [], "a snapshot was made for nothing"


def test_one_source_meets_itself_on_the_way_to_two_destinations(disks: Disks) -> None:
    scene, other = Scene(*disks), Scene(*disks)
    with _busy(scene) as program:
        done = run_program(*scene.options, scene.source, other.place)
        assert program.poll() is None
        assert_fails(done, 3, f"another run is working on {scene.source}")
        assert other.backups == []


def test_a_busy_destination_does_not_hold_up_the_other(disks: Disks) -> None:
    scene, other = Scene(*disks), Scene(*disks)
    with _busy(scene) as program:
        done = other.run(scene.place)
        assert program.poll() is None
        assert_fails(done, 10, f"another run is working on {scene.place}")
        assert len(other.backups) == 1
    other.back_up(scene.place)
    other.check_laws()
    assert len(scene.backups) == 3


def test_tasks_of_one_run_share_a_destination(disks: Disks) -> None:
    scene, other = Scene(*disks), Scene(*disks)
    done = scene.run("::", "-p", "o-", other.source, scene.place)
    assert done.returncode == 0, done.stderr
    received = {backup.received_uuid for backup in scene.backups}
    assert received == {scene.snapshots[0].uuid, other.snapshots[0].uuid}
    scene.check_laws()


def test_tasks_of_one_run_share_a_source(disks: Disks) -> None:
    scene, other = Scene(*disks), Scene(*disks)
    done = scene.run("::", *scene.options, scene.source, other.place)
    assert done.returncode == 0, done.stderr
    scene.check_laws()
    assert len(scene.snapshots) == 2


def test_a_push_over_ssh_and_a_local_run_meet_at_one_directory(
    disks: Disks, sshd: Sshd
) -> None:
    local, pushed = Scene(*disks), Scene(*disks, sshd)
    pushed.destination.rmdir()
    pushed.destination = local.destination
    pushed.place = pushed.place.replace(pushed.name, local.name)
    with _busy(pushed) as program:
        done = local.run()
        assert program.poll() is None
        assert_fails(done, 3, "another run is working on", f"pid {program.pid}")
    with _busy(local) as program:
        done = pushed.run()
        assert program.poll() is None
        assert_fails(done, 3, "another run is working on", f"pid {program.pid}")
    assert len(local.backups) == 2


def test_two_runs_started_together_do_not_harm_each_other(scene: Scene) -> None:
    words = [*scene.options, str(scene.source), scene.place, "--wait", "60"]
    with start_program(*words) as one, start_program(*words) as other:
        first, second = finish(one), finish(other)
    assert first.returncode == second.returncode == 0, (first.stderr, second.stderr)
    assert len(scene.snapshots) == len(scene.backups) == 2
    scene.check_laws()
    assert scene.staging == []


def test_a_dry_run_needs_no_lock(scene: Scene) -> None:
    with _busy(scene) as program:
        done = scene.run("--dry-run")
        assert program.poll() is None
        assert done.returncode == 0, done.stderr
