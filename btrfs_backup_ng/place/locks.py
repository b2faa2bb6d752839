"""Who works on a place: one run at a time, and within a run one task."""

import functools
import json
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from btrfs_backup_ng.__util__ import BackupError, Busy, attempt, visible
from btrfs_backup_ng.core.model import Role
from btrfs_backup_ng.endpoint.common import Place
from btrfs_backup_ng.host.common import LockHeld, Say

log = logging.getLogger(__name__)


#: So much of what a holder says of itself is shown: two names of 255 signs fit.
_SHOWN = 600


class Holder:
    """Tell whoever meets our lock what this run is doing.

    :param since: when the run began, aware.
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
        """Write the facts as one line of JSON."""
        facts = {
            "pid": os.getpid(),
            "host": os.uname().nodename,
            "since": self._since.isoformat(timespec="seconds"),
            "doing": doing,
        }
        return json.dumps(facts)

    def tell(self, doing: str, *needed: Place) -> None:
        """Replace what the locks held so far say.

        :param needed: the places that are going to be changed.
        :raises BackupError: if the lock of one of them is lost.
        """
        for place, say in self._says.items():
            said = attempt(functools.partial(say, self.line(doing)))
            if isinstance(said, BackupError) and place in needed:
                raise said

    def regain(self, place: Place, wait_s: float, role: Role) -> bool:
        """Lock a place again if its lock is lost, as its connection was.

        :returns: whether it was: others may have worked there meanwhile.
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


@dataclass(frozen=True, slots=True)
class Worker:
    """Who holds a lock, as it says itself.

    :ivar since: when its run began, aware, in the zone of this machine.
    :ivar doing: what, for people; may be nothing.
    """

    pid: int
    host: str
    since: datetime
    doing: str

    def __str__(self) -> str:
        """Return all that in a few words."""
        words = [f"pid {self.pid}"]
        if self.host != os.uname().nodename:
            words.append(f"on {self.host}")
        words.append(f"since {self.since:%H:%M}")
        words += [self.doing] if self.doing else []
        return visible(", ".join(words))


def parse_holder(text: str) -> Worker | None:
    """Read what :meth:`Holder.line` wrote; ``None`` if that is not what it is."""
    try:
        facts = json.loads(text)
        since = datetime.fromisoformat(facts["since"]).astimezone()
        pid, host = int(facts["pid"]), str(facts["host"])[:_SHOWN]
        doing = str(facts["doing"])[:_SHOWN]
        return Worker(pid, host, since, doing)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def busy(place: Place, holder: str) -> Busy:
    """Say who holds the lock of a place.

    :param holder: what he wrote about himself.
    """
    worker = parse_holder(holder)
    who = f" ({worker})" if worker else ""
    return Busy(
        f"another run is working on {place}{who}", hint="Wait for it:  --wait 3600"
    )
