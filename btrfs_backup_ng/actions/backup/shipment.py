"""The transfers to one destination: a report of them, or sending them."""

import logging
import shlex
from concurrent.futures import ThreadPoolExecutor
from typing import Self
from uuid import UUID

from btrfs_backup_ng.__util__ import BackupError, attempt, format_size, visible
from btrfs_backup_ng.actions.backup.target import Target
from btrfs_backup_ng.core import codecs
from btrfs_backup_ng.core.events import Sent
from btrfs_backup_ng.core.model import Snapshot
from btrfs_backup_ng.core.plan import Transfer
from btrfs_backup_ng.endpoint.common import Place
from btrfs_backup_ng.host.entry import plain
from btrfs_backup_ng.place.holds import Holds, sending_hold
from btrfs_backup_ng.place.locks import Holder
from btrfs_backup_ng.process.fan_out import Seat
from btrfs_backup_ng.process.pipeline import Moved
from btrfs_backup_ng.transfer.delivery import Delivery, GoesAlone, is_about_snapshot

log = logging.getLogger(__name__)

#: Streams that are equal can be sent to several destinations at once: the UUIDs of
#: snapshot and parent, the protocol, and a name if it is for this destination only.
Stream = tuple[UUID, UUID | None, str, str]


class Unsendable(BackupError):
    """Snapshots cannot be sent because of what they hold; the others were sent.

    :ivar exit_status: of a run that did a part, if any other one arrived.
    """

    def __init__(self, message: str, *, hint: str, exit_status: int) -> None:
        super().__init__(message, hint=hint)
        self.exit_status = exit_status


class Shipment:
    """The transfers to one destination, one after the other, the oldest first.

    The needs of the destination are recorded before each step: so nothing that it needs
    is deleted, even if the step fails. A snapshot that cannot be sent because of what
    it holds stops no newer one: these are sent from the last common parent.

    Only :meth:`send` may run in another thread than the rest.

    :ivar must_go_alone: it no longer shares a sender.
    """

    def __init__(self, target: Target, holds: Holds, holder: Holder) -> None:
        self.target = target
        self.must_go_alone = False
        self._holds = holds
        self._holder = holder
        self._delivery = Delivery(target.route, target.session)
        self._tried: set[UUID] = set()
        self._arrived = 0
        self._transfer: Transfer | None = None
        self._outcome: Sent | BackupError | None = None
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        # beside the first transfer
        self._registration = self._pool.submit(self.target.register)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    @property
    def has_failed(self) -> bool:
        """Return whether the transfer that was sent last failed."""
        return isinstance(self._outcome, BackupError)

    def report(self, temporary: Snapshot | None) -> None:
        """Report the transfers of :meth:`deliver` as a dry run, with sizes.

        :param temporary: measured in place of the planned snapshot.
        """
        target = self.target
        for transfer in target.transfers:
            whole = target.sizes.exact(transfer, temporary)
            self._warn_of_size(transfer, whole)
            there = target.safe_bytes(transfer)
            moved = Moved(max(0, whole - there), 0.0, b"")
            event = self._delivery.sent(transfer, moved, "", there, dry=True)
            target.session.emit(event)
            target.take_in(transfer)
        target.finish(self._holds)

    def _warn_of_size(self, transfer: Transfer, size_bytes: int) -> None:
        target = self.target
        most = target.options.max_size
        if most is not None and size_bytes > most:
            name = visible(transfer.snapshot.name)
            text = f"sending {name} to {target} would be stopped: it is longer than"
            text += f" {format_size(most)} (--max-size)"
            target.session.warn(target.name, text)

    def deliver(self) -> None:
        """Send everything that is planned."""
        with self:
            while self.begin():
                self.send()
                self.end()
            self.finish()

    def _next(self) -> Transfer | None:
        """Return the first planned transfer that was not tried yet."""
        planned = self.target.transfers
        left = (t for t in planned if t.snapshot.uuid not in self._tried)
        return next(left, None)

    def stream(self) -> Stream | None:
        """Return the stream that is sent next; None if nothing is left."""
        transfer, route = self._next(), self._delivery.route
        if not transfer:
            return None
        # Checkpoints and compression at another machine are those of one destination.
        is_here = route.source.place.location.is_here
        is_plain = is_here or route.codec == codecs.NONE
        parent = transfer.parent.uuid if transfer.parent else None
        alone = "" if is_plain else self.target.name
        return transfer.snapshot.uuid, parent, route.protocol, alone

    def begin(self) -> bool:
        """Prepare the next transfer; return whether there is one.

        :raises BackupError: if the needs of the destination cannot be recorded.
        """
        target = self.target
        self._transfer = transfer = self._next()
        if not transfer:
            return False
        self._tried.add(transfer.snapshot.uuid)
        target.hold(self._holds, sending_hold(transfer.snapshot))
        doing = f"sending {transfer.snapshot.name} to {target.name}"
        self._holder.note(doing, target.source, target.place)
        log.info("sending %s to %s", transfer.snapshot.name, target)
        planned = {transfer.snapshot.uuid for transfer in target.transfers}
        self._delivery.turn = len(self._tried), len(planned | self._tried)
        return True

    def send(self, seat: Seat | None = None) -> None:
        """Send it, and keep the outcome for :meth:`end`.

        :param seat: at a sender that other destinations share.
        """
        assert self._transfer
        transfer, estimate = self._transfer, self.target.sizes.known(self._transfer)
        self._outcome = attempt(
            lambda: self._delivery.send(
                transfer,
                estimate,
                self._holder,
                self._registered,
                self._look_again,
                seat,
            )
        )

    def end(self) -> None:
        """Take down the outcome of the transfer.

        :raises BackupError: if it failed, and no other one may be sent.
        """
        assert self._transfer and self._outcome
        transfer, outcome, target = self._transfer, self._outcome, self.target
        if isinstance(outcome, GoesAlone):
            self.must_go_alone = True
            self._tried.discard(transfer.snapshot.uuid)
        elif not isinstance(outcome, BackupError):
            target.session.emit(outcome)
            target.take_in(transfer)
            self._arrived += 1
        elif is_about_snapshot(outcome) and target.place.backups.takes_parents:
            target.leave_out(transfer.snapshot, outcome.message)
        else:
            raise outcome

    def finish(self) -> None:
        """Complete the records, and clear staging that is of no use now.

        :raises Unsendable: if there were snapshots that cannot be sent.
        """
        self._registered()
        self.target.clear_staging()
        if self.target.left_out:
            self.target.hold(self._holds)
            self._refuse_left_out()
        self.target.settle(self._holds)

    def _refuse_left_out(self) -> None:
        """Name the snapshots that cannot be sent.

        :raises Unsendable: always.
        """
        left_out, source = self.target.left_out, self.target.source
        folder = plain(source.snapshots.directory)
        paths = [f"{folder}/{snapshot.name}" for snapshot in left_out]
        scrub, gone = (
            visible(shlex.join(["btrfs", *words]))
            for words in (
                ("scrub", "start", "-B", folder),
                ("subvolume", "delete", *paths),
            )
        )
        others = "All others were sent" if self._arrived else "No other was missing"
        raise Unsendable(
            "; ".join(left_out.values()),
            hint=f"{others}."
            f" If a block cannot be read, dmesg names the file after:  {scrub}"
            f"\nTo stop trying to send it:  {gone}",
            exit_status=10 if self._arrived else 1,
        )

    def _look_again(self, place: Place) -> None:
        """Look at a place again after its lock was lost."""
        if place is self.target.place:
            attempt(self._registration.result)
            self.target.look_again()
        else:
            self._holds.read_again()

    def _registered(self) -> None:
        if isinstance(attempt(self._registration.result), BackupError):
            self.target.register()  # the connection was interrupted
