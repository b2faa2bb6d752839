"""The verb ``diff``, against ``diff -rq``, with nothing of the disk in memory."""

from __future__ import annotations

import json
import random
from pathlib import Path

from benchmarks.bench import Aim, Bench, Cost, Result, Runner, run_measured
from benchmarks.cases import Case, case
from tests.support import changes, filesystems, program

_IN_A_DIRECTORY = 200
_LARGEST = 8 << 10
_FILES = 200_000


@case("diff", "diff of 200,000 files, 1 % changed, from a fresh mount")
def diff(bench: Bench, name: Case) -> Result:
    with filesystems.btrfs_filesystem(bench.directory, size="8G") as disk:
        one, other = _snapshots(disk, bench.scaled(_FILES), 1.0)
        wrong = _disagreements(one, other)
        assert not wrong, wrong

        def fresh(*argv: str) -> Cost:
            disk.unmount()
            disk.mount()
            return run_measured(argv, statuses=(0, 1))  # 1 of diff: they differ

        def ours(_: Runner) -> Cost:
            return fresh(*program.PROGRAM, "diff", str(one), str(other))

        def theirs(_: Runner) -> Cost:
            words = "-rq", "--no-dereference", str(one), str(other)
            return fresh("diff", *words)

        return bench.race(name, ours, "diff -rq", theirs, Aim(wall=0.1))


def _snapshots(
    filesystem: filesystems.Filesystem, files: int, percent: float
) -> tuple[Path, Path]:
    """Make a tree with names and sizes of all kinds, and two snapshots of it."""
    chance = random.Random(1)
    block = chance.randbytes(2 * _LARGEST)
    tree = filesystem.subvolume("tree")
    paths = []
    for number in range(files):
        top, below = divmod(number // _IN_A_DIRECTORY, 50)
        path = tree / f"directory {top}" / f"more {below}" / f"file {number}"
        if number % _IN_A_DIRECTORY == 0:
            path.parent.mkdir(parents=True)
        start = chance.randrange(_LARGEST)
        path.write_bytes(block[start : start + chance.randrange(_LARGEST)])
        paths.append(path)
    one = filesystem.snapshot("tree", "one")
    for number, path in enumerate(chance.sample(paths, int(files * percent / 100))):
        fresh = path.with_name(f"new {number}")
        match number % 6:
            case 0:
                path.write_bytes(chance.randbytes(_LARGEST))
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
    *found, _ = map(json.loads, done.stdout.splitlines())
    return changes.disagreements(changes.describe(one), changes.describe(other), found)
