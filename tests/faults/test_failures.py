"""A failed transfer says the cause first, then what programs said, then what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.faulty import faulty_btrfs
from tests.support import processes
from tests.support.command_line import must
from tests.support.places import MIB
from tests.support.program import Argument, run_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs

RECEIVES, SENDS = '" receive "*', '" send "*'


def _says(text: str) -> str:
    return f"echo 'ERROR: {text}' >&2; exit 1"


#: Calls of btrfs, what they do instead, the cause, and the beginning of the hint.
FAILURES = {
    "full": (
        RECEIVES,
        "head -c 100000 >/dev/null; "
        + _says("writing to data failed: No space left on device"),
        "{place}: the filesystem is full",
        "See what takes the space:  btrfs filesystem usage {place}",
    ),
    "read-only": (
        RECEIVES,
        _says("chown data failed: Read-only file system"),
        "{place}: the filesystem or a subvolume is read-only",
        "See why:  dmesg | tail",
    ),
    "no parent": (
        RECEIVES,
        _says("cannot find parent subvolume"),
        "{place}: the parent is missing",
        "",
    ),
    "not allowed": (
        RECEIVES,
        _says("creating data failed: Operation not permitted"),
        "{place}: btrfs needs root for this",
        "",
    ),
    "a bad block": (
        SENDS,
        _says("send ioctl failed with -5: Input/output error"),
        "{place}: {name} cannot be sent: {source}: a disk cannot be read or written;"
        " see dmesg",
        "No other was missing.",
    ),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_begins_with_its_cause(
    scene: Scene, tmp_path: Path, failure: str
) -> None:
    scene.write(2 * MIB)
    must(scene.run("-T"))
    calls, action, cause, hint = FAILURES[failure]
    done = scene.run("-S", env=faulty_btrfs(tmp_path, calls, action))
    (name,) = scene.snapshot_names
    words = {"place": scene.place, "source": scene.source, "name": name}
    first, second, *others = done.stderr.splitlines()
    assert first == f"btrfs-backup-ng: {cause.format(**words)}"
    assert second.startswith("  btrfs ") and "failed with status 1: ERROR: " in second
    assert (
        others[:1] == []
        if not hint
        else others[0].startswith(f"  {hint.format(**words)}")
    ), done.stderr
    assert "SIGPIPE" not in done.stderr and "empty stream" not in done.stderr


@pytest.mark.parametrize(
    "command, cause",
    [
        ("exit 3", "failed with status 3."),
        ("head -c 9 >/dev/null; echo no room >&2; exit 4", "failed with status 4: no"),
        ("kill -KILL $$", "was killed by SIGKILL"),
    ],
)
def test_a_command_that_fails_is_the_only_one_that_is_named(
    scene: Scene, command: str, cause: str
) -> None:
    scene.write(2 * MIB)
    words: list[Argument] = [*scene.options, scene.source, f"shell://{command}"]
    (line,) = run_program(*words).stderr.splitlines()
    assert line.startswith(f"btrfs-backup-ng: the command shell://{command} {cause}")
    assert "was killed by SIGPIPE" in run_program(*words, "-v").stderr


def test_a_receiver_that_is_killed_behind_ssh_is_named_alone(
    scene: Scene, get_sshd: Callable[[], Sshd]
) -> None:
    over_ssh = Scene(scene.source_disk, scene.destination_disk, get_sshd())
    over_ssh.write(8 * MIB)
    with over_ssh.start("--rate", "1M") as program:
        over_ssh.wait_for_data(100)
        processes.kill([over_ssh.wait_for_worker("btrfs", "receive")])
        _, said = program.communicate(timeout=60)
    first = said.splitlines()[0]
    assert first.startswith(f"btrfs-backup-ng: {over_ssh.place}: btrfs receive on ")
    assert "SIGPIPE" not in said and "was stopped by this program" not in said, said
