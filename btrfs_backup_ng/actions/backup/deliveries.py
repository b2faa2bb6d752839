"""The deliveries to the destinations of a run, several from one read where possible.

Where the next transfer of several destinations is the same stream, ``btrfs send`` runs
once for all of them (``process/fan_out``). The first destination that has something to
get leads, and others join it; so none waits longer for its backups than if each was
served alone, in the order of the command line. One that holds up the others for too
long, or that has to be tried again, goes on alone when the others are done.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack

from btrfs_backup_ng.__util__ import BackupError, attempt
from btrfs_backup_ng.actions.backup.shipment import Shipment
from btrfs_backup_ng.actions.backup.target import Target
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.process.fan_out import Seat, SharedSender
from btrfs_backup_ng.process.poller import TICK_S
from btrfs_backup_ng.session.turns import STREAM_ENDS


def deliver_together(
    shipments: Sequence[Shipment],
    *,
    source: Location,
    patience_s: float,
    fail: Callable[[str, BackupError], None],
) -> list[Target]:
    """Send to each destination all that is planned for it.

    :param patience_s: how long one destination may hold up the others; 0: for ever.
    :param fail: takes the failure of a destination, and its name.
    :returns: the targets that did not fail.
    """
    deliveries = _Deliveries(shipments, source, patience_s, fail)
    with ExitStack() as stack:
        for shipment in shipments:
            stack.enter_context(shipment)
        stack.callback(deliveries.close)
        return deliveries.run()


class _Sending:
    """A transfer that is on its way to a destination, in a thread of its own."""

    def __init__(
        self, shipment: Shipment, seat: Seat | None, pool: ThreadPoolExecutor
    ) -> None:
        self.shipment = shipment
        self._seat = seat
        self.future = pool.submit(self._run)

    @property
    def is_running(self) -> bool:
        return not self.future.done()

    def _run(self) -> None:
        try:
            self.shipment.send(self._seat)
        finally:
            if self._seat:
                self._seat.give_up()


class _Deliveries:
    """The destinations that still get something, and what is on its way to them."""

    def __init__(
        self,
        shipments: Sequence[Shipment],
        source: Location,
        patience_s: float,
        fail: Callable[[str, BackupError], None],
    ) -> None:
        self._free = list(shipments)
        self._source = source
        self._patience_s = patience_s
        self._fail = fail
        self._busy: list[_Sending] = []
        self._senders: list[SharedSender] = []
        self._pool = ThreadPoolExecutor(len(shipments))
        self._waiting_since: float | None = None
        self._done: set[Shipment] = set()
        self._order = list(shipments)

    def run(self) -> list[Target]:
        """Run them; return the targets that did not fail."""
        while True:
            self._finish_free()
            if not (self._free or self._busy):
                break
            group = self._next_group()
            if group and (not self._busy or self._has_waited()):
                self._start(group)
            else:
                self._wait()
        return [one.target for one in self._order if one in self._done]

    def join(self) -> None:
        """Wait for the ends of all threads."""
        wait(one.future for one in self._busy)
        while self._senders:
            self._senders.pop().join()

    def close(self) -> None:
        """End the threads, once their work is over."""
        self.join()
        self._pool.shutdown()

    def _finish_free(self) -> None:
        """Finish the destinations that have got all."""
        for shipment in [one for one in self._free if one.stream() is None]:
            self._free.remove(shipment)
            if self._succeeds(shipment, shipment.finish):
                self._done.add(shipment)

    def _succeeds(self, shipment: Shipment, action: Callable[[], object]) -> bool:
        """Run a step of a destination; report its failure, which is the last step."""
        done = attempt(action)
        if isinstance(done, BackupError):
            self._fail(shipment.target.name, done)
        return not isinstance(done, BackupError)

    def _next_group(self) -> list[Shipment]:
        """Return a destination that leads, and those that need the same stream next.

        Those that have to go alone come last.
        """
        together = [one for one in self._free if not one.must_go_alone]
        if not together:
            return self._free[: not self._busy]
        leader = together[0]
        ends = Counter([self._source.machine] if self._source.is_remote else [])
        group = []
        for one in together:
            there = one.target.place.location
            most = 1 if one.target.place.host.is_narrow else STREAM_ENDS
            if one.stream() != leader.stream() or ends[there.machine] >= most:
                continue
            ends[there.machine] += there.is_remote
            group.append(one)
        return group or [leader]

    def _start(self, group: list[Shipment]) -> None:
        """Send the next transfer of some destinations, from one read if it can be."""
        self._free = [one for one in self._free if one not in group]
        group = [one for one in group if self._succeeds(one, one.begin)]
        if len(group) == 1 and not self._busy:
            group[0].send()
            self._end(group[0])
            return
        seats: Sequence[Seat | None] = [None]
        if len(group) > 1:
            self._senders.append(SharedSender(len(group), self._patience_s))
            seats = self._senders[-1].seats
        self._waiting_since = None
        for shipment, seat in zip(group, seats):
            self._busy.append(_Sending(shipment, seat, self._pool))

    def _end(self, shipment: Shipment) -> None:
        """Take down how a transfer ended; what follows it may be sent."""
        if self._succeeds(shipment, shipment.end):
            free = {*self._free, shipment}
            self._free = [one for one in self._order if one in free]

    def _wait(self) -> None:
        """Wait a little; then take down what has ended.

        Those that succeeded are taken down together, in the order of the command line,
        unless one takes too long; a failure at once.
        """
        running = [one.future for one in self._busy if one.is_running]
        wait(running, TICK_S, FIRST_COMPLETED)
        ended = [one for one in self._busy if not one.is_running]
        if len(ended) < len(self._busy) and not (ended and self._has_waited()):
            ended = [one for one in ended if one.shipment.has_failed]
        for sending in ended:
            self._busy.remove(sending)
            sending.future.result()
            self._end(sending.shipment)
        if not self._busy:
            self.join()

    def _has_waited(self) -> bool:
        """Return whether those that have ended have waited enough for the others."""
        now = time.monotonic()
        self._waiting_since = self._waiting_since or now
        return 0 < self._patience_s < now - self._waiting_since
