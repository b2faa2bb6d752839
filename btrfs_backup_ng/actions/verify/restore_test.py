"""The restore test: a real restore to a scratch place, deleted afterwards."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from btrfs_backup_ng.__util__ import BackupError, Refused, attempt, format_size, visible
from btrfs_backup_ng.core.model import Snapshot, TransferOptions
from btrfs_backup_ng.core.plan import Transfer, WhyFull
from btrfs_backup_ng.core.value import replace
from btrfs_backup_ng.endpoint import staging
from btrfs_backup_ng.endpoint.btrfs import BackupDirectory
from btrfs_backup_ng.endpoint.common import (
    Endpoint,
    Place,
    WrongArrival,
    new_transfer_id,
)
from btrfs_backup_ng.host.entry import INCOMING, plain
from btrfs_backup_ng.place import preflight
from btrfs_backup_ng.place.locks import Holder
from btrfs_backup_ng.process.command import Command
from btrfs_backup_ng.process.interruption import last_steps
from btrfs_backup_ng.process.pipeline import Meter
from btrfs_backup_ng.transfer.attempt import Attempt
from btrfs_backup_ng.transfer.route import Route, choose_route
from btrfs_backup_ng.transfer.size import stream_size, written_since

log = logging.getLogger(__name__)

#: The protocol of a restore test in the ids of transfers: no run resumes one, and the
#: next test recognizes the remains of a killed one.
_PROTOCOL = "restore-test"
_OPTIONS = TransferOptions()


class _Staging(BackupDirectory):
    """The staging directory of a transfer, as an endpoint that publishes nothing."""

    def __init__(self, scratch: Place, transfer_id: str) -> None:
        super().__init__(scratch)
        self.transfer_id = transfer_id
        self.directory = f"{scratch.state}/{INCOMING}/{transfer_id}"

    def receive(
        self,
        transfer_id: str,
        snapshot: Snapshot,
        codec: str,
        useless: Sequence[str] = (),
        *,
        is_short: bool = False,
    ) -> Command:
        name = self.transfer_id
        return super().receive(name, snapshot, codec, useless, is_short=is_short)

    def publish(
        self,
        transfer_id: str,
        snapshot: Snapshot,
        target: str,
        *,
        output: bytes,
        verify: bool,
    ) -> None:
        """Check that exactly the sent snapshot has arrived, and leave it in staging.

        :raises WrongArrival: if it is not.
        """
        found, _ = self.listing("holder")
        received = {one.name: one.received_uuid for one in found.snapshots}
        names = ", ".join(map(visible, sorted(found.names)))
        if found.names != {snapshot.name} or received != {
            snapshot.name: snapshot.origin
        }:
            raise WrongArrival(
                f"the restore brought {names or 'nothing'} to {self}, and not"
                f" {visible(snapshot.name)} with received UUID {snapshot.origin}"
            )


@contextmanager
def restored(
    endpoint: Endpoint,
    snapshot: Snapshot,
    scratch: Place,
    meter: Meter,
    now: datetime,
) -> Iterator[str]:
    """Restore a snapshot in full, and remove it at the end of the context.

    :param endpoint: directory of the snapshot.
    :param scratch: a place that passed the checks of ``SCRATCH``.
    :returns: path of the copy at the scratch place.
    :raises BackupError: if it cannot be restored.
    """
    with Holder(now) as holder, holder.holding(scratch, 0.0):
        holder.note("testing a restore", scratch)
        scratch.look()
        killed = staging.of_protocol(scratch.facts.leftovers, _PROTOCOL)
        scratch.discard(killed)
        transfer_id = staging.full_id(new_transfer_id(now), snapshot, None, _PROTOCOL)
        sink = _Staging(scratch, transfer_id)
        options = replace(_OPTIONS, stall_timeout_s=scratch.host.silence_s)
        route = choose_route(endpoint, sink, options)
        _check_room(route, snapshot, scratch, meter)
        transfer = Transfer(snapshot, None, snapshot.name, WhyFull.ASKED)
        try:
            Attempt(transfer, route).run(meter, now)
            yield sink.path(snapshot.name)
        finally:
            _remove(sink)


def _check_room(route: Route, snapshot: Snapshot, scratch: Place, meter: Meter) -> None:
    needed = written_since(route.source, snapshot, None)
    free = scratch.facts.size_free
    if not preflight.fits(needed, free, _OPTIONS):  # the estimate counts reflinks
        needed = stream_size(route.source, snapshot, None, route.protocol)
    meter.expected_bytes = needed
    if not preflight.fits(needed, free, _OPTIONS):
        raise Refused(
            f"{scratch} has {format_size(free)} free; restoring"
            f" {visible(snapshot.name)} takes about {format_size(needed)}",
            hint="Name a place with more room:  --scratch DIR",
        )


def _remove(sink: _Staging) -> None:
    """Remove the restored snapshot, also after a signal to end."""
    with last_steps():
        left = attempt(lambda: sink.place.discard([sink.transfer_id]))
    if left:
        why = left.message if isinstance(left, BackupError) else "it is in use"
        text = "%s: the remains of a restore test in %s are kept until the next one: %s"
        log.warning(text, sink, visible(plain(sink.directory)), why)
