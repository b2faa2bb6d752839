"""The program alone: places with many snapshots, and the first run over ssh."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

from benchmarks.bench import MIB, Aim, Bench, Cost, Result, Runner
from benchmarks.cases import Case, case
from benchmarks.cases.transfers import Transfer
from benchmarks.slow import slow_disk
from tests.support.many import make_named, make_pairs
from tests.support.places import command
from tests.support.program import PROGRAM, run_program

_FOLDER = ".btrfs-backup-ng/snapshots"
_COUNT = 10_000


def _measure(bench: Bench, name: Case, words: Sequence[str | Path], aim: Aim) -> Result:
    def ours(run: Runner) -> Cost:
        return run([*PROGRAM, *map(str, words)])

    return bench.race(name, ours, aim=aim)


def _options(bench: Bench) -> list[str]:
    return [f"--ssh-opt={option}" for option in bench.ssh().ssh_options]


@case("list", "list 10,000 snapshots and 10,000 backups")
def list_both(bench: Bench, name: Case) -> Result:
    with bench.disk("noatime") as one, bench.disk("noatime") as two:
        source, target = _make_pairs(bench, one, two)
        return _measure(bench, name, ["list", source, target], Aim(cpu_s=2.0))


@case("list-ssh", "list 10,000 snapshots and 10,000 backups over ssh")
def list_over_ssh(bench: Bench, name: Case) -> Result:
    with bench.disk("noatime") as one, bench.disk("noatime") as two:
        places = _make_pairs(bench, one, two)
        server = bench.ssh()
        there = [f"ssh://root@{server.host}:{server.port}{path}" for path in places]
        words = ["list", *_options(bench), *there]
        return _measure(bench, name, words, Aim(cpu_s=2.0))


@case("versions", "versions of one file in 10,000 snapshots and 10,000 backups")
def versions(bench: Bench, name: Case) -> Result:
    with bench.disk("noatime") as one, bench.disk("noatime") as two:
        source, target = _make_pairs(bench, one, two)
        (source / "file").touch()
        words: list[str | Path] = ["versions", "--at", target, source / "file"]
        return _measure(bench, name, words, Aim())


def _make_pairs(bench: Bench, one: Path, two: Path) -> tuple[Path, Path]:
    source, target = one / "home", two / "backups"
    command("btrfs", "-q", "subvolume", "create", source)
    (source / _FOLDER).mkdir(parents=True)
    target.mkdir()
    make_pairs(source / _FOLDER, target, "x-", range(bench.scaled(_COUNT)))
    return source, target


@case("prune", "prune --dry-run of 10,000 snapshots")
def prune_source(bench: Bench, name: Case) -> Result:
    return _prune(bench, name, "--keep")


@case("prune-at", "prune --dry-run of 10,000 backups")
def prune_destination(bench: Bench, name: Case) -> Result:
    return _prune(bench, name, "--keep-at")


@case("prune-at-ssh", "prune --dry-run of 10,000 backups over ssh")
def prune_over_ssh(bench: Bench, name: Case) -> Result:
    return _prune(bench, name, "--keep-at", over_ssh=True)


def _prune(bench: Bench, name: Case, option: str, *, over_ssh: bool = False) -> Result:
    now = datetime.now(timezone.utc)
    hours = range(bench.scaled(_COUNT))
    names = [f"x-{now - timedelta(hours=n):%Y%m%d-%H%M%S%z}" for n in hours]
    with bench.disk() as one, bench.disk() as two:
        source, template = one / "source", two / "template"
        for path in (source, template):
            command("btrfs", "-q", "subvolume", "create", path)
        (source / _FOLDER).mkdir(parents=True)
        make_named(source / _FOLDER, two, names, template=template)
        settled = run_program("-q", "-S", "-p", "x-", source, two)
        assert settled.returncode == 0, settled.stderr
        words: list[str | Path] = ["prune", "-n", "--force", "-p", "x-", option]
        words += ["latest 24h 7d 4w 12m 5y min=2d"]
        if over_ssh:
            server = bench.ssh()
            words += _options(bench)
            words += [f"ssh://{server.host}:{server.port}{two}"]
        else:
            words += [source if option == "--keep" else two]
        return _measure(bench, name, words, Aim(cpu_s=2.0))


@case("idle-local-10000", "nothing to do beside 10,000 + 10,000, local")
def idle(bench: Bench, name: Case) -> Result:
    """40 µs of CPU for each snapshot of each side."""
    with bench.disk("noatime") as one, bench.disk("noatime") as two:
        source, target = _make_pairs(bench, one, two)
        words: list[str | Path] = ["-S", "-p", "x-", source, target]
        aim = Aim(cpu_s=2 * bench.scaled(_COUNT) * 40e-6, peak_bytes=64 * MIB)
        return _measure(bench, name, words, aim)


#: Less than two cores send and receive four times.
_SOURCE_RATE = 60_000_000


@case("four-destinations", "300 MB from a disk of 60 MB/s to four destinations")
def four_destinations(bench: Bench, name: Case) -> Result:
    """As long as to one of them."""
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(slow_disk(bench, _SOURCE_RATE, "read")) / "home"
        command("btrfs", "-q", "subvolume", "create", source)
        for number in range(5):
            data = os.urandom(bench.scaled(60 * MIB))
            (source / f"{number}").write_bytes(data)
        command(*PROGRAM, "-q", "-p", "bench-", source)

        def to(count: int, run: Runner) -> Cost:
            with contextlib.ExitStack() as disks:
                paths = [disks.enter_context(bench.disk()) for _ in range(count)]
                command("sync")
                Path("/proc/sys/vm/drop_caches").write_text("3\n")
                words = ["-q", "-S", "-p", "bench-", source, *paths]
                cost = run([*PROGRAM, *map(str, words)])
                for path in paths:
                    (backup,) = path.glob("bench-*")
                    assert len(os.listdir(backup)) == 5
            return cost

        four, one = (functools.partial(to, count) for count in (4, 1))
        return bench.race(name, four, "one destination", one, Aim(wall=1.3))


def little(source: Path, bench: Bench) -> None:
    """Write 20 MB that do not compress."""
    (source / "data").write_bytes(os.urandom(20 * MIB))


@case("first-ssh", "a first backup of 20 MB over ssh")
def first_over_ssh(bench: Bench, name: Case) -> Result:
    server = bench.ssh()
    transfer = Transfer(
        *(bench, bench.tree(little)),
        there=lambda path: f"ssh://root@{server.host}:{server.port}{path}",
        ssh=tuple(server.ssh_options),
    )
    peer = "btrfs send | ssh btrfs receive; sync"
    return bench.race(name, transfer.ours, peer, transfer.bare, Aim(wall=3.0))
