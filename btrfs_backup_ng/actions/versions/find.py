"""The search for one file in all snapshots and backups of its subvolume.

``history`` appends a line of JSON for each transfer that arrived or failed, to a file
in the state directory of the user: one write under ``flock``, flushed. It never fails a
run. The older half is dropped at 4 MiB; a last line that a cut tore off is ignored and
removed by the next write; damage is moved aside; lines of newer versions are kept. It
tells sizes and known places, and decides nothing but what is kept where another record
is lost: what must not be lost is in ``holds.json``.

``list`` looks at each place once (``contents.look_at``) and relates what it saw
(``relations``): what is common by origin, what the next transfer starts from as it is
foretold (below), and to places that were not looked at by the holds of the source. A
name that only a backup or snapshot of ours may have (in a source's folder any with a
time, at a destination those of a prefix that a source signed in with) and that is no
read-only subvolume with a received UUID is damaged.

``versions`` asks each place with one question (``verbs.STATS``) what one relative path
is in all snapshots, with the directories above it, as a link there would lead out of
the snapshot. Then (``lookup``):

1. Within one filesystem, the same inode, size, mtime and ctime are the same content:
   nobody can set a ctime.
2. A snapshot and its copy (same origin) hold the same, if type and size agree.
3. Different sizes differ. Only what is of one size and in doubt is read: one SHA-256
   for each version, at the nearest place that has it (``DIGESTS``), and the targets of
   links (``LINKS``).

``timeline`` puts this in order by the times of the snapshots: a version has a number
from its first appearance, and has it again when it comes back. "Not there" needs an
answer that says so for each path (``parse_stats``); "may not look" is an error of that
place. Which backups at a place are of the subvolume is told by origin, or by a prefix
that only its source signed in with; where nobody signed in, all are taken.
"""

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from btrfs_backup_ng.__util__ import BackupError, Refused, UsageError, attempt, visible
from btrfs_backup_ng.actions.versions.lookup import Look, SameContents, take_stats
from btrfs_backup_ng.actions.versions.timeline import (
    Run,
    Sighting,
    in_runs,
    nearest,
    versions,
)
from btrfs_backup_ng.core.location import Location, parse_location
from btrfs_backup_ng.core.model import Role
from btrfs_backup_ng.core.naming import Naming
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
from btrfs_backup_ng.place.sources import SourceIdentity, Sources, identity_of
from btrfs_backup_ng.session.history import Record
from btrfs_backup_ng.session.session import Session


@dataclass(frozen=True, slots=True)
class File:
    """A file of a mounted subvolume of this machine, there or not.

    :ivar subvolume: its absolute path, without symbolic links.
    :ivar path: of the file, relative to it.
    """

    subvolume: str
    path: str


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of a file.

    :ivar places: as texts, the subvolume itself first; sightings name them by index.
    :ivar hosts: of these places.
    :ivar runs: what it was, oldest first.
    :ivar looked: how many snapshots were looked into.
    :ivar failures: place, and why it could not be looked at.
    """

    file: File
    places: tuple[str, ...]
    hosts: tuple[Host, ...]
    runs: tuple[Run, ...]
    looked: int
    failures: tuple[tuple[str, BackupError], ...]


@dataclass(frozen=True, slots=True)
class Taken:
    """Where one version of a file can be taken from.

    :ivar place: as a location says it.
    :ivar path: of the file in the snapshot, relative to it.
    """

    place: str
    snapshot: str
    path: str


#: A place that was looked at, and what is there of the subvolume.
_Looked = tuple[Place, list[Kept]]


def find_file(text: str, sudo_line: str, *, working_directory: str) -> File:
    """Find the subvolume of a file, which need not be there any more.

    A link at the end of the path is what is looked for; those before are followed.

    :param sudo_line: runs the same as root, for a hint.
    :raises UsageError: if the text is no path.
    :raises Refused: if it is in no mounted btrfs subvolume.
    """
    if not text or "\0" in text:
        raise UsageError("versions wants the path of a file")
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
    if os.stat(existing).st_dev != os.stat(subvolume).st_dev:  # one each subvolume
        raise Refused(
            f"{shown} is in a directory that is mounted by itself, so its path in its"
            " subvolume is not known",
            hint="Name it by a mount of the whole subvolume.",
        )
    if name == "" or _is_subvolume(top):
        raise Refused(
            f"{shown} is a whole subvolume; versions are of a file in it",
            hint=f"What is kept of it:  btrfs-backup-ng list {shown}",
        )
    return File(subvolume, os.path.relpath(top, subvolume))


def _is_subvolume(path: str) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_ino == 256


def records_of(records: Sequence[Record], subvolume: str) -> list[Record]:
    """Return the records of a subvolume, by whatever path it was backed up."""
    is_same = {
        source: source.startswith("/") and _is_same(source, subvolume)
        for source in {record.source for record in records}
    }
    return [record for record in records if is_same[record.source]]


def _is_same(source: str, subvolume: str) -> bool:
    """Tell whether a path leads to a subvolume, by whatever mount or link."""
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
    """Look for a file in the snapshots of its subvolume and in their backups.

    :param places: where to look; if none, at those on record here and at the source.
    :param session: its folder is that of the subvolume's snapshots.
    :param records: from :func:`records_of`.
    :raises BackupError: if not even the subvolume can be looked at, or if no place is
        known that has snapshots of it.
    """
    source = parse_location(file.subvolume, working_directory="/")
    at_source = look_at(source, session, READING)
    contents = read_contents(at_source).warn()
    wanted = [p for p in places or _on_record(contents, records) if p != source]
    origins = {kept.snapshot.origin for kept in contents.kept}
    origins |= {record.origin for record in records if record.origin}
    is_ours = _Belonging(identity_of(at_source), frozenset(origins))
    own = _own_snapshots(at_source, contents)
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
    """Return the destinations of a source that are on record there or here."""
    known = destinations_in(contents.holds)
    texts = sorted({record.destination for record in records})
    known += [place for text in texts if (place := recorded_place(text))]
    return list(dict.fromkeys(known))


def _own_snapshots(source: Place, contents: Contents) -> list[Kept]:
    """Return the snapshots of a source; a folder elsewhere may have those of others."""
    directory, path = source.snapshots.directory, source.location.path
    is_inside = directory.startswith(f"{path.rstrip('/')}/")
    return [
        kept
        for kept in contents.kept
        if kept.kind is Role.SNAPSHOT
        and kept.state is State.COMPLETE
        and (is_inside or kept.snapshot.parent_uuid == source.facts.uuid)
    ]


@dataclass(frozen=True, slots=True)
class _Belonging:
    """Tells whose backups are whose.

    :ivar own: the source.
    :ivar origins: of snapshots that are surely its own.
    """

    own: SourceIdentity
    origins: frozenset[UUID]

    def holds(self, kept: Kept, recorded: Sources) -> bool:
        """Tell whether something is a backup of the source.

        Where no source has signed in, all backups are taken for that.

        :param recorded: which sources have signed in there, by prefix.
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
    """Look into all snapshots at all places.

    :returns: what was seen, and which places could not be looked into.
    """
    looks: list[Look] = []
    failures: list[tuple[str, BackupError]] = []
    for index, (place, found) in enumerate(places):
        here = [_look(index, kept, file.path) for kept in found]
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


def _look(place: int, kept: Kept, path: str) -> Look:
    snapshot = kept.snapshot
    assert snapshot.created  # what is complete has a time in its name
    whole = os.path.join(kept.path, path)
    return Look(place, snapshot.name, snapshot.created, snapshot.origin, whole)


def pick(found: Found, number: int) -> Taken:
    """Return where a version can be taken from: the newest snapshot, the nearest place.

    :raises UsageError: if there is no such version.
    :raises Refused: if no snapshot has it.
    """
    taken = sighting_of(found, number)
    if not taken.snapshot:
        path = visible(found.file.path)
        raise Refused(f"version {number} of {path} is in no snapshot, but there now")
    return Taken(found.places[taken.place], taken.snapshot, found.file.path)


def sighting_of(found: Found, number: int) -> Sighting:
    """Return the best place to take a version from: the present state comes last.

    :raises UsageError: if there is no such version.
    """
    known = versions(found.runs)
    if number not in known:
        which = f"versions 1 to {len(known)}" if len(known) > 1 else "version 1"
        path = visible(found.file.path)
        raise UsageError(f"there is no version {number} of {path}, only {which}")
    return nearest(known[number]) or known[number][-1]
