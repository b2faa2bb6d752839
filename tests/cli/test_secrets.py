"""Where a password must not be: in words, environments, files and output."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.accounts import SUDO_PASSWORD, Account
from tests.support.command_line import must, password_file
from tests.support.places import ssh_place, ssh_words
from tests.support.processes import wait_until
from tests.support.program import PROGRAM, environment, run_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs

SECRET = "pass-word-31415926"
_STRACE = [
    *("strace", "-f", "-qq", "--seccomp-bpf", "-v", "-s", "65536"),
    *("-e", "trace=execve", "-e", "signal=none"),
]


@contextlib.contextmanager
def _watched(server: Sshd, log: Path) -> Iterator[None]:
    """Write down every program that a server starts, its words and environment."""
    argv = [word for word in _STRACE if word != "--seccomp-bpf"]
    with subprocess.Popen([*argv, "-o", str(log), "-p", str(server.pid)]) as tracer:
        try:
            status = Path(f"/proc/{server.pid}/status")
            wait_until(lambda: f"TracerPid:\t{tracer.pid}\n" in status.read_text())
            yield
        finally:
            tracer.send_signal(signal.SIGINT)


def _files(top: Path) -> Iterator[Path]:
    for directory, _, files in os.walk(top):
        yield from (Path(directory, name) for name in files)


def test_a_password_is_in_no_word_environment_output_or_file(
    scene: Scene,
    new_sshd: Callable[..., Sshd],
    account: Callable[..., Account],
    public_path: Path,
    tmp_path: Path,
):
    here, there = public_path / "here", public_path / "there"
    for place in (here, there):
        place.mkdir()
        place.chmod(0o1777)
    config = ("PasswordAuthentication yes", f"SetEnv TMPDIR={there}")
    server = new_sshd(config=config)
    user = account(password=SECRET, sudoers=SUDO_PASSWORD)
    file = password_file(tmp_path, SECRET)
    words = ssh_words(server, without=["IdentityFile"])
    words += ["--ssh-opt=IdentityFile=none", "--ssh-password-file", str(file)]
    words += ["--sudo-password-file", str(file), "-vv", "-p", "x-"]
    words += [str(scene.source), ssh_place(server, scene.destination, user=user.name)]
    env = environment({"TMPDIR": str(here), "XDG_RUNTIME_DIR": None})
    logs = [tmp_path / name for name in ("log here", "log there")]
    with _watched(server, logs[1]):
        done = must(
            subprocess.run(
                [*_STRACE, "-o", str(logs[0]), "--", *PROGRAM, *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                env=env,
                timeout=120,
            )
        )
    assert len(scene.backup_names) == 1
    ran, ran_there = (log.read_text(errors="replace") for log in logs)
    assert re.search(r'execve\("[^"]*/ssh", .*"-M"', ran), "strace saw nothing"
    assert re.search(r'execve\("[^"]*/askpass"', ran) and "TMPDIR=" in ran
    assert '"sudo", "-S"' in ran_there and '"receive"' in ran_there
    for text in (ran, ran_there, done.stdout, done.stderr, server.log_text()):
        assert SECRET not in text
    assert "ssh" in done.stderr, "-vv tells nothing"
    assert os.listdir(here) == os.listdir(there) == []
    for top in (scene.source.parent, scene.destination.parent, user.home):
        for path in _files(top):
            assert SECRET.encode() not in path.read_bytes(), path


def test_a_password_is_in_no_traceback(
    scene: Scene,
    new_sshd: Callable[..., Sshd],
    account: Callable[..., Account],
    tmp_path: Path,
):
    server = new_sshd(config=("PasswordAuthentication yes",))
    user, file = account(password=SECRET), password_file(tmp_path, SECRET)
    # Python runs this before ours; what breaks is what handles the password.
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "def broken(*_, **__):\n"
        "    raise ZeroDivisionError('this is a test')\n"
        "os.mkfifo = broken\n"
    )
    path = f"{tmp_path}:{environment()['PYTHONPATH']}"
    words = ssh_words(server, without=["IdentityFile"])
    words += ["--ssh-opt=IdentityFile=none", "--ssh-password-file", str(file), "-vv"]
    to = ssh_place(server, scene.destination, user=user.name)
    done = run_program(*words, scene.source, to, env={"PYTHONPATH": path}, timeout=60)
    assert done.returncode != 0
    assert "a bug: ZeroDivisionError: this is a test" in done.stderr
    assert done.stderr.count("Traceback") == 1, done.stderr
    assert "was lost" not in done.stderr, done.stderr
    assert SECRET not in done.stdout + done.stderr
