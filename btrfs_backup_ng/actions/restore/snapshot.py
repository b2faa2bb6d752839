"""The restore of a whole snapshot: find it, plan, receive it under a new name.

The place of the snapshot is only read, without a lock or a note, so it may be mounted
read-only. If the snapshot is deleted meanwhile, the kernel keeps it until ``btrfs
send`` has read it. At the target, a restore is a transfer like any other, with
checkpoints, in the directory that gets the restored snapshot.

- The parent is any snapshot of the place that the target's filesystem has unchanged, in
  any directory (``parent``). The best parent is the wanted snapshot itself: the stream
  of ``btrfs send -p X X`` has only the command "make a snapshot of X", so no data
  moves, and the copy has the identity of X. Where the parent cannot be used after all,
  the snapshot is sent in full, if there is room.
- With ``--writable``, the final name is a writable snapshot of the received one (verb
  ``writable``), without a received UUID. Its ``.btrfs-backup-ng/snapshots`` has a
  read-only snapshot of the same, with the name and the origin that it has at the place.
  This is the parent of the next backup, to each destination that has it.
- A snapshot that was written to is not restored, as the copy would have a false
  identity. With ``--force`` it is, as a writable subvolume without any identity of it.
"""

import logging
import os
import shlex
from contextlib import AbstractContextManager, nullcontext

from btrfs_backup_ng.__util__ import BackupError, Refused, UsageError, attempt, visible
from btrfs_backup_ng.actions.restore.find import Chosen
from btrfs_backup_ng.actions.restore.parent import (
    Parent,
    find_parent,
    is_about_parent,
    received_copy,
)
from btrfs_backup_ng.core.events import Sent
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import Incremental, TransferOptions, Waiting
from btrfs_backup_ng.core.plan import Transfer, WhyFull
from btrfs_backup_ng.core.value import Value, replace
from btrfs_backup_ng.endpoint.btrfs import BackupDirectory
from btrfs_backup_ng.endpoint.common import Place
from btrfs_backup_ng.host.entry import STATE, plain
from btrfs_backup_ng.place import preflight, room
from btrfs_backup_ng.place.locks import Holder
from btrfs_backup_ng.process.interruption import last_steps
from btrfs_backup_ng.session.session import Session
from btrfs_backup_ng.transfer import size
from btrfs_backup_ng.transfer.delivery import Delivery
from btrfs_backup_ng.transfer.route import Route, choose_route
from btrfs_backup_ng.wire import verbs

log = logging.getLogger(__name__)

#: The snapshot folder of a source; a writable restored subvolume has its first there.
SNAPSHOTS = f"{STATE}/snapshots"


class RestoreRequest(Value):
    """The options of a restore.

    :ivar to: an existing directory, or the new path of the restored snapshot.
    :ivar writable: make a writable subvolume, ready to be backed up.
    :ivar replaces: path, on the host of ``to``, of the subvolume that it will replace;
        "": the path of the source, if that is known.
    :ivar wait_s: longest wait for a lock.
    """

    to: Location
    writable: bool
    replaces: str
    options: TransferOptions
    wait_s: float


class SpaceNeeded(Value):
    """The size of a restore, and the space that it needs.

    :ivar size_bytes: estimate of its stream; ``None`` if it is not known.
    :ivar space_bytes: at the target, without the parts that have arrived.
    :ivar expendable: interrupted transfers there to delete first.
    """

    size_bytes: int | None
    space_bytes: int
    expendable: tuple[Waiting, ...] = ()


class Restoration(Value):
    """The restore of one snapshot; made by :func:`plan_restore`.

    :ivar chosen: the snapshot to restore.
    :ivar target: the directory that gets the restored snapshot.
    :ivar parent: of the transfer.
    """

    chosen: Chosen
    request: RestoreRequest
    session: Session
    target: Place
    delivery: Delivery
    transfer: Transfer
    parent: Parent | None
    needs: SpaceNeeded

    @property
    def place(self) -> Location:
        """Return the location of the restored snapshot."""
        return self.target.location.join(self.transfer.target)

    @property
    def size_bytes(self) -> int | None:
        """Return the estimate of the stream's size, or None if it is not known."""
        return self.needs.size_bytes

    def exact_size(self) -> int | None:
        """Return the exact size of the stream in bytes, or else the estimate."""
        route = self.delivery.route
        stream = self.transfer.snapshot, self.transfer.parent, route.protocol
        exact = attempt(lambda: size.stream_size(route.source, *stream))
        return self.size_bytes if isinstance(exact, BackupError) else exact

    def run(self) -> Sent:
        """Restore the snapshot, completely and durably.

        :raises Busy: if another run works on the target.
        :raises BackupError: if it failed; then nothing has the final name.
        """
        with Holder(self.session.now) as holder:
            with holder.holding(self.target, self.request.wait_s):
                try:
                    return self._deliver(holder)
                finally:
                    self._tidy()

    def _deliver(self, holder: Holder) -> Sent:
        target, transfer, session = self.target, self.transfer, self.session
        room.drop_expired(
            target,
            self.delivery.route.resumable(transfer),
            session.now,
            self.request.options.staging_max_age,
            is_sure=session.is_synchronised,
        )
        target.discard(target.facts.leftovers, keep_sealed=True)
        name = transfer.snapshot.name
        holder.note(f"restoring {name} to {self.place.path}", target)
        self.make_room()
        try:
            with self._with_parent():
                return self.delivery.send(transfer, self.size_bytes, holder)
        except BackupError as error:
            if not transfer.parent or not is_about_parent(error):
                raise
            text = f"{visible(transfer.parent.name)} cannot be the parent there"
            session.warn(
                str(target.location), f"{text}: {error.message}; sending in full"
            )
        whole = self._in_full()
        whole.make_room()
        return whole.delivery.send(whole.transfer, whole.size_bytes, holder)

    def _with_parent(self) -> AbstractContextManager[None]:
        """Have the parent where ``btrfs receive`` finds it as source of its data, too.

        :raises ParentUnusable: if that is not possible.
        """
        parent = self.parent
        if not parent or parent.is_received or parent.snapshot == self.chosen.snapshot:
            return nullcontext()
        return received_copy(parent.snapshot, self.delivery.route, self.session.now)

    def _in_full(self) -> "Restoration":
        """Return the same restore without a parent.

        :raises Refused: if there is no room for it.
        """
        why = WhyFull.NOTHING_COMMON
        transfer = replace(self.transfer, parent=None, why_full=why)
        self.target.look()
        needs = _find_needs(transfer, self.delivery.route, self.session)
        return replace(self, transfer=transfer, parent=None, needs=needs)

    def make_room(self) -> None:
        """Delete interrupted transfers until there is room.

        :raises Refused: if that was not enough.
        """
        target, options, needs = self.target, self.request.options, self.needs
        if not needs.expendable:
            return

        def fits(free: int) -> bool:
            return preflight.fits(needs.space_bytes, free, options)

        def log_deleted(waiting: Waiting) -> None:  # the user was warned before
            log.info("discarded %s", room.about(waiting))

        room.make_room(target, needs.expendable, fits, log_deleted)
        free, place = target.facts.size_free, str(target.location)
        name = self.chosen.snapshot.name
        preflight.check_space(place, name, needs.space_bytes, free, options)

    def _tidy(self) -> None:
        """Remove the state directory, unless it has records or resumable transfers."""
        target = self.target
        with last_steps():
            done = attempt(lambda: target.host.call(verbs.TIDY, target.state))
        if isinstance(done, BackupError):
            log.warning("%s is kept: %s", visible(plain(target.state)), done)


def plan_restore(
    chosen: Chosen, request: RestoreRequest, session: Session
) -> Restoration:
    """Look at the target and plan; change nothing.

    :raises Refused: if the snapshot cannot be restored there.
    """
    if chosen.is_changed:
        request = replace(request, writable=True)
    target, name = _find_target(chosen, request, session)
    if name == STATE:
        path = str(target.location.join(name))
        raise Refused(f"{visible(path)} is reserved for the records of this program")
    preflight.check(target, session, preflight.TARGET)
    there, _ = target.backups.listing()
    if name in there.names:
        _refuse_taken(target.location.join(name))
    if request.writable:
        is_alone = chosen.is_changed
        target.backups = BackupDirectory(target, verbs.WRITABLE, is_alone=is_alone)
    parent, why = None, None
    if request.options.incremental is Incremental.NEVER:
        why = WhyFull.ASKED
    elif not (parent := find_parent(chosen, target, there)):
        received = any(s.received_uuid for s in there.snapshots)
        why = WhyFull.NOTHING_COMMON if received else WhyFull.FIRST
    base = parent.snapshot if parent else None
    transfer = Transfer(chosen.snapshot, base, name, why)
    route = choose_route(chosen.endpoint, target.backups, request.options)
    needs = _find_needs(transfer, route, session)
    parts = target, Delivery(route, session), transfer, parent, needs
    return Restoration(chosen, request, session, *parts)


def look_at_target(location: Location, session: Session) -> Place:
    """Look at the path of a restore, which may be missing.

    :raises UsageError: if it is a command.
    """
    if location.is_command:
        raise UsageError("a command (shell://) cannot take a restored snapshot")
    return preflight.look_at(location, session, preflight.PATH, with_snapshots=False)


def _find_target(
    chosen: Chosen, request: RestoreRequest, session: Session
) -> tuple[Place, str]:
    """Return the directory for the restored snapshot, and its name there."""
    to, name = request.to, chosen.snapshot.name
    target = look_at_target(to, session)
    if target.facts.is_directory:
        if request.writable and target.facts.is_subvolume:
            _check_not_done(chosen, target, session)
        return target, name
    if target.facts.exists:
        _refuse_taken(to)
    directory, name = os.path.split(to.path)
    target = look_at_target(to.join(directory), session)
    if not target.facts.is_directory:
        words = visible(shlex.join(["mkdir", "-p", directory]))
        raise Refused(f"{target} does not exist", hint=f"Create it first:  {words}")
    return target, name


def _check_not_done(chosen: Chosen, target: Place, session: Session) -> None:
    """Check that the target is not itself restored from this snapshot, or its source.

    :raises Refused: if it is: probably the same command ran before.
    """
    inside = look_at_target(target.location.join(SNAPSHOTS), session)
    if inside.facts.is_directory:
        there, _ = inside.backups.listing()
        if chosen.snapshot.origin in {snapshot.origin for snapshot in there.snapshots}:
            raise Refused(
                f"{target} already has this snapshot, as its source or since"
                " it was restored",
                hint="Choose another path:  --to PATH",
            )


def _refuse_taken(place: Location) -> None:
    raise Refused(
        f"{visible(str(place))} already exists; nothing was overwritten",
        hint="Choose another path:  --to PATH",
    )


def _find_needs(transfer: Transfer, route: Route, session: Session) -> SpaceNeeded:
    """Estimate a transfer, and check that it fits if that is asked for.

    :raises Refused: if it does not fit.
    """
    size_bytes = _estimate(transfer, route)
    if route.options.check_space and size_bytes is not None:
        return _check_space(transfer, route, size_bytes, session)
    return SpaceNeeded(size_bytes, 0)


def _estimate(transfer: Transfer, route: Route) -> int | None:
    """Return the size of a stream in bytes: exact if that is quick, else estimated.

    :returns: ``None`` if it is not known; that is no reason not to try.
    """
    if transfer.parent == transfer.snapshot:
        return 0
    ends = route.source, transfer.snapshot, transfer.parent
    if route.source.place.location.is_here:
        exact = attempt(lambda: size.quick_stream_size(*ends, route.protocol))
        if isinstance(exact, int):
            return exact
    estimate = attempt(lambda: size.written_since(*ends))
    if isinstance(estimate, BackupError):
        name = visible(transfer.snapshot.name)
        log.warning("the size of %s is not known: %s", name, estimate)
        return None
    return estimate


def _check_space(
    transfer: Transfer, route: Route, size_bytes: int, session: Session
) -> SpaceNeeded:
    """Check that a transfer fits, if necessary by deleting interrupted transfers.

    :raises Refused: if it does not fit even then.
    """
    target, options = route.sink.place, route.options
    needed, free = size_bytes, target.facts.size_free

    def fits(free: int) -> bool:
        return preflight.fits(needed, free, options)

    expendable: tuple[Waiting, ...] = ()
    if not fits(free) and needed:  # an estimate counts reflinks
        ends = route.source, transfer.snapshot, transfer.parent
        exact = attempt(lambda: size.stream_size(*ends, route.protocol))
        needed = needed if isinstance(exact, BackupError) else min(needed, exact)
    if not fits(free):
        resumable = route.resumable(transfer)
        needed = max(0, needed - target.safe_bytes(resumable))
        if not fits(free):
            beside = options.checkpoint_interval
            found = room.find_expendable(target, resumable, fits, beside)
            expendable, free = room.first_needed(found, free, fits)
    place = str(target.location)
    for one in expendable:
        text = f"{target}: {room.about(one)} is discarded: its space is needed"
        session.warn(place, text)
    name = transfer.snapshot.name
    for note in preflight.check_space(place, name, needed, free, options):
        session.emit(note)
    return SpaceNeeded(size_bytes, needed, expendable)
