"""The ``diff`` verb: words -> what changed between two snapshots -> lines."""

import argparse
import binascii
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from btrfs_backup_ng.__logger__ import PROGRAM, set_up_logging
from btrfs_backup_ng.__util__ import UsageError, format_size, visible
from btrfs_backup_ng.actions.diff import compare
from btrfs_backup_ng.cli.argv import expand
from btrfs_backup_ng.cli.output import print_line
from btrfs_backup_ng.cli.parser import (
    Parser,
    add_display,
    display_level,
    parse_places,
)
from btrfs_backup_ng.cli.places import new_parser
from btrfs_backup_ng.cli.ssh_options import add_ssh, ssh_options
from btrfs_backup_ng.cli.sudo import sudo_line
from btrfs_backup_ng.cli.version import version_text
from btrfs_backup_ng.core.location import Location, parse_location
from btrfs_backup_ng.sendstream.changes import Change, FileType, Sort, Touch
from btrfs_backup_ng.session.progress import Progress

_EPILOG = """\
snapshots:
  /path, ssh://[user@]host[:port]/path   read-only snapshots of one filesystem
  NAME                                   for B: beside A

what it says, a line for each path, sorted:
  + path         added         (its size, or what it is)
  M path         changed       (bytes written; the new size, if that changed)
  R old -> path  renamed       (and what else changed)
  - path         deleted
  m path         only metadata (which: mode, owner, times, xattrs, flags)
  What lies in a renamed directory and is the same is not told. A file that another
  one took the place of is told as changed (replaced).

It is found in what btrfs send says, without reading the files: a part that was
written anew with the same bytes counts as changed; of a file with several names one
is told; and for "times" reading a file may be enough, see --no-times.

--json prints an object a line: for each change, and at the end a summary. Bytes of a
path that are not UTF-8 are in it as \\udc80 to \\udcff (Python's surrogateescape); the
same path is then there, too, as path_base64 (old_path_base64, link_to_base64).

exit status:
  0 compared, whether or not there are differences   1 failed   2 usage error
  4 refused: not two read-only snapshots of one filesystem
"""
_LETTERS = {
    Sort.ADDED: "+",
    Sort.CHANGED: "M",
    Sort.RENAMED: "R",
    Sort.DELETED: "-",
    Sort.METADATA: "m",
}


def main(words: Sequence[str]) -> int:
    """Tell what changed from one snapshot to another.

    :raises UsageError: if the words do not make sense.
    """
    options = parse_places(_parser(), expand(words))
    set_up_logging(display_level([options]))
    if options.version:
        print_line(version_text(detailed=bool(options.verbose)))
        return 0
    first, second = _places(options.places)
    line = options.progress
    if line is None:
        line = sys.stderr.isatty() and not options.quiet
    with Progress(line, silent=options.quiet) as progress:
        changes = compare(
            first,
            second,
            ssh_options(options),
            progress=progress,
            sudo_line=sudo_line(["diff", *words]),
        )
    _show(changes, options)
    return 0


def _parser() -> Parser:
    parser = new_parser(
        "diff",
        usage="[options] A B",
        description="Tell what changed from snapshot A to snapshot B of one place.\n"
        "That takes as long as there are changes, however large the snapshots are.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--no-times",
        action="store_true",
        help="leave out paths of which only times changed; reading may be enough",
    )
    add_ssh(parser)
    add_display(parser)
    return parser


def _places(words: Sequence[str]) -> tuple[Location, Location]:
    if len(words) != 2:
        raise UsageError(
            f"diff compares two snapshots, and {len(words) or 'none'}"
            f" {'is' if len(words) == 1 else 'are'} given",
            hint=f"See:  {PROGRAM} diff --help",
        )
    directory = os.getcwd()
    first = parse_location(words[0], working_directory=directory)
    if not words[1] or "://" in words[1] or words[1].startswith("/"):
        return first, parse_location(words[1], working_directory=directory)
    if first.is_here and "/" in words[1]:
        return first, parse_location(words[1], working_directory=directory)
    beside = os.path.dirname(first.path)
    second = parse_location(f"./{words[1]}", working_directory=beside)
    return first, replace(first, path=second.path)


def _show(changes: Iterator[Change], options: argparse.Namespace) -> None:
    """Print changes as they come, and what they are in all."""
    counts: Counter[Sort] = Counter()
    size = written = shared = 0
    for change in changes:
        if options.no_times and change.touched == Touch.TIMES:
            continue
        counts[change.sort] += 1
        if change.sort is Sort.ADDED:
            size += change.size or 0
        written += change.written
        shared += change.shared
        print_line(json.dumps(_as_json(change)) if options.json else _line(change))
    if options.json:
        summary = {
            **{sort.value: counts[sort] for sort in Sort},
            "size_added": size,
            "written": written,
            "shared": shared,
        }
        print_line(json.dumps({"version": 1, "exit_status": 0, "summary": summary}))
    elif not options.quiet:
        print_line(_summary(counts, size, written, shared))


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def _line(change: Change) -> str:
    path = visible(_text(change.path))
    if change.old_path is not None:
        path = f"{visible(_text(change.old_path))} -> {path}"
    details = ", ".join(_details(change))
    return f"{_LETTERS[change.sort]} {path}" + (f"  ({details})" if details else "")


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
    yield from _names(change.touched & ~Touch.DATA)


def _names(touched: Touch) -> list[str]:
    return [(flag.name or "").lower() for flag in touched]


def _summary(counts: Counter[Sort], size: int, written: int, shared: int) -> str:
    words = {
        Sort.ADDED: f"added ({format_size(size)})",
        Sort.CHANGED: "changed",
        Sort.RENAMED: "renamed",
        Sort.DELETED: "deleted",
        Sort.METADATA: "only in metadata",
    }
    parts = [f"{counts[sort]} {words[sort]}" for sort in Sort if counts[sort]]
    if written:
        parts.append(f"{format_size(written)} written")
    if shared:
        parts.append(f"{format_size(shared)} shared")
    return ", ".join(parts) or "no difference"


def _as_json(change: Change) -> dict[str, object]:
    return {
        "change": change.sort.value,
        **_path_as_json("path", change.path),
        **_path_as_json("old_path", change.old_path),
        "type": change.file_type.value if change.file_type else None,
        "touched": _names(change.touched),
        "written": change.written,
        "shared": change.shared,
        "size": change.size,
        **_path_as_json("link_to", change.link_to),
        "replaced": change.replaced,
    }


def _path_as_json(key: str, path: bytes | None) -> dict[str, str | None]:
    if path is None:
        return {key: None}
    text = _text(path)
    if text.isascii() or not any("\udc80" <= letter <= "\udcff" for letter in text):
        return {key: text}
    return {
        key: text,
        f"{key}_base64": binascii.b2a_base64(path, newline=False).decode(),
    }
