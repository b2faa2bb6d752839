"""The text of ``status --metrics``, for the textfile collector of Prometheus.

https://prometheus.io/docs/instrumenting/exposition_formats: for each metric its help,
its type, and a line for each set of labels, with no set twice.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime

from btrfs_backup_ng.__util__ import visible
from btrfs_backup_ng.actions.status import Word
from btrfs_backup_ng.cli.commands.status.view import StatusEntry
from btrfs_backup_ng.core.value import Value

_PREFIX = "btrfs_backup_ng"
Labels = Mapping[str, str]
Number = int | float | None


class Metric(Value):
    """A metric of each entry.

    :ivar value: returns its value, or None if it has no value.
    """

    name: str
    help: str
    value: Callable[[StatusEntry, datetime], Number]


def metrics(entries: Iterable[StatusEntry], now: datetime) -> str:
    """Return the file: all metrics of all entries."""
    unique = list({tuple(_labels(entry).items()): entry for entry in entries}.values())
    lines = [*_written(now)]
    for metric in _METRICS:
        lines += _header(metric.name, metric.help)
        for entry in unique:
            lines += _sample(metric.name, _labels(entry), metric.value(entry, now))
    lines += _states(unique)
    return "\n".join(lines) + "\n"


def _written(now: datetime) -> Iterator[str]:
    name = "status_timestamp_seconds"
    yield from _header(name, "When this was written; alert if it is long ago.")
    yield from _sample(name, {}, now.timestamp())


def _states(entries: Sequence[StatusEntry]) -> Iterator[str]:
    yield from _header("state", "1 for the state that it is in, 0 for the others.")
    for entry in entries:
        for word in Word:
            labels = {**_labels(entry), "state": word.value.lower()}
            yield from _sample("state", labels, int(entry.word is word))


def _labels(entry: StatusEntry) -> Labels:
    return {"volume": entry.volume, "target": entry.target, "place": entry.place}


def _header(name: str, text: str) -> Iterator[str]:
    yield f"# HELP {_PREFIX}_{name} {text}"
    yield f"# TYPE {_PREFIX}_{name} gauge"


def _sample(name: str, labels: Labels, value: Number) -> Iterator[str]:
    if value is not None:
        pairs = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        shown = f"{{{pairs}}}" if pairs else ""
        yield f"{_PREFIX}_{name}{shown} {_number(value)}"


def _escaped(text: str) -> str:
    """Return a text for between the quotes of a label."""
    shown = visible(text).replace("\\", "\\\\").replace('"', '\\"')
    return shown.replace("\n", "\\n")


def _number(value: int | float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _newest(entry: StatusEntry, now: datetime) -> Number:
    return entry.dated.timestamp() if entry.dated else None


def _age(entry: StatusEntry, now: datetime) -> Number:
    age = entry.age(now)
    return None if age is None else age.total_seconds()


def _max_age(entry: StatusEntry, now: datetime) -> Number:
    return None if entry.max_age is None else entry.max_age.total_seconds()


def _count(entry: StatusEntry, now: datetime) -> Number:
    return None if entry.word is Word.AWAY else entry.standing.complete


def _ran(entry: StatusEntry, now: datetime) -> Number:
    return entry.last_run.time.timestamp() if entry.last_run else None


def _succeeded(entry: StatusEntry, now: datetime) -> Number:
    return int(not entry.last_run.errors) if entry.last_run else None


def _sent(entry: StatusEntry, now: datetime) -> Number:
    return entry.last_run.size_bytes if entry.last_run else None


def _took(entry: StatusEntry, now: datetime) -> Number:
    return entry.last_run.elapsed_s if entry.last_run else None


_METRICS = (
    Metric(
        "fine",
        "1 if it needs no attention, else 0.",
        lambda entry, now: int(entry.is_fine(now)),
    ),
    Metric(
        "newest_timestamp_seconds",
        "When the newest complete snapshot or backup was made.",
        _newest,
    ),
    Metric("newest_age_seconds", "Its age when this was written.", _age),
    Metric("max_age_seconds", "The highest age that is allowed.", _max_age),
    Metric("complete", "Number of complete snapshots and backups.", _count),
    Metric("last_run_timestamp_seconds", "When the last run began.", _ran),
    Metric("last_run_success", "1 if it went well there, 0 if not.", _succeeded),
    Metric("last_run_sent_bytes", "Size of the streams that it sent there.", _sent),
    Metric("last_run_duration_seconds", "Time that these transfers took.", _took),
    Metric(
        "free_bytes",
        "Free space of the filesystem.",
        lambda entry, now: entry.standing.size_free,
    ),
    Metric(
        "used_bytes",
        "Used space of the filesystem.",
        lambda entry, now: entry.standing.size_used,
    ),
)
