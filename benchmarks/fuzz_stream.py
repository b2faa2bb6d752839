#!/usr/bin/env python3
"""Mutate send streams, and see that our reader and ``btrfs receive --dump`` agree.

Run by hand (root is not needed):

    python3 benchmarks/fuzz_stream.py [--minutes 10] [--seed N] [--cuts]

The kept streams of tests/sendstream are cut off, flipped, spliced, given other lengths,
half of them with checksums that fit.  For each, the reader may raise nothing but
StreamDamaged, in every way of reading, and its verdict and commands must be those of
``btrfs receive --dump``, except for what tests/sendstream/dump.py names.  The memory of
this process must stay below 64 MB.  With ``--cuts`` every truncation of every kept
stream comes first, however long that takes.  What fails is kept in fuzz-N.stream.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import itertools
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from btrfs_backup_ng.sendstream.format import StreamDamaged  # noqa: E402
from btrfs_backup_ng.sendstream.reader import path_of, read_frames  # noqa: E402
from btrfs_backup_ng.sendstream.size import predict_size  # noqa: E402
from tests.sendstream import corpus, dump, mutations  # noqa: E402

LIMIT_KIB = 64 << 10
FAILURES = 20


def main() -> int:
    """Fuzz, print the figures, and tell by the exit status whether all was well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="default: 10")
    parser.add_argument("--seed", type=int, default=time.time_ns())
    parser.add_argument("--cuts", action="store_true", help="every truncation, too")
    words = parser.parse_args()
    print(f"seed {words.seed}", flush=True)
    streams, counts = list(corpus.load().values()), collections.Counter[str]()
    failures = 0
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
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for what, count in sorted(counts.items()):
        print(f"{count:9,} {what}")
    print(f"{failures} failures; peak memory {peak_kib / 1024:.1f} MiB", end=", ")
    print(f"of which {_bare_kib() / 1024:.1f} MiB before the first stream")
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
    except Exception as error:  # what a hostile stream must not bring about
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
    predict_size(io.BytesIO(stream).read)


def _bare_kib() -> int:
    """Tell how much memory this program takes for nothing but its imports."""
    code = "import sys, resource; sys.path[:0] = sys.argv[1:]; import fuzz_stream"
    code += "; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    argv = [sys.executable, "-c", code, str(Path(__file__).parent)]
    return int(subprocess.run(argv, check=True, capture_output=True).stdout)


if __name__ == "__main__":
    sys.exit(main())
