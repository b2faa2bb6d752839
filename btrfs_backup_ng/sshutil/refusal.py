"""Errors for a login that failed; the words of ssh decide only the message."""

import contextlib
import os
import re
import shlex
from collections.abc import Sequence

from btrfs_backup_ng.__util__ import BackupError, visible
from btrfs_backup_ng.process.command import last_words
from btrfs_backup_ng.sshutil.login import Login, LoginAttempt, sudo_caller


class ConnectionFailed(BackupError):
    """No connection to a host could be opened."""


class LoginRefused(ConnectionFailed):
    """The host answered and refused the login."""


def explain_failure(stderr: str, login: Login) -> ConnectionFailed:
    """Return the error for a failed login, from the words of ssh."""
    host = visible(login.location.host)
    if "IDENTIFICATION HAS CHANGED" in stderr:
        return ConnectionFailed(
            f"the host key of {host} has changed: the machine was reinstalled, or this"
            " is a man-in-the-middle attack",
            hint="Only if it was reinstalled:  ssh-keygen -R"
            f" {shlex.quote(_known_name(stderr, login))}",
        )
    if "Host key verification failed" in stderr:
        return ConnectionFailed(
            f"the host key of {host} is unknown, and unknown keys are refused",
            hint=f"Check it and accept it by hand:  ssh {login.by_hand()} true",
        )
    if "Permission denied" in stderr or "Too many authentication" in stderr:
        return LoginRefused(last_words(stderr))
    words = last_words(stderr)
    return ConnectionFailed(
        f"no connection to {host}" + (f": {words}" if words else ""),
        hint=f"Try it by hand:  ssh {login.by_hand()} true",
    )


def _known_name(stderr: str, login: Login) -> str:
    """Return the name under which ssh knows the host."""
    match = re.search(r"^Host key for (\S+) has changed", stderr, re.MULTILINE)
    return match[1] if match else login.known_name()


def describe_refusal(login: Login, attempts: Sequence[LoginAttempt]) -> LoginRefused:
    """Return the error for a login refused to all, with the keys tried, and a hint."""
    tried = list(
        dict.fromkeys(_describe_keys(login, attempt.user) for attempt in attempts)
    )
    return LoginRefused(
        f"{visible(login.name)} refused the login (tried: {'; '.join(tried)})",
        hint="\n".join(_hints(login, [attempt.user for attempt in attempts])),
    )


def _describe_keys(login: Login, user: str) -> str:
    ways = []
    if login.agent:
        ways.append("ssh agent" if _answers(login.agent) else "ssh agent (not running)")
    ways += [visible(path) for path in login.keys(user)]
    if login.password_file:
        ways.append(f"the password in {visible(login.password_file)}")
    found = ", ".join(ways) or "no key found"
    return f"as {visible(user)}: {found}" if user else found


def _answers(path: str) -> bool:
    """Return whether an agent listens on a socket."""
    import socket  # here: only a refused login asks

    with contextlib.suppress(OSError):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(path)
            return True
    return False


def _hints(login: Login, users: Sequence[str]) -> list[str]:
    """Return the hint, in lines."""
    caller = sudo_caller()
    lines = []
    if caller and not login.agent:
        lines += [
            f"sudo hides the ssh agent of {visible(caller)}. Pass it on:"
            "  sudo --preserve-env=SSH_AUTH_SOCK btrfs-backup-ng ...",
            'Or name it:  --ssh-auth-sock "$SSH_AUTH_SOCK"',
        ]
    keys = [key for user in users for key in login.keys(user)]
    if keys:
        lines += _introductions(login, keys[0])
    if login.options.identity_file or login.password_file:
        return [*lines, f"Try it by hand:  ssh {login.by_hand()} true"]
    home = os.path.expanduser(f"~{caller}")
    note = ""
    if os.geteuid() == 0 and not login.agent and not caller:
        note = "No ssh agent is available to root. "
    key = shlex.quote(f"{home}/.ssh/id_ed25519")
    which = "another key" if keys else "a key"
    return [*lines, f"{note}Use {which}:  --ssh-identity-file {visible(key)}"]


def _introductions(login: Login, key: str) -> list[str]:
    """Return the lines that make a key known to the host."""
    lines, name = [], visible(shlex.quote(key))
    if not os.path.exists(f"{key}.pub"):
        public = visible(shlex.quote(f"{key}.pub"))
        lines.append(f"The public half of the key:  ssh-keygen -y -f {name} > {public}")
    copy = f"ssh-copy-id -i {name} {login.by_hand()}"
    return [*lines, f"If the host does not have the key yet:  {copy}"]


def explain_session(stderr: str) -> str:
    """Return the meaning of the words of an ssh client that failed, or ""."""
    if "ession open refused" in stderr or "administratively prohibited" in stderr:
        return (
            "its sshd allows too few sessions at once; set  MaxSessions 10  in its"
            " sshd_config"
        )
    return ""
