"""The size of a send stream, predicted from a stream without data: ``send --no-data``.

That stream is the real one with an UPDATE_EXTENT in place of the WRITE commands for a
range of a file, be it data, or a hole or preallocated range that must be written as
zeros. So its own bytes and the sizes in it give the length of the real one, to the
byte.
"""

from collections.abc import Callable, Iterator

from btrfs_backup_ng.sendstream.format import ATTRIBUTE, COMMAND, U64, Attribute, Kind
from btrfs_backup_ng.sendstream.reader import StreamCommand, parse_frame, read_frames

# Data that the kernel puts into a WRITE, from protocol 2 on as much as a compressed
# extent may hold: max_send_read_size() in fs/btrfs/send.c. (With pages of 64 KiB it is
# 176 KiB, which makes protocol 2 shorter by less than 0.01 %.)
_WRITE_SIZE = 48 << 10
_LARGE_WRITE_SIZE = 128 << 10
_NUMBER = ATTRIBUTE.size + U64.size
# Additional attributes of an ENCODED_WRITE: three numbers, compression and encryption.
_ENCODED = 3 * _NUMBER + 2 * (ATTRIBUTE.size + 4)
# Of UTIMES, from protocol 2 on.
_OTIME = ATTRIBUTE.size + 12

#: Path in the stream, inode if it is known, offset -> compressed size of that extent,
#: None if it is not compressed.
Compressed = Callable[[bytes, int | None, int], int | None]


def predict_sizes(
    read: Callable[[int], bytes],
    *,
    protocol: int | None = None,
    compressed: bool | Compressed = False,
) -> Iterator[int]:
    """Return, after each command of a stream without data, the size of the real one.

    It never shrinks, so that a comparison with a limit can stop early. The last value
    is exact if both streams are of the same protocol. If not, it lacks the holes that
    protocol 2 punches (FALLOCATE) and protocol 1 fills with zeros, and the commands
    that only protocol 2 has (FILEATTR).

    :param read: returns up to the given number of bytes of the stream; none only at the
        end.
    :param protocol: of the real stream, if it differs.
    :param compressed: the real one is sent with ``--compressed-data``; the result is an
        upper bound, unless this function returns the sizes on the disk.
    :raises StreamDamaged: if it is not a send stream.
    """
    added = 0
    # The inode of a new file comes before its data.
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
                is_bound = compressed is True
                size = _size_of_writes(command, protocol or version, is_bound)
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
    """Return the length of the ENCODED_WRITE that replaces an UPDATE_EXTENT."""
    beside = COMMAND.size + ATTRIBUTE.size + len(update.path) + _NUMBER + _ENCODED
    return beside + ATTRIBUTE.size // 2 + stored


def _size_of_writes(command: StreamCommand, protocol: int, compressed: bool) -> int:
    """Return the length of the WRITE commands that replace an UPDATE_EXTENT."""
    size = command.number(Attribute.SIZE)
    if protocol == 1:
        most, data_header = _WRITE_SIZE, ATTRIBUTE.size
    else:  # the data has a type, but no length
        most, data_header = _LARGE_WRITE_SIZE, ATTRIBUTE.size // 2
    beside = COMMAND.size + ATTRIBUTE.size + len(command.path) + _NUMBER + data_header
    # A larger extent is compressed by a block at least, or not compressed.
    if compressed and size < most:
        beside += _ENCODED
    return size + -(-size // most) * beside
