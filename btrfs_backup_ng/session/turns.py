"""The turns of the tasks of one call whose streams share a disk or a host."""

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

from btrfs_backup_ng.__util__ import MIB
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.process.interruption import check_interrupted

#: Ends of streams on one host at once. Of the eight sessions of a connection that
#: leaves those of the locks (``PLACES_AT_ONCE``), and one that keeps a password.
STREAM_ENDS = 2
#: A task that sends at most so many bytes needs no turn of a disk: most of its time is
#: not that of the disk. Eight at once on one pair of disks took 0.83 of the time of one
#: after another with a few bytes each, 0.75 with 4 MiB, 0.88 with 16 MiB; five with 64
#: MiB each took 1.33 (medians of three pairs, two busy cores, images in memory).
SMALL = 16 * MIB


class Turns:
    """Let tasks send one after the other if their streams share a disk.

    All else of a task goes on beside the others. A host behind ssh takes a limited
    number of streams at once. A task gets all that it needs in one step, and the one
    that came first goes first, so that no two wait for each other. A task that sends
    little needs no turn of a disk: see :data:`SMALL`.
    """

    def __init__(self, *, by_disk: bool = True) -> None:
        """Prepare.

        :param by_disk: if it is false, only hosts count.
        """
        self._by_disk = by_disk
        self._changed = threading.Condition()
        self._queue: list[_Turn] = []

    @contextmanager
    def taking(
        self,
        disks: Collection[str],
        ends: Mapping[Location, int],
        is_small: Callable[[], bool] = lambda: False,
    ) -> Iterator[None]:
        """Wait until the streams of earlier tasks leave room for those of this one.

        :param ends: how many ends of streams are at each host at once.
        :param is_small: returns whether the task sends little; called only if it would
            have to wait for a disk.
        :raises Interrupted: if a signal interrupts the program meanwhile.
        """
        turn = _Turn(disks if self._by_disk else (), ends)
        with self._changed:
            self._queue.append(turn)
        try:
            if self._waits_for_disk(turn) and is_small():
                with self._changed:
                    turn.disks = frozenset()
                    self._changed.notify_all()
            with self._changed:
                while not self._is_free(turn):
                    self._changed.wait(0.1)
                    check_interrupted()
            yield
        finally:
            with self._changed:
                self._queue.remove(turn)
                self._changed.notify_all()

    def _waits_for_disk(self, turn: "_Turn") -> bool:
        with self._changed:
            earlier = self._queue[: self._queue.index(turn)]
            return any(turn.disks & one.disks for one in earlier)

    def _is_free(self, turn: "_Turn") -> bool:
        """Return whether no task that came before it needs the same."""
        ends = turn.ends.copy()
        for earlier in self._queue[: self._queue.index(turn)]:
            if turn.disks & earlier.disks:
                return False
            ends += earlier.ends
        return all(ends[host] <= STREAM_ENDS for host in turn.ends)


class _Turn:
    """The needs of one task."""

    def __init__(self, disks: Collection[str], ends: Mapping[Location, int]) -> None:
        self.disks = frozenset(disks)
        # One that needs more than there may be waits until it is alone.
        self.ends = Counter({host: min(ends[host], STREAM_ENDS) for host in ends})
