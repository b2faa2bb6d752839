"""The state of a place in one word, with the details."""

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from btrfs_backup_ng.__util__ import BackupError, attempt
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import Waiting
from btrfs_backup_ng.place.contents import Contents, Kept, read_contents
from btrfs_backup_ng.place.locks import Worker, parse_holder
from btrfs_backup_ng.place.preflight import READING, look_at
from btrfs_backup_ng.session.session import Session


class Word(enum.Enum):
    """The state of a place: the first that applies."""

    AWAY = "AWAY"
    """It cannot be looked at."""
    RUNNING = "RUNNING"
    """A run works on it."""
    WAITING = "WAITING"
    """It has an interrupted transfer, and no run resumes that now."""
    OK = "OK"
    """It has a complete snapshot or backup."""
    NEVER = "NEVER"
    """It has none yet."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The result of one look at a place.

    :ivar worker: the holder of its lock, if its note can be read.
    :ivar reason: why it is away: the message of the error, as ``hint`` is its hint.
    """

    word: Word
    newest: Kept | None = None
    waiting: tuple[Waiting, ...] = ()
    worker: Worker | None = None
    reason: str = ""
    hint: str = ""


def examine(location: Location, session: Session, folder: str) -> Standing:
    """Look at a place, and judge its state; change nothing, and take no lock.

    :param folder: of its own snapshots, "" for that of the session.
    """
    found = attempt(lambda: _look(location, session, folder))
    if isinstance(found, BackupError):
        return Standing(Word.AWAY, reason=found.message, hint=found.hint)
    return found


def _look(location: Location, session: Session, folder: str) -> Standing:
    place = look_at(location, session, READING, folder=folder)
    contents = read_contents(place).warn()
    return judge(contents, place.held())


def judge(contents: Contents, holder: str | None) -> Standing:
    """Judge the state of a place.

    :param holder: note of the lock's holder, ``None`` if the lock is free.
    """
    newest, waiting = contents.newest, contents.waiting
    worker = parse_holder(holder) if holder is not None else None
    if holder is not None or any(transfer.running for transfer in waiting):
        word = Word.RUNNING
    elif waiting:
        word = Word.WAITING
    else:
        word = Word.OK if newest else Word.NEVER
    return Standing(word, newest, waiting, worker)


def exit_status(standings: Iterable[Standing]) -> int:
    """Return 0 if no place needs attention, else 1."""
    good = (Word.OK, Word.RUNNING)
    return int(any(standing.word not in good for standing in standings))
