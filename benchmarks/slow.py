"""A slow disk and a slow line, for as long as a case needs them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.bench import Bench
from tests.faults import cutting
from tests.support import sshd

#: Limits on what all processes read from a device, or write: cgroup v1, at its root.
_THROTTLES = "/sys/fs/cgroup/blkio/blkio.throttle.{}_bps_device"


class NotPossible(Exception):
    """This machine has not what a case needs."""


@contextlib.contextmanager
def slow_disk(bench: Bench, rate: int, way: str = "write") -> Iterator[Path]:
    """Make a filesystem on a loop device that takes only so many bytes a second.

    :param way: ``read``, if it gives only so many.
    :raises NotPossible: without the blkio controller of cgroup v1.
    """
    throttle = Path(_THROTTLES.format(way))
    if not throttle.exists():
        raise NotPossible(f"there is no {throttle} to make a disk slow")
    with bench.filesystem() as disk:
        number = os.stat(disk.device).st_rdev
        device = f"{os.major(number)}:{os.minor(number)}"
        throttle.write_text(f"{device} {rate}\n")
        try:
            yield disk.path
        finally:
            throttle.write_text(f"{device} 0\n")


class Line(NamedTuple):
    """A network of its own; its commands reach the server through a slow line.

    :ivar words: in front of each command at the far end.
    """

    server: sshd.Sshd
    address: str
    words: tuple[str, ...]

    def location(self, path: Path) -> str:
        """Return the location of a directory, as seen from the far end."""
        return f"ssh://root@{self.address}:{self.server.port}{path}"


@contextlib.contextmanager
def slow_line() -> Iterator[Line]:
    """Lay a line of 100 Mbit/s each way, with a delay of 20 ms if netem is there.

    :raises NotPossible: without ``tc`` and its tbf.
    """
    if not shutil.which("tc"):
        raise NotPossible("there is no tc (iproute2) to make a line slow")
    with contextlib.ExitStack() as stack:
        line = stack.enter_context(
            cutting.laid_line(
                lambda config: stack.enter_context(sshd.running_sshd(config=config))
            )
        )
        inside = ("nsenter", f"--net=/run/netns/{line.space}")
        far = _interface(line.space)
        for words, interface in (((), line.plug), (inside, far)):
            _slow_down(words, interface)
        yield Line(line.server, line.address, inside)


def _interface(space: str) -> str:
    """Return the name of the interface in a network, beside the loopback."""
    argv = ["ip", "-netns", space, "-brief", "link"]
    lines = subprocess.check_output(argv, text=True).splitlines()
    (name,) = (line.split("@")[0] for line in lines if not line.startswith("lo "))
    return name


def _slow_down(words: tuple[str, ...], interface: str) -> None:
    add = [*words, "tc", "qdisc", "add", "dev", interface]
    limit = "tbf rate 100mbit burst 64kb latency 100ms".split()
    delay = "root handle 1: netem delay 10ms limit 10000".split()
    if subprocess.run([*add, *delay], capture_output=True).returncode == 0:
        done = subprocess.run([*add, "parent", "1:", *limit], capture_output=True)
    else:
        done = subprocess.run([*add, "root", *limit], capture_output=True)
    if done.returncode:
        raise NotPossible(f"tc cannot limit a rate: {done.stderr!r}")
