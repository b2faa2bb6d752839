"""Own who works on a place: one run at a time, and within a run one task."""

import json
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime

from btrfs_backup_ng.__util__ import Busy, visible
from btrfs_backup_ng.endpoint.common import BtrfsEndpoint
from btrfs_backup_ng.host import LockHeld, Say

log = logging.getLogger(__name__)


class Holder:
    """Tell whoever meets our lock what this run is doing.

    :param since: when the run began, aware.
    """

    def __init__(self, since: datetime) -> None:
        self._since = since
        self._says: list[Say] = []

    def line(self, doing: str = "") -> str:
        """Write the facts as one line of JSON."""
        facts = {
            "pid": os.getpid(),
            "host": os.uname().nodename,
            "since": self._since.isoformat(timespec="seconds"),
            "doing": doing,
        }
        return json.dumps(facts)

    def tell(self, doing: str) -> None:
        """Replace what the locks held so far say."""
        for say in self._says:
            say(self.line(doing))

    @contextmanager
    def holding(self, endpoint: BtrfsEndpoint, wait_s: float) -> Iterator[None]:
        """Hold the lock of a place.

        :raises Busy: if another run has it for longer than ``wait_s``.
        """
        with ExitStack() as stack:
            try:
                say = stack.enter_context(endpoint.lock(wait_s, self.line()))
            except LockHeld as error:
                raise _busy(endpoint, error.message) from error
            log.info("locked %s", endpoint)
            self._says.append(say)
            stack.callback(self._says.remove, say)
            yield


def _busy(endpoint: BtrfsEndpoint, holder: str) -> Busy:
    try:
        facts = json.loads(holder)
        since = datetime.fromisoformat(facts["since"]).astimezone()
        words = [f"pid {facts['pid']}"]
        if facts["host"] != os.uname().nodename:
            words.append(f"on {facts['host']}")
        words.append(f"since {since:%H:%M}")
        words += [facts["doing"]] if facts["doing"] else []
        who = f" ({visible(', '.join(words))})"
    except (ValueError, KeyError, TypeError):
        who = ""
    return Busy(
        f"another run is working on {endpoint}{who}", hint="Wait for it:  --wait 3600"
    )


class Turns:
    """Let tasks of one run that share a place take turns, never deadlocking."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._places: dict[str, threading.Lock] = {}

    @contextmanager
    def taking(self, places: Iterable[str]) -> Iterator[None]:
        """Wait until no other task works on any of these places."""
        with self._guard:
            locks = [
                self._places.setdefault(place, threading.Lock())
                for place in sorted(set(places))
            ]
        with ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            yield
