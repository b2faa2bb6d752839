"""How these tests name places, run the program, and look at snapshots."""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
import struct
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.support import program, trees
from tests.support.sshd import Sshd

FOLDER = ".btrfs-backup-ng/snapshots"


class Run(NamedTuple):
    """What one run of the program said: its JSON document and its messages."""

    status: int
    events: list[dict[str, Any]]
    messages: str

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the events of one kind, in their order."""
        return [event for event in self.events if event["event"] == kind]

    @property
    def sent(self) -> list[dict[str, Any]]:
        """Return what was sent, in its order."""
        return self.of("sent")


def back_up(
    *words: program.Argument,
    status: int = 0,
    env: Mapping[str, str | None] | None = None,
    cwd: Path | None = None,
) -> Run:
    """Run the program with ``--json``, and expect its exit status."""
    done = program.run_program("--json", *words, env=env, cwd=cwd)
    assert done.returncode == status, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    events = json.loads(done.stdout)["events"] if done.stdout else []
    return Run(done.returncode, events, done.stderr)


class Shown(NamedTuple):
    """What ``btrfs subvolume show`` says; UUIDs are text, ``-`` for none."""

    uuid: str
    parent_uuid: str
    received_uuid: str
    tree_id: int
    generation: int
    made: int
    read_only: bool

    @property
    def origin(self) -> str:
        """Return what ``btrfs send`` would call it."""
        return self.uuid if self.received_uuid == "-" else self.received_uuid


def show(path: Path) -> Shown:
    """Ask btrfs about a subvolume, whatever its name holds."""
    text = output("btrfs", "subvolume", "show", "--", path)
    fields = dict(re.findall(r"^\t([A-Z][A-Za-z ]*): *\t+(.*)$", text, re.M))
    return Shown(
        fields["UUID"],
        fields["Parent UUID"],
        fields["Received UUID"],
        int(fields["Subvolume ID"]),
        int(fields["Generation"]),
        int(fields["Gen at creation"]),
        "readonly" in fields["Flags"],
    )


def output(*argv: object) -> str:
    """Run a command that must succeed, and give what it prints."""
    words = [os.fsencode(w if isinstance(w, (bytes, Path)) else str(w)) for w in argv]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout.decode(errors="surrogateescape")


def send_and_receive(
    snapshot: Path, directory: Path, *, parent: Path | None = None
) -> Path:
    """Copy a snapshot as any other tool does, right to its place."""
    since: list[str | Path] = ["-p", parent] if parent else []
    with subprocess.Popen(
        ["btrfs", "send", "-q", *since, "--", snapshot], stdout=subprocess.PIPE
    ) as sender:
        subprocess.run(
            ["btrfs", "receive", "-q", "--", directory], stdin=sender.stdout, check=True
        )
    assert sender.returncode == 0
    return directory / snapshot.name


def subvolumes(directory: Path) -> list[Path]:
    """List the subvolumes right in a directory, in the order they were made in.

    What the program keeps for itself does not count.
    """
    if not directory.exists():
        return []
    found = [
        directory / name
        for name in os.listdir(directory)
        if name != ".btrfs-backup-ng" and is_subvolume(directory / name)
    ]
    return sorted(found, key=lambda path: show(path).tree_id)


def is_subvolume(path: Path) -> bool:
    """Tell whether a path is a subvolume itself, not a link to one."""
    status = os.lstat(path)
    return stat.S_ISDIR(status.st_mode) and status.st_ino == 256


def staged(destination: Path) -> list[str]:
    """List what unfinished transfers left at a destination."""
    incoming = destination / ".btrfs-backup-ng/incoming"
    return sorted(os.listdir(incoming)) if incoming.exists() else []


def assert_copies(snapshots: Sequence[Path], copies: Sequence[Path]) -> None:
    """Check that these are backups of those: identity, content, and not writable."""
    assert [copy.name for copy in copies] == [one.name for one in snapshots]
    for snapshot, copy in zip(snapshots, copies, strict=True):
        assert show(copy).received_uuid == show(snapshot).origin
        assert show(copy).read_only
        first, second = trees.describe(snapshot), trees.describe(copy)
        assert trees.differences(first, second) == []


def assert_backed_up(source: Path, destination: Path) -> None:
    """Check that a destination has all that a source has, and nothing unfinished."""
    assert_copies(subvolumes(source / FOLDER), subvolumes(destination))
    assert staged(destination) == []


_GETFLAGS, _SETFLAGS = 0x80089419, 0x4008941A  # BTRFS_IOC_SUBVOL_*
_READ_ONLY = 2  # BTRFS_SUBVOL_RDONLY


def set_read_only(path: Path, read_only: bool) -> None:
    """Flip a subvolume as the kernel does it: its received UUID stays."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        buffer = bytearray(8)
        fcntl.ioctl(descriptor, _GETFLAGS, buffer)
        (flags,) = struct.unpack("=Q", buffer)
        flags = flags | _READ_ONLY if read_only else flags & ~_READ_ONLY
        fcntl.ioctl(descriptor, _SETFLAGS, struct.pack("=Q", flags))
    finally:
        os.close(descriptor)


def tamper(snapshot: Path) -> None:
    """Change a read-only snapshot behind everybody's back."""
    received = show(snapshot).received_uuid
    set_read_only(snapshot, False)
    (snapshot / "tampered").write_text("evil")
    set_read_only(snapshot, True)
    assert show(snapshot).received_uuid == received
    assert show(snapshot).read_only


def ssh_words(server: Sshd) -> list[str]:
    """Return the options with which the program gets into a server of the tests."""
    words = []
    for option in server.ssh_options:
        words += ["--ssh-opt", option]
    return words


def at(server: Sshd, path: Path | str, user: str = "root") -> str:
    """Name a directory behind ssh."""
    return f"ssh://{user}@{server.host}{path}"


def wrapper(directory: Path, script: str) -> Path:
    """Make a directory that, first in PATH, has another ``btrfs``.

    :param script: POSIX shell; it ends by running the true one as ``"$real" "$@"``,
        if it does not decide otherwise.
    """
    directory.mkdir()
    real = output("sh", "-c", "command -v btrfs").strip()
    program_file = directory / "btrfs"
    program_file.write_text(f'#!/bin/sh\nreal={real}\n{script}\nexec "$real" "$@"\n')
    program_file.chmod(0o755)
    return directory
