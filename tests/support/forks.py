"""A process with the program loaded, which becomes the program at each run.

To load its modules takes Python longer than most runs take. A child of that process
is the program from its first line to Python's own end: with its own arguments,
environment, directory and streams.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import pkgutil
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.support import processes

#: Variables that Python or the loader read when a program starts, by how they begin.
_READ_AT_START = ("LANG", "LC_", "LD_", "PYTHON")


class Server:
    """The loaded program.

    :ivar address: of the socket that takes requests.
    """

    def __init__(self, checkout: Path, env: Mapping[str, str]) -> None:
        self._env = read_at_start(env)
        self._directory = tempfile.mkdtemp(prefix="forks-")
        self.address = os.path.join(self._directory, "socket")
        self._process = subprocess.Popen(
            # The last word is for tests that look for the program among processes.
            [sys.executable, "-m", __name__, self.address, "btrfs_backup_ng"],
            env=dict(env),
            cwd=checkout,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout
        assert self._process.stdout.read(1), "the program cannot be loaded"

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()
        shutil.rmtree(self._directory, ignore_errors=True)

    def can_run(self, env: Mapping[str, str]) -> bool:
        """Return whether a run with this environment can do without a new Python."""
        return read_at_start(env) == self._env and self._process.poll() is None

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | os.PathLike[str] | None,
        input: str | None,
        timeout: float,
    ) -> subprocess.CompletedProcess[str]:
        """Run the program as ``subprocess.run`` does.

        :raises TimeoutExpired: after it and its children were killed.
        """
        request = {"argv": [*argv], "env": [*env.items()], "cwd": os.fspath(cwd or ".")}
        with contextlib.ExitStack() as stack:
            in_memory = (os.memfd_create("stream") for _ in range(3))
            files = [stack.enter_context(open(one, "w+b")) for one in in_memory]
            files[0].write(os.fsencode(input or ""))
            files[0].seek(0)
            streams = [file.fileno() for file in files]
            if input is None:
                streams[0] = os.open(os.devnull, os.O_RDONLY)
                stack.callback(os.close, streams[0])
            asked = stack.enter_context(socket.socket(socket.AF_UNIX))
            asked.connect(self.address)
            content = json.dumps(request).encode()
            socket.send_fds(asked, [b"%d\n" % len(content)], streams)
            asked.sendall(content)
            answer = asked.makefile()
            pid = int(answer.readline())
            if not select.select([asked], [], [], timeout)[0]:
                program = [one for one in processes.everything() if one.pid == pid]
                processes.kill([*program, *processes.descendants(pid)])
                raise subprocess.TimeoutExpired([*argv], timeout)
            status = int(answer.readline())
            for file in files:
                file.seek(0)
            out, err = (
                file.read().decode("utf-8", "surrogateescape") for file in files[1:]
            )
        return subprocess.CompletedProcess([*argv], status, out, err)


def read_at_start(env: Mapping[str, str]) -> dict[str, str]:
    """Return the part of an environment that is read only when a program starts."""
    return {name: env[name] for name in env if name.startswith(_READ_AT_START)}


@functools.cache
def server(start: Callable[[], Server]) -> Server:
    """Return the server of this process, which ends with it."""
    started = start()
    atexit.register(started.close)
    return started


def serve(address: str) -> Callable[[], None]:
    """Fork for each request; return the task in each child.

    This ends when standard input does.
    """
    entry: Callable[[], None] = importlib.import_module(
        "btrfs_backup_ng.__main__"
    ).entry
    package = importlib.import_module("btrfs_backup_ng")
    for module in pkgutil.walk_packages(package.__path__, "btrfs_backup_ng."):
        importlib.import_module(module.name)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(100)
    os.write(1, b"\n")
    # No child searches the loaded modules for garbage, which would copy all pages.
    gc.collect()
    gc.freeze()
    runs: dict[int, tuple[int, socket.socket]] = {}
    poll = select.poll()
    for descriptor in (0, listener.fileno()):
        poll.register(descriptor, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == 0:
                os._exit(0)
            if descriptor != listener.fileno():
                poll.unregister(descriptor)
                pid, asked = runs.pop(descriptor)
                os.close(descriptor)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with asked, contextlib.suppress(OSError):
                    asked.sendall(b"%d\n" % status)
                continue
            asked, _ = listener.accept()
            length, streams, _, _ = socket.recv_fds(asked, 20, 3)
            while not length.endswith(b"\n"):
                length += asked.recv(1)
            request = json.loads(_received(asked, int(length)))
            if not (pid := os.fork()):
                listener.close()
                asked.close()
                for descriptor, (_, other) in runs.items():
                    os.close(descriptor)
                    other.close()
                _become(request["argv"], request["env"], request["cwd"], streams)
                return entry
            for stream in streams:
                os.close(stream)
            pidfd = os.pidfd_open(pid)
            runs[pidfd] = pid, asked
            poll.register(pidfd, select.POLLIN)
            asked.sendall(b"%d\n" % pid)


def _received(asked: socket.socket, length: int) -> bytes:
    content = b""
    while len(content) < length:
        content += asked.recv(length - len(content))
    return content


def _become(
    argv: list[str], env: list[tuple[str, str]], cwd: str, streams: list[int]
) -> None:
    """Take on all properties of a new process."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    package = importlib.import_module("btrfs_backup_ng.__main__")
    sys.argv = [str(package.__file__), *argv]
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        old = getattr(sys, name)
        new = open(
            number,
            old.mode,
            encoding=old.encoding,
            errors=old.errors,
            buffering=1 if name == "stderr" else -1,
            closefd=False,
        )
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)


if __name__ == "__main__":
    serve(sys.argv[1])()
