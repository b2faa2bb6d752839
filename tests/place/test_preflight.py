"""The margin that a transfer leaves free grows with it."""

from __future__ import annotations

import pytest

from btrfs_backup_ng.core.model import TransferOptions
from btrfs_backup_ng.place.preflight import fits

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
