"""The words of a command line before they are options: files, tasks, ``-v``."""

import os
import re
from collections.abc import Callable, Container, Iterator, Sequence
from itertools import chain
from typing import TypeVar

from btrfs_backup_ng.__util__ import BackupError, UsageError, attempt, visible

T = TypeVar("T")

_LEVELS = ("debug", "info", "warning", "error")
#: Between two tasks.
TASKS = "::"


class FileWord(str):
    """A word of a file.

    :ivar origin: where it stands: ``line 3 of /etc/backup.args``.
    """

    origin: str


def expand(words: Sequence[str], valued: Container[str] = ()) -> list[str]:
    """Put the words of each ``@FILE`` in its place.

    A file holds one flag, option or argument a line. A line that starts with a dash
    may hold an option and its value, which goes to the end of the line. Lines that
    are empty or start with ``#`` say nothing, and ``@FILE`` lines nest, relative to
    the file they are in. Behind ``--`` nothing is expanded, nor is a value.

    :param valued: options with a value behind them.
    :raises UsageError: for a file that cannot be read, or that names itself.
    """
    return list(chain.from_iterable(expand_each(words, valued, valued)))


def expand_each(
    words: Sequence[str],
    valued: Container[str],
    in_files: Container[str],
    directory: str = "",
    within: tuple[str, ...] = (),
) -> Iterator[list[str]]:
    """Yield each word, or the words of the file that it names.

    :param in_files: options of files with a value behind them.
    :param within: the files that are being expanded.
    :raises UsageError: for a file that cannot be read, or that names itself.
    """
    is_value = False
    for index, word in enumerate(words):
        if word == "--":
            yield list(words[index:])
            return
        if is_value or not (word.startswith("@") and len(word) > 1):
            yield [word]
            is_value = not is_value and _wants_value(word, valued)
            continue
        path = os.path.join(directory, word[1:])
        path = path if "\0" in path else os.path.realpath(path)
        if path in within:
            raise UsageError(f"{_at(word)}{visible(word)} includes itself")
        below = expand_each(
            _lines(path, word),
            in_files,
            in_files,
            os.path.dirname(path),
            (*within, path),
        )
        yield list(chain.from_iterable(below))


def _wants_value(word: str, valued: Container[str]) -> bool:
    """Return whether a word is an option, or several short ones, without its value."""
    if word.startswith("--") or not word.startswith("-"):
        return word in valued
    taking = [f"-{letter}" in valued for letter in word[1:]]
    return any(taking) and taking.index(True) == len(taking) - 1


def _at(word: str) -> str:
    """Return where a word stands, for the start of a message; "" if in no file."""
    return f"{visible(word.origin)}: " if isinstance(word, FileWord) else ""


def _lines(path: str, word: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(
            f"{_at(word)}cannot read {visible(word)}: {reason}",
            hint=f"A place of that name:  {visible('./' + word)}",
        ) from error
    words: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip(" \t\r")
        if not line or line.startswith("#"):
            continue
        for part in re.split("[ \t]+", line, maxsplit=1) if line[0] == "-" else [line]:
            found = FileWord(part)
            found.origin = f"line {number} of {path}"
            words.append(found)
    return words


def naming_line(words: Sequence[str], read: Callable[[Sequence[str]], T]) -> T:
    """Read words; if one of a file is wrong, name its line.

    :param read: reads them, without effects.
    :raises UsageError: if they do not make sense.
    """
    try:
        return read(words)
    except UsageError as error:
        word = _first_wrong(words, read, error.message)
        if word is None:
            raise
        raise UsageError(f"{_at(word)}{error.message}", hint=error.hint) from error


def _first_wrong(
    words: Sequence[str], read: Callable[[Sequence[str]], object], message: str
) -> FileWord | None:
    """Return a word of the line without which reading does not fail in this way.

    That is the last line without which it does not fail at all, or else the first one
    without which it fails for another reason.
    """
    changing = None
    lines = {word.origin: word for word in words if isinstance(word, FileWord)}
    for origin, word in reversed(lines.items()):
        rest = [each for each in words if getattr(each, "origin", "") != origin]
        failed = attempt(lambda: read(rest))
        if not isinstance(failed, UsageError):
            return word
        if failed.message != message:
            changing = word
    return changing


def asks_for_documents(words: Sequence[str]) -> bool:
    """Return whether ``--json`` is among words that may make no sense otherwise."""
    expanded = attempt(lambda: expand(words))
    options, _ = split_at_dashes(
        words if isinstance(expanded, BackupError) else expanded
    )
    return "--json" in options


def split_tasks(words: Sequence[str]) -> list[list[str]]:
    """Split the words into tasks at each ``::`` that stands alone.

    :raises UsageError: if there is nothing on one side of it.
    """
    tasks: list[list[str]] = [[]]
    for word in words:
        if word == TASKS:
            tasks.append([])
        else:
            tasks[-1].append(word)
    if len(tasks) > 1 and not all(tasks):
        raise UsageError(":: needs a task on both sides")
    return tasks


def split_at_dashes(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the words at the first ``--``: behind it, nothing is an option."""
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
