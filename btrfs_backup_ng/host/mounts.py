"""The mounts of a machine, in the format of proc_pid_mountinfo(5)."""

import re
from typing import NamedTuple

#: Where the mounts of the program are listed.
MOUNTS = "/proc/self/mountinfo"
#: How the kernel and fstab(5) write a space and the like, in three octal digits.
_ESCAPE = r"\\([0-7]{3})"


class Mount(NamedTuple):
    """One mount.

    :ivar device: of the filesystem, ``MAJOR:MINOR``.
    :ivar root: the part of the filesystem that is mounted.
    :ivar own_options: those of the mount.
    :ivar common_options: those of the filesystem.
    :ivar source: the path of the device; another word for what has none, as ``proc``.
    """

    device: str
    root: str
    point: str
    own_options: tuple[str, ...]
    kind: str
    source: str
    common_options: tuple[str, ...]

    @property
    def options(self) -> tuple[str, ...]:
        """Return the options of the mount and of the filesystem."""
        return (*self.own_options, *self.common_options)


def parse_mounts(text: str) -> list[Mount]:
    """Read the mounts, in the order of the list."""
    return [_parse(line) for line in text.split("\n") if " - " in line]


def _parse(line: str) -> Mount:
    before, _, after = line.partition(" - ")
    _, _, device, root, point, own, *_ = before.split(" ")
    kind, source, common = after.split(" ")[:3]
    return Mount(
        device,
        unescaped(root),
        unescaped(point),
        tuple(map(unescaped, own.split(","))),
        kind,
        unescaped(source),
        tuple(map(unescaped, common.split(","))),
    )


def unescaped(text: str) -> str:
    """Return a field as it is meant."""
    return re.sub(_ESCAPE, lambda match: chr(int(match[1], 8)), text)
