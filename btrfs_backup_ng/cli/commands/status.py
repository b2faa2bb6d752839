"""The ``status`` verb: places -> one word for each -> lines or a document."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from btrfs_backup_ng.__logger__ import PROGRAM
from btrfs_backup_ng.__util__ import visible
from btrfs_backup_ng.actions.status import Standing, Word, examine, exit_status
from btrfs_backup_ng.cli import wording
from btrfs_backup_ng.cli.call import Call, run_command
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
    read_options,
    remembered,
)
from btrfs_backup_ng.cli.session import open_session
from btrfs_backup_ng.cli.ssh_options import add_ssh
from btrfs_backup_ng.cli.views import PlacesReport, SnapshotView, view_kept
from btrfs_backup_ng.core.document import Lines
from btrfs_backup_ng.core.model import Waiting
from btrfs_backup_ng.place.locks import Worker
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
    """Print the status of places."""
    return run_command("status", words, build_parser(), read_options, _run)


def build_parser() -> Parser:
    """Return the parser of the words."""
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


@dataclass(frozen=True, slots=True)
class RecordView:
    """A transfer on record."""

    name: str
    time: datetime
    source: str
    error: str


@dataclass(frozen=True, slots=True)
class PlaceStatus:
    """The status of a place."""

    place: str
    status: str
    newest: SnapshotView | None
    waiting: tuple[Waiting, ...]
    running: Worker | None
    reason: str
    hint: Lines
    last_arrived: RecordView | None
    last_failure: RecordView | None


def _run(options: PlacesOptions, call: Call) -> int:
    records = remembered(needed=not options.places)
    places = named_or_known(options.places, options.folder, records)
    output = Output(call)
    standings: list[Standing] = []
    found: list[PlaceStatus] = []
    with open_session(call, options.ssh, options.folder) as session:
        for place, folder in places:
            standing = examine(place, session, folder)
            status = _status(str(place), standing, last_to(records, str(place)))
            standings.append(standing)
            found.append(status)
            if not (call.quiet and exit_status([standing]) == 0):
                for line, indent in _lines(status, standing.word, call.now):
                    output.result(line, indent)
    return output.finish(exit_status(standings), PlacesReport(found))


def _status(place: str, standing: Standing, last: Last) -> PlaceStatus:
    return PlaceStatus(
        place=place,
        status=standing.word.value.lower(),
        newest=view_kept(standing.newest) if standing.newest else None,
        waiting=standing.waiting,
        running=standing.worker,
        reason=standing.reason,
        hint=standing.hint,
        last_arrived=_view_record(last.arrived),
        last_failure=_view_record(last.failed),
    )


def _view_record(record: Record | None) -> RecordView | None:
    if record is None:
        return None
    return RecordView(record.target, record.time, record.source, record.error)


def _lines(
    status: PlaceStatus, word: Word, now: datetime
) -> Iterator[tuple[str, int | None]]:
    """Yield lines, each with the indent of its further lines if it may be broken."""
    place, start = visible(status.place), " " * _TEXT_AT
    for text in _texts(status, word, now):
        yield f"{word.value:<{_TEXT_AT - 2}}  {place}: {text}", _TEXT_AT
    for text in _on_record(status, word, now):
        yield start + text, _TEXT_AT
    if word is Word.WAITING:
        where = visible(shlex.quote(status.place))
        yield f"{start}Go on:  {PROGRAM} SOURCE {where}", None
        yield f"{start}Or drop it:  {PROGRAM} prune --staging {where}", None
    for line in status.hint.splitlines():
        yield start + visible(line), None


def _texts(status: PlaceStatus, word: Word, now: datetime) -> Iterator[str]:
    """Yield the texts behind the word, each for a line of its own."""
    match word:
        case Word.AWAY:
            yield status.reason.removeprefix(visible(status.place)).strip()
        case Word.NEVER:
            yield "nothing complete yet"
        case Word.OK:
            assert status.newest
            newest = status.newest
            yield f"{visible(newest.name)}, {wording.ago(newest.created, now)}"
        case Word.RUNNING:
            yield _work(status)
        case Word.WAITING:
            for transfer in status.waiting:
                yield wording.described(transfer, now)


def _work(status: PlaceStatus) -> str:
    if status.running:
        return str(status.running)
    running = [wording.name(one) for one in status.waiting if one.running]
    return f"receiving {', '.join(running)}" if running else "does not tell who it is"


def _on_record(status: PlaceStatus, word: Word, now: datetime) -> Iterator[str]:
    """Yield the texts that the history adds."""
    arrived, failed = status.last_arrived, status.last_failure
    if word is Word.AWAY and arrived:
        when = wording.ago(arrived.time, now)
        yield f"last on record: {visible(arrived.name)}, {when}"
    if failed and word is not Word.RUNNING:
        when = wording.ago(failed.time, now)
        yield f"last transfer failed, {when}: {visible(failed.error)}"
