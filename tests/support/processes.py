"""Processes in tests: the running ones, their cost, and their leftovers."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Process(NamedTuple):
    """A process as it was when looked at; ``started`` guards against a reused pid."""

    pid: int
    parent: int
    state: str
    started: int
    argv: tuple[str, ...]

    def works_at(self, mark: str) -> bool:
        """Return whether its words, its directory or its root contain a text."""
        words = [*self.argv]
        for link in ("cwd", "root"):
            with contextlib.suppress(OSError):
                words.append(os.readlink(f"/proc/{self.pid}/{link}"))
        return any(mark in word for word in words)

    def alive(self) -> bool:
        """Return whether it still runs; a zombie does not."""
        now = _look(self.pid)
        return now is not None and now.started == self.started and now.state not in "ZX"


def everything() -> list[Process]:
    """List all processes of the machine, zombies too."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    return [process for process in map(_look, pids) if process]


def children(pid: int) -> list[Process]:
    """List the children of a process, zombies too."""
    return [process for process in everything() if process.parent == pid]


def descendants(pid: int) -> list[Process]:
    """List the children of a process, with theirs and so on, the eldest first."""
    everyone = everything()
    found, parents = [], {pid}
    while parents:
        below = [process for process in everyone if process.parent in parents]
        found += below
        parents = {process.pid for process in below}
    return found


def kill(victims: Iterable[Process], number: int = signal.SIGKILL) -> None:
    """Send a signal to those that still run."""
    for process in victims:
        if process.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)


@contextlib.contextmanager
def killed(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Kill a process in the end; otherwise a failed test would wait for it."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(
    predicate: Callable[[], T], timeout_s: float = 20.0, *, interval_s: float = 0.01
) -> T:
    """Ask repeatedly until the answer is true, and return it.

    At least three quarters of the time are left to the observed processes.
    """
    asked = time.monotonic()
    deadline = asked + timeout_s
    while not (answer := predicate()):
        answered = time.monotonic()
        assert answered < deadline, f"still {answer!r} after {timeout_s} s"
        time.sleep(max(interval_s, 3 * (answered - asked)))
        asked = time.monotonic()
    return answer


class Trace(NamedTuple):
    """The output of strace for a command; ``processes`` counts its descendants."""

    returncode: int
    stdout: str
    stderr: str
    processes: int
    execs: list[list[str]]

    def count(self, *words: str) -> int:
        """Count the programs run whose command line begins with these words.

        The program itself is compared by the last part of its path.
        """
        return sum(
            [os.path.basename(argv[0]), *argv[1 : len(words)]] == list(words)
            for argv in self.execs
        )


def trace(
    *argv: str | os.PathLike[str],
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    timeout_s: float = 300,
) -> Trace:
    """Run a command under strace; list the programs and count the processes started.

    Threads are not counted.  ``execs`` begins with the command itself.
    """
    with tempfile.NamedTemporaryFile(prefix="strace-") as log:
        done = subprocess.run(
            ["strace", "-f", "--seccomp-bpf", "-v", "-s", "65536", "-o", log.name]
            + ["-e", "trace=execve,fork,vfork,clone,clone3", "-e", "signal=none"]
            + ["--", *(os.fspath(word) for word in argv)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            env=env,
            cwd=cwd,
            timeout=timeout_s,
        )
        calls = list(_calls(log.read().decode(errors="surrogateescape")))
    execs = [
        _c_strings(call)
        for call, result in calls
        if call.startswith("execve(") and result == 0
    ]
    started = sum(
        result > 0 and "CLONE_THREAD" not in call and not call.startswith("execve(")
        for call, result in calls
    )
    return Trace(done.returncode, done.stdout, done.stderr, started, execs)


def count_execs(*argv: str | os.PathLike[str]) -> int:
    """Count the programs that a command runs, itself not included."""
    return len(trace(*argv).execs) - 1


class Cost(NamedTuple):
    """The resources that a command used.

    ``cpu_s`` is that of the command and all descendants that were waited for, user
    and system; ``peak_bytes`` is the resident memory of the command's own process.
    """

    returncode: int
    cpu_s: float
    elapsed_s: float
    peak_bytes: int


def measure(
    *argv: str | os.PathLike[str],
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
) -> Cost:
    """Run a command without its output, and return its cost.

    The peak is read every few milliseconds: wait4(2) would mix in the children's.
    """
    began = time.monotonic()
    process = subprocess.Popen(
        [os.fspath(word) for word in argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=env,
        cwd=cwd,
    )
    peak_bytes = 0
    while True:
        peak_bytes = peak_memory(process.pid) or peak_bytes
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        time.sleep(0.005)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Cost(
        returncode=process.returncode,
        cpu_s=usage.ru_utime + usage.ru_stime,
        elapsed_s=time.monotonic() - began,
        peak_bytes=peak_bytes,
    )


def cpu_seconds(
    *argv: str | os.PathLike[str], env: Mapping[str, str] | None = None
) -> float:
    """Run a command; return the processor time of it and its descendants."""
    return measure(*argv, env=env).cpu_s


def open_files(pid: int | None = None) -> dict[int, str]:
    """Map the open file descriptors of a process, by default of this one."""
    found = {}
    for link in Path(f"/proc/{pid or os.getpid()}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found[int(link.name)] = os.readlink(link)
    return found


@contextlib.contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Fail if the body leaves files open, or children running or not waited for."""
    files, family = open_files(), {child.pid for child in children(os.getpid())}
    yield

    def new_files() -> dict[int, str]:
        return {n: what for n, what in open_files().items() if files.get(n) != what}

    with contextlib.suppress(AssertionError):  # a thread of the test may close its end
        wait_until(lambda: not new_files(), 5.0)
    assert not (left := new_files()), f"left open: {left}"
    new_family = [c for c in children(os.getpid()) if c.pid not in family]
    assert not new_family, f"left behind: {new_family}"


def _look(pid: int) -> Process | None:
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            text = file.read(4096)
        with open(f"/proc/{pid}/cmdline", "rb", buffering=0) as file:
            line = file.readall()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(b")")[2].split()  # from the third field on, see proc(5)
    argv = tuple(os.fsdecode(line).split("\0")[:-1])
    state = fields[0].decode()
    return Process(pid, int(fields[1]), state, int(fields[19]), argv)


def peak_memory(pid: int) -> int | None:
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _calls(log: str) -> Iterator[tuple[str, int]]:
    """Yield each system call and its result; interrupted lines are made whole."""
    begun: dict[str, str] = {}
    for line in log.splitlines():
        pid, _, text = line.partition(" ")
        text = text.lstrip()
        if text.endswith("<unfinished ...>"):
            begun[pid] = text.removesuffix("<unfinished ...>")
            continue
        if resumed := re.match(r"<\.\.\. \w+ resumed>", text):
            text = begun.pop(pid, "") + text[resumed.end() :]
        if found := re.search(r"\) += (-?\d+)[^=]*$", text):
            yield text[: found.start()], int(found[1])


def _c_strings(call: str) -> list[str]:
    """Read the array that is the second argument of an execve that strace printed."""
    array = call.partition(", [")[2]
    words = []
    while found := re.match(r'"((?:[^"\\]|\\.)*)"(?:, )?', array):
        words.append(os.fsdecode(ast.literal_eval(f'b"{found[1]}"')))
        array = array[found.end() :]
    return words
