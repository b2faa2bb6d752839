"""Tables on terminals of any width: no row is broken, and no text is lost."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btrfs_backup_ng.__util__ import visible
from btrfs_backup_ng.cli.table import ALL, Cell, Column, lay_out
from btrfs_backup_ng.core.columns import width

COLUMNS = [
    Column("AGE"),
    Column("NAME", is_name=True),
    Column("TIME", leaves=ALL),
    Column("SENT", leaves=20, is_right=True),
    Column("STATE"),
]
TIME = "2026-11-26 10:15:00 +0000"
ROWS: list[tuple[Cell, ...]] = [
    ("2 days", "home-20261126-101500", TIME, "41.2 GiB", ("complete", "also at /mnt")),
    ("26 h", "home-20261127-101500", TIME, "", ("damaged (cut short)",)),
]


def drawn(room: int | None, rows=ROWS, *, clips: bool = True) -> list[str]:
    """Return the lines of a table."""
    return list(lay_out(rows, 2, COLUMNS, room, clips=clips))


def test_where_there_is_room_all_is_shown():
    lines = drawn(120)
    assert lines == drawn(None)
    assert lines == [
        "  AGE     NAME                  TIME                           SENT  STATE",
        f"  2 days  home-20261126-101500  {TIME}  41.2 GiB  complete, also at /mnt",
        f"  26 h    home-20261127-101500  {TIME}            damaged (cut short)",
    ]


@pytest.mark.parametrize(
    ("room", "heads"),
    [
        (91, "AGE NAME TIME SENT STATE"),
        (90, "AGE NAME SENT STATE"),
        (62, "AGE NAME SENT STATE"),
        (61, "AGE NAME STATE"),
        (51, "AGE NAME STATE"),
    ],
)
def test_columns_are_dropped_in_their_order(room: int, heads: str):
    head, *lines = drawn(room)
    assert head.split() == heads.split()
    assert len(lines) == len(ROWS)
    assert max(map(width, lines)) <= room


def test_of_a_text_parts_are_left_out_or_it_has_further_lines():
    start = "  2 days  home-20261126-101500  "
    assert drawn(50)[1] == f"{start}complete, ..."
    whole = drawn(50, clips=False)
    assert whole[1:3] == [f"{start}complete, also at", f"{' ' * len(start)}/mnt"]
    assert drawn(48)[2:] == [
        "  26 h    home-20261127-101500  damaged (cut",
        f"{' ' * len(start)}short)",
    ]


def test_a_name_that_is_too_long_has_a_line_of_its_own():
    name = f"{'very-' * 12}long-20261125-101500"
    lines = drawn(60, [("3 days", name, TIME, "", ("complete",)), *ROWS])
    assert lines[1:4] == [
        f"  3 days  {name}",
        f"{' ' * 32}complete",
        "  2 days  home-20261126-101500  complete, also at /mnt",
    ]


def test_columns_and_headings_without_any_text_are_left_out():
    rows: list[tuple[Cell, ...]] = [("1 h", "name", "", "", ("complete",))]
    assert drawn(None, rows) == ["  AGE  NAME  STATE", "  1 h  name  complete"]
    assert list(lay_out([("a", "b"), ("aa", "c")], 2, (), None)) == [
        "  a   b",
        "  aa  c",
    ]
    assert drawn(80, []) == []


def test_numbers_end_below_each_other():
    columns = [Column("NAME"), Column("SIZE", is_right=True)]
    rows = [("a", "1.0 GiB"), ("b", "512 B")]
    assert list(lay_out(rows, 0, columns, None)) == [
        "NAME     SIZE",
        "a     1.0 GiB",
        "b       512 B",
    ]


@pytest.mark.parametrize(
    ("room", "lines"),
    [
        (51, ["  id  2 h  also at {}"]),
        (43, ["  id  2 h  also at", "           {}"]),
        (42, ["  id  2 h", "      also at", "      {}"]),
        (37, ["  id, 2 h, also at", "    {}"]),
        (35, ["  id  2 h  also at", "           {}"]),  # too narrow for any layout
    ],
)
def test_a_text_with_a_long_word_stands_below_its_row(room: int, lines: list[str]):
    place = "ssh://nas/srv/backup/laptop/home"
    rows = [("id", "1 h", "complete"), ("id", "2 h", f"also at {place}")]
    first, *others = lay_out(rows, 2, [Column(), Column(), Column()], room)
    assert first == "  id  1 h  complete"
    assert others == [line.format(place) for line in lines]


#: Narrow, wide, combining; and long ones.
WORDS = st.text(st.sampled_from("ab-\u96ea\u0301"), max_size=30) | st.builds(
    "/mnt".__mul__, st.integers(0, 12)
)
TEXTS = st.lists(WORDS, min_size=1, max_size=4).map(" ".join)
ANY_ROWS = st.lists(
    st.tuples(WORDS, WORDS, WORDS, WORDS, st.lists(TEXTS, min_size=1).map(tuple)),
    min_size=1,
    max_size=5,
)


@given(ANY_ROWS, st.integers(20, 100), st.booleans())
def test_every_line_fits_unless_a_word_does_not(rows, room: int, clips: bool):
    """The least that stands beside a word are the indent and a comma."""
    words = [word for *cells, parts in rows for word in " ".join(parts).split()]
    words += [word for row in rows for word in row[:-1]]
    if 4 + max(map(width, words), default=0) + 1 <= room:
        for line in drawn(room, rows, clips=clips):
            assert width(line) <= room, line


def any_name(text: str) -> str:
    """Return a name of at most 255 bytes, as the file system may have it."""
    return text.encode(errors="surrogatepass")[:255].decode(errors="surrogateescape")


@given(st.lists(st.text().map(any_name), min_size=1), st.integers(1, 150))
def test_no_name_breaks_a_row_or_reaches_the_terminal_raw(names, room: int):
    """Line breaks, escape codes, marks that reorder text, bytes that are not UTF-8."""
    rows = [("1 h", visible(name), TIME, "", ("complete",)) for name in names]
    for line in drawn(room, rows):
        assert all(
            unicodedata.category(one) not in ("Cc", "Cs", "Zl", "Zp") for one in line
        )
        assert not set(line) & set("\u061c\u200e\u200f\u202d\u202e\u2066\u2067\u2068")
    assert len(drawn(None, rows)) == len(rows) + 1


@given(ANY_ROWS, st.integers(1, 150))
def test_without_clipping_no_word_of_a_text_is_lost(rows, room: int):
    text = " ".join(drawn(room, rows, clips=False)).replace(",", " ")
    found = text.split()
    for *_, parts in rows:
        for word in " ".join(parts).split():
            assert word in found
