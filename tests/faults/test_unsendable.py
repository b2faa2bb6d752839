"""A snapshot that cannot be sent holds up no newer one, and is named."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command_line import assert_fails, must
from tests.support.places import assert_equal, wrapper
from tests.support.program import ASKING, GO_ON, Argument, run_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd
from tests.support.staged import Way, local_way, ssh_way

pytestmark = pytest.mark.btrfs

_EIO = "send ioctl failed with -5: Input/output error"
_TOO_LONG = "mkdir o257-7-0 failed: File name too long"


def _failing(directory: Path, verb: str, name: str, error: str) -> dict[str, str]:
    """Put a ``btrfs`` in front of the real one that fails for one snapshot, always."""
    wrapper = directory / "failing" / "btrfs"
    wrapper.parent.mkdir(exist_ok=True)
    wrapper.write_text(
        f'#!/bin/sh\ncase "$*" in\n*"{verb} "*"{name}") echo "ERROR: {error}" >&2;'
        f' exit 1 ;;\nesac\n{GO_ON}\nPATH=${{PATH#*:}}\nexec btrfs "$@"\n'
    )
    wrapper.chmod(0o755)
    return {**ASKING, "PATH": f"{wrapper.parent}:{os.environ['PATH']}"}


def _check_goes_on(scene: Scene, tmp_path: Path, error: str) -> None:
    """Let the second snapshot fail, in three runs; newer ones arrive all the same."""
    scene.add("second")
    must(scene.run("-T"))
    bad = scene.snapshot_names[-1]
    env = _failing(tmp_path, "send", f"./{bad}", error)
    scene.add("third")
    with_both = ("--retries", "3", "-N", "2")
    done = scene.run(*with_both, env=env)
    assert_fails(done, 10, f"{bad} cannot be sent", error, "scrub", "stop trying")
    assert "Trying again" not in done.stderr
    assert scene.backup_names[-1] == scene.snapshot_names[-1] != bad
    scene.add("fourth")
    done = scene.run(*with_both, env=env)
    assert done.returncode in (0, 10), done.stderr
    assert set(scene.snapshot_names) <= {*scene.backup_names, bad}
    assert scene.backup_names[-1] == scene.snapshot_names[-1]
    assert "in full" not in done.stdout


@pytest.mark.parametrize("error", [_EIO, _TOO_LONG])
def test_an_incremental_that_cannot_be_sent_holds_up_no_newer_one(
    scene: Scene, tmp_path: Path, error: str
) -> None:
    scene.back_up()
    _check_goes_on(scene, tmp_path, error)


def test_nor_does_one_over_ssh(ssh_scene: Scene, tmp_path: Path) -> None:
    ssh_scene.back_up()
    _check_goes_on(ssh_scene, tmp_path, _EIO)


def test_the_first_backup_is_of_the_next_snapshot_then(
    scene: Scene, tmp_path: Path
) -> None:
    must(scene.run("-T"))
    (bad,) = scene.snapshot_names
    env = _failing(tmp_path, "send", f"./{bad}", _EIO)
    alone = scene.run("-S", env=env)
    assert_fails(alone, 1, f"{bad} cannot be sent", "No other was missing")
    scene.add("second")
    assert_fails(scene.run(env=env), 10, f"{bad} cannot be sent", "All others")
    assert scene.backup_names == scene.snapshot_names[1:]


def test_an_estimate_that_fails_fails_no_transfer(scene: Scene, tmp_path: Path) -> None:
    env = _failing(tmp_path, "subvolume find-new", "", "cannot find it")
    for _ in range(2):
        scene.add("more")
        must(scene.run(env=env))
    assert len(scene.backups) == 2


@pytest.mark.parametrize("kind", ["local", "ssh"])
def test_an_estimate_that_fails_fails_no_restore(
    scene: Scene, tmp_path: Path, new_sshd: Callable[..., Sshd], kind: str
) -> None:
    scene.back_up()
    no = 'case "$*" in *find-new*|*--no-data*) echo "ERROR: no" >&2; exit 1;; esac'
    path = f"{wrapper(tmp_path / 'failing', no)}:{os.environ['PATH']}"
    env = {**ASKING, "PATH": path}
    way: Way = local_way
    if kind == "ssh":
        way = ssh_way(new_sshd(config=(f"SetEnv PATH={path}",)))
    for number, name in enumerate(("measured", "not")):
        to = scene.destination_disk.path / scene.name / name
        words: list[Argument] = [*way(scene.destination), "--to", to, "-I"]
        words += ["--no-check-space"] if number else []
        planned = must(run_program("restore", *words, "-n", env=env))
        assert "size      not known" in planned.stdout
        done = must(run_program("restore", *words, env=env))
        assert "of x-" in done.stderr and "is not known: " in done.stderr
        assert_equal(scene.backups[0].path, to)
