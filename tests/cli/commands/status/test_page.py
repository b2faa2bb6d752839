"""The page: complete, small, one file, and no name can be an element of it."""

from __future__ import annotations

import re
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any
from uuid import UUID

import pytest

from btrfs_backup_ng.actions.status import Word
from btrfs_backup_ng.cli.commands.status.page.charts import KINDS
from btrfs_backup_ng.cli.commands.status.page.document import page
from btrfs_backup_ng.cli.commands.status.page.gather import daily_bytes, runs_at_once
from btrfs_backup_ng.cli.commands.status.page.sections import verdict
from btrfs_backup_ng.cli.commands.status.page.view import (
    Checked,
    Disk,
    Dot,
    Lane,
    PageView,
    Problem,
    Restorable,
)
from btrfs_backup_ng.core.model import Snapshot
from btrfs_backup_ng.core.value import replace
from btrfs_backup_ng.session.history import PastRun, Record, runs_of
from tests.support.statuses import HOSTILE, NOW, entry

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
#: Elements without an end.
VOID = ("meta",)
SECTIONS = "Freshness|What stays|Transfers|Space|Verified|Problems|Restore".split("|")


class Reader(HTMLParser):
    """Reads a page as strictly as XML, but for the elements that have no end.

    :ivar found: name and attributes of each element.
    :ivar texts: the text in each kind of element, e.g. ``title``.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)

    def classes(self) -> set[str]:
        return {
            word for _, each in self.found for word in (each.get("class") or "").split()
        }

    def check_safe(self) -> None:
        """Check that nothing runs, or is loaded."""
        allowed = set(
            "html head meta title style body header main footer section div p h1 h2 h3"
            " table thead tbody tr th td span ul li svg g rect circle line text pre"
            " details summary dl dt dd".split()
        )
        assert {tag for tag, _ in self.found} <= allowed
        for _, attributes in self.found:
            assert not {"src", "href", "style"} & attributes.keys()
            assert not [name for name in attributes if name.startswith("on")]
        (style,) = self.texts["style"]
        assert "url(" not in style and "@import" not in style


def snapshot(name: str, age: timedelta, number: int) -> Snapshot:
    return Snapshot(name, NOW - age, UUID(int=number), None, None, number)


def view(name: str = "x", count: int = 3, lanes: int = 1) -> PageView:
    """Return a page on which all texts are one name."""
    dots = [
        Dot(snapshot(name, number * HOUR, number), reasons, number == 1)
        for number in range(count, 0, -1)
        for reasons in [(name, "daily 2026-11-29") if number % 3 else ()]
    ]
    run = PastRun(NOW, name, "", 1, 1 << 20, 3.0, (name,))
    line = f"btrfs-backup-ng restore {name}"
    return PageView(
        host=name,
        now=NOW,
        entries=[
            entry(Word.OK, HOUR, place=name, volume=name, target=name, max_age=DAY),
            entry(Word.STALE, 2 * DAY, volume="v", target=name, max_age=DAY),
        ],
        lanes=[Lane(name, name, dots, name)] * lanes,
        runs=[run] * 60,
        disks=[Disk((name,), 1 << 30, 1 << 31, 1e6)],
        next_backups={name: name},
        checks=[Checked(name, 3, {"data": (2, NOW)}, (name,))],
        problems=[Problem(name, (name,), (f"Do:  {line}",))],
        restorable=[Restorable(name, [(name, NOW, line)] * 24, count, name)] * lanes,
    )


def test_all_sections_are_there_in_their_order():
    text = page(view())
    read = Reader(text)
    read.check_safe()
    heads = [head for head in read.texts["h2"]]
    assert [word for head in heads for word in SECTIONS if head.startswith(word)] == (
        SECTIONS
    )
    assert read.texts["h1"] == [
        "1 of 2 needs you: v at x has had no new backup for 2 days."
    ]
    assert {*KINDS, "bar", "seconds", "failed", "late", "used"} <= read.classes()
    assert "btrfs-backup-ng restore x" in read.texts["pre"]
    hovers = read.texts["title"]
    assert any("x, 2 h ago: kept (x, daily 2026-11-29)" in each for each in hovers)
    assert any("to be deleted" in each for each in hovers)
    assert any("needed as parent" in each for each in hovers)
    assert "prefers-color-scheme: dark" in text and "user-select: all" in text


def test_no_name_is_an_element_of_the_page():
    text = page(view(HOSTILE))
    text.encode("utf-8")
    read = Reader(text)
    read.check_safe()
    kinds = [kind for kind, _ in read.found]
    assert kinds == [kind for kind, _ in Reader(page(view("plain"))).found]
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f]", text)
    shown = r"a" + "\"b'c" + r"\d\ne|f=g<script>&\x1b[31m\xff"
    assert shown in read.texts["h3"]


def test_ten_thousand_snapshots_make_a_small_page():
    for lanes, count in ((1, 10_000), (12, 10_000 // 12)):
        name = "laptop-20261129-120000" + "n" * 30
        size = len(page(view(name, count, lanes)).encode())
        assert size < 300_000, (lanes, size)


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ([], "Nothing has been backed up yet."),
        ([entry(Word.OK, HOUR)], "All is well; the newest backup is 60 min old."),
        (
            [entry(Word.OK, HOUR), entry(Word.RUNNING, 3 * HOUR)],
            "All 2 are well; the oldest backup is 3 h old.",
        ),
        ([entry(Word.NEVER)], "/mnt/usb has no backup yet."),
        (
            [entry(Word.FAILED, HOUR), entry(Word.AWAY), entry(Word.OK, HOUR)],
            "2 of 3 need you: /mnt/usb failed in its last run, and 1 more.",
        ),
    ],
)
def test_the_verdict_is_one_sentence(entries: list[Any], sentence: str):
    assert verdict(entries, NOW) == sentence


def test_the_transfers_of_a_run_are_one_and_space_has_a_pace():
    one = Record(NOW - 9 * DAY, "/home", "f", "/a", "n", "n", size_bytes=30)
    records = [
        replace(one, time=NOW - 40 * DAY, size_bytes=10**9),
        one,
        replace(one, destination="/b", size_bytes=60, elapsed_s=2.0),
        replace(one, destination="/b", name="", error="no luck"),
        replace(one, destination="", size_bytes=None),
    ]
    old, run = runs_at_once(runs_of(records))
    assert (run.sent, run.size_bytes, run.elapsed_s) == (2, 90, 2.0)
    assert run.errors == ("no luck",) and old.size_bytes == 10**9
    assert daily_bytes(records, ["/a", "/b"], NOW) == 90 / 30
    assert daily_bytes(records[1:], ["/a"], NOW) == 30 / 9
    assert daily_bytes(records[1:], ["/c"], NOW) is None
    disk = Disk(("/a",), size_free=600, size_used=5, daily_bytes=3.0)
    assert disk.lasts == 200 * DAY and replace(disk, daily_bytes=None).lasts is None
