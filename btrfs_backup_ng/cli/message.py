"""A message on stderr: object and reason, then its hint; on a terminal it fits."""

import contextlib
import os
import sys

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.core.columns import broken, with_command

_INDENT = 2


def print_message(text: str, hint: str = "") -> None:
    """Write a message of the program to stderr, with its hint below.

    A closed stderr does not end a backup.
    """
    message = lay_out(text, hint, _terminal_columns())
    if "JOURNAL_STREAM" in os.environ:
        is_mild = text.startswith(("warning: ", "note: "))
        priority = 4 if is_mild else 3
        message = "\n".join(f"<{priority}>{line}" for line in message.split("\n"))
    with contextlib.suppress(OSError):
        print(message, file=sys.stderr, flush=True)


def lay_out(text: str, hint: str, columns: int | None) -> str:
    """Return a message in lines that fit; no word is cut, and no command broken.

    :param columns: of the terminal; None: lines may be as long as they are.
    """
    end = "" if text.endswith((".", "?", "!")) else "."
    lines = []
    for line in f"{PROGRAM}: {text}{end}".split("\n"):
        lines += broken(line, columns, _INDENT)
    for line in hint.splitlines():
        lines += _hinted(" " * _INDENT + line, columns)
    return "\n".join(lines)


def _hinted(line: str, columns: int | None) -> list[str]:
    """Return the lines of a hint; a command in it, or a line of one, stays whole."""
    if line[_INDENT:].startswith(" "):
        return [line]
    words, *command = with_command(line, columns, 2 * _INDENT)
    return [*broken(words, columns, _INDENT), *command]


def _terminal_columns() -> int | None:
    """Return the columns of the terminal that stderr is, if it is one."""
    if not sys.stderr.isatty():
        return None
    with contextlib.suppress(OSError, ValueError):
        return os.get_terminal_size(sys.stderr.fileno()).columns or None
    return None
