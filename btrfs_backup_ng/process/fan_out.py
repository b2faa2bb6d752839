"""One sender whose stream goes to several pipelines at once.

A ring of memory lies between them. A pipeline that is behind by all of it holds up the
others, and is left behind if it does so for too long. Each has a :class:`Branch` in the
place of its first stage, which looks like a process: it ends with the status of the
sender, or as if its reader was gone, or as it was told to.

Copying costs one read for all, and one write for each.
"""

import contextlib
import functools
import logging
import os
import select
import signal
import threading
import time
from collections.abc import Callable

from btrfs_backup_ng.__util__ import KIB, MIB, BackupError, Interrupted
from btrfs_backup_ng.process.child import DEVNULL, Child
from btrfs_backup_ng.process.command import Command, Completed
from btrfs_backup_ng.process.interruption import check_interrupted
from btrfs_backup_ng.process.poller import TICK_S, Loop, Tail, widen
from btrfs_backup_ng.process.relay import Gathering

log = logging.getLogger(__name__)

#: Memory between the fastest and the slowest pipeline.
RING_SIZE = 32 * MIB
#: Statuses of a branch of which the reader ended, as a shell reports it; and of one
#: that was left behind: EX_TEMPFAIL of sysexits.h.
_READER_GONE, _LEFT_BEHIND = 128 + signal.SIGPIPE, 75
# See ``sendstream/filter``: about so much is gathered before it is moved.
_FEW = 64 * KIB
_LONGEST_SLEEP_S = 0.002
#: Of the time in which no pipeline holds up the others, so much is taken off the time
#: in which one does: less than a fifth of all time is never too long.
_FORGIVEN = 0.25
#: The end of the stream is passed on after this long, if the sender has not ended.
_PASS_ON_S = 0.05


class CameTooLate(BackupError):
    """A pipeline cannot share the stream: it has begun, or is another one."""


class Branch:
    """The shared sender as one pipeline sees it: the methods of a ``Child``.

    :ivar offset: bytes of the stream that it has got.
    :ivar sink: its end of the pipe; -1 once that is closed.
    :ivar words: the end of the stderr of the sender.
    :ivar told: the signal by which its pipeline told it to end, or 0.
    """

    def __init__(
        self, command: Command, stdout: int, words: Tail, wake: Callable[[], None]
    ) -> None:
        """Prepare.

        :param stdout: the pipe to write to.
        :param wake: lets the fan-out look at it.
        """
        self.command = command
        self.words = words
        self.offset = 0
        self.sink = os.dup(stdout)
        os.set_blocking(self.sink, False)
        self.pid = os.getpid()
        self.told = 0
        self._wake = wake
        self._status: int | None = None
        self._completed = Completed(command, None, b"", "")
        self._over = os.eventfd(0)

    def end(self, status: int, completed: Completed | None = None) -> None:
        """End with a status; for the fan-out.

        :param completed: how the sender ended, if that is the reason.
        """
        if self._status is None:
            self._completed = completed or Completed(self.command, status, b"", "")
            self._status = status
            os.eventfd_write(self._over, 1)  # before the reader sees the end
        self.end_stream()

    def end_stream(self) -> None:
        """Close its end of the pipe."""
        if self.sink >= 0:
            os.close(self.sink)
            self.sink = -1

    def attend(self, loop: Loop, at_end: Callable[[], None]) -> None:
        """Let a loop call ``at_end`` when it has ended."""

        def end() -> None:
            loop.off(self._over)
            at_end()

        loop.on(self._over, select.POLLIN, end)

    def peek(self, *, ended: bool = False) -> int | None:
        """Return its status once it has ended."""
        return self._status

    def poll(self) -> int | None:
        """Return its status once it has ended, and close its files."""
        if self._status is not None and self._over >= 0:
            os.close(self._over)
            self._over = -1
        return self._status

    def sleep(self, seconds: float) -> None:
        """Sleep until it ends, at most so long."""
        waiter = select.poll()
        waiter.register(self._over, select.POLLIN)
        waiter.poll(seconds * 1000)

    def send(self, signal_number: int) -> None:
        """Let it end as if a signal had killed it."""
        if self._status is None:
            self.told = signal_number
            self._wake()

    def terminate(self) -> None:
        self.send(signal.SIGTERM)

    def close_pipes(self) -> None:
        """Do nothing: the program has no end of its pipes."""

    def complete(self) -> Completed:
        """Return how it ended, after its end."""
        return self._completed


class Ring:
    """The part of a stream that some readers still need.

    :ivar end: offset in the stream of the next byte to come.
    """

    def __init__(self, size: int) -> None:
        self.end = 0
        self._memory = memoryview(bytearray(size))
        self._size = size
        self._origin = 0  # offset of the first byte of the memory

    def room(self, start: int) -> int:
        """Return how many bytes may come, if those from ``start`` on are needed."""
        return self._size - (self.end - start)

    def fill(self, source: int, start: int) -> int:
        """Read once from a descriptor; return the number of bytes.

        :param start: offset of the first byte that is still needed.
        """
        if start == self.end:
            self._origin = self.end  # the same memory again, which is in the cache
        at = (self.end - self._origin) % self._size
        room = min(self.room(start), self._size - at)
        size = os.readv(source, [self._memory[at : at + room]])
        self.end += size
        return size

    def pour(self, sink: int, start: int) -> int:
        """Write once to a descriptor; return the number of bytes.

        :param start: offset of the first byte to write.
        """
        at = (start - self._origin) % self._size
        size = min(self.end - start, self._size - at)
        return os.write(sink, self._memory[at : at + size])


class FanOut:
    """Moves the bytes of one pipe to several branches.

    :ivar branches: those that have not ended.
    :ivar is_at_end: all of the stream has been read.
    """

    def __init__(
        self,
        loop: Loop,
        source: int,
        branches: list[Branch],
        patience_s: float,
        ring_size: int = RING_SIZE,
    ) -> None:
        """Prepare.

        :param patience_s: how long one branch may hold up the others; 0 for no limit.
        """
        self.branches = list(branches)
        self._loop = loop
        self._source = source
        self._patience_s = patience_s
        self._ring = Ring(ring_size)
        self.is_at_end = False
        self._ended_at = 0.0
        self._held_s = 0.0
        self._end_of_sender: tuple[int, Completed] | None = None
        self._looked = time.monotonic()
        self._most = 0  # bytes that moved at once
        self._gathering = Gathering(_FEW, _LONGEST_SLEEP_S)
        os.set_blocking(source, False)
        self._wait()

    @property
    def _start(self) -> int:
        """Return the offset of the first byte that some branch still needs."""
        offsets = (branch.offset for branch in self.branches)
        return min(offsets, default=self._ring.end)

    def note_end(self, status: int, completed: Completed) -> None:
        """Note how the sender ended: so do the branches that have got all."""
        self._end_of_sender = status, completed
        self._end_branches()

    def step(self) -> None:
        """Wait until something can move, at most a tick, and move it."""
        self._most = 0
        self._loop.step(TICK_S)
        self._end_branches()
        if self.branches:
            self._leave_behind()
            self._wait()
            if self._most:
                self._gathering.sleep(self._most)

    def _wait(self) -> None:
        """Wait for bytes if there is room for them, and for readers that lack some."""
        if self.is_at_end or not self._ring.room(self._start):
            self._loop.off(self._source)
        else:
            self._loop.on(self._source, select.POLLIN, self._fill)
        for branch in self.branches:
            if branch.offset < self._ring.end:
                pour = functools.partial(self._pour, branch)
                self._loop.on(branch.sink, select.POLLOUT, pour)
            elif branch.sink >= 0:
                self._loop.off(branch.sink)

    def _fill(self) -> None:
        with contextlib.suppress(BlockingIOError):
            size = self._ring.fill(self._source, self._start)
            self._most = max(self._most, size)
            if not size:
                self.is_at_end, self._ended_at = True, time.monotonic()

    def _pour(self, branch: Branch) -> None:
        try:
            size = self._ring.pour(branch.sink, branch.offset)
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._end(branch, _READER_GONE)
            return
        branch.offset += size
        self._most = max(self._most, size)

    def _end_branches(self) -> None:
        """End the branches that were told to, and those that have got all."""
        is_late = time.monotonic() - self._ended_at > _PASS_ON_S
        for branch in list(self.branches):
            if branch.told:
                self._end(branch, 128 + branch.told)
            elif self.is_at_end and branch.offset == self._ring.end:
                if self._end_of_sender:
                    self._end(branch, *self._end_of_sender)
                elif is_late and branch.sink >= 0:
                    self._loop.off(branch.sink)
                    branch.end_stream()

    def _leave_behind(self) -> None:
        """Add up the time in which some hold up the others; after too long end these.

        Time in which they do not is taken off, so that two of about the same speed stay
        together for hours. Time in which this program did not run does not count.
        """
        now = time.monotonic()
        elapsed_s = min(now - self._looked, 2 * TICK_S)
        self._looked = now
        start = self._start
        waits = any(branch.offset == self._ring.end for branch in self.branches)
        if self.is_at_end or self._ring.room(start) or not waits:
            self._held_s = max(0.0, self._held_s - elapsed_s * _FORGIVEN)
            return
        self._held_s += elapsed_s
        if self._patience_s and self._held_s >= self._patience_s:
            self._held_s = 0.0
            for branch in [one for one in self.branches if one.offset == start]:
                self._end(branch, _LEFT_BEHIND)

    def _end(
        self, branch: Branch, status: int, completed: Completed | None = None
    ) -> None:
        self.branches.remove(branch)
        if branch.sink >= 0:
            self._loop.off(branch.sink)
        branch.end(status, completed)


class Seat:
    """The place of one pipeline at a shared sender; for one try."""

    def __init__(self, sender: "SharedSender") -> None:
        self.is_settled = False
        self._sender = sender
        self._branch: Branch | None = None

    def open(self, command: Command, stdout: int) -> Branch:
        """Return a branch that writes the output of a command to a pipe.

        :raises CameTooLate: if the stream has begun, or if the command is another one
            or cannot be started: the caller may try that on its own.
        """
        try:
            self._branch = self._sender.open(command, stdout)
            return self._branch
        finally:
            self.give_up()

    def give_up(self) -> None:
        """Let the others begin; does nothing if it is taken."""
        self.is_settled = True
        self._sender.wake()

    @property
    def is_first(self) -> bool:
        return self._sender.seats[0] is self

    @property
    def is_left_behind(self) -> bool:
        """Return whether its pipeline held up the others for too long."""
        return self._branch is not None and self._branch.peek() == _LEFT_BEHIND


class SharedSender:
    """A sender for several pipelines.

    It starts with the first of them. Its stream is passed on once every seat is taken
    or given up; after a while without those that are late. It ends with the last one.
    """

    def __init__(
        self, seats: int, patience_s: float, ring_size: int = RING_SIZE
    ) -> None:
        """Prepare.

        :param seats: how many pipelines there will be.
        :param patience_s: how long one of them may hold up the others; 0 for no limit.
        """
        self.seats = [Seat(self) for _ in range(seats)]
        self._patience_s = patience_s
        self._ring_size = ring_size
        self._changed = threading.Condition()
        self._command: Command | None = None
        self._sender: Child | None = None
        self._branches: list[Branch] = []
        self._is_closed = False
        self._wake = os.eventfd(0, os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait for its end; every seat has to be settled."""
        self._thread.join()

    def wake(self) -> None:
        """Let its thread look at the seats and branches."""
        with self._changed:
            self._changed.notify_all()
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def open(self, command: Command, stdout: int) -> Branch:
        """See :meth:`Seat.open`."""
        with self._changed:
            self._command = self._command or command
            self._changed.notify_all()
            while not (self._sender or self._is_closed):
                self._changed.wait(TICK_S)
            check_interrupted()
            if not self._sender or self._is_closed or self._command != command:
                raise CameTooLate("the stream to the other destinations has begun")
            branch = Branch(command, stdout, self._sender.words, self.wake)
            self._branches.append(branch)
            return branch

    @property
    def _is_settled(self) -> bool:
        return all(seat.is_settled for seat in self.seats)

    def _run(self) -> None:
        try:
            with self._changed:
                while not (self._command or self._is_settled):
                    self._changed.wait(TICK_S)
            if self._command:
                self._send(self._command)
        except (BackupError, Interrupted) as error:
            log.info("a shared sender ended: %s", error)
        finally:
            with self._changed:
                self._is_closed = True
                os.close(self._wake)
                self._wake = -1
                for branch in self._branches:
                    branch.end(_LEFT_BEHIND)  # if it has not ended
                self._changed.notify_all()

    def _send(self, command: Command) -> None:
        """Run the sender, from the first pipeline to the last."""
        source, output = os.pipe()
        widen(output)
        try:
            sender = Child(command, stdin=DEVNULL, stdout=output)
        except BaseException:
            os.close(source)
            raise
        finally:
            os.close(output)
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, source)
            stack.enter_context(sender)
            loop = Loop()
            has_ended = threading.Event()
            sender.attend(loop, has_ended.set)
            loop.on(self._wake, select.POLLIN, self._awake)
            with self._changed:
                self._sender = sender
                self._changed.notify_all()
            branches = self._seated(loop)
            fan_out = FanOut(loop, source, branches, self._patience_s, self._ring_size)
            while fan_out.branches:
                fan_out.step()
                if has_ended.is_set() and fan_out.is_at_end:
                    has_ended.clear()
                    loop.linger()
                    status = sender.peek(ended=True)
                    fan_out.note_end(status or 0, sender.complete())

    def _awake(self) -> None:
        os.eventfd_read(self._wake)

    def _seated(self, loop: Loop) -> list[Branch]:
        """Wait until every seat is settled, or for as long as the patience lasts."""
        deadline = time.monotonic() + self._patience_s
        while not self._is_settled:
            if self._patience_s and time.monotonic() > deadline:
                break
            loop.step(TICK_S)
        with self._changed:
            self._is_closed = True
            return list(self._branches)
