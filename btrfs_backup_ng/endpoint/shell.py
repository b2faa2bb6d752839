"""The sink that is any command: it gets whole streams and keeps no listing."""

from collections.abc import Sequence

from btrfs_backup_ng.__util__ import visible
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import Facts, Privilege, Snapshot, Waiting
from btrfs_backup_ng.process.command import Command


class ShellEndpoint:
    """``sh -c COMMAND`` with the stream on stdin and the snapshot's name as ``$1``.

    Its exit status is all that is known of it: 0 means that the stream is safe.
    """

    def __init__(self, location: Location) -> None:
        self.location = location
        self.facts = Facts(Privilege.NONE, None, send_protocol=1, is_directory=False)

    def __str__(self) -> str:
        return visible(str(self.location))

    def sink(
        self,
        transfer_id: str,
        snapshot: Snapshot,
        codec: str,
        useless: Sequence[str] = (),
    ) -> Command:
        """Return the user's command."""
        argv = ("sh", "-c", self.location.path, "sh", snapshot.name)
        return Command(argv, label=f"the command {self}")

    def accept(
        self,
        transfer_id: str,
        snapshot: Snapshot,
        target: str,
        *,
        output: bytes,
        verify: bool,
    ) -> None:
        """Do nothing: the pipeline has seen the command's exit status."""

    def discard(
        self, transfer_ids: Sequence[str], *, keep_sealed: bool = False
    ) -> tuple[str, ...]:
        """Do nothing: what the command wrote is the user's."""
        return ()

    def waiting(self, transfer_ids: Sequence[str]) -> tuple[Waiting, ...]:
        """Return nothing: no stream goes on in the middle."""
        return ()
