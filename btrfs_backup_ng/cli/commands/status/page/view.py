"""The values that the page shows."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from btrfs_backup_ng.cli.commands.status.view import StatusEntry
from btrfs_backup_ng.core.model import Snapshot
from btrfs_backup_ng.core.value import EMPTY, Value
from btrfs_backup_ng.session.history import PastRun


class Dot(Value):
    """A snapshot in a timeline.

    :ivar reasons: why it is kept; empty if it is to be deleted.
    :ivar is_needed: another place needs it as the parent of its next backup.
    """

    snapshot: Snapshot
    reasons: tuple[str, ...]
    is_needed: bool

    @property
    def kind(self) -> str:
        """Return its class: what the legend explains."""
        if self.is_needed:
            return "needed"
        return "kept" if self.reasons else "gone"


class Lane(Value):
    """The timeline of the snapshots, or backups, of a volume at a place.

    :ivar policy: for people.
    :ivar trouble: why they could not be judged; then each one has no reason and stays.
    """

    title: str
    policy: str
    dots: Sequence[Dot]
    trouble: str = ""


class Disk(Value):
    """A filesystem that places are on.

    :ivar daily_bytes: sent there on a day, by the history; None if that is too short.
    """

    places: tuple[str, ...]
    size_free: int
    size_used: int
    daily_bytes: float | None

    @property
    def lasts(self) -> timedelta | None:
        """Return how long its free space lasts if nothing is deleted."""
        if not self.daily_bytes:
            return None
        days = self.size_free / self.daily_bytes
        return timedelta(days=days) if days < 36500 else None


class Checked(Value):
    """The verifications of a volume at a place.

    :ivar count: of snapshots or backups.
    :ivar good: level -> how many are good by it, and when the last was checked.
    :ivar bad: names.
    """

    title: str
    count: int
    good: Mapping[str, tuple[int, datetime]] = EMPTY
    bad: tuple[str, ...] = ()


class Problem(Value):
    """Trouble, and the commands that fix it."""

    title: str
    texts: tuple[str, ...]
    commands: tuple[str, ...]


class Restorable(Value):
    """The backups of a volume at a place, and the command that restores each.

    :ivar commands: names and times of some, each with its command, newest first.
    :ivar count: of all of them.
    :ivar list_line: the command that shows the others.
    """

    title: str
    commands: Sequence[tuple[str, datetime | None, str]]
    count: int
    list_line: str


class PageView(Value):
    """All that the page shows.

    :ivar next_backups: title -> forecast of the next backup.
    """

    host: str
    now: datetime
    entries: Sequence[StatusEntry]
    lanes: Sequence[Lane] = ()
    runs: Sequence[PastRun] = ()
    disks: Sequence[Disk] = ()
    next_backups: Mapping[str, str] = EMPTY
    checks: Sequence[Checked] = ()
    problems: Sequence[Problem] = ()
    restorable: Sequence[Restorable] = ()
