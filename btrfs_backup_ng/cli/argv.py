"""The words of a command line before they are options: files, tasks, ``-v``."""

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Sequence

from btrfs_backup_ng.__util__ import UsageError, visible

_LEVELS = ("debug", "info", "warning", "error")
#: Between two tasks.
TASKS = "::"


def expand(words: Sequence[str]) -> list[str]:
    """Put the words of each ``@FILE`` in its place.

    A file holds one flag, option or argument a line. A line that starts with a dash
    may hold an option and its value, which goes to the end of the line. Lines that
    are empty or start with ``#`` say nothing, and ``@FILE`` lines nest, relative to
    the file they are in. Behind ``--`` nothing is expanded.

    :raises UsageError: for a file that cannot be read, or that names itself.
    """
    return list(_expanded(words, directory="", within=()))


def _expanded(
    words: Sequence[str], directory: str, within: tuple[str, ...]
) -> Iterator[str]:
    for index, word in enumerate(words):
        if word == "--":
            yield from words[index:]
            return
        if not (word.startswith("@") and len(word) > 1):
            yield word
            continue
        path = os.path.join(directory, word[1:])
        path = path if "\0" in path else os.path.realpath(path)
        if path in within:
            raise UsageError(f"{visible(word)} includes itself")
        lines = _lines(path, word)
        yield from _expanded(lines, os.path.dirname(path), (*within, path))


def _lines(path: str, word: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(
            f"cannot read {visible(word)}: {reason}",
            hint=f"A place of that name:  {visible('./' + word)}",
        ) from error
    words: list[str] = []
    for line in text.split("\n"):
        line = line.strip(" \t\r")
        if not line or line.startswith("#"):
            continue
        words += re.split("[ \t]+", line, maxsplit=1) if line[0] == "-" else [line]
    return words


def split_tasks(words: Sequence[str]) -> list[list[str]]:
    """Cut the words into tasks at each ``::`` that stands alone.

    :raises UsageError: if there is nothing on one side of it.
    """
    tasks: list[list[str]] = [[]]
    for word in words:
        if word == TASKS:
            tasks.append([])
        else:
            tasks[-1].append(word)
    if len(tasks) > 1 and not all(tasks):
        raise UsageError("there is no task on one side of ::")
    return tasks


def split_at_dashes(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Cut the words at the first ``--``: behind it, nothing is an option."""
    if "--" not in words:
        return list(words), []
    index = list(words).index("--")
    return list(words[:index]), list(words[index + 1 :])


def join_levels(words: Sequence[str]) -> list[str]:
    """Turn ``-v LEVEL`` into one word, so that ``-v /home`` keeps its source."""
    joined: list[str] = []
    waiting = iter(words)
    for word in waiting:
        if word == "--":
            return [*joined, word, *waiting]
        if joined and joined[-1] in ("-v", "--verbose") and word in _LEVELS:
            joined[-1] = f"--verbosity={word}"
        else:
            joined.append(word)
    return joined


def resembling(word: str, among: Iterable[str]) -> str:
    """Return the one that a mistyped word was probably meant to be, or ""."""
    return next(iter(difflib.get_close_matches(word, list(among), n=1)), "")
