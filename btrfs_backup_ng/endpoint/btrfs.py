"""Snapshots as subvolumes in one directory of a place."""

import os
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from operator import attrgetter
from uuid import UUID

from btrfs_backup_ng.__util__ import BackupError, visible
from btrfs_backup_ng.btrfs.listing import parse_children
from btrfs_backup_ng.btrfs.parse import OutputNotUnderstood, Shown, parse_show
from btrfs_backup_ng.core import codecs
from btrfs_backup_ng.core.cleared import VERIFIED, parse_cleared
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import Integrity, Listing, Role, Snapshot
from btrfs_backup_ng.core.naming import time_in
from btrfs_backup_ng.core.record import Content
from btrfs_backup_ng.core.value import replace
from btrfs_backup_ng.endpoint import staging
from btrfs_backup_ng.endpoint.common import (
    Endpoint,
    Place,
    WrongArrival,
    new_transfer_id,
)
from btrfs_backup_ng.endpoint.staging import Checkpoint
from btrfs_backup_ng.host.common import Host
from btrfs_backup_ng.host.entry import below, plain
from btrfs_backup_ng.process.command import Command, CommandFailed
from btrfs_backup_ng.sendstream.names import is_checkpoint
from btrfs_backup_ng.wire import grammar, verbs

#: Size of the names in one command. 64 KiB are safe with ssh (Linux limits one argument
#: to 128 KiB, MAX_ARG_STRLEN), and the script needs some of that.
_BATCH_BYTES = 48 * 1024
#: The name of a snapshot in a directory, if btrfs makes it from the path
#: ``/proc/PID/fd/5`` (verb ``snapshot``).
_UNNAMED = "5"

#: Limit on the snapshots of the source's line to look for elsewhere: the newest ones.
_RELATIVES = 20


class WentAstray(BackupError):
    """A snapshot did not appear in the directory in which it was made."""


class BtrfsDirectory(Endpoint):
    """Snapshots as subvolumes in one directory, on any host."""

    lists = True
    takes_parents = True
    checks = True

    def __init__(self, place: Place, directory: str) -> None:
        super().__init__(place)
        self.directory = directory
        self._cleared: dict[int, int] = {}  # id -> last change that did not count

    def listing(self, *records: str) -> tuple[Listing, tuple[Content, ...]]:
        """List all subvolumes, and read records."""
        place, names = self.place, list(dict.fromkeys((VERIFIED, *records)))
        seen, contents = place.host.listing(self.directory, place.state, *names)
        found = dict(zip(names, contents, strict=True))
        cleared = parse_cleared(found[VERIFIED])
        self._cleared = {
            s.tree_id: cleared[s.uuid] for s in seen.snapshots if s.uuid in cleared
        }
        if self._cleared:
            seen = replace(seen, snapshots=tuple(map(self._judged, seen.snapshots)))
        return seen, tuple(found[name] for name in records)

    def _judged(self, snapshot: Snapshot) -> Snapshot:
        """Return a listed snapshot with its integrity, which may have been cleared."""
        if 0 < snapshot.changed <= self._cleared.get(snapshot.tree_id, 0):
            return replace(snapshot, integrity=Integrity.INTACT)
        return snapshot

    def look_closely(self, tree_ids: Sequence[int], **how: bool) -> Integrity:
        """Return the worst integrity of some subvolumes of the filesystem."""
        look = self.place.host.look_closely
        return look(self._standpoint, tree_ids, self._cleared, **how)

    @property
    def _standpoint(self) -> str:
        """Return an existing directory of the filesystem."""
        return self.directory

    def last_change(self, tree_id: int) -> int:
        """Return the transaction of the last change of a subvolume; 0 if not known."""
        return self.place.host.last_change(self.directory, tree_id)

    def delete(self, snapshots: Sequence[Snapshot], *, convert_rw: bool) -> None:
        """Delete snapshots by their ids."""
        names = [snapshot.name for snapshot in snapshots]
        for batch in batches(names) if convert_rw else ():
            self.place.call(verbs.UNSEAL, self.directory, *batch)
        ids = " ".join(str(snapshot.tree_id) for snapshot in snapshots)
        listed = ids + "\n" + "".join(f"./{name}\0" for name in names)
        raw = listed.encode(errors="surrogateescape")
        self.place.call(verbs.DELETE, self.directory, stdin=raw)

    def send(
        self,
        snapshot: Snapshot,
        parent: Snapshot | None,
        protocol: str,
        codec: str,
        checkpoints: Sequence[str] = (),
    ) -> Command:
        base = self.path(parent.name) if parent else ""
        path = self.path(snapshot.name)
        words = (protocol, base, path, self._codec_there(codec))
        extra: tuple[str, ...] = ("",)
        host = self.place.host
        if checkpoints and host.name:
            from btrfs_backup_ng.sendstream.filter import portable  # here: ssh alone

            extra = (portable(), *checkpoints)
        return host.command(verbs.SEND, *words, *extra, label="btrfs send")

    def _codec_there(self, codec: str) -> str:
        """Return the codec that the verb applies; on this machine, a stage does it."""
        return codec if self.place.host.name else codecs.NONE

    def recover_stray(self, parent: UUID, target: str, base: str) -> WentAstray:
        """Delete a snapshot that appeared in another directory than asked for.

        A symbolic link had appeared at its name, and btrfs followed it.

        :param parent: UUID of the subvolume that was snapshotted.
        :param base: the name that btrfs gives the snapshot in a directory.
        :returns: the error to raise.
        """
        path = self.place.location.path
        answer = self.place.call(verbs.CHILDREN, path).stdout
        children = [
            child
            for child in parse_children(answer)
            if child.parent == parent and os.path.basename(child.path) == base
        ]
        stray = max(children, key=lambda child: child.tree_id, default=None)
        where = "in an unknown directory"
        if stray:
            self.place.call(verbs.REMOVE, path, str(stray.tree_id))
            where = f"at {visible(stray.path)}, where it was deleted"
        return WentAstray(
            f"{visible(target)} did not appear in {visible(plain(self.directory))} but"
            f" {where}: a link had appeared at that name",
            hint="Find out which user can write to that directory, then run the command"
            " again.",
        )


class SnapshotFolder(BtrfsDirectory):
    """The folder with the snapshots of a source."""

    role = Role.SNAPSHOT

    @property
    def _exists(self) -> bool:
        return self.place.facts.has_folder or self.place.is_prepared

    def listing(self, *records: str) -> tuple[Listing, tuple[Content, ...]]:
        """List the folder, empty if it is missing (before the first run)."""
        if not self._exists:
            return Listing(), (None,) * len(records)
        return super().listing(*records)

    @property
    def _standpoint(self) -> str:
        return self.directory if self._exists else self.place.location.path

    def relatives(self, origins: Collection[UUID]) -> tuple[Snapshot, ...]:
        """Find snapshots of the source's line that ``btrfs send`` can reach."""
        place, uuid = self.place, self.place.facts.uuid
        if not uuid:
            return ()
        line = place.subvolumes().line_of(uuid)
        related = (s for s in line if s.origin in origins)
        newest = sorted(related, key=attrgetter("generation"))[-_RELATIVES:]
        if not newest:
            return ()
        where = (place.location.path, place.facts.mount_point)
        numbers = [str(snapshot.tree_id) for snapshot in newest]
        raw = place.call(verbs.REACH, *where, *numbers).stdout
        paths = [os.fsdecode(path) for path in raw.split(b"\0")[:-1]]
        return tuple(
            replace(snapshot, name=path, created=time_in(os.path.basename(path)))
            for snapshot, path in zip(newest, paths, strict=True)
            if path
        )

    def take_snapshot(self, name: str, now: datetime) -> Snapshot:
        """Make a read-only snapshot of the source, with a new identity.

        :param now: aware.
        :raises NameTaken: if the name is in use.
        :raises WentAstray: if it appeared in another directory; it was deleted.
        """
        place = self.place
        identity = "fresh" if place.facts.received_uuid else "keep"
        paths = (place.location.path, self.directory, name, place.state)
        parent = place.facts.uuid
        try:
            transfer_id = new_transfer_id(now)
            answer = place.call(verbs.SNAPSHOT, *paths, identity, transfer_id).stdout
        except CommandFailed as error:
            if error.completed.status != grammar.ASTRAY or not parent:
                raise
            raise self.recover_stray(parent, name, _UNNAMED) from error
        made_of, _, text = answer.partition(b"\0")
        shown = _parse_show(text)
        parent = _parse_show(made_of).uuid if made_of else parent
        if parent and shown.parent_uuid != parent:
            raise self.recover_stray(parent, name, _UNNAMED)
        return Snapshot(
            name=name,
            created=time_in(name) or now,
            uuid=shown.uuid,
            parent_uuid=place.facts.uuid,
            received_uuid=shown.received_uuid,
            generation=shown.made,
        )


class BackupDirectory(BtrfsDirectory):
    """The directory of the backups at a destination: the place itself.

    :ivar publishing: the verb that gives an arrived snapshot its final name.
    :ivar is_alone: for the verb ``writable``: without a read-only snapshot in it.
    """

    def __init__(
        self,
        place: Place,
        publishing: grammar.Verb = verbs.PUBLISH,
        *,
        is_alone: bool = False,
    ) -> None:
        super().__init__(place, place.location.path)
        self.publishing = publishing
        self.is_alone = is_alone

    def receive(
        self,
        transfer_id: str,
        snapshot: Snapshot,
        codec: str,
        useless: Sequence[str] = (),
        *,
        is_short: bool = False,
    ) -> Command:
        """Return ``btrfs receive`` into a staging directory of its own."""
        place, batch = self.place, next(batches(useless), [])
        words = [place.state, transfer_id, snapshot.name, self._codec_there(codec)]
        words += batch
        is_short = is_short and place.facts.mount_root == "/"
        label = "btrfs receive"
        return place.host.command(verbs.RECEIVE, *words, label=label, is_short=is_short)

    def publish(
        self,
        transfer_id: str,
        snapshot: Snapshot,
        target: str,
        *,
        output: bytes,
        verify: bool,
    ) -> None:
        """Check the received snapshot, and rename it into the directory."""
        place = self.place
        raw, _, text = output.partition(b"\0\0")
        names = [os.fsdecode(name) for name in raw.split(b"\0")]
        others = [name for name in names if is_checkpoint(os.fsencode(name))]
        if sorted(names) != sorted([*others, snapshot.name]):
            found = ", ".join(map(visible, names))
            raise WrongArrival(
                f"the stream created {found or 'no subvolume'} at {self}"
            )
        arrived = _parse_show(text)
        _check_identity(arrived, snapshot, f"the snapshot received at {self}")
        batch = next(batches(others), [])
        words = (place.state, transfer_id, snapshot.name, self.directory, target)
        check = "alone" if self.is_alone else "1" if verify else "0"
        try:
            done = place.call(self.publishing, *words, check, *batch)
        except CommandFailed as error:
            if error.completed.status != grammar.ASTRAY:
                raise
            raise self.recover_stray(arrived.uuid, target, snapshot.name) from error
        if len(batch) < len(others):
            place.discard([transfer_id])
        if done.stdout:
            published = _parse_show(done.stdout)
            if published.parent_uuid != arrived.uuid:
                raise self.recover_stray(arrived.uuid, target, snapshot.name)
            if not self.is_alone:
                _check_identity(published, snapshot, f"{visible(target)} at {self}")

    def checkpoint(self, transfer_id: str, snapshot: Snapshot) -> Checkpoint | None:
        """Find the newest seal of a transfer."""
        answer = self.place.call(
            verbs.REAP, self.place.state, transfer_id, snapshot.name
        ).stdout
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


def btrfs_place(location: Location, host: Host, folder: str | None) -> Place:
    """Return a place, without a look at it.

    :param folder: of its own snapshots, relative to it or absolute; ``None`` if only
        its backups are needed.
    """
    place = Place(location, host)
    place.backups = BackupDirectory(place)
    if folder is not None:
        place.snapshots = SnapshotFolder(place, folder_in(location.path, folder))
    return place


def folder_in(place: str, folder: str) -> str:
    """Return the path of a snapshot folder, as ``host.entry`` enters it.

    :param folder: absolute, or relative to the place.
    """
    if folder.startswith("/"):
        return folder.rstrip("/") or "/"
    parts = [part for part in folder.split("/") if part not in ("", ".")]
    return below(place, "/".join(parts)) if parts else place


def batches(names: Sequence[str]) -> Iterator[list[str]]:
    """Split names into groups, each short enough for one command."""
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
        raise WrongArrival(f"unexpected output of {error}") from error


def _check_identity(shown: Shown, snapshot: Snapshot, name: str) -> None:
    origin: UUID = snapshot.origin
    if not shown.read_only or shown.received_uuid != origin:
        raise WrongArrival(
            f"{name} is not the snapshot that was sent: read-only {shown.read_only},"
            f" received UUID {shown.received_uuid} instead of {origin}"
        )
