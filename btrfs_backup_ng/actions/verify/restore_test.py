"""The restore test: a real restore to a place where it is gone afterwards."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

from btrfs_backup_ng.__util__ import BackupError, Refused, attempt, format_size, visible
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import Facts, Snapshot, TransferOptions, Waiting
from btrfs_backup_ng.core.plan import Transfer, WhyFull
from btrfs_backup_ng.endpoint import open_destination, staging
from btrfs_backup_ng.endpoint.common import (
    BtrfsEndpoint,
    WrongArrival,
    new_transfer_id,
)
from btrfs_backup_ng.host.entry import INCOMING, plain
from btrfs_backup_ng.place import preflight
from btrfs_backup_ng.place.contents import ANY_NAME, Access
from btrfs_backup_ng.place.locks import Holder
from btrfs_backup_ng.process.child import last_steps
from btrfs_backup_ng.process.command import Command
from btrfs_backup_ng.process.pipeline import Meter
from btrfs_backup_ng.transfer import size as measure
from btrfs_backup_ng.transfer.attempt import Way, run_transfer
from btrfs_backup_ng.transfer.route import choose_route

log = logging.getLogger(__name__)

#: What stands for the way of a restore test in the ids of transfers, so that nobody
#: goes on with one, and what a killed one left is known.
_PROTOCOL = "restore-test"
_OPTIONS = TransferOptions()


def open_scratch(location: Location, access: Access) -> BtrfsEndpoint:
    """Look at the place for restore tests.

    :raises Refused: if nothing can be restored there.
    """
    scratch = open_destination(
        location, ANY_NAME, connections=access.connections, ssh=access.ssh
    ).keeper
    assert scratch
    preflight.check_readable(scratch, access.sudo_line, may_be_empty=True)
    preflight.check_ours(scratch)
    if not scratch.facts.is_writable:
        raise Refused(f"{scratch} is mounted read-only or not ours to write")
    return scratch


class _Staging:
    """The staging directory of a place, as a sink that publishes nothing.

    :ivar transfer_id: of the one that it takes.
    """

    def __init__(self, scratch: BtrfsEndpoint, transfer_id: str) -> None:
        self.location: Location = scratch.location
        self.facts: Facts = scratch.facts
        self.transfer_id = transfer_id
        self._scratch = scratch

    def __str__(self) -> str:
        return str(self._scratch)

    def sink(
        self,
        transfer_id: str,
        snapshot: Snapshot,
        codec: str,
        useless: Sequence[str] = (),
    ) -> Command:
        """Return the command that receives into a directory of ours."""
        return self._scratch.sink(self.transfer_id, snapshot, codec, useless)

    def accept(
        self,
        transfer_id: str,
        snapshot: Snapshot,
        target: str,
        *,
        output: bytes,
        verify: bool,
    ) -> None:
        """Check that exactly the snapshot that was sent is there, and leave it there.

        :raises WrongArrival: if it is not.
        """
        host, state = self._scratch.host, self._scratch.state
        found, _ = host.listing(self.directory, state, "holder")
        received = {one.name: one.received_uuid for one in found.snapshots}
        names = ", ".join(map(visible, sorted(found.names)))
        if found.names != {snapshot.name} or received != {
            snapshot.name: snapshot.origin
        }:
            raise WrongArrival(
                f"the restore brought {names or 'nothing'} to {self}, and not"
                f" {visible(snapshot.name)} with received UUID {snapshot.origin}"
            )

    @property
    def directory(self) -> str:
        """Return the path of what it takes."""
        return f"{self._scratch.state}/{INCOMING}/{self.transfer_id}"

    def discard(
        self, transfer_ids: Sequence[str], *, keep_sealed: bool = False
    ) -> tuple[str, ...]:
        """Drop what was restored."""
        return self._scratch.discard([self.transfer_id])

    def waiting(self, transfer_ids: Sequence[str]) -> tuple[Waiting, ...]:
        """Say that nothing of it can go on."""
        return ()


@contextmanager
def restored(
    keeper: BtrfsEndpoint,
    snapshot: Snapshot,
    scratch: BtrfsEndpoint,
    meter: Meter,
    now: datetime,
) -> Iterator[str]:
    """Restore a snapshot in full, and remove it afterwards, come what may.

    :param keeper: where it is.
    :param scratch: from :func:`open_scratch`.
    :returns: its path at the scratch place, while the context lasts.
    :raises BackupError: if it cannot be restored.
    """
    with Holder(now) as holder, holder.holding(scratch, 0.0):
        holder.tell("testing a restore", scratch)
        _clear_old(scratch)
        _check_room(keeper, snapshot, scratch, meter)
        transfer_id = staging.full_id(new_transfer_id(now), snapshot, None, _PROTOCOL)
        sink = _Staging(scratch, transfer_id)
        options = replace(_OPTIONS, stall_timeout_s=scratch.host.silence_s)
        route = choose_route(keeper, sink, options)
        try:
            run_transfer(
                Transfer(snapshot, None, snapshot.name, WhyFull.ASKED),
                keeper,
                sink,
                way=Way(route, options),
                meter=meter,
                now=now,
            )
            yield f"{sink.directory}/{snapshot.name}"
        finally:
            _remove(sink)


def _clear_old(scratch: BtrfsEndpoint) -> None:
    """Remove what a test left that was killed; the lock of the place is ours."""
    scratch.look()
    scratch.discard(staging.of_protocol(scratch.facts.leftovers, _PROTOCOL))


def _check_room(
    keeper: BtrfsEndpoint, snapshot: Snapshot, scratch: BtrfsEndpoint, meter: Meter
) -> None:
    needed, free = (
        measure.written_since(keeper, snapshot, None),
        scratch.facts.size_free,
    )
    meter.expected_bytes = needed
    if not preflight.fits(needed, free, _OPTIONS):
        raise Refused(
            f"{scratch} has {format_size(free)} free; restoring"
            f" {visible(snapshot.name)} takes about {format_size(needed)}",
            hint="Name a place with more room:  --scratch DIR",
        )


def _remove(sink: _Staging) -> None:
    """Remove what was restored, also after a signal told us to end."""
    with last_steps():
        left = attempt(lambda: sink.discard([]))
    if left:
        why = left.message if isinstance(left, BackupError) else "it is in use"
        text = "%s: what a restore test left in %s stays until the next one: %s"
        log.warning(text, sink, visible(plain(sink.directory)), why)
