"""The sizes of the transfers that are planned: estimated, or measured to the byte."""

import logging
from datetime import datetime

from btrfs_backup_ng.__util__ import BackupError, attempt
from btrfs_backup_ng.core.model import Snapshot
from btrfs_backup_ng.core.plan import Transfer
from btrfs_backup_ng.endpoint.common import Place
from btrfs_backup_ng.place.planner import NOT_MADE_YET
from btrfs_backup_ng.transfer import size

log = logging.getLogger(__name__)


class Sizes:
    """The sizes of the transfers from a source to a destination.

    A planned snapshot that is not made yet stands for the source as it is now.
    """

    def __init__(self, source: Place, destination: str, protocol: str) -> None:
        """Prepare.

        :param destination: its name, for the log.
        :param protocol: of the streams, as the verb ``send`` takes it.
        """
        self._source = source
        self._destination = destination
        self._protocol = protocol
        self._estimates: dict[tuple[str, str], int | None] = {}

    def known(self, transfer: Transfer) -> int | None:
        """Return the estimate of a transfer if there is one already."""
        return self._estimates.get(_key(transfer))

    def estimate(self, transfer: Transfer, limit: int | None = None) -> int | None:
        """Estimate a transfer in bytes.

        :param limit: stop counting above this.
        :returns: ``None`` if that fails, which never fails the transfer itself.
        """
        key = _key(transfer)
        if key not in self._estimates:
            parent = transfer.parent
            if parent and parent.generation == NOT_MADE_YET:  # a parent sent before it
                parent = None
            found = attempt(
                lambda: size.written_since(
                    self._source.snapshots, _made(transfer.snapshot), parent, limit
                )
            )
            if limit is not None and isinstance(found, int) and found > limit:
                return found  # it may be any more
            if isinstance(found, BackupError):
                text = "%s: the size of %s is not known: %s"
                name = transfer.snapshot.name
                log.warning(text, self._destination, name, found.message)
            self._estimates[key] = found if isinstance(found, int) else None
        return self._estimates[key]

    def shared(self, transfer: Transfer) -> int:
        """Estimate a transfer; if it is full, what files share counts once."""
        estimate = self.estimate(transfer)
        if transfer.parent or estimate is None:
            return estimate or 0
        snapshot = _made(transfer.snapshot)
        return size.written_since(self._source.snapshots, snapshot, None, once=True)

    def measured(self, transfer: Transfer, now: datetime) -> int:
        """Measure a stream; of a planned snapshot, that of a temporary one.

        :param now: aware.
        """
        snapshot = transfer.snapshot
        if _made(snapshot):
            return self.exact(transfer, None)
        with size.temporary_snapshot(self._source, snapshot.name, now) as temporary:
            return self.exact(transfer, temporary)

    def exact(self, transfer: Transfer, temporary: Snapshot | None) -> int:
        """Return the exact size of a stream; an estimate without a snapshot.

        :param temporary: measured in place of a planned snapshot.
        """
        snapshot = _made(transfer.snapshot) or temporary
        parent = transfer.parent and (_made(transfer.parent) or temporary)
        if snapshot is None or (transfer.parent and not parent):
            return self.shared(transfer)
        return size.stream_size(
            self._source.snapshots, snapshot, parent, self._protocol
        )


def _made(snapshot: Snapshot) -> Snapshot | None:
    """Return a snapshot, or None if it is not made yet."""
    return snapshot if snapshot.generation < NOT_MADE_YET else None


def _key(transfer: Transfer) -> tuple[str, str]:
    """Return a key of a transfer that stays the same when its snapshot is made."""
    return transfer.snapshot.name, transfer.parent.name if transfer.parent else ""
