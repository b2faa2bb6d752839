"""The ``status`` verb: places -> one word for each -> lines, a document, or files."""

import argparse
import logging
from collections.abc import Sequence
from datetime import timedelta

from btrfs_backup_ng.__util__ import BackupError, UsageError, visible
from btrfs_backup_ng.actions.status import Demand, Standing, Word, examine
from btrfs_backup_ng.cli import values
from btrfs_backup_ng.cli.call import Call, run_command
from btrfs_backup_ng.cli.commands.status.lines import lines
from btrfs_backup_ng.cli.commands.status.view import (
    StatusEntry,
    exit_status,
    view_entry,
)
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
    need_places,
    read_options,
)
from btrfs_backup_ng.cli.session import open_session
from btrfs_backup_ng.cli.ssh_options import add_ssh
from btrfs_backup_ng.cli.stdout import print_line
from btrfs_backup_ng.cli.views import PlacesReport
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.place.contents import new_paths
from btrfs_backup_ng.session.history import (
    PastRun,
    Record,
    known_places,
    last_at,
    remembered,
    runs_of,
)

log = logging.getLogger(__name__)

_CHECK = "--check"
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

exit status with --check:
  0  all are OK or RUNNING
  1  warning: one is STALE or WAITING
  2  critical: one is FAILED or NEVER, or older than --crit
  3  unknown: one is AWAY and none is worse, or an error, also of usage
"""


def main(words: Sequence[str]) -> int:
    """Print the status of places."""
    parser = build_parser()
    try:
        expanded = JobFiles(parser).expand
        return run_command("status", words, parser, read, _run, expanded)
    except BackupError as error:
        if _CHECK not in words:
            raise
        from btrfs_backup_ng.cli.commands.status import check  # here: only monitors

        print_line(check.unknown(error.message))
        return check.Severity.UNKNOWN.value


class StatusOptions(Value):
    """The options of ``status``.

    :ivar max_age: of the newest snapshot or backup of a place.
    :ivar forget: remove the places from the history, and look at none.
    :ivar check: print a line for a monitor instead.
    :ivar crit: the age that is critical to it.
    :ivar metrics: the file to write for another one; "" for none.
    """

    looking: PlacesOptions
    max_age: timedelta | None
    forget: bool
    check: bool
    crit: timedelta | None
    metrics: str


def read(options: argparse.Namespace) -> StatusOptions:
    """Return the options.

    :raises UsageError: if one place is a command, none is named to be forgotten, or
        options contradict each other.
    """
    if options.forget:
        need_places(options.places, "status")
    warn, crit = options.warn, options.crit
    if not options.check and (warn or crit):
        raise UsageError(f"--warn and --crit need {_CHECK}")
    if options.check and (options.json or options.forget):
        other = "--json" if options.json else "--forget"
        raise UsageError(f"{_CHECK} prints a line of its own; leave out {other}")
    if warn and crit and crit < warn:
        raise UsageError("--crit is a shorter time than --warn")
    return StatusOptions(
        looking=read_options(options),
        max_age=warn or options.max_age,
        forget=options.forget,
        check=options.check,
        crit=crit,
        metrics=options.metrics or "",
    )


def build_parser() -> Parser:
    """Return the parser of the words."""
    parser = new_parser(
        "status",
        usage="[options] [PLACE ...]",
        description="Show the state of each place in one word, with the reason. Changes"
        " nothing and does not delay backups.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add(
        "--max-age",
        type=values.max_age,
        metavar="SPAN",
        help="a newest snapshot or backup older than SPAN, like 26h or 2d, is STALE",
    )
    add(
        _CHECK,
        action="store_true",
        help="print one line with the ages, for Nagios and its kin; it has exit"
        " statuses of its own",
    )
    add(
        "--warn",
        type=values.max_age,
        metavar="SPAN",
        help="with --check: an older newest one is a warning (default: --max-age)",
    )
    add(
        "--crit",
        type=values.max_age,
        metavar="SPAN",
        help="with --check: an older newest one is critical",
    )
    add(
        "--metrics",
        metavar="FILE",
        help="also write FILE, in one step, for the textfile collector of Prometheus",
    )
    add(
        "--forget",
        action="store_true",
        help="drop the records of this machine about these places, which will not"
        " come back; nothing at the places is touched",
    )
    add_folder(parser)
    add_ssh(parser)
    add_display(parser)
    return parser


def _run(options: StatusOptions, call: Call) -> int:
    if options.forget:
        from btrfs_backup_ng.cli.commands.status import forget  # here: few forget

        return forget.forget_places(options.looking.places, call)
    entries, now = _look(options, call), call.now
    if options.metrics:
        from btrfs_backup_ng.cli.commands.status import metrics  # here: few write files
        from btrfs_backup_ng.cli.whole_file import replace_whole  # here: the same

        replace_whole(options.metrics, metrics.metrics(entries, now))
    if options.check:
        from btrfs_backup_ng.cli.commands.status import check  # here: only monitors

        severity, line = check.check(entries, options.crit, now)
        print_line(line)
        return severity.value
    output = Output(call)
    for entry in entries:
        if not (call.quiet and entry.is_fine(now)):
            for line, indent in lines(entry, now):
                output.result(line, indent)
    found = [view_entry(entry, now) for entry in entries]
    return output.finish(exit_status(entries, now), PlacesReport(found))


def _look(options: StatusOptions, call: Call) -> list[StatusEntry]:
    """Look at the places that are named, or on record; leave out renamed sources."""
    looking = options.looking
    records = remembered(needed=not looking.places)
    places = named_or_known(looking.places, looking.folder, records, call.sudo_line)
    known = {one.place for one in known_places(records)}
    runs = runs_of(records)
    found: dict[str, StatusEntry] = {}
    with open_session(call, looking.ssh, looking.folder) as session:
        for location, folder in places:
            place, last = str(location), last_at(records, str(location))
            demand = Demand(options.max_age, bool(last.failed))
            found[place] = StatusEntry(
                place=place,
                standing=examine(location, session, folder, demand),
                last=last,
                last_run=_last_run(runs, place),
                max_age=options.max_age,
                is_known=place in known,
            )
    if looking.places:
        return [found[str(location)] for location, _ in places]
    standings = {place: entry.standing for place, entry in found.items()}
    renamed = _renamed(standings, records)
    return [entry for place, entry in found.items() if place not in renamed]


def _last_run(runs: Sequence[PastRun], place: str) -> PastRun | None:
    """Return the last run to a place; of a source, the last of its own."""
    here = (run for run in reversed(runs) if place in (run.source, run.destination))
    return next(
        (run for run in here if run.destination == place or not run.destination), None
    )


def _renamed(
    standings: dict[str, Standing], records: Sequence[Record]
) -> dict[str, str]:
    """Return the sources that are on record under a path that they had before."""
    lost = [place for place, one in standings.items() if one.word is Word.AWAY]
    made = {place: one.made_here for place, one in standings.items()}
    renamed = new_paths(lost, made, records)
    for place, path in renamed.items():
        log.info("%s is %s now", visible(place), visible(path))
    return renamed
