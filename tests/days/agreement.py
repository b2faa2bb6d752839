"""Whether all forms of ``status``, and ``list``, say the same of all places."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from tests.cli.commands.status.test_check import VALUE
from tests.cli.commands.status.test_metrics import of, parse
from tests.cli.commands.status.test_page import Reader
from tests.days.model import NEEDED, Model
from tests.days.reference import time_of
from tests.days.world import KEEP, MAX_AGE, PAIRS, ZONE, Place, World
from tests.support.command_line import must

#: The exit status of ``--check`` for a word that is not fine.
_STATUSES = {"WAITING": 1, "STALE": 1, "FAILED": 2, "NEVER": 2}
#: The exit statuses of ``--check``, the worst last.
_WORST = (0, 3, 1, 2)


class Expected(NamedTuple):
    """What is to be said of a volume at a target.

    :ivar age: of the newest backup, None if there is none.
    :ivar status: the exit status of ``--check`` if it is about this place alone.
    """

    word: str
    age: timedelta | None
    is_fine: bool
    status: int


def _expect(place: Place, word: str, model: Model, now: datetime) -> Expected:
    backups = model.there[place]
    age = now - max(backups) if backups else None
    limit, may_be_away = MAX_AGE.get(place.target), place != NEEDED
    is_old = limit is not None and (age is None or age > limit)
    if word == "AWAY":
        is_fine, status = may_be_away and not is_old, 1 if may_be_away else 3
    else:
        is_fine, status = word in ("OK", "RUNNING"), _STATUSES.get(word, 0)
    return Expected(word, age, is_fine, 0 if is_fine else status)


def check_agreement(
    world: World,
    model: Model,
    away: tuple[str, ...],
    others: Mapping[Place, str],
    *,
    is_at_work: bool = False,
) -> set[str]:
    """Compare every form with the model, and so with each other.

    :param others: words of places that are at work, or were interrupted.
    :param is_at_work: a run is, so the model does not know all that is there.
    :returns: the words that were seen.
    """
    now = world.now
    words = {**{place: model.word(place, now, away) for place in PAIRS}, **others}
    wanted = {place: _expect(place, words[place], model, now) for place in PAIRS}
    metrics, html = world.config.with_name("prom"), world.config.with_name("html")
    status = int(not all(each.is_fine for each in wanted.values()))
    document = must(world.call("status", "--json", "--html", html), status).stdout
    worst = max((each.status for each in wanted.values()), key=_WORST.index)
    line = must(world.call("status", "--check", "--metrics", metrics), worst).stdout
    _check_page(html.read_text(), wanted)
    _check_line(line, wanted)
    entries = _check_document(document, metrics.read_text(), wanted)
    if not is_at_work:
        _check_contents(entries, world, model, words)
    return {*words.values()}


def _check_page(text: str, wanted: Mapping[Place, Expected]) -> None:
    page, bad = Reader(text), [p for p, each in wanted.items() if not each.is_fine]
    page.check_safe()
    (sentence,) = page.texts["h1"]
    start = f"All {len(PAIRS)} are well; the oldest backup is "
    if bad:
        needs = "needs" if len(bad) == 1 else "need"
        start = f"{len(bad)} of {len(PAIRS)} {needs} you: {bad[0]} "
    assert sentence.startswith(start), (sentence, start)
    cells = [text for text in page.texts["span"] if text.isupper()]
    assert cells[: len(PAIRS)] == [each.word for each in wanted.values()]


def _check_line(line: str, wanted: Mapping[Place, Expected]) -> None:
    bad = {(str(p), each.word) for p, each in wanted.items() if not each.is_fine}
    assert {*re.findall(r"(\w+ at \w+) is ([A-Z]+)", line)} == bad
    assert f"{len(PAIRS) - len(bad)} of {len(PAIRS)} fine" in line
    values = {title: age for title, age, *_ in re.findall(VALUE, line)}
    for place, each in wanted.items():
        assert _is_close(values[str(place)].removesuffix("s"), each.age)


def _check_document(
    document: str, metrics: str, wanted: Mapping[Place, Expected]
) -> dict[Place, Any]:
    """Compare the document with the metrics, and return its entries."""
    samples = parse(metrics)
    found = json.loads(document)["places"]
    entries = {Place(one["volume"], one["target"]): one for one in found}
    assert list(entries) == PAIRS
    for place, one in entries.items():
        each, at = wanted[place], (*place, one["place"])
        assert one["status"] == each.word.lower(), (place, one["status"], each)
        assert one["fine"] == samples[of("fine", *at)] == each.is_fine
        assert samples[of("state", *at, state=one["status"])] == 1
        assert _is_close(samples.get(of("newest_age_seconds", *at), "U"), each.age)
        if each.word == "AWAY":
            assert one["newest"] is None and of("complete", *at) not in samples
            continue
        assert one["complete"] == samples[of("complete", *at)]
        age_s = one["newest"]["age_s"] if one["newest"] else "U"
        assert _is_close(age_s, each.age)
    return entries


def _check_contents(
    entries: Mapping[Place, Any],
    world: World,
    model: Model,
    words: Mapping[Place, str],
) -> None:
    """Compare the backups that ``list`` shows with the model and with the document."""
    listed = {
        one["place"]: {
            time_of(each["name"], ZONE) for each in one["snapshots"] if each["complete"]
        }
        for one in json.loads(world.call("list", "--json").stdout)["places"]
    }
    for volume in KEEP:
        source = str(world.disks[""].path / volume)
        assert listed[source] == model.there[Place(volume, "")]
    for place, one in entries.items():
        if words[place] == "AWAY":
            assert not listed.get(one["place"])
            continue
        there = model.there[place]
        assert listed[one["place"]] == there
        assert one["complete"] == len(there)
        if there:
            assert time_of(one["newest"]["name"], ZONE) == max(there)


def _is_close(seconds: str | float, age: timedelta | None) -> bool:
    """Return whether an age that is shown is right, or ``U`` for none."""
    if age is None:
        return seconds == "U"
    return abs(float(seconds) - age.total_seconds()) < 60
