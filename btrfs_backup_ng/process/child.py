"""Child processes: environment, outputs, signals, end."""

import contextlib
import ctypes
import logging
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import IO, Any, Protocol, Self

from btrfs_backup_ng.__util__ import GIB, KIB, MIB, BackupError, Interrupted
from btrfs_backup_ng.process.command import (
    Command,
    CommandFailed,
    CommandNotFound,
    CommandNotStarted,
    Completed,
    ContactLost,
    TimedOut,
    blame,
    environment,
    identity,
    read_status,
)
from btrfs_backup_ng.process.interruption import (
    check_interrupted,
    interrupted,
    live,
    signals_spared,
    sparing,
)
from btrfs_backup_ng.process.poller import TICK_S, Loop, Tail, widen
from btrfs_backup_ng.process.silence import Silence
from btrfs_backup_ng.wire import protocol

log = logging.getLogger(__name__)

DEVNULL = subprocess.DEVNULL
PIPE = subprocess.PIPE

_LINE = 4 * KIB
#: Limit on stderr, of which only the end is kept.
WORDS_AT_MOST = GIB
#: Time from SIGTERM to SIGKILL.
END_GRACE_S = 2.0
#: Longest sleep where only the end of a child matters.
_LONG_S = 3600.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_prctl = ctypes.CDLL(None, use_errno=True).prctl
_prctl.argtypes = (ctypes.c_int,) + 4 * (ctypes.c_ulong,)


class Child:
    """A running process, which ends with the context.

    It ends with the program, even if that is killed (``PR_SET_PDEATHSIG``, SIGKILL),
    unless it ends by its pipes. The kernel sends that signal when the *thread* that
    started the child ends, so that thread has to outlive it. A program that changes its
    user (sudo) clears it; such a child ends by its pipes. Processes that a child leaves
    in its process group are killed before the child is reaped, while the number of the
    group still is its own.

    With the constructor the caller drains ``stderr`` (a :class:`Loop` does), as a full
    pipe would stop the child, and has to outlive it; :meth:`start` has a thread that
    does both.

    :ivar stdin: a file to write to, if ``PIPE`` was asked for; so is ``stdout``.
    :ivar words: the end of its stderr so far.
    """

    def __init__(
        self, command: Command, *, stdin: int = DEVNULL, stdout: int = DEVNULL
    ) -> None:
        """Start it.

        :param stdin: a descriptor, ``PIPE`` or ``DEVNULL``, as in subprocess.
        :raises CommandNotStarted: if the kernel refuses.
        :raises Interrupted: if a signal interrupted the program.
        """
        check_interrupted()
        log.debug("+ %s", command)
        self.command = command
        self.words = Tail(protocol.WORKING)
        self.spared = signals_spared()
        self._silence = Silence(command.patience)
        self._guard = threading.RLock()  # a signal's handler may come in between
        self._reaped = False
        self._server: threading.Thread | None = None
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
        live.add(self)
        if interrupted() is not None:  # while it was starting
            end_together([self])
            check_interrupted()

    @classmethod
    def start(
        cls,
        command: Command,
        *,
        stdin: int = DEVNULL,
        stdout: int = DEVNULL,
        drains: bool = True,
    ) -> Self:
        """Start a child that may outlive the calling thread.

        :param drains: drain its stderr; else the caller does.
        :raises CommandNotStarted: if the kernel refuses.
        :raises Interrupted: if a signal interrupted the program.
        """
        started = threading.Event()
        spared = signals_spared()
        child: Self | None = None
        failure: BackupError | Interrupted | None = None

        def serve() -> None:
            nonlocal child, failure
            try:
                with sparing(spared):
                    child = cls(command, stdin=stdin, stdout=stdout)
                child._server = threading.current_thread()
            except (BackupError, Interrupted) as error:
                failure = error
                return
            finally:
                started.set()
            if drains:
                child._drain()
            while child.peek() is None:
                child.sleep(_LONG_S)

        threading.Thread(target=serve, daemon=True).start()
        started.wait()
        if failure:
            raise failure
        assert child
        return child

    def _drain(self) -> None:
        loop = Loop()
        self.attend(loop)
        while self.peek() is None:
            loop.step(TICK_S)
        loop.linger()

    def turn_to(self, command: Command) -> None:
        """Begin a request: with another name and patience, and no words so far."""
        self.command = command
        self.words = Tail(protocol.WORKING)
        self._silence = Silence(command.patience)

    def attend(self, loop: Loop, at_end: Callable[[], None] = lambda: None) -> None:
        """Let a loop drain its stderr, and call ``at_end`` when it has ended."""

        def end() -> None:
            loop.off(self.pidfd)
            at_end()

        loop.on(self.pidfd, select.POLLIN, end)
        loop.drain(self.stderr, self.words.add)

    def written_bytes(self) -> int:
        """Return how much it has written so far, also after its end; 0 if unknown."""
        try:
            with open(f"/proc/{self.pid}/io", encoding="ascii") as file:
                counts = dict(line.split(": ") for line in file)
        except OSError:
            return 0
        return int(counts["wchar"])  # proc_pid_io(5)

    def stderr_tail(self) -> str:
        return bytes(self.words).decode("utf-8", "surrogateescape")

    def peek(self, *, ended: bool = False) -> int | None:
        """Return the status of an ended child without reaping it, else None.

        255 if the status is lost, as it is with SIGCHLD ignored.
        :param ended: it has ended; wait until a tracer releases it.
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
        """Return its status and reap it, if it has ended."""
        return None if self.peek() is None else self.reap()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for its end; return its status, or None if it still runs.

        :raises Interrupted: if a signal interrupted the program, unless it ended well.
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
        """Wait for output on its stdout and return it; b"" at its end.

        :param over: when set, stop waiting and return b"".
        :raises TimedOut: if the patience of its command ends.
        :raises Interrupted: if a signal interrupted the program.
        """
        assert self.stdout
        waiter = select.poll()
        waiter.register(self.stdout, select.POLLIN)
        self._silence.begin()
        while not waiter.poll(TICK_S * 1000):
            check_interrupted()
            if over and over.is_set():
                return b""
            self.check_patience()
        return os.read(self.stdout.fileno(), size)

    def read_line(self) -> bytes:
        """Return the next line without its end; the rest stays in the pipe.

        A line that is too long, or is not complete, is returned as far as it was read.
        Raises like :meth:`read`.
        """
        line = b""
        while len(line) < _LINE and (byte := self.read(1)) not in (b"", b"\n"):
            line += byte
        return line

    def read_rest(self, size: int) -> bytes:
        """Return the rest of its output, at most so many bytes; see :meth:`read`."""
        said = b""
        while len(said) < size and (block := self.read(size - len(said))):
            said += block
        return said

    def check_patience(self, heard: int = 0) -> None:
        """Raise if the patience of its command ends.

        :param heard: a number that changes with each output, beside its stderr.
        :raises TimedOut: then.
        """
        did = self._silence.too_long(heard + self.words.added)
        if self.words.added > WORDS_AT_MOST:
            did = f"wrote more than {WORDS_AT_MOST} bytes to stderr"
        if did:
            hint = self.command.patience.hint
            raise self.failure(TimedOut, f"{did}, so it was stopped", hint)

    def failure(
        self, kind: type[CommandFailed], did: str, hint: str = ""
    ) -> CommandFailed:
        """Return the error for something it did, with its last words.

        :param did: the rest of the message, after its name.
        """
        completed = Completed(self.command, None, b"", self.stderr_tail())
        error = kind(completed, blame(completed, f" {did}"))
        error.hint = hint
        return error

    def finish(self) -> Completed:
        """Wait for its end.

        :returns: without its stdout.
        :raises TimedOut: if the patience of its command ends.
        :raises Interrupted: if a signal interrupted the program, unless it ended well.
        """
        self._silence.begin()
        while self.wait(TICK_S) is None:
            self.check_patience()
        return self.complete()

    def complete(self, stdout: bytes = b"") -> Completed:
        """Return how it ended, after its end."""
        status, stderr = read_status(self.command, self.reap(), bytes(self.words))
        return Completed(self.command, status, stdout, stderr)

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
        """Ask its group to end, even if it is stopped."""
        self.send(signal.SIGTERM)
        self.send(signal.SIGCONT)

    def reap(self) -> int:
        """Kill the rest of its group, take its status, close its files."""
        if self._server and self._server is not threading.current_thread():
            self._server.join()
        with self._guard:
            if not self._reaped:
                status = self.peek(ended=True)
                self.send(signal.SIGKILL)
                self._reaped = True
                self._process.wait()
                self._process.returncode = status
                live.discard(self)
                self.close_pipes()
                self.stderr.close()
                os.close(self.pidfd)
                self._room.close()
        return self._process.returncode

    def close_pipes(self) -> None:
        """Close the program's ends of its stdin and stdout, so that its writes fail."""
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
    place: dict[str, Any] = {}
    try:
        with contextlib.ExitStack() as stack:
            if command.directory:
                entered = stack.enter_context(command.directory())
                place["cwd"] = f"/proc/self/fd/{entered}"
                place["pass_fds"] = (entered,)
            process = subprocess.Popen(
                command.argv,
                bufsize=0,
                stdin=stdin,
                stdout=stdout,
                stderr=PIPE,
                env=environment(command),
                process_group=None if command.terminal else 0,
                preexec_fn=None if command.ends_by_pipes else _tied_to(os.getpid()),
                **place,
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
    """Replace the program by another one; returns only if that cannot be started.

    :raises BackupError: then.
    """
    try:
        os.execvp(argv[0], list(argv))
    except OSError as error:
        command = Command(tuple(argv), label=argv[0])
        raise CommandNotStarted(command, str(error.strerror)) from error


def _tied_to(parent: int) -> Callable[[], None]:
    """Return the function to call between fork and exec: prctl(2), without a race."""

    def tie() -> None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(137)

    return tie


class Ends(Protocol):
    """Something that runs, as far as :func:`end_together` needs it: see Child."""

    command: Command
    pid: int

    def terminate(self) -> None: ...

    def close_pipes(self) -> None: ...

    def send(self, signal_number: int) -> None: ...

    def peek(self) -> int | None: ...

    def poll(self) -> int | None: ...

    def sleep(self, seconds: float) -> None: ...


def end_together(children: Iterable[Ends]) -> None:
    """End several children: SIGTERM to all, after two seconds SIGKILL; reap them.

    A child that even SIGKILL does not end (of another user, stuck in the kernel) is
    left behind after another two seconds, with a warning.
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
            log.warning("%s (process %d) could not be stopped", label, child.pid)


def run(
    command: Command,
    *,
    stdin: bytes = b"",
    check: bool = True,
    output_limit: int = 64 * MIB,
) -> Completed:
    """Run a command to its end.

    :param stdin: its input; if empty it reads ``/dev/null``.
    :param check: raise if the status is not 0.
    :raises CommandFailed: if it failed, or wrote more than ``output_limit`` bytes.
    :raises ContactLost: if its status line did not come.
    :raises TimedOut: if its patience ended.
    :raises Interrupted: if it failed after a signal interrupted the program.
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
            child.check_patience(loop.moved_bytes)
            loop.step(TICK_S)
        if not loop.linger():
            did = "left a process behind that keeps writing"
            raise child.failure(CommandFailed, did)
        completed = child.complete(bytes(output))
    if check:
        return checked(completed)
    if completed.status != 0:
        check_interrupted()
    return completed


def checked(completed: Completed) -> Completed:
    """Return how a command ended, if its status is 0.

    :raises ContactLost: if its status is unknown.
    :raises CommandFailed: if it is another one.
    :raises Interrupted: if it failed after a signal interrupted the program.
    """
    if completed.status != 0:
        check_interrupted()
        raise (CommandFailed if completed.status else ContactLost)(completed)
    return completed
