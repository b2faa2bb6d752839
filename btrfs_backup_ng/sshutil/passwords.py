"""The sources of a password: a file, a systemd credential, the terminal.

A password is bytes in memory and in pipes; never a word of a command, never in an
environment, a log or a file that the program writes.
"""

import contextlib
import os
import shlex
import stat
import sys
import termios
import threading
from select import select

from btrfs_backup_ng.__util__ import BackupError, UsageError, visible
from btrfs_backup_ng.process.interruption import check_interrupted

#: Longer than any password, and a pipe takes it in one piece (pipe(7)).
_LONGEST = 1024
_one_question_at_a_time = threading.Lock()


def find_password_file(path: str, credential: str) -> str:
    """Return the file that the user named, else systemd's credential, or "".

    :param credential: as in ``LoadCredential=NAME:PATH`` of systemd.exec(5).
    """
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    offered = os.path.join(directory, credential) if directory else ""
    return path or (offered if os.path.exists(offered) else "")


def read_password(path: str) -> bytes:
    """Return the first line of a file that only its owner may read.

    :raises UsageError: if it is not a password, or others may read the file.
    """
    name = visible(path)
    try:
        with open(path, "rb", opener=_open_quietly) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(f"the password file {name} is not a regular file")
            is_ours = _is_ours(status.st_uid)
            if status.st_mode & _forbidden(path) or not is_ours:
                why = (
                    "is accessible to others" if is_ours else "belongs to another user"
                )
                way = "chmod 600" if is_ours else "chown root"
                raise UsageError(
                    f"the password file {name} {why}",
                    hint=f"Run:  {way} {visible(shlex.quote(path))}",
                )
            line = file.read(_LONGEST).partition(b"\n")[0]
    except OSError as error:
        reason = error.strerror
        raise UsageError(f"cannot read the password file {name}: {reason}") from error
    if not line or b"\0" in line or len(line) == _LONGEST:
        raise UsageError(f"the first line of {name} is not a password")
    return line


def _is_ours(uid: int) -> bool:
    """Return whether an owner is root, the program's user, or the caller of sudo."""
    caller = os.environ.get("SUDO_UID", "") if os.geteuid() == 0 else ""
    return uid in (0, os.geteuid()) or str(uid) == caller


def _forbidden(path: str) -> int:
    """Return the mode bits that a password file must not have.

    systemd lets the user of a service read a credential by an ACL, whose mask shows
    in the bits of the group: acl(5).
    """
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    return 0o007 if directory and os.path.dirname(path) == directory else 0o077


def _open_quietly(path: str, flags: int) -> int:
    """Open a file without waiting for the other end of a pipe."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def has_terminal() -> bool:
    """Return whether the user can be asked at a terminal."""
    return sys.stdin is not None and sys.stdin.isatty()


def ask(question: str) -> bytes:
    """Return the user's answer to a question at the terminal, which is not shown.

    :raises BackupError: without a terminal or an answer.
    :raises Interrupted: if a signal ends the program.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_one_question_at_a_time)
        try:
            terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
            stack.callback(os.close, terminal)
            before = termios.tcgetattr(terminal)
        except (OSError, termios.error) as error:
            raise BackupError("no terminal to ask for a password") from error
        silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
        stack.callback(termios.tcsetattr, terminal, termios.TCSAFLUSH, before)
        termios.tcsetattr(terminal, termios.TCSAFLUSH, silent)
        os.write(terminal, question.encode(errors="replace"))
        stack.callback(os.write, terminal, b"\n")
        while not select([terminal], [], [], 0.1)[0]:
            check_interrupted()
        answer = os.read(terminal, _LONGEST).rstrip(b"\r\n")
    if not answer:
        raise BackupError("no password was entered")
    return answer
