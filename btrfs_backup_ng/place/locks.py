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
#: Between two states of a transfer: over ssh, each costs a process at the host.
_RENEWED_EACH_S = 5.0
#: The name of the files in memory, as /proc shows it.
_LIVE = "btrfs-backup-ng"


class Holder:
    """The locks that this run holds, each with a note for processes that wait for it.

    While transfers run, their state is kept in the notes of places behind ssh. For a
    place of this machine it is in memory, and its note only names that: a thread that
    writes to a disk that hangs would keep the program from ending.

    :param since: start of the run, aware.
    """

    def __init__(self, since: datetime) -> None:
        self._since = since
        self._says: dict[Place, Say] = {}
        self._doing = ""
        self._needed: dict[Place, str] = {}  # the last note that needed the place
        self._transfers: dict[Place, list[Callable[[], str]]] = {}
        self._memory: dict[Place, int] = {}
        self._guard = threading.Lock()
        self._is_over = threading.Event()
        self._keeper: threading.Thread | None = None
        self._regained = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._regained.close()

    def line(self, place: Place, doing: str) -> str:
        """Return the note of a place, as one line of JSON."""
        facts = {
            "pid": os.getpid(),
            "host": os.uname().nodename,
            "since": self._since.isoformat(timespec="seconds"),
            "doing": doing,
        }
        if place in self._memory:
            facts["live"] = self._memory[place]
        return json.dumps(facts)

    def note(self, doing: str, *needed: Place) -> None:
        """Replace the notes in all locks that this run holds.

        :param needed: the places that will be changed.
        :raises BackupError: if the lock of one of these is lost.
        """
        self._doing = doing
        self._needed |= dict.fromkeys(needed, doing)
        for place, say in list(self._says.items()):
            done = attempt(functools.partial(say, self.line(place, doing)))
            if isinstance(done, BackupError) and place in needed:
                raise done

    @contextmanager
    def showing(
        self, figures: Callable[[], str], source: Place, sink: Place
    ) -> Iterator[None]:
        """Keep the state of a running transfer in the notes of its places.

        :param figures: returns how far it is, as text, from any thread.
        """
        doing = self._needed.get(sink, self._doing)

        def state() -> str:
            return ", ".join(filter(None, (doing, figures())))

        with self._guard:
            for place in (source, sink):
                self._transfers.setdefault(place, []).append(state)
            if not self._keeper:
                self._keeper = threading.Thread(target=self._keep, daemon=True)
                self._keeper.start()
        try:
            yield
        finally:
            with self._guard:
                for place in (source, sink):
                    self._transfers[place].remove(state)
                    self._remember(place)

    def _keep(self) -> None:
        """Renew the states of the transfers, in a thread."""
        while not self._is_over.wait(_RENEWED_EACH_S):
            with self._guard:
                for place, states in self._transfers.items():
                    say = self._says.get(place)
                    self._remember(place)
                    if states and say and place not in self._memory:
                        with suppress(BackupError, Interrupted):  # the run sees it, too
                            say(self.line(place, states[-1]()))

    def _remember(self, place: Place) -> None:
        """Write the state of a place of this machine into memory; none is empty."""
        if place in self._memory:
            states = self._transfers[place]
            text = states[-1]() if states else ""
            content = text.encode(errors="surrogateescape")
            os.pwrite(self._memory[place], content.ljust(_SHOWN), 0)

    def regain(self, place: Place, wait_s: float, role: Role) -> bool:
        """Lock a place again if its lock was lost with its connection.

        :returns: whether it was lost; other runs may have changed the place since.
        :raises Busy: if another run has it for longer than ``wait_s``.
        """
        say = self._says.get(place)
        if not say:
            return False
        line = self.line(place, self._doing)
        if not isinstance(attempt(lambda: say(line)), BackupError):
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
            if place.location.is_here:
                stack.enter_context(self._in_memory(place))
            try:
                lock = place.lock(wait_s, self.line(place, ""), role)
                say = stack.enter_context(lock)
            except LockHeld as error:
                raise busy(place, error.message) from error
            log.info("locked %s", place)
            self._says[place] = say
            stack.callback(self._says.pop, place, None)
            yield

    @contextmanager
    def _in_memory(self, place: Place) -> Iterator[None]:
        """Keep the state of a place in a file that only processes here can read."""
        self._memory[place] = os.memfd_create(_LIVE)
        try:
            yield
        finally:
            with self._guard:
                os.close(self._memory.pop(place))


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
        if host == os.uname().nodename and "live" in facts:
            doing = _read_live(pid, int(facts["live"])) or doing
        return Worker(pid, host, since, doing)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _read_live(pid: int, descriptor: int) -> str:
    """Return the state that a run keeps in its memory; "" if it cannot be read.

    A note may name any descriptor of any process, and that may be exchanged meanwhile:
    nothing but such a file is opened.
    """
    with suppress(OSError):
        named = os.open(f"/proc/{pid}/fd/{descriptor}", os.O_PATH | os.O_CLOEXEC)
        try:
            path = f"/proc/self/fd/{named}"
            if os.readlink(path).startswith(f"/memfd:{_LIVE} "):
                with open(path, "rb") as file:
                    return os.fsdecode(file.read(_SHOWN)).strip("\0 ")
        finally:
            os.close(named)
    return ""


def busy(place: Place, holder: str) -> Busy:
    """Return the error that names the holder of a place's lock.

    :param holder: its note.
    """
    worker = parse_holder(holder)
    who = f" ({worker})" if worker else ""
    return Busy(
        f"another run is working on {place}{who}", hint="Wait for it:  --wait 3600"
    )
