"""Record the outcome of a run in the history, from its events."""

from btrfs_backup_ng.__util__ import BackupError, Interrupted, visible
from btrfs_backup_ng.core.events import Event, Failed, Snapshotted, UpToDate
from btrfs_backup_ng.core.model import Job
from btrfs_backup_ng.session.history import Entry, Record
from btrfs_backup_ng.session.session import Session


class Journal:
    """Records the outcome of one job, for the commands that show it later.

    Transfers are recorded where they are made (``transfer/delivery``), through
    :meth:`remember`; all else by :meth:`emit`. A dry run leaves nothing.
    """

    def __init__(self, job: Job, session: Session) -> None:
        self._job = job
        self._session = session
        self._is_real = not (job.dry_run or job.remove_locks)
        self._seen: set[str] = set()
        self._failed: set[str] = set()

    def remember(self, entry: Entry) -> None:
        """Add a line to the history."""
        if isinstance(entry, Record):
            self._seen.add(entry.destination)
            if entry.error:
                self._failed.add(entry.destination)
        self._session.remember(entry)

    def emit(self, event: Event) -> None:
        """Pass an event on, and record it if the history has a line for it."""
        self._session.emit(event)
        match event:
            case Snapshotted():
                self._add("", name=event.name)
            case UpToDate():
                self._add(event.destination)
            case Failed() if self._public(event.place) not in self._failed:
                self._add(event.place, error=event.message)

    def end(self, error: BackupError | Interrupted) -> None:
        """Record that the whole run failed, for each destination without a record."""
        for location in self._job.places:
            told = self._failed if location == self._job.source else self._seen
            if self._public(str(location)) not in told:
                self._add(str(location), error=error.message)

    def leave_out_mistakes(self) -> None:
        """Stop recording a run from a place that was never a source on record.

        With places swapped by mistake no later run succeeds, so they would count as
        failed from then on.
        """
        source = str(self._job.source)
        if all(record.source != source for record in self._session.recall()):
            self._is_real = False

    def _add(self, place: str, name: str = "", error: str = "") -> None:
        if self._is_real:
            public = self._public(place)
            record = Record(
                time=self._session.now,
                source=str(self._job.source),
                folder=self._session.folder,
                destination=public,
                name=name,
                error=error.replace(visible(place), visible(public or place)),
            )
            self.remember(record)

    def _public(self, place: str) -> str:
        """Return a place as records name it: "" for the source; no command."""
        if place == str(self._job.source):
            return ""
        commands = (one for one in self._job.places if one.is_command)
        return "shell://" if place in map(str, commands) else place
