"""The layout of a send stream, and its checksum."""

from btrfs_backup_ng.sendstream.crc32c import crc32c
from btrfs_backup_ng.sendstream.format import (
    Attribute,
    Kind,
    build_command,
    preamble,
)


def test_the_checksum_is_castagnoli_without_inversions():
    # RFC 3720 B.4, whose values start with all ones and end inverted.
    vectors = {
        bytes(32): 0x8A9136AA,
        b"\xff" * 32: 0x62A8AB43,
        b"123456789": 0xE3069283,
    }
    for data, expected in vectors.items():
        assert crc32c(data, 0xFFFFFFFF) ^ 0xFFFFFFFF == expected


def test_the_checksum_of_parts_can_be_chained():
    assert crc32c(b"6789", crc32c(b"12345")) == crc32c(b"123456789")


def test_a_built_command_is_what_btrfs_send_writes():
    # Recorded: btrfs-progs 6.2, Linux 6.18.
    recorded = "110000000900e66cf0260f0008006f3235372d372d301000010066"
    attributes = [(Attribute.PATH, b"o257-7-0"), (Attribute.PATH_TO, b"f")]
    assert build_command(Kind.RENAME, attributes).hex() == recorded


def test_the_preamble_names_the_version():
    assert preamble(2) == b"btrfs-stream\0\x02\0\0\0"
