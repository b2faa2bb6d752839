"""What lies between the last two stages of a pipeline: moving, counting, seeing."""

import errno
import fcntl
import os
import select
import sys
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass

from btrfs_backup_ng.__util__ import KIB
from btrfs_backup_ng.process.poller import PIPE_SIZE, Loop

_COPY_SIZE = 256 * KIB
#: The hop moves at most so many pieces before the other descriptors have a turn.
_BURST = 16
# Waking for every page that a writer writes would cost more CPU than the copying it
# saves. So the hop sleeps after moving, so long that about this much gathers: less
# makes it sleep longer, more shorter. Between btrfs send and receive, on two busy
# cores, that took 3 to 10 % less CPU than without (four comparisons, medians of five);
# the differences in time were noise.
# Never longer than it takes to fill the pipe: pieces of less than a page fill its
# slots with few bytes, and then a sleep of 1 ms costs half the throughput.
_FEW = 256 * KIB
_MANY = 512 * KIB
_SHORTEST_SLEEP_S = 0.00005
_LONGEST_SLEEP_S = 0.0002
#: The hop passes the end of one side on at the latest after this long.
_PASS_ON_S = 0.05


@dataclass(slots=True)
class Meter:
    """Counters of one transfer: one thread writes them, any thread reads them.

    Each is one assignment, which is all the safety they need.

    :ivar started: monotonic time, ``None`` before the start; the same for others.
    :ivar last_moved: monotonic time at which bytes moved last.
    :ivar expected_bytes: of the whole stream; may come later, from any thread, or
        never.
    :ivar resumed_bytes: of the stream that were there before.
    :ivar skipped_bytes: of these that were read again and compared so far.
    """

    expected_bytes: int | None = None
    size_bytes: int = 0
    started: float | None = None
    last_moved: float | None = None
    ended: float | None = None
    resumed_bytes: int = 0
    skipped_bytes: int = 0

    def add(self, size_bytes: int) -> None:
        """Count what moved just now."""
        self.size_bytes += size_bytes
        self.last_moved = time.monotonic()


class Hop:
    """Carry bytes from one pipe to the next, and count them.

    They are moved with splice(2), which copies nothing. Where the kernel does not
    offer that they are read and written.

    What ends at one side is passed on to the other side only after the stage that
    ended could be seen to have ended, or a little later. Otherwise the stages at both
    sides might end before we look, and there would be no telling who was first.

    :ivar lost: a reader went away before it got everything.
    """

    def __init__(self, source: int, sink: int, meter: Meter, loop: Loop) -> None:
        self.source = source
        self.sink = sink
        self.lost = False
        self.is_open = True
        self._meter = meter
        self._loop = loop
        self._pending = b""
        self._sleep_s = 0.0
        self._give: Callable[[], int] = self._splice
        self._over: float | None = None
        self._ended: set[bool] = set()
        os.set_blocking(source, False)
        os.set_blocking(sink, False)
        self._wait_for_source()

    def _wait_for_source(self) -> None:
        self._loop.on(self.source, select.POLLIN, self._step)
        self._loop.off(self.sink)

    def _wait_for_sink(self) -> None:
        self._loop.off(self.source)
        self._loop.on(self.sink, select.POLLOUT, self._step)

    def _step(self) -> None:
        before = self._meter.size_bytes
        for _ in range(_BURST):
            try:
                size_bytes = self._give()
            except BlockingIOError:
                break
            except BrokenPipeError:
                self._finish(by_source=False)
                return
            if not size_bytes:
                self._finish(by_source=True)
                return
            self._meter.add(size_bytes)
        self._gather(self._meter.size_bytes - before)
        if self._pending or unread(self.source):
            self._wait_for_sink()
        else:
            self._wait_for_source()

    def _gather(self, moved_bytes: int) -> None:
        if moved_bytes < _FEW:
            longer_s = max(2 * self._sleep_s, _SHORTEST_SLEEP_S)
            self._sleep_s = min(longer_s, _LONGEST_SLEEP_S)
        elif moved_bytes > _MANY:
            self._sleep_s /= 2
        if self._sleep_s >= _SHORTEST_SLEEP_S:
            time.sleep(self._sleep_s)

    def _splice(self) -> int:
        flags = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
        try:
            return os.splice(self.source, self.sink, PIPE_SIZE, flags=flags)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS):
                raise
        self._give = self._copy
        return self._copy()

    def _copy(self) -> int:
        self._pending = self._pending or os.read(self.source, _COPY_SIZE)
        written = os.write(self.sink, self._pending) if self._pending else 0
        self._pending = self._pending[written:]
        return written

    def _finish(self, *, by_source: bool) -> None:
        self._loop.off(self.source)
        self._loop.off(self.sink)
        self._over = time.monotonic()
        if by_source in self._ended:
            self.close()

    @property
    def waiting(self) -> int:
        """Return how many bytes the reader has not taken yet; -1 if nobody knows."""
        return unread(self.sink) if self.is_open else -1

    @property
    def is_starved(self) -> bool:
        """Tell whether there is nothing to carry."""
        return self.is_open and not unread(self.source)

    def note_end(self, *, source: bool) -> None:
        """Note that a stage before (``source``) or after this has ended.

        If its end of the pipe was seen closed before, that is passed on now.
        """
        self._ended.add(source)
        if self._over is not None:
            self.close()

    def be_done(self) -> None:
        """Pass an end on though nobody ended, once that took long enough."""
        if self._over is not None and time.monotonic() - self._over > _PASS_ON_S:
            self.close()

    def close(self) -> None:
        """Close both ends; what is still in the pipe before us is lost."""
        if self.is_open:
            self.is_open = False
            self.lost = bool(self._pending or unread(self.source))
            self._loop.off(self.source)
            self._loop.off(self.sink)
            os.close(self.source)
            os.close(self.sink)


class Watch:
    """See what waits between two stages that a pipe connects with nothing in between.

    For a stage that counts what it writes. Its reader's end is held open until the
    reader was seen to have ended: so that is known before the writer fails for it.
    Has what a :class:`Hop` has.
    """

    def __init__(self, reading: int) -> None:
        """Take the reader's end of the pipe, which is closed with this."""
        self.lost = False
        self.is_open = True
        self._reading: int | None = reading

    @property
    def waiting(self) -> int:
        """Return how many bytes the reader has not taken yet; -1 if nobody knows."""
        return -1 if self._reading is None else unread(self._reading)

    @property
    def is_starved(self) -> bool:
        """Tell whether the reader waits for more."""
        return self.is_open and not self.waiting

    def note_end(self, *, source: bool) -> None:
        """Note that the writer (``source``) or the reader has ended."""
        self.is_open = False
        if not source:
            self.close()

    def be_done(self) -> None:
        """Do nothing: ends pass by themselves."""

    def close(self) -> None:
        """Let go of the pipe; what is still in it is lost."""
        self.is_open = False
        if self._reading is not None:
            self.lost = unread(self._reading) > 0
            os.close(self._reading)
            self._reading = None


def unread(descriptor: int) -> int:
    """Return how many bytes wait in a pipe; either end will do (FIONREAD)."""
    answer = fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4))
    return int.from_bytes(answer, sys.byteorder)
