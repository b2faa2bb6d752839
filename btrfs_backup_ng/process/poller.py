"""Waiting for several descriptors at once, in the calling thread."""

import contextlib
import fcntl
import os
import select
import time
from collections.abc import Callable
from typing import IO

from btrfs_backup_ng.__util__ import KIB, MIB

#: Pipe size; the default of /proc/sys/fs/pipe-max-size, a user's limit: pipe(7).
PIPE_SIZE = MIB
#: Longest sleep, so that an interrupt is noticed in any thread.
TICK_S = 0.1
#: After a process ended, its outputs are read until they were silent for this long (a
#: daemon that it started may hold them open),
LINGER_S = 1.0
#: and not for longer than this.
LINGER_AT_MOST_S = 10.0
#: The end of a stderr that is kept; the reason of a failure is there.
_TAIL_KEPT = 64 * KIB
_READ_SIZE = 256 * KIB


def widen(pipe: int) -> None:
    """Let a pipe hold 1 MiB, if allowed, so that its writer waits less often."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_SIZE)


class Tail:
    """The end of added data, up to 64 KiB.

    :ivar added: number of bytes added so far.
    """

    def __init__(self, noise: bytes) -> None:
        """Start empty.

        :param noise: is counted and not kept.
        """
        self.added = 0
        self._noise = noise
        self._kept = bytearray()

    def add(self, data: bytes) -> None:
        self.added += len(data)
        self._kept += data
        if self._noise in self._kept:
            self._kept[:] = self._kept.replace(self._noise, b"")
        del self._kept[:-_TAIL_KEPT]

    def __bytes__(self) -> bytes:
        return bytes(self._kept)


class Loop:
    """Callbacks for descriptors. A drained file is closed at its end.

    :ivar moved_bytes: read by :meth:`drain` and written by :meth:`feed`.
    """

    def __init__(self) -> None:
        self.moved_bytes = 0
        self._poll = select.poll()
        self._calls: dict[int, Callable[[], None]] = {}
        self._reading: set[int] = set()

    def on(self, descriptor: int, events: int, call: Callable[[], None]) -> None:
        """Call a function whenever a descriptor is ready, or hung up."""
        self._poll.register(descriptor, events)
        self._calls[descriptor] = call

    def off(self, descriptor: int) -> None:
        if self._calls.pop(descriptor, None):
            self._poll.unregister(descriptor)

    def drain(self, file: IO[bytes], keep: Callable[[bytes], None]) -> None:
        """Pass the output of a file on until its end; then close it."""
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

    def feed(self, file: IO[bytes], data: bytes, *, closes: bool = True) -> None:
        """Write the data, as far as it is read.

        :param closes: close the file then.
        """
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
                if closes:
                    file.close()

        self.on(descriptor, select.POLLOUT, write)

    def step(self, timeout_s: float) -> bool:
        """Wait for ready descriptors and call their functions; return if any was."""
        ready = self._poll.poll(max(0.0, timeout_s * 1000))
        for descriptor, _ in ready:
            if call := self._calls.get(descriptor):
                call()
        return bool(ready)

    def linger(self) -> bool:
        """Read the rest of the output of ended processes, until it ends or is silent.

        :returns: false if the output did not end, and was cut off.
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
