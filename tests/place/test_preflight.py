"""The margin that a transfer leaves free, and the mounts that a snapshot lacks."""

from __future__ import annotations

import pytest

from btrfs_backup_ng.core.location import parse_location
from btrfs_backup_ng.core.model import Facts, TransferOptions
from btrfs_backup_ng.endpoint.local import local_place
from btrfs_backup_ng.host.facts import parse_facts
from btrfs_backup_ng.place.preflight import fits, mounts_left_out, note_mounts

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@pytest.mark.parametrize(
    "needed, free, percent",
    [
        (4 * KIB, 5 * MIB, 10),
        (40 * MIB, 85 * MIB, 0),
        (GIB, GIB + 100 * MIB, 0),
        (10 * GIB, 11 * GIB, 10),
    ],
)
def test_a_margin_is_in_proportion_to_the_transfer(
    needed: int, free: int, percent: float
) -> None:
    options = TransferOptions(safety_margin_percent=percent)
    assert fits(needed, free, options)
    assert not fits(needed, free - 2 * MIB, options)


def _hello(*mounts: str) -> Facts:
    lines = [
        "21 1 0:20 /@ / rw - btrfs /dev/sda1 rw",
        "22 21 0:20 /@home /home rw - btrfs /dev/sda1 rw",
        "23 21 0:5 / /proc rw - proc proc rw",
        "24 21 0:6 / /run/user rw - tmpfs tmpfs rw",
        "25 21 8:2 / /boot rw - vfat /dev/sda2 rw",
        "26 21 7:1 / /snap/core ro - squashfs /dev/loop1 ro",
        "27 21 0:20 /@/srv /var/www rw - btrfs /dev/sda1 rw",
        "28 21 0:20 /@snapshots /.snapshots rw - btrfs /dev/sda1 rw",
        "29 21 8:3 / /mnt/usb\\040disk rw - btrfs /dev/sdb1 rw",
        *mounts,
    ]
    stat = {
        "stat": "9123683e 1 4096 1 1 1 9123683e 1 4096 1 1 1",
        "empty": "",
        "destination_above": "",
    }
    answer = {"exists": "1", "directory": "1", "where": "/", "containing": "/"}
    return parse_facts({**answer, **stat, "mounts": "\n".join(lines)})


def test_mounts_of_disks_below_a_source_are_named_but_for_its_own() -> None:
    source = local_place(parse_location("/", working_directory="/"), "/.snapshots")
    source.facts = _hello()
    usb = parse_location("/mnt/usb disk/backups", working_directory="/")
    assert mounts_left_out(source, [usb]) == {"/boot", "/home"}
    assert mounts_left_out(source, []) == {"/boot", "/home", "/mnt/usb disk"}
    source.facts = _hello(
        *(f"3{n} 21 9:{n} / /m{n} rw - xfs /dev/md{n} rw" for n in range(9))
    )
    text = note_mounts(source, mounts_left_out(source, [usb])).text
    assert text.startswith(
        "mounted below /, so not in its snapshots: /boot, /home, /m0"
    )
    assert text.endswith("/m7 and 1 more")
