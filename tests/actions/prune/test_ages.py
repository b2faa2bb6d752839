"""What a place answers about the age of its snapshots."""

from datetime import datetime, timezone
from uuid import UUID

import pytest

from btrfs_backup_ng.actions.prune.ages import parse_times
from btrfs_backup_ng.btrfs.parse import OutputNotUnderstood

ONE, TWO = UUID(int=1), UUID(int=2)


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
