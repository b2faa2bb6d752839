"""The columns of a text on a terminal, and what is done to make it fit."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btrfs_backup_ng.core.columns import (
    broken,
    clipped,
    folded,
    padded,
    shortened,
    width,
    wrap,
)

#: Narrow, wide, combining, a syllable in parts, an emoji of several characters.
TEXTS = st.text(st.sampled_from("ab- ,\u00e4\u96ea\u0301\u1112\u1161\U0001f469\u200d"))


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("", 0),
        ("abc", 3),
        ("\u00e4\u00ad", 2),
        ("a\u0301", 1),  # decomposed: a, and the accent
        ("\u96ea\u96ea", 4),
        ("\uff41", 2),  # full-width a
        ("\uff71", 1),  # half-width katakana
        ("\u1112\u1161\u11ab", 2),  # one syllable in three parts
        ("\u200b\ufeff", 0),
        ("\u0600\u06dd\U000110bd", 3),  # of the category "format", but drawn
        ("\U0001f600", 2),
        ("\x1b[31mdamaged\x1b[0m", 7),
    ],
)
def test_a_text_has_the_columns_that_a_terminal_gives_it(text: str, columns: int):
    assert width(text) == columns


def test_padding_counts_columns_not_characters():
    assert padded("\u96ea", 4) + "|" == "\u96ea  |"
    assert padded("1.0 GiB", 9, right=True) == "  1.0 GiB"


@given(TEXTS, st.integers(0, 40))
def test_a_shortened_text_fits_and_keeps_both_ends(text: str, columns: int):
    short = shortened(text, columns)
    assert width(short) <= columns
    if width(text) <= columns:
        assert short == text
    elif columns >= 7:
        head, tail = short.split("...", 1)
        assert text.startswith(head) and text.endswith(tail)


def test_the_middle_of_a_text_goes_first():
    name = "home-20261123-101500 -> /mnt/usb"
    assert shortened(name, 20) == "home-202... /mnt/usb"


@given(TEXTS, st.integers(1, 40), st.integers(1, 40))
def test_a_wrapped_text_loses_nothing_and_fits(text: str, first: int, rest: int):
    lines = list(wrap(text, first, rest))
    assert " ".join(lines).split() == text.split()
    for line, columns in zip(lines, [first, *[rest] * len(lines)]):
        assert width(line) <= columns or " " not in line.strip()


def test_an_amount_and_its_unit_are_one_word():
    assert list(wrap("about 285 B since 11.0 MiB", 9, 9)) == [
        "about",
        "285 B",
        "since",
        "11.0 MiB",
    ]


def test_further_lines_are_indented_less_where_a_word_needs_it():
    for word, indent in (("place", 7), ("longplace", 5), ("muchtoolongplace", 7)):
        lines = broken(f"OK  now the {word}", 14, 7)
        assert lines == ["OK  now the", " " * indent + word]


def test_a_folded_command_is_the_same_command():
    """Each word is of the shell: in quotes, with blanks, with a backslash."""
    words = r"""'a  b' "c \" d" e\ f "$(echo g  h)" 'it'"'"'s' plain"""
    command = f"printf '%s|' {words}"
    whole = subprocess.run(["sh", "-c", command], capture_output=True, check=True)
    assert folded(command, None, 4) == folded(command, 80, 4) == [command]
    scripts = {"\n".join(folded(command, n, 4)) for n in range(1, 80)}
    assert len(scripts) > 5
    for script in scripts:
        done = subprocess.run(["sh", "-c", script], capture_output=True, check=True)
        assert done.stdout == whole.stdout
    assert folded("  mv -- 'a b' c", 12, 6) == [
        "  mv -- \\",
        "      'a b' \\",
        "      c",
    ]


def test_the_first_line_keeps_its_indent():
    assert list(wrap("  one two three", 9, 5)) == ["  one two", "three"]


def test_parts_that_do_not_fit_are_left_out_and_the_first_never_is():
    parts = ["complete", "also at /home", "being sent to /mnt/usb"]
    assert clipped(parts, 47) == "complete, also at /home, being sent to /mnt/usb"
    assert clipped(parts, 46) == "complete, also at /home, ..."
    assert clipped(parts, 28) == "complete, also at /home, ..."
    assert clipped(parts, 27) == clipped(parts, 3) == "complete, ..."
    assert clipped(parts[:1], 3) == "complete"
