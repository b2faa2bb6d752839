#!/usr/bin/env python3
"""Compare transfers with and without checkpoints: the cost of checkpoints.

Run by hand, as root, on a machine that has nothing else to do:

    python3 benchmarks/checkpoints.py [--pairs 5] [--only local|ssh]
        [--what large|small] [--interval 1G --interval 64M]

Each pair sends the same snapshot in full, once with checkpoints and once without, to a
new filesystem; the order alternates. The data is 1.5 GB in large files that do not
compress, or 200,000 small files.  A ratio is the time (or the processor time) with
checkpoints divided by the time without. The processor time of the process that makes
the checkpoints is printed as part of a core at 300 MB/s, with its peak memory.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import throughput  # noqa: E402 - found by the line above
from benchmarks.throughput import GIB, MIB, Run  # noqa: E402
from tests.support import filesystems, processes, sshd  # noqa: E402

#: Aims: of time, of a core at 300 MB/s, of memory.
LIMIT, CORE, MEMORY = 1.05, 0.25, 40 * MIB
SPEED = 300e6
_TICKS = os.sysconf("SC_CLK_TCK")


class Filter(NamedTuple):
    """The cost of the process that makes the checkpoints."""

    cpu_s: float
    peak_bytes: int


class Pair(NamedTuple):
    """The same transfer with checkpoints and without."""

    on: Run
    off: Run
    filter: Filter


def main() -> int:
    """Run the requested comparisons, and print them."""
    options = _options()
    if os.geteuid() != 0:
        print("this makes and mounts filesystems, which needs root", file=sys.stderr)
        return 2
    intervals = options.interval or [GIB, 64 * MIB]
    bad = 0
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(throughput._room_for(4 * options.size))
        server = stack.enter_context(sshd.running_sshd())
        places: dict[str, Callable[[Path], str]] = {
            "local": str,
            "ssh": lambda path: f"ssh://root@{server.host}:{server.port}{path}",
        }
        print(
            f"{options.pairs} pairs, images in {directory}, load before:"
            f" {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
        )
        trees: dict[str, Callable[[], AbstractContextManager[Path]]] = {
            "large": lambda: throughput._source(directory, options.size),
            "small": lambda: _small_files(directory, options.files),
        }
        for what, tree in trees.items():
            if options.what not in (None, what):
                continue
            with tree() as source:
                size = _stream_size(source)
                # On this machine a stream shorter than an interval has no checkpoints.
                fitting = [i for i in intervals if i < size] or [size // 8]
                for interval in fitting:
                    for name, place in places.items():
                        if options.only in (None, name):
                            bench = _Bench(directory, source, server, place, interval)
                            title = f"{what} {name} {interval // MIB}M"
                            bad += not bench.compare(title, options.pairs, size)
    return min(bad, 1)


def _options() -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add, size = parser.add_argument, throughput._size
    add("--pairs", type=int, default=5, help="default: 5")
    add("--size", type=size, default="1.5G", help="of the large files")
    add("--files", type=int, default=200_000, help="how many small ones there are")
    add("--only", choices=("local", "ssh"))
    add("--what", choices=("large", "small"))
    add("--interval", type=size, action="append", help="default: 1G, and 64M")
    return parser.parse_args()


@contextlib.contextmanager
def _small_files(directory: Path, count: int) -> Iterator[Path]:
    """Make a subvolume with small files, of 3 KB on average."""
    size = f"{count * 12 // 1024 + 1024}M"
    with filesystems.btrfs_filesystem(directory, size=size) as filesystem:
        source = filesystem.subvolume("source")
        (source / "file 0").write_text("for whoever looks whether something arrived")
        noise = os.urandom(MIB)
        for number in range(count):
            if number % 1000 == 0:
                below = source / f"{number // 1000}"
                below.mkdir()
            start = number * 7919 % (MIB - 8192)
            content = noise[start : start + number * 31 % 6000]
            (below / f"{number}").write_bytes(content)
        filesystem.sync()
        yield source


def _stream_size(source: Path) -> int:
    """Estimate the length of the stream of a subvolume."""
    sizes = (
        os.lstat(os.path.join(directory, name)).st_size + 300
        for directory, _, names in os.walk(source)
        for name in names
    )
    return sum(sizes)


class _Bench(throughput._Bench):
    """Transfers of one kind."""

    def __init__(
        self,
        directory: Path,
        source: Path,
        server: sshd.Sshd,
        place: Callable[[Path], str],
        interval: int,
    ) -> None:
        super().__init__(directory, source, server, place, ())
        self._interval = interval

    def compare(self, title: str, pairs: int, size: int) -> bool:
        """Run the pairs, print them, and return whether the aims are reached."""
        self._snapshot()
        self._transfer(self._off)  # for the caches
        done = []
        for number in range(pairs):
            watch = _Watch(str(self._source))
            if number % 2:
                off = self._transfer(self._off)
                with watch:
                    on = self._transfer(self._on)
            else:
                with watch:
                    on = self._transfer(self._on)
                off = self._transfer(self._off)
            done.append(Pair(on, off, watch.seen()))
            seconds = throughput._seconds
            print(
                f"{title}: {seconds(on)}, without {seconds(off)},"
                f" filter {done[-1].filter.cpu_s:.2f} s CPU",
                flush=True,
            )
        return _tell(title, done, size)

    def _on(self, target: Path) -> Run:
        self._options = ("--checkpoint-interval", str(self._interval))
        return self._ours(target)

    def _off(self, target: Path) -> Run:
        self._options = ("--no-checkpoints",)
        return self._ours(target)


def _tell(title: str, done: list[Pair], size: int) -> bool:
    walls = [pair.on.elapsed_s / pair.off.elapsed_s for pair in done]
    wall = statistics.median(walls)
    cpu = statistics.median(pair.on.cpu_s / pair.off.cpu_s for pair in done)
    core = statistics.median(pair.filter.cpu_s for pair in done) / (size / SPEED)
    peak = max(pair.filter.peak_bytes for pair in done)
    speed = size / 1e6 / statistics.median(pair.on.elapsed_s for pair in done)
    print(
        f"{title}: time {wall:.3f} ({min(walls):.3f} to {max(walls):.3f}), CPU of the"
        f" program and its children {cpu:.3f}; {speed:.0f} MB/s; filter"
        f" {100 * core:.1f} % of a core at 300 MB/s, {peak / MIB:.1f} MiB",
        flush=True,
    )
    return wall <= LIMIT and core <= CORE and peak <= MEMORY


class _Watch:
    """Watches the filter of a run while the body works: later it has ended."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._cpu_s = 0.0
        self._peak_bytes = 0

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def seen(self) -> Filter:
        """Return its cost."""
        assert self._peak_bytes, "there was no filter"
        return Filter(self._cpu_s, self._peak_bytes)

    def _look(self) -> None:
        pid = 0
        while not self._over.wait(0.02 if pid else 0.1):
            pid = pid or self._find()
            with contextlib.suppress(OSError, IndexError, ValueError):
                stat = Path(f"/proc/{pid}/stat").read_text()
                fields = stat.rpartition(")")[2].split()
                cpu_s = (int(fields[11]) + int(fields[12])) / _TICKS
                self._cpu_s = max(cpu_s, self._cpu_s)
                self._peak_bytes = throughput._peak_bytes(pid) or self._peak_bytes

    def _find(self) -> int:
        everyone = {process.pid: process for process in processes.everything()}
        for process in everyone.values():
            if any(
                "btrfs_backup_ng.sendstream.filter" in word for word in process.argv
            ):
                parent = everyone.get(process.parent)
                if parent and self._source in parent.argv:
                    return process.pid
        return 0


if __name__ == "__main__":
    sys.exit(main())
