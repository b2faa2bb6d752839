"""The state of a place in one word, with the details."""

import enum
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from btrfs_backup_ng.__util__ import BackupError, attempt
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import Facts, Waiting
from btrfs_backup_ng.core.retention import TOLERANCE
from btrfs_backup_ng.core.value import Value, replace
from btrfs_backup_ng.host.common import NeedsRoot
from btrfs_backup_ng.place.contents import Contents, Kept, read_contents
from btrfs_backup_ng.place.locks import Worker, parse_holder
from btrfs_backup_ng.place.preflight import READING, look_at
from btrfs_backup_ng.session.session import Session


class Word(enum.Enum):
    """The state of a place: the first that applies."""

    AWAY = "AWAY"
    """It cannot be looked at."""
    FAILED = "FAILED"
    """The last run failed there, and none works on it now."""
    STALE = "STALE"
    """Its newest snapshot or backup is older than is allowed."""
    RUNNING = "RUNNING"
    """A run works on it."""
    WAITING = "WAITING"
    """It has an interrupted transfer, and no run resumes that now."""
    OK = "OK"
    """It has a complete snapshot or backup."""
    NEVER = "NEVER"
    """It has none yet."""


class Standing(Value):
    """The result of one look at a place.

    :ivar made_here: see :class:`~btrfs_backup_ng.place.contents.Contents`.
    :ivar complete: number of complete snapshots and backups.
    :ivar future: those dated in the future, which are not the newest, oldest first.
    :ivar is_running: a run works on it.
    :ivar worker: the holder of its lock, if its note can be read.
    :ivar needs_root: it is away since only root may look at it.
    :ivar size_free: of its filesystem, in bytes; None if it is away.
    :ivar size_used: the same.
    :ivar reason: why it is away: the message of the error, as ``hint`` is its hint.
    """

    word: Word
    newest: Kept | None = None
    complete: int = 0
    future: tuple[Kept, ...] = ()
    is_running: bool = False
    waiting: tuple[Waiting, ...] = ()
    worker: Worker | None = None
    reason: str = ""
    hint: str = ""
    needs_root: bool = False
    made_here: frozenset[UUID] = frozenset()
    size_free: int | None = None
    size_used: int | None = None


class Demand(Value):
    """What is asked of a place beyond having a backup.

    :ivar max_age: of its newest snapshot or backup, None for any.
    :ivar has_failed: the last run failed there.
    """

    max_age: timedelta | None = None
    has_failed: bool = False


class Sight(Value):
    """One look at a place.

    :ivar holder: note of the lock's holder, None if the lock is free.
    """

    contents: Contents
    holder: str | None
    facts: Facts


def see(location: Location, session: Session, folder: str) -> Sight:
    """Look at a place; change nothing, and take no lock.

    :param folder: of its own snapshots, "" for that of the session.
    :raises BackupError: if it cannot be looked at.
    """
    place = look_at(location, session, READING, folder=folder)
    return Sight(read_contents(place), place.held(), place.facts)


def look_at_each(
    looks: Sequence[tuple[Location, Callable[[], Sight]]], session: Session
) -> list[Sight | BackupError]:
    """Look at places, and return what was seen, or the error, in their order.

    A host that hangs delays no other.

    :param looks: each like :func:`see`.
    """
    results: list[Sight | BackupError] = []
    if len({location.machine for location, _ in looks}) < 2:
        results += [attempt(look) for _, look in looks]
    else:
        from btrfs_backup_ng.session import side_by_side  # here: for several hosts

        results += side_by_side.look_side_by_side(
            [(location, partial(attempt, look)) for location, look in looks],
            session.connections,
        )
    for found in results:
        if isinstance(found, Sight):
            found.contents.warn()
    return results


def examine(found: Sight | BackupError, now: datetime, demand: Demand) -> Standing:
    """Judge the state of a place by a look at it, or by the error of that look."""
    if isinstance(found, BackupError):
        return Standing(
            Word.AWAY,
            reason=found.message,
            hint=found.hint,
            needs_root=isinstance(found, NeedsRoot),
        )
    standing = judge(found.contents, found.holder, now, demand)
    facts = found.facts
    return replace(standing, size_free=facts.size_free, size_used=facts.size_used)


def judge(
    contents: Contents, holder: str | None, now: datetime, demand: Demand
) -> Standing:
    """Judge the state of a place.

    :param holder: note of the lock's holder, ``None`` if the lock is free.
    :param now: aware.
    """
    complete = contents.complete
    future = tuple(kept for kept in complete if _is_future(kept, now))
    present = (kept for kept in reversed(complete) if not _is_future(kept, now))
    standing = Standing(
        Word.OK,
        newest=next(present, complete[-1] if complete else None),
        complete=len(complete),
        future=future,
        is_running=holder is not None or any(t.running for t in contents.waiting),
        waiting=contents.waiting,
        worker=parse_holder(holder) if holder is not None else None,
        made_here=contents.made_here,
    )
    return replace(standing, word=_word(standing, now, demand))


def _is_future(kept: Kept, now: datetime) -> bool:
    created = kept.snapshot.created
    return created is not None and created > now + TOLERANCE


def _word(standing: Standing, now: datetime, demand: Demand) -> Word:
    newest = standing.newest
    if demand.has_failed and not standing.is_running:
        return Word.FAILED
    if newest and demand.max_age is not None:
        made = newest.snapshot.created
        if not made or newest in standing.future or now - made > demand.max_age:
            return Word.STALE
    if standing.is_running:
        return Word.RUNNING
    if standing.waiting:
        return Word.WAITING
    return Word.OK if newest else Word.NEVER
