#!/usr/bin/env python3
"""Let the verb ``verify --data`` find four small damages among many files.

Run by hand, as root:

    python3 benchmarks/verify.py [--files 100000] [--size 8K]

A tree is made, half of it in one directory, with hard links and xattrs, and backed up
to another filesystem.  Then, for each way (local, ssh on one side, ssh on both), the
run verifies a good backup and one with a flipped byte, a changed mode, a missing xattr
and an extra file, right after both filesystems were mounted, so that nothing is in
memory. The bytes that each side read are taken from the counters of its loop device,
and compared with reading every file once. Printed are times, the peak memory of the
program and those ratios; the exit status is 0 if exactly the damages were found within
the aims: 64 MB, and no side read more than once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support import filesystems, processes, program, sshd  # noqa: E402
from tests.support.places import set_read_only  # noqa: E402

GIB = 1 << 30
IN_A_DIRECTORY = 200
PEAK_LIMIT = 64_000_000
#: Limit on the bytes read beyond one reading: metadata read twice, and readahead.
READ_LIMIT = 1.15
DAMAGE = {"byte": "contents", "mode": "mode", "xattr": "xattr", "extra": "presence"}


class Places(NamedTuple):
    """The places of the snapshots and the backups."""

    source: filesystems.Filesystem
    destination: filesystems.Filesystem

    @property
    def home(self) -> Path:
        """Return the source of the backups."""
        return self.source.path / "home"

    @property
    def backups(self) -> Path:
        """Return the destination."""
        return self.destination.path / "backups"

    def fresh(self) -> None:
        """Drop all of them from memory."""
        for filesystem in self:
            filesystem.unmount()
            filesystem.mount()

    def read_bytes(self) -> list[int]:
        """Return the bytes read from each device so far."""
        return [_read_bytes(filesystem.device) for filesystem in self]


def main() -> int:
    """Measure and print; the exit status is 0 within the aims."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=8 << 10, help="largest, in bytes")
    options = parser.parse_args()
    needed = 2 * options.files * (options.size + 4096) + GIB
    with (
        _room_for(needed) as directory,
        filesystems.btrfs_filesystem(directory, size="16G") as source,
        filesystems.btrfs_filesystem(directory, size="16G") as destination,
        sshd.running_sshd() as server,
    ):
        places = Places(source, destination)
        _fill(source.subvolume("home"), options.files, options.size)
        places.backups.mkdir()
        done = program.run_program("-p", "x-", places.home, places.backups)
        assert done.returncode == 0, done.stderr
        (name,) = (n for n in os.listdir(places.backups) if n.startswith("x-"))
        once = _read_once(places, name)
        print(f"{options.files} files; reading all once: {_mib(once)}", flush=True)
        there = f"ssh://{server.host}:{server.port}"
        ssh = [f"--ssh-opt={option}" for option in server.ssh_options]
        ways = {
            "local": [str(places.backups), f"--source={places.home}"],
            "ssh to local": [
                *ssh,
                f"{there}{places.backups}",
                f"--source={places.home}",
            ],
            "ssh to ssh": [
                *ssh,
                f"{there}{places.backups}",
                f"--source={there}{places.home}",
            ],
        }
        good = [_verify(places, way, words, once) for way, words in ways.items()]
        told = [run.found == [] for run in good]
        expected = _damage(places.backups / name)
        bad = [_verify(places, way, words, once) for way, words in ways.items()]
        told += [run.found == expected for run in bad]
        for run in bad:
            if run.found != expected:
                print(f"expected {expected}\nfound    {run.found}")
    within = [run.peak_bytes < PEAK_LIMIT for run in good + bad]
    within += [run.most_read < READ_LIMIT for run in good + bad]
    return not all(told + within)


@contextlib.contextmanager
def _room_for(size: int) -> Iterator[Path]:
    """Make a directory in memory if it has room, else in the temporary directory."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > size + GIB
    path = tempfile.mkdtemp(prefix="bbng-verify-", dir=memory if roomy else None)
    try:
        yield Path(path)
    finally:
        shutil.rmtree(path)


def _fill(tree: Path, files: int, largest: int) -> None:
    chance = random.Random(1)
    block = chance.randbytes(2 * largest)
    (tree / "many").mkdir()
    for number in range(files):
        if number % 2:
            path = tree / "many" / f"{number:06} {'of a long name ' * 4}"
        else:
            top, below = divmod(number // IN_A_DIRECTORY, 50)
            path = tree / f"directory {top}" / f"more {below}" / f"file {number}"
            path.parent.mkdir(parents=True, exist_ok=True)
        start = chance.randrange(largest)
        path.write_bytes(block[start : start + chance.randrange(1, largest)])
        if number % 10 == 0:
            os.setxattr(path, "user.number", b"%d" % number)
        if number % 50 == 0:
            os.link(path, path.with_name(f"{path.name} again"))


def _read_once(places: Places, name: str) -> list[int]:
    """Return the bytes that one reading of all files reads from each cold device."""
    found = []
    for filesystem, path in (
        (places.source, places.home / ".btrfs-backup-ng/snapshots" / name),
        (places.destination, places.backups / name),
    ):
        places.fresh()
        before = _read_bytes(filesystem.device)
        words = ["tar", "-C", path, "--xattrs", "-cf", "-", "."]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as tar:
            assert tar.stdout
            while tar.stdout.read(1 << 20):  # into /dev/null it would read nothing
                pass
        assert tar.returncode == 0
        found.append(_read_bytes(filesystem.device) - before)
    return found


class Run(NamedTuple):
    """The findings of one run, and its cost; ``most_read`` is a ratio."""

    found: list[tuple[str, str]]
    peak_bytes: int
    most_read: float


def _verify(places: Places, way: str, words: Sequence[str], once: list[int]) -> Run:
    places.fresh()
    before = places.read_bytes()
    began, peak = time.monotonic(), 0
    argv = [*program.PROGRAM, "verify", "--data", "--json", *words]
    with tempfile.TemporaryFile() as output:
        with subprocess.Popen(argv, env=program.environment(), stdout=output) as run:
            while run.poll() is None:
                peak = max(peak, processes._peak_bytes(run.pid) or 0)
                time.sleep(0.01)
        elapsed = time.monotonic() - began
        output.seek(0)
        document = json.load(output)
    read = [now - then for now, then in zip(places.read_bytes(), before, strict=True)]
    ratios = [one / other for one, other in zip(read, once, strict=True)]
    (snapshot,) = document["places"][0]["snapshots"]
    found = [(d["path"], d["aspect"]) for d in snapshot["differences"]]
    print(
        f"{way}: status {run.returncode}, {snapshot['compared']} compared,"
        f" {len(found)} differences, {elapsed:.1f} s, our peak {peak / 1e6:.1f} MB,"
        f" read {_mib(read)} ({ratios[0]:.2f}, {ratios[1]:.2f} of once)",
        flush=True,
    )
    return Run(found, peak, max(ratios))


def _damage(backup: Path) -> list[tuple[str, str]]:
    """Damage a backup four times, without a trace; return the expected findings."""
    directory = backup / "directory 0" / "more 0"
    set_read_only(backup, False)
    victims = {
        "byte": directory / "file 102",
        "mode": directory / "file 104",
        "xattr": directory / "file 10",
        "extra": directory / "extra",
    }
    before = directory.stat()
    raw = bytearray(victims["byte"].read_bytes())
    raw[len(raw) // 2] ^= 1
    status = victims["byte"].stat()
    with open(victims["byte"], "r+b") as file:
        file.write(raw)
    os.utime(victims["byte"], ns=(status.st_atime_ns, status.st_mtime_ns))
    victims["mode"].chmod(victims["mode"].stat().st_mode ^ 0o100)
    os.removexattr(victims["xattr"], "user.number")
    victims["extra"].write_bytes(b"")
    os.utime(directory, ns=(before.st_atime_ns, before.st_mtime_ns))
    set_read_only(backup, True)
    return sorted(
        (str(path.relative_to(backup)), DAMAGE[what]) for what, path in victims.items()
    )


def _read_bytes(device: str) -> int:
    fields = Path(f"/sys/block/{Path(device).name}/stat").read_text().split()
    return int(fields[2]) * 512  # sectors read


def _mib(sizes: Sequence[int]) -> str:
    return " and ".join(f"{size / 2**20:.0f} MiB" for size in sizes)


if __name__ == "__main__":
    sys.exit(main())
