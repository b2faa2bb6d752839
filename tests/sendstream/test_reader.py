"""What the reader makes of bytes, good and bad ones."""

from __future__ import annotations

import io
import random
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btrfs_backup_ng.sendstream.format import (
    ATTRIBUTE,
    COMMAND,
    MAX_COMMAND,
    PREAMBLE_SIZE,
    U64,
    Attribute,
    Kind,
    StreamDamaged,
    build_command,
    frame_command,
    preamble,
)
from btrfs_backup_ng.sendstream.reader import (
    BLOCK,
    MAX_TEXT,
    parse_frame,
    path_of,
    read_commands,
    read_frames,
)
from btrfs_backup_ng.sendstream.size import predict_sizes
from tests.sendstream import dump, kept, mutations

STREAMS = kept.load()
MEMORY = 8 << 20
AT = PREAMBLE_SIZE + len(kept.SUBVOL)


def damage_of(stream: bytes, *, check: bool = True) -> StreamDamaged:
    damage = dump.read(stream, check=check).damage
    assert damage
    return damage


def in_pieces(stream: bytes, sizes: list[int]) -> Callable[[int], bytes]:
    """Return a read() that gives as much as it likes."""
    source, turn = io.BytesIO(stream), iter(sizes * (len(stream) + 2))
    return lambda count: source.read(min(count, next(turn)))


def one_command(kind: int, body: bytes, *, version: int = 1) -> bytes:
    return preamble(version) + kept.SUBVOL + frame_command(kind, body) + kept.END


def test_the_corpus_has_every_command_and_protocol():
    kinds = {c.kind for stream in STREAMS.values() for c in dump.read(stream).commands}
    assert kinds == set(Kind)
    assert {stream[len(b"btrfs-stream\0")] for stream in STREAMS.values()} == {1, 2, 3}


@pytest.mark.parametrize("name", STREAMS)
def test_a_good_stream_is_read_to_its_end(name):
    stream = STREAMS[name]
    reading = dump.read(stream)
    assert reading.damage is None
    assert reading.commands[-1].kind is Kind.END
    offsets = [command.offset for command in reading.commands]
    assert offsets == mutations.starts(stream)[:-1]


@given(st.sampled_from(sorted(STREAMS)), st.lists(st.integers(1, 5000), min_size=1))
def test_it_does_not_matter_in_which_pieces_a_stream_comes(name, sizes):
    stream = STREAMS[name]
    whole = dump.read(stream, check=False).commands
    assert list(read_commands(in_pieces(stream, sizes), check=False)) == whole


def test_a_stream_may_come_byte_by_byte():
    stream = STREAMS["two streams"]
    assert list(read_commands(in_pieces(stream, [1]))) == dump.read(stream).commands


@pytest.mark.parametrize("name", STREAMS)
def test_frames_are_the_commands_with_their_attributes_untouched(name):
    frames = list(read_frames(io.BytesIO(STREAMS[name]).read))
    assert [parse_frame(frame) for frame in frames] == dump.read(STREAMS[name]).commands
    for frame in frames:
        if frame[2] != Kind.END:
            assert path_of(frame) == parse_frame(frame).path


def test_what_a_command_has_is_read_by_its_type():
    (times,) = (
        command
        for command in dump.read(STREAMS["full 2"]).commands
        if command.kind is Kind.UTIMES and command.path == b"directory"
    )
    assert times.time_ns(Attribute.ATIME) == -1
    assert times.time_ns(Attribute.MTIME) == 1_700_000_000_123_456_789
    subvolume, mkfile, end, *_ = dump.read(STREAMS["two streams"]).commands
    assert subvolume.value(Attribute.UUID) == bytes(range(16))
    assert mkfile.number(Attribute.INO) == 257
    for wrong in (
        lambda: end.path,
        lambda: mkfile.number(Attribute.SIZE),
        lambda: mkfile.number(Attribute.PATH),
        lambda: subvolume.number(Attribute.UUID),
        lambda: mkfile.time_ns(Attribute.INO),
    ):
        with pytest.raises(StreamDamaged):
            wrong()


@given(st.data())
def test_what_is_written_is_read(data):
    path = data.draw(st.binary(max_size=200).filter(lambda path: b"\0" not in path))
    number = data.draw(st.integers(0, (1 << 64) - 1))
    size = data.draw(st.integers(0, (1 << 64) - 1))
    content = data.draw(st.binary(max_size=5000))
    version = data.draw(st.sampled_from((1, 2, 3)))
    attributes = [
        (Attribute.PATH, path),
        (Attribute.FILE_OFFSET, U64.pack(number)),
        (Attribute.SIZE, U64.pack(size)),
    ]
    stream = preamble(version) + build_command(Kind.UPDATE_EXTENT, attributes)
    stream += kept.write_command(content, version=version, path=path) + kept.END
    update, write, end = dump.read(stream).commands
    assert update.attributes == dict(attributes)
    assert (update.path, write.path) == (path, path)
    assert update.number(Attribute.FILE_OFFSET) == number
    assert update.number(Attribute.SIZE) == size
    assert write.value(Attribute.DATA) == content
    assert end.attributes == {}


def test_of_an_attribute_that_comes_twice_the_last_one_counts():
    twice = [(Attribute.PATH, b"one"), (Attribute.PATH, b"other")]
    stream = preamble(1) + build_command(Kind.UNLINK, twice) + kept.END
    assert dump.read(stream).commands[0].path == b"other"
    assert not dump.disagreements(stream)


@pytest.mark.parametrize("name", ["dry changes 2", "short data", "verity"])
def test_every_truncation_is_noticed_where_it_is(name):
    stream = STREAMS[name]
    commands, starts = dump.read(stream).commands, mutations.starts(stream)
    for length in range(len(stream)):
        reading = dump.read(stream[:length], check=False)
        whole = sum(start <= length for start in starts[1:])
        assert reading.damage
        assert reading.damage.offset == (starts[whole] if length > 16 else 0)
        assert reading.commands == commands[:whole]


def test_every_flipped_bit_is_noticed_where_it_is():
    stream = STREAMS["two subvolumes"]
    commands, starts = dump.read(stream).commands, mutations.starts(stream)
    for bit in range(8 * PREAMBLE_SIZE, 8 * len(stream)):
        reading = dump.read(mutations.flip(stream, bit))
        whole = sum(start <= bit // 8 for start in starts[1:])
        assert reading.damage
        assert reading.damage.offset == starts[whole]
        assert reading.commands == commands[:whole]


def test_a_flipped_bit_in_the_preamble_is_noticed_unless_it_gives_another_protocol():
    for bit in range(8 * PREAMBLE_SIZE):
        changed = mutations.flip(STREAMS["nothing"], bit)
        if changed[:PREAMBLE_SIZE] != preamble(3):
            assert damage_of(changed).offset == 0


def test_checksums_are_left_alone_on_demand():
    changed = mutations.flip(STREAMS["nothing"], 8 * PREAMBLE_SIZE + 8 * 8)
    assert damage_of(changed).offset == PREAMBLE_SIZE
    assert dump.read(changed, check=False).damage is None


WRONG = [
    (b"", 0, "the input is empty"),
    (preamble(1)[:9], 0, "ends within the preamble"),
    (preamble(1), 17, "ends before END"),
    (b"\0" * 100, 0, "no send stream"),
    (preamble(0) + kept.END, 0, "protocol 0"),
    (preamble(4) + kept.END, 0, "protocol 4"),
    (preamble(1) + kept.END + b"x", 27, "ends within the preamble"),
    (preamble(1) + kept.END + preamble(1), 44, "ends before END"),
    (preamble(1) + kept.END + b"what is this here", 27, "no send stream"),
    (preamble(1) + kept.END + kept.END * 2, 27, "no send stream"),
    (one_command(0, b""), AT, "unknown command 0"),
    (one_command(27, b""), AT, "unknown command 27"),
    (one_command(Kind.MKDIR, b""), AT, "MKDIR has no PATH"),
    (one_command(Kind.MKDIR, b"\x0f\0\1\0d"), AT, "MKDIR has no INO"),
    (one_command(Kind.UNLINK, b"\x0f\0\5\0abcd"), AT, "incomplete"),
    (one_command(Kind.UNLINK, b"\x0f\0\0\0\x0f"), AT, "incomplete"),
    (one_command(Kind.UNLINK, b"\x0f\0\0\0\x13\0", version=1), AT, "incomplete"),
    (one_command(Kind.UNLINK, b"\x0f\0\0\0\0\0\0\0"), AT, "attribute 0"),
    (one_command(Kind.UNLINK, b"\x0f\0\0\0\x24\0\0\0"), AT, "attribute 36"),
    (one_command(Kind.UNLINK, b"\x0f\0\0\0\3\0\1\0i"), AT, "INO of UNLINK"),
    (one_command(Kind.UNLINK, b"\x0f\0\3\0a\0b"), AT, "PATH is not a path"),
    (one_command(Kind.UNLINK, ATTRIBUTE.pack(15, 4096) + 4096 * b"p"), AT, "not a pa"),
    (one_command(Kind.END, b"\1"), AT, "incomplete"),
]


@pytest.mark.parametrize(
    ("stream", "offset", "why"), WRONG, ids=[why for _, _, why in WRONG]
)
def test_what_is_wrong_is_said_with_its_place(stream, offset, why):
    damage = damage_of(stream)
    assert damage.offset == offset
    assert why in damage.why
    assert damage_of(stream, check=False).offset == offset


def test_a_path_may_be_as_long_as_linux_allows():
    body = ATTRIBUTE.pack(Attribute.PATH, MAX_TEXT) + MAX_TEXT * b"p"
    assert dump.read(one_command(Kind.UNLINK, body)).damage is None


def test_a_lean_path_is_as_strict():
    for body in (b"", b"\x0f\0", b"\x0f\0\5\0abcd", b"\x0f\0\1\0\0"):
        with pytest.raises(StreamDamaged):
            path_of((0, 1, int(Kind.UNLINK), body))
    with pytest.raises(StreamDamaged):
        path_of((0, 1, int(Kind.UNLINK), ATTRIBUTE.pack(15, 5000) + 5000 * b"p"))
    body = ATTRIBUTE.pack(Attribute.INO, 8) + bytes(8) + b"\x0f\0\1\0p"
    assert path_of((0, 1, int(Kind.MKFILE), body)) == b"p"


def read_all_ways(stream: bytes) -> None:
    """Read in every way that there is; only StreamDamaged may come of it."""
    for check in (True, False):
        damage = dump.read(stream, check=check).damage
        assert damage is None or 0 <= damage.offset <= len(stream)
    try:
        for frame in read_frames(io.BytesIO(stream).read, check=False):
            path_of(frame)
    except StreamDamaged:
        pass
    try:
        assert min(predict_sizes(io.BytesIO(stream).read)) >= 0
    except StreamDamaged:
        pass


@given(st.binary(max_size=300), st.sampled_from((b"", preamble(1), preamble(2))))
def test_garbage_is_damaged_at_worst(garbage, start):
    read_all_ways(start + garbage)


@given(st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_a_mutated_stream_is_damaged_at_worst(die: random.Random):
    streams = list(STREAMS.values())
    read_all_ways(mutations.mutate(die.choice(streams), streams, die))


def endless(start: bytes, block: bytes, blocks: int) -> Callable[[int], bytes]:
    """Return a read() for more than any memory should hold."""

    def pieces() -> Iterator[bytes]:
        yield start
        for _ in range(blocks):
            yield block

    waiting = pieces()
    return lambda count: next(waiting, b"")


# What a stream starts with, what comes then, and how often.
HUNGRY = {
    "a lie about 4 GiB": (COMMAND.pack(0xFFFFFFFF, Kind.WRITE, 0), bytes(BLOCK), 400),
    "a lie about 2 GiB": (COMMAND.pack(0x7FFFFFFF, Kind.WRITE, 0), bytes(BLOCK), 400),
    "one too large": (COMMAND.pack(MAX_COMMAND + 1, Kind.END, 0), bytes(BLOCK), 400),
    "one as large as allowed": (
        COMMAND.pack(MAX_COMMAND, Kind.END, 0),
        bytes(BLOCK),
        400,
    ),
    "many as large as allowed": (
        b"",
        COMMAND.pack(MAX_COMMAND, Kind.WRITE, 0)
        + b"\x0f\0\0\0\x12\0\x08\0%s\x13\0" % bytes(8)
        + bytes(MAX_COMMAND - 18),
        100,
    ),
    "a large one in crumbs": (COMMAND.pack(MAX_COMMAND, Kind.END, 0), b"abcd", 1 << 18),
    "one with many attributes": (
        b"",
        COMMAND.pack(1 << 17, Kind.UNLINK, 0) + b"\x0f\0\0\0" * (1 << 15),
        2,
    ),
    "many streams": (b"", COMMAND.pack(0, Kind.END, 0) + preamble(2), 20_000),
}


@pytest.mark.parametrize("name", HUNGRY)
def test_no_stream_makes_the_reader_take_much_memory(name):
    start, block, blocks = HUNGRY[name]
    tracemalloc.start()
    try:
        for _ in read_commands(
            endless(preamble(2) + start, block, blocks), check=False
        ):
            pass
    except StreamDamaged:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < MEMORY
