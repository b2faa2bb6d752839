"""The one ssh connection to a host that all sessions of a run share.

``sshutil/login`` decides on the user, keys, agent, files and ciphers. Under sudo, ssh
runs as the user who called sudo, so that all of theirs is found as usual and nothing of
it acts for root; root's own keys come after that. This module opens the connection and
lends it out: at most eight sessions at once, a lost one opened again once, or as often
as ``--retries`` says, and only before a place is looked at and locked (``ensure``).
Slaves never connect by themselves. ``host/ssh`` runs verbs in its sessions: those with
a stream in one of their own, all others one after another in the same (``control``).

Passwords come from ``sshutil/passwords`` (file, systemd credential, terminal) and
travel through pipes alone. ssh gets its one through an askpass that reads a pipe in the
private directory of the connection. sudo's on the other side is kept in memory by a
session of its own (``keep``, ``elevate``), which passes it to each session that is to
run as root, through a pipe that only that user can open: sudo remembers a password only
for the commands of the same shell, and the standard input belongs to a stream.

A lock on the host keeps a session, too. It ends 30 s after the last sign of life of its
holder, as the other side may never notice a lost connection. A run that finds the lock
taken watches whether the holder still gives signs of life, and waits if not.

A verb is ended if no byte comes for ``--stall-timeout``, 15 s at least
(``command.Patience``, ``silence``), also on this machine, since it would hold the run's
locks. A verb that takes long prints ``working`` on stderr every few seconds; that is
never shown, and counts for a day. Answers have limits as well: 64 MiB, of stderr the
last 64 KiB, and a length for each record that is read as it comes. A stream may take
any time as long as something moves; once the receiver has reported that it took all, it
has to report that it works. ``--max-size`` limits its length.

A stream is compressed (``route``, ``codecs``) by the verb ``send`` or a stage here, and
decompressed by a stage here or the verb ``receive``; whether that pays is tried on its
first 64 MiB and on the connection (``probe``).
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from btrfs_backup_ng.__util__ import BackupError, Interrupted, read_packaged, visible
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import SshOptions
from btrfs_backup_ng.core.value import replace
from btrfs_backup_ng.process.child import Child
from btrfs_backup_ng.process.command import Command
from btrfs_backup_ng.process.interruption import check_interrupted
from btrfs_backup_ng.sshutil.login import Login, LoginAttempt
from btrfs_backup_ng.sshutil.passwords import read_password
from btrfs_backup_ng.sshutil.private import give_to, make_private_directory
from btrfs_backup_ng.sshutil.refusal import (
    ConnectionFailed,
    LoginRefused,
    describe_refusal,
    explain_failure,
)

__all__ = ["ConnectionFailed", "LoginRefused", "SSHMasterManager"]

log = logging.getLogger(__name__)

#: Sessions of one connection at once; sshd refuses the 11th (MaxSessions).
_SESSIONS = 8
#: Time for a login, however short --stall-timeout is: connecting alone may take 30 s
#: (ConnectTimeout); and a user who types a password needs time.
LOGIN_S, _ASKING_S = 45.0, 600.0
#: Held by the login that may ask at the terminal.
_TERMINAL = threading.Lock()
#: Interval of the looks at a master that is logging in.
_POLL_S = 0.02
#: The program by which ssh asks for a password: a file of this package.
_ASKPASS = "askpass.sh"


class Sessions:
    """A limit on the sessions at once; entering waits for room.

    :ivar room: the limit.
    :ivar used: sessions that are open, or about to open.
    :ivar lasting: of these, those that stay as long as a task: of a lock, and of the
        password for sudo.
    """

    def __init__(self, room: int = _SESSIONS) -> None:
        self.room = room
        self.used = self.lasting = 0
        self._changed = threading.Condition()

    @property
    def is_narrow(self) -> bool:
        """Return whether the server is known to allow fewer than usual."""
        return self.room < _SESSIONS

    @contextlib.contextmanager
    def one_lasting(self) -> Iterator[None]:
        """Count a session as one that stays as long as a task."""
        with self._changed:
            self.lasting += 1
        try:
            yield
        finally:
            with self._changed:
                self.lasting -= 1

    def narrow(self, least: int) -> bool:
        """Set the limit to the sessions that are open, as one more was refused.

        :param least: so many were open at once before.
        :returns: whether some will end while tasks go on, so that waiting helps.
        """
        with self._changed:
            self.room = min(self.room, max(self.used, least))
            return self.used > self.lasting

    def __enter__(self) -> None:
        self.enter()

    def enter(self, ends: int = 1) -> None:
        """Wait for room, but never for lasting sessions: they may be of the same task.

        :param ends: of one pipeline; it does not wait for itself, either.
        """
        with self._changed:
            while self.used >= max(self.room, self.lasting + ends):
                self._changed.wait(0.1)
                check_interrupted()
            self.used += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self.used -= 1
            self._changed.notify()


class SSHMasterManager:
    """A master connection, open as long as the context is.

    Slaves never open a connection of their own (``ProxyCommand=false``), so that a
    dead master is an error and not a second login. Only :meth:`ensure` opens a lost
    connection again, as often as the options say.

    :ivar prefers_aes: AES-GCM was put first, which is slow on a CPU without AES.
    :ivar user: ssh runs as this user; "": as the program's own user.
    :ivar sessions: to be entered by every session.
    """

    prefers_aes = False
    user = ""

    def __init__(self, location: Location, options: SshOptions) -> None:
        self._login = Login(location, options)
        self._connection: _Connection | None = None
        self._reopenings = options.reopenings
        self._guard = threading.Lock()
        self.sessions = Sessions()

    @property
    def name(self) -> str:
        """``[user@]host``, for people."""
        return self._login.name

    def __enter__(self) -> Self:
        """Log in.

        :raises LoginRefused: if the host refuses the login.
        :raises ConnectionFailed: for every other reason.
        :raises UsageError: if a password file or an agent cannot be used.
        """
        self._open(self._login.attempts())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection and remove its directory; may be repeated."""
        with self._guard:
            if self._connection:
                self._connection.close()

    @property
    def by_hand(self) -> str:
        """Return the words after ``ssh`` that a person would type."""
        return self._login.by_hand()

    @property
    def is_alive(self) -> bool:
        """Return whether the ssh of the connection runs."""
        return self._connection is not None and self._connection.is_alive

    def ensure(self) -> bool:
        """Open the connection again if it is lost, and return whether it was.

        To be called where nothing depends on the old one: no lock is held, no transfer
        under way. The user is not asked anything.

        :raises ConnectionFailed: if it was lost too often.
        """
        with self._guard:
            if self.is_alive or not self._connection:
                return False
            if self._reopenings == 0:
                raise ConnectionFailed(
                    f"the connection to {visible(self.name)} was lost again",
                    hint=f"Check whether it is stable:  ssh {self._login.by_hand()}",
                )
            if self._reopenings:
                self._reopenings -= 1
            log.warning("the connection to %s was lost; reconnecting", self.name)
            self._connection.close()
            self._open([LoginAttempt(self.user, asks=False)])
            return True

    def command(self, remote: str) -> tuple[str, ...]:
        """Return the argv that runs one string in the login shell of the host."""
        assert self._connection, "not open"
        return (
            *("ssh", "-S", self._connection.socket.replace("%", "%%")),
            *("-o", "ControlMaster=no", "-o", "ProxyCommand=false"),
            *("-o", "BatchMode=yes"),
            *self._login.arguments(),
            remote,
        )

    def _open(self, attempts: list[LoginAttempt]) -> None:
        if not any(map(self._try_in_turn, attempts)):
            raise describe_refusal(self._login, attempts)

    def _try_in_turn(self, attempt: LoginAttempt) -> bool:
        """Try to log in; only one login at a time may ask at the terminal.

        While another one may, which can take long, it is tried without a question.
        """
        if not attempt.asks:
            return self._try(attempt)
        if not _TERMINAL.acquire(blocking=False):
            if self._try(replace(attempt, asks=False)):
                return True
            _TERMINAL.acquire()
        try:
            return self._try(attempt)
        finally:
            _TERMINAL.release()

    def _try(self, attempt: LoginAttempt) -> bool:
        """Try to log in, and return whether the host let us in."""
        connection = _Connection(self._login, attempt)
        try:
            connection.open()
        except LoginRefused as error:
            log.info("%s: %s", self.name, error)
            return False
        self._connection = connection
        self.user = attempt.user
        self.prefers_aes = connection.prefers_aes
        return True


class _Connection:
    """A master process from its login to its end."""

    def __init__(self, login: Login, attempt: LoginAttempt) -> None:
        self._login = login
        self._attempt = attempt
        self._password = b""
        if login.password_file:
            self._password = read_password(login.password_file) + b"\n"
        ciphers = login.ciphers(attempt.user)
        self.prefers_aes = bool(ciphers)
        self._directory = make_private_directory(
            attempt.user, runs=bool(self._password)
        )
        self._master = self._command(ciphers)
        self._child: Child | None = None
        self._closing = threading.Event()
        self._opened = threading.Event()
        self._failure: BackupError | None = None
        # The kernel ends a child with the thread that started it, and tasks that
        # share this connection end one before the other.
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def socket(self) -> str:
        return os.path.join(self._directory.path, "s")

    @property
    def is_alive(self) -> bool:
        return self._child is not None and self._child.peek() is None

    def open(self) -> None:
        try:
            self._prepare_answer()
            self._thread.start()
            self._opened.wait()
            if self._failure:
                raise self._failure
            check_interrupted()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        self._directory.remove()

    def _serve(self) -> None:
        try:
            # A signal ends only this thread here: :meth:`open` raises, too.
            with contextlib.suppress(Interrupted), Child.start(self._master) as child:
                self._child = child
                self._wait_for_login(child)
                self._opened.set()
                while not self._closing.wait(0.5):
                    if child.peek() is not None:
                        return
        except BackupError as error:
            self._failure = error
        finally:
            self._opened.set()

    def _wait_for_login(self, child: Child) -> None:
        limit_s, waited_s = self._login.options.silence_s, 0.0
        if limit_s:
            limit_s = max(limit_s, _ASKING_S if self._attempt.asks else LOGIN_S)
        while not os.path.exists(self.socket):
            check_interrupted()
            if self._closing.is_set():
                return
            if child.peek() is not None:
                child.reap()
                raise explain_failure(child.stderr_tail(), self._login)
            if limit_s and waited_s > limit_s:
                raise ConnectionFailed(
                    f"the login to {visible(self._login.location.host)} did not finish"
                    f" within {limit_s:g} s",
                    hint=f"Try it by hand:  ssh {self._login.by_hand()} true",
                )
            self._answer()
            time.sleep(_POLL_S)
            waited_s += _POLL_S

    def _command(self, ciphers: list[str]) -> Command:
        variables = self._login.variables()
        asks = self._attempt.asks or bool(self._password)
        argv = [
            *("ssh", "-M", "-N", "-S", self.socket.replace("%", "%%")),
            *("-o", "ControlPersist=no", "-o", f"BatchMode={'no' if asks else 'yes'}"),
            *ciphers,
        ]
        if self._password:
            # One answer to each question: repeating a wrong one does not help.
            argv += ("-o", "NumberOfPasswordPrompts=1")
            path = os.path.join(self._directory.path, "askpass")
            display = os.environ.get("DISPLAY", "") or ":"
            variables += (("SSH_ASKPASS", path), ("SSH_ASKPASS_REQUIRE", "force"))
            variables += (("DISPLAY", display),)  # OpenSSH before 8.4
        return Command(
            (*argv, *self._login.arguments()),
            label=f"ssh to {visible(self._login.name)}",
            terminal=self._attempt.asks,
            user=self._attempt.user,
            variables=variables,
        )

    def _prepare_answer(self) -> None:
        """Make the program by which ssh asks, and the pipe with the answer."""
        if not self._password:
            return
        askpass, pipe = (
            os.path.join(self._directory.path, n) for n in ("askpass", "answer")
        )
        with open(askpass, "x", encoding="utf-8") as file:
            file.write(read_packaged(__package__, _ASKPASS))
        os.chmod(askpass, 0o700)
        os.mkfifo(pipe, 0o600)
        for path in (askpass, pipe):
            give_to(self._attempt.user, path)

    def _answer(self) -> None:
        """Write the password into the pipe if a process reads from it."""
        if not self._password:
            return
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        with contextlib.suppress(OSError):  # ENXIO: no reader
            pipe = os.open(os.path.join(self._directory.path, "answer"), flags)
            try:
                os.write(pipe, self._password)
            finally:
                os.close(pipe)
