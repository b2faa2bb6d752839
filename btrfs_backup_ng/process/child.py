"""Every process we start: its environment, its outputs, its end."""

import contextlib
import ctypes
import logging
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Self

from btrfs_backup_ng.__util__ import GIB, KIB, MIB, Interrupted, visible
from btrfs_backup_ng.process.command import (
    Command,
    CommandFailed,
    CommandNotFound,
    CommandNotStarted,
    Completed,
    ContactLost,
    TimedOut,
    environment,
    identity,
    last_words,
    read_status,
)
from btrfs_backup_ng.process.poller import TICK_S, Loop, Tail, widen
from btrfs_backup_ng.process.silence import Silence
from btrfs_backup_ng.wire import protocol

log = logging.getLogger(__name__)

DEVNULL = subprocess.DEVNULL
PIPE = subprocess.PIPE

#: Longest line that is waited for.
_LINE = 4 * KIB
#: So much a command may say on stderr, of which only the end is kept.
WORDS_AT_MOST = GIB
#: A process told to end (SIGTERM) gets this long before SIGKILL.
END_GRACE_S = 2.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_prctl = ctypes.CDLL(None, use_errno=True).prctl
_prctl.argtypes = (ctypes.c_int,) + 4 * (ctypes.c_ulong,)

_interrupted: int | None = None
_live: set["Child"] = set()


def interrupt(signal_number: int) -> None:
    """End all children and start no more; for the handler of a signal.

    The first signal is the one remembered. The children get SIGTERM here, and
    SIGKILL after :data:`END_GRACE_S` from whoever waits for them. Takes only
    locks that its own thread may hold, and writes nothing.
    """
    global _interrupted
    _interrupted = _interrupted or signal_number
    for child in list(_live):
        child.terminate()


def interrupted() -> int | None:
    """Return the signal that told us to end, if one did."""
    return _interrupted


def check_interrupted() -> None:
    """Go on only if no signal told us to end.

    :raises Interrupted: if one did.
    """
    if _interrupted is not None:
        raise Interrupted(_interrupted)


@contextlib.contextmanager
def last_steps() -> Iterator[None]:
    """Let processes start even after a signal: to unmount, to put back."""
    global _interrupted
    remembered, _interrupted = _interrupted, None
    try:
        yield
    finally:
        _interrupted = remembered or _interrupted


def end_all() -> None:
    """Kill every live child and its group, at once; the last resort."""
    for child in list(_live):
        child.send(signal.SIGKILL)


class Child:
    """One running process, and on leaving the context none.

    It dies with us even if we are killed (``PR_SET_PDEATHSIG``, SIGKILL). The
    kernel sends that signal when the *thread* that started the child ends, so
    that thread has to outlive it. A program that changes its user (sudo) clears it;
    such a one ends by its pipes. What a child leaves behind in its process group
    is killed before the child is reaped, while the group's number is surely ours.

    Whoever makes one directly drains ``stderr`` (a :class:`Loop` does), as a full
    pipe would stop the child. :meth:`start` does it in a thread.

    :ivar stdin: a file to write to, if ``PIPE`` was asked for; so ``stdout``.
    :ivar words: what came on stderr so far, its end.
    """

    def __init__(
        self, command: Command, *, stdin: int = DEVNULL, stdout: int = DEVNULL
    ) -> None:
        """Start it.

        :param stdin: a descriptor, ``PIPE`` or ``DEVNULL``, as in subprocess.
        :raises CommandNotStarted: if the kernel will not.
        :raises Interrupted: if a signal told us to end.
        """
        check_interrupted()
        log.debug("+ %s", command)
        self.command = command
        self.words = Tail(protocol.WORKING)
        self._silence = Silence(command.patience)
        self._guard = threading.RLock()  # a signal's handler may come in between
        self._reaped = False
        self._drainer: threading.Thread | None = None
        self._room = contextlib.ExitStack()
        self._room.enter_context(command.room)
        try:
            self._process, self.pidfd = _spawn(command, stdin, stdout)
        except BaseException:
            self._room.close()
            raise
        self.pid = self._process.pid
        self.stdin: IO[bytes] | None = self._process.stdin
        self.stdout: IO[bytes] | None = self._process.stdout
        assert self._process.stderr
        self.stderr: IO[bytes] = self._process.stderr
        _live.add(self)
        if _interrupted is not None:  # while it was starting
            end_together([self])
            check_interrupted()

    @classmethod
    def start(
        cls, command: Command, *, stdin: int = DEVNULL, stdout: int = DEVNULL
    ) -> Self:
        """Start a long-lived child whose stderr a thread of its own drains.

        :raises CommandNotStarted: if the kernel will not.
        """
        child = cls(command, stdin=stdin, stdout=stdout)
        child._drainer = threading.Thread(target=child._drain, daemon=True)
        child._drainer.start()
        return child

    def _drain(self) -> None:
        loop = Loop()
        self.attend(loop)
        while self.peek() is None:
            loop.step(TICK_S)
        loop.linger()

    def attend(self, loop: Loop, at_end: Callable[[], None] = lambda: None) -> None:
        """Let a loop drain its stderr, and call once when it has ended."""

        def end() -> None:
            loop.off(self.pidfd)
            at_end()

        loop.on(self.pidfd, select.POLLIN, end)
        loop.drain(self.stderr, self.words.add)

    def stderr_tail(self) -> str:
        """Return the end of what it wrote to stderr so far."""
        return bytes(self.words).decode("utf-8", "surrogateescape")

    def peek(self, *, ended: bool = False) -> int | None:
        """Return the status of an ended child without reaping it, else ``None``.

        255 if the status is lost, as it is with SIGCHLD ignored.
        :param ended: it has ended, so wait for whoever traces it to let it go.
        """
        if self._reaped:
            return self._process.returncode
        options = os.WEXITED | os.WNOWAIT | (0 if ended else os.WNOHANG)
        try:
            result = os.waitid(os.P_PID, self.pid, options)
        except ChildProcessError:
            return 255
        if result is None:
            return None
        exited = result.si_code == os.CLD_EXITED
        return result.si_status if exited else -result.si_status

    def poll(self) -> int | None:
        """Return its status if it has ended, and reap it then."""
        return None if self.peek() is None else self.reap()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for its end; give its status, or ``None`` if it runs on.

        :raises Interrupted: if a signal told us to end, unless it ended well.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while self.peek() is None:
            check_interrupted()
            left = TICK_S if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return None
            self.sleep(min(left, TICK_S))
        if status := self.reap():
            check_interrupted()
        return status

    def read(self, size: int, over: threading.Event | None = None) -> bytes:
        """Return what comes next on its stdout, once something does; none at its end.

        :param over: nobody wants to know any more: none, then.
        :raises TimedOut: if it tries the patience that its command has.
        :raises Interrupted: if a signal told us to end.
        """
        assert self.stdout
        waiter = select.poll()
        waiter.register(self.stdout, select.POLLIN)
        self._silence.begin()
        while not waiter.poll(TICK_S * 1000):
            check_interrupted()
            if over and over.is_set():
                return b""
            self.be_patient()
        return os.read(self.stdout.fileno(), size)

    def read_line(self) -> bytes:
        """Return the next line without its end; what follows stays in the pipe.

        Of a line that is too long, the beginning is given; of one that is cut, what
        there is. Raises what :meth:`read` does.
        """
        line = b""
        while len(line) < _LINE and (byte := self.read(1)) not in (b"", b"\n"):
            line += byte
        return line

    def read_rest(self, size: int) -> bytes:
        """Return what still comes, of more than this size the beginning.

        Raises what :meth:`read` does.
        """
        said = b""
        while len(said) < size and (block := self.read(size - len(said))):
            said += block
        return said

    def be_patient(self, heard: int = 0) -> None:
        """Go on only if it does not try the patience that its command has.

        :param heard: a number that is another one once something came, beside what it
            says on stderr.
        :raises TimedOut: if it does.
        """
        tried = self._silence.too_long(heard + self.words.added)
        if self.words.added > WORDS_AT_MOST:
            tried = f"wrote more than {WORDS_AT_MOST} bytes to stderr"
        if tried:
            hint = self.command.patience.hint
            raise self.failure(TimedOut, f"{tried}, so it was ended", hint)

    def failure(
        self, kind: type[CommandFailed], what: str, hint: str = ""
    ) -> CommandFailed:
        """Say what it did, and what it said last.

        :param what: words that go on behind its name.
        """
        said = Completed(self.command, None, b"", self.stderr_tail())
        words = last_words(said.stderr)
        text = f"{visible(self.command.label)} {what}" + (f": {words}" if words else "")
        error = kind(said, text)
        error.hint = hint
        return error

    def finish(self) -> int:
        """Wait for its end, and give its status.

        :raises TimedOut: if it tries the patience that its command has.
        :raises Interrupted: if a signal told us to end, unless it ended well.
        """
        self._silence.begin()
        while (status := self.wait(TICK_S)) is None:
            self.be_patient()
        return status

    def sleep(self, seconds: float) -> None:
        """Sleep until it ends, at most so long."""
        waiter = select.poll()
        waiter.register(self.pidfd, select.POLLIN)
        waiter.poll(seconds * 1000)

    def send(self, signal_number: int) -> None:
        """Send a signal to its group, if it was not reaped yet."""
        with self._guard:
            if self._reaped:
                return
            kill = os.kill if self.command.terminal else os.killpg
            # PermissionError: it runs as another user (sudo) and ends by its pipes.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(self.pid, signal_number)

    def terminate(self) -> None:
        """Ask its group to end, also if it is stopped."""
        self.send(signal.SIGTERM)
        self.send(signal.SIGCONT)

    def reap(self) -> int:
        """Kill what an ended child left behind, take its status, close its files."""
        if self._drainer and self._drainer is not threading.current_thread():
            self._drainer.join()
        with self._guard:
            if not self._reaped:
                status = self.peek(ended=True)
                self.send(signal.SIGKILL)
                self._reaped = True
                self._process.wait()
                self._process.returncode = status
                _live.discard(self)
                self.close_pipes()
                self.stderr.close()
                os.close(self.pidfd)
                self._room.close()
        return self._process.returncode

    def close_pipes(self) -> None:
        """Close our ends of its stdin and stdout, which ends what it writes to us."""
        for file in (self.stdin, self.stdout):
            if file:
                file.close()

    def end(self) -> None:
        """End it: SIGTERM, after two seconds SIGKILL; and reap it."""
        end_together([self])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def _spawn(
    command: Command, stdin: int, stdout: int
) -> tuple[subprocess.Popen[bytes], int]:
    try:
        process = subprocess.Popen(
            command.argv,
            bufsize=0,
            stdin=stdin,
            stdout=stdout,
            stderr=PIPE,
            env=environment(command),
            process_group=None if command.terminal else 0,
            preexec_fn=_tied_to(os.getpid()),
            **identity(command),
        )
    except FileNotFoundError as error:
        raise CommandNotFound(command) from error
    except OSError as error:
        raise CommandNotStarted(command, str(error.strerror)) from error
    except ValueError as error:  # a NUL, or a character the locale cannot encode
        raise CommandNotStarted(command, str(error)) from error
    try:
        return process, os.pidfd_open(process.pid)
    except OSError as error:
        process.kill()
        process.communicate()
        raise CommandNotStarted(command, str(error.strerror)) from error


def replace_by(argv: Sequence[str]) -> None:
    """Become another program; returns only if that cannot be started.

    :raises BackupError: then.
    """
    try:
        os.execvp(argv[0], list(argv))
    except OSError as error:
        command = Command(tuple(argv), label=argv[0])
        raise CommandNotStarted(command, str(error.strerror)) from error


def _tied_to(parent: int) -> Callable[[], None]:
    """Make what runs between fork and exec: prctl(2), and its race with our end."""

    def tie() -> None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(137)

    return tie


def end_together(children: Iterable[Child]) -> None:
    """End several children: SIGTERM to all, after two seconds SIGKILL; reap them.

    What even SIGKILL does not reach (another user's, stuck in the kernel) is
    named in a warning and left behind after another two seconds.
    """
    children = list(children)
    for child in children:
        child.terminate()
        child.close_pipes()
    for last in (False, True):
        deadline = time.monotonic() + END_GRACE_S
        for child in children:
            while child.peek() is None and time.monotonic() < deadline:
                child.sleep(deadline - time.monotonic())
            if child.peek() is None and not last:
                child.send(signal.SIGKILL)
    for child in children:
        if child.poll() is None:
            label = child.command.label
            log.warning("%s (process %d) could not be ended", label, child.pid)


def run(
    command: Command,
    *,
    stdin: bytes = b"",
    check: bool = True,
    output_limit: int = 64 * MIB,
) -> Completed:
    """Run a command to its end and give what it said.

    :param stdin: what it reads; if empty it reads ``/dev/null``.
    :param check: raise if the status is not 0. Without it the result tells.
    :raises CommandFailed: if it failed, or wrote more than ``output_limit`` bytes.
    :raises ContactLost: if its status line did not come.
    :raises TimedOut: if it was ended since it tried the patience that it has.
    :raises Interrupted: if it failed after a signal told us to end.
    """
    child = Child(command, stdin=PIPE if stdin else DEVNULL, stdout=PIPE)
    output = bytearray()

    def keep(data: bytes) -> None:
        output.extend(data)
        if len(output) > output_limit:
            raise child.failure(CommandFailed, f"wrote more than {output_limit} bytes")

    with child:
        loop = Loop()
        if child.stdin:
            loop.feed(child.stdin, stdin)
        assert child.stdout
        widen(child.stdout.fileno())
        loop.drain(child.stdout, keep)
        child.attend(loop)
        while child.peek() is None:
            check_interrupted()
            child.be_patient(loop.moved_bytes)
            loop.step(TICK_S)
        if not loop.linger():
            what = "left something behind that writes on and on"
            raise child.failure(CommandFailed, what)
        status, stderr = read_status(command, child.reap(), bytes(child.words))
    completed = Completed(command, status, bytes(output), stderr)
    if status != 0:
        check_interrupted()
    if check and status is None:
        raise ContactLost(completed)
    if check and status:
        raise CommandFailed(completed)
    return completed
