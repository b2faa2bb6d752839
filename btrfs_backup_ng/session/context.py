"""What all tasks of a run share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from btrfs_backup_ng.core.events import Event, Level, Noted
from btrfs_backup_ng.endpoint.ssh import Connections
from btrfs_backup_ng.session.history import Record
from btrfs_backup_ng.session.progress import Progress
from btrfs_backup_ng.session.turns import Turns


def _forget(record: Record) -> None:
    """Take a record that is of no use."""


def _remember_nothing() -> Sequence[Record]:
    """Return no record."""
    return ()


@dataclass(frozen=True, slots=True)
class Context:
    """What all tasks of a run share.

    :ivar now: aware, in the zone in which names show it; read once for the run.
    :ivar emit: takes every event as it happens, from any thread.
    :ivar watched: somebody looks at the progress, so percent and ETA are of use.
    :ivar sudo_line: runs the same as root, for hints.
    :ivar is_synchronised: the clock of this machine follows another one.
    :ivar remember: takes a record of each transfer, from any thread.
    :ivar recall: gives what was remembered before, oldest first.
    """

    now: datetime
    connections: Connections
    turns: Turns
    progress: Progress
    emit: Callable[[Event], None]
    watched: bool
    sudo_line: str
    is_synchronised: bool = False
    remember: Callable[[Record], None] = _forget
    recall: Callable[[], Sequence[Record]] = _remember_nothing

    def warn(self, place: str, text: str) -> None:
        """Tell something that a person should know."""
        self.emit(Noted(place, Level.WARNING, text))
