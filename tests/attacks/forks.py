"""Owns a process with the program loaded, which forks for each run: 300 of them pay
for the start of Python once."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tests.support import processes
from tests.support.program import CHECKOUT, Argument, environment

Done = subprocess.CompletedProcess[str]

#: A run that takes longer hangs: the longest takes 2 s.
PATIENCE_S = 15.0


class Hangs(AssertionError):
    """A run did not end."""


class Forks:
    """The loaded program, in a process of its own."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-c", "from tests.attacks.forks import serve; serve()"],
            env=environment(),
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        """End it with all that it runs."""
        processes.kill(processes.descendants(self._server.pid))
        self._server.kill()
        self._server.communicate()

    def run(
        self, *words: Argument, env: Mapping[str, str | None] | None = None
    ) -> Done:
        """Run the program to its end, as ``program.run_program`` does.

        :raises Hangs: if it does not end.
        """
        argv = ["btrfs-backup-ng", *map(os.fsdecode, words)]
        with tempfile.TemporaryDirectory(prefix="attacks-") as directory:
            out, err = (os.path.join(directory, name) for name in ("out", "err"))
            asked = {"argv": argv, "env": environment(env), "out": out, "err": err}
            status = self._ask(run=asked)
            texts = [
                Path(path).read_text(errors="surrogateescape") for path in (out, err)
            ]
        done = Done(argv, status, *texts)
        if status == -signal.SIGKILL:
            raise Hangs(f"{argv} did not end in {PATIENCE_S} s; it said: {texts}")
        return done

    def race(self, uid: int, gid: int, swaps: Sequence[Mapping[str, str]]) -> int:
        """Start a racer as another user, and give its process id.

        :param swaps: see :func:`tests.attacks.racer.race`.
        """
        return self._ask(race={"uid": uid, "gid": gid, "swaps": list(swaps)})

    def stop(self, pid: int) -> int:
        """End a racer, which puts its things back; give how often it swapped any."""
        return self._ask(stop={"pid": pid})

    def _ask(self, **request: object) -> int:
        assert self._server.stdin and self._server.stdout
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        assert answer, "the process that forks has ended"
        return int(answer)


def serve() -> None:
    """Be that process: a request a line on stdin, a number a line as the answer."""
    for module in ("__main__", "cli.commands.demo"):
        importlib.import_module(f"btrfs_backup_ng.{module}")
    verbs = importlib.import_module("btrfs_backup_ng.cli.commands").VERBS
    for module in verbs.values():
        importlib.import_module(module)
    importlib.import_module("tests.attacks.racer")
    does: dict[str, Callable[..., int]] = {"run": _run, "race": _race, "stop": _stop}
    for line in sys.stdin:
        ((what, request),) = json.loads(line).items()
        print(does[what](**request), flush=True)


def _run(argv: list[str], env: dict[str, str], out: str, err: str) -> int:
    pid = os.fork()
    if not pid:
        _become(argv, env, out, err)
    descriptor = os.pidfd_open(pid)
    try:
        if not select.select([descriptor], [], [], PATIENCE_S)[0]:
            # The program first: it may not clean up what it hangs at.
            processes.kill([_process(pid), *processes.descendants(pid)])
    finally:
        os.close(descriptor)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _process(pid: int) -> processes.Process:
    return next(process for process in processes.everything() if process.pid == pid)


def _become(argv: list[str], env: dict[str, str], out: str, err: str) -> NoReturn:
    """Be the program, from its first line on."""
    status = 255
    try:
        os.setsid()
        for number, path in enumerate((os.devnull, out, err)):
            flags = os.O_RDWR | os.O_CREAT
            descriptor = os.open(path, flags, 0o600)
            os.dup2(descriptor, number)
            os.close(descriptor)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = open(
            2, "w", encoding="utf-8", errors="backslashreplace", closefd=False
        )
        os.environ.clear()
        os.environ.update(env)
        sys.argv = argv
        try:
            importlib.import_module("btrfs_backup_ng.__main__").entry()
        except SystemExit as error:
            status = int(error.code or 0)
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(status)


def _race(uid: int, gid: int, swaps: list[dict[str, str]]) -> int:
    readable, writable = os.pipe()
    pid = os.fork()
    if not pid:
        racer: Any = importlib.import_module("tests.attacks.racer")
        try:
            os.close(readable)
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
            count = racer.race(swaps)
            os.write(writable, str(count).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writable)
    _racers[pid] = readable
    return pid


def _stop(pid: int) -> int:
    os.kill(pid, signal.SIGTERM)
    os.waitpid(pid, 0)
    with open(_racers.pop(pid), "rb") as answer:
        return int(answer.read() or b"-1")


_racers: dict[int, int] = {}
