#!/usr/bin/env python3
"""Compare the program with the bare pipe, locally and over ssh.

Run by hand, as root, on a machine that has nothing else to do:

    python3 benchmarks/throughput.py [--size 1.5G] [--pairs 5] [--only local|ssh]

Each pair sends the same snapshot in full, once with the program (``--progress``) and
once with ``btrfs send | btrfs receive`` (over ssh: ``btrfs send | ssh ... btrfs
receive``), followed by ``btrfs filesystem sync`` of the destination, since the backup
of the program is durable when it returns. The order alternates, and each transfer goes
to a new filesystem. A ratio is the time of the program divided by that of the bare
pipe.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support import filesystems, sshd  # noqa: E402 - found by the line above

MIB = 1 << 20
GIB = 1 << 30
FILE_BYTES = 64 * MIB
LIMIT = 1.03
UNITS = {"M": MIB, "G": GIB}


class Run(NamedTuple):
    """The cost of one transfer."""

    elapsed_s: float
    cpu_s: float
    peak_bytes: int


class Pair(NamedTuple):
    """The same transfer by the program and by the bare pipe."""

    ours: Run
    bare: Run

    @property
    def ratio(self) -> float:
        """Return the time of the program, relative to the bare pipe."""
        return self.ours.elapsed_s / self.bare.elapsed_s


def main() -> int:
    """Run the requested comparisons, and print them."""
    options = _options()
    if os.geteuid() != 0:
        print("this makes and mounts filesystems, which needs root", file=sys.stderr)
        return 2
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(_room_for(4 * options.size))
        server = stack.enter_context(sshd.running_sshd())
        source = stack.enter_context(_source(directory, options.size))
        places: dict[str, Callable[[Path], str]] = {
            "local": str,
            "ssh": lambda path: f"ssh://root@{server.host}:{server.port}{path}",
        }
        load = os.getloadavg()[0]
        print(
            f"{options.size / MIB:.0f} MiB, {options.pairs} pairs, images in"
            f" {directory}, load before: {load:.1f} on {os.cpu_count()} processors"
        )
        medians = []
        for name, place in places.items():
            if options.only in (None, name):
                bench = _Bench(directory, source, server, place, options.ours)
                medians.append(bench.report(name, options.pairs, options.size))
    return 0 if max(medians) <= LIMIT else 1


def _options() -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=_size, default="1.5G", help="1.5G or 300M")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", choices=("local", "ssh"))
    parser.add_argument(
        "--ours",
        type=shlex.split,
        default=[],
        metavar="OPTIONS",
        help="more options for the program, in one word: '--no-mbuffer'",
    )
    return parser.parse_args()


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([MG])", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text}: write it like 1.5G or 300M")
    return int(float(match[1]) * UNITS[match[2]])


@contextlib.contextmanager
def _room_for(size: int) -> Iterator[Path]:
    """Make a directory in memory if it has room, else in the temporary directory."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > size + GIB
    roomy = roomy and os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGESIZE") > size
    path = tempfile.mkdtemp(prefix="bbng-throughput-", dir=memory if roomy else None)
    try:
        yield Path(path)
    finally:
        shutil.rmtree(path)


@contextlib.contextmanager
def _source(directory: Path, size: int) -> Iterator[Path]:
    """Make a subvolume with large files that no compression makes smaller."""
    image_size = f"{size // MIB + 1024}M"
    with filesystems.btrfs_filesystem(directory, size=image_size) as filesystem:
        source = filesystem.subvolume("source")
        for number in range(-(-size // FILE_BYTES)):
            with open(source / f"file {number}", "wb") as file:
                left = min(FILE_BYTES, size - number * FILE_BYTES)
                while left > 0:
                    left -= file.write(os.urandom(min(MIB, left)))
        filesystem.sync()
        yield source


class _Bench:
    """Transfers of one kind."""

    def __init__(
        self,
        directory: Path,
        source: Path,
        server: sshd.Sshd,
        place: Callable[[Path], str],
        options: Sequence[str],
    ) -> None:
        self._directory = directory
        self._source = source
        self._server = server
        self._place = place
        self._options = options

    def report(self, name: str, pairs: int, size: int) -> float:
        """Run the pairs, print them and return the median of their ratios."""
        self._snapshot()
        self._transfer(self._bare)  # for the caches
        done = []
        for number in range(pairs):
            if number % 2:
                bare, ours = self._transfer(self._bare), self._transfer(self._ours)
            else:
                ours, bare = self._transfer(self._ours), self._transfer(self._bare)
            done.append(Pair(ours, bare))
            print(f"{name}: {_seconds(ours)}, bare {_seconds(bare)}", flush=True)
        ratios = [pair.ratio for pair in done]
        median = statistics.median(ratios)
        ours_s = statistics.median(pair.ours.elapsed_s for pair in done)
        bare_s = statistics.median(pair.bare.elapsed_s for pair in done)
        peak = max(pair.ours.peak_bytes for pair in done)
        print(
            f"{name}: ratio {median:.3f} ({min(ratios):.3f} to {max(ratios):.3f}),"
            f" {size / MIB / ours_s:.0f} against {size / MIB / bare_s:.0f} MiB/s,"
            f" our process {peak / MIB:.1f} MiB",
            flush=True,
        )
        return median

    def _snapshot(self) -> None:
        """Let the program make the snapshot to send."""
        folder = self._source / ".btrfs-backup-ng" / "snapshots"
        if not folder.is_dir():
            self._run([*self._program, str(self._source)])
        (self._sent,) = folder.iterdir()

    @property
    def _program(self) -> list[str]:
        return [sys.executable, "-m", "btrfs_backup_ng", "-q", "-p", "bench-"]

    def _transfer(self, way: Callable[[Path], Run]) -> Run:
        """Transfer to a new filesystem."""
        size = f"{shutil.disk_usage(self._source).used // MIB + 1024}M"
        with filesystems.btrfs_filesystem(self._directory, size=size) as target:
            target.sync()
            run = way(target.path)
            copy = target.path / self._sent.name
            assert (copy / "file 0").stat().st_size, "nothing arrived"
            return run

    def _ours(self, target: Path) -> Run:
        ssh = [w for o in self._server.ssh_options for w in ("--ssh-opt", o)]
        words = [*ssh, "--progress", "-S", *self._options]
        return self._run(
            [*self._program, *words, str(self._source), self._place(target)]
        )

    def _bare(self, target: Path) -> Run:
        """Send, receive and sync, with ssh and the same options for it if remote."""
        receive = shlex.join(["btrfs", "receive", "-q", str(target)])
        if self._place is not str:
            flags = [f"-o{option}" for option in self._server.ssh_options]
            there = ["ssh", *flags, f"root@{self._server.host}", receive]
            receive = shlex.join(there)
        protocol = "--proto 2 --compressed-data"
        send = f"btrfs send -q {protocol} {shlex.quote(str(self._sent))}"
        sync = shlex.join(["btrfs", "filesystem", "sync", str(target)])
        script = f"set -e -o pipefail; {send} | {receive}; {sync}"
        return self._run(["bash", "-c", script])

    def _run(self, argv: Sequence[str]) -> Run:
        """Run a command and measure it.

        The peak is that of the process itself: ``ru_maxrss`` of wait4(2) includes its
        children.
        """
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        began = time.monotonic()
        process = subprocess.Popen(
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        with process:
            peak_bytes = 0
            assert process.stdout
            os.set_blocking(process.stdout.fileno(), False)
            output = b""
            while True:
                output += process.stdout.read() or b""
                peak_bytes = _peak_bytes(process.pid) or peak_bytes
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    break
                time.sleep(0.01)
            elapsed_s = time.monotonic() - began
            process.returncode = os.waitstatus_to_exitcode(status)
            output += process.stdout.read() or b""
        if process.returncode:
            text = output.decode(errors="replace")
            raise SystemExit(f"{shlex.join(argv)}: {process.returncode}\n{text}")
        return Run(elapsed_s, usage.ru_utime + usage.ru_stime, peak_bytes)


def _peak_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/status") as file:
        match = re.search(r"^VmHWM:\s+(\d+) kB", file.read(), re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def _seconds(run: Run) -> str:
    return f"{run.elapsed_s:.2f} s ({run.cpu_s:.2f} s CPU)"


if __name__ == "__main__":
    sys.exit(main())
