"""How tests run the program: as a user does, from this checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from . import forks, ours

CHECKOUT = Path(__file__).resolve().parents[2]
PROGRAM = (sys.executable, "-m", "btrfs_backup_ng")
#: The history of all runs that this process starts.
STATE_DIRECTORY = ours.memory() / f"{ours.mark()}-state"

#: For the environment of a program that is to ask the ``btrfs`` in its PATH about the
#: changes that it makes itself: see ``asking/sitecustomize.py``. Such a ``btrfs`` ends
#: with ``GO_ON`` where it has nothing to say.
ASKING = {"PYTHONPATH": f"{Path(__file__).with_name('asking')}:{CHECKOUT}"}
GO_ON = '[ -z "${ASKED:-}" ] || exit 99'

Argument = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def environment(changes: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """Make the program's environment: this one with changes; None removes a variable.

    No agent offers keys that the test does not know, no history of the test is kept on
    this machine, and nothing confirms its clock.
    """
    wanted: dict[str, str | None] = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    wanted["BTRFS_BACKUP_NG_STATE"] = str(STATE_DIRECTORY)
    wanted.setdefault("BTRFS_BACKUP_NG_CLOCK", "0")
    wanted.update({"SSH_AUTH_SOCK": None, **(changes or {})})
    return {name: value for name, value in wanted.items() if value is not None}


def run_program(
    *args: Argument,
    env: Mapping[str, str | None] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    input: str | None = None,
    timeout: float = 300,
) -> subprocess.CompletedProcess[str]:
    """Run the program to its end, if possible without starting a new Python.

    Output is text, with ``surrogateescape`` for bytes that are not UTF-8.  Without
    ``input``, standard input is /dev/null.

    :param env: changes to the environment, see :func:`environment`.
    """
    words, wanted = [*map(os.fsdecode, args)], environment(env)
    loaded = forks.server(_load)
    if loaded.can_run(wanted):
        done = loaded.run(words, env=wanted, cwd=cwd, input=input, timeout=timeout)
        return subprocess.CompletedProcess(
            [*PROGRAM, *words], done.returncode, done.stdout, done.stderr
        )
    return subprocess.run(
        [*PROGRAM, *words],
        env=wanted,
        cwd=cwd,
        stdin=subprocess.DEVNULL if input is None else None,
        input=input,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=timeout,
    )


def _load() -> forks.Server:
    return forks.Server(CHECKOUT, environment())


def start_program(
    *args: Argument,
    env: Mapping[str, str | None] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
) -> subprocess.Popen[str]:
    """Start the program, to do something to it while it runs.

    Use it in a ``with`` statement, which waits for its end.
    """
    return subprocess.Popen(
        [*PROGRAM, *map(os.fsdecode, args)],
        env=environment(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        encoding="utf-8",
        errors="surrogateescape",
    )


def finish(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for a started program and return its output."""
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
