"""The look at a stream (``shell://``), against a program that only passes it on."""

from __future__ import annotations

import os
import random
import subprocess
import tempfile
import time

from benchmarks.bench import Aim, Bench, Cost, Result, Runner
from benchmarks.cases import Case, case
from btrfs_backup_ng.process.poller import widen
from btrfs_backup_ng.sendstream.format import Attribute, Kind, build_command, preamble
from btrfs_backup_ng.sendstream.look import look_argv

_PIECE, _PIECES = 48 << 10, 4096
#: One second of CPU for a GiB, start included.
_AIM = Aim(cpu_s=1.0 * _PIECE * _PIECES / (1 << 30))


def _write_stream(path: str) -> None:
    """Write a stream of one large file that does not compress."""
    dice = random.Random(1)
    identity = ((Attribute.UUID, bytes(16)), (Attribute.CTRANSID, bytes(8)))
    with open(path, "wb") as file:
        file.write(preamble(1))
        file.write(build_command(Kind.SUBVOL, ((Attribute.PATH, b"x"), *identity)))
        for _ in range(_PIECES // 64):
            data = (Attribute.DATA, dice.randbytes(_PIECE))
            file.write(64 * build_command(Kind.WRITE, ((Attribute.PATH, b"f"), data)))
        file.write(build_command(Kind.END, ()))


def _between_pipes(argv: tuple[str, ...], path: str) -> Cost:
    """Return the cost of a program between two pipes."""
    began = time.monotonic()
    feeder = subprocess.Popen(["cat", path], stdout=subprocess.PIPE)
    assert feeder.stdout
    widen(feeder.stdout.fileno())
    program = subprocess.Popen(
        argv, stdin=feeder.stdout, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert program.stdout
    widen(program.stdout.fileno())
    reader = subprocess.Popen(["cat"], stdin=program.stdout, stdout=subprocess.DEVNULL)
    feeder.stdout.close()
    program.stdout.close()
    _, status, usage = os.wait4(program.pid, 0)
    assert status == 0
    feeder.wait()
    reader.wait()
    return Cost(time.monotonic() - began, usage.ru_utime + usage.ru_stime, 0)


@case("look", "the look at a stream of 192 MiB")
def look(bench: Bench, name: Case) -> Result:
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        _write_stream(file.name)

        def ours(_: Runner) -> Cost:
            return _between_pipes(look_argv(), file.name)

        def theirs(_: Runner) -> Cost:
            return _between_pipes(("cat",), file.name)

        return bench.race(name, ours, "cat", theirs, _AIM)
