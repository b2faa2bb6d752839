"""The progress of running transfers: lines on a terminal, else the log.

On a terminal each transfer has a line, and several have a sum below. If these are too
long for it, the names are shortened and dropped first, then the amount, the number of
the transfer and the rate; percent and the time left stay.
"""

import contextlib
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Self, TextIO

from btrfs_backup_ng.__util__ import format_size, format_span, visible
from btrfs_backup_ng.core.columns import padded, shortened, width
from btrfs_backup_ng.core.value import Value

if TYPE_CHECKING:
    from btrfs_backup_ng.process.pipeline import Meter

log = logging.getLogger(__name__)

#: The rate shown is the average of this time.
_WINDOW_S = 5.0
#: There is no rate before a transfer was watched for this long.
_RATE_AFTER_S = 1.0
#: After other output the lines are not drawn for this long, which is more than enough
#: for that output to be written.
_STAY_AWAY_S = 0.2
#: A name that has less room than this is dropped.
_TITLE_AT_LEAST = 12
#: Columns left free behind a line: an echo of ^C must not begin a new row.
_FREE = 3
_GAP = "  "

line_requested = False


def request_line() -> None:
    """Request a line for each running transfer, soon; for a signal's handler."""
    global line_requested
    line_requested = True


class Figures(Value):
    """The state of a transfer, or of several together, at one moment.

    :ivar number: of the transfer among ``count``.
    :ivar size_bytes: of the stream that is there, by earlier attempts as well.
    :ivar expected_bytes: of the whole stream. It may be too small.
    :ivar is_estimate: these bytes are estimated.
    :ivar rate: bytes per second; None before there is one.
    :ivar slowest_s: of a sum, the time to the end of the slowest part.
    :ivar doing: an activity that is shown instead of amount and rate.
    """

    title: str
    size_bytes: int
    expected_bytes: int | None
    rate: float | None
    elapsed_s: float
    number: int = 0
    count: int = 0
    doing: str = ""
    is_over: bool = False
    slowest_s: float | None = None
    is_estimate: bool = False

    @property
    def left_s(self) -> float | None:
        """Return the time to the end; None if it is not known."""
        expected = self.expected_bytes
        if not expected or self.is_over or self.size_bytes >= expected:
            return None
        if self.rate is None or self.rate < 1:  # it stands still
            return None
        return self.slowest_s or (expected - self.size_bytes) / self.rate

    def cells(self) -> tuple[str, ...]:
        """Return the title and the figures; "" for those that are not known.

        A running transfer never shows 100 %.
        """
        percent, amount = "", format_size(self.size_bytes)
        if self.expected_bytes and not self.is_over:
            percent = f"{min(99, 100 * self.size_bytes // self.expected_bytes)}%"
            about = "about " if self.is_estimate else ""
            amount = f"{amount} of {about}{format_size(self.expected_bytes)}"
        rate = "" if self.rate is None else f"{format_size(self.rate)}/s"
        left = self.left_s
        return (
            self.title,
            f"{self.number} of {self.count}" if self.count > 1 else "",
            percent,
            self.doing or amount,
            "finishing" if self.is_over else rate,
            format_span(self.elapsed_s) if left is None else f"left {_clock(left)}",
        )

    def sentence(self) -> str:
        """Return what is known of percent, amount and the time left, as a text."""
        _, _, percent, amount, rate, time_left = self.cells()
        if self.is_over:
            return rate
        parts = percent, amount, time_left if self.left_s is not None else ""
        return ", ".join(filter(None, parts))


#: The order in which a narrow terminal drops cells: amount, number, rate.
_DROPPED = (3, 1, 4)
_PERCENT = 2


def _clock(seconds: float) -> str:
    """Return a length of time as on a clock: ``0:12``, ``1:02:05``, or in days."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 100:
        return f"{hours // 24} days"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def total(parts: Sequence[Figures]) -> Figures:
    """Return the sum of transfers that run at once."""
    running = [part for part in parts if not part.is_over] or parts
    sizes = [part.expected_bytes or 0 for part in running]
    rates = [part.rate for part in running if part.rate is not None]
    left = [part.left_s for part in running if part.left_s is not None]
    return Figures(
        title=f"{len(parts)} transfers",
        size_bytes=sum(part.size_bytes for part in running),
        expected_bytes=sum(sizes) if all(sizes) else None,
        rate=sum(rates) if rates else None,
        elapsed_s=max(part.elapsed_s for part in parts),
        is_over=all(part.is_over for part in parts),
        slowest_s=max(left, default=None),
        is_estimate=any(part.is_estimate for part in running),
    )


def format_lines(parts: Sequence[Figures], columns: int, rows: int) -> list[str]:
    """Return a line for each transfer, and one for the sum of several.

    :param rows: how many lines there may be; if it is too few, only the sum is shown.
    """
    if len(parts) > 1:
        parts = [*parts, total(parts)] if len(parts) < rows else [total(parts)]
    table = [list(part.cells()) for part in parts]
    shown = [at for at in range(len(table[0])) if any(row[at] for row in table)]
    widths = {at: max(width(row[at]) for row in table) for at in shown}

    def excess() -> int:
        return sum(widths[at] + len(_GAP) for at in shown) - len(_GAP) - columns

    if shown[0] == 0 and excess() > 0:
        widths[0] -= excess()
        if widths[0] < min(_TITLE_AT_LEAST, max(width(row[0]) for row in table)):
            shown.remove(0)
    for at in _DROPPED:
        if at in shown and excess() > 0:
            shown.remove(at)
    return [_line(row, shown, widths, columns) for row in table]


def _line(
    row: Sequence[str], shown: Sequence[int], widths: dict[int, int], columns: int
) -> str:
    cells = (
        padded(shortened(row[at], widths[at]), widths[at], right=at == _PERCENT)
        for at in shown
    )
    line = _GAP.join(cells).rstrip()
    while width(line) > columns:
        line = line[:-1]
    return line


class ShownTransfer:
    """One displayed transfer, and its recent rate."""

    def __init__(
        self, meter: "Meter", title: str, now: float, number: int = 0, count: int = 0
    ) -> None:
        self.title = visible(title)
        self.meter = meter
        self.logged = now
        self._number, self._count = number, count
        self._samples = deque([(now, meter.size_bytes)])

    def sample(self, now: float) -> None:
        """Read the meter; forget samples before the window, all but one."""
        self._samples.append((now, self.meter.size_bytes))
        while len(self._samples) > 2 and self._samples[1][0] <= now - _WINDOW_S:
            self._samples.popleft()

    def rate(self) -> float | None:
        """Return the bytes per second of late; None before anything moved for long."""
        (began, before), (ended, after) = self._samples[0], self._samples[-1]
        if not after or ended - began < _RATE_AFTER_S:
            return None
        return (after - before) / (ended - began)

    def figures(self, now: float) -> Figures:
        meter = self.meter
        doing = ""
        if meter.resumed_bytes and not meter.size_bytes:
            there = format_size(meter.resumed_bytes)
            doing = f"reading again {format_size(meter.skipped_bytes)} of {there}"
        elapsed_s = 0.0
        if meter.started is not None:
            elapsed_s = (meter.ended or now) - meter.started
        is_over = meter.ended is not None
        return Figures(
            title=self.title,
            size_bytes=meter.size_bytes + (0 if is_over else meter.resumed_bytes),
            expected_bytes=meter.expected_bytes,
            rate=None if is_over else self.rate(),
            elapsed_s=elapsed_s,
            number=self._number,
            count=self._count,
            doing="" if is_over else doing,
            is_over=is_over,
            is_estimate=meter.is_estimate,
        )


class Progress:
    """The display of all running transfers; active inside its context.

    Before each record that a handler of the root logger writes, the lines are cleared.
    Code that writes to the terminal in another way calls :meth:`clear` first.
    """

    def __init__(
        self,
        enabled_line: bool,
        stream: TextIO | None = None,
        *,
        silent: bool = False,
        log_interval_s: float = 60.0,
        tick_s: float = 0.5,
    ) -> None:
        """Prepare; nothing is displayed yet.

        :param enabled_line: rewrite lines in place, on ``stream`` (stderr); only one
            line where the cursor cannot move up.
        :param silent: without a line, do not log each minute either. Lines requested
            with :func:`request_line` are logged even then.
        """
        self._line = enabled_line
        self._stream = stream or sys.stderr
        self._silent = silent
        self._log_interval_s = log_interval_s
        self._tick_s = tick_s
        self._transfers: list[ShownTransfer] = []
        self._guard = threading.RLock()
        self._shown: list[int] = []  # columns of each line
        self._away_until = 0.0
        self._stop = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)
        self._handlers: list[logging.Handler] = []

    def __enter__(self) -> Self:
        self._handlers = list(logging.getLogger().handlers)
        for handler in self._handlers:
            handler.addFilter(self._make_room)
        self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._ticker.join()
        for handler in self._handlers:
            handler.removeFilter(self._make_room)
        self.clear()

    def _make_room(self, record: logging.LogRecord) -> bool:
        self.clear()
        return True

    @contextlib.contextmanager
    def add(
        self, meter: "Meter", title: str, number: int = 0, count: int = 0
    ) -> Iterator[Callable[[], str]]:
        """Show a transfer as long as the context lasts.

        It yields a function that returns how far the transfer is, as text.

        :param number: of this one among ``count``.
        """
        transfer = ShownTransfer(meter, title, time.monotonic(), number, count)
        with self._guard:
            self._transfers.append(transfer)
        try:
            yield lambda: transfer.figures(time.monotonic()).sentence()
        finally:
            with self._guard:
                self._transfers.remove(transfer)
            self.clear()

    def clear(self) -> None:
        """Clear the lines, so that other output can be written."""
        with self._guard:
            self._away_until = time.monotonic() + _STAY_AWAY_S
            if self._shown and self._can_move():
                self._write(f"{self._back()}\x1b[J")
            elif self._shown:
                self._write("\r" + " " * self._shown[0] + "\r")
            self._shown = []

    def _tick(self) -> None:
        while not self._stop.wait(self._tick_s):
            self._log(time.monotonic())
            with self._guard:
                self._draw(time.monotonic())

    def _log(self, now: float) -> None:
        """Log requested lines, and lines that are due; without the lock."""
        global line_requested
        asked, line_requested = line_requested, False
        with self._guard:
            transfers = list(self._transfers)
        due = not (self._line or self._silent)
        for transfer in transfers:
            transfer.sample(now)
            if asked or (due and now - transfer.logged >= self._log_interval_s):
                transfer.logged = now
                _say(_GAP.join(filter(None, transfer.figures(now).cells())))
        if asked and not transfers:
            _say("no transfer is running")

    def _draw(self, now: float) -> None:
        if not self._line or not self._transfers or now < self._away_until:
            return
        if not self._has_terminal():
            return
        size, moves = self._size(), self._can_move()
        parts = [transfer.figures(now) for transfer in self._transfers]
        rows = size.lines - 1 if moves else 1
        lines = format_lines(parts, size.columns - _FREE, rows)
        if moves:
            text = "\x1b[K\r\n".join(lines)
            self._write(f"{self._back()}{text}\x1b[J")
        else:
            rest = sum(self._shown) - width(lines[0])
            self._write(f"\r{lines[0]}{' ' * rest}")
        self._shown = [width(line) for line in lines]

    def _back(self) -> str:
        """Return the text that moves the cursor to the start of the first line.

        A line that became too long since it was drawn, as the terminal was made
        narrower, takes several rows now.
        """
        columns = self._size().columns
        above = sum(max(1, -(-shown // columns)) for shown in self._shown) - 1
        return f"\r\x1b[{above}A" if above > 0 else "\r"

    def _can_move(self) -> bool:
        """Return whether the cursor can move up to a line."""
        try:
            is_terminal = self._stream.isatty()
        except ValueError:  # closed
            return False
        return is_terminal and os.environ.get("TERM", "dumb") != "dumb"

    def _has_terminal(self) -> bool:
        """Return whether no other job has the terminal."""
        with contextlib.suppress(OSError, ValueError):  # of another session
            return os.tcgetpgrp(self._stream.fileno()) == os.getpgrp()
        return True

    def _size(self) -> os.terminal_size:
        """Return the size of the terminal; it may have changed since the last time."""
        try:
            size = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):  # no terminal, but lines were asked for
            size = os.terminal_size((0, 0))
        return os.terminal_size((size.columns or 80, size.lines or 24))

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # a closed stderr does not end a backup
            self._line = False


def _say(text: str) -> None:
    """Log at level info whatever level is set."""
    log.handle(log.makeRecord(log.name, logging.INFO, "", 0, "%s", (text,), None))
