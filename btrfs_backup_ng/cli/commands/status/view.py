"""The state of everything that was looked at, for every form in which it is shown."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from btrfs_backup_ng.actions.status import Sight, Standing, Word
from btrfs_backup_ng.cli.views import SnapshotView, view_kept
from btrfs_backup_ng.core.document import Lines
from btrfs_backup_ng.core.model import Waiting
from btrfs_backup_ng.core.policy import Policy
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.host.common import NeedsRoot
from btrfs_backup_ng.place.contents import forget_hint
from btrfs_backup_ng.place.locks import Worker
from btrfs_backup_ng.session.history import Last, PastRun, Record

GOOD = (Word.OK, Word.RUNNING)


class StatusEntry(Value):
    """A place that was looked at, or a configured volume at one of its targets.

    :ivar volume: its name; "" for a place that is not configured.
    :ivar target: its name; "" for a place that is not configured, and for the source
        of a volume.
    :ivar last_run: what the last run on record did there.
    :ivar max_age: of its newest snapshot or backup, None for any.
    :ivar is_optional: it may be away.
    :ivar is_known: it is in the history of this machine.
    :ivar run_line: the command that backs it up, if that is known.
    :ivar keep: the configured policy for its snapshots or backups; None to keep all.
    :ivar ssh_words: options with which other commands reach it.
    :ivar sight: the look at it, of a volume only its own part; None if it is away.
    """

    place: str
    standing: Standing
    last: Last = Last()
    last_run: PastRun | None = None
    volume: str = ""
    target: str = ""
    max_age: timedelta | None = None
    is_optional: bool = False
    is_known: bool = False
    run_line: str = ""
    keep: Policy | None = None
    ssh_words: tuple[str, ...] = ()
    sight: Sight | None = None

    @property
    def word(self) -> Word:
        return self.standing.word

    @property
    def title(self) -> str:
        """Return its name for people, not made visible."""
        at = f" at {self.target}" if self.target else ""
        return f"{self.volume}{at}" if self.volume else self.place

    @property
    def dated(self) -> datetime | None:
        """Return when the newest one was made that counts, or None.

        Of a place that is away, that is the time of the run that last arrived there.
        """
        if self.word is Word.AWAY:
            return self.last.arrived.time if self.last.arrived else None
        newest = self.standing.newest
        if newest is None or newest in self.standing.future:
            return None
        return newest.snapshot.created

    def age(self, now: datetime) -> timedelta | None:
        """Return the age of the newest one that counts, never less than zero."""
        return None if self.dated is None else max(now - self.dated, timedelta())

    def is_older(self, limit: timedelta | None, now: datetime) -> bool:
        """Return whether the newest one is older than a limit, or none is known."""
        age = self.age(now)
        return limit is not None and (age is None or age > limit)

    def is_fine(self, now: datetime) -> bool:
        """Return whether it needs no attention."""
        if self.word is Word.AWAY and self.is_optional:
            return not self.is_older(self.max_age, now)
        return self.word in GOOD

    @property
    def hint(self) -> str:
        """Return the lines of what to do about it."""
        hint = self.standing.hint
        if self.word is Word.AWAY and self.is_known and not self.volume:
            hint += f"\n{forget_hint(self.place)}"
        return hint.strip()


class Looked(Value):
    """All that was looked at.

    :ivar entries: what has a state.
    :ivar sources: those of configured volumes with targets, if they were looked at.
    """

    entries: Sequence[StatusEntry]
    sources: Sequence[StatusEntry] = ()


def exit_status(entries: Iterable[StatusEntry], now: datetime) -> int:
    """Return 0 if none needs attention, 4 if all that do need root, else 1."""
    others = [entry.standing for entry in entries if not entry.is_fine(now)]
    if others and all(standing.needs_root for standing in others):
        return NeedsRoot.exit_status
    return int(bool(others))


class RecordView(Value):
    """A transfer on record."""

    name: str
    time: datetime
    source: str
    error: str


class LastRunView(Value):
    """The last run on record."""

    time: datetime
    sent: int
    size_bytes: int | None
    elapsed_s: float
    error: str


class PlaceStatus(Value):
    """An entry in the document."""

    place: str
    volume: str
    target: str
    status: str
    fine: bool
    newest: SnapshotView | None
    complete: int
    max_age_s: float | None
    future: tuple[str, ...]
    waiting: tuple[Waiting, ...]
    running: Worker | None
    reason: str
    hint: Lines
    last_arrived: RecordView | None
    last_failure: RecordView | None
    last_run: LastRunView | None
    free_bytes: int | None
    used_bytes: int | None


def view_entry(entry: StatusEntry, now: datetime) -> PlaceStatus:
    """Return an entry for the document."""
    standing, last, run = entry.standing, entry.last, entry.last_run
    limit = entry.max_age
    return PlaceStatus(
        place=entry.place,
        volume=entry.volume,
        target=entry.target,
        status=standing.word.value.lower(),
        fine=entry.is_fine(now),
        newest=view_kept(standing.newest) if standing.newest else None,
        complete=standing.complete,
        max_age_s=None if limit is None else limit.total_seconds(),
        future=tuple(kept.snapshot.name for kept in standing.future),
        waiting=standing.waiting,
        running=standing.worker,
        reason=standing.reason,
        hint=entry.hint,
        last_arrived=_view_record(last.arrived),
        last_failure=_view_record(last.failed[-1] if last.failed else None),
        last_run=_view_run(run) if run else None,
        free_bytes=standing.size_free,
        used_bytes=standing.size_used,
    )


def _view_record(record: Record | None) -> RecordView | None:
    if record is None:
        return None
    return RecordView(record.target, record.time, record.source, record.error)


def _view_run(run: PastRun) -> LastRunView:
    error = run.errors[-1] if run.errors else ""
    return LastRunView(run.time, run.sent, run.size_bytes, run.elapsed_s, error)
