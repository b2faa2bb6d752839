"""Retention policies: ``latest 24h 7d 4w 12m 5y min=2d``, and their periods.

A period is an hour, a day, an ISO week, a month or a year of a time zone. They are
counted back from now, and the current one comes on top: ``7d`` means today and the
seven days before. Periods without a snapshot count, too.
"""

import enum
import re
from datetime import datetime, timedelta, timezone, tzinfo

from btrfs_backup_ng.__util__ import visible
from btrfs_backup_ng.core.value import Value, replace

_WORD = r"(?a)(\*|\d{1,6})([hdwmy])"
_LATEST = r"(?a)latest(?:=(\d{1,6}))?"
_MINIMUM = r"(?a)min=(\d{1,6})([hdwmy])"
#: Between a policy and its zone.
_IN = " in "
_HOUR = timedelta(hours=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Unit(enum.Enum):
    """A kind of period, from short to long."""

    HOUR = "h"
    DAY = "d"
    WEEK = "w"
    MONTH = "m"
    YEAR = "y"

    @property
    def adjective(self) -> str:
        """Return the word for a snapshot that represents such a period."""
        return _ADJECTIVES[self]


_ADJECTIVES = {
    Unit.HOUR: "hourly",
    Unit.DAY: "daily",
    Unit.WEEK: "weekly",
    Unit.MONTH: "monthly",
    Unit.YEAR: "yearly",
}


class Policy(Value):
    """Which snapshots are kept. Each field only adds to them.

    :ivar latest: this many of the newest; the newest is always kept.
    :ivar counts: for each unit the number of periods of which the first snapshot is
        kept; None for all of them.
    :ivar minimum: keeps everything that is at most so many periods old.
    :ivar everything: all of it.
    :ivar whole_weeks: a week belongs to the month, and the year, of its Monday, so that
        monthly snapshots are weekly ones, too.
    :ivar zone: in which a day begins.
    """

    latest: int = 1
    counts: tuple[tuple[Unit, int | None], ...] = ()
    minimum: tuple[int, Unit] | None = None
    everything: bool = False
    whole_weeks: bool = False
    zone: tzinfo = timezone.utc

    def _check(self) -> None:
        if self.latest < 1:
            raise ValueError("the newest snapshot is always kept")

    def __str__(self) -> str:
        """Return the text that :func:`parse_policy` reads as the same policy."""
        if self.everything:
            return "all"
        words = ["latest" if self.latest == 1 else f"latest={self.latest}"]
        for unit, count in self.counts:
            words.append(f"{'*' if count is None else count}{unit.value}")
        if self.minimum:
            words.append(f"min={self.minimum[0]}{self.minimum[1].value}")
        return " ".join(words + ["whole-weeks"] * self.whole_weeks)

    @property
    def looks_at_time(self) -> bool:
        """Whether it keeps by time, and not only by number."""
        return bool(self.counts or self.minimum)

    @property
    def keeps_only_newest(self) -> bool:
        return self.latest == 1 and not self.looks_at_time and not self.everything

    @property
    def for_record(self) -> str:
        """Return the text by which :meth:`keeps_all_of` knows it later."""
        return f"{self}{_IN}{self.zone}" if self.looks_at_time else str(self)

    def keeps_all_of(self, recorded: str) -> bool:
        """Return whether it certainly keeps each snapshot that a recorded policy keeps.

        :param recorded: :attr:`for_record`; "" if no policy is on record.
        """
        text, _, zone = recorded.partition(_IN)
        try:
            other = parse_policy(text, self.zone)
        except ValueError:
            return False  # none, or of a newer version
        if self.everything:
            return True
        if other.everything or self.latest < other.latest:
            return False
        days = zone or str(self.zone), other.whole_weeks
        if other.looks_at_time and days != (str(self.zone), self.whole_weeks):
            return False
        own = dict(self.counts)
        return all(
            unit in own and _is_at_least(own[unit], count)
            for unit, count in other.counts
        ) and (
            other.minimum is None
            or self.minimum is not None
            and self.minimum[1] is other.minimum[1]
            and self.minimum[0] >= other.minimum[0]
        )

    def period(self, unit: Unit, moment: datetime) -> int:
        """Return the number of a moment's period; the next period has the next number.

        :param moment: aware.
        """
        local = _in_zone(moment, self.zone)
        if unit is Unit.HOUR:
            # An hour that the clock shows twice counts as two.
            since = timedelta(minutes=local.minute, seconds=local.second)
            return (moment - _EPOCH - since) // _HOUR
        ordinal = local.toordinal()
        week = (ordinal - 1) // 7  # 1 January 1 was a Monday
        if unit is Unit.DAY:
            return ordinal
        if unit is Unit.WEEK:
            return week
        if self.whole_weeks:
            local = datetime.fromordinal(week * 7 + 1)
        return local.year * 12 + local.month - 1 if unit is Unit.MONTH else local.year

    def oldest(self, unit: Unit, now: datetime, count: int) -> int:
        """Return the number of the period so many back from now.

        It counts calendar months, even if a week belongs to the month of its Monday.

        :param now: aware.
        """
        return replace(self, whole_weeks=False).period(unit, now) - count

    def period_name(self, unit: Unit, moment: datetime) -> str:
        """Return the name of a moment's period: ``2026-W48``."""
        local = _in_zone(moment, self.zone)
        if unit is Unit.WEEK:
            year, week, _ = local.isocalendar()
            return f"{year:04}-W{week:02}"
        if self.whole_weeks and unit in (Unit.MONTH, Unit.YEAR):
            local = datetime.fromordinal((local.toordinal() - 1) // 7 * 7 + 1)
        day = f"{local.year:04}-{local.month:02}-{local.day:02}"
        if unit is Unit.HOUR:
            return f"{day} {local.hour:02}h"
        return {Unit.DAY: day, Unit.MONTH: day[:7], Unit.YEAR: day[:4]}[unit]


def _is_at_least(count: int | None, other: int | None) -> bool:
    """Compare numbers of periods; None is all of them."""
    return count is None or other is not None and count >= other


def _in_zone(moment: datetime, zone: tzinfo) -> datetime:
    try:
        return moment.astimezone(zone)
    except OverflowError:  # within a day of the first or the last year
        return moment


def parse_policy(text: str, zone: tzinfo) -> Policy:
    """Read a policy: words with spaces between them, in any order.

    ``latest`` or ``latest=N``; ``24h 7d 4w 12m 5y``, with ``*`` for all periods;
    ``min=2d``; ``all``; ``whole-weeks``.

    :raises ValueError: if it is empty, or not a policy.
    """
    latest, minimum = 0, None
    counts: dict[Unit, int | None] = {}
    words = text.split()
    if not words:
        raise ValueError("it is empty; write it like 'latest 24h 7d 4w 12m'")
    for word in words:
        if found := re.fullmatch(_LATEST, word):
            value: int | None = int(found[1] or 1)
            twice, latest = latest > 0, int(found[1] or 1)
        elif found := re.fullmatch(_MINIMUM, word):
            value = int(found[1])
            twice, minimum = minimum is not None, (int(found[1]), Unit(found[2]))
        elif found := re.fullmatch(_WORD, word):
            unit = Unit(found[2])
            value = None if found[1] == "*" else int(found[1])
            twice, counts[unit] = unit in counts, value
        elif word in ("all", "whole-weeks"):
            value, twice = None, words.count(word) > 1
        else:
            raise ValueError(
                f"'{visible(word)}' is not one of latest, latest=N, 24h, 7d, 4w, 12m,"
                " 5y, *d, min=2d, all, whole-weeks"
            )
        if value == 0:
            raise ValueError(f"'{word}' keeps nothing; leave it out")
        if twice:
            raise ValueError(f"'{visible(word)}' is the second of its kind")
    if "all" in words and len(words) > 1:
        raise ValueError("'all' keeps everything, and stands alone")
    if words == ["whole-weeks"]:
        raise ValueError("'whole-weeks' alone keeps nothing")
    return Policy(
        latest=latest or 1,
        counts=tuple((unit, counts[unit]) for unit in Unit if unit in counts),
        minimum=minimum,
        everything="all" in words,
        whole_weeks="whole-weeks" in words,
        zone=zone,
    )
