"""Sessions on a host in which one verb runs after another.

To open a session takes longer than most verbs run, as it starts a login shell. So a
host keeps one open for its verbs, and another one for each lock while it is held: the
next one is opened while the lock is taken. A verb that would wait long for others gets
one, too. ``wire/verbs/loop.sh`` is their other end. Streams have sessions of their own,
as their bytes are not framed.

A nonce frames each answer. It is new for each request, and no other user on the host
can know it, so an answer is never taken for that of another request. A session is used
again only if its verb has reported a status, and nothing came behind the answer.

Where there is no such session (a shell, a forced command or a guard does not run the
loop), or two of them ended unasked, each verb gets a session of its own. A server may
allow only a few sessions at once: then idle ones are closed before a stream begins.
"""

import contextlib
import logging
import os
import re
import select
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO

from btrfs_backup_ng.__util__ import KIB
from btrfs_backup_ng.process.child import PIPE, Child
from btrfs_backup_ng.process.command import (
    Command,
    CommandFailed,
    Completed,
    read_status,
)
from btrfs_backup_ng.process.interruption import check_interrupted
from btrfs_backup_ng.process.poller import TICK_S, Loop, widen
from btrfs_backup_ng.sshutil.master import Sessions
from btrfs_backup_ng.sshutil.refusal import explain_session
from btrfs_backup_ng.wire import verbs
from btrfs_backup_ng.wire.grammar import OPEN, Verb, remember

log = logging.getLogger(__name__)

#: So many sessions may end unasked; then each verb gets one of its own.
_FAILURES = 2
#: Idle sessions that are kept: as many as two tasks need, with a lock each.
_IDLE = 4
#: A server that allows so many sessions at once (a lock, a verb, a stream) is taken for
#: one that allows ten, as sshd does by default.
_ENOUGH = 3
#: A verb waits so long for one before it, and then gets another session.
WAIT_S = 2.0
#: Time for a session to end after its stdin, and for a lock to be released.
END_S = 5.0
_LINE = 4096


class NotServed(Exception):
    """No session took a request, so nothing was run."""


class Exchange:
    """A verb that runs in a session, and its answer as it comes.

    :ivar is_reusable: it has ended, and the session can take another request.
    """

    def __init__(
        self,
        child: Child,
        command: Command,
        *,
        limit: int,
        nonce: str = "",
        is_first: bool = True,
    ) -> None:
        """Begin to listen.

        :param child: the session.
        :param command: names the verb, and says how patient to be with it.
        :param limit: on the bytes of its answer.
        :param nonce: frames its answer; "" in a session of its own.
        :param is_first: text of a login shell may come before the answer.
        """
        self.is_reusable = False
        self._child = child
        self._command = command
        self._limit = limit
        self._nonce = nonce.encode()
        self._end = re.compile(rb"%s (\d{1,3})\n" % self._nonce)
        self._answer = bytearray()
        self._searched = 0
        self._has_begun = not nonce
        self._is_first = is_first
        self._is_garbled = False
        self._status: int | None = None
        child.turn_to(command)
        self._loop = Loop()
        assert child.stdout
        self._loop.drain(child.stdout, self._keep)
        child.attend(self._loop)

    @property
    def stdin(self) -> IO[bytes]:
        """Return the stdin of its session, for a verb that reads that."""
        assert self._child.stdin
        return self._child.stdin

    def say(self, data: bytes) -> None:
        """Write to the session, while its answer is read."""
        self._loop.feed(self.stdin, data, closes=False)

    def _keep(self, data: bytes) -> None:
        self._answer += data
        if not self._has_begun:
            self._look_for_begin()
        elif self._status is not None:
            self._is_garbled |= bool(data)
        if self._nonce and self._has_begun and self._status is None:
            self._look_for_end()
        if len(self._answer) > self._limit:
            text = f"wrote more than {self._limit} bytes"
            raise self._child.failure(CommandFailed, text)

    def _look_for_begin(self) -> None:
        noise, found, rest = self._answer.partition(self._nonce + b"\n")
        if found:
            self._has_begun = True
            self._is_garbled = bool(noise) and not self._is_first
            self._answer = noise + rest

    def _look_for_end(self) -> None:
        if found := self._end.search(self._answer, self._searched):
            self._status = int(found[1])
            self._is_garbled |= found.end() < len(self._answer)
            del self._answer[found.start() :]
        self._searched = max(0, len(self._answer) - len(self._nonce) - len(" 255"))

    def _has_ended(self) -> bool:
        return self._is_framed or self._child.peek() is not None

    @property
    def _is_framed(self) -> bool:
        """Return whether its end came, on stdout and on stderr."""
        return self._status is not None and self._nonce in bytes(self._child.words)

    def begin(self) -> None:
        """Wait until it runs.

        :raises NotServed: if the session ended instead.
        """
        self._wait(lambda: self._has_begun or self._has_ended())

    def is_over(self) -> bool:
        """Return whether it has ended, without waiting for that."""
        while not self._has_ended() and self._loop.step(0):
            pass
        return self._has_ended()

    def read_line(self) -> bytes:
        """Return the next line of its answer, without its end.

        A line that is too long, or is not complete, is returned as far as it came.
        Raises like :meth:`finish`.
        """

        def has_line() -> bool:
            came = self._answer if self._has_begun else b""
            return b"\n" in came or len(came) >= _LINE or self._has_ended()

        self._wait(has_line)
        line, _, self._answer = self._answer.partition(b"\n")
        self._searched = 0
        return bytes(line)

    def finish(self, limit_s: float = 0.0) -> Completed:
        """Wait for its end, and return the rest of its answer.

        Its status is unknown (None) if the session ended first, or was garbled.

        :param limit_s: wait so long; if 0, as long as the patience with it lasts.
        :raises NotServed: if the session ended, and has not run it.
        :raises CommandFailed: if its answer is longer than the limit.
        :raises TimedOut: if the patience with it ends.
        :raises Interrupted: if a signal interrupted the program.
        """
        self._wait(self._has_ended, limit_s)
        answer = bytes(self._answer)
        self._answer.clear()  # it may be large, and is parsed now
        if not self._nonce:
            self._child.end()
            return self._child.complete(answer)
        words = bytes(self._child.words).partition(self._nonce)[0]
        status, stderr = read_status(self._command, self._status or 0, words)
        if self._is_garbled or not self._is_framed:
            status = None
        self.is_reusable = status is not None
        return Completed(self._command, status, answer, stderr)

    def release(self) -> None:
        """Let a verb that reads the session's stdin end, and wait for that."""
        if not self._nonce:
            self.stdin.close()
        elif self.is_over():
            return  # lines that were written since were no requests
        else:
            self.say(b"\n")
        self.finish(END_S)

    def _wait(self, is_done: Callable[[], bool], limit_s: float = 0.0) -> None:
        end = time.monotonic() + limit_s
        while not is_done():
            check_interrupted()
            self._child.check_patience(self._loop.moved_bytes)
            if limit_s and time.monotonic() > end:
                return
            self._loop.step(TICK_S)
        if self._child.peek() is not None:
            self._loop.linger()
            # What its login shell or the loop wrote before it ended is here by now.
            if not self._has_begun and self._child.reap() >= 0:
                raise NotServed


@contextlib.contextmanager
def own_session(command: Command, *, limit: int) -> Iterator[Exchange]:
    """Run a verb in a session of its own, which ends with the context."""
    with Child.start(command, stdin=PIPE, stdout=PIPE, drains=False) as child:
        yield Exchange(child, command, limit=limit)


class _Session:
    """A session of the verb ``loop``.

    :ivar has_answered: so it runs the loop.
    :ivar is_idle: it can take a request.
    """

    def __init__(self, command: Command) -> None:
        self.child = Child.start(command, stdin=PIPE, stdout=PIPE, drains=False)
        self.has_answered = self.is_idle = False
        self._numbers: dict[str, int] = {}  # piece of scripts -> its number there
        assert self.child.stdout
        widen(self.child.stdout.fileno())

    def begin(
        self,
        verb: Verb,
        words: tuple[str, ...],
        command: Command,
        stdin: bytes | None,
        limit: int,
    ) -> Exchange:
        """Send a request.

        :param words: the privilege first.
        :param stdin: of the verb; None for the rest of the session's.
        """
        nonce = os.urandom(8).hex()
        known = len(self._numbers)
        new = [piece for piece in verb.pieces if piece not in self._numbers]
        self._numbers |= {piece: known + n for n, piece in enumerate(new)}
        request = remember(known, new) if new else b""
        numbers = [self._numbers[piece] for piece in verb.pieces]
        size = OPEN if stdin is None else str(len(stdin))
        request += verb.request(words, nonce=nonce, numbers=numbers, size=size)
        exchange = Exchange(
            self.child,
            command,
            limit=limit,
            nonce=nonce,
            is_first=not self.has_answered,
        )
        exchange.say(request + (stdin or b""))
        return exchange

    def is_quiet(self) -> bool:
        """Return whether it runs, and has written nothing since its last answer."""
        assert self.child.stdout
        waiter = select.poll()
        waiter.register(self.child.stdout, select.POLLIN)
        return self.child.peek() is None and not waiter.poll(0)

    def leave(self) -> None:
        """Let it end by itself."""
        assert self.child.stdin
        with contextlib.suppress(OSError):
            self.child.stdin.close()

    def end(self) -> None:
        """Wait for its end; end it if that does not come."""
        try:
            self.child.wait(END_S)
        finally:
            self.child.end()


class Control:
    """The sessions of a connection in which verbs run."""

    def __init__(self, sessions: Sessions, loop: Callable[[], Command]) -> None:
        """Open none yet.

        :param sessions: of the connection.
        :param loop: returns the command that opens one.
        """
        self._sessions = sessions
        self._loop = loop
        self._idle: list[_Session] = []
        self._calls = 0  # sessions that run a verb, and will be idle soon
        self._open = 0  # sessions that have answered, and are not closed
        self._most = 0  # so many were open at once
        self._failures = 0
        self._is_narrow = False
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def exchange(
        self,
        verb: Verb,
        words: tuple[str, ...],
        command: Command,
        *,
        stdin: bytes | None = b"",
        limit: int,
    ) -> Iterator[Exchange]:
        """Run a verb in a session, which is ended if the verb is not over then.

        :param words: the privilege first.
        :param stdin: of the verb; None for the session's own, as long as it runs.
        :raises NotServed: if no session takes it.
        """
        while True:
            with self._lent(is_call=stdin is not None) as session:
                log.debug("+ %s: %s", command.label, shlex.join((verb.name, *words)))
                if stdin is None:
                    self._open_ahead()
                exchange = session.begin(verb, words, command, stdin, limit)
                try:
                    exchange.begin()
                except NotServed:
                    is_refused = bool(explain_session(session.child.stderr_tail()))
                else:
                    self._count(session)
                    yield exchange
                    session.is_idle = exchange.is_reusable
                    return
            if not (is_refused and self.waits_after_refusal()):
                raise NotServed

    @contextlib.contextmanager
    def _lent(self, *, is_call: bool) -> Iterator[_Session]:
        """Take an idle session or open one, and keep it afterwards if it is idle."""
        session = self._take_idle(waits=is_call)
        try:
            with self._changed:
                self._calls += is_call
            session = session or _Session(self._loop())
            session.is_idle = False
            yield session
        finally:
            if session:
                self._put_back(session)
            with self._changed:
                self._calls -= is_call
                self._changed.notify()

    def _take_idle(self, *, waits: bool) -> _Session | None:
        """Return an idle session, or None if one is to be opened.

        :param waits: for a while, for one that runs a verb now.
        """
        end = time.monotonic() + WAIT_S
        with self._changed:
            while not self._idle and waits and self._calls and time.monotonic() < end:
                self._changed.wait(TICK_S)
                check_interrupted()
            while self._idle:
                session = self._idle.pop()
                if session.is_quiet():
                    return session
                self._close_failed(session)
            if self._failures >= _FAILURES:
                raise NotServed
        return None

    def _open_ahead(self) -> None:
        """Begin to open a session for the next verb, if none is left for it.

        If it is refused, that is seen when it is to be used. Called before the lock is
        asked for: where other tasks took the last room meanwhile, this waits, and the
        holder of a lock has to give signs of life.
        """
        with self._changed:
            is_needed = not (self._idle or self._calls)
            has_room = self._sessions.used < self._sessions.room
            works = self._most and self._failures < _FAILURES and not self._is_narrow
        if is_needed and has_room and works:
            session = _Session(self._loop())
            with self._changed:
                self._idle.append(session)

    def _count(self, session: _Session) -> None:
        """Count a session as open, once it has answered."""
        with self._changed:
            self._open += not session.has_answered
            self._most = max(self._most, self._open)
        session.has_answered = True

    def _put_back(self, session: _Session) -> None:
        with self._changed:
            has_room = self._sessions.used < self._sessions.room
            if session.is_idle and has_room and len(self._idle) < _IDLE:
                self._idle.append(session)
                return
        if session.is_idle:
            self._close([session])
        else:
            self._close_failed(session)

    def _close_failed(self, session: _Session) -> None:
        """Close a session that does not work, and count it if it ended unasked."""
        if session.child.peek() is not None:
            # Where one has worked, another may just be one too many.
            self._failures += session.has_answered
            self._failures = self._failures if self._most else _FAILURES
        self._open -= session.has_answered
        session.child.end()

    def _close(self, sessions: Sequence[_Session]) -> None:
        for session in sessions:
            session.leave()
        for session in sessions:
            self._open -= session.has_answered
            session.end()

    def make_room(self) -> None:
        """Close the idle sessions, unless the server surely allows one more.

        To be called before a session is opened that is not one of these.
        """
        with self._changed:
            used, idle = self._sessions.used, len(self._idle)
            is_known = used < self._most or self._most >= _ENOUGH
            is_full = used >= self._sessions.room
            is_worth_a_trial = used > idle and not (is_full or self._is_narrow)
        if not idle or (is_known and not is_full):
            return
        opened = self._open_at_once(1) if is_worth_a_trial else []
        self._close(opened)
        if not opened:
            self.close_idle()

    def _open_at_once(self, number: int) -> list[_Session]:
        """Open sessions beside all that are open; return those that the host takes."""
        begun = []
        for _ in range(number):
            command = self._loop()
            session = _Session(command)
            exchange = session.begin(verbs.SINK, ("none",), command, b"", KIB)
            begun.append((session, exchange))
        opened = []
        for session, exchange in begun:
            try:
                session.is_idle = exchange.finish().status == 0
                self._count(session)
                opened.append(session)
            except (NotServed, CommandFailed):
                self._is_narrow = True
                session.child.end()
        return opened

    def waits_after_refusal(self) -> bool:
        """Note that the server refused one more session.

        Then the next one waits for one of those that are open.

        :returns: whether there will be room, without the end of a task.
        """
        self.close_idle()
        return self._sessions.narrow(self._most)

    def proves(self, number: int) -> bool:
        """Return whether the server allows so many sessions at once, by opening them.

        They stay open for verbs and locks, as far as idle ones do.
        """
        if self._failures >= _FAILURES and not self._most:
            return True  # that is not known of a host that does not run the loop
        if self._most < number and not self._is_narrow:
            for session in self._open_at_once(number - self._open):
                self._put_back(session)
        return self._most >= number

    def close_idle(self) -> None:
        """End the idle sessions; others may be opened after that."""
        with self._changed:
            idle, self._idle = self._idle, []
        self._close(idle)

    def forget(self) -> None:
        """Forget a connection that is lost, with its sessions."""
        self.close_idle()
        self._failures = self._most = 0
        self._is_narrow = False


class StreamRoom:
    """The room for a session with a stream, among those of a connection."""

    def __init__(self, control: Control, sessions: Sessions) -> None:
        self._control = control
        self._sessions = sessions

    def __enter__(self) -> None:
        self._control.make_room()
        self._sessions.enter(ends=2)

    def __exit__(self, *_: object) -> None:
        self._sessions.__exit__()
