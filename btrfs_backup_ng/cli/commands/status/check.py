"""The line of ``status --check``: the form of plugins for Nagios and its kin.

https://www.monitoring-plugins.org/doc/guidelines.html: a line of text, ``|``, and for
each value ``'label'=value[unit];warn;crit;min``; the exit status is the state.
"""

import enum
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from btrfs_backup_ng.__util__ import format_age, visible
from btrfs_backup_ng.actions.status import Word
from btrfs_backup_ng.cli.commands.status.view import StatusEntry

_SERVICE = "BACKUP"


class Severity(enum.Enum):
    """The state of a service; its value is the exit status."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


#: The worst first: a place that cannot be looked at hides no trouble elsewhere.
_ORDER = (Severity.CRITICAL, Severity.WARNING, Severity.UNKNOWN, Severity.OK)
_LEVELS = {
    Word.OK: Severity.OK,
    Word.RUNNING: Severity.OK,
    Word.WAITING: Severity.WARNING,
    Word.STALE: Severity.WARNING,
    Word.FAILED: Severity.CRITICAL,
    Word.NEVER: Severity.CRITICAL,
    Word.AWAY: Severity.UNKNOWN,
}


def severity_of(entry: StatusEntry, crit: timedelta | None, now: datetime) -> Severity:
    """Return the state of an entry."""
    has_age = entry.word is not Word.AWAY or entry.dated is not None
    if has_age and entry.is_older(crit, now):
        return Severity.CRITICAL
    if entry.is_fine(now):
        return Severity.OK
    if entry.word is Word.AWAY and entry.is_optional:
        return Severity.WARNING  # older than is allowed
    return _LEVELS[entry.word]


def check(
    entries: Sequence[StatusEntry], crit: timedelta | None, now: datetime
) -> tuple[Severity, str]:
    """Return the state of all entries, and the line that says it."""
    levels = [severity_of(entry, crit, now) for entry in entries]
    level = min(levels, key=_ORDER.index)
    bad = [(e, one) for e, one in zip(entries, levels) if one is not Severity.OK]
    bad.sort(key=lambda each: _ORDER.index(each[1]))
    parts = [_described(entry, now) for entry, _ in bad]
    parts.append(f"{len(entries) - len(bad)} of {len(entries)} fine")
    ages = [age for entry in entries if (age := entry.age(now)) is not None]
    if not bad and ages:
        parts.append(f"the oldest is {format_age(max(ages))} old")
    data = " ".join(_values(entries, crit, now))
    return level, f"{head(level)} {_plain('; '.join(parts))} | {data}"


def head(level: Severity) -> str:
    """Return the beginning of the line."""
    return f"{_SERVICE} {level.name}:"


def unknown(message: str) -> str:
    """Return the line for an error because of which nothing was looked at."""
    return f"{head(Severity.UNKNOWN)} {_plain(visible(message))}"


def _described(entry: StatusEntry, now: datetime) -> str:
    text = f"{visible(entry.title)} is {entry.word.value}"
    age = entry.age(now)
    if age is not None:
        text += f", {format_age(age)} old"
    reason = entry.standing.reason
    if entry.word is Word.FAILED and entry.last.failed:
        reason = entry.last.failed[-1].error
    first = next((line for line in reason.splitlines() if line.strip()), "")
    return f"{text} ({visible(first.strip())})" if first else text


def _values(
    entries: Sequence[StatusEntry], crit: timedelta | None, now: datetime
) -> Iterator[str]:
    for entry in entries:
        age = entry.age(now)
        value = "U" if age is None else f"{age.total_seconds():.0f}s"
        limits = f"{_seconds(entry.max_age)};{_seconds(crit)}"
        yield f"'{_label(entry.title)}'={value};{limits};0"


def _seconds(limit: timedelta | None) -> str:
    return "" if limit is None else f"{limit.total_seconds():.0f}"


def _label(title: str) -> str:
    """Return a label, which ends at a quote unless there are two, and has no ``=``."""
    return _plain(visible(title)).replace("'", "''").replace("=", r"\x3d")


def _plain(text: str) -> str:
    """Return a text that does not end at its first ``|``."""
    return text.replace("|", r"\x7c")
