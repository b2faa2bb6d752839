"""The lines of ``status``: a word, the place, and the reason."""

from collections.abc import Iterator
from datetime import datetime
from shlex import quote

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__util__ import visible
from btrfs_backup_ng.actions.status import Standing, Word
from btrfs_backup_ng.cli import wording
from btrfs_backup_ng.cli.commands.status.view import StatusEntry
from btrfs_backup_ng.cli.stdout import trouble
from btrfs_backup_ng.cli.table import terminal_width
from btrfs_backup_ng.core.columns import padded, with_command

#: Where the text begins, behind the longest word.
_TEXT_AT = 9
_TROUBLE = (Word.FAILED, Word.STALE, Word.AWAY)


def lines(entry: StatusEntry, now: datetime) -> Iterator[tuple[str, int | None]]:
    """Yield lines, each with the indent of its further lines if it may be broken."""
    word, start = entry.word, " " * _TEXT_AT
    is_trouble = word in _TROUBLE and not entry.is_fine(now)
    shown = trouble(word.value) if is_trouble else word.value
    head = f"{padded(shown, _TEXT_AT)}{visible(entry.title)}: "
    for text in texts(entry, now):
        yield head + text, _TEXT_AT
        head = start
    for hint in hints(entry):
        for line in with_command(start + visible(hint), terminal_width(), _TEXT_AT + 2):
            yield line, None


def hints(entry: StatusEntry) -> list[str]:
    """Return what to do about an entry, a line for each way."""
    found = entry.hint.splitlines()
    waits = any(not one.running for one in entry.standing.waiting)
    where = quote(entry.place)
    if entry.run_line and entry.word in (Word.FAILED, Word.STALE, Word.NEVER):
        found = [f"Back up now:  {entry.run_line}", *found]
    elif entry.word is not Word.RUNNING and waits:
        resume = f"Resume:  {entry.run_line or f'{PROGRAM} SOURCE {where}'}"
        discard = f"Or discard it:  {PROGRAM} prune --staging {where}"
        found = [resume, discard, *found]
    return found


def texts(entry: StatusEntry, now: datetime) -> Iterator[str]:
    """Yield the texts behind the word, each for a line of its own."""
    standing = entry.standing
    waiting = [wording.described(one, now) for one in standing.waiting]
    match standing.word:
        case Word.AWAY:
            yield from _away(entry, now)
            yield from _failures(entry, now)
        case Word.FAILED:
            yield from [*_failures(entry, now), *_newest(standing, now)]
            yield from waiting
        case Word.STALE:
            yield from _newest(standing, now)
            yield from [_work(standing)] if standing.is_running else waiting
        case Word.RUNNING:
            yield _work(standing)
        case Word.WAITING:
            yield from waiting
        case Word.OK | Word.NEVER:
            yield from _newest(standing, now)


def _away(entry: StatusEntry, now: datetime) -> Iterator[str]:
    reason = entry.standing.reason
    if not entry.volume:
        reason = reason.removeprefix(visible(entry.place)).strip()
    yield from wording.lines(reason)
    if arrived := entry.last.arrived:
        when = wording.ago(arrived.time, now)
        yield f"last on record: {visible(arrived.target)}, {when}"


def _failures(entry: StatusEntry, now: datetime) -> Iterator[str]:
    """Yield for each source the failure of its last run."""
    for failed in entry.last.failed:
        is_clear = entry.volume or failed.source == entry.place
        whose = "" if is_clear else f" from {failed.source}"
        start = f"the last run{visible(whose)} failed, {wording.ago(failed.time, now)}"
        yield from wording.lines(f"{start}: {failed.error}")


def _newest(standing: Standing, now: datetime) -> Iterator[str]:
    newest, future = standing.newest, [k.snapshot.name for k in standing.future]
    if newest is None:
        yield "nothing complete yet"
    else:
        name, created = newest.snapshot.name, newest.snapshot.created
        yield f"{visible(name)}, {wording.ago(created, now)}"
        if newest not in standing.future and future:
            first = visible(future[0])
            yield f"{len(future)} dated in the future do not count, from {first} on"


def _work(standing: Standing) -> str:
    if standing.worker:
        return str(standing.worker)
    running = [wording.name(one) for one in standing.waiting if one.running]
    return (
        f"receiving {', '.join(running)}"
        if running
        else "another run, which left no note"
    )
