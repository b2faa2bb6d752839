"""The ``diff`` verb: two snapshots -> the changes between them -> lines."""

import argparse
from collections.abc import Iterator, Sequence
from os.path import dirname

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__util__ import UsageError, format_size, visible
from btrfs_backup_ng.actions.diff import compare
from btrfs_backup_ng.cli import values
from btrfs_backup_ng.cli.call import Call, run_command
from btrfs_backup_ng.cli.output import Output
from btrfs_backup_ng.cli.parser import Parser, add_display, new_parser
from btrfs_backup_ng.cli.session import open_progress, open_session
from btrfs_backup_ng.cli.ssh_options import add_ssh, read_ssh
from btrfs_backup_ng.cli.table import terminal_width
from btrfs_backup_ng.core.columns import broken, width
from btrfs_backup_ng.core.document import Inline, to_document
from btrfs_backup_ng.core.location import Location, parse_location
from btrfs_backup_ng.core.model import SshOptions
from btrfs_backup_ng.core.value import Value, replace
from btrfs_backup_ng.sendstream.changes import Change, FileType, Sort, Touch

_EPILOG = """\
snapshots:
  /path  a read-only snapshot
  ssh://[user@]host[:port]/path  the same on another machine
  NAME  for B: next to A

lines, sorted by path:
  + path  added (its size, or its kind)
  M path  changed (bytes written, and the new size if that changed)
  R old -> path  renamed (and any other change)
  - path  deleted
  m path  only metadata (which: mode, owner, times, xattrs, flags)

Unchanged files inside a renamed directory are not listed. A replaced file is listed as
changed (replaced).

The changes are read from the send stream of btrfs, not from the files: a block that was
rewritten with the same bytes counts as changed; of a file with several names, one is
listed; reading a file can be enough to change its "times". The times of the top
directory (.) are not shown by themselves.

--json prints one object a line: one for each change, and a summary at the end. Bytes
of a path that are not UTF-8 appear as \\udc80 to \\udcff (Python's surrogateescape),
with the path also as path_base64 (old_path_base64, link_to_base64).

exit status:
  0  compared, with or without differences
  1  failed
  2  usage error
  4  refused: not two read-only snapshots of one filesystem
"""
_LETTERS = {
    Sort.ADDED: "+",
    Sort.CHANGED: "M",
    Sort.RENAMED: "R",
    Sort.DELETED: "-",
    Sort.METADATA: "m",
}


class DiffOptions(Value):
    """The options of ``diff``."""

    first: Location
    second: Location
    without_times: bool
    ssh: SshOptions


def main(words: Sequence[str]) -> int:
    """Print the changes from one snapshot to another."""
    return run_command("diff", words, build_parser(), read, _run)


def build_parser() -> Parser:
    """Return the parser of the words."""
    parser = new_parser(
        "diff",
        usage="[options] A B",
        description="Show what changed from snapshot A to snapshot B of one place. The"
        " time depends on the number of changes, not on the size of the snapshots.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--no-times",
        action="store_true",
        help="ignore files of which only timestamps changed",
    )
    add_ssh(parser)
    add_display(parser)
    return parser


def read(options: argparse.Namespace) -> DiffOptions:
    """Return the options that the parsed words mean."""
    words = options.places
    if len(words) != 2:
        raise UsageError(
            f"diff compares two snapshots, and {len(words) or 'none'}"
            f" {'is' if len(words) == 1 else 'are'} given",
            hint=f"See:  {PROGRAM} diff --help",
        )
    first = values.location(words[0])
    second = _second(first, words[1])
    return DiffOptions(first, second, options.no_times, read_ssh(options))


def _second(first: Location, word: str) -> Location:
    """Return the second snapshot; a name means one beside the first."""
    if not word or "://" in word or word.startswith("/"):
        return values.location(word)
    if first.is_here and "/" in word:
        return values.location(word)
    beside = parse_location(f"./{word}", working_directory=dirname(first.path))
    return replace(first, path=beside.path)


class Summary:
    """The number of changes of each sort, and sizes in bytes."""

    counts: Inline[dict[Sort, int]]
    size_added: int = 0
    written: int = 0
    shared: int = 0

    def __init__(self) -> None:
        self.counts = dict.fromkeys(Sort, 0)

    def add(self, change: Change) -> None:
        """Count a change."""
        self.counts[change.sort] += 1
        if change.sort is Sort.ADDED:
            self.size_added += change.size or 0
        self.written += change.written
        self.shared += change.shared

    def __str__(self) -> str:
        """Return all of it in a line."""
        words = {
            Sort.ADDED: f"added ({format_size(self.size_added)})",
            Sort.CHANGED: "changed",
            Sort.RENAMED: "renamed",
            Sort.DELETED: "deleted",
            Sort.METADATA: "only in metadata",
        }
        parts = [f"{n} {words[sort]}" for sort, n in self.counts.items() if n]
        if self.written:
            parts.append(f"{format_size(self.written)} written")
        if self.shared:
            parts.append(f"{format_size(self.shared)} shared")
        return ", ".join(parts) or "no difference"


class DiffReport(Value):
    """The last document of ``diff``."""

    summary: Summary


def _run(options: DiffOptions, call: Call) -> int:
    with (
        open_progress(call) as progress,
        open_session(call, options.ssh, progress=progress) as session,
    ):
        changes = compare(options.first, options.second, session)
    output, summary = Output(call), Summary()
    for change in changes:
        if options.without_times and change.touched == Touch.TIMES:
            continue
        summary.add(change)
        if call.as_json:
            output.entry(change)
        else:
            for line in _lines(change, terminal_width()):
                output.result(line)
    output.line(str(summary), 2)
    return output.finish(0, DiffReport(summary), indent=None)


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def _lines(change: Change, columns: int | None) -> list[str]:
    """Return a line, or two where the details do not fit; a path stays whole."""
    path = visible(_text(change.path))
    if change.old_path is not None:
        path = f"{visible(_text(change.old_path))} -> {path}"
    line, details = f"{_LETTERS[change.sort]} {path}", ", ".join(_details(change))
    if not details:
        return [line]
    whole = f"{line}  ({details})"
    if columns is None or width(whole) <= columns:
        return [whole]
    return [line, *broken(f"    ({details})", columns, 5)]


def _details(change: Change) -> Iterator[str]:
    added = change.sort is Sort.ADDED or change.sort is Sort.CHANGED and change.replaced
    if change.link_to is not None:
        yield f"another name of {visible(_text(change.link_to))}"
    elif change.file_type is FileType.FILE and added:
        yield format_size(change.size or 0)
    elif change.file_type and (added or change.sort is Sort.DELETED):
        yield change.file_type.value
    if not added and Touch.DATA in change.touched:
        if change.written or not change.shared:
            yield f"{format_size(change.written)} written"
        if change.shared:
            yield f"{format_size(change.shared)} shared"
        if change.size is not None:
            yield f"now {format_size(change.size)}"
    if change.replaced:
        yield "replaced"
    yield from to_document(change.touched & ~Touch.DATA)
