"""The turns of the tasks of one run that share places or hosts."""

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.value import replace
from btrfs_backup_ng.host.ssh import PLACES_AT_ONCE
from btrfs_backup_ng.process.interruption import check_interrupted


class Turns:
    """Let tasks of one run that share places or hosts take turns.

    A host behind ssh takes a limited number of places at once (each needs a session for
    its lock). A task gets all that it needs in one step, so that no two wait for each
    other.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken: set[Location] = set()
        self._used: Counter[Location] = Counter()

    @contextmanager
    def taking(self, places: Iterable[Location]) -> Iterator[None]:
        """Wait until no other task works on any of these places.

        :raises Interrupted: if a signal interrupts the program meanwhile.
        """
        wanted = set(places)
        hosts = Counter(replace(p, path="") for p in wanted if p.is_remote)
        with self._changed:
            while not self._is_free(wanted, hosts):
                self._changed.wait(0.1)
                check_interrupted()
            self._taken |= wanted
            self._used += hosts
        try:
            yield
        finally:
            with self._changed:
                self._taken -= wanted
                self._used -= hosts
                self._changed.notify_all()

    def _is_free(self, places: set[Location], hosts: Counter[Location]) -> bool:
        if places & self._taken:
            return False
        used = self._used
        return all(
            not used[host] or used[host] + number <= PLACES_AT_ONCE
            for host, number in hosts.items()
        )
