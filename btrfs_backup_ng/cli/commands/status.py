"""The ``status`` verb: places -> one word for each -> lines or a document."""

import dataclasses
import shlex
from collections.abc import Iterator, Sequence
from datetime import datetime

from btrfs_backup_ng.__logger__ import PROGRAM
from btrfs_backup_ng.__util__ import visible
from btrfs_backup_ng.actions.status import Standing, Word, examine, exit_status
from btrfs_backup_ng.cli import text as tell
from btrfs_backup_ng.cli.output import print_line
from btrfs_backup_ng.cli.parser import Parser, add_display
from btrfs_backup_ng.cli.places import (
    EPILOG_PLACES,
    add_folder,
    new_parser,
    open_session,
    print_document,
    read_words,
    remembered,
    wanted_places,
)
from btrfs_backup_ng.cli.ssh_options import add_ssh
from btrfs_backup_ng.cli.table import wrapped
from btrfs_backup_ng.session.history import Last, Record, last_to

_EPILOG = f"""\
{EPILOG_PLACES}
  Without any: those that are on record on this machine.
one word for each:
  OK        the newest snapshot or backup there
  RUNNING   somebody works on it: who, since when, and at what
  WAITING   a transfer was cut; the next backup that sends the same snapshot from the
            same parent goes on with it
  NEVER     nothing complete is there yet
  AWAY      it cannot be looked at: not mounted, not reached, not allowed

exit status:
  0 all are OK or RUNNING   1 one is WAITING, NEVER or AWAY   2 usage
"""
#: Where the text begins, behind the longest word.
_TEXT_AT = 9


def main(words: Sequence[str]) -> int:
    """Say how places are doing, one after the other.

    :raises UsageError: if the words do not make sense.
    """
    options = read_words(_parser(), words, needs_place=False)
    if options is None:
        return 0
    records = remembered(needed=not options.places)
    places, now = wanted_places(options, records), datetime.now().astimezone()
    found: list[tuple[str, Standing, Last]] = []
    with open_session(options, options.snapshot_folder, "status", words) as way:
        for place, folder in places:
            standing = examine(place, way, folder)
            told = str(place), standing, last_to(records, str(place))
            found.append(told)
            is_good = exit_status([standing]) == 0
            if not options.json and not (options.quiet and is_good):
                print_line("\n".join(_lines(*told, now)))
    status = exit_status(standing for _, standing, _ in found)
    if options.json:
        print_document(status, [_fields(*each, now) for each in found])
    return status


def _parser() -> Parser:
    parser = new_parser(
        "status",
        usage="[options] [PLACE ...]",
        description="Say in one word how places are doing, and what is behind it."
        "\nNothing is changed, and no backup is held up.",
        epilog=_EPILOG,
    )
    add_folder(parser)
    add_ssh(parser)
    add_display(parser)
    return parser


def _lines(place: str, standing: Standing, last: Last, now: datetime) -> Iterator[str]:
    shown = visible(place)
    for text in _texts(shown, standing, now):
        line = f"{standing.word.value:<{_TEXT_AT - 2}}  {shown}: {text}"
        yield from wrapped(line, _TEXT_AT)
    for text in _on_record(standing, last, now):
        yield from wrapped(" " * _TEXT_AT + text, _TEXT_AT)
    for hint in _hints(place, standing):
        yield " " * _TEXT_AT + hint


def _texts(place: str, standing: Standing, now: datetime) -> Iterator[str]:
    """Return what is behind the word, each for a line of its own."""
    match standing.word:
        case Word.AWAY:
            yield standing.reason.removeprefix(place).strip()
        case Word.NEVER:
            yield "nothing complete yet"
        case Word.OK:
            assert standing.newest
            snapshot = standing.newest.snapshot
            yield f"{visible(snapshot.name)}, {tell.ago(snapshot.created, now)}"
        case Word.RUNNING:
            yield _work(standing)
        case Word.WAITING:
            for cut in standing.waiting:
                since = (
                    f"since {tell.exact(cut.started)} ({tell.age(cut.started, now)})"
                )
                yield f"{tell.name(cut)}, {tell.safe(cut)}, {since}"


def _on_record(standing: Standing, last: Last, now: datetime) -> Iterator[str]:
    """Return what the history adds to what can be seen."""
    arrived, failed = last.arrived, last.failed
    if standing.word is Word.AWAY and arrived:
        when = tell.ago(arrived.time, now)
        yield f"last on record: {visible(arrived.target)}, {when}"
    if failed and standing.word is not Word.RUNNING:
        when = tell.ago(failed.time, now)
        yield f"last transfer failed, {when}: {visible(failed.error)}"


def _work(standing: Standing) -> str:
    if standing.worker:
        return str(standing.worker)
    running = [tell.name(one) for one in standing.waiting if one.running]
    return f"receiving {', '.join(running)}" if running else "does not tell who it is"


def _hints(place: str, standing: Standing) -> Iterator[str]:
    if standing.word is Word.WAITING:
        where = visible(shlex.quote(place))
        yield f"Go on:  {PROGRAM} SOURCE {where}"
        yield f"Or drop it:  {PROGRAM} prune --staging {where}"
    yield from map(visible, standing.hint.splitlines())


def _fields(
    place: str, standing: Standing, last: Last, now: datetime
) -> dict[str, object]:
    newest, worker = standing.newest, standing.worker
    running = None
    if worker:
        running = dataclasses.asdict(worker)
        running["since"] = worker.since.isoformat(timespec="seconds")
    return {
        "place": place,
        "status": standing.word.value.lower(),
        "newest": tell.kept_fields(newest, now) if newest else None,
        "waiting": [tell.waiting_fields(one, now) for one in standing.waiting],
        "running": running,
        "reason": standing.reason,
        "hint": standing.hint.splitlines(),
        "last_arrived": _record_fields(last.arrived),
        "last_failure": _record_fields(last.failed),
    }


def _record_fields(record: Record | None) -> dict[str, object] | None:
    if record is None:
        return None
    return {
        "name": record.target,
        "time": record.time.isoformat(timespec="seconds"),
        "source": record.source,
        "error": record.error,
    }
