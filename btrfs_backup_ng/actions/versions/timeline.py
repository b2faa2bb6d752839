"""The versions of one file in the order of time."""

import stat
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from btrfs_backup_ng.core.choose import NOW
from btrfs_backup_ng.core.value import Value

#: Names of the types of files, for people and programs.
KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFLNK: "link",
    stat.S_IFDIR: "directory",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "device",
    stat.S_IFCHR: "device",
}


#: Digits of a UUID in an id that is shown.
_ID_DIGITS = 8


class Content(Value):
    """The content of a file, without owner, mode and times.

    :ivar kind: a value of :data:`KINDS`.
    :ivar size: in bytes; 0 for types without content.
    :ivar mark: the SHA-256 of a file, if another one has the same size; a unique text
        if it cannot be read; the target of a link; else "".
    :ivar is_readable: it could be read, or did not have to be.
    """

    kind: str
    size: int
    mark: str = ""
    is_readable: bool = True


class Sighting(Value):
    """The file, or its absence, in one snapshot at one place.

    :ivar place: number of the place: the lower, the nearer.
    :ivar snapshot: its name there, "" for the present file.
    :ivar time: of the snapshot, aware.
    :ivar origin: identity of the snapshot, ``None`` for the present file.
    :ivar content: ``None`` if the file is missing.
    :ivar path: of the file there, absolute.
    :ivar modified: time of the last write, in seconds since the epoch.
    """

    place: int
    snapshot: str
    time: datetime
    origin: UUID | None
    content: Content | None
    path: str = ""
    modified: int = 0


class Run(Value):
    """A period in which the file did not change.

    :ivar number: of the version, from 1; 0 if the file was missing.
    :ivar sightings: at least one, in order.
    """

    number: int
    sightings: tuple[Sighting, ...]

    @property
    def content(self) -> Content | None:
        """Return the content; ``None`` if the file was missing."""
        return self.sightings[0].content

    @property
    def since(self) -> datetime:
        """Return the time of the first snapshot of this period."""
        return self.sightings[0].time

    @property
    def is_now(self) -> bool:
        """Return whether the period includes the present file."""
        return any(not sighting.snapshot for sighting in self.sightings)


def in_runs(sightings: Iterable[Sighting]) -> list[Run]:
    """Group sightings into periods, oldest first, and number the versions.

    A version that appears again has the same number. The time before the first version
    is left out.
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
    """Return a sort key: copies of one snapshot together, the present file last."""
    return (
        not sighting.snapshot,
        sighting.time,
        str(sighting.origin or ""),
        sighting.place,
    )


def versions(runs: Sequence[Run]) -> Mapping[int, list[Sighting]]:
    """Return the sightings of each version, by its number."""
    found: dict[int, list[Sighting]] = {}
    for run in runs:
        if run.number:
            found.setdefault(run.number, []).extend(run.sightings)
    return found


def id_of(sightings: Iterable[Sighting]) -> str:
    """Return the id of a version: the first digits of a UUID.

    It is the origin of the oldest snapshot that has the version. What a snapshot has
    never changes, so an id never means another version, whichever places are searched.
    """
    kept = (sighting for sighting in sightings if sighting.origin)
    oldest = min(kept, key=_moment, default=None)
    return oldest.origin.hex[:_ID_DIGITS] if oldest and oldest.origin else NOW


def nearest(sightings: Iterable[Sighting]) -> Sighting | None:
    """Return the newest sighting in a snapshot at the nearest place.

    :returns: ``None`` if no snapshot has it.
    """
    kept = [sighting for sighting in sightings if sighting.snapshot]
    return min(kept, key=lambda one: (one.place, -one.time.timestamp()), default=None)
