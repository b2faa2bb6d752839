"""Commands: argv, environment, patience, and the status that counts."""

import os
import pwd
import shlex
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from btrfs_backup_ng.__util__ import BackupError, visible
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.wire import protocol

#: Limit on the time until an answer is complete, however often a verb says that it
#: works. Deleting, and waiting for the space of deleted subvolumes, take hours at
#: worst.
LONGEST_S = 86400.0
#: Least limit on silence. A working verb is silent between two lines that say so, and
#: while a busy disk writes.
LEAST_S = 15.0
#: Environment variables that children get; and how further ones begin.
_KEPT_VARIABLES = frozenset(
    "HOME USER LOGNAME TERM DISPLAY WAYLAND_DISPLAY TMPDIR XDG_RUNTIME_DIR"
    " XDG_CONFIG_HOME SSH_AUTH_SOCK GNUPGHOME KRB5CCNAME http_proxy https_proxy"
    " no_proxy all_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY ALL_PROXY".split()
)
_KEPT_BEGINNINGS = ("SSH_ASKPASS", "SUDO_", "RCLONE_", "AWS_")


class Patience(Value):
    """How long a command may take, unless it is a stage of a pipeline.

    :ivar silence_s: limit on the time without a byte from it; 0 for no limit.
    :ivar longest_s: limit on the time until its answer is complete; 0 for no limit.
    :ivar hint: for a command that was ended for its silence.
    """

    silence_s: float = 0.0
    longest_s: float = 0.0
    hint: str = ""


def patience(limit_s: float, hint: str) -> Patience:
    """Return the patience with a verb.

    :param limit_s: the user's limit; 0 for no limit.
    """
    if not limit_s:
        return Patience()
    return Patience(max(limit_s, LEAST_S), LONGEST_S, hint)


class Command(Value):
    """A command, and its name in messages.

    :ivar label: names it in messages: ``btrfs receive on nas``.
    :ivar reports: the status that it reports on stderr (``wire/protocol``) counts
        instead of that of, say, an ssh client: see :func:`read_status`.
    :ivar counts: it reports on stderr how much it has written so far.
    :ivar is_counted: it is one process that writes nothing but its stream, so the
        kernel's count of the bytes that it wrote is the size of that.
    :ivar terminal: it stays in the program's process group, so that it may ask at the
        terminal (``/dev/tty``). The others get a group of their own.
    :ivar user: name of the user to run as, if the program is root.
    :ivar variables: ``NAME, value`` beyond :func:`environment`; never a secret.
    :ivar room: entered while it runs; waits if only so many may run at once.
    :ivar patience: as the only stage.
    :ivar ends_by_pipes: if the program is killed, it ends because its pipes do. Then it
        is started without a copy of the program's memory map, at a third of the cost.
    :ivar directory: enters the directory to run in, as a descriptor that the process
        inherits.
    :ivar answer: returns what it would print; called after its success.
    """

    argv: tuple[str, ...]
    label: str
    reports: bool = False
    counts: bool = False
    is_counted: bool = False
    terminal: bool = False
    user: str = ""
    variables: tuple[tuple[str, str], ...] = ()
    room: AbstractContextManager[object] = nullcontext()
    patience: Patience = Patience()
    ends_by_pipes: bool = False
    directory: Callable[[], AbstractContextManager[int]] | None = None
    answer: Callable[[], bytes] | None = None

    def __str__(self) -> str:
        """Return a line that can be pasted into a shell."""
        return shlex.join(self.argv)


class Completed(Value):
    """How a command ended.

    :ivar status: its exit status, negative for a signal; None if unknown.
    :ivar stderr: the end of it (64 KiB), without the status line.
    """

    command: Command
    status: int | None
    stdout: bytes
    stderr: str


class CommandNotStarted(BackupError):
    """The kernel would not start a command."""

    def __init__(self, command: Command, reason: str) -> None:
        super().__init__(f"cannot run {visible(command.argv[0])}: {reason}")
        self.command = command


class CommandNotFound(CommandNotStarted):
    """The program of a command is not installed, or not in ``PATH``."""

    def __init__(self, command: Command) -> None:
        absolute = command.argv[0].startswith("/")
        super().__init__(command, "no such file" if absolute else "not found in PATH")


class CommandFailed(BackupError):
    """A command ran, and its status is not 0."""

    def __init__(self, completed: Completed, message: str = "") -> None:
        super().__init__(message or describe(completed))
        self.completed = completed


class ContactLost(CommandFailed):
    """A command did not report its status: the outcome is unknown."""


class TimedOut(CommandFailed):
    """A command was ended because it was silent for too long, or took too long."""


#: A shell adds this to the number of the signal that ended a command.
_SHELL_SIGNAL = 128
#: ``btrfs receive -C`` prints it even with ``-q``.
_SAID_ANYWAY = "Chroot to "


def describe(completed: Completed) -> str:
    status = completed.status
    if status is None:
        how = ": the connection was lost before it finished"
    elif status < 0:
        how = f" was killed by {_signal_name(-status)}"
    elif completed.command.reports and status > _SHELL_SIGNAL:
        how = f" was killed by {_signal_name(status - _SHELL_SIGNAL)}"
    else:
        how = f" failed with status {status}"
    return blame(completed, how)


def blame(completed: Completed, how: str) -> str:
    """Return a command's name, the text ``how`` it ended, and its last words."""
    words = last_words(completed.stderr)
    return f"{visible(completed.command.label)}{how}" + (f": {words}" if words else "")


def last_words(stderr: str) -> str:
    """Return the last three lines, or of those that btrfs marks as errors."""
    lines = [line.strip() for line in stderr.splitlines()]
    lines = [line for line in lines if line and not line.startswith(_SAID_ANYWAY)]
    lines = [line for line in lines if line.startswith("ERROR:")] or lines
    return "; ".join(visible(line)[:400] for line in lines[-3:])


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def read_status(command: Command, status: int, stderr: bytes) -> tuple[int | None, str]:
    """Return the status that counts, and the stderr without the lines that report.

    Status 255 of an ssh client may come from itself or from the remote command; only
    the line decides. If the client failed and the line says 0, the command failed.

    :returns: status None if the line is missing.
    """
    stderr = protocol.without_counts(stderr)
    if not command.reports:
        return status, stderr.decode("utf-8", "surrogateescape")
    reported, stderr = protocol.split_status(stderr)
    text = stderr.decode("utf-8", "surrogateescape")
    return reported if reported is None else reported or status, text


def environment(command: Command | None = None) -> dict[str, str]:
    """Return the environment of a child: chosen variables, a full PATH, ``LC_ALL=C``.

    Relative and empty elements of ``PATH`` (the current directory) are dropped; the
    ``sbin`` directories, which a user's ``PATH`` may lack, are added.
    """
    built = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT_VARIABLES or name.startswith(_KEPT_BEGINNINGS)
    }
    path = os.environ.get("PATH", os.defpath).split(":")
    path += ["/usr/local/sbin", "/usr/sbin", "/sbin"]
    built["PATH"] = ":".join(dict.fromkeys(p for p in path if p.startswith("/")))
    built["LC_ALL"] = "C"
    if command and (entry := _other_user(command)):
        built |= {"HOME": entry.pw_dir, "USER": command.user, "LOGNAME": command.user}
    return built | dict(command.variables if command else ())


def identity(command: Command) -> dict[str, Any]:
    """Return the arguments of ``subprocess.Popen`` that run a command as its user."""
    if entry := _other_user(command):
        groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": groups}
    return {}


def _other_user(command: Command) -> pwd.struct_passwd | None:
    if not command.user or os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(command.user)
    except KeyError as error:
        raise CommandNotStarted(command, f"no user {command.user}") from error


def find_program(name: str, path: str = "") -> str | None:
    """Return the path of an installed program, or None.

    :param path: to look in, instead of a child's ``PATH``.
    """
    for directory in (path or environment()["PATH"]).split(":"):
        found = os.path.join(directory, name)
        if os.path.isfile(found) and os.access(found, os.X_OK):
            return found
    return None
