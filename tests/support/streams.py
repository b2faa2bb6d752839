"""Send streams made by hand, which no honest ``btrfs send`` would write.

Layout: fs/btrfs/send.h of Linux.
"""

from __future__ import annotations

import struct

MAGIC = b"btrfs-stream\0" + struct.pack("<I", 1)
_SUBVOL, _MKFILE, _SYMLINK, _WRITE, _END = 1, 3, 8, 15, 21
_UUID, _CTRANSID, _INODE = 1, 2, 3
_PATH, _PATH_LINK, _FILE_OFFSET, _DATA = 15, 17, 18, 19


def _crc32c(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


def command(number: int, *attributes: tuple[int, bytes]) -> bytes:
    """Write one command with its checksum."""
    body = b"".join(
        struct.pack("<HH", kind, len(value)) + value for kind, value in attributes
    )
    bare = struct.pack("<IHI", len(body), number, 0) + body
    return struct.pack("<IHI", len(body), number, _crc32c(bare)) + body


def subvolume(name: bytes, identity: bytes = b"u" * 16) -> bytes:
    """Begin a subvolume."""
    generation = struct.pack("<Q", 7)
    return command(_SUBVOL, (_PATH, name), (_UUID, identity), (_CTRANSID, generation))


def file(path: bytes, content: bytes = b"evil") -> bytes:
    """Make a file with some content."""
    return command(_MKFILE, (_PATH, path), (_INODE, struct.pack("<Q", 300))) + command(
        _WRITE, (_PATH, path), (_FILE_OFFSET, struct.pack("<Q", 0)), (_DATA, content)
    )


def symlink(path: bytes, target: bytes) -> bytes:
    """Make a symlink."""
    inode = (_INODE, struct.pack("<Q", 301))
    return command(_SYMLINK, (_PATH, path), inode, (_PATH_LINK, target))


END = command(_END)


def stream(*commands: bytes) -> bytes:
    """Join commands to a stream; it ends only if they contain an end."""
    return b"".join((MAGIC, *commands))
