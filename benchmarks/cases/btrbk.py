"""Runs beside many snapshots, against btrbk."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from benchmarks.bench import Aim, Bench, Cost, Result, Runner
from benchmarks.cases import Case, case
from benchmarks.slow import NotPossible
from tests.support.many import make_named, make_pairs
from tests.support.places import command
from tests.support.program import PROGRAM

_FOLDER = ".btrfs-backup-ng/snapshots"
_HERE, _THERE = Aim(wall=1.0), Aim(wall=0.5)


class Series:
    """Subvolumes with their snapshots and backups, once for each program."""

    def __init__(
        self, bench: Bench, source: Path, target: Path, subvolumes: int, count: int
    ) -> None:
        """Make everything.

        :param count: of snapshots, and of backups, of each subvolume.
        """
        self._bench = bench
        self._changes = 0
        self._homes = [f"home{number}" for number in range(subvolumes)]
        self._source, self._target = source, target
        (source / "btrbk").mkdir()
        for home in self._homes:
            folder = source / home / _FOLDER
            folder.mkdir(parents=True)
            backups = target / f"ours-{home}"
            backups.mkdir()
            make_pairs(folder, backups, "x-", range(count))
            backups = target / f"btrbk-{home}"
            backups.mkdir()
            hours = range(count)
            names = [f"{home}.2020{_moment(number)}" for number in hours]
            make_named(source / "btrbk", backups, names)

    def write_config(self, host: str) -> Path:
        """Write the configuration of btrbk.

        :param host: ``ssh://HOST:PORT``, or "".
        """
        lines = ["timestamp_format long", "snapshot_preserve_min all"]
        lines += ["target_preserve_min all", f"volume {self._source}"]
        lines += ["  snapshot_dir btrbk"]
        for home in self._homes:
            lines += [f"  subvolume {home}"]
            lines += [f"    target {host}{self._target}/btrbk-{home}"]
        path = self._bench.directory / "btrbk.conf"
        path.write_text("\n".join(lines) + "\n")
        return path

    def change(self) -> None:
        """Write a small file into each subvolume."""
        self._changes += 1
        for home in self._homes:
            text = f"{self._changes}"
            (self._source / home / "small").write_text(text)

    def words(self, host: str, *options: str) -> list[str]:
        """Return the arguments of the program, a task for each subvolume."""
        words: list[str] = []
        for home in self._homes:
            words += ["::"] if words else []
            words += ["-q", "-p", "x-", *options]
            words += [f"{self._source}/{home}", f"{host}{self._target}/ours-{home}"]
        return words


def _moment(number: int) -> str:
    day, hour = divmod(number, 24)
    month, day = divmod(day, 28)
    return f"{month + 1:02}{day + 1:02}T{hour:02}00"


def _race(
    bench: Bench,
    name: Case,
    *,
    count: int,
    subvolumes: int = 1,
    changes: bool = True,
    over_ssh: bool = False,
) -> Result:
    if not shutil.which("btrbk"):
        raise NotPossible("btrbk is not installed")
    count = bench.scaled(count) if count > 10 else count
    with bench.disk() as one, bench.disk() as other:
        for number in range(subvolumes):
            command("btrfs", "-q", "subvolume", "create", one / f"home{number}")
        series = Series(bench, one, other, subvolumes, count)
        with _connection(bench, over_ssh) as (host, options, path):
            config = str(series.write_config(host))

            def ours(run: Runner) -> Cost:
                if changes:
                    series.change()
                more = options if changes else [*options, "-S"]
                return run([*PROGRAM, *series.words(host, *more)])

            def theirs(run: Runner) -> Cost:
                if changes:
                    series.change()
                action = "run" if changes else "resume"
                return run(["env", f"PATH={path}", "btrbk", "-q", "-c", config, action])

            aim = _THERE if over_ssh else _HERE
            try:
                return bench.race(name, ours, "btrbk", theirs, aim)
            finally:
                os.unlink(config)


@contextlib.contextmanager
def _connection(bench: Bench, over_ssh: bool) -> Iterator[tuple[str, list[str], str]]:
    """Yield the beginning of locations, options, and a PATH with an ssh for btrbk."""
    path = os.environ["PATH"]
    if not over_ssh:
        yield "", [], path
        return
    server = bench.ssh()
    folder = bench.directory / "bin"
    folder.mkdir()
    script = folder / "ssh"
    words = " ".join(f"-o{option}" for option in server.ssh_options)
    script.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} {words} "$@"\n')
    script.chmod(0o755)
    options = [f"--ssh-opt={option}" for option in server.ssh_options]
    try:
        host = f"ssh://{server.host}:{server.port}"
        yield host, options, f"{folder}:{path}"
    finally:
        shutil.rmtree(folder)


for _count in (10, 1000):
    for _over_ssh in (False, True):
        _kind = "ssh" if _over_ssh else "local"
        _beside = f"beside {_count:,} + {_count:,}, {_kind}"
        _sized = functools.partial(_race, count=_count, over_ssh=_over_ssh)
        case(f"idle-{_kind}-{_count}", f"nothing to do {_beside}")(
            functools.partial(_sized, changes=False)
        )
        case(f"change-{_kind}-{_count}", f"one small change {_beside}")(_sized)


@case("subvolumes-local", "20 subvolumes, a small change in each, local")
def subvolumes_local(bench: Bench, name: Case) -> Result:
    return _race(bench, name, count=10, subvolumes=20)


@case("subvolumes-ssh", "20 subvolumes, a small change in each, ssh")
def subvolumes_ssh(bench: Bench, name: Case) -> Result:
    return _race(bench, name, count=10, subvolumes=20, over_ssh=True)
