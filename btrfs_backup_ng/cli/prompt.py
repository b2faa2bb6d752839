"""The questions at the terminal."""

import os
import sys
from select import select

from btrfs_backup_ng.__util__ import BackupError, visible
from btrfs_backup_ng.process.interruption import check_interrupted


class Declined(BackupError):
    """The answer was no."""


def confirmed(question: str) -> bool:
    """Ask at the terminal; only a yes is a yes.

    :raises Interrupted: if a signal interrupts the program meanwhile.
    """
    return _ask(question).lower() in ("y", "yes")


def answered(question: str, proposal: str) -> str:
    """Return the answer to a question at the terminal; an empty one is the proposal.

    :raises Interrupted: if a signal interrupts the program meanwhile.
    """
    return _ask(f"{question} [{visible(proposal)}]: ") or proposal


def _ask(question: str) -> str:
    print(question, end="", file=sys.stderr, flush=True)
    while not select([0], [], [], 0.1)[0]:
        check_interrupted()
    answer = os.read(0, 1024).decode(errors="replace").strip()
    check_interrupted()
    return answer
