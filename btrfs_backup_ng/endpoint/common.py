"""How snapshots are kept at a place: as subvolumes of a btrfs directory."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Protocol
from uuid import UUID

from btrfs_backup_ng.__util__ import BackupError, visible
from btrfs_backup_ng.btrfs.listing import parse_children
from btrfs_backup_ng.btrfs.parse import (
    OutputNotUnderstood,
    Shown,
    explain,
    parse_show,
)
from btrfs_backup_ng.core import codecs
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import Facts, Integrity, Listing, Snapshot, Waiting
from btrfs_backup_ng.core.naming import Naming
from btrfs_backup_ng.core.record import Content
from btrfs_backup_ng.endpoint import staging
from btrfs_backup_ng.endpoint.staging import Checkpoint
from btrfs_backup_ng.host.common import Host, Say
from btrfs_backup_ng.host.entry import (
    STATE,
    NotOurs,
    below,
    plain,
    refusal,
    refusal_by_verb,
)
from btrfs_backup_ng.process.command import (
    Command,
    CommandFailed,
    Completed,
)
from btrfs_backup_ng.sendstream.checkpoint import is_checkpoint
from btrfs_backup_ng.sendstream.filter import portable
from btrfs_backup_ng.wire import grammar, verbs

#: What names may take in one command: 64 KiB are safe with ssh (transfer limit of one
#: argument in Linux: 128 KiB, MAX_ARG_STRLEN), and the script needs some of it.
_BATCH_BYTES = 48 * 1024


#: The name that btrfs gives a snapshot of ``/proc/PID/fd/5`` (verb ``snapshot``) in a
#: directory.
_UNNAMED = "5"


class WrongArrival(BackupError):
    """What a transfer left in staging is not the snapshot that was sent."""


class NameTaken(BackupError):
    """Something of that name appeared at the destination meanwhile."""


class WentAstray(BackupError):
    """A snapshot did not appear in the directory in which it was made."""


class Sink(Protocol):
    """Where a stream ends."""

    location: Location
    facts: Facts

    def sink(
        self,
        transfer_id: str,
        snapshot: Snapshot,
        codec: str,
        useless: Sequence[str] = (),
    ) -> Command:
        """Return the command that takes a stream, to where nobody looks for backups.

        :param codec: what it has to undo, if it is behind a wire.
        :param useless: names that an earlier attempt left there, to be deleted.
        """

    def accept(
        self,
        transfer_id: str,
        snapshot: Snapshot,
        target: str,
        *,
        output: bytes,
        verify: bool,
    ) -> None:
        """Check what arrived, and publish it under its final name.

        :param output: what the sink's command printed.
        :param verify: look at it once more under its final name.
        :raises WrongArrival: if it is not what was sent.
        """

    def discard(
        self, transfer_ids: Sequence[str], *, keep_sealed: bool = False
    ) -> tuple[str, ...]:
        """Drop what unfinished transfers left; again does nothing.

        :param keep_sealed: not what could go on from a checkpoint.
        :returns: those that somebody still works on, and that stay.
        """

    def waiting(self, transfer_ids: Sequence[str]) -> tuple[Waiting, ...]:
        """Look at what unfinished transfers left; changes nothing."""


def new_transfer_id(now: datetime) -> str:
    """Make the beginning of a transfer's id: no two are the same.

    :param now: aware.
    """
    return staging.first_part(now, os.urandom(4))


class BtrfsEndpoint:
    """Snapshots as subvolumes in one directory, on whatever host.

    :ivar directory: where they are, as ``entry`` enters it.
    :ivar state: where our bookkeeping about them is, likewise.
    :ivar facts: what :meth:`look` found.
    :ivar publishing: the verb that gives what arrived its final name.
    """

    facts: Facts

    def __init__(
        self, location: Location, host: Host, naming: Naming, folder: str | None
    ) -> None:
        """Describe a place; nothing is looked at yet.

        :param folder: where the snapshots of a source go, relative to it or
            absolute; ``None`` for a destination, which keeps them itself.
        """
        self.location = location
        self.host = host
        self.is_source = folder is not None
        self.directory = _folder_in(location.path, folder or "")
        self.state = below(location.path, STATE)
        self.publishing = verbs.PUBLISH
        self._naming = naming
        self._is_prepared = False

    def __str__(self) -> str:
        return visible(str(self.location))

    def look(self) -> Facts:
        """Find out about the place; changes nothing."""
        folder = self.directory if self.is_source else ""
        self.facts = self.host.look(self.location.path, folder=folder)
        return self.facts

    @contextmanager
    def lock(self, wait_s: float, who: str) -> Iterator[Say]:
        """Hold the lock of this place, whose bookkeeping is made ready for it.

        At a source that is a subvolume of its own: so it is not in the backups.

        :raises LockHeld: if another run has it for longer than ``wait_s``.
        """
        preparation: tuple[str, ...] = ()
        if not self.facts.has_state or self.is_source and not self.facts.has_folder:
            kind = "subvolume" if self.is_source else "directory"
            preparation = (kind, self.directory if self.is_source else "")
        with ExitStack() as stack:
            lock = self.host.lock(self.state, wait_s, who, preparation)
            with self._explaining():
                say = stack.enter_context(lock)
            self._is_prepared = True
            yield say

    def listing(self, name: str) -> tuple[Listing, Content]:
        """Look at all snapshots, and read a file of our bookkeeping.

        :returns: the snapshots, and what lies under the name of the file.
        :raises ListingFailed: if it cannot; nothing is known then.
        """
        seen, (content,) = self.listing_with(name)
        return seen, content

    def listing_with(self, *names: str) -> tuple[Listing, tuple[Content, ...]]:
        """Do the same with several files."""
        if self.is_source and not (self.facts.has_folder or self._is_prepared):
            return Listing(), (None,) * len(names)  # a rehearsal of the first run
        seen, contents = self.host.listing(self.directory, self.state, *names)
        dated = tuple(
            replace(s, created=self._naming.time_of(s.name) or s.created)
            for s in seen.snapshots
        )
        return replace(seen, snapshots=dated), contents

    def look_closely(self, tree_ids: Sequence[int], **how: bool) -> Integrity:
        """Find out whether all of some subvolumes of the filesystem are unchanged."""
        return self.host.look_closely(self.directory, tree_ids, **how)

    def take_snapshot(self, name: str, now: datetime) -> Snapshot:
        """Make a read-only snapshot of the source, with an identity of its own.

        :raises NameTaken: if the name is in use.
        """
        identity = "fresh" if self.facts.received_uuid else "keep"
        place, transfer_id = self.location.path, new_transfer_id(now)
        words = (place, self.directory, name, self.state, identity, transfer_id)
        parent = self.facts.uuid
        try:
            answer = self._call(verbs.SNAPSHOT, *words).stdout
        except CommandFailed as error:
            if error.completed.status != grammar.ASTRAY or not parent:
                raise
            raise self._recover_stray(parent, name, _UNNAMED) from error
        made_of, _, text = answer.partition(b"\0")
        shown = _parse_show(text)
        parent = _parse_show(made_of).uuid if made_of else parent
        if parent and shown.parent_uuid != parent:
            raise self._recover_stray(parent, name, _UNNAMED)
        return Snapshot(
            name=name,
            created=self._naming.time_of(name) or now,
            uuid=shown.uuid,
            parent_uuid=self.facts.uuid,
            received_uuid=shown.received_uuid,
            generation=shown.made,
        )

    def source(
        self,
        snapshot: Snapshot,
        parent: Snapshot | None,
        protocol: str,
        codec: str,
        checkpoints: Sequence[str] = (),
    ) -> Command:
        """Return the command that emits a snapshot as a stream.

        :param protocol: ``1``, ``2``, or ``2c`` with compressed data as it is.
        :param codec: what it is to be compressed with, if that is behind a wire.
        :param checkpoints: what ``checkpoints`` wants to know, likewise.
        """
        base = self.path(parent.name) if parent else ""
        path = self.path(snapshot.name)
        words = (protocol, base, path, self._applied(codec))
        extra: tuple[str, ...] = ("",)
        if checkpoints and self.host.name:
            extra = (portable(), *checkpoints)
        return self.host.command(verbs.SEND, *words, *extra, label="btrfs send")

    def sink(
        self,
        transfer_id: str,
        snapshot: Snapshot,
        codec: str,
        useless: Sequence[str] = (),
    ) -> Command:
        """Return the command that receives into a staging directory of its own."""
        words = (self.state, transfer_id, snapshot.name, self._applied(codec))
        batch = next(_batches(useless), [])
        return self.host.command(verbs.RECEIVE, *words, *batch, label="btrfs receive")

    def _applied(self, codec: str) -> str:
        """Return what the host itself does of a codec: on this one a stage does it."""
        return codec if self.host.name else codecs.NONE

    def accept(
        self,
        transfer_id: str,
        snapshot: Snapshot,
        target: str,
        *,
        output: bytes,
        verify: bool,
    ) -> None:
        """Check what arrived, then publish it; durable when this returns."""
        raw, _, text = output.partition(b"\0\0")
        names = [os.fsdecode(name) for name in raw.split(b"\0")]
        others = [name for name in names if is_checkpoint(os.fsencode(name))]
        if sorted(names) != sorted([*others, snapshot.name]):
            found = ", ".join(map(visible, names))
            raise WrongArrival(f"the stream brought {found or 'nothing'} to {self}")
        arrived = _parse_show(text)
        _check_identity(arrived, snapshot, f"what arrived at {self}")
        batch = next(_batches(others), [])
        words = (self.state, transfer_id, snapshot.name, self.directory, target)
        try:
            done = self._call(self.publishing, *words, "1" if verify else "0", *batch)
        except CommandFailed as error:
            if error.completed.status != grammar.ASTRAY:
                raise
            raise self._recover_stray(arrived.uuid, target, snapshot.name) from error
        if len(batch) < len(others):
            self.discard([transfer_id])
        if done.stdout:
            published = _parse_show(done.stdout)
            if published.parent_uuid != arrived.uuid:
                raise self._recover_stray(arrived.uuid, target, snapshot.name)
            _check_identity(published, snapshot, f"{visible(target)} at {self}")

    def _recover_stray(self, parent: UUID, target: str, base: str) -> WentAstray:
        """Delete the snapshot that appeared somewhere else than it was made.

        A link had appeared at its name, and btrfs followed that.

        :param parent: UUID of the subvolume that it is a snapshot of.
        :param base: the name that btrfs gives it in a directory.
        """
        answer = self._call(verbs.CHILDREN, self.location.path).stdout
        children = [
            child
            for child in parse_children(answer)
            if child.parent == parent and os.path.basename(child.path) == base
        ]
        stray = max(children, key=lambda child: child.tree_id, default=None)
        where = "somewhere else"
        if stray:
            self._call(verbs.REMOVE, self.location.path, str(stray.tree_id))
            where = f"at {visible(stray.path)}, and was deleted there"
        return WentAstray(
            f"{visible(target)} did not appear in {visible(plain(self.directory))} but"
            f" {where}: the name was taken by then",
            hint="See which user may write there and took it, and run the command"
            " again.",
        )

    def discard(
        self, transfer_ids: Sequence[str], *, keep_sealed: bool = False
    ) -> tuple[str, ...]:
        """Drop what unfinished transfers left, but not one that still runs."""
        ids = staging.ours(transfer_ids)
        if not ids:
            return ()
        which = "unsealed" if keep_sealed else "all"
        running = self._call(verbs.DISCARD, self.state, which, *ids).stdout
        return tuple(name.decode() for name in running.split(b"\0") if name)

    def waiting(self, transfer_ids: Sequence[str]) -> tuple[Waiting, ...]:
        """Look at what unfinished transfers left; changes nothing."""
        ids = staging.ours(transfer_ids)
        if not ids:
            return ()
        answer = self._call(verbs.WAITING, self.state, *ids).stdout
        fields = iter(answer.decode(errors="surrogateescape").split("\0"))
        found = []
        for transfer_id in iter(lambda: next(fields, ""), ""):
            running = next(fields, "") == "1"
            names = tuple(iter(lambda: next(fields, ""), ""))
            found.append(staging.waiting(transfer_id, names, running=running))
        return tuple(found)

    def checkpoint(self, transfer_id: str, snapshot: Snapshot) -> Checkpoint | None:
        """End what still works on a cut transfer, and find where it can go on.

        :raises CommandFailed: if something works on it that cannot be ended.
        """
        answer = self._call(verbs.REAP, self.state, transfer_id, snapshot.name).stdout
        raw, _, rest = answer.partition(b"\0\0")
        fields = rest.split(b"\0")
        shown = {
            os.fsdecode(name): _parse_show(text)
            for name, text in zip(fields[::2], fields[1::2], strict=False)
        }
        seals = {
            name: (seal.received_uuid, seal.tree_id)
            for name, seal in shown.items()
            if seal.read_only and seal.received_uuid
        }
        names = [os.fsdecode(name) for name in raw.split(b"\0") if name]
        return staging.newest_checkpoint(transfer_id, snapshot.name, names, seals)

    def held(self) -> str | None:
        """Return what who works on this place says of itself; ``None``: nobody does."""
        with self._explaining():
            return self.host.held(self.state)

    def delete(self, snapshots: Sequence[Snapshot], *, convert_rw: bool) -> None:
        """Delete snapshots, durably; ``deletion`` looks whether they are gone.

        :param convert_rw: make them writable first, for kernels that want it.
        """
        names = [snapshot.name for snapshot in snapshots]
        for batch in _batches(names) if convert_rw else ():
            self._call(verbs.UNSEAL, self.directory, *batch)
        ids = " ".join(str(snapshot.tree_id) for snapshot in snapshots)
        listed = ids + "\n" + "".join(f"./{name}\0" for name in names)
        raw = listed.encode(errors="surrogateescape")
        self._call(verbs.DELETE, self.directory, stdin=raw)

    def sync(self) -> None:
        """Wait until the space of deleted snapshots is free."""
        self._call(verbs.SYNC, self.location.path)

    def write_note(self, name: str, content: bytes) -> None:
        """Replace a file of our bookkeeping, next to the snapshots it is about."""
        with self._explaining():
            self.host.put(self.state, name, content)

    def set_aside(self, name: str, new_name: str) -> None:
        """Move a file of our bookkeeping out of the way."""
        self._call(verbs.ASIDE, self.state, name, new_name)

    def path(self, name: str) -> str:
        """Return the path of a snapshot of that name, as ``entry`` enters it."""
        return name if name.startswith("/") else below(self.directory, name)

    def _call(
        self, verb: grammar.Verb, *arguments: str, stdin: bytes = b""
    ) -> Completed:
        with self._explaining():
            return self.host.call(verb, *arguments, stdin=stdin)

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Say what the failure of a command means for this place."""
        try:
            yield
        except CommandFailed as error:
            if error.completed.status == grammar.EXISTS:
                raise NameTaken(
                    f"a name that was free at {self} a moment ago is taken now",
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


def _folder_in(place: str, folder: str) -> str:
    """Return the directory that a folder for snapshots means."""
    if folder.startswith("/"):
        return folder.rstrip("/") or "/"
    parts = [part for part in folder.split("/") if part not in ("", ".")]
    return below(place, "/".join(parts)) if parts else place


def _batches(names: Sequence[str]) -> Iterator[list[str]]:
    """Cut names into lots, each short enough for one command."""
    batch: list[str] = []
    size = 0
    for name in names:
        size += len(grammar.encode(name)) + 1
        if batch and size > _BATCH_BYTES:
            yield batch
            batch, size = [], len(grammar.encode(name)) + 1
        batch.append(name)
    if batch:
        yield batch


def _parse_show(text: bytes) -> Shown:
    try:
        return parse_show(text.decode(errors="surrogateescape"))
    except OutputNotUnderstood as error:
        raise WrongArrival(f"what btrfs shows is not understood: {error}") from error


def _check_identity(shown: Shown, snapshot: Snapshot, what: str) -> None:
    origin: UUID = snapshot.origin
    if not shown.read_only or shown.received_uuid != origin:
        raise WrongArrival(
            f"{what} is not the snapshot that was sent: read-only {shown.read_only},"
            f" received UUID {shown.received_uuid} instead of {origin}"
        )
