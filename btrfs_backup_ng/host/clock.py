"""The time, whether the kernel's clock is synchronised, and how long it slept."""

import ctypes
import os
import time
from datetime import datetime

from btrfs_backup_ng.core.judgement import Clock

#: For tests alone: seconds to add to the time, and perhaps ``synchronised``.
VARIABLE = "BTRFS_BACKUP_NG_CLOCK"
#: For tests alone: a file with the seconds that this machine has slept so far.
SLEEP_VARIABLE = "BTRFS_BACKUP_NG_SLEPT"
#: Return value of adjtimex(2) while the clock is not synchronised.
_TIME_ERROR = 5
#: Larger than ``struct timex`` on any machine; zeros only read.
_TIMEX_BYTES = 512


def read_clock() -> Clock:
    """Return the time, in the zone of this machine, and whether it is synchronised."""
    test = os.environ.get(VARIABLE)
    if test is None:
        return Clock(local_time(), is_synchronised=kernel_is_synchronised())
    return Clock(local_time(), is_synchronised="synchronised" in test.split())


def local_time() -> datetime:
    """Return the time, in the zone of this machine."""
    return datetime.fromtimestamp(seconds()).astimezone()


def seconds() -> float:
    """Return the seconds since 1970 by the clock of this machine."""
    shift = os.environ.get(VARIABLE, "").split()
    return time.time() + (float(shift[0]) if shift else 0.0)


def slept_s() -> float:
    """Return how long this machine has slept (suspended) since it was started."""
    if path := os.environ.get(SLEEP_VARIABLE):
        with open(path, encoding="ascii") as file:
            return float(file.read() or 0)
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()


def kernel_is_synchronised() -> bool:
    """Return whether the kernel reports that; False if it does not answer.

    Setting the clock by hand clears that state, and so does a day without contact: the
    time service has to set it again.
    """
    question = ctypes.create_string_buffer(_TIMEX_BYTES)
    try:
        state = ctypes.CDLL(None).adjtimex(question)
    except (OSError, AttributeError):
        return False
    return state not in (-1, _TIME_ERROR)
