"""Errors, sizes, times and safe text for every folder."""

import os
import re
import signal
import sys
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, TypeVar

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

T = TypeVar("T")


class BackupError(Exception):
    """An error for the user: the object, the reason, and the command to run next.

    :ivar hint: further lines for the user, most often a command to run.
    """

    exit_status = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(BackupError):
    """The command line, or a file, is not valid."""

    exit_status = 2


class Busy(BackupError):
    """Another run holds the lock."""

    exit_status = 3


class Refused(BackupError):
    """A check failed before anything was changed."""

    exit_status = 4


class Interrupted(BaseException):
    """A signal ended the program.

    Like ``KeyboardInterrupt`` it is not a failure of one place or transfer, so only
    ``__main__`` may catch it.
    """

    hint = ""

    def __init__(self, signal_number: int) -> None:
        name = signal.Signals(signal_number).name
        self.message = f"interrupted by {name}. The next run will resume or clean up"
        super().__init__(self.message)
        self.exit_status = 128 + signal_number


def attempt(action: Callable[[], T]) -> T | BackupError:
    """Return the result of an action, or the :class:`BackupError` it raised.

    For loops in which one failure must not stop the rest.
    """
    try:
        return action()
    except BackupError as error:
        return error


def visible(text: str) -> str:
    """Escape characters that could control a terminal or break a line.

    Control characters, bidirectional marks, line separators and bytes that are not
    UTF-8 (surrogates) become ``\\xNN`` or ``\\uNNNN``; the rest is unchanged.
    """
    if text.isascii() and text.isprintable():
        return text
    return re.sub(_UNSAFE, _escaped, text)


#: C0 and C1 controls, DEL, separators, marks that reorder text, surrogates.
_UNSAFE = (
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f"
    "\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape: one byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if match[0] in "\n\t\r":
        return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}[match[0]]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def format_size(size_bytes: float) -> str:
    """Return a size for people, in binary units: ``41.2 GiB``.

    No number has more than three digits before the point: ``1.0 GiB``, not 1000.3 MiB.
    """
    if round(size_bytes) < 1000:
        return f"{size_bytes:.0f} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        size_bytes /= KIB
        if round(size_bytes, 1) < 1000:
            return f"{size_bytes:.1f} {unit}"
    return f"{size_bytes / KIB:.1f} PiB"


def format_span(seconds: float) -> str:
    """Return a duration for people: ``0.4 s``, ``2:05``, ``1:02:05``."""
    if round(seconds, 1) < 10:
        return f"{seconds:.1f} s"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(int(max(seconds, 60)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_age(age: timedelta) -> str:
    """Return an age for people: ``5 min``, ``26 h``, ``12 days``."""
    seconds = age.total_seconds()
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (172800, 3600, "h")):
        if abs(seconds) < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400:.0f} days"


def parse_size(text: str) -> int:
    """Read a size like ``10M``, ``1.5 GiB``, ``10mb`` or ``4096`` in bytes.

    Units are binary, with and without ``i`` and ``B``, in any case.

    :raises ValueError: if it is not a positive size.
    """
    match = re.fullmatch(
        r"([0-9]+(?:\.[0-9]+)?)\s*([kmgtp]?)(?:i?b)?", text.strip().lower()
    )
    if not match:
        raise ValueError(f"{text!r} is not a size; write it like 10M")
    power = " kmgtp".index(match[2] or " ")
    size_bytes = int(float(match[1]) * KIB**power)
    if size_bytes <= 0:
        raise ValueError(f"{text!r} must be greater than zero")
    return size_bytes


_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
_NUMBER = r"[0-9]{1,6}(?:\.[0-9]{1,3})?"
_PART = (
    rf"({_NUMBER})\s*(s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?"
    r"|w|weeks?|y|years?)(?![a-z])\s*"
)


def parse_span(text: str) -> timedelta:
    """Read a duration like ``14d``, ``36h``, ``90 min`` or ``1h30m``.

    :raises ValueError: if it has another form.
    """
    rest, seconds = text.strip().lower(), 0.0
    while match := re.match(_PART, rest):
        seconds += float(match[1]) * _UNITS_S[match[2][0]]
        rest = rest[match.end() :]
    if rest or not text.strip():
        raise ValueError(f"{text!r} is not a duration; write it like 14d")
    return timedelta(seconds=seconds)


def base_directory(variable: str, usual: str) -> str:
    """Return a directory for the files of a user's programs.

    The XDG base directory specification wants relative ones ignored.

    :param variable: that may name it, like ``XDG_STATE_HOME``.
    :param usual: with ``~``.
    """
    named = os.environ.get(variable, "")
    return named if named.startswith("/") else os.path.expanduser(usual)


def resembling(word: str, among: Iterable[str], cutoff: float = 0.6) -> str:
    """Return the one that a mistyped word was probably meant to be, or "".

    :param cutoff: how alike they must be, from 0 to 1.
    """
    import difflib  # here: only a mistyped word needs it

    return next(iter(difflib.get_close_matches(word, list(among), 1, cutoff)), "")


def read_packaged(package: str, path: str) -> str:
    """Read a file beside the modules of a package, which may be in a zip.

    importlib.resources would cost every start some 20 ms.
    """
    module = sys.modules[package]
    loader: Any = module.__loader__
    folder = os.path.dirname(module.__file__ or "")
    return str(loader.get_data(os.path.join(folder, path)), "utf-8")
