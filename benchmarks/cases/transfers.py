"""Full transfers, against ``btrfs send | btrfs receive`` and a sync."""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

from benchmarks.bench import MIB, PROGRAM, Aim, Bench, Cost, Result, Runner, Way
from benchmarks.cases import Case, case
from benchmarks.slow import Line, slow_disk, slow_line

_DATA = Aim(wall=1.05, cpu=1.15)
_LARGE = Aim(wall=1.00, cpu=1.15)
_FILE = 64 * MIB


def large_files(source: Path, bench: Bench) -> None:
    """Write files of 64 MiB that no compression makes smaller."""
    for number in range(-(-bench.scaled(1536 * MIB) // _FILE)):
        with open(source / f"file {number}", "wb") as file:
            for _ in range(min(_FILE, bench.scaled(1536 * MIB)) // MIB):
                file.write(os.urandom(MIB))


def compressible_files(source: Path, bench: Bench) -> None:
    """Write text, in files of 64 MiB."""
    lines = "".join(f"{n} {n * n} is a line of a log\n" for n in range(40_000))
    text = lines.encode() * 40
    for number in range(-(-bench.scaled(1536 * MIB) // _FILE)):
        (source / f"file {number}").write_bytes(
            text[number : number + min(_FILE, bench.scaled(1536 * MIB))]
        )


def small_files(source: Path, bench: Bench, count: int = 60_000) -> None:
    """Write files of 3 KB on average, a thousand in a directory."""
    noise = os.urandom(MIB)
    for number in range(bench.scaled(count)):
        if number % 1000 == 0:
            below = source / f"{number // 1000}"
            below.mkdir()
        start = number * 7919 % (MIB - 8192)
        (below / f"{number}").write_bytes(noise[start : start + number * 31 % 6000])


def mixed_files(source: Path, bench: Bench) -> None:
    """Write 20,000 small files, and half as much data in large ones."""
    small_files(source, bench, 20_000)
    for number in range(8):
        data = os.urandom(min(_FILE, bench.scaled(512 * MIB)))
        (source / f"large {number}").write_bytes(data)
        small_files_again = source / f"more {number}"
        small_files_again.mkdir()
        for small in range(bench.scaled(1000)):
            (small_files_again / f"{small}").write_bytes(data[: small * 31 % 6000])


class Transfer:
    """One snapshot, sent in full to a new filesystem each time."""

    def __init__(
        self,
        bench: Bench,
        source: Path,
        *options: str,
        there: Callable[[Path], str] | None = None,
        ssh: tuple[str, ...] = (),
        net: tuple[str, ...] = (),
        mount: tuple[str, ...] = (),
        disk: Callable[[], contextlib.AbstractContextManager[Path]] | None = None,
    ) -> None:
        """Prepare.

        :param options: of the program.
        :param there: the location of a directory for ssh; the path, if None.
        :param ssh: options of ssh, each as ``KEYWORD=VALUE``.
        :param net: the words in front of every command.
        :param mount: options of the destination.
        :param disk: makes the destination, if it is not one in memory.
        """
        self._bench = bench
        self._source = source
        self._options = options
        self._there = there
        self._ssh = ssh
        self._net = net
        self._disk = disk or functools.partial(bench.disk, *mount)
        (self._sent,) = (source / ".btrfs-backup-ng" / "snapshots").iterdir()

    def ours(self, run: Runner) -> Cost:
        """Send with the program."""
        with self._disk() as target:
            words = [f"--ssh-opt={option}" for option in self._ssh]
            place = self._there(target) if self._there else str(target)
            words += ["-S", *self._options, str(self._source), place]
            cost = run([*self._net, *PROGRAM, *words])
            self._check(target)
        return cost

    def bare(self, run: Runner) -> Cost:
        """Send, receive and sync, as one would type it."""
        with self._disk() as target:
            receive = f"btrfs receive -q {target}; btrfs filesystem sync {target}"
            if self._there:
                host = self._there(target).removeprefix("ssh://").partition("/")[0]
                flags = [f"-o{option}" for option in self._ssh]
                user = host.rpartition(":")[0]
                receive = shlex.join(["ssh", *flags, user, receive])
            send = f"btrfs send -q {shlex.quote(str(self._sent))}"
            script = f"set -e -o pipefail; {send} | {{ {receive}; }}"
            cost = run([*self._net, "bash", "-c", script])
            self._check(target)
        return cost

    def _check(self, target: Path) -> None:
        assert os.listdir(target / self._sent.name), "nothing arrived"


_PIPE = "btrfs send | btrfs receive; sync"
_SSH = "btrfs send | ssh btrfs receive; sync"


def _race(
    bench: Bench, name: Case, source: Path, *options: str, aim: Aim = _DATA
) -> Result:
    transfer = Transfer(bench, source, *options)
    return bench.race(name, transfer.ours, _PIPE, transfer.bare, aim)


def _race_over_ssh(
    bench: Bench, name: Case, source: Path, *options: str, aim: Aim = _DATA
) -> Result:
    server = bench.ssh()

    def there(path: Path) -> str:
        return f"ssh://root@{server.host}:{server.port}{path}"

    ssh = tuple(server.ssh_options)
    transfer = Transfer(bench, source, *options, there=there, ssh=ssh)
    return bench.race(name, transfer.ours, _SSH, transfer.bare, aim)


@case("large-local", "1.5 GB in large files, local")
def large_local(bench: Bench, name: Case) -> Result:
    return _race(bench, name, bench.tree(large_files), "--progress", aim=_LARGE)


@case("large-ssh", "1.5 GB in large files, ssh")
def large_ssh(bench: Bench, name: Case) -> Result:
    source = bench.tree(large_files)
    return _race_over_ssh(bench, name, source, "--progress", aim=_LARGE)


@case("compressible-local", "1.5 GB of text on zstd, local")
def compressible_local(bench: Bench, name: Case) -> Result:
    zstd = "compress=zstd"
    source = bench.tree(compressible_files, zstd)
    transfer = Transfer(bench, source, "--progress", mount=(zstd,))
    return bench.race(name, transfer.ours, _PIPE, transfer.bare, _LARGE)


@case("compressible-ssh", "1.5 GB of text on zstd, ssh")
def compressible_ssh(bench: Bench, name: Case) -> Result:
    source = bench.tree(compressible_files, "compress=zstd")
    return _race_over_ssh(bench, name, source, "--progress", aim=_LARGE)


@case("small-local", "60,000 small files, local")
def small_local(bench: Bench, name: Case) -> Result:
    return _race(bench, name, bench.tree(small_files))


@case("small-local-progress", "60,000 small files, local, --progress")
def small_local_progress(bench: Bench, name: Case) -> Result:
    return _race(bench, name, bench.tree(small_files), "--progress")


@case("small-local-no-checkpoints", "60,000 small files, local, --no-checkpoints")
def small_local_no_checkpoints(bench: Bench, name: Case) -> Result:
    return _race(bench, name, bench.tree(small_files), "--no-checkpoints")


@case("small-ssh", "60,000 small files, ssh")
def small_ssh(bench: Bench, name: Case) -> Result:
    return _race_over_ssh(bench, name, bench.tree(small_files))


@case("small-ssh-progress", "60,000 small files, ssh, --progress")
def small_ssh_progress(bench: Bench, name: Case) -> Result:
    return _race_over_ssh(bench, name, bench.tree(small_files), "--progress")


@case("mixed-local", "28,000 small and 8 large files, local, --progress")
def mixed_local(bench: Bench, name: Case) -> Result:
    return _race(bench, name, bench.tree(mixed_files), "--progress")


@case("slow-disk", "1.5 GB to a disk of 100 MB/s")
def slow_disk_local(bench: Bench, name: Case) -> Result:
    source = bench.tree(large_files)
    disk = functools.partial(slow_disk, bench, 100_000_000)
    transfer = Transfer(bench, source, "--progress", disk=disk)
    return bench.race(name, transfer.ours, _PIPE, transfer.bare, _LARGE)


@case("slow-disk-small", "60,000 small files to a disk of 100 MB/s")
def slow_disk_small(bench: Bench, name: Case) -> Result:
    source = bench.tree(small_files)
    disk = functools.partial(slow_disk, bench, 100_000_000)
    transfer = Transfer(bench, source, disk=disk)
    return bench.race(name, transfer.ours, _PIPE, transfer.bare, _DATA)


@case("slow-line", "text over ssh, 100 Mbit/s and 20 ms, --compress auto")
def slow_line_ssh(bench: Bench, name: Case) -> Result:
    with slow_line() as line:
        return bench.race(name, *_over(bench, line))


def _over(bench: Bench, line: Line) -> tuple[Way, str, Way, Aim]:
    source = bench.tree(text_files)
    transfer = Transfer(
        *(bench, source, "--compress", "auto"),
        there=line.location,
        ssh=tuple(line.server.ssh_options),
        net=line.words,
    )
    return transfer.ours, _SSH, transfer.bare, _LARGE


def text_files(source: Path, bench: Bench) -> None:
    """Write text of 60 MB, which is not compressed on its disk."""
    compressible_files(source, bench)
    whole = sorted(source.iterdir())
    for path in whole[1:]:
        path.unlink()
    os.truncate(whole[0], min(60 * MIB, whole[0].stat().st_size))


@case("checkpoints-large", "1.5 GB, checkpoints each 64 MiB against none")
def checkpoints_large(bench: Bench, name: Case) -> Result:
    return _with_checkpoints(bench, name, bench.tree(large_files))


@case("checkpoints-small", "60,000 small files, checkpoints each 16 MiB against none")
def checkpoints_small(bench: Bench, name: Case) -> Result:
    return _with_checkpoints(bench, name, bench.tree(small_files))


def _with_checkpoints(bench: Bench, name: Case, source: Path) -> Result:
    used = int(
        subprocess.check_output(["du", "-sb", str(source)], text=True).split()[0]
    )
    interval = str(min(max(used // 12, MIB), 64 * MIB))
    with_them = Transfer(bench, source, "--checkpoint-interval", interval)
    without = Transfer(bench, source, "--no-checkpoints")
    peer = "--no-checkpoints"
    return bench.race(name, with_them.ours, peer, without.ours, Aim(wall=1.05))
