"""The one scene of all tests: a source, a destination, and the laws that must hold."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.support import processes
from tests.support.command_line import must
from tests.support.filesystems import Filesystem
from tests.support.places import (
    MIB,
    STATE,
    Subvolume,
    assert_equal,
    by_age,
    fingerprint,
    list_subvolumes,
    ssh_place,
    ssh_words,
    staged,
)
from tests.support.program import Argument, run_program, start_program
from tests.support.sshd import Sshd

Environment = Mapping[str, str | None]

_numbers = itertools.count(1)


class Scene:
    """A source subvolume and a destination directory, usually on two disks.

    Each lies in a directory of this scene alone.

    :ivar name: of these directories, so that processes at work here are found by it.
    :ivar place: the destination as the program's argument.
    :ivar options: of every run.
    """

    def __init__(
        self,
        source_disk: Filesystem,
        destination_disk: Filesystem,
        sshd: Sshd | None = None,
        *,
        is_small: bool = False,
    ) -> None:
        """Make both, and put some data into the source.

        :param sshd: the destination is behind it.
        :param is_small: the source has one file ``first`` of a few bytes.
        """
        self.name = f"scene-{os.getpid()}-{next(_numbers):04}"
        self.source_disk, self.destination_disk = source_disk, destination_disk
        for disk in (source_disk, destination_disk):
            (disk.path / self.name).mkdir(exist_ok=True)
        self.source = source_disk.subvolume(f"{self.name}/home")
        self.destination = destination_disk.path / self.name / "backups"
        self.destination.mkdir()
        self.snapshot_folder = self.source / STATE / "snapshots"
        self.options: list[str] = ["-p", "x-"]
        self.place = str(self.destination)
        self.sshd = sshd
        if sshd:
            self.place = ssh_place(sshd, self.destination, user="root")
            self.options += ssh_words(sshd)
        self._dice = random.Random(self.name.split("-")[2])
        if is_small:
            self.add("first")
        else:
            self.write()

    def add(self, name: str, size: int = 10) -> None:
        """Write one file into the source."""
        (self.source / name).write_bytes(self._dice.randbytes(size))

    def write(self, size: int = MIB, name: str = "data") -> None:
        """Put something new into the source, and into some small files of it."""
        self.add(name, size)
        for number in range(3):
            text = f"{self._dice.random()}"
            (self.source / f"small {number}").write_text(text)

    def snapshot(self, name: str) -> Path:
        """Take a read-only snapshot of the source, beside it."""
        source = self.source.relative_to(self.source_disk.path)
        return self.source_disk.snapshot(source, f"{self.name}/{name}")

    def subvolume(self, name: str) -> Path:
        """Make a subvolume beside the source, or one in it as ``home/NAME``."""
        return self.source_disk.subvolume(f"{self.name}/{name}")

    def other_destination(self, name: str) -> Path:
        """Make another directory for backups."""
        path = self.destination.parent / name
        path.mkdir()
        return path

    def words(self, *more: Argument) -> list[Argument]:
        """Return the words of a run from the source to the destination."""
        return [*self.options, self.source, self.place, *more]

    def run(
        self, *more: Argument, env: Environment | None = None, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run the program from the source to the destination."""
        return run_program(*self.words(*more), env=env, timeout=timeout)

    def start(
        self,
        *more: Argument,
        env: Environment | None = None,
        stdout: int = subprocess.PIPE,
    ) -> subprocess.Popen[str]:
        """Start it."""
        return start_program(*self.words(*more), env=env, stdout=stdout)

    def back_up(
        self, *more: Argument, env: Environment | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run it, and be sure that it went well."""
        return must(self.run(*more, env=env))

    @property
    def snapshots(self) -> list[Subvolume]:
        """List the snapshots of the source."""
        return list_subvolumes(self.snapshot_folder)

    @property
    def snapshot_names(self) -> list[str]:
        """Return their names, the oldest first."""
        return by_age(self.snapshot_folder) if self.snapshot_folder.exists() else []

    @property
    def backups(self) -> list[Subvolume]:
        """List the subvolumes under final names at the destination."""
        return list_subvolumes(self.destination)

    @property
    def backup_names(self) -> list[str]:
        """Return their names, the oldest first, and all other names there."""
        return by_age(self.destination)

    def fingerprint(self) -> set[object]:
        """Describe all of both places, bookkeeping included, to see any change."""
        return fingerprint(self.source.parent) | fingerprint(self.destination.parent)

    @property
    def staging(self) -> list[str]:
        """List the staging of unfinished transfers."""
        return staged(self.destination)

    @property
    def holds(self) -> Path:
        """Name the file in which the source's holds are."""
        return self.source / STATE / "holds.json"

    def workers(self) -> list[processes.Process]:
        """List all processes that still work here."""
        return list(_working_at(self.name))

    def wait_for_quiet(self, timeout_s: float = 10.0) -> None:
        """Wait until no process works here any more; a run must not leave orphans."""
        processes.wait_until(lambda: not self.workers(), timeout_s)

    def wait_for_worker(self, *words: str) -> processes.Process:
        """Wait until a program with these words works here, and return it."""
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
        """Wait until this many bytes have been received, and are not published yet."""
        processes.wait_until(lambda: self.received_bytes() >= size)

    def received_bytes(self) -> int:
        """Count the bytes that lie in staging."""
        total = 0
        for directory, _, files in os.walk(self.destination / STATE / "incoming"):
            for file in files:
                try:
                    total += os.lstat(os.path.join(directory, file)).st_size
                except FileNotFoundError:  # received under a temporary name
                    pass
        return total

    def check_laws(self) -> None:
        """Check the laws that hold at any time, even during a run."""
        self.check_complete()
        self.check_base_is_kept()

    def check_complete(self) -> None:
        """Check the second law: a backup that looks complete is complete."""
        sources = {snapshot.origin: snapshot for snapshot in self.snapshots}
        for backup in self.backups:
            assert backup.read_only, f"{backup.path} is writable"
            assert backup.received_uuid != "-", f"{backup.path} was cut short"
            if backup.received_uuid in sources:
                assert_equal(sources[backup.received_uuid].path, backup.path)

    def check_base_is_kept(self) -> None:
        """Check the first law: the parent of the next backup exists."""
        backups = {backup.received_uuid for backup in self.backups}
        origins = {snapshot.origin for snapshot in self.snapshots}
        assert not backups or backups & origins, "no common snapshot is left"

    def check_converges(self, *more: Argument) -> subprocess.CompletedProcess[str]:
        """Check the third law: after a plain run all backups exist and nothing else."""
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


def _working_at(name: str) -> Iterator[processes.Process]:
    for process in processes.everything():
        if process.pid != os.getpid() and process.works_at(name):
            if process.state not in "ZX":
                yield process
