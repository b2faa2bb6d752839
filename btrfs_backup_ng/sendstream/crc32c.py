"""The checksum of commands: CRC-32C (Castagnoli), as btrfs computes it.

The polynomial is that of RFC 3720, reflected. btrfs starts with 0 and inverts nothing
(``btrfs_crc32c`` in the kernel), so the checksum of parts can be chained.
"""

from __future__ import annotations

_POLYNOMIAL = 0x82F63B78


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ _POLYNOMIAL if byte & 1 else byte >> 1
        table.append(byte)
    return tuple(table)


_TABLE = _table()


def crc32c(data: bytes | bytearray | memoryview, checksum: int = 0) -> int:
    """Return the checksum of ``data``, continued from ``checksum``."""
    table = _TABLE
    for byte in data:
        checksum = table[(checksum ^ byte) & 0xFF] ^ checksum >> 8
    return checksum
