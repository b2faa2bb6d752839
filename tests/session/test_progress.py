"""The display of running transfers: its words, its line, its log."""

from __future__ import annotations

import io
import logging
import os
import pty
import re
import termios
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btrfs_backup_ng.__util__ import GIB, MIB
from btrfs_backup_ng.core.columns import width
from btrfs_backup_ng.core.value import replace
from btrfs_backup_ng.process.pipeline import Meter
from btrfs_backup_ng.session import progress
from btrfs_backup_ng.session.progress import (
    Figures,
    Progress,
    ShownTransfer,
    format_lines,
    request_line,
)
from tests.support.processes import nothing_left_behind, wait_until


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test starts with nothing asked for, and leaves no thread behind."""
    monkeypatch.setattr(progress, "line_requested", False)
    threads = threading.active_count()
    with nothing_left_behind():
        yield
    assert threading.active_count() == threads


# Words


def figures(
    size: float, expected: float | None = None, rate: float | None = None, **more: Any
) -> Figures:
    """Return the state of a transfer that is called home -> /mnt."""
    expected = None if expected is None else int(expected)
    facts = {"title": "home -> /mnt", "elapsed_s": 125.0, **more}
    return Figures(size_bytes=int(size), expected_bytes=expected, rate=rate, **facts)


FAR = figures(41.2 * GIB, 66 * GIB, 312.4 * MIB, number=3, count=7)


@pytest.mark.parametrize(
    ("state", "cells"),
    [
        (FAR, "3 of 7|62%|41.2 GiB of 66.0 GiB|312.4 MiB/s|left 1:21"),
        (figures(41.2 * GIB, None, 312.4 * MIB), "41.2 GiB|312.4 MiB/s|2:05"),
        (figures(0, 10, elapsed_s=0.0), "0%|0 B of 10 B|0.0 s"),
        (figures(0, 0, elapsed_s=0.0), "0 B|0.0 s"),
        (figures(10, 10, 5, elapsed_s=2.0), "99%|10 B of 10 B|5 B/s|2.0 s"),
        (figures(15, 10, 5, elapsed_s=2.0), "99%|15 B of 10 B|5 B/s|2.0 s"),
        (figures(5, 10, 0.0), "50%|5 B of 10 B|0 B/s|2:05"),
        (figures(40, 100, 5), "40%|40 B of 100 B|5 B/s|left 0:12"),
        (figures(0, 7200, 1), "0%|0 B of 7.0 KiB|1 B/s|left 2:00:00"),
        (figures(0, 5 * 86400, 1), "0%|0 B of 421.9 KiB|1 B/s|left 5 days"),
        (figures(50, 100, is_over=True), "50 B|finishing|2:05"),
        (figures(5, number=1, count=1), "5 B|2:05"),
        (figures(5, 10, is_estimate=True), "50%|5 B of about 10 B|2:05"),
    ],
)
def test_the_figures_of_a_transfer(state: Figures, cells: str):
    assert "|".join(filter(None, state.cells()[1:])) == cells


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (72, "home -> /mnt  3 of 7  62%  41.2 GiB of 66.0 GiB  312.4 MiB/s  left 1:21"),
        (71, "home -> /mnt  3 of 7  62%  41.2 GiB of 66.0 GiB  312.4 MiB/s  left 1:21"),
        (70, "3 of 7  62%  41.2 GiB of 66.0 GiB  312.4 MiB/s  left 1:21"),
        (57, "3 of 7  62%  41.2 GiB of 66.0 GiB  312.4 MiB/s  left 1:21"),
        (56, "3 of 7  62%  312.4 MiB/s  left 1:21"),
        (35, "3 of 7  62%  312.4 MiB/s  left 1:21"),
        (34, "62%  312.4 MiB/s  left 1:21"),
        (26, "62%  left 1:21"),
        (14, "62%  left 1:21"),
        (9, "62%  left"),
    ],
)
def test_a_narrow_line_drops_the_name_first_and_the_time_left_last(
    columns: int, line: str
):
    assert format_lines([FAR], columns, 24) == [line]


def test_a_name_is_shortened_in_its_middle_before_it_goes():
    (line,) = format_lines([replace(FAR, title="home-2026 -> /mnt/usb")], 76, 24)
    assert line.startswith("home-20...mnt/usb  3 of 7") and len(line) == 76


def test_several_transfers_have_a_line_each_and_a_sum():
    parts = [
        figures(50, 100, 5.0, title="a", elapsed_s=10.0),
        figures(40, 800, 2.0, title="\u96ea\u96ea", elapsed_s=20.0, number=1, count=12),
    ]
    assert format_lines(parts, 79, 24) == [
        "a                     50%  50 B of 100 B  5 B/s  left 0:10",
        "\u96ea\u96ea         1 of 12   5%  40 B of 800 B  2 B/s  left 6:20",
        "2 transfers           10%  90 B of 900 B  7 B/s  left 6:20",
    ]
    assert format_lines(parts, 79, 2) == [
        "2 transfers  10%  90 B of 900 B  7 B/s  left 6:20"
    ]
    parts[1] = replace(parts[1], is_estimate=True)
    assert "90 B of about 900 B" in format_lines(parts, 79, 24)[-1]
    parts[1] = replace(parts[1], expected_bytes=None)
    assert format_lines(parts, 79, 24)[-1].split() == (
        "2 transfers 90 B 7 B/s 20 s".split()
    )
    parts[1] = replace(parts[1], is_over=True, rate=None)
    assert format_lines(parts, 79, 24)[1].split()[4:] == "40 B finishing 20 s".split()
    assert " 50% " in format_lines(parts, 79, 24)[-1]


NUMBERS = st.integers(0, 10**15)


@given(
    st.lists(
        st.builds(
            Figures,
            title=st.text(st.sampled_from("ab-\u96ea\u0301"), max_size=40),
            size_bytes=NUMBERS,
            expected_bytes=st.none() | NUMBERS,
            rate=st.none() | st.floats(0, 1e12),
            elapsed_s=st.floats(0, 1e6),
            number=st.just(7),
            count=st.integers(0, 100),
            is_over=st.booleans(),
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 150),
    st.integers(1, 6),
)
def test_no_line_is_too_long_and_there_are_not_too_many(parts, columns, rows):
    lines = format_lines(parts, columns, rows)
    assert 1 <= len(lines) <= rows
    assert max(map(width, lines)) <= columns
    if columns >= 40:
        for part, line in zip(parts, lines, strict=False):
            assert part.left_s is None or len(lines) == 1 or "left " in line


def test_there_is_no_rate_before_something_moved_for_a_second():
    meter = Meter(started=0.0, expected_bytes=1000)
    transfer = ShownTransfer(meter, "a", 0.0)
    transfer.sample(2.0)
    assert transfer.figures(2.0).rate is None
    transfer = ShownTransfer(meter, "a", 2.0)
    meter.size_bytes = 100
    transfer.sample(2.5)
    assert transfer.figures(2.5).rate is None
    transfer.sample(3.0)
    assert transfer.figures(3.0).rate == 100


def test_after_a_resume_the_percent_counts_the_part_that_was_there():
    meter = Meter(started=0.0, expected_bytes=1000, resumed_bytes=600)
    transfer = ShownTransfer(meter, "a", 0.0)
    meter.skipped_bytes = 300
    cells = transfer.figures(2.0).cells()
    assert cells[2:4] == ("60%", "reading again 300 B of 600 B")
    meter.size_bytes = 100
    transfer.sample(2.0)
    _, _, percent, amount, rate, left = transfer.figures(2.0).cells()
    assert (percent, amount) == ("70%", "700 B of 1.0 KiB")
    assert (rate, left) == ("50 B/s", "left 0:06")


def test_a_transfer_whose_bytes_have_moved_is_finishing():
    meter = Meter(started=90.0, ended=95.0, size_bytes=50, expected_bytes=100)
    cells = ShownTransfer(meter, "a", 90.0).figures(100.0).cells()
    assert cells == ("a", "", "", "50 B", "finishing", "5.0 s")


def test_the_rate_is_that_of_the_last_seconds():
    meter = Meter()
    shown = ShownTransfer(meter, "a", 0.0)
    assert shown.rate() is None
    for second in range(1, 101):
        meter.size_bytes += 1000 if second <= 90 else 10
        shown.sample(float(second))
        if second == 90:
            assert shown.rate() == 1000
    assert shown.rate() == 10


def test_titles_cannot_steer_the_terminal():
    assert ShownTransfer(Meter(), "a\x1b[2J\nb", 0.0).title == "a\\x1b[2J\\nb"


# The line


class Terminal:
    """A terminal of 60 columns; what is written to it can be read."""

    def __init__(self) -> None:
        self.controller, terminal = pty.openpty()
        os.set_blocking(self.controller, False)
        self.stream = open(terminal, "w", encoding="utf-8")
        self.text = ""

    def read(self) -> str:
        """Return all that was written so far."""
        try:
            self.text += os.read(self.controller, 65536).decode()
        except BlockingIOError:
            pass
        return self.text

    def screen(self) -> list[str]:
        """Return the lines as they can be seen; as many as the cursor was in."""
        lines, row, column = [""], 0, 0
        for part in re.findall(r"\x1b\[\d*[A-Z]|[\r\n]|[^\x1b\r\n]+", self.read()):
            if part == "\r":
                column = 0
            elif part == "\n":
                row += 1
                lines += [""] * (row == len(lines))
            elif part in ("\x1b[J", "\x1b[K"):
                lines[row] = lines[row][:column]
                lines = lines[: row + 1] if part == "\x1b[J" else lines
            elif part[0] == "\x1b":
                row = max(0, row - int(part[2:-1]))  # the top of the screen
            else:
                seen = lines[row].ljust(column)
                column += len(part)
                lines[row] = seen[: column - len(part)] + part + seen[column:]
        return [line.rstrip() for line in lines]

    def titles(self) -> list[str]:
        """Return the first cell of each line."""
        return [line.split("  ")[0] for line in self.screen()]

    def close(self) -> None:
        self.stream.close()
        os.close(self.controller)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    termios.tcsetwinsize(terminal.controller, (24, 60))
    yield terminal
    terminal.close()


def test_one_line_is_rewritten_and_cleared(terminal):
    meter = Meter(expected_bytes=1000, started=time.monotonic())
    title = "home-20261123-101500 -> /mnt/a/very/long/path"
    with Progress(True, terminal.stream, tick_s=0.02) as display:
        with display.add(meter, title):
            wait_until(lambda: "0%" in terminal.read())
            meter.add(500)
            wait_until(lambda: "50%" in terminal.screen()[0])
            assert re.fullmatch(
                r"home-2026.*long/path  50%  500 B of 1.0 KiB .*",
                terminal.screen()[0],
            )
            assert len(terminal.screen()[0]) < 60
        assert terminal.screen() == [""]
    assert terminal.screen() == [""]
    assert "\n" not in terminal.read()


def test_a_shorter_line_leaves_nothing_of_a_longer_one(terminal):
    meter = Meter(expected_bytes=1000, started=time.monotonic())
    with Progress(True, terminal.stream, tick_s=0.02) as display:
        with display.add(meter, "title"):
            wait_until(lambda: "of 1.0 KiB" in terminal.screen()[0])
            meter.ended = meter.started
            wait_until(lambda: terminal.screen() == ["title  0 B  finishing  0.0 s"], 5)


def test_each_of_several_transfers_has_a_line_also_after_other_output(terminal):
    first, second = (Meter(expected_bytes=900, started=time.monotonic()),) * 2
    with Progress(True, terminal.stream, tick_s=0.005) as display:
        with display.add(first, "a"):
            with display.add(second, "b", 2, 3):
                wait_until(lambda: terminal.titles() == ["a", "b", "2 transfers"])
                display.clear()
                terminal.stream.write("other output\n")
                terminal.stream.flush()
                titles = ["other output", "a", "b", "2 transfers"]
                wait_until(lambda: terminal.titles() == titles)
            wait_until(lambda: terminal.titles() == ["other output", "a"])
    assert terminal.screen() == ["other output", ""]


def test_lines_that_a_narrower_terminal_broke_are_replaced_as_a_whole(terminal):
    """Each of three lines of more than 30 columns has two rows on such a terminal."""
    meter = Meter(expected_bytes=900, started=time.monotonic())
    with Progress(True, terminal.stream, tick_s=0.005) as display:
        with display.add(meter, "x" * 40), display.add(meter, "y" * 40):
            wait_until(
                lambda: [len(line) > 30 for line in terminal.screen()] == 3 * [1]
            )
            termios.tcsetwinsize(terminal.controller, (24, 30))
            wait_until(lambda: "\r\x1b[5A" in terminal.read())
            wait_until(lambda: all(len(line) < 30 for line in terminal.screen()))


def test_a_terminal_whose_cursor_cannot_move_up_has_one_line(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    meter = Meter(started=time.monotonic())
    with Progress(True, terminal.stream, tick_s=0.005) as display:
        with display.add(meter, "a"), display.add(meter, "b"):
            wait_until(lambda: terminal.screen()[0].startswith("2 transfers  0 B"))
    assert "\x1b" not in terminal.read() and "\n" not in terminal.read()
    assert terminal.screen() == [""]


def test_log_lines_and_the_line_do_not_mix(terminal):
    root = logging.getLogger()
    handler = logging.StreamHandler(terminal.stream)
    root.addHandler(handler)
    try:
        with Progress(True, terminal.stream, tick_s=0.001) as display:
            with display.add(Meter(), "title"):
                for number in range(3):
                    wait_until(lambda: terminal.screen()[-1].startswith("title"))
                    root.warning("line %d", number)
                wait_until(lambda: terminal.screen()[-1].startswith("title"))
        assert not handler.filters
    finally:
        root.removeHandler(handler)
    assert terminal.screen() == ["line 0", "line 1", "line 2", ""]


def test_after_clearing_the_line_stays_away_for_a_moment(terminal):
    with Progress(True, terminal.stream, tick_s=0.001) as display:
        with display.add(Meter(), "title"):
            wait_until(lambda: terminal.screen()[-1].startswith("title"))
            display.clear()
            time.sleep(0.05)
            assert terminal.screen() == [""]


def test_no_line_is_shown_while_nothing_runs(terminal):
    with Progress(True, terminal.stream, tick_s=0.001):
        time.sleep(0.05)
    assert terminal.read() == ""


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_closed_terminal_ends_nothing():
    stream = io.StringIO()
    stream.close()
    with Progress(True, stream, tick_s=0.001) as display:
        with display.add(Meter(), "title"):
            time.sleep(0.02)


def test_without_a_terminal_a_line_has_eighty_columns():
    stream = io.StringIO()
    with Progress(True, stream, tick_s=0.001) as display:
        with display.add(Meter(), "x" * 200):
            wait_until(stream.getvalue)
    lines = stream.getvalue().split("\r")
    assert {len(line) for line in lines} == {0, 77}  # and room for ^C


# The log


def test_without_a_line_each_transfer_is_logged_now_and_then(caplog):
    stream = io.StringIO()
    with Progress(False, stream, log_interval_s=0.2, tick_s=0.02) as display:
        with display.add(Meter(), "a"), display.add(Meter(expected_bytes=9), "b"):
            wait_until(lambda: len(caplog.records) >= 4)
            time.sleep(0.05)
    assert stream.getvalue() == ""
    assert [record.levelname for record in caplog.records] == 4 * ["INFO"]
    first, second = caplog.messages[:2]
    assert (first, second) == ("a  0 B  0.0 s", "b  0%  0 B of 9 B  0.0 s")


@pytest.mark.parametrize(
    ("line", "silent"),
    [
        (True, False),
        (False, True),
    ],
)
def test_nothing_is_logged_where_it_is_not_wanted(caplog, line, silent):
    stream = io.StringIO()
    with Progress(line, stream, silent=silent, log_interval_s=0.01, tick_s=0.01) as it:
        with it.add(Meter(), "a"):
            time.sleep(0.1)
    assert not caplog.records


@pytest.mark.parametrize("line", [True, False])
def test_what_is_asked_for_comes_at_once_and_once_even_if_silent(caplog, line):
    logging.getLogger(progress.__name__).setLevel(logging.ERROR)
    try:
        with Progress(line, io.StringIO(), silent=True, tick_s=0.01) as display:
            with display.add(Meter(), "a"), display.add(Meter(), "b"):
                request_line()
                wait_until(lambda: len(caplog.records) >= 2)
                time.sleep(0.05)
            request_line()
            wait_until(lambda: len(caplog.records) >= 3)
    finally:
        logging.getLogger(progress.__name__).setLevel(logging.NOTSET)
    assert [message[:8] for message in caplog.messages] == [
        "a  0 B  ",
        "b  0 B  ",
        "no trans",
    ]
