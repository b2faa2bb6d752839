"""The layout of a send stream: its numbers, its headers, how a command is built.

Names and numbers are those of ``fs/btrfs/send.h`` in the kernel, protocol 1 to 3; all
integers are little-endian. A stream is :data:`MAGIC`, a version (u32) and commands; a
command is a header (:data:`COMMAND`) and attributes, each a type and a length (two
u16) before its value. In protocol 2 and later a DATA attribute has no length: it is the
last one and fills the rest of its command.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable

from btrfs_backup_ng.sendstream.crc32c import crc32c

MAGIC = b"btrfs-stream\0"
VERSION = struct.Struct("<I")
#: Length of magic and version.
PREAMBLE_SIZE = len(MAGIC) + VERSION.size
#: Size of the attributes, command, crc32c of the whole command with 0 in its place.
COMMAND = struct.Struct("<IHI")
#: Type and size of an attribute.
ATTRIBUTE = struct.Struct("<HH")
U64 = struct.Struct("<Q")
LAST_VERSION = 3
#: Limit on the attributes of a command. The kernel's own limits are 64 KiB in protocol
#: 1 and 144 KiB from protocol 2 on (``send_max_size`` in fs/btrfs/send.c).
MAX_COMMAND = 1 << 20


class Kind(enum.IntEnum):
    SUBVOL = 1
    SNAPSHOT = 2
    MKFILE = 3
    MKDIR = 4
    MKNOD = 5
    MKFIFO = 6
    MKSOCK = 7
    SYMLINK = 8
    RENAME = 9
    LINK = 10
    UNLINK = 11
    RMDIR = 12
    SET_XATTR = 13
    REMOVE_XATTR = 14
    WRITE = 15
    CLONE = 16
    TRUNCATE = 17
    CHMOD = 18
    CHOWN = 19
    UTIMES = 20
    END = 21
    UPDATE_EXTENT = 22
    FALLOCATE = 23
    FILEATTR = 24
    ENCODED_WRITE = 25
    ENABLE_VERITY = 26


class Attribute(enum.IntEnum):
    UUID = 1
    CTRANSID = 2
    INO = 3
    SIZE = 4
    MODE = 5
    UID = 6
    GID = 7
    RDEV = 8
    CTIME = 9
    MTIME = 10
    ATIME = 11
    OTIME = 12
    XATTR_NAME = 13
    XATTR_DATA = 14
    PATH = 15
    PATH_TO = 16
    PATH_LINK = 17
    FILE_OFFSET = 18
    DATA = 19
    CLONE_UUID = 20
    CLONE_CTRANSID = 21
    CLONE_PATH = 22
    CLONE_OFFSET = 23
    CLONE_LEN = 24
    FALLOCATE_MODE = 25
    FILEATTR = 26
    UNENCODED_FILE_LEN = 27
    UNENCODED_LEN = 28
    UNENCODED_OFFSET = 29
    COMPRESSION = 30
    ENCRYPTION = 31
    VERITY_ALGORITHM = 32
    VERITY_BLOCK_SIZE = 33
    VERITY_SALT_DATA = 34
    VERITY_SIG_DATA = 35


class StreamDamaged(ValueError):
    """A stream differs from the format of ``btrfs send``.

    :ivar offset: in the stream, of the wrong command (or preamble).
    """

    def __init__(self, offset: int, why: str) -> None:
        super().__init__(f"the stream is damaged at byte {offset}: {why}")
        self.offset = offset
        self.why = why


def preamble(version: int) -> bytes:
    """Return the bytes before the first command."""
    return MAGIC + VERSION.pack(version)


def frame_command(kind: int, body: bytes) -> bytes:
    """Return a command: its header, with the checksum, and its attributes."""
    blank = COMMAND.pack(len(body), kind, 0)
    return COMMAND.pack(len(body), kind, crc32c(body, crc32c(blank))) + body


def checksum(buffer: bytes | bytearray, at: int, end: int) -> int:
    """Return the checksum of a command in a buffer, whatever its header says."""
    blank = buffer[at : at + COMMAND.size - 4] + bytes(4)
    return crc32c(buffer[at + COMMAND.size : end], crc32c(blank))


def build_command(kind: int, attributes: Iterable[tuple[int, bytes]]) -> bytes:
    """Return a command that carries no data.

    :param attributes: types and values, in the order in which they are written.
    """
    body = b"".join(
        ATTRIBUTE.pack(kind, len(value)) + value for kind, value in attributes
    )
    return frame_command(kind, body)
