"""The user accounts that tests log in to, with their shells and privileges."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from . import ours, processes

#: Rules for :func:`account`: all as root, btrfs alone, all with the own password.
SUDO_ALL = "{name} ALL=(root) NOPASSWD: ALL"
SUDO_BTRFS = "{name} ALL=(root) NOPASSWD: /usr/bin/btrfs"
SUDO_PASSWORD = "{name} ALL=(root) ALL"
DOAS = "permit nopass {name} as root"

_SUDOERS = Path("/etc/sudoers.d")
_DOAS = Path("/etc/doas.conf")


class Account(NamedTuple):
    """A user of this machine, for as long as a test runs."""

    name: str
    uid: int
    gid: int
    home: Path


@contextlib.contextmanager
def account(
    *,
    shell: str = "/bin/sh",
    sudoers: str | None = None,
    doas: str | None = None,
    password: str | None = None,
    superuser: bool = False,
) -> Iterator[Account]:
    """Make a user account, and remove it with its privileges and processes.

    Any :class:`~tests.support.sshd.Sshd` of the tests lets this user in.

    :param shell: the login shell: a path, or a name such as ``fish`` or ``ash``.
    :param sudoers: lines of sudoers(5), with ``{name}`` for the user.
    :param doas: lines of doas.conf(5), in the same form.
    :param password: for sudo, or an sshd that asks for it; by default none is right.
    :param superuser: a second name for root, whose own login shell does not change.
    """
    assert not (superuser and password), "no way into root for whoever reads the tests"
    mark = ours.mark()
    name = mark[:32]  # the longest name that useradd(8) takes
    base = ours.public_directory()
    identity = ["--user-group", "--comment", mark]
    if superuser:
        # No comment: older versions of these tests find leftovers by it, and would end
        # all processes of root.
        identity = ["--non-unique", "--uid=0", "--gid=0", "--no-user-group"]
    try:
        with ours.only_one():
            shell_path = _shell_path(shell, base)
            words = ("--create-home", "--base-dir", base, "--shell", shell_path)
            call("useradd", *identity, *words, "--password", "*", name)
            if password is not None:
                call("chpasswd", "--crypt-method=SHA512", said=f"{name}:{password}")
        if sudoers is not None:
            allow_sudo(mark, sudoers.format(name=name))
        if doas is not None:
            allow_doas(mark, doas.format(name=name))
        user = pwd.getpwnam(name)
        yield Account(name, user.pw_uid, user.pw_gid, Path(user.pw_dir))
    finally:
        remove(name, mark)
        shutil.rmtree(base)


def sweep() -> list[str]:
    """Remove the accounts that killed test runs left; return their names."""
    left = [user.pw_name for user in pwd.getpwall() if ours.is_leftover(user.pw_name)]
    for name in left:
        user = pwd.getpwnam(name)
        remove(name, user.pw_gecos or name)
        base = Path(user.pw_dir).parent
        if base.name.startswith("bbng-"):  # never /home
            shutil.rmtree(base, ignore_errors=True)
    return left


def _shell_path(shell: str, base: Path) -> str:
    if shell == "ash":  # a shell only by the name under which it is called
        link = base / "ash"
        link.symlink_to(shutil.which("busybox") or "/bin/busybox")
        return str(link)
    path = shutil.which(shell)
    assert path, f"the shell {shell} is not installed"
    return path


def allow_sudo(mark: str, rules: str) -> None:
    """Give rules to sudo, in place of earlier ones with this mark."""
    # sudo(8) ignores names with a dot, so the file takes effect only after the check
    draft = _SUDOERS / f"{mark}.draft"
    try:
        draft.write_text(rules + "\n")
        draft.chmod(0o440)
        call("visudo", "--check", "--quiet", "--file", draft)
        draft.rename(_SUDOERS / mark)
    finally:
        draft.unlink(missing_ok=True)


def allow_doas(mark: str, rules: str) -> None:
    """Give rules to doas, under a mark."""
    added = f"# {mark} begin\n{rules}\n# {mark} end\n"
    with ours.only_one():
        old = _DOAS.read_text() if _DOAS.exists() else ""
        _replace_doas(old + added)


def forbid_doas(mark: str) -> None:
    """Remove the rules with a mark from doas."""
    with ours.only_one():
        text = _DOAS.read_text() if _DOAS.exists() else ""
        before, begin, rest = text.partition(f"# {mark} begin\n")
        if begin:
            _replace_doas(before + rest.partition(f"# {mark} end\n")[2])


def _replace_doas(text: str) -> None:
    if not text:
        _DOAS.unlink()
        return
    draft = _DOAS.with_suffix(".draft")
    try:
        draft.write_text(text)
        draft.chmod(0o400)
        call("doas", "-C", draft)
        draft.rename(_DOAS)
    finally:
        draft.unlink(missing_ok=True)


def remove(name: str, mark: str) -> None:
    """End all processes of an account, and remove it with its rules."""
    (_SUDOERS / mark).unlink(missing_ok=True)
    forbid_doas(mark)
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        return
    deadline = time.monotonic() + 10
    while left := [process for process in _processes_of(user) if process.alive()]:
        processes.kill(left)
        assert time.monotonic() < deadline, f"{name} still runs {left}"
    with ours.only_one():
        call("userdel", "--force", name)  # though init may not have reaped the last


def _processes_of(user: pwd.struct_passwd) -> list[processes.Process]:
    """List the processes of a user; of a second root, the logins under its name."""
    assert user.pw_name.startswith("bbng-") and Path(user.pw_dir).name == user.pw_name
    home = os.fsencode(f"HOME={user.pw_dir}")
    found = []
    for process in processes.everything():
        directory = Path(f"/proc/{process.pid}")
        with contextlib.suppress(OSError):
            if user.pw_uid == 0:
                is_theirs = home in (directory / "environ").read_bytes().split(b"\0")
            else:
                is_theirs = directory.stat().st_uid == user.pw_uid
            if is_theirs:
                found.append(process)
    return found


def call(*argv: object, said: str = "") -> None:
    """Run a command of the administrator that must succeed."""
    done = subprocess.run(
        [str(word) for word in argv],
        input=said,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
    )
    if done.returncode:
        command = " ".join(str(word) for word in argv)
        raise AssertionError(f"{command}: status {done.returncode}\n{done.stdout}")
