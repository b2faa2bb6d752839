"""The ways to damage a stream, each by a given die."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from btrfs_backup_ng.sendstream.format import (
    COMMAND,
    PREAMBLE_SIZE,
    frame_command,
)

_EDGES = (0, 1, 2, 3, 9, 255, 256, 4095, 4096, 65535, 1 << 16, 1 << 20, 1 << 31)


def starts(stream: bytes) -> list[int]:
    """Tell where the commands of a good stream start, and where the last one ends."""
    return [start for start, _ in _commands(stream)] + [len(stream)]


def _commands(stream: bytes) -> Iterator[tuple[int, bytes]]:
    at = PREAMBLE_SIZE
    while at + COMMAND.size <= len(stream):
        end = at + COMMAND.size + COMMAND.unpack_from(stream, at)[0]
        yield at, stream[at:end]
        at = end
        if stream.startswith(b"btrfs-stream", at):
            at += PREAMBLE_SIZE


def mutate(stream: bytes, others: Sequence[bytes], die: random.Random) -> bytes:
    """Damage a good stream in one or a few ways, or put pieces of others into it."""
    way = die.choice((_truncate, _flip, _flip, _cut_out, _bytes, _length, _shuffle))
    if die.random() < 0.15:
        return _splice(stream, die.choice(others), die)
    changed = way(stream, die)
    if die.random() < 0.2:
        changed = die.choice((_truncate, _flip, _length))(changed, die)
    return reseal(changed) if die.random() < 0.5 else changed


def reseal(stream: bytes) -> bytes:
    """Make the checksums right again, as far as there are whole commands."""
    parts, at = [stream[:PREAMBLE_SIZE]], PREAMBLE_SIZE
    while at + COMMAND.size <= len(stream):
        size, kind, _ = COMMAND.unpack_from(stream, at)
        end = at + COMMAND.size + size
        if end > len(stream):
            break
        parts.append(frame_command(kind, stream[at + COMMAND.size : end]))
        at = end
    return b"".join(parts) + stream[at:]


def flip(stream: bytes, bit: int) -> bytes:
    """Turn one bit around."""
    changed = bytearray(stream)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _truncate(stream: bytes, die: random.Random) -> bytes:
    return stream[: die.randrange(len(stream) + 1)]


def _flip(stream: bytes, die: random.Random) -> bytes:
    for _ in range(die.choice((1, 1, 1, 2, 8))):
        if stream:
            stream = flip(stream, die.randrange(8 * len(stream)))
    return stream


def _cut_out(stream: bytes, die: random.Random) -> bytes:
    start = die.randrange(len(stream) + 1)
    return stream[:start] + stream[start + die.choice((1, 2, 4, 10, 100)) :]


def _bytes(stream: bytes, die: random.Random) -> bytes:
    start, new = die.randrange(len(stream) + 1), die.randbytes(die.randrange(1, 20))
    return stream[:start] + new + stream[start + die.choice((0, len(new))) :]


def _length(stream: bytes, die: random.Random) -> bytes:
    """Return a command or one of its attributes another length."""
    places = starts(stream)[:-1]
    if not places or len(stream) < PREAMBLE_SIZE + COMMAND.size:
        return stream
    start = die.choice(places)
    width = die.choice((4, 2))
    at = start if width == 4 else start + COMMAND.size + 2
    old = int.from_bytes(stream[at : at + width], "little")
    new = die.choice((*_EDGES, old + 1, old - 1, old ^ 1 << die.randrange(8 * width)))
    field = (new % (1 << 8 * width)).to_bytes(width, "little")
    return stream[:at] + field + stream[at + width :]


def _shuffle(stream: bytes, die: random.Random) -> bytes:
    """Leave commands out, say them twice or in another order."""
    commands = [command for _, command in _commands(stream)]
    for _ in range(die.randrange(1, 4)):
        if commands:
            command = commands.pop(die.randrange(len(commands)))
            for _ in range(die.randrange(3)):
                commands.insert(die.randrange(len(commands) + 1), command)
    return stream[:PREAMBLE_SIZE] + b"".join(commands)


def _splice(stream: bytes, other: bytes, die: random.Random) -> bytes:
    if die.random() < 0.5:
        return stream[: die.choice(starts(stream))] + other[die.choice(starts(other)) :]
    return stream[: die.randrange(len(stream))] + other[die.randrange(len(other)) :]
