"""The search for one file in all snapshots and backups of its subvolume.

First, each place lists its snapshots. A backup belongs to the subvolume if its origin
is known, or if its prefix is recorded for this source only; without any recorded
source, all backups at the place count.

Then each place gets one question (``verbs.STATS``): the status of the path in all of
its snapshots, and of the directories above the file, as a symbolic link there would
lead out of the snapshot. A file counts as missing only if the answer says so of its
path (``parse_stats``); a missing permission is an error of the place.

``lookup`` decides which of the files have the same content, and reads as few as
possible. ``timeline`` sorts them by the times of their snapshots. A version gets its
number when it first appears, and has the same number if it appears again. The number
depends on what was found; outside of one search a version is named by its id.
"""

import os
import stat
from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

from btrfs_backup_ng.__util__ import BackupError, Refused, UsageError, attempt, visible
from btrfs_backup_ng.actions.versions.lookup import Look, SameContents, take_stats
from btrfs_backup_ng.actions.versions.timeline import (
    Run,
    Sighting,
    id_of,
    in_runs,
    nearest,
    versions,
)
from btrfs_backup_ng.core.choose import NOW
from btrfs_backup_ng.core.location import Location, parse_location
from btrfs_backup_ng.core.model import Role
from btrfs_backup_ng.core.naming import Naming
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.endpoint.common import Place
from btrfs_backup_ng.host.common import Host, NeedsRoot
from btrfs_backup_ng.host.local import LocalHost
from btrfs_backup_ng.place.contents import (
    Contents,
    Kept,
    State,
    destinations_in,
    read_contents,
    recorded_place,
)
from btrfs_backup_ng.place.preflight import READING, look_at
from btrfs_backup_ng.place.sources import (
    SourceIdentity,
    Sources,
    identity_of,
    is_snapshot_of,
)
from btrfs_backup_ng.session.history import Record
from btrfs_backup_ng.session.session import Session


class File(Value):
    """A file of a mounted subvolume of this machine; it may be missing.

    :ivar subvolume: its absolute path, without symbolic links.
    :ivar path: of the file, relative to it.
    """

    subvolume: str
    path: str


class Found(Value):
    """The result of the search for a file.

    :ivar places: as texts, the subvolume itself first; sightings refer to the index.
    :ivar hosts: of these places.
    :ivar runs: the history of the file, oldest first.
    :ivar looked: number of searched snapshots.
    :ivar failures: places that could not be searched, with the errors.
    """

    file: File
    places: tuple[str, ...]
    hosts: tuple[Host, ...]
    runs: tuple[Run, ...]
    looked: int
    failures: tuple[tuple[str, BackupError], ...]


class Taken(Value):
    """The snapshot from which one version of a file can be restored.

    :ivar place: its location, as text.
    :ivar path: of the file, relative to the snapshot.
    """

    place: str
    snapshot: str
    path: str


#: A place that was looked at, with its snapshots or backups of the subvolume.
_Looked = tuple[Place, list[Kept]]


def find_file(text: str, sudo_line: str, *, working_directory: str) -> File:
    """Find the subvolume of a file, which may have been deleted.

    Symbolic links in the path are followed, but not one at its end.

    :param sudo_line: command that runs the same as root, for a hint.
    :raises UsageError: if the text is not a path.
    :raises Refused: if the path is not in a mounted btrfs subvolume.
    """
    if not text or "\0" in text:
        raise UsageError("versions needs the path of a file")
    path = os.path.join(working_directory, text).rstrip("/") or "/"
    above, name = os.path.split(path)
    if name in ("", ".", ".."):
        above, name = os.path.split(os.path.realpath(path))
    above = os.path.realpath(above)
    existing = above
    while not os.path.isdir(existing):
        existing = os.path.dirname(existing)
    shown = visible(os.path.join(above, name))
    try:
        facts = LocalHost().look(existing)
    except NeedsRoot as error:
        error.hint = f"Run:  {sudo_line}"
        raise
    if not facts.is_btrfs:
        kind = visible(facts.filesystem_type)
        raise Refused(f"{shown} is on {kind}, and only btrfs has snapshots of it")
    subvolume = facts.containing
    top = os.path.join(above, name)
    if os.stat(existing).st_dev != os.stat(subvolume).st_dev:  # another subvolume
        raise Refused(
            f"{shown} is in a directory that is mounted by itself, so its path in its"
            " subvolume is not known",
            hint="Name it by a mount of the whole subvolume.",
        )
    if name == "" or _is_subvolume(top):
        raise Refused(
            f"{shown} is a whole subvolume; versions takes a file in one",
            hint=f"To list its snapshots and backups:  btrfs-backup-ng list {shown}",
        )
    return File(subvolume, os.path.relpath(top, subvolume))


def _is_subvolume(path: str) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_ino == 256


def records_of(records: Sequence[Record], subvolume: str) -> list[Record]:
    """Return the records of a subvolume, under any of its paths."""
    is_same = {
        source: source.startswith("/") and _is_same(source, subvolume)
        for source in {record.source for record in records}
    }
    return [record for record in records if is_same[record.source]]


def _is_same(source: str, subvolume: str) -> bool:
    """Return whether a path leads to a subvolume, also by another mount or a link."""
    try:
        return os.path.samefile(source, subvolume)
    except OSError:
        return False


def find_versions(
    file: File,
    places: Sequence[Location],
    session: Session,
    records: Sequence[Record],
) -> Found:
    """Search for a file in the snapshots of its subvolume and in their backups.

    :param places: to search; empty: those recorded here and at the source.
    :param session: with the folder of the subvolume's snapshots.
    :param records: from :func:`records_of`.
    :raises BackupError: if the subvolume cannot be looked at, or no place with
        snapshots of it is known.
    """
    source = parse_location(file.subvolume, working_directory="/")
    at_source = look_at(source, session, READING)
    contents = read_contents(at_source).warn()
    wanted = [p for p in places or _on_record(contents, records) if p != source]
    origins = {kept.snapshot.origin for kept in contents.kept}
    origins |= {record.origin for record in records if record.origin}
    is_ours = _Belonging(identity_of(at_source), frozenset(origins))
    own = [
        kept
        for kept in contents.kept
        if kept.kind is Role.SNAPSHOT
        and kept.state is State.COMPLETE
        and is_snapshot_of(at_source, kept.snapshot)
    ]
    looked: list[_Looked] = [(at_source, own)]
    failures: list[tuple[str, BackupError]] = []
    for location in wanted:
        found = attempt(lambda: _look_at(location, session, is_ours))
        if isinstance(found, BackupError):
            failures.append((str(location), found))
        else:
            looked.append(found)
    if not own and not wanted:
        raise Refused(
            f"no snapshots or backups of {visible(file.subvolume)} are known",
            hint="Say where they are:  --snapshot-folder DIR, --at PLACE",
        )
    sightings, more = _sightings(file, looked, session.now)
    return Found(
        file=file,
        places=tuple(str(place.location) for place, _ in looked),
        hosts=tuple(place.host for place, _ in looked),
        runs=tuple(in_runs(sightings)),
        looked=sum(bool(sighting.snapshot) for sighting in sightings),
        failures=(*failures, *more),
    )


def _on_record(contents: Contents, records: Iterable[Record]) -> list[Location]:
    """Return the destinations of a source that are recorded there or here.

    One to which no run ever went well, as it was mistyped, has no backups.
    """
    known = destinations_in(contents.holds)
    texts = sorted({record.destination for record in records if not record.error})
    known += [place for text in texts if (place := recorded_place(text))]
    return list(dict.fromkeys(known))


class _Belonging(Value):
    """The rule that decides which backups are of a source.

    :ivar own: the source.
    :ivar origins: of snapshots that are certainly of the source.
    """

    own: SourceIdentity
    origins: frozenset[UUID]

    def holds(self, kept: Kept, recorded: Sources) -> bool:
        """Return whether a snapshot is of the source, or a backup of it.

        :param recorded: the sources in the record of the place; without any, all
            backups there count.
        """
        if kept.snapshot.origin in self.origins:
            return True
        if kept.kind is Role.SNAPSHOT or not recorded:
            return kept.kind is Role.BACKUP
        return any(
            all(source.is_same(self.own) for source in series.sources)
            and kept.snapshot.origin not in series.unknown
            and Naming(prefix).time_of(kept.snapshot.name) is not None
            for prefix, series in recorded.items()
        )


def _look_at(location: Location, session: Session, is_ours: _Belonging) -> _Looked:
    place = look_at(location, session, READING)
    contents = read_contents(place).warn()
    return place, [
        kept
        for kept in contents.kept
        if kept.state is State.COMPLETE and is_ours.holds(kept, contents.sources)
    ]


def _sightings(
    file: File, places: Sequence[_Looked], now: datetime
) -> tuple[list[Sighting], list[tuple[str, BackupError]]]:
    """Search all snapshots at all places.

    :returns: the sightings, and the places that could not be searched.
    """
    looks: list[Look] = []
    failures: list[tuple[str, BackupError]] = []
    for index, (place, found) in enumerate(places):
        here = []
        for kept in found:
            one, path = kept.snapshot, os.path.join(kept.path, file.path)
            assert one.created  # a complete snapshot has a time in its name
            here.append(Look(index, one.name, one.created, one.origin, path))
        if index == 0:
            path = os.path.join(file.subvolume, file.path)
            here.append(Look(0, "", now, None, path))
        failed = attempt(lambda: take_stats(place, here, file.path))
        if isinstance(failed, BackupError):
            failures.append((str(place.location), failed))
        else:
            looks += here
    contents = SameContents(looks, [place for place, _ in places])
    failures += contents.failures
    return [
        Sighting(
            place=look.place,
            snapshot=look.snapshot,
            time=look.time,
            origin=look.origin,
            content=contents.of(look),
            path=look.path,
            modified=look.status.modified if look.status else 0,
        )
        for look in looks
    ], failures


def number_of(found: Found, word: str) -> int:
    """Return the number of the version that an id means.

    :param word: the first digits of the origin of any snapshot that has it, or NOW.
    :raises Refused: if no place that was searched has it, and others may have it.
    :raises UsageError: if there is no such version.
    """
    known = versions(found.runs)
    matching = [
        number
        for number, sightings in known.items()
        if any(_has_id(sighting, word) for sighting in sightings)
    ]
    path = visible(found.file.path)
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise UsageError(
            f"several versions of {path} have ids that begin with {word}",
            hint="Write more of its digits.",
        )
    if found.failures and word != NOW:
        place, error = found.failures[0]
        raise Refused(
            f"version {word} of {path} was not found, and {visible(place)} could not"
            f" be searched: {error.message}"
        )
    ids = ", ".join(id_of(sightings) for sightings in known.values())
    raise UsageError(f"there is no version {word} of {path}, only {ids}")


def _has_id(sighting: Sighting, word: str) -> bool:
    if word == NOW:
        return not sighting.snapshot
    return sighting.origin is not None and sighting.origin.hex.startswith(word)


def pick(found: Found, number: int) -> Taken:
    """Return the newest snapshot with a version, at the nearest place.

    :raises Refused: if no snapshot has it.
    """
    taken = sighting_of(found, number)
    if not taken.snapshot:
        path = visible(found.file.path)
        raise Refused(
            f"that version of {path} is the present file, which is in no snapshot"
        )
    return Taken(found.places[taken.place], taken.snapshot, found.file.path)


def sighting_of(found: Found, number: int) -> Sighting:
    """Return the best sighting of a version; the present file is the last choice."""
    sightings = versions(found.runs)[number]
    return nearest(sightings) or sightings[-1]
