"""The ``versions`` verb: a file -> its versions, their times and places."""

import argparse
import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__util__ import (
    BackupError,
    Refused,
    UsageError,
    format_size,
    visible,
)
from btrfs_backup_ng.actions.versions.diff import difference
from btrfs_backup_ng.actions.versions.find import (
    Found,
    Taken,
    find_file,
    find_versions,
    number_of,
    pick,
    records_of,
)
from btrfs_backup_ng.actions.versions.timeline import (
    Content,
    Run,
    Sighting,
    id_of,
    versions,
)
from btrfs_backup_ng.cli import wording
from btrfs_backup_ng.cli.call import Call, run_command
from btrfs_backup_ng.cli.output import Output
from btrfs_backup_ng.cli.parser import Parser, add_display, add_folder, new_parser
from btrfs_backup_ng.cli.places import (
    need_places,
    read_places,
    recorded_folder,
)
from btrfs_backup_ng.cli.session import open_session
from btrfs_backup_ng.cli.ssh_options import add_ssh, read_ssh
from btrfs_backup_ng.cli.stdout import print_bytes
from btrfs_backup_ng.cli.table import Column, table, terminal_width
from btrfs_backup_ng.core.choose import parse_version_id
from btrfs_backup_ng.core.columns import folded, with_command
from btrfs_backup_ng.core.document import Inline
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import SshOptions
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.session.history import remembered

_EPILOG = """\
FILE is the path of a file in a mounted subvolume; it may have been deleted. It is
looked up in the snapshots of the subvolume and in its complete backups: those on record
on this machine and at the subvolume, or those at the places that --at names. Symbolic
links are not followed.

Each line has the id of a version, the time of the first snapshot with it, its size,
and how many snapshots at which place have it, oldest first; "now" is the file as it is.

Changes to owner, mode or times alone do not make a new version. A version that
reappears keeps its id.

An id is the beginning of the UUID of the oldest snapshot with that version, so it
always means the same version, even while places are away. The beginning of the UUID of
any such snapshot works, too. The id of the file as it is: now.

exit status:
  0  shown
  1  failed, or no snapshot has it
  2  usage error
  4  refused
  10  some places were not reachable, or some files were unreadable
"""
#: Id, age, time, size, and where it is.
_COLUMNS = (Column(), Column(), Column(leaves=16), Column(), Column())


class VersionsOptions(Value):
    """The options of ``versions``.

    :ivar places: to look at instead of those on record.
    :ivar diff: the ids of two versions to compare.
    """

    file: str
    places: tuple[Location, ...]
    diff: tuple[str, str] | None
    folder: str
    ssh: SshOptions


def main(words: Sequence[str]) -> int:
    """Print the versions of a file."""
    return run_command("versions", words, build_parser(), read, _run)


def build_parser() -> Parser:
    """Return the parser of the words."""
    parser = new_parser(
        "versions",
        usage="[options] FILE",
        description="Show every version of a file across all snapshots and backups."
        " Changes nothing.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--at",
        action="append",
        default=[],
        metavar="PLACE",
        help="search there instead of the places on record; may be repeated",
    )
    parser.add_argument(
        "--diff",
        nargs=2,
        type=parse_version_id,
        metavar=("A", "B"),
        help="show the difference between versions A and B (diff -u)",
    )
    add_folder(parser)
    add_ssh(parser)
    add_display(parser)
    return parser


def read(options: argparse.Namespace) -> VersionsOptions:
    """Return the options that the parsed words mean."""
    need_places(options.places, "versions")
    if len(options.places) != 1:
        raise UsageError(
            f"versions takes one file, and {len(options.places)} are given",
            hint=f"See:  {PROGRAM} versions --help",
        )
    (file,) = options.places
    if file.startswith("ssh://"):
        raise UsageError(
            "versions needs the path of a file on this machine",
            hint=f"Or run it there:  ssh HOST {PROGRAM} versions FILE",
        )
    if options.diff and options.json:
        raise UsageError("--diff prints the output of diff, which is not JSON")
    return VersionsOptions(
        file=file,
        places=tuple(dict.fromkeys(read_places(options.at))),
        diff=tuple(options.diff) if options.diff else None,
        folder=options.snapshot_folder,
        ssh=read_ssh(options),
    )


class FileVersion(Value):
    """A version in the document.

    :ivar number: its place in this answer; ``id`` never changes.
    :ivar restore: from where it is best taken, ``None`` if no snapshot has it.
    """

    id: str
    number: int
    kind: str
    size_bytes: int | None
    sha256: str | None
    link_to: str | None
    readable: bool
    modified: datetime
    now: bool
    restore: Taken | None


class SnapshotsWithFile(Value):
    """The snapshots of one place that have a version."""

    place: str
    snapshots: list[str]


class FilePeriod(Value):
    """A period in which a file was the same; without a number, it was missing."""

    id: str | None
    number: int | None
    since: datetime
    now: bool
    places: tuple[SnapshotsWithFile, ...]


class PlaceFailure(Value):
    """A place that could not be looked at."""

    place: str
    error: Inline[BackupError]


class VersionsReport(Value):
    """The document of ``versions``."""

    subvolume: str
    path: str
    snapshots_looked_into: int
    versions: tuple[FileVersion, ...]
    timeline: tuple[FilePeriod, ...]
    failures: tuple[PlaceFailure, ...]


def _run(options: VersionsOptions, call: Call) -> int:
    output = Output(call)
    file = find_file(options.file, call.sudo_line, working_directory=os.getcwd())
    records = records_of(remembered(), file.subvolume)
    folder = recorded_folder(options.folder, records)
    with open_session(call, options.ssh, folder) as session:
        found = find_versions(file, options.places, session, records)
        for place, error in found.failures:
            output.fail(place, error, 1)
        _check_found(found)
        status = 10 if _is_partial(found) else 0
        if options.diff:
            first, second = (number_of(found, word) for word in options.diff)
            _print_diff(found, first, second, output)
            return status
    for line, indent in _lines(found, call.now):
        output.line(line, indent)
    return output.finish(status, _report(found))


def _check_found(found: Found) -> None:
    """Check that a version was found.

    :raises BackupError: if not.
    """
    path, where = visible(found.file.path), visible(found.file.subvolume)
    if not found.runs:
        looked = f"{found.looked} snapshots and backups of {where}"
        raise BackupError(
            f"{path} is in none of the {looked}" if found.looked else f"no {looked}"
        )
    contents = [run.content for run in found.runs if run.content]
    if all(content.kind == "directory" for content in contents):
        raise Refused(
            f"{path} in {where} is a directory, and versions takes one file",
            hint=f"To compare whole snapshots:  {PROGRAM} diff A B",
        )


def _is_partial(found: Found) -> bool:
    contents = [run.content for run in found.runs if run.content]
    return bool(found.failures) or not all(one.is_readable for one in contents)


def _lines(found: Found, now: datetime) -> Iterator[tuple[str, int | None]]:
    """Yield lines, each with the indent of its further lines if it may be broken."""
    numbers = versions(found.runs)
    count = f"{len(numbers)} version{'' if len(numbers) == 1 else 's'}"
    looked = f"{found.looked} snapshot{'' if found.looked == 1 else 's'}"
    path = visible(os.path.join(found.file.subvolume, found.file.path))
    yield f"{path}: {count} in {looked}", 2
    rows = []
    for run in found.runs:
        version = id_of(numbers[run.number]) if run.number else "-"
        age = wording.age(_since(run), now) if run.sightings[0].snapshot else "now"
        row = (version, age, wording.exact(_since(run)), _content(run.content))
        rows.append((*row, _where(found, run.sightings)))
    for line in table(rows, 2, _COLUMNS):
        yield line, None
    for text in _way_back(found):
        for line in with_command(text, terminal_width(), 4):
            for part in folded(line, terminal_width(), 8):
                yield part, None


def _since(run: Run) -> datetime:
    """Return the time of the first snapshot, or without one, of the last write."""
    first = run.sightings[0]
    if first.snapshot or not first.content:
        return first.time
    return datetime.fromtimestamp(first.modified, timezone.utc)


def _content(content: Content | None) -> str:
    if content is None:
        return "deleted"
    if not content.is_readable:
        return f"{format_size(content.size)}, cannot be read"
    if content.kind == "file":
        return format_size(content.size)
    return f"-> {visible(content.mark)}" if content.kind == "link" else content.kind


def _where(found: Found, sightings: Iterable[Sighting]) -> str:
    counts: Counter[int] = Counter()
    is_now = False
    for sighting in sightings:
        counts[sighting.place] += bool(sighting.snapshot)
        is_now = is_now or not sighting.snapshot
    parts = [
        f"{counts[index]} at {visible(place)}"
        for index, place in enumerate(found.places)
        if counts[index]
    ]
    return ", ".join((["now"] if is_now else []) + parts)


def _way_back(found: Found) -> Iterator[str]:
    """Yield the line that restores the newest version that is not present."""
    current = {run.number for run in found.runs if run.is_now}
    past = [run.number for run in found.runs if run.number and not run.is_now]
    for number in reversed(past):
        if number not in current:
            version = id_of(versions(found.runs)[number])
            yield f"Bring version {version} back:  {_restore_line(found, number)}"
            return


def _restore_line(found: Found, number: int) -> str:
    taken = pick(found, number)
    path = [f"--file={taken.path}"]
    if not taken.path.startswith("-"):
        path = ["--file", taken.path]
    words = [PROGRAM, "restore", taken.place, taken.snapshot, *path, "--to", "DIR"]
    return visible(shlex.join(words))


def _print_diff(found: Found, first: int, second: int, output: Output) -> None:
    text = difference(found, first, second)
    if text is None:
        both = [versions(found.runs)[number] for number in (first, second)]
        names = [f"{id_of(one)} ({_content(one[0].content)})" for one in both]
        output.result(f"versions {' and '.join(names)} differ, and are not text")
    elif sys.stdout.isatty():
        for line in text.decode(errors="surrogateescape").splitlines():
            output.result("\t".join(map(visible, line.split("\t"))))
    else:
        print_bytes(text)


def _report(found: Found) -> VersionsReport:
    known = versions(found.runs)
    return VersionsReport(
        subvolume=found.file.subvolume,
        path=found.file.path,
        snapshots_looked_into=found.looked,
        versions=tuple(
            _version(found, number, sightings) for number, sightings in known.items()
        ),
        timeline=tuple(
            FilePeriod(
                id=id_of(known[run.number]) if run.number else None,
                number=run.number or None,
                since=_since(run),
                now=run.is_now,
                places=_places(found, run.sightings),
            )
            for run in found.runs
        ),
        failures=tuple(PlaceFailure(*each) for each in found.failures),
    )


def _version(found: Found, number: int, sightings: Sequence[Sighting]) -> FileVersion:
    content = sightings[0].content
    assert content
    is_file, is_link = content.kind == "file", content.kind == "link"
    is_kept = any(sighting.snapshot for sighting in sightings)
    return FileVersion(
        id=id_of(sightings),
        number=number,
        kind=content.kind,
        size_bytes=content.size if is_file else None,
        sha256=content.mark or None if is_file and content.is_readable else None,
        link_to=content.mark if is_link and content.is_readable else None,
        readable=content.is_readable,
        modified=datetime.fromtimestamp(sightings[0].modified, timezone.utc),
        now=any(not sighting.snapshot for sighting in sightings),
        restore=pick(found, number) if is_kept else None,
    )


def _places(
    found: Found, sightings: Sequence[Sighting]
) -> tuple[SnapshotsWithFile, ...]:
    names: dict[int, list[str]] = {}
    for sighting in sightings:
        if sighting.snapshot:
            names.setdefault(sighting.place, []).append(sighting.snapshot)
    return tuple(
        SnapshotsWithFile(found.places[index], names[index]) for index in sorted(names)
    )
