"""The sources of a volume here and now: patterns, lists, and the names of ``each``."""

import glob
import os
import re
from collections.abc import Iterator, Sequence

from btrfs_backup_ng.__util__ import UsageError, visible
from btrfs_backup_ng.btrfs.ioctl import is_subvolume
from btrfs_backup_ng.core.configuration import Configuration, VolumeSection
from btrfs_backup_ng.core.fleet import is_for, machines_of, names_of, with_name
from btrfs_backup_ng.core.value import Value

_WILD = re.compile(r"[*?[]")


class Member(Value):
    """A volume, or the part of it for one name of its ``each``.

    :ivar name: of the volume, with that name behind it.
    :ivar each: that name; "" without one.
    :ivar words: its sources as the file has them.
    """

    name: str
    each: str
    words: tuple[str, ...]

    @property
    def is_one(self) -> bool:
        """Return whether it can only be one source."""
        return len(self.words) == 1 and not _WILD.search(self.words[0])

    def paths(self) -> list[str]:
        """Return the sources that exist now."""
        return [path for word in self.words for path in _expanded(word)]


def machine() -> str:
    """Return the name of this machine."""
    return os.uname().nodename


def is_here(section: VolumeSection) -> bool:
    """Return whether this machine runs a volume."""
    return is_for(section, machine())


def elsewhere(
    configuration: Configuration, wanted: Sequence[str] = ()
) -> list[VolumeSection]:
    """Return the volumes that only other machines run.

    :param wanted: names of volumes; without any, all.
    """
    return [
        section
        for name, section in configuration.volumes.items()
        if not is_here(section)
        and (not wanted or name in {word.partition("/")[0] for word in wanted})
    ]


def check_here(configuration: Configuration, wanted: Sequence[str]) -> None:
    """Check that this machine runs some volumes.

    :param wanted: their names; without any, it has to run one at least.
    :raises UsageError: if it does not.
    """
    here = visible(machine())
    others = elsewhere(configuration, wanted)
    if not wanted and len(others) == len(configuration.volumes):
        raise UsageError(
            f"all volumes are on other machines, not on {here}",
            hint="It is a volume's  on = [...]  that names them.",
        )
    if wanted and others:
        first = others[0]
        raise UsageError(
            f"the volume {first.name} is on other machines, not on {here}",
            hint=f"It is on:  {machines_of(first)}",
        )


def members_of(configuration: Configuration, section: VolumeSection) -> list[Member]:
    """Return a volume, or its part for each name of ``each``.

    :raises UsageError: if its source does not fit to these names; with a line.
    """
    words = section.settings["source"].value
    return [
        Member(
            f"{section.name}/{each}" if each else section.name,
            each,
            tuple(with_name(word, each) for word in words) if each else words,
        )
        for each in names_of(configuration, section)
    ]


def unmatched(configuration: Configuration, wanted: Sequence[str] = ()) -> list[str]:
    """Return the volumes on this machine of which no source exists now."""
    return [
        member.name
        for member in _members_here(configuration)
        if (not wanted or {*prefixes(member.name)} & {*wanted}) and not member.paths()
    ]


def prefixes(name: str) -> list[str]:
    """Return the names that mean a volume: its own, and those of what it belongs to."""
    parts = name.split("/")
    return ["/".join(parts[: number + 1]) for number in range(len(parts))]


def _members_here(configuration: Configuration) -> Iterator[Member]:
    for section in configuration.volumes.values():
        if is_here(section):
            yield from members_of(configuration, section)


def _expanded(word: str) -> list[str]:
    """Return the sources that a word stands for, here and now."""
    if not word.startswith("/") or not _WILD.search(word) or os.path.lexists(word):
        return [word]
    return [path for path in sorted(glob.glob(word)) if _is_subvolume(path)]


def _is_subvolume(path: str) -> bool:
    try:
        return os.path.isdir(path) and is_subvolume(os.stat(path))
    except OSError:
        return False
