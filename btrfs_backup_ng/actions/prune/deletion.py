"""The deletion of snapshots at a place, and the look whether they are gone."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from btrfs_backup_ng.__util__ import BackupError, attempt, visible
from btrfs_backup_ng.core.model import Snapshot
from btrfs_backup_ng.endpoint.common import Endpoint


class CameBack(BackupError):
    """What was deleted is still there."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """What became of a deletion.

    :ivar gone: what is no longer there, as a look afterwards saw.
    :ivar error: why that is not all that was to go.
    """

    gone: tuple[Snapshot, ...]
    error: BackupError | None = None


def delete(
    endpoint: Endpoint, snapshots: Sequence[Snapshot], *, convert_rw: bool = False
) -> Deletion:
    """Delete snapshots, and look whether they are gone.

    The lock of the place has to be held.

    :param snapshots: as a look under that lock saw them, or as a transfer of this run
        brought them.
    :raises ListingFailed: if nobody can tell what is there.
    """
    if not all(snapshot.tree_id for snapshot in snapshots):
        snapshots = _identified(endpoint, snapshots)
    if not snapshots:
        return Deletion(())
    error = attempt(lambda: endpoint.delete(snapshots, convert_rw=convert_rw))
    there = {snapshot.uuid for snapshot in _look(endpoint)}
    left = [snapshot for snapshot in snapshots if snapshot.uuid in there]
    gone = tuple(snapshot for snapshot in snapshots if snapshot.uuid not in there)
    if isinstance(error, BackupError):
        return Deletion(gone, error)
    if not left:
        return Deletion(gone)
    others = f", and {len(left) - 1} more" if left[1:] else ""
    return Deletion(
        gone,
        CameBack(
            f"{endpoint}: {visible(left[0].name)} was deleted and is there again"
            f"{others}",
            hint="Look for an error of the filesystem:  dmesg",
        ),
    )


def _look(endpoint: Endpoint) -> Sequence[Snapshot]:
    seen, _ = endpoint.listing()
    return seen.snapshots


def _identified(
    endpoint: Endpoint, snapshots: Sequence[Snapshot]
) -> Sequence[Snapshot]:
    """Return the same as they are there: what a transfer brought was not seen yet."""
    there: dict[tuple[str, UUID], Snapshot]
    there = {(s.name, s.origin): s for s in _look(endpoint)}
    found = [there.get((s.name, s.origin)) for s in snapshots]
    return [snapshot for snapshot in found if snapshot]
