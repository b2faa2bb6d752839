"""The signal that interrupted the program, and the children that end with it."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Protocol

from btrfs_backup_ng.__util__ import Interrupted


class Running(Protocol):
    """A child, which signals can be sent to."""

    def send(self, signal_number: int) -> None:
        """Send a signal to its group."""

    def terminate(self) -> None:
        """Ask its group to end."""


#: The signal that interrupted the program.
interrupted_by: int | None = None
#: Children that were started and not yet reaped.
live: set[Running] = set()


def interrupt(signal_number: int) -> None:
    """End all children and let no other start; for the handler of a signal.

    The first signal is the one remembered. The children get SIGTERM here, and SIGKILL
    after ``END_GRACE_S`` from the code that waits for them. Takes only locks that its
    own thread may hold, and writes nothing.
    """
    global interrupted_by
    interrupted_by = interrupted_by or signal_number
    for child in list(live):
        child.terminate()


def interrupted() -> int | None:
    """Return the signal that interrupted the program, if one did."""
    return interrupted_by


def check_interrupted() -> None:
    """Raise if a signal interrupted the program.

    :raises Interrupted: then.
    """
    if interrupted_by is not None:
        raise Interrupted(interrupted_by)


@contextlib.contextmanager
def last_steps() -> Iterator[None]:
    """Let processes start even after a signal: to unmount, to restore names."""
    global interrupted_by
    remembered, interrupted_by = interrupted_by, None
    try:
        yield
    finally:
        interrupted_by = remembered or interrupted_by


def end_all() -> None:
    """Kill every live child and its group, at once; the last resort."""
    for child in list(live):
        child.send(signal.SIGKILL)
