#!/usr/bin/env python3
"""Compare a small full backup over ssh with the bare pipe: the fixed cost of a run.

Run by hand, as root:

    python3 benchmarks/small.py [--pairs 5]

20 MB go from a source with 100 older snapshots to a fresh directory behind an sshd of
this machine, alternately with the program and with ``btrfs subvolume snapshot -r`` and
``btrfs send | ssh ... btrfs receive``. Printed: the ratios, and the connections and
sessions of the program.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support import filesystems, ours, program, sshd  # noqa: E402

SIZE, OLDER, LIMIT = 20 << 20, 100, 3.0
FOLDER = ".btrfs-backup-ng/snapshots"


def main() -> int:
    """Measure and print; the exit status is 0 within the aim."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5, help="default: %(default)s")
    pairs: int = parser.parse_args().pairs
    directory = ours.public_directory()
    try:
        with (
            sshd.running_sshd() as server,
            filesystems.btrfs_filesystem(directory) as one,
            filesystems.btrfs_filesystem(directory) as other,
        ):
            ratios = [_pair(server, one, other.path / str(n)) for n in range(pairs)]
    finally:
        shutil.rmtree(directory)
    median = statistics.median(ratios)
    print(f"median {median:.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    return median > LIMIT


def _pair(server: sshd.Sshd, disk: filesystems.Filesystem, place: Path) -> float:
    source = disk.subvolume(f"source-{place.name}")
    (source / "data").write_bytes(os.urandom(SIZE))
    words = [f"--ssh-opt={option}" for option in server.ssh_options]
    words += ["-q", "-p", "x-"]
    older = source / FOLDER
    program.run_program("-q", "-p", "old-", "-T", source)
    snapshot = ["btrfs", "-q", "subvolume", "snapshot", "-r", str(source)]
    for number in range(OLDER - 1):
        subprocess.run([*snapshot, f"{older}/old-20250101-{number:06}"], check=True)
    place.mkdir()
    for name in ("bare", "ours"):
        (place / name).mkdir()

    began = time.monotonic()
    taken = disk.path / f"bare-{place.name}"
    subprocess.run([*snapshot, str(taken)], check=True)
    options = shlex.join(f"-o{option}" for option in server.ssh_options)
    pipe = (
        f"btrfs send -q {taken} |"
        f" ssh {options} root@{server.host} btrfs receive -q {place}/bare"
    )
    subprocess.run(pipe, shell=True, check=True)
    bare_s = time.monotonic() - began

    server.mark()
    began = time.monotonic()
    target = f"ssh://root@{server.host}{place}/ours"
    done = program.run_program(*words, source, target)
    ours_s = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    print(
        f"bare {bare_s:.2f} s, ours {ours_s:.2f} s, ratio {ours_s / bare_s:.2f};"
        f" {server.connections()} connection, {server.sessions()} sessions"
    )
    return ours_s / bare_s


if __name__ == "__main__":
    sys.exit(main())
