"""What a stream is going to be long, told from its dry twin: ``send --no-data``.

A dry stream is the real one with an UPDATE_EXTENT in place of the WRITE commands for a
range of a file, be it data, or a hole or preallocated where zeros must be written.  So
its own bytes and the sizes in it give the length of the real one, to the byte.
"""

from collections.abc import Callable, Iterator

from btrfs_backup_ng.sendstream.format import ATTRIBUTE, COMMAND, U64, Attribute, Kind
from btrfs_backup_ng.sendstream.reader import StreamCommand, parse_frame, read_frames

# How much data the kernel puts into a WRITE, from protocol 2 on as much as there may be
# in a compressed extent: max_send_read_size() in fs/btrfs/send.c.  (Where pages are of
# 64 KiB it is 176 KiB, which makes protocol 2 shorter by less than 0.01 %.)
_WRITE_SIZE = 48 << 10
_LARGE_WRITE_SIZE = 128 << 10
_NUMBER = ATTRIBUTE.size + U64.size
# What an ENCODED_WRITE has beside: three numbers, compression and encryption.
_ENCODED = 3 * _NUMBER + 2 * (ATTRIBUTE.size + 4)
# Of UTIMES, from protocol 2 on.
_OTIME = ATTRIBUTE.size + 12


#: Path in the stream, inode if it is known, offset -> how much the extent there takes
#: compressed, ``None`` if it is not compressed.
Compressed = Callable[[bytes, int | None, int], int | None]


def predict_size(
    read: Callable[[int], bytes],
    *,
    protocol: int | None = None,
    compressed: bool | Compressed = False,
) -> int:
    """Tell how long the real stream is that a dry one stands for.

    It is exact where both are of the same protocol.  Where they are not, the holes that
    protocol 2 punches (FALLOCATE) and protocol 1 fills with zeros, and what only
    protocol 2 says (FILEATTR), are off.

    :param read: gives up to so many bytes of the dry stream, and none only at its end.
    :param protocol: of the real stream, if it is not that of the dry one.
    :param compressed: the real one is sent with ``--compressed-data``; what comes out
        is an upper bound, unless this can tell how the data lies on the disk.
    :raises StreamDamaged: if it is no send stream.
    """
    size = 0
    for size in predict_sizes(read, protocol=protocol, compressed=compressed):
        pass
    return size


def predict_sizes(
    read: Callable[[int], bytes],
    *,
    protocol: int | None = None,
    compressed: bool | Compressed = False,
) -> Iterator[int]:
    """Tell after each command of a dry stream how long the real one is so far.

    It never gets less, so that whoever asks whether it is more than a limit can stop
    there.  Parameters and errors are those of :func:`predict_size`.
    """
    added = 0
    # The stream tells the number of a new file before it tells of its data.
    inode, path = None, b""
    for frame in read_frames(read, check=False):
        offset, version, kind, body = frame
        length = COMMAND.size + len(body)
        if kind == Kind.UPDATE_EXTENT:
            command = parse_frame(frame)
            stored = None
            if callable(compressed):
                known = inode if command.path == path else None
                at = command.number(Attribute.FILE_OFFSET)
                stored = compressed(command.path, known, at)
            size = command.number(Attribute.SIZE)
            if stored is not None and stored <= size:
                added += _encoded_size(command, stored) - length
            else:
                upper = compressed is True
                size = _size_of_writes(command, protocol or version, upper)
                added += size - length
        elif kind == Kind.MKFILE and callable(compressed):
            command = parse_frame(frame)
            inode, path = command.number(Attribute.INO), command.path
        elif kind == Kind.RENAME and callable(compressed):
            command = parse_frame(frame)
            path = command.value(Attribute.PATH_TO) if command.path == path else path
        elif kind == Kind.UTIMES and protocol and (protocol > 1) != (version > 1):
            added += _OTIME if protocol > 1 else -_OTIME
        yield offset + length + added


def _encoded_size(update: StreamCommand, stored: int) -> int:
    """Tell how long the ENCODED_WRITE is that an UPDATE_EXTENT stands for."""
    beside = COMMAND.size + ATTRIBUTE.size + len(update.path) + _NUMBER + _ENCODED
    return beside + ATTRIBUTE.size // 2 + stored


def _size_of_writes(command: StreamCommand, protocol: int, compressed: bool) -> int:
    """Tell how long the WRITE commands are that an UPDATE_EXTENT stands for."""
    size = command.number(Attribute.SIZE)
    if protocol == 1:
        most, data_header = _WRITE_SIZE, ATTRIBUTE.size
    else:  # the data has a type, but no length
        most, data_header = _LARGE_WRITE_SIZE, ATTRIBUTE.size // 2
    beside = COMMAND.size + ATTRIBUTE.size + len(command.path) + _NUMBER + data_header
    # What is larger is compressed by a block at least, or is no compressed extent.
    if compressed and size < most:
        beside += _ENCODED
    return size + -(-size // most) * beside
