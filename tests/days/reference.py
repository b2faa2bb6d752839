"""What policies keep, and which messages are sent, as the pages in docs/ say it.

It is slow and simple, and knows nothing of the program: only texts and times.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import datetime, timedelta, timezone
from typing import NamedTuple
from zoneinfo import ZoneInfo

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
#: Of a day and of a week.
_DAYS = {"d": 1, "w": 7}
WEEKDAYS = "monday tuesday wednesday thursday friday saturday sunday".split()


def time_of(name: str, zone: ZoneInfo) -> datetime:
    """Return the time in the name of a snapshot, in UTC.

    It is local time; in an hour that comes twice, the second one has its offset.
    """
    found = re.fullmatch(r".*-(\d{8}-\d{6})([+-]\d{4})?", name)
    assert found, name
    if found[2]:
        exact = datetime.strptime(found[1] + found[2], "%Y%m%d-%H%M%S%z")
        return exact.astimezone(timezone.utc)
    local = datetime.strptime(found[1], "%Y%m%d-%H%M%S").replace(tzinfo=zone)
    return local.astimezone(timezone.utc)


class Rules:
    """A policy like ``24h 7d latest=3 min=2d whole-weeks week=sunday day=5h``."""

    def __init__(self, text: str, zone: ZoneInfo) -> None:
        self._words, self._zone = text.split(), zone
        self._first_hour = int(self._value("day=").removesuffix("h") or 0)
        self._first_day = WEEKDAYS.index(self._value("week=") or "monday")
        self._whole_weeks = "whole-weeks" in self._words

    def _value(self, start: str) -> str:
        found = (word for word in self._words if word.startswith(start))
        return next(found, start).removeprefix(start)

    def _day(self, moment: datetime) -> datetime:
        local = moment.astimezone(self._zone).replace(tzinfo=None)
        local -= self._first_hour * HOUR
        return local.replace(hour=0, minute=0, second=0, microsecond=0)

    def _week(self, moment: datetime) -> datetime:
        day = self._day(moment)
        return day - (day.weekday() - self._first_day) % 7 * DAY

    def _month(self, moment: datetime) -> int:
        local = moment.astimezone(self._zone)
        where = self._week(moment) if self._whole_weeks else local
        return where.year * 12 + where.month

    def _period(self, unit: str, moment: datetime) -> int:
        """Return the number of a moment's period; the next one has the next number."""
        if unit == "h":
            return int(moment.timestamp()) // 3600
        if unit == "m":
            return self._month(moment)
        begin = self._day(moment) if unit == "d" else self._week(moment)
        return (begin - datetime(2000, 1, 3)).days // _DAYS[unit]

    def _oldest(self, unit: str, reach: int, now: datetime) -> int:
        """Return the number of the period that is so many back; of months, calendar's.

        The current one comes on top.
        """
        if unit == "m":
            local = now.astimezone(self._zone)
            return local.year * 12 + local.month - reach
        return self._period(unit, now) - reach

    def keep(self, moments: Collection[datetime], now: datetime) -> set[datetime]:
        """Return the moments of which the snapshots are kept."""
        kept = set(sorted(moments)[-int(self._value("latest=") or 1) :])
        for word in self._words:
            if found := re.fullmatch(r"(min=)?(\d+)([hdwm])", word):
                reach, unit = int(found[2]), found[3]
                oldest = self._oldest(unit, reach, now)
                first: dict[int, datetime] = {}
                for moment in sorted(moments):
                    period = self._period(unit, moment)
                    first.setdefault(period, moment)
                    if period >= oldest and (found[1] or first[period] == moment):
                        kept.add(moment)
        return kept


class Told(NamedTuple):
    """A line of a message: what about, and about whom."""

    kind: str
    subject: str


class Teller:
    """Which messages are due: a trouble once a day while it lasts, its end once."""

    def __init__(self) -> None:
        self._told: dict[Told, datetime] = {}
        self._lasting: set[Told] = set()

    def run(
        self, now: datetime, troubles: Collection[Told], good: Collection[Told]
    ) -> list[Told]:
        """Return what the messages of one run say, in alphabetical order.

        :param good: what was looked at, and has no trouble of that kind.
        """
        said = []
        for trouble in troubles:
            self._lasting.add(trouble)
            if trouble not in self._told or now - self._told[trouble] >= DAY:
                self._told[trouble] = now
                said.append(trouble)
        for over in self._lasting & set(good):
            self._lasting.remove(over)
            said.append(Told("recovery", over.subject))
        return sorted(said)
