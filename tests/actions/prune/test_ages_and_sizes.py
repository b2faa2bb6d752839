"""What a place answers about the age of its snapshots, and the space of each."""

from datetime import datetime, timezone
from uuid import UUID

import pytest

from btrfs_backup_ng.actions.prune.ages_and_sizes import Space, parse_space, parse_times
from btrfs_backup_ng.btrfs.parse import OutputNotUnderstood

ONE, TWO = UUID(int=1), UUID(int=2)
HEADER = "     Total   Exclusive  Set shared  Filename\n"


def line(number, uuid, when, name):
    return (
        f"ID {number} gen 7 cgen 7 top level 5 otime {when} uuid {uuid} path {name}\n"
    )


def answer(*lines, shown="2026-07-01 12:00:00 +0000", before=""):
    listed, backwards = "".join(lines), "".join(reversed(lines))
    show = f"{before}x\n\tName: \t\t\tx\n\tCreation time: \t\t{shown}\n"
    return f"{listed}\0{backwards}\0{show}".encode()


def test_times_are_in_the_zone_that_the_place_shows():
    lines = [
        line(257, ONE, "2026-07-01 12:00:00", "a"),
        line(258, TWO, "2026-07-01 13:30:00", "b"),
    ]
    noon = datetime(2026, 7, 1, 12, tzinfo=timezone.utc)
    later = noon.replace(hour=13, minute=30)
    assert parse_times(answer(*lines)) == {ONE: noon, TWO: later}
    # A doas that drops TZ answers in the time of that machine.
    found = parse_times(answer(*lines, shown="2026-07-01 12:00:00 +0200"))
    assert found == {ONE: noon.replace(hour=10), TWO: noon.replace(hour=11, minute=30)}


def test_a_name_that_looks_like_a_line_forges_no_time():
    forged = line(300, TWO, "1999-01-01 00:00:00", "c")
    lines = [
        line(257, ONE, "2026-07-01 12:00:00", f"a\n{forged[:-1]}"),
        line(258, UUID(int=3), "2026-07-01 12:00:00", "b"),
    ]
    assert TWO not in parse_times(answer(*lines))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0\0",
        b"\0\0\tCreation time: \t\tnever\n",
        answer(line(257, ONE, "2026-07-01 12:00:00", "a"), shown="2026-07-01 12:00:00"),
        answer(line(257, ONE, "2026-07-01 12:00:01", "a")),
        answer(line(257, ONE, "2026-99-01 12:00:00", "a")),
        answer(line(257, "?", "2026-07-01 12:00:00", "a")),
        answer(
            line(257, ONE, "2026-07-01 12:00:00", "a"),
            before="\tCreation time: \t\t2026-07-01 12:00:00 +0900\n",
        ),
    ],
)
def test_what_is_not_understood_is_no_time(raw):
    with pytest.raises(OutputNotUnderstood):
        parse_times(raw)


def test_du_is_read_for_each_name_in_turn():
    names = ["s1", "s2\nx", "s3"]
    text = f"d{HEADER}  31  3145728   0  ./s1\n  5  7  2097152  ./s2\nx\n"
    raw = (text + HEADER + "  1  0  -  ./s3\n").encode()
    assert parse_space(raw, names, [1, 2, 3]) == [
        Space(31, 3145728),
        Space(5, 7),
        Space(1, 0),
    ]
    # Cut by its time limit, or by a snapshot that is gone: the rest is not known.
    assert parse_space(raw[:60], names, [1, 2, 3]) == [None] * 3
    assert parse_space(raw, ["s1", "other", "s3"], [1, 2, 3]) == [
        Space(31, 3145728),
        None,
        None,
    ]
    assert parse_space(b"d", names, [1, 2, 3]) == [None] * 3
    assert parse_space(b"", names, [1, 2, 3]) == [None] * 3


def test_quota_groups_are_found_by_their_ids():
    raw = (
        b"qQgroupid    Referenced    Exclusive   Path\n"
        b"--------    ----------    ---------   ----\n"
        b"0/5              16384        16384   <toplevel>\n"
        b"0/257          3162112      3145728   s1\n"
        b"0/258          2113536        16384   s2\n0/259    1    1   forged\n"
        b"0/259          2113536        16384   s3\n"
        b"1/258          9999999       999999   <2 member qgroups>\n"
    )
    names = ["s1", "s2", "s3", "s4"]
    assert parse_space(raw, names, [257, 258, 259, 260]) == [
        Space(3162112, 3145728),
        Space(2113536, 16384),
        None,
        None,
    ]
