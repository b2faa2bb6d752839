"""The command line in tests: judging a run, other PATHs, terminals and users."""

from __future__ import annotations

import os
import select
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

from tests.support.accounts import Account
from tests.support.processes import wait_until
from tests.support.program import (
    CHECKOUT,
    PROGRAM,
    Argument,
    environment,
)

Done = subprocess.CompletedProcess[str]
Test = TypeVar("Test", bound=Callable[..., None])

NOBODY = 65534

#: Directories that the program looks into besides PATH.
SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def covers(*options: str) -> Callable[[Test], Test]:
    """Name the options that a test covers, for test_options.py."""
    assert all(option.startswith("-") for option in options)
    return lambda test: test


def must(done: Done, status: int = 0) -> Done:
    """Fail with the whole output of the program if it ended with another status."""
    told = f"{done.args}\nstdout: {done.stdout}\nstderr: {done.stderr}"
    assert done.returncode == status, f"status {done.returncode}, {told}"
    assert "Traceback" not in done.stderr, told
    return done


def complaint(done: Done, status: int, *parts: str) -> str:
    """Check a message of the program: on stderr only, no traceback, all parts in it."""
    must(done, status)
    assert done.stderr.startswith("btrfs-backup-ng: "), done.stderr
    for part in parts:
        assert part in done.stderr, f"{part!r} is not in: {done.stderr}"
        assert part not in done.stdout, done.stdout
    return done.stderr


def assert_fails(done: Done, status: int, *words: str) -> None:
    """Check the fourth law: a failure has its status and message."""
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def logging_path(
    directory: Path, *programs: str, path: str = "", where: bool = False
) -> tuple[str, Path]:
    """Return a PATH on which these programs log their arguments, and the log.

    :param where: each line is ``DIRECTORY: PROGRAM ARGUMENTS``.
    """
    path = path or os.environ["PATH"]
    wrappers, log = directory / "wrappers", directory / "programs.log"
    wrappers.mkdir()
    log.touch()
    log.chmod(0o666)
    for name in programs:
        real = shutil.which(name, path=":".join((path, *SBIN)))
        assert real, f"{name} is not installed"
        words = f'"$(pwd -P):" {name}' if where else name
        script(
            wrappers / name,
            f'echo {words} "$*" >>{shlex.quote(str(log))}\nexec {real} "$@"',
        )
    return f"{wrappers}:{path}", log


def path_without(directory: Path, *programs: str, sbin: Collection[str] = ()) -> str:
    """Return a PATH with all that is installed but these programs.

    :param sbin: the same, but the caller handles those in ``/usr/sbin``.
    """
    links = directory / "links"
    links.mkdir()
    for place in (*os.environ["PATH"].split(":"), *SBIN):
        if not os.path.isdir(place):
            continue
        for entry in os.scandir(place):
            if (
                entry.name not in {*programs, *sbin}
                and not (links / entry.name).is_symlink()
            ):
                (links / entry.name).symlink_to(entry.path)
    for name in programs:
        hidden = shutil.which(name, path=":".join((str(links), *SBIN)))
        assert hidden is None, f"{hidden} cannot be hidden"
    return str(links)


def script(path: Path, text: str) -> Path:
    """Write a program in shell."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def on_terminal(
    *args: Argument, env: Mapping[str, str | None] | None = None, input: str = ""
) -> Done:
    """Run the program on a terminal of its own; stdout is all that it shows."""
    command = shlex.join(["exec", *PROGRAM, *map(os.fsdecode, args)])
    done = subprocess.run(
        ["script", "--quiet", "--return", "--command", command, "/dev/null"],
        env=environment({"SHELL": "/bin/sh", **(env or {})}),
        input=input.encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
    )
    shown = done.stdout.decode(errors="surrogateescape")  # no newline translated
    return subprocess.CompletedProcess(done.args, done.returncode, shown, "")


def in_conversation(
    *args: Argument,
    answers: Mapping[str, str],
    env: Mapping[str, str | None] | None = None,
) -> Done:
    """Run the program on a terminal, and answer its questions.

    A question drops earlier input, so each answer waits for its question.

    :param answers: a part of a question -> the answer to type, each time it comes.
    """
    ours, theirs = os.openpty()
    with subprocess.Popen(
        ["setsid", "--ctty", *PROGRAM, *map(os.fsdecode, args)],
        env=environment(env),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as program:
        os.close(theirs)
        shown, read_so_far, deadline = "", 0, time.monotonic() + 120
        try:
            while time.monotonic() < deadline:
                if not select.select([ours], [], [], 1)[0]:
                    continue
                try:
                    chunk = os.read(ours, 65536)
                except OSError:  # EIO: no process has it open any more
                    break
                shown += chunk.decode(errors="surrogateescape")
                for question, answer in answers.items():
                    at = shown.find(question, read_so_far)
                    if at >= 0 and shown.endswith(": "):
                        read_so_far = len(shown)
                        os.write(ours, os.fsencode(answer) + b"\n")
        finally:
            os.close(ours)
    return subprocess.CompletedProcess(program.args, program.returncode, shown, "")


def password_file(directory: Path, text: str, *, mode: int = 0o600) -> Path:
    """Write a file with a password."""
    path = directory / f"password-{len(os.listdir(directory))}"
    path.touch(mode=0o600)
    path.write_text(text)
    path.chmod(mode)
    return path


def appears(
    path: Path, program: subprocess.Popen[str] | subprocess.Popen[bytes]
) -> None:
    """Wait until a running program has made a file."""
    wait_until(lambda: path.exists() or program.poll() is not None, 60)
    assert path.exists(), program.communicate()


def sudo_line(*args: Argument) -> str:
    """Return the line that runs the command of :func:`as_nobody` as root.

    sudo has a PATH of its own, so a Python that is not on it is named in full.
    """
    python = _python_for_all()
    if shutil.which(os.path.basename(python), path="/usr/local/bin:/usr/bin") == python:
        python = os.path.basename(python)
    words = [python, "-m", "btrfs_backup_ng", *map(os.fsdecode, args)]
    return shlex.join(["sudo", *words])


def as_nobody(*args: Argument) -> Done:
    """Run the program as a user without any rights."""
    return subprocess.run(
        ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        + [_python_for_all(), "-m", "btrfs_backup_ng", *map(os.fsdecode, args)],
        env=environment({"HOME": "/nonexistent"}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=120,
        cwd="/",
    )


def as_user(
    user: Account,
    *args: Argument,
    env: Mapping[str, str | None] | None = None,
) -> Done:
    """Run the program as one of the test's users, from the checkout."""
    return subprocess.run(
        ["setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--init-groups"]
        + [_python_for_all(), "-m", "btrfs_backup_ng", *map(os.fsdecode, args)],
        env=environment(
            {
                "HOME": str(user.home),
                "USER": user.name,
                "LOGNAME": user.name,
                "BTRFS_BACKUP_NG_STATE": str(user.home / "state"),
                **(env or {}),
            }
        ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=120,
        cwd=CHECKOUT,  # sudo hides PYTHONPATH
    )


def _python_for_all() -> str:
    """Find an interpreter that all users may run; this one may be in root's home."""
    for path in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        done = subprocess.run(
            ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
            + [path, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"],
            capture_output=True,
        )
        if done.returncode == 0:
            return path
    raise AssertionError("no python3 (3.11 or newer) that everybody may run")
