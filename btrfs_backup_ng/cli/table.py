"""Fit lines on a terminal: broken there, whole elsewhere.

A table has one line for each row, as long as that is possible. On a narrow terminal
it first leaves out columns; then its last column, a text, has further lines or is
clipped, or stands below the row if a word of it is too long; then a name that is too
long has a line of its own; and where nothing else fits, a row is a paragraph.
"""

import sys
from collections.abc import Iterator, Sequence

from btrfs_backup_ng.cli.stdout import columns
from btrfs_backup_ng.core.columns import broken, clipped, padded, width, wrap
from btrfs_backup_ng.core.value import Value

#: Least columns for the text at the end of a row.
_TEXT_AT_LEAST = 16
#: Columns in front of a text that stands below its row.
_BELOW = 4
#: For :class:`Column`: the text at the end has all that it needs.
ALL = 100_000
_GAP = "  "

#: A cell; the last one of a row may be the parts of a text, the first of which is
#: never left out.
Cell = str | tuple[str, ...]


class Column(Value):
    """A column of a table.

    :ivar leaves: columns of the terminal that it has to leave to the text at the end,
        if that needs them; else it is left out, the most demanding column first.
    :ivar is_right: its cells end below each other, as numbers do.
    :ivar is_name: its longest cells may have a line of their own.
    """

    heading: str = ""
    leaves: int = 0
    is_right: bool = False
    is_name: bool = False


def terminal_width() -> int | None:
    """Return the columns of the terminal, if it is one that lines go to."""
    return columns() if sys.stdout.isatty() else None


def wrapped(line: str, indent: int) -> list[str]:
    """Break a line that is too long; a word is never broken, so that it can be copied.

    :param indent: columns in front of its further lines.
    """
    return broken(line, terminal_width(), indent)


def table(
    rows: Sequence[Sequence[Cell]],
    indent: int,
    columns: Sequence[Column] = (),
    *,
    clips: bool = False,
) -> Iterator[str]:
    """Return rows as lines that fit on the terminal, see :func:`lay_out`."""
    return lay_out(rows, indent, columns, terminal_width(), clips=clips)


def lay_out(
    rows: Sequence[Sequence[Cell]],
    indent: int,
    columns: Sequence[Column],
    room: int | None,
    *,
    clips: bool = False,
) -> Iterator[str]:
    """Return rows as lines with aligned columns.

    A column without any text is left out, and so is a line of empty headings.

    :param room: columns of the terminal; None: lines may have any length.
    :param clips: leave out parts of the last cell that do not fit, instead of
        giving it further lines.
    """
    if not rows:
        return
    columns = columns or [Column()] * len(rows[0])
    fit = _Fit(rows, columns, indent, room)
    if any(columns[at].heading for at in fit.shown):
        yield from fit.lines([column.heading for column in columns], clips=True)
    for row in rows:
        yield from fit.lines(row, clips=clips)


def _whole(cell: Cell) -> str:
    return cell if isinstance(cell, str) else ", ".join(cell)


class _Fit:
    """The columns of a table that are shown on a terminal, and their widths.

    :ivar shown: their numbers.
    """

    def __init__(
        self,
        rows: Sequence[Sequence[Cell]],
        columns: Sequence[Column],
        indent: int,
        room: int | None,
    ) -> None:
        self._columns = columns
        self._room = room
        self._start = " " * indent
        self.shown = [at for at in range(len(columns)) if any(row[at] for row in rows)]
        cells = {at: [width(_whole(row[at])) for row in rows] for at in self.shown}
        headings = {at: width(columns[at].heading) for at in self.shown}
        self._widths = {at: max(headings[at], *cells[at]) for at in self.shown}
        for at in sorted(self.shown, key=lambda at: columns[at].leaves, reverse=True):
            if columns[at].leaves and self._lacks(columns[at].leaves):
                self.shown.remove(at)
        for at in self.shown[:-1]:
            if columns[at].is_name and self._lacks(_TEXT_AT_LEAST):
                excess = self._text_at + _TEXT_AT_LEAST - (room or 0)
                most = self._widths[at] - excess
                fitting = (each for each in cells[at] if each <= most)
                self._widths[at] = max(headings[at], *fitting, 0)

    @property
    def _text_at(self) -> int:
        """Return where the last column begins."""
        front = [self._widths[at] for at in self.shown[:-1]]
        return len(self._start) + sum(front) + len(_GAP) * len(front)

    def _lacks(self, wanted: int) -> bool:
        """Return whether the text at the end has less room than wanted and needed."""
        needed = min(wanted, self._widths[self.shown[-1]])
        return self._room is not None and self._text_at + needed > self._room

    def lines(self, row: Sequence[Cell], *, clips: bool) -> list[str]:
        """Return the lines of a row, in the first layout that fits.

        Where a word is too long for the terminal, as few lines as possible are.
        """
        room = self._room
        if room is None:
            return self._beside(row, clips=clips)
        if self._lacks(_TEXT_AT_LEAST):
            return self._paragraph(row)
        layouts = (
            self._beside(row, clips=clips),
            self._below(row, clips=clips),
            self._paragraph(row),
        )
        return min(layouts, key=lambda lines: sum(width(one) > room for one in lines))

    def _beside(self, row: Sequence[Cell], *, clips: bool) -> list[str]:
        *above, line = self._front(row)
        return [*above, *self._with_text(line, row, clips=clips)]

    def _below(self, row: Sequence[Cell], *, clips: bool) -> list[str]:
        front = [line.rstrip(" ") for line in self._front(row)]
        start = self._start + " " * _BELOW
        return [*filter(None, front), *self._with_text(start, row, clips=clips)]

    def _front(self, row: Sequence[Cell]) -> Iterator[str]:
        """Return the lines of all cells but the text; the last ends where it begins."""
        line, position = self._start, len(self._start)
        for at in self.shown[:-1]:
            cell = _whole(row[at])
            line += padded(cell, self._widths[at], right=self._columns[at].is_right)
            line += _GAP
            position += self._widths[at] + len(_GAP)
            if width(line) > position:  # the name is too long for its column
                yield line.rstrip(" ")
                line = " " * position
        yield line

    def _with_text(self, line: str, row: Sequence[Cell], *, clips: bool) -> list[str]:
        """Return a line and its further lines, with the text behind it."""
        at, position = self.shown[-1], width(line)
        cell = row[at]
        if self._columns[at].is_right:
            cell = padded(_whole(cell), self._widths[at], right=True)
        if self._room is None:
            return [f"{line}{_whole(cell)}".rstrip(" ")]
        room = self._room - position
        text = clipped(cell, room) if clips and not isinstance(cell, str) else cell
        first, *rest = wrap(_whole(text), room, room)
        return [f"{line}{first}".rstrip(" "), *(" " * position + part for part in rest)]

    def _paragraph(self, row: Sequence[Cell]) -> list[str]:
        """Return the cells of a row one behind the other."""
        assert self._room is not None
        cells = [_whole(row[at]) for at in self.shown if row[at]]
        first = max(self._room - len(self._start), 1)
        head, *rest = wrap(", ".join(cells), first, max(first - 2, 1))
        return [self._start + head, *(f"{self._start}  {part}" for part in rest)]
