"""The bench: measured commands, run in turn, and the trees and disks for them."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.support import filesystems, ours, processes, program, sshd

MIB, GIB = 1 << 20, 1 << 30
#: Size of a disk, of which the image holds what is written to it. On one of a few GiB
#: btrfs has so little room for metadata that receive waits a quarter of its time.
_DISK = "256G"
#: Room for what is written to the disks of a case, several times.
_ROOM = 16 * GIB
_TICKS = os.sysconf("SC_CLK_TCK")
#: Between two looks at the memory of a process.
_LOOK_EACH_MS = 20


@dataclass(frozen=True)
class Cost:
    """The cost of one command.

    :ivar cpu_s: of all its processes here, and of the server's.
    :ivar peak_bytes: resident memory of its first process.
    :ivar processes: started here; None if not counted, as for the rest.
    """

    elapsed_s: float
    cpu_s: float
    peak_bytes: int
    processes: int | None = None
    connections: int | None = None
    sessions: int | None = None


class Failed(Exception):
    """A measured command failed."""


#: Runs a command and returns its cost; a way calls it once, between preparing and
#: clearing up.
Runner = Callable[[Sequence[str]], Cost]
Way = Callable[[Runner], Cost]


@dataclass(frozen=True)
class Aim:
    """Limits on the medians: two ratios, CPU time in seconds, and memory in bytes."""

    wall: float | None = None
    cpu: float | None = None
    cpu_s: float | None = None
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Result:
    """The costs of the program and of a peer, pair by pair.

    :ivar peer: its command in short; "" if the program is measured alone.
    :ivar note: further figures, in words.
    """

    name: str
    title: str
    peer: str
    ours: tuple[Cost, ...]
    theirs: tuple[Cost, ...] = ()
    aim: Aim = field(default_factory=Aim)
    note: str = ""

    def ratios(self, what: str) -> list[float]:
        """Return the ratios of the pairs; empty without a peer.

        :param what: a field of :class:`Cost`.
        """
        both = zip(self.ours, self.theirs, strict=False)
        return [getattr(a, what) / max(getattr(b, what), 1e-9) for a, b in both]

    def median(self, what: str) -> float | None:
        """Return the median of a field's ratios."""
        ratios = self.ratios(what)
        return statistics.median(ratios) if ratios else None

    @property
    def is_reached(self) -> bool:
        """Whether the medians are within the aim."""
        cpu_s = statistics.median(cost.cpu_s for cost in self.ours)
        peak_bytes = statistics.median(cost.peak_bytes for cost in self.ours)
        pairs = [
            (self.median("elapsed_s"), self.aim.wall),
            (self.median("cpu_s"), self.aim.cpu),
            (cpu_s, self.aim.cpu_s),
            (peak_bytes, self.aim.peak_bytes),
        ]
        return all(
            value is None or limit is None or value <= limit for value, limit in pairs
        )


def images() -> Path | None:
    """Return the directory of the images in memory; None if that lacks the room."""
    memory = ours.memory()
    return memory if shutil.disk_usage(memory).free >= _ROOM else None


class Bench:
    """Everything that cases share, made when it is first used; removed at the end."""

    def __init__(self, pairs: int, scale: float) -> None:
        """Prepare; nothing is made yet.

        :param scale: of all sizes and numbers; 1 for the real ones.
        """
        self.pairs = pairs
        self.scale = scale
        self.server: sshd.Sshd | None = None
        self._stack = contextlib.ExitStack()
        self._trees: dict[Callable[..., None], Path] = {}

    def __enter__(self) -> Bench:
        self.directory = ours.public_directory()
        self._stack.callback(os.rmdir, self.directory)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def scaled(self, number: int) -> int:
        """Return a number of bytes or things for the scale of this run."""
        return max(1, round(number * self.scale))

    def ssh(self) -> sshd.Sshd:
        """Return the server, on 127.0.0.1."""
        if not self.server:
            self.server = self._stack.enter_context(sshd.running_sshd())
        return self.server

    @contextlib.contextmanager
    def ssh_to(self, hosts: Sequence[str]) -> Iterator[sshd.Sshd]:
        """Run a server of its own, on each of these addresses; it is measured, too.

        :param hosts: 127.0.0.1 and addresses after it.
        """
        usual = self.server
        with sshd.running_sshd(hosts=hosts[1:]) as self.server:
            try:
                yield self.server
            finally:
                self.server = usual

    @contextlib.contextmanager
    def filesystem(self, *options: str) -> Iterator[filesystems.Filesystem]:
        """Make a filesystem, and mount it.

        :param options: of the mount.
        """
        with filesystems.btrfs_filesystem(
            self.directory, size=_DISK, mount_options=options, disk=images()
        ) as made:
            made.sync()
            yield made

    @contextlib.contextmanager
    def disk(self, *options: str) -> Iterator[Path]:
        """Do the same, and return where it is mounted."""
        with self.filesystem(*options) as made:
            yield made.path

    def tree(self, fill: Callable[[Path, Bench], None], *options: str) -> Path:
        """Return a subvolume of this content, with a snapshot by the program."""
        if fill not in self._trees:
            disk = self._stack.enter_context(self.disk(*options))
            source = disk / "source"
            _quietly("btrfs", "-q", "subvolume", "create", str(source))
            fill(source, self)
            _quietly("btrfs", "filesystem", "sync", str(disk))
            _quietly(*PROGRAM, str(source))
            self._trees[fill] = source
        return self._trees[fill]

    def race(
        self,
        case: tuple[str, str],
        our_way: Way,
        peer: str = "",
        their_way: Way | None = None,
        aim: Aim | None = None,
    ) -> Result:
        """Run both ways in turn, after one run of each that counts their processes."""
        found: dict[Way, list[Cost]] = {}
        ways = [way for way in (our_way, their_way) if way]
        counted = {way: way(self._count) for way in ways}
        for number in range(self.pairs):
            for way in ways if number % 2 else reversed(ways):
                cost = way(self._measure)
                counts = counted[way]
                found.setdefault(way, []).append(
                    replace(
                        cost,
                        processes=counts.processes,
                        connections=counts.connections,
                        sessions=counts.sessions,
                    )
                )
        name, title = case
        theirs = tuple(found[their_way]) if their_way else ()
        return Result(name, title, peer, tuple(found[our_way]), theirs, aim or Aim())

    def _count(self, argv: Sequence[str]) -> Cost:
        """Run a command, and count its processes and sessions."""
        if self.server:
            self.server.mark()
        traced = processes.trace(*argv, env=environment(), timeout_s=3600)
        if traced.returncode:
            raise Failed(f"{shlex.join(argv)}:\n{traced.stdout}{traced.stderr}")
        cost = Cost(0.0, 0.0, 0, processes=traced.processes)
        if self.server and self.server.connections():
            connections, sessions = self.server.connections(), self.server.sessions()
            cost = replace(cost, connections=connections, sessions=sessions)
        return cost

    def _measure(self, argv: Sequence[str]) -> Cost:
        """Run a command, and measure it."""
        if not self.server:
            return run_measured(argv)
        serving = self.server.pid
        before = _cpu_of_children(serving)
        cost = run_measured(argv)
        processes.wait_until(lambda: not processes.children(serving))
        more = _cpu_of_children(serving) - before
        return replace(cost, cpu_s=cost.cpu_s + more)


PROGRAM = (*program.PROGRAM, "-q", "-p", "bench-")


def environment() -> Mapping[str, str]:
    """Return the environment of all measured commands."""
    # An installed program has its bytecode; the first run here writes it.
    return program.environment({"PYTHONDONTWRITEBYTECODE": None})


def run_measured(argv: Sequence[str], statuses: Sequence[int] = (0,)) -> Cost:
    """Run a command and return its cost, without counts.

    :param statuses: with which it may end.
    """
    with tempfile.TemporaryFile() as output:
        began = time.monotonic()
        process = subprocess.Popen(
            argv,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        end = os.pidfd_open(process.pid)
        waiter = select.poll()
        waiter.register(end, select.POLLIN)
        peak_bytes = 0
        while not waiter.poll(_LOOK_EACH_MS):
            peak_bytes = processes.peak_memory(process.pid) or peak_bytes
        elapsed_s = time.monotonic() - began
        _, status, usage = os.wait4(process.pid, 0)
        os.close(end)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in statuses:
            output.seek(0)
            said = output.read(1 << 16).decode(errors="replace")
            raise Failed(f"{shlex.join(argv)}: {process.returncode}\n{said}")
    return Cost(elapsed_s, usage.ru_utime + usage.ru_stime, peak_bytes)


def _cpu_of_children(pid: int) -> float:
    """Return the CPU time of a process's children that have ended, see proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / _TICKS


def _quietly(*argv: str) -> None:
    done = subprocess.run(
        argv,
        env=environment(),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        raise Failed(f"{shlex.join(argv)}:\n{done.stdout}{done.stderr}")
