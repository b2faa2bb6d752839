"""Where commands run: what any machine can do, and how this one does it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from btrfs_backup_ng.__util__ import BackupError, Refused
from btrfs_backup_ng.core import record
from btrfs_backup_ng.core.model import (
    Facts,
    Integrity,
    Listing,
)
from btrfs_backup_ng.process.command import Command, Completed
from btrfs_backup_ng.wire.grammar import Verb

#: What to do about a verb that was ended for its silence.
IF_SLOW = "One that is only slow:  --stall-timeout 3600"
#: Tells the lock's holder what it is doing, for who meets the lock.
Say = Callable[[str], None]


class ListingFailed(BackupError):
    """A place could not be looked at, which is not the same as empty."""


class NeedsRoot(Refused):
    """This machine lets only root look at a place."""


class LockHeld(BackupError):
    """Somebody else holds a lock; what he wrote about himself is the message."""


class Host(Protocol):
    """Where commands run. Every method raises :class:`BackupError`.

    :ivar name: for people: ``backup@nas``, or nothing for this machine.
    :ivar silence_s: how long it may say nothing when it is asked something; 0 for no
        limit.
    """

    name: str
    silence_s: float

    def command(self, verb: Verb, *arguments: str, label: str) -> Command:
        """Return the command that does a verb there."""

    def call(self, verb: Verb, *arguments: str, stdin: bytes = b"") -> Completed:
        """Do a verb there, with its whole answer.

        :raises CommandFailed: if it ends with another status than 0.
        """

    def look(self, directory: str, *, folder: str = "") -> Facts:
        """Find out about a directory and its host; changes nothing.

        :param folder: where its snapshots go, for a source.
        """

    def listing(
        self, directory: str, state: str, *names: str
    ) -> tuple[Listing, tuple[record.Content, ...]]:
        """Look at all snapshots of a directory, and read files of our bookkeeping.

        :returns: the snapshots, and what lies under the names of the files.
        :raises ListingFailed: if it cannot; nothing is known then.
        """

    def look_closely(
        self, directory: str, tree_ids: Sequence[int], *, are_checkpoints: bool = False
    ) -> Integrity:
        """Tell whether all of some subvolumes of a filesystem are unchanged.

        :param are_checkpoints: as :func:`btrfs.parse.judge_integrity` wants to know.
        """

    def lock(
        self, state: str, wait_s: float, who: str, preparation: Sequence[str] = ()
    ) -> AbstractContextManager[Say]:
        """Hold the lock of a place, which dies with this process.

        :param preparation: what the verb ``prepare`` is to make ready before, if
            anything.
        :raises LockHeld: if another run holds it for longer than ``wait_s``.
        """

    def held(self, state: str) -> str | None:
        """Return what the holder of a place's lock says of itself; ``None``: nobody is.

        Nothing is made, and nobody is kept from the lock.
        """

    def put(self, state: str, name: str, content: bytes) -> None:
        """Replace a small file of our bookkeeping, atomically and durably."""
