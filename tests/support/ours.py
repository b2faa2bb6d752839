"""The mark that distinguishes leftovers of dead test runs from all else.

A thing that outlives a killed process (a loop device, a user account, a directory) gets
a name with :func:`mark` in it: the process that made it, and its start. A sweep removes
a thing only if :func:`is_leftover` is true.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

_MARK = re.compile(r"bbng-(\d+)-(\d+)-")
_numbers = itertools.count(1)


def started(pid: int) -> int | None:
    """Return the start of a process, in clock ticks since boot; None if it has ended.

    Field 22 of /proc/PID/stat, see proc(5); a zombie counts as gone.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def mark() -> str:
    """Make a word that no other test process has: ``bbng-PID-START-NUMBER``."""
    return f"bbng-{os.getpid()}-{started(os.getpid())}-{next(_numbers)}"


def is_leftover(name: str) -> bool:
    """Return whether the name has the mark of a process that has ended."""
    found = _MARK.search(name)
    return found is not None and started(int(found[1])) != int(found[2])


def is_of_another(name: str) -> bool:
    """Return whether the name has the mark of another test process."""
    found = _MARK.search(name)
    return found is not None and int(found[1]) != os.getpid()


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Exclude the other test processes of this machine, for its global files."""
    directory = os.open("/etc", os.O_RDONLY)  # where these things are
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def memory() -> Path:
    """Return a directory in memory if there is one, for what is flushed often."""
    shared = Path("/dev/shm")
    return shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())


def public_directory() -> Path:
    """Make a temporary directory that other users may pass through and read.

    pytest's own temporary directories are closed to all but their owner.
    """
    path = Path(tempfile.mkdtemp(prefix=mark() + "-"))
    path.chmod(0o755)
    return path


def sweep() -> list[str]:
    """Remove directories and networks of killed test runs; return their names."""
    left = [
        path
        for place in {Path(tempfile.gettempdir()), memory()}
        for path in place.glob("bbng-*")
        if path.is_dir() and is_leftover(path.name)
    ]
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    networks = [
        path for path in Path("/run/netns").glob("bbng-*") if is_leftover(path.name)
    ]
    for path in networks:
        subprocess.run(["ip", "netns", "del", path.name], check=True)
    return [str(path) for path in left + networks]
