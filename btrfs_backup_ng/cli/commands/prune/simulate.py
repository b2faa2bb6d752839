"""How a simulation is told: a timeline of text, and why each one stays."""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone

from btrfs_backup_ng.__util__ import UsageError
from btrfs_backup_ng.cli import text as tell
from btrfs_backup_ng.cli.output import print_line
from btrfs_backup_ng.cli.table import table
from btrfs_backup_ng.core.policy import Policy
from btrfs_backup_ng.core.simulation import Outlook, simulate

_HOUR = timedelta(hours=1)
#: Up to this, a line is a day and a column an hour; beyond, a month and a day.
_BY_HOUR_AT_MOST = timedelta(days=10)


def show_outlook(policy: Policy, now: datetime, options: argparse.Namespace) -> None:
    """Simulate a policy, and print what is left at the end.

    :param now: aware; when the first snapshot is made.
    :raises UsageError: if the spans make no sense.
    """
    start, every = now.astimezone(timezone.utc), options.every or _HOUR
    try:
        outlook = simulate(policy, start, options.simulate, every)
    except ValueError as error:
        raise UsageError(f"--simulate, --every: {error}") from error
    if options.json:
        print_line(json.dumps(_document(policy, outlook), indent=1))
    elif not options.quiet:
        print_line("\n".join(_lines(policy, outlook, options)))


def _lines(
    policy: Policy, outlook: Outlook, options: argparse.Namespace
) -> Iterator[str]:
    zone = policy.zone
    kept, made = len(outlook.kept), outlook.made
    end = outlook.end.astimezone(zone)
    yield f"{end:%Y-%m-%d %H:%M %z}: {kept} of {made} snapshots exist"
    yield f"policy: {policy}, {zone}"
    yield ""
    yield from timeline(policy, outlook)
    yield ""
    rules = Counter(
        reason.split()[0] for _, reasons in outlook.kept for reason in reasons
    )
    words = [f"{rule} {count}" for rule, count in rules.items()]
    yield f"kept by: {', '.join(words)}"
    if options.verbose:
        rows = [
            (
                f"{moment.astimezone(zone):%Y-%m-%d %H:%M %z}",
                tell.age(moment, outlook.end),
                ", ".join(reasons),
            )
            for moment, reasons in outlook.kept
        ]
        yield from table(rows, 2)


def timeline(policy: Policy, outlook: Outlook) -> Iterator[str]:
    """Draw a line for each month with a column for each day, or days with hours.

    A dot is time without a snapshot, a digit how many there are, ``+`` more than nine.
    """
    zone = policy.zone
    by_hour = outlook.end - outlook.start <= _BY_HOUR_AT_MOST
    counts = Counter(
        _cell(moment.astimezone(zone), by_hour) for moment, _ in outlook.kept
    )
    first = _cell(outlook.start.astimezone(zone), by_hour)
    last = _cell(outlook.end.astimezone(zone), by_hour)
    row, step = first[0], 6 if by_hour else 7
    columns = range(24) if by_hour else range(1, 32)
    ruler = "".join(str(c).ljust(step) for c in columns[::step])
    yield f"{'':{10 if by_hour else 7}}  {ruler}".rstrip()
    while row <= last[0]:
        marks = "".join(
            _mark(counts[row, column]) if first <= (row, column) <= last else " "
            for column in columns[: None if by_hour else _days_in(row)]
        )
        yield f"{row:%Y-%m-%d}  {marks}" if by_hour else f"{row:%Y-%m}  {marks}"
        row += timedelta(days=1 if by_hour else _days_in(row))


def _cell(local: datetime, by_hour: bool) -> tuple[date, int]:
    day = local.date()
    return (day, local.hour) if by_hour else (day.replace(day=1), day.day)


def _days_in(month: date) -> int:
    following = (month + timedelta(days=31)).replace(day=1)
    return (following - month).days


def _mark(count: int) -> str:
    return "." if count == 0 else str(count) if count < 10 else "+"


def _document(policy: Policy, outlook: Outlook) -> dict[str, object]:
    return {
        "version": 1,
        "exit_status": 0,
        "policy": str(policy),
        "zone": str(policy.zone),
        "start": outlook.start.isoformat(timespec="seconds"),
        "end": outlook.end.isoformat(timespec="seconds"),
        "made": outlook.made,
        "kept": [
            {"time": moment.isoformat(timespec="seconds"), "reasons": list(reasons)}
            for moment, reasons in outlook.kept
        ],
    }
