"""The verb ``verify --data``: it finds four small damages among many files.

A tree, half of it in one directory, with hard links and xattrs, is backed up. Then a
good backup is verified, and one with a flipped byte, a changed mode, a missing xattr
and an extra file, each right after both filesystems were mounted. The bytes that each
side read are taken from the counters of its loop device, and compared with reading
every file once.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.bench import Aim, Bench, Cost, Result, Runner, run_measured
from benchmarks.cases import Case, case
from tests.support import filesystems, program
from tests.support.places import set_read_only

_FILES, _SIZE = 100_000, 8 << 10
_IN_A_DIRECTORY = 200
_PEAK_LIMIT = 64_000_000
#: Limit on the bytes read beyond one reading: metadata read twice, and readahead.
_READ_LIMIT = 1.15
_DAMAGE = {"byte": "contents", "mode": "mode", "xattr": "xattr", "extra": "presence"}


class _Places(NamedTuple):
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


@case("verify", "verify --data of 100,000 files, local")
def verify_local(bench: Bench, name: Case) -> Result:
    return _verify(bench, name, ends_over_ssh=0)


@case("verify-ssh", "verify --data of 100,000 files, ssh to local")
def verify_over_ssh(bench: Bench, name: Case) -> Result:
    return _verify(bench, name, ends_over_ssh=1)


@case("verify-ssh-ssh", "verify --data of 100,000 files, both sides over ssh")
def verify_between_hosts(bench: Bench, name: Case) -> Result:
    return _verify(bench, name, ends_over_ssh=2)


def _verify(bench: Bench, name: Case, *, ends_over_ssh: int) -> Result:
    here = bench.directory
    with (
        filesystems.btrfs_filesystem(here, size="16G") as source,
        filesystems.btrfs_filesystem(here, size="16G") as destination,
    ):
        places = _Places(source, destination)
        _fill(source.subvolume("home"), bench.scaled(_FILES), _SIZE)
        places.backups.mkdir()
        done = program.run_program("-p", "x-", places.home, places.backups)
        assert done.returncode == 0, done.stderr
        (backup,) = (n for n in os.listdir(places.backups) if n.startswith("x-"))
        once = _read_once(places, backup)
        words, there = [], ""
        if ends_over_ssh:
            server = bench.ssh()
            there = f"ssh://{server.host}:{server.port}"
            words = [f"--ssh-opt={option}" for option in server.ssh_options]
        words += [f"{there}{places.backups}"]
        words += [f"--source={there if ends_over_ssh == 2 else ''}{places.home}"]
        found = _look(places, words, once, [])
        expected = _damage(places.backups / backup)
        most_read = max(found, _look(places, words, once, expected))

        def ours(_: Runner) -> Cost:
            places.fresh()
            argv = [*program.PROGRAM, "verify", "--data", *words]
            return run_measured(argv, statuses=(1,))

        result = bench.race(name, ours, aim=Aim())
        assert max(cost.peak_bytes for cost in result.ours) < _PEAK_LIMIT
        note = f"a side read {most_read:.2f} of all files at most"
        return dataclasses.replace(result, note=note)


def _look(
    places: _Places,
    words: Sequence[str],
    once: Sequence[int],
    expected: list[tuple[str, str]],
) -> float:
    """Verify, compare the findings, and return how often a side read its data."""
    places.fresh()
    before = places.read_bytes()
    done = program.run_program("verify", "--data", "--json", *words)
    now = places.read_bytes()
    (snapshot,) = json.loads(done.stdout)["places"][0]["snapshots"]
    found = [(d["path"], d["aspect"]) for d in snapshot["differences"]]
    assert found == expected, f"expected {expected}, found {found}"
    read = [one - other for one, other in zip(now, before, strict=True)]
    most = max(one / other for one, other in zip(read, once, strict=True))
    assert most < _READ_LIMIT, f"a side read its data {most:.2f} times"
    return most


def _fill(tree: Path, files: int, largest: int) -> None:
    chance = random.Random(1)
    block = chance.randbytes(2 * largest)
    (tree / "many").mkdir()
    for number in range(files):
        if number % 2:
            path = tree / "many" / f"{number:06} {'of a long name ' * 4}"
        else:
            top, below = divmod(number // _IN_A_DIRECTORY, 50)
            path = tree / f"directory {top}" / f"more {below}" / f"file {number}"
            path.parent.mkdir(parents=True, exist_ok=True)
        start = chance.randrange(largest)
        path.write_bytes(block[start : start + chance.randrange(1, largest)])
        if number % 10 == 0:
            os.setxattr(path, "user.number", b"%d" % number)
        if number % 50 == 0:
            os.link(path, path.with_name(f"{path.name} again"))


def _read_once(places: _Places, name: str) -> list[int]:
    """Return the bytes that one reading of all files reads from each cold device."""
    found = []
    for filesystem, path in (
        (places.source, places.home / ".btrfs-backup-ng/snapshots" / name),
        (places.destination, places.backups / name),
    ):
        places.fresh()
        before = _read_bytes(filesystem.device)
        words = ["tar", "-C", str(path), "--xattrs", "-cf", "-", "."]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as tar:
            assert tar.stdout
            while tar.stdout.read(1 << 20):  # into /dev/null it would read nothing
                pass
        assert tar.returncode == 0
        found.append(_read_bytes(filesystem.device) - before)
    return found


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
        (str(path.relative_to(backup)), _DAMAGE[what]) for what, path in victims.items()
    )


def _read_bytes(device: str) -> int:
    fields = Path(f"/sys/block/{Path(device).name}/stat").read_text().split()
    return int(fields[2]) * 512  # sectors read
