"""How one snapshot gets to one destination: with checkpoints, again after a cut."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from btrfs_backup_ng.__util__ import BackupError, Busy, attempt, format_size, visible
from btrfs_backup_ng.btrfs.parse import is_full, is_permanent
from btrfs_backup_ng.core.events import Sent
from btrfs_backup_ng.core.location import Scheme
from btrfs_backup_ng.core.model import Job
from btrfs_backup_ng.core.plan import Transfer
from btrfs_backup_ng.endpoint import Destination, staging
from btrfs_backup_ng.endpoint.common import BtrfsEndpoint
from btrfs_backup_ng.place import preflight
from btrfs_backup_ng.place.locks import Holder
from btrfs_backup_ng.place.sources import ORIGINS
from btrfs_backup_ng.process.child import check_interrupted
from btrfs_backup_ng.process.command import CommandFailed, ContactLost, TimedOut
from btrfs_backup_ng.process.pipeline import Meter, Moved, PipelineFailed, TooLarge
from btrfs_backup_ng.session.context import Context
from btrfs_backup_ng.session.history import Record
from btrfs_backup_ng.sshutil.refusal import ConnectionFailed
from btrfs_backup_ng.transfer import size as measure
from btrfs_backup_ng.transfer.attempt import (
    StreamChanged,
    Way,
    decided,
    expecting,
    find_checkpoint,
    run_transfer,
)
from btrfs_backup_ng.transfer.route import PROTOCOLS, choose_route, packed_codec

log = logging.getLogger(__name__)

#: Before the first further attempt; twice as long before each one after that.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 300.0
#: How often it is tried to delete something on a full disk.
_DROPPING = 5
#: A lock that was lost with its connection is free at the latest after 30 s (``LOCK``).
_RELOCK_S = 60.0


class Delivery:
    """The way of snapshots from a source to one destination."""

    def __init__(
        self,
        source: BtrfsEndpoint,
        destination: Destination,
        job: Job,
        context: Context,
    ) -> None:
        self._source = source
        self._sink, self._keeper = destination.sink, destination.keeper
        self._job = job
        self._context = context
        self._name = str(destination.sink.location)
        self._route = choose_route(source, destination.sink, job.options)

    @property
    def protocol(self) -> str:
        """Return the protocol of the streams, as the verb ``send`` knows it."""
        return self._route.protocol

    def attempts(self, transfer: Transfer) -> list[str]:
        """Return the ids of earlier attempts that may go on."""
        interval = self._job.options.checkpoint_interval
        if not (self._keeper and interval and self._source.facts.has_python):
            return []
        return self._attempts_by(self._keeper, transfer, self.protocol)

    def _attempts_by(
        self, keeper: BtrfsEndpoint, transfer: Transfer, protocol: str
    ) -> list[str]:
        what = transfer.snapshot, transfer.parent, protocol
        return staging.of_transfer(keeper.facts.leftovers, *what)

    def send(
        self,
        transfer: Transfer,
        size_bytes: int | None,
        holder: Holder,
        before_publishing: Callable[[], None],
        when_regained: Callable[[], None],
    ) -> Sent:
        """Bring a snapshot there; after a cut try again as often as was asked for.

        :param size_bytes: of the stream, if it is known already.
        :param when_regained: called when the source is locked again after its lock
            was lost.
        :raises BackupError: if it failed.
        """
        retries, pause_s = self._job.options.retries, 0.0
        name = visible(transfer.snapshot.name)
        while True:
            try:
                _sleep(pause_s)
                if pause_s:
                    self._reach_again(holder, when_regained)
                if pause_s and self._has_arrived(transfer):
                    sent = self.sent(transfer, Moved(0, 0.0, b""))
                else:
                    sent = self._attempt(transfer, size_bytes, before_publishing)
            except BackupError as error:
                self._spare_full_disk(transfer, size_bytes, error)
                if not retries or not _may_pass(error):
                    self._remember(transfer, error=error.message)
                    raise
                retries -= 1
                pause_s = min(2 * pause_s or _FIRST_PAUSE_S, _LONGEST_PAUSE_S)
                text = f"sending {name} to {visible(self._name)} was cut: "
                text += f"{error.message}. Trying again in {pause_s:g} s"
                self._context.warn(self._name, text)
            else:
                self._remember(transfer, sent)
                return sent

    def _spare_full_disk(
        self, transfer: Transfer, size_bytes: int | None, error: BackupError
    ) -> None:
        """Drop what a transfer left that filled the disk, unless the rest of it fits.

        What becomes of it is added to what the user is told to do.

        :param size_bytes: of its stream, if it is known.
        """
        if self._keeper and _met_full_disk(error):
            kept = attempt(lambda: self._keep_or_drop(transfer, size_bytes))
            if isinstance(kept, BackupError):
                kept = f"What is complete there stays: {kept.message}."
            error.hint = "\n".join(filter(None, [error.hint, kept]))

    def _keep_or_drop(self, transfer: Transfer, size_bytes: int | None) -> str:
        keeper, options = self._keeper, self._job.options
        assert keeper
        free = keeper.look().size_free
        ids = self._attempts_by(keeper, transfer, self.protocol)
        safe = max((one.size_bytes for one in keeper.waiting(ids)), default=0)
        if not safe:
            return ""
        if size_bytes is None:
            what = transfer.snapshot, transfer.parent
            size_bytes = measure.written_since(self._source, *what)
        rest = size_bytes - safe  # nothing: it is longer than was thought
        if rest > 0 and preflight.fits(rest, free, options):
            return (
                f"{format_size(safe)} are safe there; the next run goes on from that."
            )
        _drop_from_full_disk(keeper, ids)
        why = f"the rest, about {format_size(rest)}, does not fit"
        if rest <= 0:
            why = "nobody knows whether the rest fits"
        return (
            f"{format_size(safe)} that were safe there are dropped, as {why}, so that"
            " the disk can be used again."
        )

    def _remember(
        self, transfer: Transfer, sent: Sent | None = None, error: str = ""
    ) -> None:
        """Put on record what came of a transfer; no command: it may hold a secret."""
        name = self._name if self._keeper else "shell://"
        error = error if self._keeper else error.replace(visible(self._name), name)
        resumed = sent.resumed_bytes if sent else 0
        record = Record(
            time=self._context.now,
            source=str(self._source.location),
            folder=self._job.snapshot_folder,
            destination=name,
            name=transfer.snapshot.name,
            target=transfer.target,
            origin=transfer.snapshot.origin,
            parent=transfer.parent.name if transfer.parent else "",
            size_bytes=((sent.size_bytes or 0) + resumed or None) if sent else None,
            resumed_bytes=resumed,
            elapsed_s=sent.elapsed_s if sent else 0.0,
            error=error,
        )
        self._context.remember(record)

    def _reach_again(self, holder: Holder, when_regained: Callable[[], None]) -> None:
        """Look at the places once more, and lock them if their locks are lost."""
        self._source.look()
        if holder.regain(self._source, _RELOCK_S):
            when_regained()
        if self._keeper:
            self._keeper.look()
            holder.regain(self._keeper, _RELOCK_S)

    def _has_arrived(self, transfer: Transfer) -> bool:
        """Tell whether only the answer was lost, and all else was done."""
        if not self._keeper:
            return False
        listing, _ = self._keeper.listing(ORIGINS)
        there = [s for s in listing.snapshots if s.name == transfer.target]
        return any(s.received_uuid == transfer.snapshot.origin for s in there)

    def _attempt(
        self,
        transfer: Transfer,
        size_bytes: int | None,
        before_publishing: Callable[[], None],
    ) -> Sent:
        way = self._way(transfer, size_bytes)
        try:
            return self._run(transfer, way, size_bytes, before_publishing)
        except StreamChanged as error:
            text = f"{error.message}; it is sent again from the start"
            self._context.warn(self._name, text)
        way = replace(way, checkpoint=None)
        return self._run(transfer, way, size_bytes, before_publishing)

    def _way(self, transfer: Transfer, size_bytes: int | None) -> Way:
        options, keeper = self._job.options, self._keeper
        if keeper is None:
            return Way(self._route, options)
        self._route = decided(self._route, transfer, self._source, keeper)
        attempts = self.attempts(transfer)
        checkpoint = find_checkpoint(keeper, attempts, transfer.snapshot)
        if checkpoint:  # however little is left
            return Way(self._route, options, options.checkpoint_interval, checkpoint)
        if not attempts:
            self._tell_of_other_forms(keeper, transfer)
        interval = self._interval(keeper, transfer, size_bytes)
        return Way(self._route, options, interval)

    def _tell_of_other_forms(self, keeper: BtrfsEndpoint, transfer: Transfer) -> None:
        """Say if an earlier attempt sent the data in another form, so is of no use."""
        for protocol in PROTOCOLS:
            ids = self._attempts_by(keeper, transfer, protocol)
            there = max((w.size_bytes for w in keeper.waiting(ids)), default=0)
            if there and protocol != self.protocol:
                name = visible(transfer.snapshot.name)
                text = f"{format_size(there)} of {name} at {keeper} came in another"
                text += " form (see --compress), so it is sent from the start"
                self._context.warn(self._name, text)

    def _interval(
        self, keeper: BtrfsEndpoint, transfer: Transfer, size_bytes: int | None
    ) -> int:
        """Decide how far checkpoints are apart; 0 where they would not pay.

        They are made where the stream comes from, as what is read again after a cut is
        not to cross a wire. On this machine a transfer has to be longer than one.
        """
        wanted = self._job.options.checkpoint_interval
        if not wanted:
            return 0
        if not self._source.facts.has_python:
            log.info("%s has no python3, so no checkpoints are made", self._source)
            return 0
        places = self._source.location, keeper.location
        if any(place.scheme is Scheme.SSH for place in places):
            return wanted
        if size_bytes is None:
            what = transfer.snapshot, transfer.parent
            size_bytes = measure.written_since(self._source, *what, limit=wanted)
        return wanted if size_bytes > wanted else 0

    def _run(
        self,
        transfer: Transfer,
        way: Way,
        size_bytes: int | None,
        before_publishing: Callable[[], None],
    ) -> Sent:
        context, name = self._context, transfer.snapshot.name
        packed = packed_codec(self._route, self._sink.location)
        meter = Meter()
        if not packed:  # else the size on the wire is not known in advance
            meter.expected_bytes = size_bytes
        wanted = context.watched and not packed
        if way.checkpoint:
            log.info("going on at byte %d of %s", way.checkpoint.offset, name)
        with (
            context.progress.add(meter, f"{name} -> {self._name}"),
            expecting(meter, self._source, transfer, self.protocol, wanted=wanted),
        ):
            moved = run_transfer(
                transfer,
                self._source,
                self._sink,
                way=way,
                meter=meter,
                now=context.now,
                before_publishing=before_publishing,
            )
        return self.sent(transfer, moved, packed, meter.resumed_bytes)

    def sent(
        self, transfer: Transfer, moved: Moved, codec: str = "", resumed_bytes: int = 0
    ) -> Sent:
        """Tell what came of a transfer, or what would in a rehearsal."""
        return Sent(
            source=str(self._source.location),
            destination=self._name,
            name=transfer.snapshot.name,
            target=transfer.target,
            parent=transfer.parent.name if transfer.parent else None,
            why_full=transfer.why_full,
            size_bytes=moved.size_bytes,
            elapsed_s=moved.elapsed_s,
            dry=self._job.dry_run,
            codec=codec,
            resumed_bytes=resumed_bytes,
        )


def _drop_from_full_disk(keeper: BtrfsEndpoint, ids: Sequence[str]) -> None:
    """Drop transfers where even for deleting there may be no room at first.

    A transaction that ends gives back what btrfs has set aside for it.
    """
    for _ in range(_DROPPING):
        dropped = attempt(lambda: keeper.discard(ids))
        if not isinstance(dropped, BackupError):
            return
        if not _met_full_disk(dropped):
            raise dropped
        keeper.sync()
    keeper.discard(ids)


def _met_full_disk(error: BackupError) -> bool:
    """Tell whether a transfer failed since the destination's filesystem is full."""
    if isinstance(error, PipelineFailed):
        return is_full(error.blamed.stderr)
    return isinstance(error, CommandFailed) and is_full(error.completed.stderr)


def _may_pass(error: BackupError) -> bool:
    """Tell whether a failure is one that may be over in a while."""
    if isinstance(error, TooLarge):
        return False
    if isinstance(error, PipelineFailed):
        return not is_permanent(error.blamed.stderr)
    return isinstance(error, ConnectionFailed | ContactLost | TimedOut | Busy)


def _sleep(seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        check_interrupted()
        time.sleep(min(left, 0.2))
