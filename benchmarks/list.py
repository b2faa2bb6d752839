#!/usr/bin/env python3
"""Measure the cost of ``list`` for a place with 10,000 snapshots, local and over ssh.

Run by hand, as root:

    python3 benchmarks/list.py [--snapshots 10000]

Printed: processor time (of the program and its children here), elapsed time and memory
for a source, a destination, and both in one call; processes, or connections and
sessions; and the cost of ``versions`` for a file at both.  The aim is less than 1 s of
processor time for a place.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support import filesystems, ours, processes, program, sshd  # noqa: E402
from tests.support.many import make_pairs  # noqa: E402

LIMIT_S = 1.0
FOLDER = ".btrfs-backup-ng/snapshots"


def main() -> int:
    """Measure and print; the exit status is 0 within the aim."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--snapshots", type=int, default=10_000)
    count: int = parser.parse_args().snapshots
    directory = ours.public_directory()
    quick = ("nobarrier", "noatime")
    try:
        with (
            sshd.running_sshd() as server,
            filesystems.btrfs_filesystem(
                directory, size="8G", mount_options=quick
            ) as one,
            filesystems.btrfs_filesystem(
                directory, size="8G", mount_options=quick
            ) as other,
        ):
            source, target = one.subvolume("home"), other.path / "backups"
            (source / FOLDER).mkdir(parents=True)
            target.mkdir()
            make_pairs(source / FOLDER, target, "x-", range(count))
            print(f"{count} snapshots, and as many backups, are made")
            costs = [_measure(server, *places) for places in _calls(source, target)]
            _measure_versions(source, target)
    finally:
        shutil.rmtree(directory)
        shutil.rmtree(program.STATE_DIRECTORY, ignore_errors=True)
    return max(costs) > LIMIT_S


def _calls(source: Path, target: Path) -> list[tuple[Path, ...]]:
    return [(source,), (target,), (source, target)]


def _measure(server: sshd.Sshd, *places: Path) -> float:
    """Measure one call; return processor seconds for each place, on the slower way."""
    words = [f"--ssh-opt={option}" for option in server.ssh_options]
    there = [f"ssh://root@{server.host}:{server.port}{place}" for place in places]
    worst = 0.0
    for way, argv in (("here", list(map(str, places))), ("ssh", [*words, *there])):
        command = [*program.PROGRAM, "list", *argv]
        cost = processes.measure(*command, env=program.environment())
        assert cost.returncode == 0
        if way == "here":
            traced = processes.trace(*command, env=program.environment())
            steps = f"{traced.processes} process(es)"
        else:
            server.mark()
            program.run_program(*command[len(program.PROGRAM) :])
            steps = f"{server.connections()} connection, {server.sessions()} sessions"
        print(
            f"{len(places)} place(s), {way}: {cost.cpu_s:.2f} s of CPU,"
            f" {cost.elapsed_s:.2f} s, {cost.peak_bytes >> 20} MiB, {steps}"
        )
        worst = max(worst, cost.cpu_s / len(places))
    return worst


def _measure_versions(source: Path, target: Path) -> None:
    """Measure the search for one file in all snapshots at both places."""
    (source / "file").touch()
    command = [*program.PROGRAM, "versions", "--at", str(target), str(source / "file")]
    cost = processes.measure(*command, env=program.environment())
    assert cost.returncode == 0
    print(
        f"versions: {cost.cpu_s:.2f} s of CPU, {cost.elapsed_s:.2f} s,"
        f" {cost.peak_bytes >> 20} MiB"
    )


if __name__ == "__main__":
    sys.exit(main())
