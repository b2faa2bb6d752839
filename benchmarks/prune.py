#!/usr/bin/env python3
"""Measure the time of ``prune --dry-run`` with many snapshots.

Run by hand, as root:

    python3 benchmarks/prune.py [--snapshots 10000]

Printed: the time for a source and for a destination of this machine, and for the same
destination through an sshd of this machine, each with the number of commands.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support import filesystems, ours, program, sshd  # noqa: E402
from tests.support.many import make_named  # noqa: E402

LIMIT_S = 2.0
FOLDER = ".btrfs-backup-ng/snapshots"
POLICY = "latest 24h 7d 4w 12m 5y min=2d"


def main() -> int:
    """Measure and print; the exit status is 0 within the aim."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--snapshots", type=int, default=10000)
    count: int = parser.parse_args().snapshots
    now = datetime.now(timezone.utc)
    names = [f"x-{now - timedelta(hours=n):%Y%m%d-%H%M%S%z}" for n in range(count)]
    directory = ours.public_directory()
    try:
        with (
            sshd.running_sshd() as server,
            filesystems.btrfs_filesystem(directory) as one,
            filesystems.btrfs_filesystem(directory, size="4G") as other,
        ):
            source = one.subvolume("source")
            (source / FOLDER).mkdir(parents=True)
            template = other.subvolume("template")
            make_named(source / FOLDER, other.path, names, template=template)
            words = [f"--ssh-opt={option}" for option in server.ssh_options]
            there = f"ssh://{server.host}:{server.port}{other.path}"
            times = [
                _measure("source", "--keep", [source]),
                _measure("destination", "--keep-at", [other.path]),
                _measure("destination through ssh", "--keep-at", [*words, there]),
            ]
    finally:
        shutil.rmtree(directory)
    return max(times) > LIMIT_S


def _measure(what: str, option: str, words: list[str | Path]) -> float:
    call = ["prune", "-n", "--force", "-p", "x-", option, POLICY, *words]
    times = []
    for _ in range(3):
        start, used = time.monotonic(), os.times()
        done = program.run_program(*call)
        assert done.returncode == 0, done.stderr
        times.append(time.monotonic() - start)
        after = os.times()
    cpu = sum(after[2:4]) - sum(used[2:4])
    lines = done.stdout.count("\n")
    print(f"{what}: {min(times):.2f} s, {cpu:.2f} s of CPU here, {lines} lines")
    return min(times)


if __name__ == "__main__":
    sys.exit(main())
