"""The progress of running transfers: a line on a terminal, else the log."""

import contextlib
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Self, TextIO

from btrfs_backup_ng.__util__ import format_size, format_span, visible
from btrfs_backup_ng.process.pipeline import Meter

log = logging.getLogger(__name__)

#: The rate shown is the average of this time.
_WINDOW_S = 5.0
#: After other output the line is not drawn for this long, which is more than enough for
#: that output to be written.
_STAY_AWAY_S = 0.2
#: Least length of a title; figures are cut off only beyond that.
_TITLE_AT_LEAST = 12

line_requested = False


def request_line() -> None:
    """Request a line for each running transfer, soon; for a signal's handler."""
    global line_requested
    line_requested = True


class ShownTransfer:
    """One displayed transfer, and its recent rate."""

    def __init__(self, meter: Meter, title: str, now: float) -> None:
        self.title = visible(title)
        self.meter = meter
        self.logged = now
        self._samples = deque([(now, meter.size_bytes)])

    def sample(self, now: float) -> None:
        """Read the meter; forget samples before the window, all but one."""
        self._samples.append((now, self.meter.size_bytes))
        while len(self._samples) > 2 and self._samples[1][0] <= now - _WINDOW_S:
            self._samples.popleft()

    def rate(self) -> float:
        (began, before), (ended, after) = self._samples[0], self._samples[-1]
        return (after - before) / (ended - began) if ended > began else 0.0

    def elapsed_s(self, now: float) -> float:
        """Return the time from its start to its end, or now."""
        if self.meter.started is None:
            return 0.0
        return (self.meter.ended or now) - self.meter.started

    def facts(self, now: float) -> str:
        meter = self.meter
        if meter.ended is not None:
            moved = format_size(meter.size_bytes)
            return f"  {moved}  finishing  {format_span(self.elapsed_s(now))}"
        if meter.resumed_bytes and not meter.size_bytes:
            there = format_size(meter.resumed_bytes)
            return f"  reading again {format_size(meter.skipped_bytes)} of {there}"
        sizes = meter.resumed_bytes + meter.size_bytes, meter.expected_bytes
        return format_facts(*sizes, self.rate(), self.elapsed_s(now))


def format_facts(
    size_bytes: int, expected_bytes: int | None, rate: float, elapsed_s: float
) -> str:
    """Return the figures of a running transfer, with two spaces before each.

    The expected size may be too small, so a running transfer never shows 100 %.

    :param rate: bytes per second.
    """
    facts = [format_size(size_bytes), f"{format_size(rate)}/s", format_span(elapsed_s)]
    if expected_bytes:
        facts[0] += f" of {format_size(expected_bytes)}"
        facts.insert(0, f"{min(99, 100 * size_bytes // expected_bytes)}%")
        if rate > 0 and size_bytes < expected_bytes:
            left_s = (expected_bytes - size_bytes) / rate
            facts.append(f"ETA {format_span(left_s)}")
    return "".join(f"  {fact}" for fact in facts)


def format_line(transfers: list[ShownTransfer], now: float) -> tuple[str, str]:
    """Return title and figures of the line for all running transfers."""
    running = [t for t in transfers if t.meter.ended is None] or transfers
    if len(running) == 1:
        return running[0].title, running[0].facts(now)
    expected = [t.meter.expected_bytes or 0 for t in running]
    return f"{len(running)} transfers", format_facts(
        sum(t.meter.resumed_bytes + t.meter.size_bytes for t in running),
        sum(expected) if all(expected) else None,
        sum(t.rate() for t in running),
        max(t.elapsed_s(now) for t in running),
    )


def fit(title: str, facts: str, columns: int) -> str:
    """Shorten a line to a width; the middle of the title goes first."""
    room = max(columns - cells(facts), min(_TITLE_AT_LEAST, cells(title)))
    if cells(title) > room:
        head, tail = title, title
        while cells(head) > (room - 3) // 2:
            head = head[:-1]
        while cells(tail) > room - 3 - cells(head):
            tail = tail[1:]
        title = f"{head}...{tail}"
    line = title + facts
    while cells(line) > columns:
        line = line[:-1]
    return line


def cells(text: str) -> int:
    """Return the columns that a text needs at most: two from Hangul Jamo upwards."""
    return sum(2 if character >= "\u1100" else 1 for character in text)


class Progress:
    """The display of all running transfers; active inside its context.

    Before each record that a handler of the root logger writes, the line is cleared.
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

        :param enabled_line: rewrite one line in place, on ``stream`` (stderr).
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
        self._shown = 0  # columns
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
    def add(self, meter: Meter, title: str) -> Iterator[None]:
        transfer = ShownTransfer(meter, title, time.monotonic())
        with self._guard:
            self._transfers.append(transfer)
        try:
            yield
        finally:
            with self._guard:
                self._transfers.remove(transfer)
            self.clear()

    def clear(self) -> None:
        """Clear the line, so that other output can be written."""
        with self._guard:
            self._away_until = time.monotonic() + _STAY_AWAY_S
            if self._shown:
                self._write("\r" + " " * self._shown + "\r")
                self._shown = 0

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
                _say(f"{transfer.title}{transfer.facts(now)}")
        if asked and not transfers:
            _say("no transfer is running")

    def _draw(self, now: float) -> None:
        if not self._line or not self._transfers or now < self._away_until:
            return
        columns = self._columns()
        if columns is None:
            return
        text = fit(*format_line(self._transfers, now), columns - 1)
        shown = cells(text)
        self._write("\r" + text + " " * (self._shown - shown))
        self._shown = shown

    def _columns(self) -> int | None:
        """Return the width to use; None while another job has the terminal."""
        with contextlib.suppress(OSError, ValueError):  # of another session
            if os.tcgetpgrp(self._stream.fileno()) != os.getpgrp():
                return None
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except (OSError, ValueError):  # no terminal, but a line was asked for
            return 80

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # a closed stderr does not end a backup
            self._line = False


def _say(text: str) -> None:
    """Log at level info whatever level is set."""
    log.handle(log.makeRecord(log.name, logging.INFO, "", 0, "%s", (text,), None))
