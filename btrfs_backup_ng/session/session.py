"""The values that all actions of one call of the program share."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from btrfs_backup_ng.core.events import Event, Level, Noted
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import SshOptions
from btrfs_backup_ng.core.value import EMPTY, Value
from btrfs_backup_ng.endpoint.ssh import Connections
from btrfs_backup_ng.session.history import Entry, Record
from btrfs_backup_ng.session.progress import Progress
from btrfs_backup_ng.session.turns import Turns


class Session(Value):
    """The values that all actions of one call of the program share.

    :ivar now: aware, in the zone in which names show it; read once for the call.
    :ivar sudo_line: the command that runs the same as root, for hints.
    :ivar progress: shows transfers while they run.
    :ivar ssh: how places are reached, unless a job says otherwise.
    :ivar ssh_at: how single places are reached, if not like the others.
    :ivar folder: where a source's snapshots are, relative to it or absolute.
    :ivar emit: takes every event as it happens, from any thread.
    :ivar watched: the progress is shown, so percent and ETA are of use.
    :ivar is_synchronised: the clock of this machine follows another one.
    :ivar remember: takes a line for the history, from any thread.
    :ivar recall: returns the records of earlier transfers, oldest first.
    """

    now: datetime
    connections: Connections
    sudo_line: str
    progress: Progress
    turns: Turns
    ssh: SshOptions = SshOptions()
    ssh_at: Mapping[Location, SshOptions] = EMPTY
    folder: str = ""
    emit: Callable[[Event], None] = lambda event: None
    watched: bool = False
    is_synchronised: bool = False
    remember: Callable[[Entry], None] = lambda entry: None
    recall: Callable[[], Sequence[Record]] = tuple

    def warn(self, place: str, text: str) -> None:
        self.emit(Noted(place, Level.WARNING, text))
