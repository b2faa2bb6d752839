"""The signal that interrupted the program, and the children that end with it."""

import contextlib
import signal
import time
from _thread import get_ident
from collections.abc import Iterator
from typing import Protocol

from btrfs_backup_ng.__util__ import Interrupted


class Running(Protocol):
    """A child, which signals can be sent to.

    :ivar spared: how many signals to the program leave it alone.
    """

    spared: int

    def send(self, signal_number: int) -> None:
        """Send a signal to its group."""

    def terminate(self) -> None:
        """Ask its group to end."""


_LONGEST_SLEEP_S = 0.1
#: The signal that interrupted the program.
interrupted_by: int | None = None
#: The number of signals so far.
_signals = 0
#: Threads at their last steps -> how many signals do not interrupt these.
_spared: dict[int, int] = {}
#: Children that were started and not yet reaped.
live: set[Running] = set()


def interrupt(signal_number: int) -> None:
    """End all children and let no other start; for the handler of a signal.

    The first signal is the one remembered. The children get SIGTERM here, and SIGKILL
    after ``END_GRACE_S`` from the code that waits for them. Takes only locks that its
    own thread may hold, and writes nothing.
    """
    global interrupted_by, _signals
    if interrupted_by is None:
        interrupted_by, _signals = signal_number, 0
    _signals += 1
    for child in list(live):
        if child.spared < _signals:
            child.terminate()


def interrupted() -> int | None:
    """Return the signal that interrupted the program, if one did.

    In a thread at its last steps: None, unless these are interrupted, too.
    """
    spared = signals_spared()
    return interrupted_by if not spared or spared < _signals else None


def check_interrupted() -> None:
    """Raise if a signal interrupted the program.

    :raises Interrupted: then.
    """
    if (signal_number := interrupted()) is not None:
        raise Interrupted(signal_number)


def sleep(seconds: float) -> None:
    """Wait, in short sleeps, as the handler of a signal does not end one.

    :raises Interrupted: if a signal interrupts the program.
    """
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        check_interrupted()
        time.sleep(min(left, _LONGEST_SLEEP_S))
    check_interrupted()


def signals_spared() -> int:
    """Return how many signals do not interrupt this thread; 0 but at last steps."""
    return _spared.get(get_ident(), 0)


@contextlib.contextmanager
def sparing(signals: int) -> Iterator[None]:
    """Let so many signals not interrupt this thread, nor the children it starts."""
    before = signals_spared()
    _spared[get_ident()] = signals
    try:
        yield
    finally:
        _spared[get_ident()] = before
        if not before:
            del _spared[get_ident()]


@contextlib.contextmanager
def last_steps() -> Iterator[None]:
    """Let this thread finish what has to be done even after a signal.

    For processes that unmount, restore names, or undo what a hook did. The first
    signal does not stop them, be it past or to come; the next one does.
    """
    past = 0 if interrupted_by is None else _signals
    with sparing(signals_spared() or max(1, past)):
        yield


def end_all() -> None:
    """Kill every live child and its group, at once; the last resort."""
    for child in list(live):
        child.send(signal.SIGKILL)
