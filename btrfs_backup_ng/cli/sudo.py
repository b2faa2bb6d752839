"""The same command as root: the line for a hint, and running it."""

import os
import shlex
import sys
from collections.abc import Sequence

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.process.child import replace_by
from btrfs_backup_ng.process.command import find_program

#: Where sudo looks for commands: ``secure_path`` of sudoers(5), as it mostly is.
_SECURE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: Environment variables that root needs, too; the second one is of session/history.
_KEPT = ("SSH_AUTH_SOCK", "BTRFS_BACKUP_NG_STATE")


def command_line(words: Sequence[str]) -> list[str]:
    """Return the command that starts this very program again, also behind sudo."""
    started_as = sys.argv[0]
    if os.path.basename(started_as) == "__main__.py":
        python = os.path.basename(sys.executable)
        if find_program(python, _SECURE_PATH) != sys.executable:
            python = sys.executable
        return [python, "-m", __package__.partition(".")[0], *words]
    found = find_program(PROGRAM, _SECURE_PATH)
    if found and os.path.realpath(found) == os.path.realpath(started_as):
        return [PROGRAM, *words]
    return [os.path.abspath(started_as), *words]


def absolute_command() -> list[str]:
    """Return the command of this very program for one that starts it elsewhere.

    A checkout, from which Python runs it in the working directory, is named.
    """
    started_as = os.path.abspath(sys.argv[0])
    if os.path.basename(started_as) != "__main__.py":
        return [started_as]
    above = os.path.dirname(os.path.dirname(started_as))
    command = [sys.executable, "-m", __package__.partition(".")[0]]
    if os.path.basename(above) in ("site-packages", "dist-packages"):
        return command
    return ["/usr/bin/env", f"PYTHONPATH={above}", *command]


def sudo_line(words: Sequence[str]) -> str:
    """Return the line that runs this again as root."""
    return shlex.join(["sudo", *command_line(words)])


def become_root(words: Sequence[str]) -> None:
    """Run again through sudo, which may ask for a password; as root, do nothing.

    The ssh agent stays known, so that logins work as they do without sudo, and so does
    the directory of the history, if another one is named.

    :raises CommandNotStarted: if there is no sudo.
    """
    if os.geteuid() != 0:
        kept = ",".join([_KEPT[0], *(n for n in _KEPT[1:] if n in os.environ)])
        replace_by(["sudo", f"--preserve-env={kept}", "--", *command_line(words)])
