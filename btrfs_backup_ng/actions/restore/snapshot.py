"""The way back of a whole snapshot: find it, plan, receive it under a new name.

The place that a snapshot comes from is only read: no lock, no note, so it may be
mounted read-only. Against a deletion meanwhile the kernel holds what ``btrfs send``
reads. At the target a restore is a transfer like any other, with checkpoints, in the
directory in which the new thing appears.

- A parent is any snapshot of the place whose origin the target's filesystem carries,
  anywhere, unchanged; the best is the wanted one itself: ``btrfs send -p X X`` says
  nothing but "a snapshot of X", so no data moves, and the copy still has the identity
  of X.
- With ``--writable`` the final name is a writable snapshot of what arrived (verb
  ``writable``), which carries no received UUID. In its ``.btrfs-backup-ng/snapshots``
  is a read-only snapshot of the same, under the name it has at the place and with its
  origin: that is what the next backup builds upon, at every destination that has it.
- A snapshot whose content was changed is not restored, as its copy would carry an
  identity that is not true.
- Files (``files``) are looked at on both sides first, then brought into a private
  directory in the target: by one ``cp`` here, by GNU tar in the pax format from or to
  another machine. What came is compared with what was asked for before anything gets
  its final name, and that is done with ``mv -n``. tar leaves out sockets.
"""

import logging
import os
import shlex
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

from btrfs_backup_ng.__util__ import BackupError, Refused, UsageError, attempt, visible
from btrfs_backup_ng.actions.restore.find import Chosen
from btrfs_backup_ng.actions.restore.swap import Around, Swap, parse_default, plan_swap
from btrfs_backup_ng.core.events import Sent
from btrfs_backup_ng.core.location import Location, Scheme, parse_location
from btrfs_backup_ng.core.model import (
    Integrity,
    Job,
    Listing,
    Snapshot,
    TransferOptions,
    Waiting,
)
from btrfs_backup_ng.core.naming import prefix_in
from btrfs_backup_ng.core.plan import Transfer, WhyFull
from btrfs_backup_ng.core.record import Unreadable
from btrfs_backup_ng.endpoint import Destination, open_destination, open_source, staging
from btrfs_backup_ng.endpoint.common import BtrfsEndpoint
from btrfs_backup_ng.host.entry import STATE, plain
from btrfs_backup_ng.host.facts import is_same_filesystem
from btrfs_backup_ng.place import preflight, room
from btrfs_backup_ng.place.contents import ANY_NAME, Access, Role
from btrfs_backup_ng.place.forecast import Forecast, Unchanged, foresee, place_with
from btrfs_backup_ng.place.holds import HOLDS
from btrfs_backup_ng.place.locks import Holder
from btrfs_backup_ng.place.sources import ORIGINS, Series, parse_origins, path_of
from btrfs_backup_ng.process.child import last_steps
from btrfs_backup_ng.process.pipeline import PipelineFailed
from btrfs_backup_ng.session.context import Context
from btrfs_backup_ng.transfer import size as measure
from btrfs_backup_ng.transfer.delivery import Delivery
from btrfs_backup_ng.wire import verbs

log = logging.getLogger(__name__)

#: Snapshots that are looked at closely, at most, to find one to build upon.
_CLOSE_LOOKS = 4
#: CPU time for finding out exactly how large it is going to be, where that is near.
_MEASURING_S = 1.0
#: Where a source has its snapshots, and a writable restored one its first.
_SNAPSHOTS = f"{STATE}/snapshots"


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """What is wanted.

    :ivar to: a directory that exists, or the path of what is made.
    :ivar writable: make a writable subvolume of it, ready to be backed up.
    :ivar replaces: path, on the host of ``to``, of what it is to take the place of; ""
        for where the source was, if that is known.
    :ivar wait_s: for a lock.
    """

    to: Location
    writable: bool
    replaces: str
    options: TransferOptions
    wait_s: float


def look_at_target(location: Location, access: Access) -> BtrfsEndpoint:
    """Look at a path that something is to be made at.

    :raises UsageError: if it is a command.
    """
    if location.scheme is Scheme.SHELL:
        raise UsageError("a command (shell://) cannot take a restored snapshot")
    keeper = open_destination(
        location, ANY_NAME, connections=access.connections, ssh=access.ssh
    ).keeper
    assert keeper
    preflight.look(keeper, access.sudo_line)
    return keeper


class Restoration:
    """One snapshot on its way back.

    :ivar chosen: what is restored.
    :ivar target: the directory in which it appears, as a place for snapshots.
    :ivar name: under which it appears there.
    :ivar transfer: how it goes.
    :ivar size_bytes: of its stream: an estimate, for a rehearsal exact.
    """

    def __init__(
        self, chosen: Chosen, request: RestoreRequest, access: Access, context: Context
    ) -> None:
        """Look at the target and plan; changes nothing.

        :raises Refused: if it must not or cannot be restored there.
        """
        self.chosen = chosen
        self._request = request
        self._access = access
        self._context = context
        self.target, self.name = self._find_target()
        self._check_target()
        there, _ = self.target.listing(ORIGINS)
        if self.name in there.names:
            self._refuse_taken()
        snapshot, parent = chosen.kept.snapshot, self._find_parent(there)
        why = None if parent else _why_full(there)
        self.transfer = Transfer(snapshot, parent, self.name, why)
        self.size_bytes = self._estimate()
        self._needed = self.size_bytes
        self._gives_way: tuple[Waiting, ...] = ()
        if request.options.check_space:
            self._check_space()

    @property
    def place(self) -> Location:
        """Return what is made."""
        return self.target.location.join(self.name)

    def _find_target(self) -> tuple[BtrfsEndpoint, str]:
        to, name = self._request.to, self.chosen.kept.snapshot.name
        target = look_at_target(to, self._access)
        if target.facts.is_directory:
            self._check_not_done(target)
            return target, name
        if target.facts.exists:
            self._refuse_taken(to)
        directory, name = os.path.split(to.path)
        target = look_at_target(to.join(directory), self._access)
        if not target.facts.is_directory:
            words = visible(shlex.join(["mkdir", "-p", directory]))
            raise Refused(f"{target} does not exist", hint=f"Make it:  {words}")
        return target, name

    def _check_not_done(self, target: BtrfsEndpoint) -> None:
        """Refuse to make a second one in what this very snapshot was made of it.

        :raises Refused: if the same command ran before.
        """
        if not (self._request.writable and target.facts.is_subvolume):
            return
        path = target.location.join(_SNAPSHOTS)
        inside = look_at_target(path, self._access)
        if inside.facts.is_directory:
            there, _ = inside.listing(ORIGINS)
            origin = self.chosen.kept.snapshot.origin
            if origin in {snapshot.origin for snapshot in there.snapshots}:
                raise Refused(
                    f"{target} has that very snapshot already, as its source or since"
                    " it was restored",
                    hint="Choose another path:  --to PATH",
                )

    def _refuse_taken(self, place: Location | None = None) -> None:
        raise Refused(
            f"{visible(str(place or self.place))} exists already, and nothing is"
            " overwritten",
            hint="Choose another path:  --to PATH",
        )

    def _check_target(self) -> None:
        target, facts = self.target, self.target.facts
        if self.name == STATE:
            raise Refused(f"{visible(str(self.place))} is for the bookkeeping")
        if not facts.is_btrfs:
            raise Refused(
                f"{target} is {visible(facts.filesystem_type)}, and a snapshot can be"
                " restored to btrfs only",
                hint="Files and folders can be restored anywhere:  --file PATH",
            )
        preflight.check_tools(target.host, facts)
        preflight.check_privilege(target, facts, self._access.sudo_line)
        preflight.check_ours(target)
        if facts.is_subvolume and not (facts.is_writable or facts.is_mounted_read_only):
            raise Refused(
                f"{target} is a read-only snapshot, and nothing can be made in it",
                hint="Choose another path:  --to PATH",
            )
        if not facts.is_writable:
            raise Refused(f"{target} is mounted read-only or not ours to write")

    def _is_same_filesystem(self) -> bool:
        one, other = self.chosen.keeper, self.target
        same_host = replace(one.location, path="") == replace(other.location, path="")
        return same_host and is_same_filesystem(
            one.facts.filesystem, other.facts.filesystem
        )

    def _find_parent(self, there: Listing) -> Snapshot | None:
        """Find what the target's filesystem has in common with the place.

        The best is the snapshot itself: then no data moves at all.
        """
        same = self._is_same_filesystem()
        looks = 0
        for snapshot in (self.chosen.kept.snapshot, *self.chosen.others):
            ids = set(there.carriers.get(snapshot.origin, ()))
            ids |= {s.tree_id for s in there.snapshots if s.origin == snapshot.origin}
            ids |= {snapshot.tree_id} if same else set()
            if not ids or snapshot.integrity is Integrity.CHANGED:
                continue
            if looks == _CLOSE_LOOKS:
                return None
            looks += 1
            keeper = self.chosen.keeper
            if snapshot.integrity is Integrity.UNKNOWN:
                if keeper.look_closely([snapshot.tree_id]) is not Integrity.INTACT:
                    continue
            if self.target.look_closely(sorted(ids)) is Integrity.INTACT:
                return snapshot
        return None

    def _estimate(self) -> int:
        keeper, transfer = self.chosen.keeper, self.transfer
        if transfer.parent == transfer.snapshot:
            return 0
        if keeper.location.scheme is Scheme.LOCAL:
            over = threading.Event()
            what = transfer.snapshot, transfer.parent, self._way().protocol
            size = measure.stream_size(keeper, *what, over, _MEASURING_S)
            if not over.is_set():
                return size
        return measure.written_since(keeper, transfer.snapshot, transfer.parent)

    def _fits(self, free: int) -> bool:
        return preflight.fits(self._needed, free, self._request.options)

    def _check_space(self) -> None:
        """Refuse what does not fit, also if interrupted transfers there give way.

        :raises Refused: then.
        """
        target, options = self.target, self._request.options
        free = target.facts.size_free
        if not self._fits(free):
            going_on = self._way().attempts(self.transfer)
            there = [one.size_bytes for one in target.waiting(going_on)]
            self._needed = max(0, self._needed - max(there, default=0))
        if not self._fits(free):
            beside = options.checkpoint_interval
            found = room.find_what_gives_way(target, going_on, self._fits, beside)
            self._gives_way, free = room.needed_of(found, free, self._fits)
        for one in self._gives_way:
            text = f"{target}: {room.about(one)} gives way: the room is needed"
            self._context.warn(str(target.location), text)
        name = self.chosen.kept.snapshot.name
        for note in preflight.check_space(
            str(target.location), name, self._needed, free, options
        ):
            self._context.emit(note)

    def _make_room(self) -> None:
        """Drop what gives way.

        :raises Refused: if that was not enough.
        """
        if not self._gives_way:
            return
        target, name = self.target, self.chosen.kept.snapshot.name
        room.make_room(target, self._gives_way, self._fits, _dropped)
        free, place = target.facts.size_free, str(target.location)
        preflight.check_space(place, name, self._needed, free, self._request.options)

    def measure(self) -> None:
        """Find out exactly how large it is going to be."""
        transfer = self.transfer
        self.size_bytes = measure.stream_size(
            self.chosen.keeper, transfer.snapshot, transfer.parent, self._way().protocol
        )

    def _way(self) -> Delivery:
        request, source = self._request, self.chosen.keeper
        job = Job(
            source=source.location,
            destinations=(self.target.location,),
            naming=ANY_NAME,
            snapshot_folder="",
            ssh=self._access.ssh,
            options=request.options,
        )
        if request.writable:
            self.target.publishing = verbs.WRITABLE
        destination = Destination(self.target, self.target)
        return Delivery(source, destination, job, self._context)

    def run(self) -> Sent:
        """Bring it; what is made is complete and on the disk when this returns.

        :raises Busy: if another run works on the target.
        :raises BackupError: if it failed; then nothing is under the final name.
        """
        target, request = self.target, self._request
        with Holder(self._context.now) as holder:
            with holder.holding(target, request.wait_s):
                try:
                    return self._deliver(holder)
                finally:
                    self._tidy()

    def _deliver(self, holder: Holder) -> Sent:
        target, name = self.target, self.transfer.snapshot.name
        way, transfer = self._way(), self.transfer
        left, age = target.facts.leftovers, self._request.options.staging_max_age
        going_on = way.attempts(transfer)
        sure = self._context.is_synchronised
        expired = staging.expired(left, self._context.now, age, is_sure=sure)
        target.discard([one for one in expired if one not in going_on])
        target.discard(left, keep_sealed=True)
        holder.tell(f"restoring {name} to {self.place.path}", target)
        self._make_room()
        try:
            return self._send(way, self.size_bytes, holder)
        except PipelineFailed as error:
            if not transfer.parent or not _is_about_parent(error):
                raise
            text = f"{visible(transfer.parent.name)} cannot be built upon there"
            self._context.warn(str(target.location), f"{text}; sending in full")
        whole = replace(transfer, parent=None, why_full=WhyFull.NOTHING_COMMON)
        self.transfer = whole
        return self._send(way, None, holder)

    def _send(self, way: Delivery, size_bytes: int | None, holder: Holder) -> Sent:
        """Send it; there is nothing to record meanwhile, and the source has no lock."""
        return way.send(self.transfer, size_bytes, holder, _nothing, _nothing)

    def _tidy(self) -> None:
        """Leave no bookkeeping where nothing is kept; what waits to go on stays."""
        target = self.target
        with last_steps():
            done = attempt(lambda: target.host.call(verbs.TIDY, target.state))
        if isinstance(done, BackupError):
            log.warning("%s stays: %s", visible(plain(target.state)), done)

    def foresee_next(self) -> Forecast:
        """Foretell the next backup of the writable subvolume that was made.

        That is to the place it came from. If that is a source, it is to any place that
        has the same snapshot, unchanged.

        :raises BackupError: if one of the two cannot be looked at.
        """
        chosen, access = self.chosen, self._access
        made = open_source(
            self.place,
            ANY_NAME,
            _SNAPSHOTS,
            connections=access.connections,
            ssh=access.ssh,
        )
        made.look()
        here, holds = made.listing(HOLDS)
        now = self._context.now
        if chosen.kept.kind is Role.SNAPSHOT:
            snapshot = chosen.kept.snapshot
            name = f"any place that has {snapshot.name}"
            return foresee(
                made, here, Unchanged(), place_with(snapshot), name=name, now=now
            )
        there, origins = chosen.keeper.listing(ORIGINS)
        return foresee(
            made,
            here,
            chosen.keeper,
            there,
            name=str(chosen.keeper.location),
            now=now,
            holds=holds,
            origins=origins,
        )

    def swap(self) -> Swap | None:
        """Find the commands that put it in the place of the old one.

        :returns: ``None`` if nobody knows where that is, or it is the same place.
        """
        old = self._request.replaces or self._old_place()
        if not old or not self._request.writable:
            return None
        around = self._look_around(old)
        if around.new == around.old:
            return None
        stamp = self._context.now.strftime("%Y%m%d-%H%M%S")
        try:
            return plan_swap(around, stamp)
        except ValueError as error:
            log.warning("no commands to swap it in: %s", visible(str(error)))
            return None

    def _look_around(self, old: str) -> Around:
        said = self.target.host.call(verbs.AROUND, self.place.path, old).stdout
        fields = [os.fsdecode(field) for field in said.split(b"\0")]
        new, old, exists, mounts, kernel, fstab, default, *_ = fields
        return Around(
            new=_real(new, self.place.path),
            old=_real(old, old),
            old_exists=exists == "1",
            mounts=mounts,
            kernel=kernel,
            fstab=fstab,
            default=parse_default(default),
        )

    def _old_place(self) -> str:
        """Find where the source was, if that is on the target's machine."""
        chosen, target = self.chosen, self.target.location
        if chosen.kept.kind is Role.SNAPSHOT:
            here = chosen.keeper.location
            same = replace(here, path="") == replace(target, path="")
            return here.path if same else ""
        _, content = chosen.keeper.listing(ORIGINS)
        prefix = prefix_in(chosen.kept.snapshot.name)
        try:
            sources = parse_origins(content).get(prefix, Series()).sources
        except Unreadable as error:
            text = "%s cannot be read (%s), so where the source was is not known"
            log.warning(text, path_of(chosen.keeper), visible(str(error)))
            return ""
        places = [origin.place for origin in sources]
        found = [path for place in places if (path := _path_on(place, target))]
        return found[-1] if found else ""  # who backed up last signed in last


def _real(text: str, instead: str) -> str:
    """Read a path that ``readlink`` printed, with an x behind it."""
    path = text.removesuffix("x").removesuffix("\n")
    return path or instead


def _path_on(place: str, target: Location) -> str:
    """Return the path of a source that signed in, if it is on the target's machine."""
    if place.startswith("ssh://"):
        found = attempt(lambda: parse_location(place, working_directory="/"))
        if isinstance(found, BackupError):
            return ""
        same = replace(found, path="") == replace(target, path="")
        return found.path if same else ""
    host, _, path = place.partition(":")
    is_here = target.scheme is Scheme.LOCAL and host == os.uname().nodename
    return path if is_here else ""


def _why_full(there: Listing) -> WhyFull:
    received: Sequence[Snapshot] = [s for s in there.snapshots if s.received_uuid]
    return WhyFull.NOTHING_COMMON if received else WhyFull.FIRST


def _is_about_parent(error: PipelineFailed) -> bool:
    """Tell whether an end did not get along with the parent; then in full it may."""
    said = [error.blamed.stderr, *(stage.stderr for stage in error.others)]
    return any("parent" in text for text in said)


def _dropped(waiting: Waiting) -> None:
    """Log what was told before."""
    log.info("dropped %s", room.about(waiting))


def _nothing() -> None:
    """Do nothing."""
