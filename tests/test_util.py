"""What every floor uses: sizes, spans, safe text, and files that are never torn."""

import functools
import os
import signal
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btrfs_backup_ng.__util__ import (
    GIB,
    KIB,
    MIB,
    BackupError,
    Interrupted,
    UsageError,
    attempt,
    format_size,
    format_span,
    parse_size,
    parse_span,
    visible,
)

#: ``Bidi_Control`` of the Unicode character database.
STEERS_DIRECTION = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e" + "".join(
    map(chr, range(0x2066, 0x206A))
)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (10 * MIB, "10.0 MiB"),
        (int(41.2 * GIB), "41.2 GiB"),
        (999.9 * MIB, "999.9 MiB"),
        (1000.3 * MIB, "1.0 GiB"),
        (1024 * GIB, "1.0 TiB"),
        (1024**5, "1.0 PiB"),
        (2000 * 1024**5, "2000.0 PiB"),
    ],
)
def test_sizes_are_written_for_people(size, text):
    assert format_size(size) == text


@given(st.integers(0, 1024**5 - 1) | st.floats(0, 1024.0**5 * 0.999))
def test_no_size_has_more_than_three_digits_before_the_point(size):
    number, unit = format_size(size).split()
    assert float(number) < 1000 or unit == "PiB"


@given(st.integers(1, 1024**5))
def test_a_written_size_is_within_a_twentieth_unit(size):
    number, unit = format_size(size).split()
    factor = KIB ** ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].index(unit)
    assert abs(float(number) * factor - size) <= factor * 0.0501


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("10M", 10 * MIB),
        ("10MiB", 10 * MIB),
        ("10 MB", 10 * MIB),
        ("1.5G", GIB * 3 // 2),
        ("2k", 2 * KIB),
        ("1T", 1024 * GIB),
        (" 7B ", 7),
        ("10m", 10 * MIB),
        ("10 mib", 10 * MIB),
        ("1.5 gb", GIB * 3 // 2),
        ("2P", 2048 * 1024 * GIB),
    ],
)
def test_sizes_are_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "0", "0M", "-1", "M", "1,5G", "1e9", "10X", "1.M", ".5M", "0.0001", "inf"]
    + ["nan", "10M10", "1 0M", "1_0", "+5", "10Mb/s"],
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("90 sec", 90),
        ("1h", 3600),
        ("1 hour", 3600),
        ("2 HOURS", 7200),
        ("1.5h", 5400),
        ("90m", 5400),
        ("90 min", 5400),
        ("1h30m", 5400),
        ("1 day 12 hours", 129600),
        ("14d", 14 * 86400),
        ("2w", 14 * 86400),
        ("2 weeks", 14 * 86400),
        ("1y", 365 * 86400),
        (" 0s ", 0),
    ],
)
def test_spans_are_read(text, seconds):
    assert parse_span(text).total_seconds() == seconds


@pytest.mark.parametrize(
    "text", ["", " ", "7", "1x", "h", "-1h", "1e3s", "1hm", "1 h 3", "1month", "1h,2m"]
)
def test_what_is_no_span_is_refused(text):
    with pytest.raises(ValueError):
        parse_span(text)


@given(st.text())
def test_any_text_is_a_size_or_a_value_error(text):
    try:
        assert parse_size(text) > 0
    except ValueError:
        pass


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.44, "0.4 s"),
        (9.9, "9.9 s"),
        (10, "10 s"),
        (59, "59 s"),
        (60, "1:00"),
        (125, "2:05"),
        (3599.9, "59:59"),
        (3600, "1:00:00"),
        (3725, "1:02:05"),
        (360000, "100:00:00"),
    ],
)
def test_spans_are_written_for_people(seconds, text):
    assert format_span(seconds) == text


@given(st.floats(0, 70))
def test_no_span_says_sixty_seconds(seconds):
    assert format_span(seconds) not in ("60 s", "10.0 s")


def test_every_code_point_that_steers_a_terminal_is_escaped():
    for code in range(sys.maxunicode + 1):
        letter = chr(code)
        shown = visible(letter)
        if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp"):
            assert shown != letter and shown.isascii() and shown.isprintable(), code
        elif letter in STEERS_DIRECTION:
            assert shown.isascii(), hex(code)
        else:
            assert shown == letter, hex(code)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text", "plain text"),
        ("größe 雪 🐄", "größe 雪 🐄"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("\x7f\x80\x9b", "\\x7f\\x80\\x9b"),
        (os.fsdecode(b"\xff\x80"), "\\xff\\x80"),
        ("\u2028\u202e", "\\u2028\\u202e"),
        ("\ud800", "\\ud800"),
    ],
)
def test_text_from_outside_is_made_visible(text, shown):
    assert visible(text) == shown


@given(st.text() | st.binary().map(os.fsdecode))
def test_what_is_visible_can_be_printed_on_one_line_and_stays_as_it_is(text):
    shown = visible(text)
    assert len(shown.splitlines()) <= 1
    shown.encode("utf-8")
    assert visible(shown) == shown


def test_an_attempt_gives_the_error_but_never_swallows_a_signal_or_a_bug():
    error = UsageError("no")

    def fail(what):
        raise what

    assert attempt(lambda: 5) == 5
    assert attempt(lambda: fail(error)) is error
    for what in (Interrupted(signal.SIGTERM), KeyError("bug")):
        with pytest.raises(type(what)):
            attempt(functools.partial(fail, what))
    assert isinstance(error, BackupError) and error.exit_status == 2
    assert Interrupted(signal.SIGINT).exit_status == 130
    assert "SIGTERM" in Interrupted(signal.SIGTERM).message
