"""Checkpoints in a stream: nothing is lost, changed or said twice."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btrfs_backup_ng.sendstream.checkpoint import (
    BUFFER_SIZE,
    Checkpoints,
    StreamDiffers,
)
from btrfs_backup_ng.sendstream.format import (
    ATTRIBUTE,
    Attribute,
    Kind,
    StreamDamaged,
    build_command,
    frame_command,
    preamble,
)
from btrfs_backup_ng.sendstream.names import (
    BODY,
    SEAL,
    is_checkpoint,
    parse_name,
    seal_name,
)
from btrfs_backup_ng.sendstream.reader import StreamCommand, read_commands

NAME, OWN, PARENT, OTHER = b"home-1", b"o" * 16, b"p" * 16, b"q" * 16
CTRANSID = bytes(range(8))


def made(protocol: int, parent: bool = False) -> bytes:
    identity = [
        (Attribute.PATH, NAME),
        (Attribute.UUID, OWN),
        (Attribute.CTRANSID, CTRANSID),
    ]
    if parent:
        identity += [
            (Attribute.CLONE_UUID, PARENT),
            (Attribute.CLONE_CTRANSID, CTRANSID),
        ]
    kind = Kind.SNAPSHOT if parent else Kind.SUBVOL
    return preamble(protocol) + build_command(kind, identity)


def clone(uuid: bytes, path: bytes = b"f") -> bytes:
    number = bytes(8)
    return build_command(
        Kind.CLONE,
        [
            (Attribute.FILE_OFFSET, number),
            (Attribute.CLONE_LEN, number),
            (Attribute.PATH, path),
            (Attribute.CLONE_UUID, uuid),
            (Attribute.CLONE_CTRANSID, CTRANSID),
            (Attribute.CLONE_PATH, path),
            (Attribute.CLONE_OFFSET, number),
        ],
    )


def write(size: int, seed: int, protocol: int) -> bytes:
    data = random.Random(seed).randbytes(size)
    path = ATTRIBUTE.pack(Attribute.PATH, 1) + b"f"
    offset = ATTRIBUTE.pack(Attribute.FILE_OFFSET, 8) + bytes(8)
    header = ATTRIBUTE.pack(Attribute.DATA, size % 65536)
    return frame_command(
        Kind.WRITE, path + offset + (header[:2] if protocol > 1 else header) + data
    )


END = build_command(Kind.END, ())


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    protocol = draw(st.sampled_from([1, 2]))
    largest = 140_000 if protocol > 1 else 49_152
    sizes = st.one_of(st.integers(0, 64), st.sampled_from([4095, 5000, largest]))
    command = st.one_of(
        st.builds(lambda size, n: write(size, n, protocol), sizes, st.integers(0, 9)),
        st.sampled_from([OWN, PARENT, OTHER]).map(clone),
        st.just(build_command(Kind.UNLINK, [(Attribute.PATH, b"f")])),
    )
    # crc32c is slow in Python, so a stream repeats itself rather than being long
    body = b"".join(draw(st.lists(command, min_size=1, max_size=8)))
    return made(protocol, draw(st.booleans())) + body * draw(st.integers(1, 3)) + END


class Line:
    """A pipe that gives pieces of any size, and keeps what is written."""

    def __init__(self, data: bytes, seed: int) -> None:
        self._data, self._at, self._dice = memoryview(data), 0, random.Random(seed)
        self.out = bytearray()

    def _take(self, most: int) -> memoryview:
        size = min(most, self._dice.choice([1, 9, 11, 700, 5000, 70_000, BUFFER_SIZE]))
        piece = self._data[self._at : self._at + size]
        self._at += len(piece)
        return piece

    def read_into(self, buffer: memoryview) -> int:
        piece = self._take(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def move(self, size: int, wanted: bool) -> int:
        piece = self._take(size)
        if wanted:
            self.out += piece
        return len(piece)

    def write(self, data: bytes | memoryview) -> None:
        self.out += data


def pass_on(
    data: bytes,
    interval: int,
    known: tuple[int, bytes] | None = None,
    seed: int = 0,
    key: bytes = b"key",
) -> tuple[bytes, Exception | None]:
    """Send a stream through the filter: what was written, and how it failed."""
    line, numbers = Line(data, seed), itertools.count(1)
    new_uuid: Callable[[], bytes] = lambda: b"body%12d" % next(numbers)  # noqa: E731
    filtering = Checkpoints(
        line.read_into,
        line.write,
        line.move,
        interval=interval,
        key=key,
        known=known,
        new_uuid=new_uuid,
    )
    try:
        filtering.run()
    except (StreamDamaged, StreamDiffers) as error:
        return bytes(line.out), error
    return bytes(line.out), None


class Part(NamedTuple):
    """One of the streams that come out."""

    first: StreamCommand
    rest: list[StreamCommand]

    @property
    def uuid(self) -> bytes:
        return self.first.attributes[Attribute.UUID]

    @property
    def parent(self) -> bytes | None:
        return self.first.attributes.get(Attribute.CLONE_UUID)


def passed(data: bytes, interval: int, **how: object) -> list[Part]:
    written, error = pass_on(data, interval, **how)  # type: ignore[arg-type]
    assert error is None
    return parts(written)


def parts(data: bytes) -> list[Part]:
    """Cut what came out into its streams; every checksum is checked."""
    found: list[Part] = []
    for command in read(data):
        if command.kind in (Kind.SUBVOL, Kind.SNAPSHOT):
            found.append(Part(command, []))
        elif command.kind is not Kind.END:
            found[-1].rest.append(command)
    return found


def read(data: bytes) -> Iterator[StreamCommand]:
    at = 0

    def take(size: int) -> bytes:
        nonlocal at
        piece = data[at : at + size]
        at += len(piece)
        return piece

    return read_commands(take)


def seals_of(found: list[Part]) -> list[tuple[int, bytes]]:
    named = [(parse_name(part.first.path), part.uuid) for part in found]
    return [(name[1], uuid) for name, uuid in named if name and name[0] == SEAL]


def plain(command: StreamCommand, body: bytes) -> tuple[Kind, dict[Attribute, bytes]]:
    """Return a command as it was before its clones were led to a body."""
    attributes = dict(command.attributes)
    if attributes.get(Attribute.CLONE_UUID) == body:
        attributes[Attribute.CLONE_UUID] = OWN
    return command.kind, attributes


def original_of(stream: bytes, offset: int = 0) -> list[object]:
    (original,) = parts(stream)
    return [plain(c, b"") for c in original.rest if c.offset >= offset]


@settings(max_examples=60)
@given(streams(), st.integers(100, 200_000), st.integers(0, 99))
def test_nothing_is_lost_or_changed_but_where_clones_lead(stream, interval, seed):
    found = passed(stream, interval, seed=seed)
    if len(stream) < interval:
        assert found == parts(stream)
        return
    bodies = found[:-1:2]
    assert [plain(c, b.uuid) for b in bodies for c in b.rest] == original_of(stream)
    led = [c.attributes.get(Attribute.CLONE_UUID) for b in bodies for c in b.rest]
    assert OWN not in led
    assert not any(seal.rest for seal in found[1:-1:2]) and not found[-1].rest


@settings(max_examples=30)
@given(streams(), st.integers(100, 50_000))
def test_each_stream_builds_on_the_one_before(stream, interval):
    found, (original,) = passed(stream, interval), parts(stream)
    if len(stream) < interval:
        return
    for before, after in itertools.pairwise(found):
        assert after.first.kind is Kind.SNAPSHOT and after.parent == before.uuid
    assert len({part.uuid for part in found}) == len(found)
    assert len({part.first.path for part in found}) == len(found)
    assert found[0].first.kind is original.first.kind
    assert found[0].parent == original.parent
    assert found[-1].first.path == NAME and found[-1].uuid == OWN
    marks = [(parse_name(part.first.path) or (b"",))[0] for part in found[:-1]]
    assert marks == ([BODY, SEAL] * len(marks))[: len(marks)] and marks[-1] == BODY
    for part in found:
        assert part.first.attributes[Attribute.CTRANSID] == CTRANSID


@settings(max_examples=40)
@given(streams(), st.integers(100, 50_000), st.integers(100, 50_000), st.data())
def test_from_any_seal_on_the_rest_comes_and_nothing_else(
    stream, interval, other, data
):
    """Also if the next attempt makes its checkpoints elsewhere."""
    seals = seals_of(passed(stream, interval))
    if not seals:
        return
    offset, digest = data.draw(st.sampled_from(seals))
    resumed = passed(stream, other, known=(offset, digest), seed=offset)
    assert resumed[0].parent == digest
    assert resumed[-1].uuid == OWN and resumed[-1].first.path == NAME
    came = [plain(c, part.uuid) for part in resumed for c in part.rest]
    assert came == original_of(stream, offset)


@settings(max_examples=30)
@given(streams(), st.integers(100, 50_000), st.data())
def test_another_stream_is_refused_before_a_byte_is_written(stream, interval, data):
    seals = seals_of(passed(stream, interval))
    if not seals:
        return
    offset, digest = data.draw(st.sampled_from(seals))
    earlier = [c for c in read(stream) if c.offset < offset]
    command = data.draw(st.sampled_from(earlier))
    # A change of data shows in the checksum, which is in the header.
    changed = bytearray(stream)
    changed[command.offset + data.draw(st.integers(6, 9))] ^= 1
    shorter = stream[: command.offset] + stream[offset:]
    for other in (bytes(changed), shorter):
        if other[:offset] == stream[:offset]:  # the same command comes again
            continue
        written, error = pass_on(other, interval, known=(offset, digest))
        assert error and written == b""


def test_a_clone_between_long_paths_is_led_to_its_body_too():
    path = b"d" * 2500
    stream = made(1) + write(5000, 1, 1) * 3 + clone(OWN, path) * 2 + END
    bodies = passed(stream, 9000)[:-1:2]
    clones = [(c, b) for b in bodies for c in b.rest if c.kind is Kind.CLONE]
    assert len(clones) == 2
    assert all(c.attributes[Attribute.CLONE_UUID] == b.uuid for c, b in clones)


def test_two_attempts_at_one_stream_have_no_uuid_in_common():
    stream = made(1) + write(5000, 1, 1) * 9 + END
    one, other = (seals_of(passed(stream, 9000, key=key)) for key in (b"1", b"2"))
    assert [offset for offset, _ in one] == [offset for offset, _ in other]
    assert not {uuid for _, uuid in one} & {uuid for _, uuid in other}
    written, error = pass_on(stream, 9000, known=one[0], key=b"2")
    assert isinstance(error, StreamDiffers) and not written


@settings(max_examples=30)
@given(streams(), st.integers(100, 50_000), st.data())
def test_a_cut_stream_never_gets_its_real_name(stream, interval, data):
    cut = stream[: data.draw(st.integers(0, len(stream) - 1))]
    written, error = pass_on(cut, interval)
    if error is None:  # it is for the receiver to refuse
        assert written == cut and len(cut) < interval
    else:
        assert isinstance(error, StreamDamaged)
        real = ATTRIBUTE.pack(Attribute.PATH, len(NAME)) + NAME
        assert real not in written


@pytest.mark.parametrize(
    "damage",
    [
        lambda stream: b"nonsense" * 1000,
        lambda stream: stream[:20],
        lambda stream: preamble(1) + END,
        lambda stream: stream + b"x",
        lambda stream: stream + stream,
        lambda stream: stream[:-10] + stream[17:],
        lambda stream: preamble(1)
        + build_command(Kind.SUBVOL, [(Attribute.PATH, NAME), (Attribute.UUID, OWN)]),
        lambda stream: stream[:17] + b"\xff" * 4 + stream[21:],
    ],
)
def test_what_is_no_stream_is_damaged(damage):
    stream = damage(made(1) + write(100, 1, 1) * 9 + END)
    assert isinstance(pass_on(stream, 1)[1], StreamDamaged)
    written, error = pass_on(stream, 1, known=(10**6, bytes(16)))
    assert error and written == b""


def test_a_seal_is_no_longer_than_a_name_may_be_and_known_again():
    name = seal_name(10**15, b"n" * 255)
    assert len(name) == 255 and is_checkpoint(name)
    assert parse_name(name) == (SEAL, 10**15, b"n" * (255 - len(SEAL) - 21))
    for other in (b"home-1", b".seal-1-x", b".seal-" + b"1" * 20, b".body-x", b""):
        assert not is_checkpoint(other)
