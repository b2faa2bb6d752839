"""The order of what was seen of one file: its versions, and since when each."""

import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

#: What files may be, for people and programs.
KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFLNK: "link",
    stat.S_IFDIR: "directory",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "device",
    stat.S_IFCHR: "device",
}


@dataclass(frozen=True, slots=True)
class Content:
    """What tells two versions apart: not owners, modes or times.

    :ivar kind: a value of :data:`KINDS`.
    :ivar size: in bytes; 0 for what has no content.
    :ivar mark: the SHA-256 of a file that has to be told from one as large, or another
        mark if it cannot be read; the target of a link; else nothing.
    :ivar is_readable: it could be read, or did not have to be.
    """

    kind: str
    size: int
    mark: str = ""
    is_readable: bool = True


@dataclass(frozen=True, slots=True)
class Sighting:
    """The file, or its absence, in one snapshot at one place.

    :ivar place: number of the place: the lower, the nearer.
    :ivar snapshot: its name there, "" for what is there now.
    :ivar time: of the snapshot, aware.
    :ivar origin: identity of the snapshot, ``None`` for what is there now.
    :ivar content: ``None`` if the file is not in it.
    :ivar path: of the file there, absolute.
    :ivar modified: when it was last written to, seconds since the epoch.
    """

    place: int
    snapshot: str
    time: datetime
    origin: UUID | None
    content: Content | None
    path: str = ""
    modified: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """A time in which the file was the same.

    :ivar number: of the version, from 1; 0 if the file was not there.
    :ivar sightings: at least one, in order.
    """

    number: int
    sightings: tuple[Sighting, ...]

    @property
    def content(self) -> Content | None:
        """What it was; ``None`` if it was not there."""
        return self.sightings[0].content

    @property
    def since(self) -> datetime:
        """The time of the first snapshot that has it so."""
        return self.sightings[0].time

    @property
    def is_now(self) -> bool:
        """Whether it is so now."""
        return any(not sighting.snapshot for sighting in self.sightings)


def in_runs(sightings: Iterable[Sighting]) -> list[Run]:
    """Put what was seen in order: oldest first, each version numbered as it came up.

    What came back after something else has its number again. That the file was not
    there yet, before all else, is left out.
    """
    ordered = sorted(sightings, key=_moment)
    numbers: dict[Content, int] = {}
    runs: list[list[Sighting]] = []
    for sighting in ordered:
        if runs and runs[-1][0].content == sighting.content:
            runs[-1].append(sighting)
        elif runs or sighting.content:
            runs.append([sighting])
        if sighting.content:
            numbers.setdefault(sighting.content, len(numbers) + 1)
    return [
        Run(numbers.get(r[0].content, 0) if r[0].content else 0, tuple(r)) for r in runs
    ]


def _moment(sighting: Sighting) -> tuple[bool, datetime, str, int]:
    """Copies of one snapshot stand together, the nearest first; now is behind all."""
    return (
        not sighting.snapshot,
        sighting.time,
        str(sighting.origin or ""),
        sighting.place,
    )


def versions(runs: Sequence[Run]) -> Mapping[int, list[Sighting]]:
    """Return for each version's number where it was seen."""
    found: dict[int, list[Sighting]] = {}
    for run in runs:
        if run.number:
            found.setdefault(run.number, []).extend(run.sightings)
    return found


def nearest(sightings: Iterable[Sighting]) -> Sighting | None:
    """Return where a version is best taken from: the newest at the nearest place.

    :returns: ``None`` if no snapshot has it.
    """
    kept = [sighting for sighting in sightings if sighting.snapshot]
    return min(kept, key=lambda one: (one.place, -one.time.timestamp()), default=None)
