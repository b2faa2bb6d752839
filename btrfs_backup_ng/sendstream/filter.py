"""The process that adds checkpoints to a stream, as a stage of a pipeline.

It starts as fast as Python can: without ``site`` and with few imports. It and its
imports also run on other machines, from Python 3.7 on. Exit status: 0, 1 for a damaged
stream, :data:`DIFFERS`; killed by SIGPIPE if its reader ends.
"""

from __future__ import annotations

import base64
import errno
import functools
import os
import signal
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from btrfs_backup_ng.sendstream.checkpoint import Checkpoints, StreamDiffers
from btrfs_backup_ng.sendstream.format import StreamDamaged
from btrfs_backup_ng.wire.protocol import MOVED, SKIPPED

#: Exit status if the stream is not that of the checkpoint; nothing was written then.
#: EX_DATAERR of sysexits.h.
DIFFERS = 65
_SAY_EACH_S = 0.25
_START = (
    "import sys; sys.path.insert(0, sys.argv.pop(1));"
    " from btrfs_backup_ng.sendstream.filter import main; main(counting=True)"
)
_UNPACK = """\
import sys, types
for name, text in %r:
    module = types.ModuleType(name)
    module.__path__ = []
    sys.modules[name] = module
    exec(text, module.__dict__)
module.main()
"""
# ``btrfs send`` writes each command separately. Waking up for each costs more CPU than
# all else, so after a small piece the filter sleeps a little while more arrives (see
# ``process/relay``). Small files come slowly: with 0.2 ms at most they cost 1.7 times
# as much CPU. The sleep is never long enough to fill the pipe, whose slots hold little
# of small pieces.
_FEW = 64 * 1024
_MANY = 128 * 1024
_SHORTEST_SLEEP_S = 0.00005
_LONGEST_SLEEP_S = 0.002


def filter_argv(words: Sequence[str]) -> tuple[str, ...]:
    """Return the command that adds checkpoints to the stream on its stdin.

    :param words: from :func:`filter_words`.
    """
    folder = os.path.dirname(os.path.abspath(__file__))
    root = os.path.dirname(os.path.dirname(folder))
    return (sys.executable, "-I", "-S", "-c", _START, root, *words)


def filter_words(
    interval: int, key: str, known: tuple[int, bytes] | None
) -> tuple[str, ...]:
    """Return the arguments of the filter.

    :param interval: bytes between two checkpoints.
    :param key: differs for each attempt at the same stream, ASCII.
    :param known: offset and digest of the checkpoint to resume at.
    """
    return (str(interval), key, *((str(known[0]), known[1].hex()) if known else ()))


@functools.lru_cache(maxsize=None)
def portable() -> str:
    """Return the filter as one word, for ``exec(zlib.decompress(b64decode(word)))``."""
    package = __name__.partition(".")[0]
    inner, wire = f"{package}.sendstream", f"{package}.wire"
    modules = ("crc32c", "format", "names", "checkpoint")
    texts = [(package, ""), (inner, ""), (wire, "")]
    names = [f"{inner}.{module}" for module in modules]
    for name in (*names, f"{wire}.protocol", __name__):
        loader: Any = sys.modules[name].__loader__  # reads from a zip, too
        texts.append((name, loader.get_source(name)))
    packed = zlib.compress((_UNPACK % (texts,)).encode(), 9)
    return base64.b64encode(packed).decode("ascii")


def main(counting: bool = False) -> None:
    """Run the filter on stdin and stdout.

    :param counting: report the bytes written on stderr.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    interval, key, *rest = sys.argv[1:]
    moved = Counted(reporter(MOVED) if counting else None)
    checkpoints = Checkpoints(
        reader(0),
        writer(1, moved.add),
        _mover(0, 1, moved.add),
        interval=int(interval),
        key=key.encode("ascii"),
        known=(int(rest[0]), bytes.fromhex(rest[1])) if rest else None,
        new_uuid=lambda: os.urandom(16),
        note=reporter(SKIPPED),
    )
    try:
        checkpoints.run()
        if counting:
            os.write(2, MOVED % moved.size)
    except StreamDiffers as error:
        end(DIFFERS, str(error))
    except StreamDamaged as error:
        end(1, str(error))


def end(status: int, text: str) -> None:
    sys.stderr.write(f"ERROR: {text}\n")
    sys.exit(status)


def reader(descriptor: int) -> Callable[[memoryview], int]:
    sleep_s = 0.0

    def read_into(buffer: memoryview) -> int:
        nonlocal sleep_s
        if len(buffer) < _FEW:  # more would not fit
            return os.readv(descriptor, [buffer])
        if sleep_s >= _SHORTEST_SLEEP_S:
            time.sleep(sleep_s)
        size = os.readv(descriptor, [buffer])
        if size < _FEW:
            sleep_s = min(max(2 * sleep_s, _SHORTEST_SLEEP_S), _LONGEST_SLEEP_S)
        elif size > _MANY:
            sleep_s /= 2
        return size

    return read_into


class Counted:
    def __init__(self, report: Callable[[int], None] | None) -> None:
        self.size = 0
        self._report = report

    def add(self, size: int) -> None:
        self.size += size
        if self._report:
            self._report(self.size)


def writer(
    descriptor: int, count: Callable[[int], None]
) -> Callable[[memoryview | bytes], None]:
    def write(data: memoryview | bytes) -> None:
        while data:
            size = os.write(descriptor, data)
            count(size)
            data = data[size:]

    return write


def _mover(
    source: int, sink: int, count: Callable[[int], None]
) -> Callable[[int, bool], int]:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    spare = memoryview(bytearray(_FEW))
    write = writer(sink, count)

    def move(size: int, wanted: bool) -> int:
        try:
            size = os.splice(source, sink if wanted else nowhere, size)
        except AttributeError:  # Python before 3.10
            pass
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS):
                raise
        else:
            if wanted:
                count(size)
            return size
        size = os.readv(source, [spare[:size]])
        if wanted:
            write(spare[:size])
        return size

    return move


def reporter(text: bytes) -> Callable[[int], None]:
    due = 0.0

    def report(size: int) -> None:
        nonlocal due
        now = time.monotonic()
        if now >= due:
            due = now + _SAY_EACH_S
            os.write(2, text % size)

    return report
