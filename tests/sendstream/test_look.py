"""The look at a stream that passes: a good one is unchanged, a garbled one ends."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from btrfs_backup_ng.sendstream.format import (
    COMMAND,
    MAGIC,
    MAX_COMMAND,
    PREAMBLE_SIZE,
    Kind,
    StreamDamaged,
    build_command,
    frame_command,
    preamble,
)
from btrfs_backup_ng.sendstream.look import pass_on
from tests.sendstream import kept
from tests.support import streams

_SEVERAL = ("nothing", "two streams", "two subvolumes")
STREAMS = {name: one for name, one in kept.load().items() if name not in _SEVERAL}
SMALL = streams.stream(
    streams.subvolume(b"x-1"),
    *(streams.file(b"name %d" % number) for number in range(3)),
    streams.file(b"large", bytes(700)),
    streams.END,
)


def _passed(stream: bytes, sizes: Iterator[int] | None = None) -> bytes:
    """Return what passes, read in pieces of some sizes."""
    source, out = memoryview(stream), bytearray()

    def read_into(buffer: memoryview) -> int:
        nonlocal source
        size = min(len(buffer), len(source), next(sizes) if sizes else len(source))
        buffer[:size] = source[:size]
        source = source[size:]
        return size

    pass_on(read_into, out.extend)
    return bytes(out)


@pytest.mark.parametrize("name", STREAMS)
def test_a_good_stream_passes_unchanged_however_it_comes(name: str) -> None:
    dice = random.Random(name)
    stream = STREAMS[name]
    assert _passed(stream) == stream
    assert _passed(stream, iter(lambda: dice.randint(1, 5000), 0)) == stream
    if len(stream) < 1000:
        assert _passed(stream, iter(lambda: 1, 0)) == stream


def test_a_stream_that_begins_again_at_any_byte_is_never_taken_for_a_good_one() -> None:
    assert _passed(SMALL) == SMALL
    for cut in range(1, len(SMALL) + 1):
        with pytest.raises(StreamDamaged):
            _passed(SMALL[:cut] + SMALL)


def test_neither_is_one_that_fits_the_command_in_which_it_begins_again() -> None:
    at = PREAMBLE_SIZE + len(streams.subvolume(b"x-1"))
    written = frame_command(Kind.WRITE, bytes(len(SMALL)))
    for boundary in (at, at + len(streams.file(b"name 0"))):
        rest = len(written) - boundary
        garbled = SMALL[:at] + written[:rest] + SMALL
        with pytest.raises(StreamDamaged, match=f"byte {at}: the checksum"):
            _passed(garbled)


def test_a_file_that_holds_a_stream_is_no_damage() -> None:
    stream = streams.stream(
        streams.subvolume(b"x-1"),
        streams.file(b"kept", SMALL + MAGIC),
        streams.file(b"more", MAGIC),
        streams.END,
    )
    assert _passed(stream) == stream


_BEGIN = preamble(1) + streams.subvolume(b"x-1")


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (b"", "before its END"),
        (SMALL[:30], "before its END"),
        (SMALL[: -len(streams.END)], "before its END"),
        (SMALL[:-1], "before its END"),
        (SMALL + b"x" * 10, "starts no command|follows"),
        (SMALL + streams.END, "follows"),
        (SMALL + SMALL, "starts no command"),
        (b"something else that is long enough", "does not begin"),
        (preamble(4) + SMALL[PREAMBLE_SIZE:], "does not begin"),
        (preamble(1) + streams.END, "makes no subvolume"),
        (_BEGIN + streams.subvolume(b"x-2"), "second subvolume"),
        (_BEGIN + COMMAND.pack(MAX_COMMAND + 1, Kind.WRITE, 0), "starts no command"),
        (_BEGIN + bytes(20), "starts no command"),
        (_BEGIN + COMMAND.pack(0, Kind.END, 1), "checksum"),
        (_BEGIN[:-1] + b"x" + build_command(Kind.END, ()), "checksum"),
    ],
)
def test_anything_else_is_refused(stream: bytes, why: str) -> None:
    with pytest.raises(StreamDamaged, match=why):
        _passed(stream)
    with pytest.raises(StreamDamaged, match=why):
        _passed(stream, iter(lambda: 7, 0))
