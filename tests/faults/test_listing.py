"""A place that could not be looked at, or not written, is not an empty one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from btrfs_backup_ng.session.turns import SMALL
from tests.faults.conftest import Disks
from tests.faults.faulty import faulty_btrfs, was_faulty
from tests.support.command_line import assert_fails
from tests.support.places import MIB
from tests.support.program import PROGRAM, environment
from tests.support.scene import Scene
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs


def _two_backups(scene: Scene) -> list[str]:
    for _ in range(2):
        scene.write()
        scene.back_up()
    scene.write()
    return _names(scene)


def _names(scene: Scene) -> list[str]:
    found = [*scene.snapshots, *scene.backups]
    return [str(subvolume.path) for subvolume in found]


@pytest.mark.parametrize("call", ["ioctl", "getdents64"])
@pytest.mark.parametrize("which", ["source", "target"])
def test_a_failed_listing_is_not_an_empty_place(
    scene: Scene, which: str, call: str
) -> None:
    before = _two_backups(scene)
    listed = scene.snapshot_folder if which == "source" else scene.destination
    words = [*scene.options, "-N1", "-n1", "--force", str(scene.source), scene.place]
    done = subprocess.run(
        ["strace", "-f", "-o", "/dev/null", "-P", str(listed)]
        + ["-e", f"trace={call}", "-e", f"inject={call}:error=EIO"]
        + [*PROGRAM, *words],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert_fails(done, 1, f"cannot list the snapshots in {listed}")
    assert "in full" not in done.stdout
    assert _names(scene) == before, "something was deleted, or a snapshot made"
    scene.check_laws()
    scene.check_converges("-N1", "-n1", "--force")


@pytest.mark.parametrize("step", ["subvolume list -o", "subvolume list -R"])
def test_a_failed_listing_behind_ssh_is_not_an_empty_destination(
    disks: Disks, new_sshd: Callable[..., Sshd], tmp_path: Path, step: str
) -> None:
    pattern = f'*"{step}"*'
    env = faulty_btrfs(tmp_path, pattern, "echo 'ERROR: no' >&2; exit 1")
    done_once = tmp_path / "faulty" / "done"
    done_once.mkdir()
    sshd = new_sshd(config=(f"SetEnv PATH={env['PATH']}",))
    os.chmod(tmp_path, 0o755)
    scene = Scene(*disks, sshd)
    before = _two_backups(scene)
    done_once.rmdir()
    done = scene.run("-N1", "-n1", "--force")
    assert_fails(done, 1, str(scene.destination), "cannot list")
    assert "in full" not in done.stdout
    assert _names(scene) == before
    scene.check_converges("-N1", "-n1", "--force")


FAILING = {
    "send": '" send "*',
    "receive": '" receive "*',
    "publish": '" subvolume snapshot -r -- "*/fd/9/*',
    "the look afterwards": '" subvolume show "*" in "*/incoming/*',
}


@pytest.mark.parametrize("step", FAILING)
def test_nothing_is_pruned_where_the_transfer_failed(
    scene: Scene, tmp_path: Path, step: str
) -> None:
    before = _two_backups(scene)
    scene.write(SMALL + MIB)  # the script of receive looks, not the program
    env = faulty_btrfs(tmp_path, FAILING[step], "echo 'ERROR: no luck' >&2; exit 1")
    done = scene.run("-N1", "-n1", "--force", env=env)
    assert was_faulty(tmp_path)
    assert_fails(done, 1, "no luck")
    assert set(_names(scene)) & set(before[2:]) == set(before[2:])
    assert before[1] in _names(scene), "the base is gone"
    scene.check_laws()
    assert scene.staging == []
    scene.check_converges("-N1", "-n1", "--force")


@pytest.mark.parametrize("times", [1, 2])
def test_a_subvolume_that_is_deleted_elsewhere_meanwhile_harms_no_transfer(
    scene: Scene, tmp_path: Path, times: int
) -> None:
    """``btrfs subvolume show`` looks at all subvolumes, and then finds one missing."""
    count = tmp_path / "count"
    action = f"""echo x >>{count}
        [ $(wc -l <{count}) = {times} ] || rmdir {tmp_path}/faulty/done
        echo 'ERROR: Subvolume not found: No such file or directory' >&2
        exit 1"""
    env = faulty_btrfs(tmp_path, FAILING["the look afterwards"], action)
    scene.write(SMALL + MIB)
    done = scene.back_up(env=env)
    assert len(count.read_text()) == 2 * times and was_faulty(tmp_path)
    assert done.stderr == "" and len(scene.backups) == 1
    scene.check_laws()


def test_a_destination_that_failed_does_not_keep_the_other_from_pruning(
    disks: Disks, tmp_path: Path
) -> None:
    scene, other = Scene(*disks), Scene(*disks)
    for _ in range(3):
        scene.write()
        scene.back_up(other.place)
    scene.write()
    # Both receive at the same moment.
    env = faulty_btrfs(tmp_path, f'" receive "*" {scene.destination}/"*', "exit 1")
    done = scene.run(other.place, "-N1", "-n1", "--force", env=env)
    assert was_faulty(tmp_path)
    assert_fails(done, 10, scene.place)
    assert len(scene.backups) == 3
    assert len(other.backups) == 1
    assert len(scene.snapshots) == 2, "the newest, and the base of the one that failed"
    scene.check_converges(other.place, "-N1", "-n1", "--force")
    assert len(scene.snapshots) == 1


@pytest.mark.parametrize("kind", ["snapshot", "delete"])
def test_a_step_at_the_source_that_fails_is_told(
    scene: Scene, tmp_path: Path, kind: str
) -> None:
    _two_backups(scene)
    calls = {
        "snapshot": '" subvolume snapshot -r -- "*/fd/5" "*',
        "delete": '" subvolume delete "*" in "*/snapshots',
    }
    env = faulty_btrfs(tmp_path, calls[kind], "echo 'ERROR: no luck' >&2; exit 1")
    done = scene.run("-N1", "--force", env=env)
    assert was_faulty(tmp_path)
    assert done.returncode in (1, 10)
    assert_fails(done, done.returncode, str(scene.source), "no luck")
    scene.check_laws()
    scene.check_converges("-N1", "--force")
    assert len(scene.snapshots) == 1
