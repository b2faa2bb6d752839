"""``status --watch``: look again and again; on a terminal, each time in place."""

import logging
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from btrfs_backup_ng.__util__ import BackupError, Interrupted, UsageError, attempt
from btrfs_backup_ng.cli import values
from btrfs_backup_ng.cli.stdout import columns, print_block
from btrfs_backup_ng.core.columns import width
from btrfs_backup_ng.process.interruption import sleep

#: Seconds between two looks, unless the call says otherwise; and the fewest.
USUALLY_S, LEAST_S = 2.0, 1.0


def join_span(words: Sequence[str]) -> list[str]:
    """Turn ``--watch SPAN`` into an option and its value, which is optional.

    A word behind it that is no length of time is left alone: it is a place.
    """
    joined: list[str] = []
    waiting = iter(words)
    for word in waiting:
        if word == "--":
            return [*joined, word, *waiting]
        is_behind = bool(joined) and joined[-1] == "--watch"
        if is_behind and _is_span(word):
            joined.append(f"--watch-every={word}")
        elif word.startswith("--watch="):
            joined += ["--watch", word.replace("--watch=", "--watch-every=", 1)]
        else:
            joined.append(word)
    return joined


def _is_span(word: str) -> bool:
    return not isinstance(attempt(lambda: values.seconds(word)), BackupError)


def span(text: str) -> float:
    """Read the time between two looks, in seconds."""
    found = values.seconds(text)
    if found < LEAST_S:
        raise UsageError("--watch looks at most once a second")
    return found


@contextmanager
def until_ctrl_c() -> Iterator[None]:
    """End what is inside at Ctrl-C, with its connections.

    :raises Interrupted: by any other signal.
    """
    try:
        yield
    except Interrupted as interrupted:
        if interrupted.exit_status != 128 + signal.SIGINT:
            raise


def watch(look: Callable[[], Sequence[str]], every_s: float) -> None:
    """Show the lines of each look until a signal, or until stdout is closed.

    :param look: returns the lines of one look.
    :raises Interrupted: by a signal.
    """
    once, screen = _Once(), _Screen()
    for handler in logging.getLogger().handlers:
        handler.addFilter(once)
    while True:
        lines = look()
        if not screen.show(lines, is_undisturbed=not once.take_new()):
            return
        sleep(every_s)


class _Once(logging.Filter):
    """Lets each message through once, and not again with every look."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()
        self._has_new = False

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_new = message not in self._seen
        self._seen.add(message)
        self._has_new |= is_new
        return is_new

    def take_new(self) -> bool:
        """Return whether a message came through since the last call."""
        found, self._has_new = self._has_new, False
        return found


class _Screen:
    """Stdout: a terminal, on which a block replaces the one before, or a stream."""

    def __init__(self) -> None:
        self._shown: Sequence[str] = ()
        self._is_terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="backslashreplace")

    def show(self, lines: Sequence[str], *, is_undisturbed: bool) -> bool:
        """Show a block of lines; return whether that was possible.

        :param is_undisturbed: nothing else came on the terminal since the last one.
        """
        if self._is_terminal:
            text = self._redrawn(lines, is_undisturbed=is_undisturbed)
        else:
            text = ("\n" if self._shown else "") + "".join(f"{one}\n" for one in lines)
            self._shown = lines
        return print_block(text)

    def _redrawn(self, lines: Sequence[str], *, is_undisturbed: bool) -> str:
        """Return what writes lines over the last ones, without a blank in between.

        Each line is cleared behind its end only, and all comes in one write, so that
        nothing flickers. What stood above stays.
        """
        at_once = columns()
        up = sum(_rows(one, at_once) for one in self._shown) if is_undisturbed else 0
        self._shown = lines = _fitting(lines, at_once, _height())
        start = f"\r\x1b[{up}A" if up else ""
        return start + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J"


def _rows(line: str, across: int) -> int:
    """Return how many rows of a terminal a line takes."""
    return max(1, math.ceil(width(line) / across))


def _height() -> int:
    """Return the rows of the terminal."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).lines or 24
    except OSError:
        return 24


def _fitting(lines: Sequence[str], across: int, rows: int) -> Sequence[str]:
    """Return the first of the lines that fit on a terminal, and how many do not."""
    room = rows - 1  # below is the cursor
    if sum(_rows(one, across) for one in lines) <= room:
        return lines
    kept: list[str] = []
    for line in lines:
        room -= _rows(line, across)
        if room < 1:
            break
        kept.append(line)
    return [*kept, f"... and {len(lines) - len(kept)} more lines"]
