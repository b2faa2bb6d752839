"""The ``status`` verb: places -> one word for each -> lines or a document."""

import argparse
import logging
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from shlex import quote

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__util__ import visible
from btrfs_backup_ng.actions.status import (
    Demand,
    Standing,
    Word,
    examine,
    exit_status,
)
from btrfs_backup_ng.cli import values, wording
from btrfs_backup_ng.cli.call import Call, run_command
from btrfs_backup_ng.cli.job_files import JobFiles
from btrfs_backup_ng.cli.output import Output
from btrfs_backup_ng.cli.parser import (
    EPILOG_PLACES,
    Parser,
    add_display,
    add_folder,
    new_parser,
)
from btrfs_backup_ng.cli.places import (
    PlacesOptions,
    named_or_known,
    need_on_record,
    need_places,
    read_options,
)
from btrfs_backup_ng.cli.session import open_session
from btrfs_backup_ng.cli.ssh_options import add_ssh
from btrfs_backup_ng.cli.stdout import trouble
from btrfs_backup_ng.cli.table import terminal_width
from btrfs_backup_ng.cli.views import PlacesReport, SnapshotView, view_kept
from btrfs_backup_ng.core.columns import padded, with_command
from btrfs_backup_ng.core.document import Lines
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import Waiting
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.place.contents import forget_hint, new_paths
from btrfs_backup_ng.place.locks import Worker
from btrfs_backup_ng.session.history import (
    Last,
    Record,
    forget,
    known_places,
    last_at,
    remembered,
    state_directory,
)

log = logging.getLogger(__name__)

_EPILOG = f"""\
{EPILOG_PLACES}
Without a place, it shows those on record on this machine.

states:
  OK  has a newest snapshot or backup
  FAILED  the last run failed or was refused, with the reason
  STALE  the newest is older than --max-age allows; snapshots dated in the future do
    not count
  RUNNING  a run is at work: which, since when, and on which snapshot
  WAITING  a transfer was interrupted; the next backup that sends the same snapshot
    from the same parent resumes it
  NEVER  nothing complete is there yet
  AWAY  not mounted, not reachable, or not allowed

exit status:
  0  all are OK or RUNNING
  1  at least one is anything else
  2  usage error
  4  needs root
"""
#: Where the text begins, behind the longest word.
_TEXT_AT = 9
_TROUBLE = (Word.FAILED, Word.STALE, Word.AWAY)


def main(words: Sequence[str]) -> int:
    """Print the status of places."""
    parser = build_parser()
    return run_command("status", words, parser, read, _run, JobFiles(parser).expand)


class StatusOptions(Value):
    """The options of ``status``.

    :ivar max_age: of the newest snapshot or backup of a place.
    :ivar forget: remove the places from the history, and look at none.
    """

    looking: PlacesOptions
    max_age: timedelta | None
    forget: bool


def read(options: argparse.Namespace) -> StatusOptions:
    """Return the options.

    :raises UsageError: if one place is a command, or none is named to be forgotten.
    """
    if options.forget:
        need_places(options.places, "status")
    return StatusOptions(read_options(options), options.max_age, options.forget)


def build_parser() -> Parser:
    """Return the parser of the words."""
    parser = new_parser(
        "status",
        usage="[options] [PLACE ...]",
        description="Show the state of each place in one word, with the reason. Changes"
        " nothing and does not delay backups.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--max-age",
        type=values.max_age,
        metavar="SPAN",
        help="a newest snapshot or backup older than SPAN, like 26h or 2d, is STALE",
    )
    parser.add_argument(
        "--forget",
        action="store_true",
        help="drop the records of this machine about these places, which will not"
        " come back; nothing at the places is touched",
    )
    add_folder(parser)
    add_ssh(parser)
    add_display(parser)
    return parser


class RecordView(Value):
    """A transfer on record."""

    name: str
    time: datetime
    source: str
    error: str


class PlaceStatus(Value):
    """The status of a place."""

    place: str
    status: str
    newest: SnapshotView | None
    future: tuple[str, ...]
    waiting: tuple[Waiting, ...]
    running: Worker | None
    reason: str
    hint: Lines
    last_arrived: RecordView | None
    last_failure: RecordView | None


class Forgotten(Value):
    """A place that was removed from the history.

    :ivar records: how many there were.
    """

    place: str
    records: int


class ForgetReport(Value):
    """The document of ``--forget``."""

    forgotten: list[Forgotten]


def _run(options: StatusOptions, call: Call) -> int:
    if options.forget:
        return _forget(options.looking.places, call)
    looking = options.looking
    records = remembered(needed=not looking.places)
    places = named_or_known(looking.places, looking.folder, records, call.sudo_line)
    known = {one.place for one in known_places(records)}
    output = Output(call)
    standings: dict[str, Standing] = {}
    found: list[PlaceStatus] = []

    def show(place: str, standing: Standing, last: Last) -> None:
        status = _status(place, standing, last, is_known=place in known)
        found.append(status)
        if not (call.quiet and exit_status([standing]) == 0):
            for line, indent in _lines(status, standing, last, call.now):
                output.result(line, indent)

    with open_session(call, looking.ssh, looking.folder) as session:
        lost: list[str] = []
        for location, folder in places:
            place, last = str(location), last_at(records, str(location))
            demand = Demand(options.max_age, bool(last.failed))
            standing = standings[place] = examine(location, session, folder, demand)
            if standing.word is Word.AWAY and not looking.places:
                lost.append(place)  # it may be another one of these
            else:
                show(place, standing, last)
    made = {place: one.made_here for place, one in standings.items()}
    renamed = new_paths(lost, made, records)
    for place in lost:
        if place in renamed:
            log.info("%s is %s now", visible(place), visible(renamed[place]))
            del standings[place]
        else:
            show(place, standings[place], last_at(records, place))
    return output.finish(exit_status(standings.values()), PlacesReport(found))


def _forget(places: Sequence[Location], call: Call) -> int:
    """Remove places from the history.

    :raises UsageError: if one is not in it; then none is removed.
    """
    records, output = remembered(needed=True), Output(call)
    for place in places:
        need_on_record(str(place), records)
    found = [Forgotten(str(p), forget(state_directory(), str(p))) for p in places]
    for one in found:
        lines = "1 line" if one.records == 1 else f"{one.records} lines"
        output.about(one.place, f"forgotten, with {lines} of the history")
    return output.finish(0, ForgetReport(found))


def _status(
    place: str, standing: Standing, last: Last, *, is_known: bool
) -> PlaceStatus:
    hint = standing.hint
    if standing.word is Word.AWAY and is_known:
        hint += f"\n{forget_hint(place)}"
    return PlaceStatus(
        place=place,
        status=standing.word.value.lower(),
        newest=view_kept(standing.newest) if standing.newest else None,
        future=tuple(kept.snapshot.name for kept in standing.future),
        waiting=standing.waiting,
        running=standing.worker,
        reason=standing.reason,
        hint=hint.strip(),
        last_arrived=_view_record(last.arrived),
        last_failure=_view_record(last.failed[-1] if last.failed else None),
    )


def _view_record(record: Record | None) -> RecordView | None:
    if record is None:
        return None
    return RecordView(record.target, record.time, record.source, record.error)


def _lines(
    status: PlaceStatus, standing: Standing, last: Last, now: datetime
) -> Iterator[tuple[str, int | None]]:
    """Yield lines, each with the indent of its further lines if it may be broken."""
    word, start = standing.word, " " * _TEXT_AT
    shown = trouble(word.value) if word in _TROUBLE else word.value
    head = f"{padded(shown, _TEXT_AT)}{visible(status.place)}: "
    for text in _texts(status, standing, last, now):
        yield head + text, _TEXT_AT
        head = start
    hints = status.hint.splitlines()
    if word is not Word.RUNNING and any(not one.running for one in standing.waiting):
        where = quote(status.place)
        resume = f"Resume:  {PROGRAM} SOURCE {where}"
        discard = f"Or discard it:  {PROGRAM} prune --staging {where}"
        hints = [resume, discard, *hints]
    for hint in hints:
        for line in with_command(start + visible(hint), terminal_width(), _TEXT_AT + 2):
            yield line, None


def _texts(
    status: PlaceStatus, standing: Standing, last: Last, now: datetime
) -> Iterator[str]:
    """Yield the texts behind the word, each for a line of its own."""
    waiting = [wording.described(one, now) for one in standing.waiting]
    match standing.word:
        case Word.AWAY:
            yield from _away(status, now)
            yield from _failures(status, last, now)
        case Word.FAILED:
            yield from [*_failures(status, last, now), *_newest(standing, now)]
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


def _away(status: PlaceStatus, now: datetime) -> Iterator[str]:
    yield from wording.lines(status.reason.removeprefix(visible(status.place)).strip())
    if arrived := status.last_arrived:
        when = wording.ago(arrived.time, now)
        yield f"last on record: {visible(arrived.name)}, {when}"


def _failures(status: PlaceStatus, last: Last, now: datetime) -> Iterator[str]:
    """Yield for each source the failure of its last run."""
    for failed in last.failed:
        whose = "" if failed.source == status.place else f" from {failed.source}"
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
