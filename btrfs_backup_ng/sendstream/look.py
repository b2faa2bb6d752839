"""The process that looks at a stream as it passes to a program that does not.

``btrfs receive`` checks every command; a command of the user (``shell://``) stores
whatever comes. If a signal stops ``btrfs send`` (SIGSTOP, a freezer, a machine that
goes to sleep), the kernel begins the stream again, in the middle of a command, and the
sender ends well all the same (``write_buf`` in fs/btrfs/send.c). Checksums of all data
would cost more than sending it. But such a stream has its beginning twice, up to its
first command, so the checksum of a command is computed only if it contains that, and of
the few commands that are checked in any case. (The longer the text, the quicker it is
searched for: 11 GB a second, where the 13 bytes of ``MAGIC`` take three times as long.)

Exit status: 0, 1 for a damaged stream; killed by SIGPIPE if its reader ends.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from btrfs_backup_ng.sendstream.filter import Counted, end, reader, reporter, writer
from btrfs_backup_ng.sendstream.format import (
    COMMAND,
    LAST_VERSION,
    MAGIC,
    MAX_COMMAND,
    PREAMBLE_SIZE,
    VERSION,
    Kind,
    StreamDamaged,
    checksum,
)
from btrfs_backup_ng.wire.protocol import MOVED

#: Size of the buffer: for one read, and a command.
_BUFFER_SIZE = 2 * MAX_COMMAND
#: Of the beginning of a stream, so many bytes are searched for.
_BEGINNING = 100
#: Of the commands that a read brings, the first is checked if it is not longer.
_SHORT = 256
_START = (
    "import sys; sys.path.insert(0, sys.argv.pop(1));"
    " from btrfs_backup_ng.sendstream.look import main; main()"
)


def look_argv() -> tuple[str, ...]:
    """Return the command that passes a whole stream on from its stdin."""
    folder = os.path.dirname(os.path.abspath(__file__))
    root = os.path.dirname(os.path.dirname(folder))
    return (sys.executable, "-I", "-S", "-c", _START, root)


def main() -> None:
    """Pass the stream on stdin to stdout, and report how much that was."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    moved = Counted(reporter(MOVED))
    try:
        pass_on(reader(0), writer(1, moved.add))
        os.write(2, MOVED % moved.size)
    except StreamDamaged as error:
        end(1, str(error))


def pass_on(
    read_into: Callable[[memoryview], int],
    write: Callable[[memoryview], None],
) -> None:
    """Pass one stream on, command by command, as long as it is good.

    :param read_into: fills the beginning of a buffer and returns by how much; 0 at the
        end.
    :param write: writes all of its argument.
    :raises StreamDamaged: if it is not one whole stream.
    """
    buffer = bytearray(_BUFFER_SIZE)
    view = memoryview(buffer)
    base = rest = 0  # offset of the buffer in the stream; bytes in it
    last = -1  # kind of the command before the buffer; -1 at the start
    beginning = b""
    while taken := read_into(view[rest:]):
        stop = rest + taken
        begin = 0 if last != -1 else PREAMBLE_SIZE
        if begin and stop < begin + COMMAND.size:
            rest = stop
            continue
        try:
            if begin:
                _check_preamble(buffer)
                beginning = bytes(buffer[: min(_behind(buffer, begin), _BEGINNING)])
            done, last = _walk(buffer, begin, stop, last)
            _check_repeated(buffer, begin, done, beginning)
        except StreamDamaged as error:
            raise StreamDamaged(base + error.offset, error.why) from error
        if last == -1:
            done = 0
        write(view[:done])
        rest = stop - done
        buffer[:rest] = buffer[done:stop]
        base += done
    if last != Kind.END or rest:
        raise StreamDamaged(base, "it ends before its END command")


def _check_preamble(buffer: bytearray) -> None:
    (version,) = VERSION.unpack_from(buffer, len(MAGIC))
    if not buffer.startswith(MAGIC) or not 1 <= version <= LAST_VERSION:
        raise StreamDamaged(0, "it does not begin as a send stream does")


def _walk(buffer: bytearray, begin: int, stop: int, last: int) -> tuple[int, int]:
    """Check the whole commands in a part of the buffer.

    :param last: kind of the command before them, -1 for none.
    :returns: where they end, and the kind of the last one.
    """
    unpack, header, end_kind = COMMAND.unpack_from, COMMAND.size, int(Kind.END)
    at = begin
    while at + header <= stop:
        size, kind, _ = unpack(buffer, at)
        after = at + header + size
        makes = kind == Kind.SUBVOL or kind == Kind.SNAPSHOT
        if size > MAX_COMMAND or not 0 < kind <= max(Kind):
            raise StreamDamaged(at, "there starts no command")
        if makes != (last == -1):
            why = "it makes a second subvolume" if makes else "it makes no subvolume"
            raise StreamDamaged(at, why)
        if last == end_kind:
            raise StreamDamaged(at, "something follows its end")
        if after > stop:
            break
        if kind == end_kind or (at == begin and size <= _SHORT):
            _check(buffer, at, after)
        last = kind
        at = after
    return at, last


def _check_repeated(buffer: bytearray, begin: int, stop: int, wanted: bytes) -> None:
    """Check the commands that contain the beginning of the stream."""
    at = begin
    while (found := buffer.find(wanted, at, stop)) >= 0:
        while (after := _behind(buffer, at)) <= found:
            at = after
        _check(buffer, at, after)
        at = after


def _behind(buffer: bytearray, at: int) -> int:
    size, _, _ = COMMAND.unpack_from(buffer, at)
    return at + COMMAND.size + int(size)


def _check(buffer: bytearray, at: int, after: int) -> None:
    _, _, wanted = COMMAND.unpack_from(buffer, at)
    if checksum(buffer, at, after) != wanted:
        raise StreamDamaged(at, "the checksum does not match")
