"""Hosts: the operations that every machine offers."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from btrfs_backup_ng.__util__ import BackupError, Refused
from btrfs_backup_ng.core import record
from btrfs_backup_ng.core.cleared import NOTHING_CLEARED
from btrfs_backup_ng.core.model import (
    Facts,
    Integrity,
    Listing,
)
from btrfs_backup_ng.process.command import Command, Completed
from btrfs_backup_ng.wire.grammar import Verb

#: Hint for a verb that was stopped because it was silent.
IF_SLOW = "If it is only slow:  --stall-timeout 3600"
#: Replaces the note of the lock's holder, for other runs that find the lock held.
Say = Callable[[str], None]


class ListingFailed(BackupError):
    """A place could not be listed, which does not mean that it is empty."""


class NeedsRoot(Refused):
    """Only root may read a place on this machine."""


class LockHeld(BackupError):
    """Another process holds the lock. The message is the note its holder left."""


class Host(Protocol):
    """A machine on which commands run. Every method raises :class:`BackupError`.

    :ivar name: for messages: ``backup@nas``; "" for this machine.
    :ivar silence_s: limit on its silence after a question; 0 for no limit.
    :ivar is_narrow: it has refused a session beside others.
    """

    name: str
    silence_s: float

    @property
    def is_narrow(self) -> bool: ...

    def waits_after_refusal(self) -> bool:
        """Note that it refused a session, so that others wait for the end of one.

        :returns: whether one will end that is not needed as long as a task.
        """

    def by_hand(self, line: str) -> str:
        """Return the line by which a person runs a line of shell on the host."""

    def command(
        self, verb: Verb, *arguments: str, label: str, is_short: bool = False
    ) -> Command:
        """Return the command that runs a verb on the host.

        :param is_short: its stream is short, so nothing need be done beside it.
        """

    def call(self, verb: Verb, *arguments: str, stdin: bytes = b"") -> Completed:
        """Run a verb and return its whole answer.

        :raises CommandFailed: if its status is not 0.
        """

    def look(self, directory: str, *, folder: str = "") -> Facts:
        """Read the facts about a directory and its host; changes nothing.

        :param folder: for the snapshots of a source.
        """

    def listing(
        self, directory: str, state: str, *names: str
    ) -> tuple[Listing, tuple[record.Content, ...]]:
        """List the snapshots in a directory, and read records.

        :param names: of the records, in the directory ``state``.
        :returns: the listing, and the contents of the records.
        :raises ListingFailed: if it cannot be read; nothing is known then.
        """

    def look_closely(
        self,
        directory: str,
        tree_ids: Sequence[int],
        cleared: Mapping[int, int] = NOTHING_CLEARED,
        *,
        are_checkpoints: bool = False,
    ) -> Integrity:
        """Return whether all of some subvolumes of a filesystem are unchanged.

        :param cleared: id -> last change that did not count (``core.cleared``).
        :param are_checkpoints: see :func:`btrfs.parse.judge_integrity`.
        """

    def last_change(self, directory: str, tree_id: int) -> int:
        """Write what is in memory; return the transaction of a subvolume's last change.

        :returns: 0 if that cannot be read.
        """

    def lock(
        self, state: str, wait_s: float, who: str, preparation: Sequence[str] = ()
    ) -> AbstractContextManager[Say]:
        """Hold the lock of a place; it ends with this process at the latest.

        :param who: the note for other runs.
        :param preparation: arguments of the verb ``prepare``, to run before, if any.
        :raises LockHeld: if another run holds it for longer than ``wait_s``.
        """

    def held(self, state: str) -> str | None:
        """Return the note left by the lock's holder, or None if the lock is free.

        Creates nothing, and does not delay other runs.
        """

    def put(self, state: str, name: str, content: bytes) -> None:
        """Replace a record, atomically and durably."""
