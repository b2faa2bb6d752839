"""The ``status`` verb: places -> one word for each -> lines, a document, or files."""

import argparse
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial

from btrfs_backup_ng.__util__ import BackupError, UsageError, visible
from btrfs_backup_ng.actions.status import Demand, Word, examine, look_at_each, see
from btrfs_backup_ng.cli import values
from btrfs_backup_ng.cli.call import Call, run_command
from btrfs_backup_ng.cli.commands.status.lines import lines
from btrfs_backup_ng.cli.commands.status.view import (
    Looked,
    StatusEntry,
    exit_status,
    view_entry,
)
from btrfs_backup_ng.cli.config.options import EPILOG_FILE, add_config
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
    read_configured,
    read_options,
)
from btrfs_backup_ng.cli.session import open_session
from btrfs_backup_ng.cli.ssh_options import add_ssh
from btrfs_backup_ng.cli.stdout import print_line
from btrfs_backup_ng.cli.table import wrapped
from btrfs_backup_ng.cli.views import PlacesReport
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.value import Value, replace
from btrfs_backup_ng.host.clock import local_time
from btrfs_backup_ng.place.contents import new_paths
from btrfs_backup_ng.session.history import (
    Record,
    known_places,
    last_at,
    last_run_at,
    remembered,
    runs_of,
)
from btrfs_backup_ng.session.session import Session

log = logging.getLogger(__name__)

_CHECK, _WATCH = "--check", "--watch"
_EPILOG = f"""\
{EPILOG_PLACES}
Without a place, it shows each volume of the configuration at each of its targets, by
its newest complete backup there; a volume without targets, by its newest snapshot. If
there is no configuration, it shows the places on record on this machine.

states:
  OK  has a newest snapshot or backup
  FAILED  the last run failed or was refused, with the reason
  STALE  the newest is older than --max-age, or max-age of the configuration, allows;
    snapshots dated in the future do not count
  RUNNING  a run is at work: which, since when, on which snapshot, and of a longer
    transfer the percent and the time left
  WAITING  a transfer was interrupted; the next backup that sends the same snapshot
    from the same parent resumes it
  NEVER  nothing complete is there yet
  AWAY  not mounted, not reachable, or not allowed; that is fine for what is optional
    in the configuration, until its newest backup on record is too old

exit status:
  0  all are OK or RUNNING, or may be AWAY; with --watch, after Ctrl-C
  1  at least one is anything else
  2  usage error
  4  needs root

exit status with --check:
  0  all are OK or RUNNING
  1  warning: one is STALE or WAITING
  2  critical: one is FAILED or NEVER, or older than --crit
  3  unknown: one is AWAY and none is worse, or an error, also of usage

{EPILOG_FILE}"""


def main(words: Sequence[str]) -> int:
    """Print the status of places."""
    parser = build_parser()
    files = JobFiles(parser)

    def expand(words: Sequence[str]) -> list[str]:
        expanded = files.expand(words)
        if not any(word.startswith(_WATCH) for word in expanded):
            return expanded
        from btrfs_backup_ng.cli.commands.status.watch import join_span  # here: few do

        return join_span(expanded)

    def read_all(options: argparse.Namespace) -> StatusOptions:
        return read(options, expand(words))

    try:
        return run_command("status", words, parser, read_all, _run, expand)
    except BackupError as error:
        if _CHECK not in words:
            raise
        from btrfs_backup_ng.cli.commands.status import check  # here: only monitors

        print_line(check.unknown(error.message))
        return check.Severity.UNKNOWN.value


class StatusOptions(Value):
    """The options of ``status``.

    :ivar config: path of the configuration that the call names, or "".
    :ivar max_age: of the newest snapshot or backup of a place.
    :ivar forget: remove the places from the history, and look at none.
    :ivar check: print a line for a monitor instead.
    :ivar crit: the age that is critical to it.
    :ivar metrics: the file to write for another one; "" for none.
    :ivar html: the page to write; "" for none.
    :ivar watch: look again after so many seconds; None: look once.
    """

    looking: PlacesOptions
    config: str
    max_age: timedelta | None
    forget: bool
    check: bool
    crit: timedelta | None
    metrics: str
    html: str
    watch: float | None = None


def read(options: argparse.Namespace, words: Sequence[str] = ()) -> StatusOptions:
    """Return the options.

    :param words: of the call, expanded.
    :raises UsageError: if one place is a command, none is named to be forgotten, or
        options contradict each other.
    """
    if options.forget:
        need_places(options.places, "status")
    configured = read_configured(options, build_parser, words)
    warn, crit = options.warn, options.crit
    if not options.check and (warn or crit):
        raise UsageError(f"--warn and --crit need {_CHECK}")
    if options.check and (options.json or options.forget):
        other = "--json" if options.json else "--forget"
        raise UsageError(f"{_CHECK} prints a line of its own; leave out {other}")
    if warn and crit and crit < warn:
        raise UsageError("--crit is a shorter time than --warn")
    every = _read_watch(options)
    return StatusOptions(
        looking=read_options(options, configured),
        config=os.path.abspath(options.config) if options.config else "",
        max_age=warn or options.max_age,
        forget=options.forget,
        check=options.check,
        crit=crit,
        metrics=options.metrics or "",
        html=options.html or "",
        watch=every,
    )


def _read_watch(options: argparse.Namespace) -> float | None:
    """Return the seconds between two looks, or None to look once.

    :raises UsageError: if it is not possible with other options.
    """
    if not options.watch:
        return None
    for other in ("check", "json", "html", "metrics", "forget"):
        if getattr(options, other):
            raise UsageError(f"{_WATCH} shows lines until Ctrl-C; leave out --{other}")
    from btrfs_backup_ng.cli.commands.status import watch  # here: few look again

    if options.watch_every is None:
        return watch.USUALLY_S
    return watch.span(options.watch_every)


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
        _WATCH,
        action="store_true",
        help="look again every 2 seconds until Ctrl-C, on a terminal in place; also"
        " --watch SPAN, like 10 (seconds) or 1min",
    )
    add("--watch-every", help=argparse.SUPPRESS)
    add(
        "--metrics",
        metavar="FILE",
        help="also write FILE, in one step, for the textfile collector of Prometheus",
    )
    add(
        "--html",
        metavar="FILE",
        help="also write FILE, in one step: a page with the state, the retention of"
        " each snapshot, transfers, space, verifications, and commands to restore",
    )
    add(
        "--forget",
        action="store_true",
        help="drop the records of this machine about these places, which will not"
        " come back; nothing at the places is touched",
    )
    add_config(parser)
    add_folder(parser)
    add_ssh(parser)
    add_display(parser)
    return parser


def _run(options: StatusOptions, call: Call) -> int:
    if options.forget:
        from btrfs_backup_ng.cli.commands.status import forget  # here: few forget

        return forget.forget_places(options.looking.places, call)
    if options.watch is not None:
        return _watch(options, call, options.watch)
    looking = options.looking
    records, now = remembered(needed=looking.are_known), call.now
    with open_session(call, looking.ssh, looking.folder) as session:
        entries = _look(options, session, records)
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
    for line, indent in _lines(entries, call, now):
        output.result(line, indent)
    found = [view_entry(entry, now) for entry in entries]
    return output.finish(exit_status(entries, now), PlacesReport(found))


def _lines(
    entries: Sequence[StatusEntry], call: Call, now: datetime
) -> Iterator[tuple[str, int | None]]:
    """Yield the lines of all entries, of a quiet call of those that need attention."""
    for entry in entries:
        if not (call.quiet and entry.is_fine(now)):
            yield from lines(entry, now)


def _watch(options: StatusOptions, call: Call, every_s: float) -> int:
    """Show the state again and again, over the same connections."""
    from btrfs_backup_ng.cli.commands.status import watch  # here: few look again

    looking = options.looking
    opened = open_session(call, looking.ssh, looking.folder)
    with watch.until_ctrl_c(), opened as session:

        def look() -> Iterator[str]:
            now = local_time()
            records = remembered(needed=looking.are_known)
            entries = _look(options, replace(session, now=now), records)
            yield f"{now:%Y-%m-%d %H:%M:%S}, every {every_s:g} s until Ctrl-C"
            for line, indent in _lines(entries, call, now):
                yield from [line] if indent is None else wrapped(line, indent)

        watch.watch(lambda: list(look()), every_s)
    return 0


def _look(
    options: StatusOptions, session: Session, records: Sequence[Record]
) -> Sequence[StatusEntry]:
    """Look at what is named, configured, or on record; write the page of it."""
    looking = options.looking
    if looking.configured:
        from btrfs_backup_ng.cli.commands.status import configured  # here: large

        looked = configured.look(
            looking.configured,
            session,
            records,
            options.max_age,
            config=options.config,
            with_sources=bool(options.html),
        )
    else:
        looked = _look_at_places(options, session, records)
    if options.html:
        from btrfs_backup_ng.cli.commands.status.page import write  # here: large

        write.write_page(options.html, looked, records, session)
    return looked.entries


def _look_at_places(
    options: StatusOptions, session: Session, records: Sequence[Record]
) -> Looked:
    """Look at the places that are named, or on record."""
    looking, sudo_line = options.looking, session.sudo_line
    places = named_or_known(looking.places, looking.folder, records, sudo_line)
    found = _entries(places, session, records, options.max_age)
    if looking.places:
        return Looked([found[str(location)] for location, _ in places])
    return Looked(_without_renamed(found, records))


def _entries(
    places: Sequence[tuple[Location, str]],
    session: Session,
    records: Sequence[Record],
    max_age: timedelta | None,
) -> dict[str, StatusEntry]:
    known = {one.place for one in known_places(records)}
    runs = runs_of(records)
    found: dict[str, StatusEntry] = {}
    looks = [(at, partial(see, at, session, folder)) for at, folder in places]
    for (location, _), sight in zip(places, look_at_each(looks, session)):
        place, last = str(location), last_at(records, str(location))
        demand = Demand(max_age, bool(last.failed))
        found[place] = StatusEntry(
            place=place,
            standing=examine(sight, session.now, demand),
            last=last,
            last_run=last_run_at(runs, place),
            max_age=max_age,
            is_known=place in known,
            sight=None if isinstance(sight, BackupError) else sight,
        )
    return found


def _without_renamed(
    found: Mapping[str, StatusEntry], records: Sequence[Record]
) -> list[StatusEntry]:
    """Leave out the sources that are on record under a path that they had before."""
    lost = [place for place, entry in found.items() if entry.word is Word.AWAY]
    made = {place: entry.standing.made_here for place, entry in found.items()}
    renamed = new_paths(lost, made, records)
    for place, path in renamed.items():
        log.info("%s is %s now", visible(place), visible(path))
    return [entry for place, entry in found.items() if place not in renamed]
