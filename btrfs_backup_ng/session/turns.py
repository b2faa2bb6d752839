"""The turns of the tasks of one call whose streams share a disk or a host."""

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
    """Let a limited number of tasks send at once if their streams share a disk.

    All else of a task goes on beside the others. A host behind ssh takes a limited
    number of streams at once. A task gets all that it needs in one step, and the one
    that came first goes first, so that no two wait for each other. A task that sends
    little needs no turn of a disk: see :data:`SMALL`.
    """

    def __init__(self, on_a_disk: int = 1) -> None:
        """Prepare.

        :param on_a_disk: how many tasks send at once from or to one disk.
        """
        self._on_a_disk = on_a_disk
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
        turn = _Turn(disks, ends)
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
            return not self._has_disks(turn, self._before(turn))

    def _before(self, turn: "_Turn") -> "list[_Turn]":
        return self._queue[: self._queue.index(turn)]

    def _has_disks(self, turn: "_Turn", earlier: "Sequence[_Turn]") -> bool:
        users = Counter(disk for one in earlier for disk in one.disks & turn.disks)
        return all(number < self._on_a_disk for number in users.values())

    def _is_free(self, turn: "_Turn") -> bool:
        """Return whether the tasks that came before it leave room for it."""
        earlier = self._before(turn)
        ends = sum((one.ends for one in earlier), turn.ends)
        has_hosts = all(ends[host] <= STREAM_ENDS for host in turn.ends)
        return has_hosts and self._has_disks(turn, earlier)


class _Turn:
    """The needs of one task."""

    def __init__(self, disks: Collection[str], ends: Mapping[Location, int]) -> None:
        self.disks = frozenset(disks)
        # One that needs more than there may be waits until it is alone.
        self.ends = Counter({host: min(ends[host], STREAM_ENDS) for host in ends})
