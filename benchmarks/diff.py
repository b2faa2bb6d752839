#!/usr/bin/env python3
"""Compare the verb ``diff`` with ``diff -rq`` on many files, few of them changed.

Run by hand, as root:

    python3 benchmarks/diff.py [--files 200000] [--changed 1] [--runs 5]

A tree is made on a filesystem in an image, then a snapshot, changes, and another one.
First, the output of the verb is compared with a reading of both trees, path by path.
Then both programs run in turn, each twice: right after the filesystem was mounted, so
that nothing of it is in memory, as for a backup disk; and again with all in memory.
Printed are the wall times of the whole processes, their ratios, and the peak memory of
the verb. The aim is for the first of the two.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support import changes, filesystems, program  # noqa: E402

GIB = 1 << 30
IN_A_DIRECTORY = 200
LARGEST = 8 << 10
LEAST_RATIO = 10.0
PEAK_LIMIT_KIB = 40 << 10


class Run(NamedTuple):
    """The cost of one process: wall time, and the peak memory of the process itself."""

    elapsed_s: float
    peak_kib: int
    output: bytes


def main() -> int:
    """Measure and print; the exit status is 0 within the aims."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--changed", type=float, default=1.0, help="per cent")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with (
        _room_for(options.files * LARGEST) as directory,
        filesystems.btrfs_filesystem(directory, size="8G") as filesystem,
    ):
        one, other = _snapshots(filesystem, options.files, options.changed)
        wrong = _disagreements(one, other)
        print(f"{len(wrong)} disagreements with a tree comparison", *wrong, sep="\n  ")
        race = _Race(filesystem, one, other)
        for _ in range(options.runs):
            race.run()
        race.report()
    fast = statistics.median(race.fresh) >= LEAST_RATIO
    return bool(wrong) or not fast or race.peak_kib > PEAK_LIMIT_KIB


@contextlib.contextmanager
def _room_for(size: int) -> Iterator[Path]:
    """Make a directory in memory if it has room, else in the temporary directory."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > size + GIB
    path = tempfile.mkdtemp(prefix="bbng-diff-", dir=memory if roomy else None)
    try:
        yield Path(path)
    finally:
        shutil.rmtree(path)


def _snapshots(
    filesystem: filesystems.Filesystem, files: int, percent: float
) -> tuple[Path, Path]:
    """Make a tree with names and sizes of all kinds, and two snapshots of it."""
    chance = random.Random(1)
    block = chance.randbytes(2 * LARGEST)
    tree = filesystem.subvolume("tree")
    paths = []
    for number in range(files):
        top, below = divmod(number // IN_A_DIRECTORY, 50)
        path = tree / f"directory {top}" / f"more {below}" / f"file {number}"
        if number % IN_A_DIRECTORY == 0:
            path.parent.mkdir(parents=True)
        start = chance.randrange(LARGEST)
        path.write_bytes(block[start : start + chance.randrange(LARGEST)])
        paths.append(path)
    one = filesystem.snapshot("tree", "one")
    for number, path in enumerate(chance.sample(paths, int(files * percent / 100))):
        fresh = path.with_name(f"new {number}")
        match number % 6:
            case 0:
                path.write_bytes(chance.randbytes(LARGEST))
            case 1:
                with open(path, "ab") as file:
                    file.write(block[:100])
            case 2:
                path.rename(fresh)
            case 3:
                path.unlink()
            case 4:
                fresh.write_bytes(block[:5000])
            case 5:
                path.chmod(0o600)
    (tree / "directory 0" / "more 0").rename(tree / "renamed")
    other = filesystem.snapshot("tree", "other")
    return one, other


def _disagreements(one: Path, other: Path) -> list[str]:
    done = program.run_program("diff", "--json", one, other)
    assert done.returncode == 0, done.stderr
    *told, _ = map(json.loads, done.stdout.splitlines())
    print(f"{len(told)} changes told")
    return changes.disagreements(changes.describe(one), changes.describe(other), told)


class _Race:
    """Runs of both programs.

    ``fresh`` and ``warm`` are the ratios after a mount and with all in memory.
    """

    def __init__(
        self, filesystem: filesystems.Filesystem, one: Path, other: Path
    ) -> None:
        self._filesystem = filesystem
        self._theirs = ["diff", "-rq", "--no-dereference", str(one), str(other)]
        self._ours = [*program.PROGRAM, "diff", str(one), str(other)]
        self.fresh: list[float] = []
        self.warm: list[float] = []
        self.peak_kib = 0

    def run(self) -> None:
        """Run both twice."""
        runs = []
        for argv in (self._theirs, self._ours):
            self._filesystem.unmount()
            self._filesystem.mount()
            runs += [_run(argv), _run(argv)]
        theirs, theirs_warm, ours, ours_warm = runs
        self.fresh.append(theirs.elapsed_s / ours.elapsed_s)
        self.warm.append(theirs_warm.elapsed_s / ours_warm.elapsed_s)
        self.peak_kib = max(self.peak_kib, ours.peak_kib, ours_warm.peak_kib)
        print(
            f"fresh: diff -rq {theirs.elapsed_s:.2f} s, ours {ours.elapsed_s:.2f} s;"
            f" warm: {theirs_warm.elapsed_s:.2f} s, {ours_warm.elapsed_s:.2f} s",
            flush=True,
        )

    def report(self) -> None:
        """Print the ratios."""
        for name, ratios in ("fresh", self.fresh), ("warm", self.warm):
            median = statistics.median(ratios)
            print(f"{name}: {median:.1f} ({min(ratios):.1f} to {max(ratios):.1f})")
        print(f"our peak: {self.peak_kib / 1024:.1f} MiB")


def _run(argv: Sequence[str]) -> Run:
    """Run a command and measure it.

    Its peak is read while it runs: ``ru_maxrss`` of wait4(2) would be that of its
    children and of this process, too.
    """
    began = time.monotonic()
    with subprocess.Popen(
        argv, env=program.environment(), stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        os.set_blocking(process.stdout.fileno(), False)
        output, peak_kib = b"", 0
        while process.poll() is None:
            output += process.stdout.read() or b""
            peak_kib = max(peak_kib, _peak_kib(process.pid))
            time.sleep(0.005)
        elapsed_s = time.monotonic() - began
        output += process.stdout.read() or b""
    if process.returncode not in (0, 1):  # diff ends with 1 if there are differences
        raise SystemExit(f"{argv} failed with status {process.returncode}")
    return Run(elapsed_s, peak_kib, output)


def _peak_kib(pid: int) -> int:
    with open(f"/proc/{pid}/status") as file:
        match = re.search(r"^VmHWM:\s+(\d+) kB", file.read(), re.MULTILINE)
    return int(match[1]) if match else 0


if __name__ == "__main__":
    sys.exit(main())
