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

import pytest

from btrfs_backup_ng.__util__ import GIB, MIB
from btrfs_backup_ng.process.pipeline import Meter
from btrfs_backup_ng.session import progress
from btrfs_backup_ng.session.progress import (
    Progress,
    ShownTransfer,
    cells,
    fit,
    format_facts,
    format_line,
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


@pytest.mark.parametrize(
    ("size", "expected", "rate", "elapsed_s", "facts"),
    [
        (
            41.2 * GIB,
            66 * GIB,
            312.4 * MIB,
            125,
            "  62%  41.2 GiB of 66.0 GiB  312.4 MiB/s  2:05  ETA 1:21",
        ),
        (41.2 * GIB, None, 312.4 * MIB, 125, "  41.2 GiB  312.4 MiB/s  2:05"),
        (0, 10, 0, 0, "  0%  0 B of 10 B  0 B/s  0.0 s"),
        (0, 0, 0, 0, "  0 B  0 B/s  0.0 s"),
        (10, 10, 5, 2, "  99%  10 B of 10 B  5 B/s  2.0 s"),
        (15, 10, 5, 2, "  99%  15 B of 10 B  5 B/s  2.0 s"),
        (5, 10, 0, 60, "  50%  5 B of 10 B  0 B/s  1:00"),
    ],
)
def test_the_figures_of_a_transfer(size, expected, rate, elapsed_s, facts):
    assert format_facts(int(size), expected, rate, elapsed_s) == facts


def transfer(
    title: str, size: int, expected: int | None, elapsed_s: float
) -> ShownTransfer:
    """A transfer at time 100 that moved evenly from its start."""
    meter = Meter(expected_bytes=expected, started=100.0 - elapsed_s)
    shown = ShownTransfer(meter, title, 100.0 - elapsed_s)
    meter.size_bytes = size
    shown.sample(100.0)
    return shown


def test_the_line_of_one_transfer():
    line = format_line([transfer("home -> /mnt", 50, 100, 10.0)], 100.0)
    assert line == ("home -> /mnt", "  50%  50 B of 100 B  5 B/s  10 s  ETA 10 s")


def test_several_transfers_share_a_line():
    both = [transfer("a", 50, 100, 10.0), transfer("b", 40, 80, 20.0)]
    facts = "  50%  90 B of 180 B  7 B/s  20 s  ETA 13 s"
    assert format_line(both, 100.0) == ("2 transfers", facts)
    both[1].meter.expected_bytes = None
    assert format_line(both, 100.0) == ("2 transfers", "  90 B  7 B/s  20 s")


def test_a_transfer_whose_bytes_have_moved_is_finishing():
    done, other = transfer("a", 50, 100, 10.0), transfer("b", 40, 80, 20.0)
    done.meter.ended = 95.0
    assert format_line([done], 100.0) == ("a", "  50 B  finishing  5.0 s")
    assert format_line([done, other], 100.0)[0] == "b"


def test_the_rate_is_that_of_the_last_seconds():
    meter = Meter()
    shown = ShownTransfer(meter, "a", 0.0)
    assert shown.rate() == 0
    for second in range(1, 101):
        meter.size_bytes += 1000 if second <= 90 else 10
        shown.sample(float(second))
        if second == 90:
            assert shown.rate() == 1000
    assert shown.rate() == 10


def test_titles_cannot_steer_the_terminal():
    assert ShownTransfer(Meter(), "a\x1b[2J\nb", 0.0).title == "a\\x1b[2J\\nb"


@pytest.mark.parametrize("title", ["", "short", "x" * 30 + "y" * 30, "\u96ea" * 40])
def test_a_line_fits(title):
    facts = "  62%  1.0 GiB of 2.0 GiB"
    for columns in range(1, 120):
        line = fit(title, facts, columns)
        assert cells(line) <= columns
        if columns >= cells(title) + len(facts):
            assert line == title + facts
        elif columns >= 12 + len(facts):
            assert line.endswith(facts)


def test_the_middle_of_a_title_goes_first():
    assert (
        fit("home-20261123-101500 -> /mnt/usb", "  62%", 25)
        == "home-202... /mnt/usb  62%"
    )


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
        """Return the lines as they can be seen."""
        lines = []
        for line in self.read().split("\n"):
            seen = ""
            for part in line.split("\r"):
                seen = part + seen[len(part) :]
            lines.append(seen.rstrip())
        return lines

    def close(self) -> None:
        self.stream.close()
        os.close(self.controller)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
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
                r"home\.\.\./path  50%  500 B of 1000 B .*", terminal.screen()[0]
            )
            assert len(terminal.screen()[0]) < 60
        assert terminal.screen() == [""]
    assert terminal.screen() == [""]
    assert "\n" not in terminal.read()


def test_a_shorter_line_leaves_nothing_of_a_longer_one(terminal):
    meter = Meter(expected_bytes=1000, started=time.monotonic())
    with Progress(True, terminal.stream, tick_s=0.02) as display:
        with display.add(meter, "title"):
            wait_until(lambda: "of 1000 B" in terminal.screen()[0])
            meter.ended = meter.started
            pattern = re.compile("title  0 B  finishing  0.0 s")
            wait_until(lambda: pattern.fullmatch(terminal.screen()[0]), 5)


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
    assert {len(line) for line in lines} == {0, 79}


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
    assert re.fullmatch(r"a  0 B  0 B/s  0.0 s", first)
    assert re.fullmatch(r"b  0%  0 B of 9 B  0 B/s  0.0 s", second)


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
