"""The link between the last two stages of a pipeline: moving and counting bytes."""

import errno
import fcntl
import os
import select
import sys
import termios
import time
from collections.abc import Callable

from btrfs_backup_ng.__util__ import KIB
from btrfs_backup_ng.process.poller import PIPE_SIZE, Loop

_COPY_SIZE = 256 * KIB
#: Pieces that the hop moves before the other descriptors have their turn.
_BURST = 16
# Waking for every page that is written would cost more CPU than the copying it saves.
# So the hop sleeps after moving, so long that about this much gathers: less makes it
# sleep longer, more shorter. Between btrfs send and receive, on two busy cores, that
# took 3 to 10 % less CPU than without (four comparisons, medians of five); the
# differences in time were noise. The sleep is never long enough to fill the pipe:
# pieces of less than a page fill its slots with few bytes, and then a sleep of 1 ms
# costs half the throughput.
_FEW = 256 * KIB
_LONGEST_SLEEP_S = 0.0002
_SHORTEST_SLEEP_S = 0.00005
#: The hop passes the end of one side on after this long at the latest.
_PASS_ON_S = 0.05


class Gathering:
    """Sleeps after something has moved, so long that enough gathers meanwhile."""

    def __init__(self, few: int, longest_s: float) -> None:
        """Prepare.

        :param few: sleep longer after fewer bytes, shorter after more than twice these.
        """
        self._few = few
        self._longest_s = longest_s
        self._sleep_s = 0.0

    def sleep(self, moved_bytes: int) -> None:
        if moved_bytes < self._few:
            longer_s = max(2 * self._sleep_s, _SHORTEST_SLEEP_S)
            self._sleep_s = min(longer_s, self._longest_s)
        elif moved_bytes > 2 * self._few:
            self._sleep_s /= 2
        if self._sleep_s >= _SHORTEST_SLEEP_S:
            time.sleep(self._sleep_s)


class Meter:
    """Counters of one transfer: one thread writes them, any thread reads them.

    Each is a single assignment, so no lock is needed.

    :ivar started: monotonic time, None before the start; so are the other times.
    :ivar last_moved: monotonic time of the last movement.
    :ivar expected_bytes: of the whole stream; may come later, from any thread, or
        never.
    :ivar is_estimate: these bytes are estimated, not measured.
    :ivar resumed_bytes: of the stream, received by earlier attempts.
    :ivar skipped_bytes: of these, read again and compared so far.
    """

    def __init__(
        self,
        *,
        expected_bytes: int | None = None,
        size_bytes: int = 0,
        started: float | None = None,
        ended: float | None = None,
        resumed_bytes: int = 0,
    ) -> None:
        self.expected_bytes = expected_bytes
        self.is_estimate = False
        self.size_bytes = size_bytes
        self.started = started
        self.last_moved: float | None = None
        self.ended = ended
        self.resumed_bytes = resumed_bytes
        self.skipped_bytes = 0

    def add(self, size_bytes: int) -> None:
        self.size_bytes += size_bytes
        self.last_moved = time.monotonic()


class Hop:
    """Move bytes from one pipe to the next, and count them.

    With splice(2), which copies nothing, if the kernel offers it; else by reading and
    writing.

    The end of one side is passed on to the other only after the end of that stage could
    be seen, or a little later. Otherwise the stages at both sides might end at once,
    and it would be unknown which was first.

    :ivar lost: the reader ended before it got everything.
    """

    def __init__(self, source: int, sink: int, meter: Meter, loop: Loop) -> None:
        self.source = source
        self.sink = sink
        self.lost = False
        self.is_open = True
        self._meter = meter
        self._loop = loop
        self._pending = b""
        self._gathering = Gathering(_FEW, _LONGEST_SLEEP_S)
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
        self._gathering.sleep(self._meter.size_bytes - before)
        if self._pending or unread(self.source):
            self._wait_for_sink()
        else:
            self._wait_for_source()

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
        """Return the number of bytes that the reader has not taken; -1 if unknown."""
        return unread(self.sink) if self.is_open else -1

    @property
    def is_starved(self) -> bool:
        """Whether the pipe before it is empty."""
        return self.is_open and not unread(self.source)

    def note_end(self, *, source: bool) -> None:
        """Note that the stage before it (``source``) or after it has ended.

        If its end of the pipe was closed earlier, the end is passed on now.
        """
        self._ended.add(source)
        if self._over is not None:
            self.close()

    def pass_end_on(self) -> None:
        """Pass the end of a pipe on if its stage has not ended after a while."""
        if self._over is not None and time.monotonic() - self._over > _PASS_ON_S:
            self.close()

    def close(self) -> None:
        """Close both ends; unread bytes are lost."""
        if self.is_open:
            self.is_open = False
            self.lost = bool(self._pending or unread(self.source))
            self._loop.off(self.source)
            self._loop.off(self.sink)
            os.close(self.source)
            os.close(self.sink)


class Watch:
    """Watch the pipe between two stages that are connected directly.

    For a stage that counts its bytes. The reader's end is held open until the end of
    the reader was seen, so that it is known before the writer fails because of it. Has
    the methods of :class:`Hop`.
    """

    def __init__(self, reading: int) -> None:
        """Take over the reader's end of the pipe."""
        self.lost = False
        self.is_open = True
        self._reading: int | None = reading

    @property
    def waiting(self) -> int:
        """Return the number of bytes that the reader has not taken; -1 if unknown."""
        return -1 if self._reading is None else unread(self._reading)

    @property
    def is_starved(self) -> bool:
        """Whether the reader waits for more."""
        return self.is_open and not self.waiting

    def note_end(self, *, source: bool) -> None:
        """Note that the writer (``source``) or the reader has ended."""
        self.is_open = False
        if not source:
            self.close()

    def pass_end_on(self) -> None:
        """Do nothing: the pipe passes ends on."""

    def close(self) -> None:
        """Close the pipe; unread bytes are lost."""
        self.is_open = False
        if self._reading is not None:
            self.lost = unread(self._reading) > 0
            os.close(self._reading)
            self._reading = None


def unread(descriptor: int) -> int:
    """Return the number of unread bytes in a pipe, by either end (FIONREAD)."""
    answer = fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4))
    return int.from_bytes(answer, sys.byteorder)
