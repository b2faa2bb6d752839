"""The questions at the terminal before something is deleted."""

import os
import sys
from select import select

from btrfs_backup_ng.__util__ import BackupError
from btrfs_backup_ng.process.interruption import check_interrupted


class Declined(BackupError):
    """The answer was no."""


def confirmed(question: str) -> bool:
    """Ask at the terminal; only a yes is a yes.

    :raises Interrupted: if a signal interrupts the program meanwhile.
    """
    print(question, end="", file=sys.stderr, flush=True)
    while not select([0], [], [], 0.1)[0]:
        check_interrupted()
    answer = os.read(0, 1024).decode(errors="replace").strip().lower()
    check_interrupted()
    return answer in ("y", "yes")
