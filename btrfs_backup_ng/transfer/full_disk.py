"""A transfer that filled the disk: its staging is kept only if the rest fits."""

from collections.abc import Sequence

from btrfs_backup_ng.__util__ import BackupError, attempt, format_size
from btrfs_backup_ng.btrfs.parse import is_full
from btrfs_backup_ng.core.plan import Transfer
from btrfs_backup_ng.endpoint.common import Place
from btrfs_backup_ng.place import preflight
from btrfs_backup_ng.process.command import CommandFailed
from btrfs_backup_ng.process.pipeline import PipelineFailed
from btrfs_backup_ng.transfer.route import Route
from btrfs_backup_ng.transfer.size import stream_size, written_since

#: Attempts at deleting something on a full disk.
_DROPPING = 5


def spare_full_disk(
    transfer: Transfer, route: Route, size_bytes: int | None, error: BackupError
) -> None:
    """Delete the staging of a transfer that filled the disk, unless the rest fits.

    Add the outcome to the hint of the error.

    :param size_bytes: of its stream, if it is known.
    """
    if route.sink.lists and is_about_full_disk(error):
        kept = attempt(lambda: _keep_or_drop(transfer, route, size_bytes))
        if isinstance(kept, BackupError):
            kept = f"It is not known how much is kept there: {kept.message}."
        error.hint = "\n".join(filter(None, [error.hint, kept]))


def _keep_or_drop(transfer: Transfer, route: Route, size_bytes: int | None) -> str:
    place = route.sink.place
    free = place.look().size_free
    ids = route.earlier_attempts(transfer)
    safe = place.safe_bytes(ids)
    if not safe:
        return ""
    ends = route.source, transfer.snapshot, transfer.parent
    if size_bytes is None:
        size_bytes = written_since(*ends)
    if not preflight.fits(size_bytes - safe, free, route.options):
        size_bytes = stream_size(*ends, route.protocol)  # the estimate counts reflinks
    rest = size_bytes - safe  # 0 or less: the stream is longer than estimated
    if rest > 0 and preflight.fits(rest, free, route.options):
        return f"{format_size(safe)} is kept there; the next run resumes from that."
    _discard_from_full_disk(place, ids)
    why = f"the rest, about {format_size(rest)}, does not fit"
    if rest <= 0:
        why = "it is not known whether the rest fits"
    return (
        f"The {format_size(safe)} kept there is discarded, as {why}, so that the disk"
        " can be used again."
    )


def _discard_from_full_disk(place: Place, ids: Sequence[str]) -> None:
    """Delete transfers on a disk that may not even have space for deleting.

    The end of a transaction frees the space that btrfs had reserved for it.
    """
    for _ in range(_DROPPING):
        dropped = attempt(lambda: place.discard(ids))
        if not isinstance(dropped, BackupError):
            return
        if not is_about_full_disk(dropped):
            raise dropped
        place.sync()
    place.discard(ids)


def is_about_full_disk(error: BackupError) -> bool:
    """Return whether a command, or a transfer, failed because a disk is full."""
    if isinstance(error, PipelineFailed):
        return is_full(error.blamed.stderr)
    return isinstance(error, CommandFailed) and is_full(error.completed.stderr)
