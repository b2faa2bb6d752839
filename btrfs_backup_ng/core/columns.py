"""The columns that a text takes on a terminal, and texts that are made to fit."""

import re
import unicodedata
from collections.abc import Iterator, Sequence

#: Colours: the program's own, as ``visible()`` escapes those of any other text.
_COLOUR = "\x1b\\[[0-9;]*m"
#: Signs of the category "format" that are drawn, below the digits behind them.
_SIGNS = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2"
_SIGNS += "\U000110bd\U000110cd"
#: Between the halves of a shortened text, and behind a text that goes on.
_ELLIPSIS = "..."
#: Between the words of a line and its command.
_COLON = ":  "
#: Between two words of a text; an amount and its unit are one.
_SPACE = r" (?!(?:[KMGTP]i)?B\b)"
#: A word of a shell command, with its quotes.
_SHELL_WORD = r"""(?s)(?:'[^']*'|"(?:\\.|[^"\\])*"|\\.|[^ '"\\])+"""


def width(text: str) -> int:
    """Return the columns that a text takes.

    Wide and full-width characters take two, combining and invisible ones none: UAX 11,
    and as wcwidth(3). Where a terminal shows an emoji of several characters as one,
    this is more than it takes, so no line is too long.
    """
    if text.isascii() and "\x1b" not in text:
        return len(text)
    return sum(map(_width_of, re.sub(_COLOUR, "", text)))


def _width_of(character: str) -> int:
    if character < "\u0300":
        return 1
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 1 if character in _SIGNS else 0
    if "\u1160" <= character <= "\u11ff":  # they complete a syllable of Hangul
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def padded(text: str, columns: int, *, right: bool = False) -> str:
    """Return a text with spaces behind it, or in front of it, up to a width."""
    spaces = " " * (columns - width(text))
    return spaces + text if right else text + spaces


def shortened(text: str, columns: int) -> str:
    """Return a text that fits a width: its middle is left out if it is longer."""
    if width(text) <= columns:
        return text
    room = columns - len(_ELLIPSIS)
    if room < 2:
        return _start(text, columns)
    head = _start(text, room // 2)
    tail = _start(text[::-1], room - width(head))[::-1]
    return f"{head}{_ELLIPSIS}{tail}"


def _start(text: str, columns: int) -> str:
    """Return the longest start of a text that fits a width."""
    taken = 0
    for at, character in enumerate(text):
        taken += _width_of(character)
        if taken > columns:
            return text[:at]
    return text


def wrap(text: str, first: int, rest: int) -> Iterator[str]:
    """Break a text at spaces; a word is never cut, so that it can be copied.

    :param first: columns of the first line, which keeps the spaces in front of it.
    :param rest: columns of each further line.
    """
    if width(text) <= first:
        yield text
        return
    words = re.split(_SPACE, text.lstrip(" "))
    line, room = " " * (len(text) - len(text.lstrip(" "))) + words[0], first
    for word in words[1:]:
        if width(f"{line} {word}") <= room:
            line = f"{line} {word}"
        else:
            yield line.rstrip(" ")
            line, room = word, rest
    yield line.rstrip(" ")


def broken(line: str, columns: int | None, indent: int) -> list[str]:
    """Return a line in lines that fit; a word is never cut, so that it can be copied.

    :param columns: of the terminal; None: a line may be as long as it is.
    :param indent: columns in front of the further lines; fewer if a word needs
        them, and then fits.
    """
    if columns is None:
        return [line]
    longest = max(map(width, re.split(_SPACE, line)))
    if longest + 2 <= columns:
        indent = min(indent, columns - longest)
    indent = min(indent, columns // 2)
    first, *rest = wrap(line, columns, columns - indent)
    return [first, *(" " * indent + part for part in rest)]


def with_command(line: str, columns: int | None, indent: int) -> list[str]:
    """Return a line with a command behind a colon, which is never broken.

    A command that does not fit has a line of its own.

    :param columns: of the terminal; None: a line may be as long as it is.
    :param indent: columns in front of that line.
    """
    label, colon, command = line.partition(_COLON)
    if columns is None or width(line) <= columns or not colon:
        return [line]
    return [*broken(f"{label}:", columns, indent), " " * indent + command]


def folded(command: str, columns: int | None, indent: int) -> list[str]:
    """Return a shell command in lines that fit and can still be copied and run.

    It is broken at blanks outside of quotes, behind a backslash.

    :param columns: of the terminal; None: a line may be as long as it is.
    :param indent: columns in front of the further lines.
    """
    if columns is None or width(command) <= columns:
        return [command]
    start = command[: len(command) - len(command.lstrip(" "))]
    first, *words = re.findall(_SHELL_WORD, command)
    lines, line = [], start + first
    for word in words:
        if width(f"{line} {word} \\") <= columns:
            line += f" {word}"
        else:
            lines.append(f"{line} \\")
            line = " " * indent + word
    return [*lines, line]


def clipped(parts: Sequence[str], columns: int) -> str:
    """Join the parts of a text that fit a width.

    The first part is always there, and dots stand for those that are left out.
    """
    text, *rest = parts
    for at, part in enumerate(rest):
        longer = f"{text}, {part}"
        is_last = at == len(rest) - 1
        if width(longer) > columns - (0 if is_last else len(f", {_ELLIPSIS}")):
            return f"{text}, {_ELLIPSIS}"
        text = longer
    return text
