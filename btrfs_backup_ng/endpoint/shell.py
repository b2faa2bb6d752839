"""A command as destination: it takes full streams, and its backups cannot be listed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import Facts, Privilege, Role, Snapshot, Waiting
from btrfs_backup_ng.endpoint.common import Endpoint, Place
from btrfs_backup_ng.host.common import Say
from btrfs_backup_ng.host.local import LocalHost
from btrfs_backup_ng.process.command import Command


class CommandPlace(Place):
    """A command of this machine: it has no lock, no records and no staging."""

    def __init__(self, location: Location) -> None:
        super().__init__(location, LocalHost())
        self.public_name = "shell://"  # a command may hold a secret
        self.backups = CommandEndpoint(self)
        self.facts = Facts(Privilege.NONE, None, send_protocol=1, is_directory=False)

    def look(self) -> Facts:
        """Return the same facts as before: a command cannot be looked at."""
        return self.facts

    @contextmanager
    def lock(self, wait_s: float, note: str, role: Role) -> Iterator[Say]:
        """Lock nothing."""
        yield lambda note: None

    def held(self) -> str | None:
        """Return None: there is no lock."""
        return None

    def waiting(self, transfer_ids: Sequence[str]) -> tuple[Waiting, ...]:
        """Return nothing: no stream to a command can be resumed."""
        return ()

    def discard(
        self, transfer_ids: Sequence[str], *, keep_sealed: bool = False
    ) -> tuple[str, ...]:
        """Do nothing: the files that the command wrote are the user's."""
        return ()

    def write_record(self, name: str, content: bytes) -> None:
        """Write nothing."""

    def set_aside(self, name: str, new_name: str) -> None:
        """Do nothing: there are no records."""


class CommandEndpoint(Endpoint):
    """``sh -c COMMAND`` with the stream on stdin and the snapshot's name as ``$1``.

    Only its exit status is known: 0 means that the stream is safe.
    """

    def receive(
        self,
        transfer_id: str,
        snapshot: Snapshot,
        codec: str,
        useless: Sequence[str] = (),
        *,
        is_short: bool = False,
    ) -> Command:
        argv = ("sh", "-c", self.place.location.path, "sh", snapshot.name)
        return Command(argv, label=f"the command {self}")
