"""A final name never holds an incomplete snapshot, whatever happens to a stream."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from btrfs_backup_ng.place.holds import HOLDS, format_holds
from tests.support import places, processes, streams
from tests.support.places import FOLDER
from tests.support.program import Argument, start_program
from tests.support.rooms import Room

pytestmark = pytest.mark.btrfs

NAME = "p-20200101-000000"
PREFIX = ("-p", "p-")


def existing(source: Path, name: str = NAME) -> Path:
    """Make a snapshot of a source as an earlier run has made it."""
    folder = source / FOLDER
    if not folder.exists():
        places.command("btrfs", "-q", "subvolume", "create", folder.parent)
        folder.mkdir()
        (folder.parent / HOLDS).write_bytes(format_holds({}))
    places.command("btrfs", "-q", "subvolume", "snapshot", "-r", source, folder / name)
    return folder / name


def large(room: Room) -> Path:
    """Make a source with some megabytes that compression does not shrink."""
    source = room.source()
    (source / "large").write_bytes(os.urandom(6 << 20))
    return source


def assert_next_run_completes(source: Path, destination: Path, *words: str) -> None:
    """Check that a plain run mends everything."""
    places.back_up(*words, *PREFIX, "-S", source, destination)
    places.assert_backed_up(source, destination)


def test_a_full_disk_leaves_no_incomplete_backup(room, btrfs):
    source = room.source()
    (source / "large").write_bytes(os.urandom(60 << 20))
    small = btrfs(size="160M")
    destination = small.path / "backups"
    destination.mkdir()
    small.fill_up(leave_bytes=30 << 20)
    done = places.back_up(*PREFIX, "--no-check-space", source, destination, status=1)
    (failed,) = done.of("failed")
    assert "btrfs receive" in failed["message"]
    assert "the filesystem is full" in done.messages
    assert places.subvolumes(destination) == [] and places.staged(destination) == []
    (small.path / "filler").unlink()
    small.sync()
    assert_next_run_completes(source, destination, "--no-check-space")


def find_child(parent: int, *words: str) -> processes.Process:
    """Wait for a descendant that runs a command with these words in it."""

    def found() -> list[processes.Process]:
        return [
            process
            for process in processes.descendants(parent)
            if os.path.basename(process.argv[0] if process.argv else "") == words[0]
            and all(word in process.argv for word in words[1:])
        ]

    return processes.wait_until(found)[0]


@contextmanager
def slow_run(*words: Argument, staging: Path) -> Iterator["subprocess.Popen[str]"]:
    """Start a run that takes seconds, and wait until data arrives in staging."""
    program = start_program(*PREFIX, "-S", "--rate", "3M", *words)
    with program as running:
        try:
            incoming = staging / ".btrfs-backup-ng/incoming"
            processes.wait_until(lambda: any(incoming.glob("*/*/file")))
            yield running
        finally:
            if running.poll() is None:
                running.terminate()


@pytest.mark.parametrize("victim", ["send", "receive"])
def test_a_killed_end_of_a_local_transfer_is_blamed(room, victim):
    source, destination = large(room), room.destination()
    existing(source)
    with slow_run(source, destination, staging=destination) as running:
        processes.kill([find_child(running.pid, "btrfs", victim)])
        _, messages = running.communicate(timeout=60)
    assert running.returncode == 1
    first_line = messages.splitlines()[0]
    assert f"btrfs {victim}" in first_line and "Broken pipe" not in first_line
    other = {"send": "btrfs receive", "receive": "btrfs send"}[victim]
    assert other not in first_line.partition(f"btrfs {victim}")[0]
    assert places.subvolumes(destination) == [] and places.staged(destination) == []
    assert_next_run_completes(source, destination)


def test_a_killed_remote_receive_is_blamed(room, sshd):
    source, destination = large(room), room.destination()
    existing(source)
    words: list[Argument] = [*places.ssh_words(sshd), source]
    words.append(places.ssh_place(sshd, destination, user="root"))
    with slow_run(*words, staging=destination) as running:
        processes.kill([find_child(sshd.pid, "btrfs", "receive")])
        _, messages = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "btrfs receive on root@127.0.0.1" in messages.splitlines()[0]
    assert places.subvolumes(destination) == [] and places.staged(destination) == []
    assert_next_run_completes(source, destination)


def test_a_killed_remote_send_is_blamed(room, sshd):
    source, destination = large(room), room.destination()
    existing(source)
    words: list[Argument] = [
        *places.ssh_words(sshd),
        places.ssh_place(sshd, source, user="root"),
    ]
    words.append(destination)
    with slow_run(*words, staging=destination) as running:
        processes.kill([find_child(sshd.pid, "btrfs", "send")])
        _, messages = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "btrfs send on root@127.0.0.1" in messages.splitlines()[0]
    assert places.subvolumes(destination) == [] and places.staged(destination) == []
    assert_next_run_completes(source, destination)


def test_a_killed_connection_is_blamed_and_leaves_nothing_under_a_final_name(
    room, sshd
):
    source, destination = large(room), room.destination()
    existing(source)
    words: list[Argument] = [*places.ssh_words(sshd), source]
    words.append(places.ssh_place(sshd, destination, user="root"))
    with slow_run(*words, staging=destination) as running:
        processes.kill([find_child(running.pid, "ssh", "-M")])
        _, messages = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "127.0.0.1" in messages.splitlines()[0]
    assert places.subvolumes(destination) == []

    def gone() -> bool:
        left = processes.descendants(sshd.pid)
        return not any("receive" in process.argv for process in left)

    processes.wait_until(gone)
    places.back_up(*PREFIX, "-S", *words)
    places.assert_backed_up(source, destination)


def what_is(path: Path) -> tuple[int, int, int, int]:
    """Tell a file from any other, and from what it was."""
    status = os.lstat(path)
    return status.st_dev, status.st_ino, status.st_mode, status.st_mtime_ns


@pytest.mark.parametrize("kind", ["directory", "subvolume", "dangling"])
def test_a_name_that_appears_meanwhile_is_left_alone(room, kind):
    source, destination = large(room), room.destination()
    existing(source)
    final = destination / NAME
    with slow_run(source, destination, staging=destination) as running:
        match kind:
            case "directory":
                final.mkdir()
            case "subvolume":
                places.command("btrfs", "-q", "subvolume", "create", final)
            case _:
                final.symlink_to("nowhere")
        before = what_is(final)
        _, messages = running.communicate(timeout=60)
    assert running.returncode == 1, messages
    assert "took a name" in messages
    assert what_is(final) == before
    assert kind == "dangling" or os.listdir(final) == []
    assert places.staged(destination) == []
    done = places.back_up(*PREFIX, "-S", source, destination)
    assert [sent["target"] for sent in done.sent] == [f"{NAME}_1"]
    assert places.show(destination / f"{NAME}_1").received_uuid == (
        places.show(source / FOLDER / NAME).uuid
    )


def identity_of(snapshot: Path) -> bytes:
    """Return the UUID of a snapshot as it is in a stream."""
    return uuid.UUID(places.show(snapshot).uuid).bytes


def honest(snapshot: Path) -> bytes:
    """Make the stream that btrfs makes."""
    done = subprocess.run(
        ["btrfs", "send", "-q", snapshot], capture_output=True, check=True
    )
    return done.stdout


def another_name(snapshot: Path) -> bytes:
    """Bring the right thing under a wrong name."""
    start = streams.subvolume(b"p-20300101-000000", identity_of(snapshot))
    return streams.stream(start, streams.file(b"file"), streams.END)


def another_identity(snapshot: Path) -> bytes:
    """Bring another thing under the right name."""
    start = streams.subvolume(NAME.encode())
    return streams.stream(start, streams.file(b"file"), streams.END)


def two_subvolumes(snapshot: Path) -> bytes:
    """Bring more than was asked for."""
    more = streams.stream(streams.subvolume(b"more"), streams.END)
    return honest(snapshot) + more


def parent_directory(snapshot: Path) -> bytes:
    """Name the subvolume so that it would lie outside of staging."""
    start = streams.subvolume(b"../../../" + NAME.encode(), identity_of(snapshot))
    return streams.stream(start, streams.file(b"file"), streams.END)


def out_by_path(snapshot: Path) -> bytes:
    """Write to where the stream does not belong."""
    return streams.stream(
        streams.subvolume(NAME.encode(), identity_of(snapshot)),
        streams.file(b"../../../../evil"),
        streams.END,
    )


def out_by_symlink(snapshot: Path) -> bytes:
    """Write through a symlink that leads out."""
    return streams.stream(
        streams.subvolume(NAME.encode(), identity_of(snapshot)),
        streams.symlink(b"out", b"../../../.."),
        streams.file(b"out/evil"),
        streams.END,
    )


HOSTILE: dict[str, Callable[[Path], bytes]] = {
    "empty": lambda snapshot: b"",
    "header": lambda snapshot: streams.MAGIC,
    "garbage": lambda snapshot: os.urandom(100_000),
    "cut": lambda snapshot: honest(snapshot)[:200],
    "no-end": lambda snapshot: honest(snapshot)[:-10],
    "flipped-bit": lambda snapshot: honest(snapshot).replace(b"first", b"firsu"),
    "another-name": another_name,
    "another-identity": another_identity,
    "two-subvolumes": two_subvolumes,
    "parent-directory": parent_directory,
    "out-by-path": out_by_path,
    "out-by-symlink": out_by_symlink,
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_stream_that_brings_anything_else_is_refused(room, tmp_path, what):
    source, destination = room.source(), room.destination()
    snapshot = existing(source)
    stream = tmp_path / "stream"
    stream.write_bytes(HOSTILE[what](snapshot))
    fake = places.wrapper(
        tmp_path / "bin", f'if [ "$1" = send ]; then exec cat {stream}; fi'
    )
    env = {"PATH": f"{fake}:{os.environ['PATH']}"}
    words = (*PREFIX, "-S", source, destination)
    done = places.back_up(*words, status=1, env=env)
    (failed,) = done.of("failed")
    assert failed["place"] == str(destination)
    assert len(done.messages) < 2000
    assert os.listdir(destination) == [".btrfs-backup-ng"]
    assert places.staged(destination) == []
    assert list(room.there.rglob("evil")) == []
    assert list(room.there.rglob("p-*")) == []
    assert_next_run_completes(source, destination)


def test_an_honest_stream_through_the_same_wrapper_is_accepted(room, tmp_path):
    source, destination = room.source(), room.destination()
    stream = tmp_path / "stream"
    stream.write_bytes(honest(existing(source)))
    fake = places.wrapper(
        tmp_path / "bin", f'if [ "$1" = send ]; then exec cat {stream}; fi'
    )
    env = {"PATH": f"{fake}:{os.environ['PATH']}"}
    places.back_up(*PREFIX, "-S", source, destination, env=env)
    places.assert_backed_up(source, destination)


def test_a_command_gets_the_whole_stream_and_the_name(room, tmp_path):
    source = room.source()
    places.back_up(*PREFIX, source, "-T")
    (source / "file").write_text("second")
    target = tmp_path / "it's here"
    target.mkdir()
    command = f"""shell://cat > "{target}/$1" && echo noise && echo noise >&2"""
    done = places.back_up(*PREFIX, source, command)
    (sent,) = done.sent
    assert sent["parent"] is None and sent["why_full"] == "a command gets whole streams"
    newest = places.subvolumes(source / FOLDER)[-1]
    assert os.listdir(target) == [newest.name] == [sent["name"]]
    stream = target / newest.name
    assert stream.stat().st_size == sent["size_bytes"]
    with open(stream, "rb") as file:
        subprocess.run(["btrfs", "receive", "-q", room.there], stdin=file, check=True)
    places.assert_copies([newest], [room.there / newest.name])
    (again,) = places.back_up(*PREFIX, source, command).sent
    assert again["parent"] is None and len(os.listdir(target)) == 2


@pytest.mark.parametrize(
    "command", ["cat >/dev/null; exit 3", "exit 3", "cat >/dev/null; kill -9 $$"]
)
def test_a_command_that_fails_is_a_failed_backup(room, command):
    source = large(room)
    done = places.back_up(*PREFIX, source, f"shell://{command}", status=1)
    (failed,) = done.of("failed")
    first_line = failed["message"].splitlines()[0]
    assert command in first_line and "btrfs send" not in first_line
    assert done.sent == []


def test_a_command_never_makes_a_parent_for_a_directory(room):
    source, destination = room.source(), room.destination()
    command = "shell://cat >/dev/null"
    places.back_up(*PREFIX, source, command)
    done = places.back_up(*PREFIX, source, command, destination)
    assert [sent["parent"] is None for sent in done.sent] == [True, True, False]
    places.assert_backed_up(source, destination)
