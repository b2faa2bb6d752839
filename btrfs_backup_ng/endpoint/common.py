"""A place, and the interface of the endpoints that keep its snapshots."""

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from uuid import UUID

from btrfs_backup_ng.__util__ import BackupError, visible
from btrfs_backup_ng.btrfs.listing import Subvolumes, parse_subvolumes
from btrfs_backup_ng.btrfs.parse import OutputNotUnderstood, explain
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import (
    Facts,
    Integrity,
    Listing,
    Role,
    Snapshot,
    Waiting,
)
from btrfs_backup_ng.core.record import Content
from btrfs_backup_ng.endpoint import staging
from btrfs_backup_ng.endpoint.staging import Checkpoint
from btrfs_backup_ng.host.common import Host, ListingFailed, Say
from btrfs_backup_ng.host.entry import (
    STATE,
    NotOurs,
    below,
    plain,
    refusal,
    refusal_by_verb,
)
from btrfs_backup_ng.host.facts import is_same_filesystem
from btrfs_backup_ng.process.command import Command, CommandFailed, Completed
from btrfs_backup_ng.wire import grammar, verbs


class NameTaken(BackupError):
    """A name that was free is now in use."""


class WrongArrival(BackupError):
    """The content of a staging directory is not the snapshot that was sent."""


def new_transfer_id(now: datetime) -> str:
    """Return the first part of a transfer's id, which is unique.

    :param now: aware.
    """
    return staging.first_part(now, os.urandom(4))


class Place:
    """A directory on a host, with its records, lock and staging.

    :ivar state: the directory of these, as ``host.entry`` enters it.
    :ivar facts: set by :meth:`look`.
    :ivar public_name: its name in records that other users may read.
    :ivar is_prepared: the lock was taken, so all directories exist.
    :ivar snapshots: made here, if it is a source.
    :ivar backups: received here, if it is a destination.
    """

    facts: Facts

    def __init__(self, location: Location, host: Host) -> None:
        """Make a place without snapshots, before a look at it."""
        self.location = location
        self.host = host
        self.state = below(location.path, STATE)
        self.public_name = str(location)
        self.is_prepared = False
        self.snapshots = Endpoint(self)
        self.backups = Endpoint(self)

    def __str__(self) -> str:
        return visible(str(self.location))

    @property
    def has_snapshots(self) -> bool:
        """Return whether it is a subvolume with a snapshot folder.

        An absolute folder on another filesystem is that of another subvolume.
        """
        facts = self.facts
        is_near = "//" in self.snapshots.directory or is_same_filesystem(
            facts.folder_filesystem, facts.filesystem
        )
        return facts.is_subvolume and facts.has_folder and is_near

    def look(self) -> Facts:
        """Look at the place and its host; change nothing.

        :raises BackupError: if that is not possible.
        """
        folder = self.snapshots.directory
        self.facts = self.host.look(self.location.path, folder=folder)
        return self.facts

    def subvolumes(self) -> Subvolumes:
        """List the subvolumes of its filesystem, also those outside of its mount.

        :raises BackupError: if that is not possible.
        """
        answer = self.call(verbs.RELATIVES, self.location.path).stdout
        try:
            return parse_subvolumes(answer)
        except OutputNotUnderstood as error:
            raise ListingFailed(
                f"cannot list the subvolumes on the filesystem of {self}: {error}"
            ) from error

    @contextmanager
    def lock(self, wait_s: float, note: str, role: Role) -> Iterator[Say]:
        """Hold the lock of this place; make the directories that the run needs.

        At a source, the state directory is a subvolume, so no backup contains it.

        :param note: shown to processes that find the lock held.
        :param role: of the snapshots that will be made or received.
        :raises LockHeld: if another run has it for longer than ``wait_s``.
        """
        preparation: tuple[str, ...] = ()
        if role is Role.SNAPSHOT:
            if not (self.facts.has_state and self.facts.has_folder):
                preparation = ("subvolume", self.snapshots.directory)
        elif not self.facts.has_state:
            preparation = ("directory", "")
        with ExitStack() as stack:
            lock = self.host.lock(self.state, wait_s, note, preparation)
            with self.explaining():
                say = stack.enter_context(lock)
            self.is_prepared = True
            yield say

    def held(self) -> str | None:
        """Return the note of the lock's holder, or None if the lock is free."""
        with self.explaining():
            return self.host.held(self.state)

    def waiting(self, transfer_ids: Sequence[str]) -> tuple[Waiting, ...]:
        """Return the progress of unfinished transfers, from their staging."""
        ids = staging.ids_in(transfer_ids)
        if not ids:
            return ()
        answer = self.call(verbs.WAITING, self.state, *ids).stdout
        fields = iter(answer.decode(errors="surrogateescape").split("\0"))
        found = []
        for transfer_id in iter(lambda: next(fields, ""), ""):
            running = next(fields, "") == "1"
            names = tuple(iter(lambda: next(fields, ""), ""))
            found.append(staging.waiting(transfer_id, names, running=running))
        return tuple(found)

    def safe_bytes(self, transfer_ids: Sequence[str]) -> int:
        """Return the bytes of a stream that its farthest attempt has saved."""
        return max((one.size_bytes for one in self.waiting(transfer_ids)), default=0)

    def discard(
        self, transfer_ids: Sequence[str], *, keep_sealed: bool = False
    ) -> tuple[str, ...]:
        """Delete the staging of unfinished transfers; ignore those already deleted.

        :param keep_sealed: keep those that have a checkpoint.
        :returns: ids of transfers that are still running; these stay.
        """
        ids = staging.ids_in(transfer_ids)
        if not ids:
            return ()
        which = "unsealed" if keep_sealed else "all"
        running = self.call(verbs.DISCARD, self.state, which, *ids).stdout
        return tuple(name.decode() for name in running.split(b"\0") if name)

    def record_path(self, name: str) -> str:
        """Return the path of a record, for people."""
        return visible(plain(f"{self.state}/{name}"))

    def write_record(self, name: str, content: bytes) -> None:
        """Replace a record, atomically and durably."""
        with self.explaining():
            self.host.put(self.state, name, content)

    def set_aside(self, name: str, new_name: str) -> None:
        """Rename a record that cannot be read."""
        self.call(verbs.ASIDE, self.state, name, new_name)

    def sync(self) -> None:
        """Wait until the space of deleted snapshots is free."""
        self.call(verbs.SYNC, self.location.path)

    def call(
        self, verb: grammar.Verb, *arguments: str, stdin: bytes = b""
    ) -> Completed:
        """Run a verb on the host; explain its errors.

        :raises NameTaken: if a name is in use.
        :raises Refused: if another user controls the state directory.
        :raises CommandFailed: if it failed otherwise.
        """
        with self.explaining():
            return self.host.call(verb, *arguments, stdin=stdin)

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Convert the failure of a command to an error about this place."""
        try:
            yield
        except CommandFailed as error:
            if error.completed.status == grammar.EXISTS:
                raise NameTaken(
                    f"another process took a name at {self} that was free before",
                    hint="Run the command again.",
                ) from error
            if error.completed.status == grammar.NOT_OURS:
                raise refusal_by_verb(self.state, error.completed.stderr) from error
            meaning = explain(error.completed.stderr)
            if meaning:
                error.hint = error.hint or f"At {self}: {meaning}."
            raise
        except NotOurs as error:
            raise refusal(self.state, error.message) from error


class Endpoint:
    """The snapshots in a directory of a place; this base class has none.

    Class variables state the abilities of each kind of endpoint.

    :cvar role: of these snapshots at their place.
    :cvar lists: they can be listed, inspected, and deleted.
    :cvar takes_parents: streams to it may be incremental.
    :cvar checks: it checks each command of a stream that it takes.
    :ivar directory: as ``host.entry`` enters it; "" for none.
    """

    role = Role.BACKUP
    lists = False
    takes_parents = False
    checks = False
    directory = ""

    def __init__(self, place: Place) -> None:
        self.place = place

    def __str__(self) -> str:
        return str(self.place)

    def listing(self, *records: str) -> tuple[Listing, tuple[Content, ...]]:
        """List all snapshots, and read records of the place in the same step.

        :param records: names of the records.
        :returns: the snapshots, and the content of each record.
        :raises ListingFailed: if that is not possible.
        """
        return Listing(), (None,) * len(records)

    def look_closely(self, tree_ids: Sequence[int], **how: bool) -> Integrity:
        """Return the worst integrity of some subvolumes of the filesystem."""
        return Integrity.UNKNOWN

    def last_change(self, tree_id: int) -> int:
        """Return the transaction of the last change of a subvolume; 0 if not known."""
        return 0

    def relatives(self, origins: Collection[UUID]) -> tuple[Snapshot, ...]:
        """Find snapshots elsewhere on the filesystem that may be parents.

        :param origins: of the possible parents.
        :returns: some of the place's line, named by their absolute paths.
        :raises CommandFailed: if that cannot be found out.
        """
        return ()

    def path(self, name: str) -> str:
        """Return the path of a snapshot by name, as ``host.entry`` enters it."""
        return name if name.startswith("/") else below(self.directory, name)

    def delete(self, snapshots: Sequence[Snapshot], *, convert_rw: bool) -> None:
        """Delete snapshots durably; the caller checks that they are gone.

        :param convert_rw: make them writable first, for kernels that need it.
        """

    def take_snapshot(self, name: str, now: datetime) -> Snapshot:
        """Make a read-only snapshot of the place.

        :param now: aware.
        :raises NameTaken: if the name is in use.
        """
        raise NotImplementedError

    def send(
        self,
        snapshot: Snapshot,
        parent: Snapshot | None,
        protocol: str,
        codec: str,
        checkpoints: Sequence[str] = (),
    ) -> Command:
        """Return the command that sends a snapshot as a stream.

        :param protocol: ``1``, ``2``, or ``2c``: compressed data stays compressed.
        :param codec: compresses the stream if the source is remote.
        :param checkpoints: arguments of the checkpoint filter at the source.
        """
        raise NotImplementedError

    def receive(
        self,
        transfer_id: str,
        snapshot: Snapshot,
        codec: str,
        useless: Sequence[str] = (),
        *,
        is_short: bool = False,
    ) -> Command:
        """Return the command that receives a stream into staging.

        :param codec: decompresses the stream if the destination is remote.
        :param useless: names in staging to delete, from an earlier attempt.
        :param is_short: the stream is short, and makes no checkpoints.
        """
        raise NotImplementedError

    def publish(
        self,
        transfer_id: str,
        snapshot: Snapshot,
        target: str,
        *,
        output: bytes,
        verify: bool,
    ) -> None:
        """Check the received snapshot, and give it its final name, durably.

        :param output: of the command of :meth:`receive`.
        :param verify: check it again under its final name.
        :raises WrongArrival: if it is not the snapshot that was sent.
        """

    def checkpoint(self, transfer_id: str, snapshot: Snapshot) -> Checkpoint | None:
        """Find the checkpoint of an interrupted transfer; end its receiver first.

        :raises CommandFailed: if a receiver that still runs cannot be ended.
        """
        return None
