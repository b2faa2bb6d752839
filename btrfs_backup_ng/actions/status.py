"""The one word that says how a place is doing, and what is behind it."""

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
    """How a place is doing; the first that is true."""

    AWAY = "AWAY"
    """It cannot be looked at."""
    RUNNING = "RUNNING"
    """Somebody works on it."""
    WAITING = "WAITING"
    """A transfer was cut, and nobody goes on with it now."""
    OK = "OK"
    """It has something complete."""
    NEVER = "NEVER"
    """It has nothing yet."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What one look at a place says.

    :ivar worker: who holds its lock, as far as he tells.
    :ivar reason: why it is away, and what to do: the fields of the error.
    """

    word: Word
    newest: Kept | None = None
    waiting: tuple[Waiting, ...] = ()
    worker: Worker | None = None
    reason: str = ""
    hint: str = ""


def examine(location: Location, session: Session, folder: str) -> Standing:
    """Find out how a place is doing; nothing is changed there, and no lock is taken.

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
    """Return the word for what was seen.

    :param holder: what the holder of the lock says, ``None`` if nobody holds it.
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
    """Return 0 if no place needs somebody to look after it, else 1."""
    good = (Word.OK, Word.RUNNING)
    return int(any(standing.word not in good for standing in standings))
