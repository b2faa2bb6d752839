#!/usr/bin/env python3
"""Mutate send streams, and check that the reader and ``btrfs receive --dump`` agree.

Run by hand (root is not needed):

    python3 benchmarks/fuzz_stream.py [--minutes 10] [--seed N] [--cuts]

The kept streams of tests/sendstream are cut off, flipped, spliced, given other lengths,
half of them with checksums that fit.  For each, the reader may raise nothing but
StreamDamaged, in every way of reading, and its verdict and commands must be those of
``btrfs receive --dump``, except for the cases in tests/sendstream/dump.py.  The memory
of this process must stay below 64 MB.  With ``--cuts`` every truncation of every kept
stream comes first, however long that takes. A failing stream is kept in fuzz-N.stream.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import itertools
import random
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from btrfs_backup_ng.sendstream.format import StreamDamaged  # noqa: E402
from btrfs_backup_ng.sendstream.reader import path_of, read_frames  # noqa: E402
from btrfs_backup_ng.sendstream.size import predict_sizes  # noqa: E402
from tests.sendstream import dump, kept, mutations  # noqa: E402

LIMIT_KIB = 64 << 10
FAILURES = 20


def main() -> int:
    """Fuzz and print the figures; the exit status is 0 if all was well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="default: 10")
    parser.add_argument("--seed", type=int, default=time.time_ns())
    parser.add_argument("--cuts", action="store_true", help="every truncation, too")
    words = parser.parse_args()
    print(f"seed {words.seed}", flush=True)
    streams, counts = list(kept.load().values()), collections.Counter[str]()
    failures, before_kib = 0, _peak_kib()
    deadline = time.monotonic() + 60 * words.minutes
    inputs = _mutants(streams, words.seed, deadline)
    if words.cuts:
        inputs = itertools.chain(_cuts(streams), inputs)
    for number, stream in enumerate(inputs):
        for problem in _problems(stream, counts):
            failures += 1
            Path(f"fuzz-{number}.stream").write_bytes(stream)
            print(f"fuzz-{number}.stream: {problem}"[:500], flush=True)
        if failures >= FAILURES:
            break
    for what, count in sorted(counts.items()):
        print(f"{count:9,} {what}")
    peak_kib = _peak_kib()
    print(f"{failures} failures; peak memory {peak_kib / 1024:.1f} MiB", end=", ")
    print(f"{before_kib / 1024:.1f} MiB of it before the first stream")
    return failures > 0 or peak_kib > LIMIT_KIB


def _cuts(streams: list[bytes]) -> Iterator[bytes]:
    for stream in streams:
        for length in range(len(stream) + 1):
            yield stream[:length]


def _mutants(streams: list[bytes], seed: int, deadline: float) -> Iterator[bytes]:
    die = random.Random(seed)
    while time.monotonic() < deadline:
        yield mutations.mutate(die.choice(streams), streams, die)


def _problems(stream: bytes, counts: collections.Counter[str]) -> Iterator[str]:
    counts["streams"] += 1
    try:
        reading = dump.read(stream)
        yield from dump.disagreements(stream, reading)
        lax = dump.read(stream, check=False)
        for way in (_walk, _size):
            with contextlib.suppress(StreamDamaged):
                way(stream)
    except Exception as error:  # which a hostile stream must not cause
        yield f"{type(error).__name__}: {error}"
        return
    counts["commands"] += len(reading.commands)
    counts["whole first streams"] += reading.accepts_one
    counts["accepted to the end"] += reading.damage is None
    counts["accepted without checksums"] += lax.damage is None
    if reading.damage and dump.STRICTER.search(reading.damage.why):
        counts["refused on purpose, where --dump might not"] += 1


def _walk(stream: bytes) -> None:
    for frame in read_frames(io.BytesIO(stream).read, check=False):
        path_of(frame)


def _size(stream: bytes) -> None:
    list(predict_sizes(io.BytesIO(stream).read))


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    sys.exit(main())
