"""How lines fit on a terminal: broken for the eyes there, whole elsewhere."""

import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence


def terminal_width() -> int | None:
    """Return the columns of the terminal, if it is one that lines go to."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def wrapped(line: str, indent: int) -> list[str]:
    """Break a line that is too long; a word is never cut, so that it can be copied.

    :param indent: columns in front of its further lines.
    """
    width = terminal_width()
    if width is None:
        return [line]
    return textwrap.wrap(
        line,
        max(width, 2 * indent),
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def table(rows: Sequence[Sequence[str]], indent: int) -> Iterator[str]:
    """Return rows as lines with aligned columns.

    Where the terminal is too narrow for that, the first cell of a row has a line of
    its own, and the others stand below it.
    """
    start, width = " " * indent, terminal_width()
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    longest = max((_length(row, widths) for row in rows), default=0) + indent
    for row in rows:
        if width is None or longest <= width:
            cells = map(str.ljust, row, widths)
            yield f"{start}{'  '.join(cells)}".rstrip(" ")
        else:
            yield start + row[0]
            rest = ", ".join(cell for cell in row[1:] if cell)
            yield from wrapped(f"{start}  {rest}", indent + 2)


def _length(row: Sequence[str], widths: Sequence[int]) -> int:
    return sum(widths[:-1]) + 2 * (len(row) - 1) + len(row[-1])
