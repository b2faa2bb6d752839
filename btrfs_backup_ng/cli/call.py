"""One call of the program: its words, and how its results are to be shown."""

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar

from btrfs_backup_ng.__logger__ import set_up_logging
from btrfs_backup_ng.cli.argv import expand, naming_line
from btrfs_backup_ng.cli.parser import Parser, parse_places
from btrfs_backup_ng.cli.stdout import print_line
from btrfs_backup_ng.cli.sudo import become_root, sudo_line
from btrfs_backup_ng.cli.version import version_text
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.host.clock import local_time

T = TypeVar("T")

_LEVELS = ("debug", "info", "warning", "error")


class Call(Value):
    """How the program was called.

    :ivar words: all of them, the verb first.
    :ivar now: aware, in the zone of this machine.
    :ivar level: of the log: debug, info, warning or error.
    :ivar is_watched: progress is shown in a line.
    """

    words: tuple[str, ...]
    now: datetime
    level: str
    quiet: bool
    verbose: bool
    as_json: bool
    is_watched: bool

    @property
    def sudo_line(self) -> str:
        """Return the line that does the same as root, for hints."""
        return sudo_line(self.words)


def run_command(
    verb: str,
    words: Sequence[str],
    parser: Parser,
    read: Callable[[argparse.Namespace], T],
    run: Callable[[T, Call], int],
    expanded: Callable[[Sequence[str]], list[str]] | None = None,
) -> int:
    """Run a verb: words -> options -> exit status.

    :param words: those behind the verb.
    :param read: makes the options of the verb of those of the parser.
    :param expanded: puts the words of each ``@FILE`` in its place, if these may be
        those of a backup.
    :raises UsageError: if the words do not make sense.
    """
    every = expanded(words) if expanded else expand(words, parser.valued)
    options = naming_line(every, lambda some: parse_places(parser, some))
    call = read_call([verb, *words], [options])
    if call is None:
        return 0
    if options.as_root:
        become_root(call.words)
    return run(naming_line(every, lambda some: read(parse_places(parser, some))), call)


def read_call(words: Sequence[str], tasks: Sequence[argparse.Namespace]) -> Call | None:
    """Read the options about display, which all tasks share, and set up the log.

    :returns: ``None`` if only the version was asked for, and printed.
    """
    quiet = any(task.quiet for task in tasks)
    verbose = any(task.verbose for task in tasks)
    level = display_level(tasks)
    set_up_logging(level)
    if any(task.version for task in tasks):
        print_line(version_text(detailed=verbose))
        return None
    asked = [task.progress for task in tasks if task.progress is not None]
    return Call(
        words=tuple(words),
        now=local_time(),
        level=level,
        quiet=quiet,
        verbose=verbose,
        as_json=any(task.json for task in tasks),
        is_watched=asked[-1] if asked else sys.stderr.isatty() and not quiet,
    )


def display_level(tasks: Sequence[argparse.Namespace]) -> str:
    """Return the name of the log level that all tasks together ask for."""
    named = [task.verbosity for task in tasks if task.verbosity]
    loudness = max(task.verbose for task in tasks)
    if loudness >= 2 or any(task.debug for task in tasks):
        return "debug"
    if named:
        return _LEVELS[min(map(_LEVELS.index, named))]
    if loudness:
        return "info"
    return "error" if any(task.quiet for task in tasks) else "warning"
