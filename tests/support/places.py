"""Places and snapshots as btrfs itself sees them; how to name and to change them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import stat
import struct
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.support import program, trees
from tests.support.filesystems import Filesystem
from tests.support.sshd import Sshd

MIB = 1 << 20
STATE = ".btrfs-backup-ng"
FOLDER = f"{STATE}/snapshots"


class Run(NamedTuple):
    """The output of one run of the program: its JSON document and its messages."""

    status: int
    events: list[dict[str, Any]]
    messages: str

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the events of one kind, in their order."""
        return [event for event in self.events if event["event"] == kind]

    @property
    def sent(self) -> list[dict[str, Any]]:
        """Return the snapshots sent, in their order."""
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


class Subvolume(NamedTuple):
    """The output of ``btrfs subvolume show``; UUIDs are text, ``-`` if missing.

    :ivar generation: of the last change.
    :ivar made: the generation at creation.
    """

    path: Path
    uuid: str
    parent_uuid: str
    received_uuid: str
    tree_id: int
    generation: int
    made: int
    read_only: bool

    @property
    def origin(self) -> str:
        """Return the identity under which ``btrfs send`` sends it."""
        return self.uuid if self.received_uuid == "-" else self.received_uuid


def show(path: Path) -> Subvolume:
    """Ask btrfs about a subvolume, whatever its name holds."""
    text = command("btrfs", "subvolume", "show", "--", path)
    fields = dict(re.findall(r"^\t([A-Z][A-Za-z ]*): *\t+(.*)$", text, re.M))
    return Subvolume(
        path,
        fields["UUID"],
        fields["Parent UUID"],
        fields["Received UUID"],
        int(fields["Subvolume ID"]),
        int(fields["Generation"]),
        int(fields["Gen at creation"]),
        "readonly" in fields["Flags"],
    )


def command(*argv: object) -> str:
    """Run a command that must succeed, and return its output."""
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


def list_subvolumes(directory: Path) -> list[Subvolume]:
    """List the subvolumes right in a directory by name, without the state directory."""
    if not directory.is_dir():
        return []
    return [
        show(directory / name)
        for name in sorted(os.listdir(directory))
        if name != STATE and is_subvolume(directory / name)
    ]


def subvolumes(directory: Path) -> list[Path]:
    """Return the paths of the same, in the order of their creation."""
    found = sorted(list_subvolumes(directory), key=lambda one: one.tree_id)
    return [one.path for one in found]


def delete_all(directory: Path) -> None:
    """Delete all snapshots in a directory."""
    command("btrfs", "-q", "subvolume", "delete", *subvolumes(directory))


def is_subvolume(path: Path) -> bool:
    """Return whether a path is a subvolume itself, not a link to one."""
    status = os.lstat(path)
    return stat.S_ISDIR(status.st_mode) and status.st_ino == 256


def staged(destination: Path) -> list[str]:
    """List the staging of unfinished transfers at a destination."""
    incoming = destination / STATE / "incoming"
    return sorted(os.listdir(incoming)) if incoming.is_dir() else []


def by_age(folder: Path) -> list[str]:
    """List the snapshots in a folder; in one second ``_2`` is before ``_10``."""

    def key(name: str) -> tuple[str, int]:
        stem, _, number = name.partition("_")
        return stem, int(number or 0)

    names = [name for name in os.listdir(folder) if name != STATE]
    return sorted(names, key=key)


def fingerprint(top: Path) -> set[object]:
    """Describe all that is below a directory, and the subvolumes among it."""
    found: set[object] = set()
    for directory, below, files in os.walk(top):
        for name in [".", *below, *files]:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            if status.st_ino == 2:  # the stub of a nested subvolume, dated now
                continue
            kind, owner = status.st_mode, (status.st_uid, status.st_gid)
            times = [status.st_mtime_ns]
            if STATE not in (name, os.path.basename(directory)):
                times.append(status.st_ctime_ns)  # a dry run measures in it
            found.add((path, status.st_ino, kind, owner, status.st_size, *times))
    listed = command("btrfs", "subvolume", "list", "-ouqR", top)
    # The generation shows only that something made the filesystem write.
    return found | set(re.sub(r" gen \d+ ", " ", listed).splitlines())


def assert_equal(first: Path, second: Path) -> None:
    """Compare two trees in everything that a backup has to bring back."""
    found = trees.differences(trees.describe(first), trees.describe(second))
    assert not found, f"{first} and {second}: {found}"


def assert_copies(snapshots: Sequence[Path], copies: Sequence[Path]) -> None:
    """Check that these are backups of those: identity, content, and not writable."""
    assert [copy.name for copy in copies] == [one.name for one in snapshots]
    for snapshot, copy in zip(snapshots, copies, strict=True):
        assert show(copy).received_uuid == show(snapshot).origin
        assert show(copy).read_only
        assert_equal(snapshot, copy)


def assert_backed_up(source: Path, destination: Path) -> None:
    """Check that a destination has all that a source has, and nothing unfinished."""
    assert_copies(subvolumes(source / FOLDER), subvolumes(destination))
    assert staged(destination) == []


def deduplicate(one: Path, other: Path) -> None:
    """Let two files with the same contents share their data, as bees does for root."""
    size = one.stat().st_size
    with open(one, "rb") as source, open(other, "rb") as target:
        ask = struct.pack("QQHHI", 0, size, 1, 0, 0)
        ask += struct.pack("qQQiI", target.fileno(), 0, 0, 0, 0)
        done = fcntl.ioctl(source.fileno(), _DEDUPE, ask)
    assert struct.unpack_from("=Q", done, 40)[0] == size
    command("sync", "-f", other)


@contextlib.contextmanager
def moved_away(path: Path) -> Iterator[None]:
    """Move something away for a while."""
    away = path.with_name(f"{path.name} is away")
    path.rename(away)
    try:
        yield
    finally:
        away.rename(path)


_GETFLAGS, _SETFLAGS = 0x80089419, 0x4008941A  # BTRFS_IOC_SUBVOL_*
_DEDUPE = 0xC0189436  # FIDEDUPERANGE
_READ_ONLY = 2  # BTRFS_SUBVOL_RDONLY


@contextlib.contextmanager
def mounted(disk: Filesystem, point: Path) -> Iterator[None]:
    """Mount a filesystem for a while at another path, too."""
    command("mount", disk.device, point)
    try:
        yield
    finally:
        command("umount", point)


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
    """Change a read-only snapshot, with no other trace."""
    received = show(snapshot).received_uuid
    set_read_only(snapshot, False)
    (snapshot / "tampered").write_text("evil")
    set_read_only(snapshot, True)
    assert show(snapshot).received_uuid == received
    assert show(snapshot).read_only


def ssh_place(server: Sshd, path: Path | str, *, user: str = "") -> str:
    """Name a directory as a place behind the test's ssh server."""
    who = f"{user}@" if user else ""
    return f"ssh://{who}{server.host}:{server.port}{path}"


def ssh_words(server: Sshd, *, without: Sequence[str] = ()) -> list[str]:
    """Return the options by which the program gets into the test's ssh server."""
    return [
        f"--ssh-opt={option}"
        for option in server.ssh_options
        if option.partition("=")[0] not in without
    ]


def wrapper(directory: Path, script: str) -> Path:
    """Make a directory that, first in PATH, has another ``btrfs``.

    :param script: POSIX shell; it ends by running the true one as ``"$real" "$@"``,
        if it does not decide otherwise. With ``ASKING`` in the environment, it decides
        about the program's ioctls, too.
    """
    directory.mkdir()
    real = command("sh", "-c", "command -v btrfs").strip()
    program_file = directory / "btrfs"
    program_file.write_text(
        f"#!/bin/sh\nreal={real}\n{script}\n{program.GO_ON}\n" 'exec "$real" "$@"\n'
    )
    program_file.chmod(0o755)
    return directory
