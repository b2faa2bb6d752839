"""What a fault test needs: places to back up, and the laws that must hold."""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support import processes, trees
from tests.support.filesystems import Filesystem
from tests.support.program import Argument, run_program, start_program
from tests.support.sshd import Sshd

_numbers = itertools.count(1)
MIB = 1 << 20
STATE = ".btrfs-backup-ng"


class Subvolume(NamedTuple):
    """What btrfs itself says of a subvolume; ``made`` is a generation."""

    path: Path
    uuid: str
    parent_uuid: str
    received_uuid: str
    read_only: bool
    made: int

    @property
    def origin(self) -> str:
        """Return the identity under which it is sent."""
        return self.uuid if self.received_uuid == "-" else self.received_uuid


def show(path: Path) -> Subvolume:
    """Ask btrfs about a subvolume."""
    text = command("btrfs", "subvolume", "show", path)
    fields = dict(re.findall(r"^\t([A-Z][A-Za-z ]*):[ \t]+(.*)$", text, re.MULTILINE))
    return Subvolume(
        path=path,
        uuid=fields["UUID"],
        parent_uuid=fields["Parent UUID"],
        received_uuid=fields["Received UUID"],
        read_only="readonly" in fields["Flags"],
        made=int(fields["Gen at creation"]),
    )


def command(*argv: object) -> str:
    """Run a command that must succeed, and give what it prints."""
    done = subprocess.run(
        [str(word) for word in argv],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
    )
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


def subvolumes(directory: Path) -> list[Subvolume]:
    """List the subvolumes in a directory by name, without our bookkeeping."""
    if not directory.is_dir():
        return []
    with os.scandir(directory) as entries:
        names = sorted(
            entry.name
            for entry in entries
            if entry.name != STATE
            and stat.S_ISDIR(entry.stat(follow_symlinks=False).st_mode)
            and entry.stat(follow_symlinks=False).st_ino == 256
        )
    return [show(directory / name) for name in names]


class Scene:
    """A source subvolume and a destination directory, at first on two disks.

    :ivar place: the destination as the program is told of it.
    :ivar options: what every run gets.
    """

    def __init__(
        self, source_disk: Filesystem, target_disk: Filesystem, sshd: Sshd | None = None
    ) -> None:
        self.name = f"scene-{os.getpid()}-{next(_numbers)}"
        self.source = source_disk.subvolume(f"{self.name}-source")
        self.target = target_disk.path / f"{self.name}-target"
        self.target.mkdir()
        self.snapshot_folder = self.source / STATE / "snapshots"
        self.options: list[str] = ["-p", "s-"]
        self.place = str(self.target)
        self.sshd = sshd
        if sshd:
            self.place = remote(sshd, self.target)
            self.options += ssh_words(sshd)
        self._dice = random.Random(self.name.split("-")[2])
        self.write()

    def write(self, size: int = MIB, name: str = "data") -> None:
        """Put something new into the source."""
        (self.source / name).write_bytes(self._dice.randbytes(size))
        for number in range(3):
            text = f"{self._dice.random()}"
            (self.source / f"small {number}").write_text(text)

    def run(self, *more: Argument, **how: object) -> subprocess.CompletedProcess[str]:
        """Run the program from the source to the destination."""
        words = (*self.options, self.source, self.place, *more)
        return run_program(*words, **how)  # type: ignore[arg-type]

    def start(self, *more: Argument, **how: object) -> subprocess.Popen[str]:
        """Start it."""
        words = (*self.options, self.source, self.place, *more)
        return start_program(*words, **how)  # type: ignore[arg-type]

    def back_up(self, *more: Argument) -> subprocess.CompletedProcess[str]:
        """Run it, and be sure that it went well."""
        done = self.run(*more)
        assert done.returncode == 0, done.stderr
        return done

    @property
    def snapshots(self) -> list[Subvolume]:
        """List the snapshots of the source."""
        return subvolumes(self.snapshot_folder)

    @property
    def backups(self) -> list[Subvolume]:
        """List what stands under final names at the destination."""
        return subvolumes(self.target)

    @property
    def staging(self) -> list[str]:
        """List what unfinished transfers have left."""
        directory = self.target / STATE / "incoming"
        return sorted(os.listdir(directory)) if directory.is_dir() else []

    @property
    def holds(self) -> Path:
        """Name the file in which the source's holds are."""
        return self.source / STATE / "holds.json"

    def workers(self) -> list[processes.Process]:
        """List the processes that still work here, ours or not."""
        return list(_working_at(self.name))

    def wait_for_quiet(self, timeout_s: float = 10.0) -> None:
        """Wait until no process works here any more; a run must not leave orphans."""
        processes.wait_until(lambda: not self.workers(), timeout_s)

    def wait_for_worker(self, *words: str) -> processes.Process:
        """Wait until a program with these words works here, and give it."""
        found = processes.wait_until(lambda: self.worker(*words))
        assert found
        return found

    def worker(self, *words: str) -> processes.Process | None:
        """Return the program with these first words that works here."""
        for process in self.workers():
            if process.argv[: len(words)] == words and process.alive():
                return process
        return None

    def wait_for_data(self, size: int) -> None:
        """Wait until so many bytes have been received, and are not published yet."""
        processes.wait_until(lambda: self.received_bytes() >= size)

    def received_bytes(self) -> int:
        """Count the bytes that lie in staging."""
        total = 0
        for directory, _, files in os.walk(self.target / STATE / "incoming"):
            for file in files:
                try:
                    total += os.lstat(os.path.join(directory, file)).st_size
                except FileNotFoundError:  # received under a name for the meantime
                    pass
        return total

    def check_laws(self) -> None:
        """Check what holds at any time, also in the middle of things."""
        self.check_complete()
        self.check_base_is_kept()

    def check_complete(self) -> None:
        """Check the second law: what looks complete at the destination is."""
        sources = {snapshot.origin: snapshot for snapshot in self.snapshots}
        for backup in self.backups:
            assert backup.read_only, f"{backup.path} is writable"
            assert backup.received_uuid != "-", f"{backup.path} was cut short"
            if backup.received_uuid in sources:
                assert_equal(sources[backup.received_uuid].path, backup.path)

    def check_base_is_kept(self) -> None:
        """Check the first law: what the next incremental starts from is there."""
        backups = {backup.received_uuid for backup in self.backups}
        origins = {snapshot.origin for snapshot in self.snapshots}
        assert not backups or backups & origins, "no common snapshot is left"

    def check_converges(self, *more: Argument) -> subprocess.CompletedProcess[str]:
        """Check the third law: after a plain run all is there, and nothing else."""
        done = self.back_up(*more)
        self.check_laws()
        backups = {backup.received_uuid for backup in self.backups}
        newest = max(self.snapshots, key=lambda snapshot: snapshot.made)
        if not more:
            missing = {s.origin for s in self.snapshots} - backups
            assert not missing, f"{missing} did not arrive"
        assert newest.origin in backups, f"{newest} did not arrive"
        assert self.staging == []
        self.wait_for_quiet()  # a session behind ssh ends after its client
        return done


def remote(sshd: Sshd, path: Path) -> str:
    """Write a directory of the test's ssh server as the program is told of it."""
    return f"ssh://root@{sshd.host}:{sshd.port}{path}"


def ssh_words(sshd: Sshd) -> list[str]:
    """Return the options with which the program reaches the test's ssh server."""
    return [word for option in sshd.ssh_options for word in ("--ssh-opt", option)]


def assert_equal(first: Path, second: Path) -> None:
    """Compare two trees in everything that a backup has to bring back."""
    found = trees.differences(trees.describe(first), trees.describe(second))
    assert not found, f"{first} and {second}: {found}"


def assert_fails(
    done: subprocess.CompletedProcess[str], status: int, *words: str
) -> None:
    """Check the fourth law, and that the message holds the words."""
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def finish(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for a started program and give what it said."""
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def counted(words: Sequence[str], text: str) -> int:
    """Count the lines that hold all of these words."""
    return sum(all(word in line for word in words) for line in text.splitlines())


def _working_at(name: str) -> Iterator[processes.Process]:
    for process in processes.everything():
        if process.pid != os.getpid() and process.works_at(name):
            if process.state not in "ZX":
                yield process


def faulty_btrfs(directory: Path, calls: str, action: str) -> dict[str, str]:
    """Put a ``btrfs`` in front of the real one that does something else, once.

    :param calls: shell pattern for its arguments, and " in " its working directory; all
        other calls are real.
    :param action: shell commands.  ``real`` runs the real one, ``kill_program`` ends
        the program that started it, by SIGKILL.
    :returns: changes to the environment.
    """
    wrapper = directory / "faulty" / "btrfs"
    wrapper.parent.mkdir()
    wrapper.write_text(f"""\
#!/bin/sh
set -- {shutil.which("btrfs")} "$@"
real() {{ "$@"; }}
kill_program() {{
    victim=$PPID
    until tr '\\0' ' ' <"/proc/$victim/cmdline" | grep -q btrfs_backup_ng; do
        read -r _ _ _ victim _ <"/proc/$victim/stat" || exit 1
    done
    kill -KILL "$victim"
}}
case "$* in $PWD" in
*{calls}) mkdir {wrapper.parent}/done 2>/dev/null && {{ {action}; exit; }} ;;
esac
exec "$@"
""")
    wrapper.chmod(0o755)
    return {"PATH": f"{wrapper.parent}:{os.environ['PATH']}"}


def was_faulty(directory: Path) -> bool:
    """Tell whether the call that :func:`faulty_btrfs` waits for came."""
    return (directory / "faulty" / "done").exists()
