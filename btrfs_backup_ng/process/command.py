"""What a command is: its words, its environment, and which status counts."""

import os
import pwd
import re
import shlex
import shutil
import signal
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from btrfs_backup_ng.__util__ import BackupError, visible
from btrfs_backup_ng.wire import protocol

#: However often it says so, an answer has to be complete after so long. Deleting, and
#: waiting for the space of what was deleted, take hours at worst.
LONGEST_S = 86400.0
#: A limit on silence is never shorter: between two lines that say that a verb works,
#: and while a busy disk takes what was written, an honest one is silent.
LEAST_S = 15.0
_KEPT_VARIABLES = re.compile(
    "HOME|USER|LOGNAME|TERM|DISPLAY|WAYLAND_DISPLAY|TMPDIR|XDG_RUNTIME_DIR"
    "|XDG_CONFIG_HOME|SSH_AUTH_SOCK|SSH_ASKPASS.*|SUDO_.*|GNUPGHOME|KRB5CCNAME"
    "|RCLONE_.*|AWS_.*|(https?|no|all)_proxy|(HTTPS?|NO|ALL)_PROXY"
)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a command may take, if it is no stage of a pipeline.

    :ivar silence_s: it is ended if no byte comes from it for so long; 0: never.
    :ivar longest_s: it is ended if its answer is not complete after so long; 0: never.
    :ivar hint: what to do about a command that was ended for its silence.
    """

    silence_s: float = 0.0
    longest_s: float = 0.0
    hint: str = ""


def patience(limit_s: float, hint: str) -> Patience:
    """Return the patience with a verb.

    :param limit_s: as the user wishes it; 0 for no limit.
    """
    if not limit_s:
        return Patience()
    return Patience(max(limit_s, LEAST_S), LONGEST_S, hint)


@dataclass(frozen=True, slots=True)
class Command:
    """What to run, and how to speak of it.

    :ivar label: who is blamed, for people: ``btrfs receive on nas``.
    :ivar reports: the status that it reports on stderr (``wire/protocol``) counts
        instead of that of, say, an ssh client: see :func:`read_status`.
    :ivar counts: it reports on stderr how much it has written so far.
    :ivar terminal: it stays in our process group, so that it may ask at the
        terminal (``/dev/tty``). The others get a group of their own.
    :ivar user: name of the user it runs as, if we are root; else and by default ours.
    :ivar variables: ``NAME, value`` beyond :func:`environment`; never a secret.
    :ivar room: entered while it runs: waits where only so many may run at once.
    :ivar patience: how long it may be silent, as the only stage.
    """

    argv: tuple[str, ...]
    label: str
    reports: bool = False
    counts: bool = False
    terminal: bool = False
    user: str = ""
    variables: tuple[tuple[str, str], ...] = ()
    room: AbstractContextManager[object] = nullcontext()
    patience: Patience = Patience()

    def __str__(self) -> str:
        """Return a line that can be pasted into a shell."""
        return shlex.join(self.argv)


@dataclass(frozen=True, slots=True)
class Completed:
    """How a command ended.

    :ivar status: its exit status, negative for a signal; ``None`` if unknown.
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
    """A command ran and ended with something else than success."""

    def __init__(self, completed: Completed, message: str = "") -> None:
        super().__init__(message or describe(completed))
        self.completed = completed


class ContactLost(CommandFailed):
    """A command that reports its status did not: the outcome is unknown."""


class TimedOut(CommandFailed):
    """We ended a command since it was silent for too long, or took too long."""


#: What a shell adds to the number of the signal that ended a command.
_SHELL_SIGNAL = 128
#: ``btrfs receive -C`` says so even with ``-q``.
_SAID_ANYWAY = "Chroot to "


def describe(completed: Completed) -> str:
    """Say in one line how a command ended and what it said last."""
    status = completed.status
    if status is None:
        how = ": the connection ended before it said how it went"
    elif status < 0:
        how = f" was killed by {_signal_name(-status)}"
    elif completed.command.reports and status > _SHELL_SIGNAL:
        how = f" was killed by {_signal_name(status - _SHELL_SIGNAL)}"
    else:
        how = f" failed with status {status}"
    words = last_words(completed.stderr)
    return f"{visible(completed.command.label)}{how}" + (f": {words}" if words else "")


def last_words(stderr: str) -> str:
    """Pick the last three lines, or the last that btrfs marks as errors."""
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

    Status 255 of an ssh client may mean anything from "no route" to "the remote
    command said so"; only the line tells. A client that failed though the line says 0
    failed.

    :returns: status ``None`` if a line was due and did not come.
    """
    stderr = protocol.without_counts(stderr)
    if not command.reports:
        return status, stderr.decode("utf-8", "surrogateescape")
    reported, stderr = protocol.split_status(stderr)
    text = stderr.decode("utf-8", "surrogateescape")
    return reported if reported is None else reported or status, text


def environment(command: Command | None = None) -> dict[str, str]:
    """Build what every child gets: chosen variables, a full PATH, ``LC_ALL=C``.

    Relative and empty elements of ``PATH`` (they mean the current directory) are
    dropped; the ``sbin`` directories, which a user's ``PATH`` may lack, are added.
    """
    built = {k: v for k, v in os.environ.items() if _KEPT_VARIABLES.fullmatch(k)}
    path = os.environ.get("PATH", os.defpath).split(":")
    path += ["/usr/local/sbin", "/usr/sbin", "/sbin"]
    built["PATH"] = ":".join(dict.fromkeys(p for p in path if p.startswith("/")))
    built["LC_ALL"] = "C"
    if command and (entry := _other_user(command)):
        built |= {"HOME": entry.pw_dir, "USER": command.user, "LOGNAME": command.user}
    return built | dict(command.variables if command else ())


def identity(command: Command) -> dict[str, Any]:
    """Return what makes ``subprocess.Popen`` run a command as its user."""
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


def find_program(name: str) -> str | None:
    """Return the path of an installed program, or ``None``."""
    return shutil.which(name, path=environment()["PATH"])
