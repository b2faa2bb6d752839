"""The parent of a restore: a snapshot that the target's filesystem has, too.

It may be a received copy there, or the very snapshot, as where a backup comes back to
the filesystem of its source. It may be in any directory, also outside the mount. Both
ends must have it unchanged.

``btrfs receive`` finds a parent by received UUID, or by its own UUID. Before
btrfs-progs 6.11, it finds the source of a shared extent by received UUID only, in the
middle of the stream (kdave/btrfs-progs issue 606). So a parent that is there under its
own UUID is first received into staging, from itself: the stream of ``btrfs send -p P
P`` has only the command "make a snapshot of P", and that gets the received UUID.
Whether the parent can be used shows in this step, before any data moves.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from uuid import UUID

from btrfs_backup_ng.__util__ import BackupError, attempt, visible
from btrfs_backup_ng.actions.restore.find import Chosen
from btrfs_backup_ng.core import codecs
from btrfs_backup_ng.core.model import Integrity, Listing, Snapshot
from btrfs_backup_ng.core.value import Value, replace
from btrfs_backup_ng.endpoint.common import Place, new_transfer_id
from btrfs_backup_ng.host.facts import is_same_filesystem
from btrfs_backup_ng.process.command import CommandFailed
from btrfs_backup_ng.process.interruption import last_steps
from btrfs_backup_ng.process.pipeline import Meter, PipelineFailed, run_pipeline
from btrfs_backup_ng.transfer.route import Route

log = logging.getLogger(__name__)

#: Most snapshots that are inspected to find a parent.
_CLOSE_LOOKS = 4


class ParentUnusable(BackupError):
    """The parent cannot be used at the target."""


class Parent(Value):
    """A snapshot that both ends have unchanged.

    :ivar snapshot: as it is at the place that sends.
    :ivar is_received: the target's filesystem has a copy with its received UUID.
    """

    snapshot: Snapshot
    is_received: bool


def find_parent(chosen: Chosen, target: Place, there: Listing) -> Parent | None:
    """Find an unchanged snapshot that the place and the target's filesystem share.

    The best is the snapshot itself: then no data moves.

    :param there: the listing of the target.
    """
    place = chosen.place
    is_same = place.location.is_beside(target.location) and is_same_filesystem(
        place.facts.filesystem, target.facts.filesystem
    )
    owned: Mapping[UUID, int] | None = None
    looks, changed = 0, []
    for snapshot in (chosen.snapshot, *chosen.others):
        origin = snapshot.origin
        ids = set(there.carriers.get(origin, ()))
        if not (ids or is_same):
            owned = _owned(target) if owned is None else owned
            ids = {owned[origin]} if origin in owned else set()
        ids -= {snapshot.tree_id} if is_same else set()  # judged at its place
        if not (ids or is_same) or snapshot.integrity is Integrity.CHANGED:
            continue
        if looks == _CLOSE_LOOKS:
            break
        looks += 1
        if snapshot.integrity is Integrity.UNKNOWN:
            if chosen.endpoint.look_closely([snapshot.tree_id]) is not Integrity.INTACT:
                continue
        if not ids or target.backups.look_closely(sorted(ids)) is Integrity.INTACT:
            return Parent(snapshot, origin in there.carriers)
        changed.append(snapshot.name)
    for name in changed:
        log.warning(
            "%s is not used as parent: it was changed at %s", visible(name), target
        )
    return None


def _owned(target: Place) -> Mapping[UUID, int]:
    """Return UUID -> id of the read-only subvolumes of the target's filesystem."""
    found = attempt(target.subvolumes)
    if isinstance(found, BackupError):
        text = "the snapshots on the filesystem of %s are not known: %s"
        log.warning(text, target, found)
        return {}
    return {one.uuid: one.tree_id for one in found.read_only}


@contextmanager
def received_copy(parent: Snapshot, route: Route, now: datetime) -> Iterator[None]:
    """Have a copy of a parent in staging that carries its received UUID.

    :param parent: the target's filesystem has it under its own UUID.
    :raises ParentUnusable: if no copy can be made.
    """
    transfer_id = new_transfer_id(now)
    route = replace(route, codec=codecs.NONE)
    stages = (
        route.source.send(parent, parent, route.protocol, route.codec),
        *route.stages_between(),
        route.sink.receive(transfer_id, parent, route.codec),
    )
    limit = route.options.stall_timeout_s
    try:
        try:
            run_pipeline(stages, meter=Meter(), stall_timeout_s=limit)
        except PipelineFailed as error:
            raise ParentUnusable(error.message, hint=error.hint) from error
        yield
    finally:
        with last_steps():
            left = attempt(lambda: route.sink.place.discard([transfer_id]))
        if isinstance(left, BackupError):
            log.warning("%s: %s is kept for now: %s", route.sink, transfer_id, left)


def is_about_parent(error: BackupError) -> bool:
    """Return whether a parent was rejected; a full transfer may then succeed."""
    if isinstance(error, PipelineFailed):
        texts = [stage.stderr for stage in (error.blamed, *error.others)]
    elif isinstance(error, CommandFailed):
        texts = [error.completed.stderr]
    else:
        return isinstance(error, ParentUnusable)
    signs = ("parent", "did not find source subvol")
    return any(sign in text for text in texts for sign in signs)
