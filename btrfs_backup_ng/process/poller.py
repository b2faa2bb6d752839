"""The waiting for several descriptors at once, in the calling thread."""

import contextlib
import fcntl
import os
import select
import time
from collections.abc import Callable
from typing import IO

from btrfs_backup_ng.__util__ import KIB, MIB

#: Pipe size; also /proc/sys/fs/pipe-max-size, what a user may ask for: pipe(7).
PIPE_SIZE = MIB
#: Longest sleep while waiting, so that an interrupt is noticed in any thread.
TICK_S = 0.1
#: After a process ended, what something it left behind still writes to its
#: outputs is read until it was silent for so long (a daemon may hold them open),
LINGER_S = 1.0
#: and not for longer than this.
LINGER_AT_MOST_S = 10.0
#: How much of a stderr is kept: its end, where the reason stands.
_TAIL_KEPT = 64 * KIB
_READ_SIZE = 256 * KIB


def widen(pipe: int) -> None:
    """Let a pipe hold 1 MiB, as far as we may, so that its writer waits less often."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_SIZE)


class Tail:
    """Keep the end of what is added, up to 64 KiB.

    :ivar added: bytes that were added so far.
    """

    def __init__(self, noise: bytes) -> None:
        """Begin with nothing.

        :param noise: what is counted and not kept.
        """
        self.added = 0
        self._noise = noise
        self._kept = bytearray()

    def add(self, data: bytes) -> None:
        """Append, and forget what is too old."""
        self.added += len(data)
        self._kept += data
        if self._noise in self._kept:
            self._kept[:] = self._kept.replace(self._noise, b"")
        del self._kept[:-_TAIL_KEPT]

    def __bytes__(self) -> bytes:
        return bytes(self._kept)


class Loop:
    """Callbacks for descriptors; what it drains it closes at the end of it.

    :ivar moved_bytes: what was read from and written to what it drains and feeds.
    """

    def __init__(self) -> None:
        self.moved_bytes = 0
        self._poll = select.poll()
        self._calls: dict[int, Callable[[], None]] = {}
        self._reading: set[int] = set()

    def on(self, descriptor: int, events: int, call: Callable[[], None]) -> None:
        """Call this whenever the descriptor is ready, or hung up; replaces."""
        self._poll.register(descriptor, events)
        self._calls[descriptor] = call

    def off(self, descriptor: int) -> None:
        """Wait for this one no more."""
        if self._calls.pop(descriptor, None):
            self._poll.unregister(descriptor)

    def drain(self, file: IO[bytes], keep: Callable[[bytes], None]) -> None:
        """Hand over what the file gives, until its end; then close it."""
        descriptor = file.fileno()
        os.set_blocking(descriptor, False)

        def read() -> None:
            with contextlib.suppress(BlockingIOError):
                data = os.read(descriptor, _READ_SIZE)
                self.moved_bytes += len(data)
                keep(data)
                if not data:
                    self._reading.discard(descriptor)
                    self.off(descriptor)
                    file.close()

        self._reading.add(descriptor)
        self.on(descriptor, select.POLLIN, read)

    def feed(self, file: IO[bytes], data: bytes) -> None:
        """Write all of this, or as much as is wanted; then close the file."""
        descriptor = file.fileno()
        os.set_blocking(descriptor, False)
        left = memoryview(data)

        def write() -> None:
            nonlocal left
            try:
                written = os.write(descriptor, left)
                self.moved_bytes += written
                left = left[written:]
            except BlockingIOError:
                return
            except BrokenPipeError:
                left = left[:0]
            if not left:
                self.off(descriptor)
                file.close()

        self.on(descriptor, select.POLLOUT, write)

    def step(self, timeout_s: float) -> bool:
        """Wait for something to happen and deal with it; say whether it did."""
        ready = self._poll.poll(max(0.0, timeout_s * 1000))
        for descriptor, _ in ready:
            if call := self._calls.get(descriptor):
                call()
        return bool(ready)

    def linger(self) -> bool:
        """Read what ended processes left, until its end or until it was silent.

        :returns: false if something went on and on, and was cut off.
        """
        now = time.monotonic()
        silent, last = now + LINGER_S, now + LINGER_AT_MOST_S
        while self._reading and now < silent:
            if now > last:
                return False
            came = self.step(silent - now)
            now = time.monotonic()
            silent = now + LINGER_S if came else silent
        return True
