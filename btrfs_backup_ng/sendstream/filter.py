"""The process that adds checkpoints to a stream: a stage of a pipeline.

It starts as fast as Python can: without ``site`` and with few imports. It and what it
imports also run on other machines, from Python 3.7 on. Exit status: 0, 1 for a damaged
stream, :data:`DIFFERS`; and by SIGPIPE if nobody reads.
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
# ``btrfs send`` writes each command by itself. Waking for every one costs more CPU
# than all else, so after a small piece it sleeps a little; more gathers (see ``hop``).
# Small files come slowly: with 0.2 ms at most they cost 1.7 times as much CPU. Never so
# long that the pipe may fill up meanwhile, whose slots hold little of small pieces.
_FEW, _MANY = 64 * 1024, 128 * 1024
_SHORTEST_SLEEP_S, _LONGEST_SLEEP_S = 0.00005, 0.002


def filter_argv(words: Sequence[str]) -> tuple[str, ...]:
    """Return the command that adds checkpoints to what comes on its stdin.

    :param words: what :func:`filter_words` gives.
    """
    folder = os.path.dirname(os.path.abspath(__file__))
    root = os.path.dirname(os.path.dirname(folder))
    return (sys.executable, "-I", "-S", "-c", _START, root, *words)


def filter_words(
    interval: int, key: str, known: tuple[int, bytes] | None
) -> tuple[str, ...]:
    """Return the arguments of the filter.

    :param interval: bytes between two checkpoints.
    :param key: what no other attempt at the same stream has, ASCII.
    :param known: offset and digest of the checkpoint to go on from.
    """
    return (str(interval), key, *((str(known[0]), known[1].hex()) if known else ()))


@functools.lru_cache(maxsize=None)
def portable() -> str:
    """Return the filter as one word, for ``exec(zlib.decompress(b64decode(word)))``."""
    package = __name__.partition(".")[0]
    inner, wire = f"{package}.sendstream", f"{package}.wire"
    names = (f"{inner}.crc32c", f"{inner}.format", f"{inner}.checkpoint")
    texts = [(package, ""), (inner, ""), (wire, "")]
    for name in (*names, f"{wire}.protocol", __name__):
        with open(sys.modules[name].__file__ or "", encoding="utf-8") as file:
            texts.append((name, file.read()))
    return _packed(_UNPACK % (texts,))


def _packed(text: str) -> str:
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode("ascii")


def main(counting: bool = False) -> None:
    """Be that process.

    :param counting: say again and again how much was written.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    interval, key, *rest = sys.argv[1:]
    moved = _Moved(_teller(MOVED) if counting else _silent)
    checkpoints = Checkpoints(
        _reader(0),
        _writer(1, moved.add),
        _mover(0, 1, moved.add),
        interval=int(interval),
        key=key.encode("ascii"),
        known=(int(rest[0]), bytes.fromhex(rest[1])) if rest else None,
        new_uuid=lambda: os.urandom(16),
        note=_teller(SKIPPED),
    )
    try:
        checkpoints.run()
        if counting:
            os.write(2, MOVED % moved.size)
    except StreamDiffers as error:
        _end(DIFFERS, str(error))
    except StreamDamaged as error:
        _end(1, str(error))


def _end(status: int, text: str) -> None:
    sys.stderr.write(f"ERROR: {text}\n")
    sys.exit(status)


def _reader(descriptor: int) -> Callable[[memoryview], int]:
    sleep_s = 0.0

    def read_into(buffer: memoryview) -> int:
        nonlocal sleep_s
        if len(buffer) < _FEW:  # more is not wanted
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


class _Moved:
    """What has been written so far."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self.size = 0
        self._tell = tell

    def add(self, size: int) -> None:
        self.size += size
        self._tell(self.size)


def _silent(size: int) -> None:
    """Tell nobody."""


def _writer(
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
    write = _writer(sink, count)

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


def _teller(text: bytes) -> Callable[[int], None]:
    due = 0.0

    def tell(size: int) -> None:
        nonlocal due
        now = time.monotonic()
        if now >= due:
            due = now + _SAY_EACH_S
            os.write(2, text % size)

    return tell
