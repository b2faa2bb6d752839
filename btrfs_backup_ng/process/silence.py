"""Limits on the silence of a command, and on its time."""

import time

from btrfs_backup_ng.process.command import Patience
from btrfs_backup_ng.process.poller import TICK_S


class Silence:
    """The time spent waiting for one command.

    Time in which this program did not run (Ctrl-Z, a suspended machine) does not count.
    """

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._heard = -1
        self._silent_s = 0.0
        self._waited_s = 0.0
        self._looked = time.monotonic()

    def begin(self) -> None:
        """Start to wait again, after a time of not waiting."""
        self._silent_s = 0.0
        self._looked = time.monotonic()

    def too_long(self, heard: int) -> str:
        """Return which limit is exceeded, as the rest of a message, or "".

        Call it every :data:`TICK_S` while waiting.

        :param heard: a number that changes with each output.
        """
        now = time.monotonic()
        elapsed_s = min(now - self._looked, 2 * TICK_S)
        self._looked = now
        self._waited_s += elapsed_s
        self._silent_s = 0.0 if heard != self._heard else self._silent_s + elapsed_s
        self._heard = heard
        limit_s, longest_s = self._patience.silence_s, self._patience.longest_s
        if limit_s and self._silent_s >= limit_s:
            return f"was silent for {limit_s:g} s"
        if longest_s and self._waited_s >= longest_s:
            return f"did not end within {longest_s:g} s"
        return ""
