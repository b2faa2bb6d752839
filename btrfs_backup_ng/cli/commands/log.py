"""The ``log`` verb: the history of this machine's runs -> lines or a document."""

import argparse
from collections.abc import Iterator, Sequence
from datetime import timedelta

from btrfs_backup_ng.__util__ import format_size, format_span, visible
from btrfs_backup_ng.cli import values, wording
from btrfs_backup_ng.cli.call import Call, run_command
from btrfs_backup_ng.cli.output import Output
from btrfs_backup_ng.cli.parser import EPILOG_PLACES, Parser, add_display, new_parser
from btrfs_backup_ng.cli.places import need_on_record, read_places
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.session.deed import Act, Deed
from btrfs_backup_ng.session.history import (
    Entry,
    Record,
    read_entries,
    state_directory,
)

_EPILOG = f"""\
{EPILOG_PLACES}
Without a place, it shows all that are on record on this machine.

Each line has the time at which the run began, source and destination, and the result: a
snapshot that was made or sent, nothing to send, or FAILED and why; or a place, and what
was deleted or verified there, or why it was skipped. The oldest comes first.

exit status:
  0  printed
  1  the history cannot be read
  2  usage error, or a place that is not on record
"""


class LogOptions(Value):
    """The options of ``log``.

    :ivar places: sources or destinations; without any, all.
    :ivar since: how far to look back.
    """

    places: tuple[Location, ...]
    since: timedelta | None
    failures: bool


class LogReport(Value):
    """The document of ``log``.

    :ivar records: of runs.
    :ivar deeds: what was deleted, verified or skipped.
    """

    records: list[Record]
    deeds: list[Deed]


def main(words: Sequence[str]) -> int:
    """Print the history."""
    return run_command("log", words, build_parser(), read, _run)


def build_parser() -> Parser:
    """Return the parser of the words."""
    parser = new_parser(
        "log",
        usage="[options] [PLACE ...]",
        description="Show what the runs of this machine did, and what failed. It reads"
        " the history only, not the places.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--since",
        type=values.since,
        metavar="SPAN",
        help="only runs that began within the last SPAN, like 12h or 7d",
    )
    parser.add_argument(
        "--failures", action="store_true", help="only failures, with the reason"
    )
    add_display(parser)
    return parser


def read(options: argparse.Namespace) -> LogOptions:
    """Return the options.

    :raises UsageError: if one place is a command.
    """
    places = read_places(options.places)
    return LogOptions(places, options.since, options.failures)


def _run(options: LogOptions, call: Call) -> int:
    entries, output = read_entries(state_directory()), Output(call)
    names = {str(place) for place in options.places}
    for name in names - {one.place for one in entries if isinstance(one, Deed)}:
        need_on_record(name, [one for one in entries if isinstance(one, Record)])
    chosen = [
        entry
        for entry in entries
        if (not names or names & _places(entry))
        and (options.since is None or call.now - entry.time <= options.since)
        and (entry.error or not options.failures)
    ]
    for entry in chosen:
        for line in _lines(entry):
            output.line(line, 2)
    if not chosen:
        output.line("Nothing on record matches" if entries else "No run is on record")
    records = [one for one in chosen if isinstance(one, Record)]
    deeds = [one for one in chosen if isinstance(one, Deed)]
    return output.finish(0, LogReport(records, deeds))


def _places(entry: Entry) -> set[str]:
    if isinstance(entry, Deed):
        return {entry.place}
    return {entry.source, entry.destination}


def _lines(entry: Entry) -> Iterator[str]:
    if isinstance(entry, Deed):
        where, what = entry.place, _what_was_done(entry)
    else:
        where = f"{entry.source} -> {entry.destination}".removesuffix(" -> ")
        what = _outcome(entry)
    first, *others = wording.lines(what)
    yield f"{wording.exact(entry.time)}  {visible(where)}: {first}"
    for other in others:
        yield f"  {other}"


def _what_was_done(one: Deed) -> str:
    """Return a deed in words."""
    if one.act is Act.SKIPPED:
        return visible(one.how)
    names = visible(one.first)
    if one.count > 1:
        names = f"{one.count} snapshots, {names} to {visible(one.last)}"
    how = f" ({visible(one.how)})" if one.how else ""
    failed = f": FAILED, {one.error}" if one.error else ""
    return f"{one.act.value} {names}{how}{failed}"


def _outcome(record: Record) -> str:
    """Return the outcome of a run, with the line breaks of its message."""
    name = visible(record.name)
    if record.error:
        return f"FAILED{f' to send {name}' if name else ''}: {record.error}"
    if not record.destination:
        return f"made snapshot {name}"
    if not name:
        return "nothing to send"
    if record.target not in ("", record.name):
        name += f" as {visible(record.target)}"
    size = "" if record.size_bytes is None else f", {format_size(record.size_bytes)}"
    how = f" since {visible(record.parent)}" if record.parent else " in full"
    if record.resumed_bytes:
        how += f", resumed at {format_size(record.resumed_bytes)}"
    return f"sent {name}{size}{how} in {format_span(record.elapsed_s)}"
