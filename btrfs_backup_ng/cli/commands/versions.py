"""The ``versions`` verb: a file -> what it was, when, and where that is kept."""

import argparse
import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone

from btrfs_backup_ng.__logger__ import PROGRAM
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
    find_file,
    find_versions,
    pick,
    records_of,
)
from btrfs_backup_ng.actions.versions.timeline import Content, Run, Sighting, versions
from btrfs_backup_ng.cli import text as tell
from btrfs_backup_ng.cli import types as values
from btrfs_backup_ng.cli.output import print_bytes, print_line, tell_failure
from btrfs_backup_ng.cli.parser import Parser, add_display
from btrfs_backup_ng.cli.places import (
    add_folder,
    new_parser,
    open_session,
    read_words,
    recorded_folder,
    remembered,
)
from btrfs_backup_ng.cli.ssh_options import add_ssh
from btrfs_backup_ng.cli.sudo import sudo_line
from btrfs_backup_ng.cli.table import table, wrapped
from btrfs_backup_ng.core.events import Failed
from btrfs_backup_ng.core.location import Location, parse_location

_EPILOG = """\
FILE is the path of a file in a mounted subvolume; it need not be there any more.
It is looked for in the subvolume's snapshots, and in its backups: those on record on
this machine and at the subvolume, or at the places that --at names; there in those
that are complete. A link is taken as the link that it is.

each line, oldest first:
  its number, the time of the first snapshot that has it so, its size, and how many
  snapshots at which place have it; "now" is what is there at this moment
What differs in owner, mode or times alone is one version. A version that came back
has its number again.

exit status:
  0 told   1 failed, or no snapshot has it   2 usage   4 refused
  10 some places could not be looked at, or something there not be read
"""


def main(words: Sequence[str]) -> int:
    """Tell what a file was.

    :raises UsageError: if the words do not make sense.
    :raises BackupError: if nothing can be told.
    """
    options = read_words(_parser(), words)
    if options is None:
        return 0
    _check(options)
    now = datetime.now().astimezone()
    line = sudo_line(["versions", *words])
    file = find_file(options.places[0], line, working_directory=os.getcwd())
    records = records_of(remembered(), file.subvolume)
    folder = recorded_folder(options, records)
    with open_session(options, folder, "versions", words) as way:
        found = find_versions(file, _places(options), way, records)
        for place, error in found.failures:
            tell_failure(Failed(place, error.message, error.hint, 1))
        _check_found(found)
        status = 10 if _is_partial(found) else 0
        if options.diff:
            _print_diff(found, *options.diff)
        elif options.json:
            print_line(json.dumps(_fields(found, status), indent=1))
        elif not options.quiet:
            print_line("\n".join(_lines(found, now)))
    return status


def _parser() -> Parser:
    parser = new_parser(
        "versions",
        usage="[options] FILE",
        description="Tell what a file was: its versions in all snapshots and backups,"
        " and where they are.\nNothing is changed.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--at",
        action="append",
        default=[],
        metavar="PLACE",
        help="look there instead of at the places on record; may be repeated",
    )
    parser.add_argument(
        "--diff",
        nargs=2,
        type=values.version_number,
        metavar=("A", "B"),
        help="tell the difference between versions A and B (diff -u)",
    )
    add_folder(parser)
    add_ssh(parser)
    add_display(parser)
    return parser


def _check(options: argparse.Namespace) -> None:
    """Refuse what makes no sense.

    :raises UsageError: then.
    """
    if len(options.places) != 1:
        raise UsageError(
            f"versions is about one file, and {len(options.places)} are given",
            hint=f"See:  {PROGRAM} versions --help",
        )
    if options.places[0].startswith("ssh://"):
        raise UsageError(
            "versions wants the path of a file on this machine",
            hint=f"Or run it there:  ssh HOST {PROGRAM} versions FILE",
        )
    if options.diff and options.json:
        raise UsageError("--diff prints what diff does, which is no JSON")


def _places(options: argparse.Namespace) -> list[Location]:
    """Return the places to look at.

    :raises UsageError: if one is a command.
    """
    directory = os.getcwd()
    places = [parse_location(p, working_directory=directory) for p in options.at]
    if any(place.is_command for place in places):
        raise UsageError("a command (shell://) tells nobody what it keeps")
    return list(dict.fromkeys(places))


def _check_found(found: Found) -> None:
    """Go on only if there is something to tell.

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
            f"{path} in {where} is a directory, and versions are of one file",
            hint=f"What changed in all of a snapshot:  {PROGRAM} diff A B",
        )


def _is_partial(found: Found) -> bool:
    contents = [run.content for run in found.runs if run.content]
    return bool(found.failures) or not all(one.is_readable for one in contents)


def _lines(found: Found, now: datetime) -> Iterator[str]:
    numbers = versions(found.runs)
    count = f"{len(numbers)} version{'' if len(numbers) == 1 else 's'}"
    looked = f"{found.looked} snapshot{'' if found.looked == 1 else 's'}"
    path = visible(os.path.join(found.file.subvolume, found.file.path))
    yield from wrapped(f"{path}: {count} in {looked}", 2)
    rows = []
    for run in found.runs:
        number = str(run.number) if run.number else "-"
        age = tell.age(_since(run), now) if run.sightings[0].snapshot else "now"
        row = (number, age, tell.exact(_since(run)), _what(run.content))
        rows.append((*row, _where(found, run.sightings)))
    yield from table(rows, 2)
    yield from _way_back(found)


def _since(run: Run) -> datetime:
    """Return since when it was so; of what is in no snapshot, when it was written."""
    first = run.sightings[0]
    if first.snapshot or not first.content:
        return first.time
    return datetime.fromtimestamp(first.modified, timezone.utc)


def _what(content: Content | None) -> str:
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
    """Return the line that brings the newest back of those that are not there now."""
    current = {run.number for run in found.runs if run.is_now}
    past = [run.number for run in found.runs if run.number and not run.is_now]
    for number in reversed(past):
        if number not in current:
            yield f"Bring version {number} back:  {_restore_line(found, number)}"
            return


def _restore_line(found: Found, number: int) -> str:
    taken = pick(found, number)
    path = [f"--file={taken.path}"]
    if not taken.path.startswith("-"):
        path = ["--file", taken.path]
    words = [PROGRAM, "restore", taken.place, taken.snapshot, *path, "--to", "DIR"]
    return visible(shlex.join(words))


def _print_diff(found: Found, first: int, second: int) -> None:
    text = difference(found, first, second)
    if text is None:
        sizes = [_what(versions(found.runs)[n][0].content) for n in (first, second)]
        print_line(
            f"versions {first} ({sizes[0]}) and {second} ({sizes[1]}) differ, and are"
            " not text"
        )
    elif sys.stdout.isatty():
        for line in text.decode(errors="surrogateescape").splitlines():
            print_line("\t".join(map(visible, line.split("\t"))))
    else:
        print_bytes(text)


def _fields(found: Found, status: int) -> dict[str, object]:
    return {
        "version": 1,
        "exit_status": status,
        "subvolume": found.file.subvolume,
        "path": found.file.path,
        "snapshots_looked_into": found.looked,
        "versions": [
            _version_fields(found, number, sightings)
            for number, sightings in versions(found.runs).items()
        ],
        "timeline": [
            {
                "number": run.number or None,
                "since": _text(_since(run)),
                "now": run.is_now,
                "places": _place_fields(found, run.sightings),
            }
            for run in found.runs
        ],
        "failures": [
            {"place": place, **tell.error_fields(error)}
            for place, error in found.failures
        ],
    }


def _version_fields(
    found: Found, number: int, sightings: Sequence[Sighting]
) -> dict[str, object]:
    content = sightings[0].content
    assert content
    is_file, is_link = content.kind == "file", content.kind == "link"
    restore = None
    if any(sighting.snapshot for sighting in sightings):
        taken = pick(found, number)
        restore = {
            "place": taken.place,
            "snapshot": taken.snapshot,
            "path": taken.path,
        }
    return {
        "number": number,
        "kind": content.kind,
        "size_bytes": content.size if is_file else None,
        "sha256": content.mark or None if is_file and content.is_readable else None,
        "link_to": content.mark if is_link and content.is_readable else None,
        "readable": content.is_readable,
        "modified": _text(datetime.fromtimestamp(sightings[0].modified, timezone.utc)),
        "now": any(not sighting.snapshot for sighting in sightings),
        "restore": restore,
    }


def _place_fields(
    found: Found, sightings: Sequence[Sighting]
) -> list[dict[str, object]]:
    names: dict[int, list[str]] = {}
    for sighting in sightings:
        if sighting.snapshot:
            names.setdefault(sighting.place, []).append(sighting.snapshot)
    return [
        {"place": found.places[index], "snapshots": names[index]}
        for index in sorted(names)
    ]


def _text(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).isoformat(timespec="seconds")
