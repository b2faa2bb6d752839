"""Compare the look at a stream with a program that only passes it on.

Both get the same stream from a file in memory, alternately. Aim: at most 1 s of
processor time for a GiB, start included.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from btrfs_backup_ng.process.poller import widen  # noqa: E402 - by the line above
from btrfs_backup_ng.sendstream.format import (  # noqa: E402
    Attribute,
    Kind,
    build_command,
    preamble,
)
from btrfs_backup_ng.sendstream.look import look_argv  # noqa: E402

_PIECE, _PIECES, _PAIRS = 48 << 10, 4096, 7
_AIM_S = 1.0 * _PIECE * _PIECES / (1 << 30)


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


def _cpu_s(argv: tuple[str, ...], path: str) -> float:
    """Return the processor time of a program between two pipes."""
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
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    """Measure, and return whether the aim was missed."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        _write_stream(file.name)
        pairs = [
            (_cpu_s(look_argv(), file.name), _cpu_s(("cat",), file.name))
            for _ in range(_PAIRS)
        ]
    look, bare = (statistics.median(one) for one in zip(*pairs, strict=True))
    ratio = statistics.median(one / other for one, other in pairs)
    print(f"look {look:.3f} s, cat {bare:.3f} s, ratio {ratio:.1f}; aim {_AIM_S:.3f} s")
    return look > _AIM_S


if __name__ == "__main__":
    sys.exit(main())
