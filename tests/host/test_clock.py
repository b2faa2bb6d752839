"""What the kernel says of its clock, and how tests shift it."""

from __future__ import annotations

import ctypes
import struct
import sys
import time

import pytest

from btrfs_backup_ng.host import clock

#: Of ``struct timex``: status, after modes (padded), offset, freq, maxerror, esterror.
_STATUS_AT = 40
_UNSYNCHRONISED = 0x40


@pytest.mark.skipif(sys.maxsize < 2**32, reason="struct timex is another one")
def test_the_kernel_is_believed_only_if_it_says_that_its_clock_is_synchronised() -> (
    None
):
    timex = ctypes.create_string_buffer(512)
    assert ctypes.CDLL(None).adjtimex(timex) >= 0
    (status,) = struct.unpack_from("i", timex.raw, _STATUS_AT)
    assert clock.kernel_is_synchronised() == (not status & _UNSYNCHRONISED)


def test_a_clock_is_shifted_in_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    for shift in (3.2e8, -3600.0, 0.0):
        monkeypatch.setenv(clock.VARIABLE, f"{shift}")
        assert abs(clock.seconds() - time.time() - shift) < 5
        seen = clock.read_clock()
        assert abs(seen.now.timestamp() - time.time() - shift) < 5
        assert seen.now.utcoffset() is not None and not seen.is_synchronised
    monkeypatch.setenv(clock.VARIABLE, "5 synchronised")
    assert clock.read_clock().is_synchronised
    monkeypatch.delenv(clock.VARIABLE)
    assert clock.read_clock().is_synchronised == clock.kernel_is_synchronised()
