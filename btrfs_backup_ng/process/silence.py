"""How long somebody is waited for who says nothing, or never comes to an end."""

import time

from btrfs_backup_ng.process.command import Patience
from btrfs_backup_ng.process.poller import TICK_S


class Silence:
    """The waiting for one command, from its start on.

    Time in which we ourselves did not run (Ctrl-Z, a suspended machine) does not count.
    """

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._heard = -1
        self._silent_s = 0.0
        self._waited_s = 0.0
        self._looked = time.monotonic()

    def begin(self) -> None:
        """Begin to wait once more, after time in which nobody waited."""
        self._silent_s = 0.0
        self._looked = time.monotonic()

    def too_long(self, heard: int) -> str:
        """Tell what there is no patience with any more, or "".

        To be called every :data:`TICK_S` while it is waited.

        :param heard: a number that is another one once something came.
        """
        now = time.monotonic()
        elapsed_s = min(now - self._looked, 2 * TICK_S)
        self._looked = now
        self._waited_s += elapsed_s
        self._silent_s = 0.0 if heard != self._heard else self._silent_s + elapsed_s
        self._heard = heard
        limit_s, longest_s = self._patience.silence_s, self._patience.longest_s
        if limit_s and self._silent_s >= limit_s:
            return f"said nothing for {limit_s:g} s"
        if longest_s and self._waited_s >= longest_s:
            return f"did not come to an end in {longest_s:g} s"
        return ""
