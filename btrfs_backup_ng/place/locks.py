"""The lock of a place: one run works on it at a time."""

import functools
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from typing import Self

from btrfs_backup_ng.__util__ import BackupError, Busy, Interrupted, attempt, visible
from btrfs_backup_ng.core.model import Role
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.endpoint.common import Place
from btrfs_backup_ng.host.common import LockHeld, Say

log = logging.getLogger(__name__)


#: Characters of a holder's note that are shown: two names of 255 characters fit.
_SHOWN = 600
#: Between two notes about one transfer: over ssh, each costs a process at the host.
_NOTED_EACH_S = 5.0


class Holder:
    """The locks that this run holds, each with a note for processes that wait for it.

    :param since: start of the run, aware.
    """

    def __init__(self, since: datetime) -> None:
        self._since = since
        self._says: dict[Place, Say] = {}
        self._last = ""
        self._doing: dict[Place, str] = {}
        self._running: dict[Place, Callable[[], str]] = {}
        self._regained = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._regained.close()

    def line(self, doing: str = "") -> str:
        """Return the note, as one line of JSON."""
        facts = {
            "pid": os.getpid(),
            "host": os.uname().nodename,
            "since": self._since.isoformat(timespec="seconds"),
            "doing": doing,
        }
        return json.dumps(facts)

    def note(self, doing: str, *needed: Place) -> None:
        """Replace the note in the locks that this run holds.

        Where a transfer runs, the last one that needed this place stays.

        :param needed: the places that will be changed.
        :raises BackupError: if the lock of one of these is lost.
        """
        self._last = doing
        self._doing |= dict.fromkeys(needed, doing)
        for place in list(self._says):
            done = attempt(functools.partial(self._say, place))
            if isinstance(done, BackupError) and place in needed:
                raise done

    @contextmanager
    def showing(self, state: Callable[[], str], *places: Place) -> Iterator[None]:
        """Keep the state of a running transfer in the notes of its places.

        :param state: returns it, for people, from any thread.
        """
        over = threading.Event()

        def keep() -> None:
            while not over.wait(_NOTED_EACH_S):
                for place in places:
                    with suppress(BackupError, Interrupted):  # the run finds out itself
                        self._say(place)

        self._running |= dict.fromkeys(places, state)
        threading.Thread(target=keep, daemon=True).start()
        try:
            yield
        finally:
            over.set()
            for place in places:
                if self._running.get(place) is state:
                    del self._running[place]

    def _say(self, place: Place) -> None:
        """Write the note of a place, if its lock is held."""
        doing = self._last
        if state := self._running.get(place):
            doing = ", ".join(filter(None, (self._doing.get(place, ""), state())))
        if say := self._says.get(place):
            say(self.line(doing))

    def regain(self, place: Place, wait_s: float, role: Role) -> bool:
        """Lock a place again if its lock was lost with its connection.

        :returns: whether it was lost; other runs may have changed the place since.
        :raises Busy: if another run has it for longer than ``wait_s``.
        """
        say = self._says.get(place)
        if not (say and isinstance(attempt(lambda: say(self.line())), BackupError)):
            return False
        self._regained.enter_context(self.holding(place, wait_s, role))
        return True

    @contextmanager
    def holding(
        self, place: Place, wait_s: float, role: Role = Role.BACKUP
    ) -> Iterator[None]:
        """Hold the lock of a place.

        :raises Busy: if another run has it for longer than ``wait_s``.
        """
        with ExitStack() as stack:
            try:
                say = stack.enter_context(place.lock(wait_s, self.line(), role))
            except LockHeld as error:
                raise busy(place, error.message) from error
            log.info("locked %s", place)
            self._says[place] = say
            stack.callback(self._says.pop, place, None)
            yield


class Worker(Value):
    """The holder of a lock, from its own note.

    :ivar since: start of its run, aware, in the zone of this machine.
    :ivar doing: its present work, for people; may be "".
    """

    pid: int
    host: str
    since: datetime
    doing: str

    def __str__(self) -> str:
        """Return all of it in a few words."""
        words = [f"pid {self.pid}"]
        if self.host != os.uname().nodename:
            words.append(f"on {self.host}")
        words.append(f"since {self.since:%H:%M}")
        words += [self.doing] if self.doing else []
        return visible(", ".join(words))


def parse_holder(text: str) -> Worker | None:
    """Parse a note written by :meth:`Holder.line`; ``None`` if it is not one."""
    try:
        facts = json.loads(text)
        since = datetime.fromisoformat(facts["since"]).astimezone()
        pid, host = int(facts["pid"]), str(facts["host"])[:_SHOWN]
        doing = str(facts["doing"])[:_SHOWN]
        return Worker(pid, host, since, doing)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def busy(place: Place, holder: str) -> Busy:
    """Return the error that names the holder of a place's lock.

    :param holder: its note.
    """
    worker = parse_holder(holder)
    who = f" ({worker})" if worker else ""
    return Busy(
        f"another run is working on {place}{who}", hint="Wait for it:  --wait 3600"
    )
