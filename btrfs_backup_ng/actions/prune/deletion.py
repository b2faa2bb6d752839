"""The deletion of snapshots at a place, and the check that they are gone."""

from collections.abc import Sequence
from uuid import UUID

from btrfs_backup_ng.__util__ import BackupError, attempt, visible
from btrfs_backup_ng.core.model import Snapshot
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.endpoint.common import Endpoint


class CameBack(BackupError):
    """A deleted snapshot is still there."""


class Deletion(Value):
    """The result of a deletion.

    :ivar gone: snapshots that a listing afterwards no longer has.
    :ivar error: the reason if some are still there.
    """

    gone: tuple[Snapshot, ...]
    error: BackupError | None = None


def delete(
    endpoint: Endpoint, snapshots: Sequence[Snapshot], *, convert_rw: bool = False
) -> Deletion:
    """Delete snapshots, and check that they are gone.

    The caller holds the lock of the place.

    :param snapshots: listed under that lock, or sent by this run.
    :raises ListingFailed: if the place cannot be listed afterwards.
    """
    if not all(snapshot.tree_id for snapshot in snapshots):
        snapshots = _identified(endpoint, snapshots)
    if not snapshots:
        return Deletion(())
    error = attempt(lambda: endpoint.delete(snapshots, convert_rw=convert_rw))
    there = {snapshot.uuid for snapshot in endpoint.listing()[0].snapshots}
    left = [snapshot for snapshot in snapshots if snapshot.uuid in there]
    gone = tuple(snapshot for snapshot in snapshots if snapshot.uuid not in there)
    if isinstance(error, BackupError):
        return Deletion(gone, error)
    if not left:
        return Deletion(gone)
    others = f" and {len(left) - 1} more" if left[1:] else ""
    return Deletion(
        gone,
        CameBack(
            f"{endpoint}: {visible(left[0].name)}{others} reappeared after the"
            " deletion",
            hint="Check the kernel log for filesystem errors:  dmesg",
        ),
    )


def _identified(
    endpoint: Endpoint, snapshots: Sequence[Snapshot]
) -> Sequence[Snapshot]:
    """Return the snapshots as listed: those sent by this run have no id yet."""
    there: dict[tuple[str, UUID], Snapshot]
    there = {(s.name, s.origin): s for s in endpoint.listing()[0].snapshots}
    found = [there.get((s.name, s.origin)) for s in snapshots]
    return [snapshot for snapshot in found if snapshot]
