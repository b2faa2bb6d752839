"""The lock of a place: one run works on it at a time."""

import functools
import json
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Self

from btrfs_backup_ng.__util__ import BackupError, Busy, attempt, visible
from btrfs_backup_ng.core.model import Role
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.endpoint.common import Place
from btrfs_backup_ng.host.common import LockHeld, Say

log = logging.getLogger(__name__)


#: Characters of a holder's note that are shown: two names of 255 characters fit.
_SHOWN = 600


class Holder:
    """The locks that this run holds, each with a note for processes that wait for it.

    :param since: start of the run, aware.
    """

    def __init__(self, since: datetime) -> None:
        self._since = since
        self._says: dict[Place, Say] = {}
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
        """Replace the note in all locks that this run holds.

        :param needed: the places that will be changed.
        :raises BackupError: if the lock of one of these is lost.
        """
        for place, say in self._says.items():
            done = attempt(functools.partial(say, self.line(doing)))
            if isinstance(done, BackupError) and place in needed:
                raise done

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
