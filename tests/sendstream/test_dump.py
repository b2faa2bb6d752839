"""Our reader and ``btrfs receive --dump`` say the same about a stream."""

from __future__ import annotations

import random

import pytest

from btrfs_backup_ng.sendstream.format import (
    ATTRIBUTE,
    MAX_COMMAND,
    Attribute,
    Kind,
    frame_command,
    preamble,
)
from tests.sendstream import dump, kept, mutations
from tests.support import variety

STREAMS = kept.load()
CUTS = FLIPS = 50
MUTANTS = 200


def _length(stream: bytes) -> str:
    return f"{len(stream)} bytes"


@pytest.mark.parametrize("name", STREAMS)
def test_they_agree_on_a_kept_stream(name):
    assert not dump.disagreements(STREAMS[name])


def test_they_agree_on_one_of_everything(btrfs):
    filesystem = btrfs()
    source = filesystem.subvolume("source")
    variety.fill(source, 4)
    first = filesystem.snapshot("source", "first")
    variety.change(source, 4)
    second = filesystem.snapshot("source", "second")
    for protocol in ("1", "2"):
        for words in ([first], ["-p", first, second]):
            dry = kept.send("--proto", protocol, "--no-data", *words)
            assert not dump.disagreements(dry)
    whole = kept.send("--proto", "2", "-p", first, second)
    assert not dump.disagreements(whole)
    assert not dump.disagreements(kept.send("-e", "--no-data", first, second))


@pytest.mark.parametrize("name", ["changes 1", "changes 2", "verity", "short data"])
def test_they_agree_on_where_a_stream_is_cut(name):
    stream = STREAMS[name]
    starts = [0, *mutations.starts(stream)]
    edges = [start + by for start in starts for by in (-1, 0, 1, 10)]
    die = random.Random(f"cuts {name}")
    cuts = {*die.sample(edges, min(CUTS // 2, len(edges)))}
    cuts |= {die.randrange(len(stream)) for _ in range(CUTS // 2)}
    for cut in sorted(cuts):
        assert not dump.disagreements(stream[: max(cut, 0)]), cut


@pytest.mark.parametrize("name", ["changes 2", "rare commands", "compressed"])
def test_they_agree_on_flipped_bits(name):
    stream, die = STREAMS[name], random.Random(f"flips {name}")
    for _ in range(FLIPS):
        bit = die.randrange(8 * len(stream))
        changed = mutations.flip(stream, bit)
        assert not dump.disagreements(changed), bit
        assert not dump.disagreements(mutations.reseal(changed)), bit


def test_they_agree_on_mutants():
    streams, die = list(STREAMS.values()), random.Random("mutants")
    for _ in range(MUTANTS):
        mutant = mutations.mutate(die.choice(streams), streams, die)
        assert not dump.disagreements(mutant), mutant.hex()


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b"btrfs-stream",
        bytes(1000),
        random.Random("garbage").randbytes(1000),
        preamble(1),
        preamble(2),
        preamble(4) + kept.END,
        preamble(1) + random.Random("garbage").randbytes(1000),
        preamble(1) + kept.END,
        preamble(1) + kept.SUBVOL,
    ],
    ids=_length,
)
def test_they_agree_on_garbage_and_next_to_nothing(stream):
    assert not dump.disagreements(stream)


def _one(kind: int, body: bytes) -> bytes:
    return preamble(2) + kept.SUBVOL + frame_command(kind, body) + kept.END


_NAME = b"\x0f\0\1\0f"
_OFFSET = ATTRIBUTE.pack(Attribute.FILE_OFFSET, 8) + bytes(8)


@pytest.mark.parametrize(
    "stream",
    [
        _one(99, _NAME),  # --dump, and a real receive, leave it out without a word
        _one(0, b""),
        preamble(0) + kept.END,
        _one(Kind.WRITE, _NAME + _OFFSET + b"\x13\0" + bytes(MAX_COMMAND)),
        _one(Kind.UNLINK, b"\x0f\0\3\0a\0b"),  # cut at the NUL
        _one(Kind.UNLINK, _NAME + ATTRIBUTE.pack(Attribute.INO, 1) + b"1"),
        preamble(1) + kept.END + b"x",  # --dump stops at END, a real receive does not
        preamble(1) + kept.END + bytes(100),
    ],
    ids=_length,
)
def test_ours_is_stricter_on_purpose(stream):
    assert dump.dump(stream).status == 0
    assert dump.read(stream).damage


@pytest.mark.btrfs
def test_a_real_receive_takes_and_refuses_what_may_follow_a_stream(btrfs):
    place = btrfs().path
    one = STREAMS["two streams"][: STREAMS["two streams"].index(b"btrfs-stream", 1)]
    other = one.replace(kept.SUBVOL, _renamed())
    for number, stream in enumerate(
        [
            one,
            one + other,
            one + b"x",
            one + bytes(17),
            one + other[:-1],
            one + preamble(1),
            one + preamble(1) + kept.END,
        ]
    ):
        directory = place / str(number)
        directory.mkdir()
        accepted = kept.receive(stream, directory)
        assert accepted == (dump.read(stream).damage is None), number


def _renamed() -> bytes:
    """Begin another subvolume than that of the corpus."""
    body = kept.SUBVOL[10:].replace(b"by hand", b"another")
    return frame_command(Kind.SUBVOL, body)
