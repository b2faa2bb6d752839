"""Writing to stdout, which may be closed; that does not end a backup."""

import contextlib
import os
import sys
from collections.abc import Iterator

_RED, _PLAIN = "\x1b[31m", "\x1b[0m"


def print_line(text: str) -> None:
    """Write to stdout; if that is not possible, the text is lost, and nothing else.

    Characters that its encoding does not have are escaped.
    """
    with _losing():
        try:
            print(text, flush=True)
        except UnicodeEncodeError:
            encoding = sys.stdout.encoding
            print(
                text.encode(encoding, "backslashreplace").decode(encoding), flush=True
            )


def print_block(text: str) -> bool:
    """Write lines to stdout in one write; return whether that was possible."""
    with _losing():
        sys.stdout.write(text)
        sys.stdout.flush()
        return True
    return False


def print_bytes(raw: bytes) -> None:
    """Write bytes to stdout as they are; if that is not possible, they are lost."""
    with _losing():
        sys.stdout.flush()
        sys.stdout.buffer.write(raw)
        sys.stdout.buffer.flush()


def columns() -> int:
    """Return the columns of the terminal: COLUMNS, its own, or else 80.

    That is shutil.get_terminal_size(); shutil imports three compressors.
    """
    named = os.environ.get("COLUMNS", "")
    if named.isdecimal() and int(named):
        return int(named)
    with contextlib.suppress(OSError):
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    return 80


def trouble(word: str) -> str:
    """Return a word that means trouble, in red on a terminal that shows colours.

    The word alone has to say it: colour only helps to find it.
    """
    return f"{_RED}{word}{_PLAIN}" if word and _shows_colours() else word


def _shows_colours() -> bool:
    """Return whether stdout is a terminal with colours: https://no-color.org."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb":
        return False
    return sys.stdout.isatty()


@contextlib.contextmanager
def _losing() -> Iterator[None]:
    try:
        yield
    except OSError:  # closed, or a full disk: the backup continues
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
