"""A simulated policy: a timeline of text, and the reasons to keep each snapshot."""

from collections import Counter
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone

from btrfs_backup_ng.__util__ import UsageError
from btrfs_backup_ng.cli import wording
from btrfs_backup_ng.cli.call import Call
from btrfs_backup_ng.cli.output import Output
from btrfs_backup_ng.cli.table import Column, table, wrapped
from btrfs_backup_ng.core.policy import Policy
from btrfs_backup_ng.core.simulation import Outlook, simulate
from btrfs_backup_ng.core.value import Value

_HOUR = timedelta(hours=1)
#: Up to this, a line is a day and a column an hour; beyond, a month and a day.
_BY_HOUR_AT_MOST = timedelta(days=10)
#: By hour or not -> the meaning of a line, and of a column.
_UNITS = {True: ("day", "hour"), False: ("month", "day")}
_COLUMNS = (Column("TIME"), Column("AGE", leaves=24), Column("RULES"))


class KeptTime(Value):
    """The time of a snapshot that is kept, with the reasons."""

    time: datetime
    reasons: tuple[str, ...]


class SimulationReport(Value):
    """The document of a simulation."""

    policy: str
    zone: str
    start: datetime
    end: datetime
    made: int
    kept: tuple[KeptTime, ...]


def show_outlook(
    policy: Policy, now: datetime, span: timedelta, every: timedelta | None, call: Call
) -> int:
    """Simulate a policy, and print which snapshots are left at the end.

    :param now: aware; when the first snapshot is made.
    :param every: the time between two snapshots, by default an hour.
    :raises UsageError: if the spans make no sense.
    """
    try:
        outlook = simulate(policy, now.astimezone(timezone.utc), span, every or _HOUR)
    except ValueError as error:
        raise UsageError(f"--simulate, --every: {error}") from error
    output = Output(call)
    for line in _lines(policy, outlook, with_each=call.verbose):
        output.line(line)
    report = SimulationReport(
        policy=str(policy),
        zone=str(policy.zone),
        start=outlook.start,
        end=outlook.end,
        made=outlook.made,
        kept=tuple(KeptTime(*each) for each in outlook.kept),
    )
    return output.finish(0, report)


def _lines(policy: Policy, outlook: Outlook, *, with_each: bool) -> Iterator[str]:
    zone = policy.zone
    end = outlook.end.astimezone(zone)
    left = f"{len(outlook.kept)} of {outlook.made}"
    yield f"{end:%Y-%m-%d %H:%M %z}: {left} snapshots exist"
    yield f"policy: {policy}, {zone}"
    yield ""
    yield from timeline(policy, outlook)
    yield ""
    unit, step = _UNITS[_is_by_hour(outlook)]
    yield f"legend: a line for each {unit}, a column for each {step}"
    yield "  .    no snapshot is left"
    yield "  1-9  so many are left;  +  more than nine"
    yield ""
    rules = Counter(
        reason.split()[0] for _, reasons in outlook.kept for reason in reasons
    )
    words = [f"{rule} {count}" for rule, count in rules.items()]
    yield from wrapped(f"kept by: {', '.join(words)}", 2)
    if len(rules) > 1:
        yield "  (a snapshot may be kept by several rules)"
    if with_each:
        rows = [
            (
                f"{moment.astimezone(zone):%Y-%m-%d %H:%M %z}",
                wording.age(moment, outlook.end),
                ", ".join(reasons),
            )
            for moment, reasons in outlook.kept
        ]
        yield from table(rows, 2, _COLUMNS)


def timeline(policy: Policy, outlook: Outlook) -> Iterator[str]:
    """Draw a line for each month with a column for each day, or days with hours.

    A dot is time without a snapshot, a digit how many there are, ``+`` more than nine.
    """
    zone = policy.zone
    by_hour = _is_by_hour(outlook)
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


def _is_by_hour(outlook: Outlook) -> bool:
    return outlook.end - outlook.start <= _BY_HOUR_AT_MOST


def _cell(local: datetime, by_hour: bool) -> tuple[date, int]:
    day = local.date()
    return (day, local.hour) if by_hour else (day.replace(day=1), day.day)


def _days_in(month: date) -> int:
    following = (month + timedelta(days=31)).replace(day=1)
    return (following - month).days


def _mark(count: int) -> str:
    return "." if count == 0 else str(count) if count < 10 else "+"
