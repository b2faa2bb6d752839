"""Retention policies: ``latest 24h 7d 4w 12m 5y min=2d``, and their periods.

A period is an hour, a day, an ISO week, a month or a year of a time zone. They are
counted back from now, and the current one comes on top: ``7d`` means today and the
seven days before. Periods without a snapshot count, too.
"""

import enum
import re
from datetime import date, datetime, timedelta, timezone, tzinfo

from btrfs_backup_ng.__util__ import visible
from btrfs_backup_ng.core.value import Value, replace

_WORD = r"(?a)(\*|\d{1,6})([hdwmy])"
_LATEST = r"(?a)latest(?:=(\d{1,6}))?"
_MINIMUM = r"(?a)min=(\d{1,6})([hdwmy])"
_FIRST_HOUR = r"(?a)day=([1-9]|1\d|2[0-3])h"
_WHOLE_WEEKS = "whole-weeks"
#: The days of a week, as ``week=sunday`` names them.
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
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
    :ivar whole_weeks: a week belongs to the month, and the year, of its first day, so
        that monthly snapshots are weekly ones, too.
    :ivar first_day: with which a week begins; 0 is Monday.
    :ivar first_hour: with which a day begins, and a week, but no month.
    :ivar zone: in which a day begins.
    """

    latest: int = 1
    counts: tuple[tuple[Unit, int | None], ...] = ()
    minimum: tuple[int, Unit] | None = None
    everything: bool = False
    whole_weeks: bool = False
    first_day: int = 0
    first_hour: int = 0
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
        if self.whole_weeks:
            words.append(_WHOLE_WEEKS)
        if self.first_day:
            words.append(f"week={DAYS[self.first_day]}")
        if self.first_hour:
            words.append(f"day={self.first_hour}h")
        return " ".join(words)

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
        is_same_zone = zone in ("", str(self.zone))
        if other.looks_at_time and not (is_same_zone and self._divides_as(other)):
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

    def _divides_as(self, other: "Policy") -> bool:
        """Return whether both divide the time of a zone into the same periods."""
        pairs = ((p.whole_weeks, p.first_day, p.first_hour) for p in (self, other))
        return len({*pairs}) == 1

    def period(self, unit: Unit, moment: datetime) -> int:
        """Return the number of a moment's period; the next period has the next number.

        :param moment: aware.
        """
        local = _in_zone(moment, self.zone)
        if unit is Unit.HOUR:
            # An hour that the clock shows twice counts as two.
            since = timedelta(minutes=local.minute, seconds=local.second)
            return (moment - _EPOCH - since) // _HOUR
        ordinal = local.toordinal() - (local.hour < self.first_hour)
        # 1 January 1 was a Monday
        week, day = divmod(ordinal - 1 - self.first_day, 7)
        if unit is Unit.DAY:
            return ordinal
        if unit is Unit.WEEK:
            return week
        month = local.year * 12 + local.month - 1
        if self.whole_weeks and local.day <= day:  # the week began before the month
            month -= 1
        return month if unit is Unit.MONTH else month // 12

    def oldest(self, unit: Unit, now: datetime, count: int) -> int:
        """Return the number of the period so many back from now.

        It counts calendar months, even if a week belongs to the month of its first day.

        :param now: aware.
        """
        return replace(self, whole_weeks=False).period(unit, now) - count

    def period_name(self, unit: Unit, moment: datetime) -> str:
        """Return the name of a moment's period: ``2026-W48``.

        A week that begins with another day than Monday has the name of its first day.
        """
        number = self.period(unit, moment)
        if unit is Unit.HOUR:
            local = _in_zone(moment, self.zone)
            return f"{local.date().isoformat()} {local.hour:02}h"
        if unit is Unit.YEAR:
            return f"{number:04}"
        if unit is Unit.MONTH:
            return f"{number // 12:04}-{number % 12 + 1:02}"
        if unit is Unit.WEEK and not self.first_day:
            year, week, _ = _day(number * 7 + 1).isocalendar()
            return f"{year:04}-W{week:02}"
        if unit is Unit.WEEK:
            number = number * 7 + 1 + self.first_day
        return _day(number).isoformat()


def _day(ordinal: int) -> date:
    """Return a day by its number; before the first one, that one."""
    return date.fromordinal(max(ordinal, 1))


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
    ``min=2d``; ``all``; ``whole-weeks``; ``week=sunday``; ``day=5h``.

    :raises ValueError: if it is empty, or not a policy.
    """
    latest, minimum = 0, None
    counts: dict[Unit, int | None] = {}
    periods: dict[str, int] = {}
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
        elif rule := _rule_of_periods(word):
            value, twice = None, rule[0] in periods
            periods[rule[0]] = rule[1]
        elif word == "all":
            value, twice = None, words.count(word) > 1
        else:
            raise ValueError(
                f"'{visible(word)}' is not one of latest, latest=N, 24h, 7d, 4w, 12m,"
                " 5y, *d, min=2d, all, whole-weeks, week=sunday, day=5h"
            )
        if value == 0:
            raise ValueError(f"'{word}' keeps nothing; leave it out")
        if twice:
            raise ValueError(f"'{visible(word)}' is the second of its kind")
    if "all" in words and len(words) > 1:
        raise ValueError("'all' keeps everything, and stands alone")
    if len(words) == len(periods):
        raise ValueError(f"'{words[0]}' alone keeps nothing")
    return Policy(
        latest=latest or 1,
        counts=tuple((unit, counts[unit]) for unit in Unit if unit in counts),
        minimum=minimum,
        everything="all" in words,
        whole_weeks="whole_weeks" in periods,
        first_day=periods.get("first_day", 0),
        first_hour=periods.get("first_hour", 0),
        zone=zone,
    )


def _rule_of_periods(word: str) -> tuple[str, int] | None:
    """Return the field that a word about the limits of periods sets, or None."""
    if word == _WHOLE_WEEKS:
        return "whole_weeks", 1
    if word.startswith("week=") and word[5:] in DAYS:
        return "first_day", DAYS.index(word[5:])
    if found := re.fullmatch(_FIRST_HOUR, word):
        return "first_hour", int(found[1])
    return None
