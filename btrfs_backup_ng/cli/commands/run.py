"""The ``run`` verb: the configuration -> jobs -> a backup run -> exit status."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__util__ import BackupError, UsageError, visible
from btrfs_backup_ng.actions.backup.journal import Journal
from btrfs_backup_ng.actions.backup.run import back_up
from btrfs_backup_ng.actions.conditions import admit
from btrfs_backup_ng.actions.hooks import SnapshotHooks, run_between
from btrfs_backup_ng.cli.argv import expand
from btrfs_backup_ng.cli.backup_options import BackupOptions, add_backup_options
from btrfs_backup_ng.cli.call import Call, run_command
from btrfs_backup_ng.cli.commands import backup
from btrfs_backup_ng.cli.config.file import configuration_path, read_configuration
from btrfs_backup_ng.cli.config.jobs import (
    VolumePlan,
    configured_jobs,
    given_options,
    plan_volumes,
)
from btrfs_backup_ng.cli.config.notified import NotifiedRun
from btrfs_backup_ng.cli.config.options import EPILOG_FILE, add_config
from btrfs_backup_ng.cli.config.sources import unmatched
from btrfs_backup_ng.cli.output import Output
from btrfs_backup_ng.cli.parser import Parser, add_display, new_parser
from btrfs_backup_ng.core.configuration import Configuration
from btrfs_backup_ng.core.events import Event, Failed, Tally
from btrfs_backup_ng.core.hooks import RUN, SNAPSHOT, read_hooks
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import Job
from btrfs_backup_ng.core.notifiers import Notifiers, read_notifiers
from btrfs_backup_ng.core.upkeep import Upkeep
from btrfs_backup_ng.core.value import EMPTY, Value, replace
from btrfs_backup_ng.session.session import Session

_NONE = Upkeep()
#: Options of a call, by their places of argparse, that leave out the backups.
_PARTIAL = ("Job.take_snapshot", "Job.transfer", "Job.remove_locks")
EPILOG = f"""\
An option given here counts for all volumes and targets, before the configuration.

exit status:
  0  done; a target that is away counts as done if it is optional
  1  failed
  2  usage error, or an error in the configuration; nothing was done
  3  another run is at work
  4  refused before any change
  10  a part failed, the rest is done

{EPILOG_FILE}"""


class RunOptions(Value):
    """The options of ``run``.

    :ivar path: of the configuration.
    :ivar volumes: their names; without any, all.
    :ivar only: names of targets; without any, all.
    :ivar given: options of a backup, by their places of argparse.
    """

    path: str
    volumes: tuple[str, ...]
    only: tuple[str, ...]
    given: Mapping[str, Any]


def main(words: Sequence[str]) -> int:
    """Run what is configured."""
    return run_steps(words, build_parser)


def run_steps(
    words: Sequence[str],
    build: Callable[[], Parser],
    fixed: Mapping[str, Any] = EMPTY,
) -> int:
    """Run what is configured, or some steps of it.

    :param build: builds the parser of the command.
    :param fixed: options of a backup, by their places of argparse.
    """
    parser = build()

    def read_all(options: argparse.Namespace) -> RunOptions:
        given = given_options(build(), expand(words, parser.valued))
        return read(options, {**given, **fixed})

    return run_command(parser.verb, words, parser, read_all, _run)


def build_parser() -> Parser:
    """Return the parser of the words."""
    parser = new_parser(
        "run",
        usage="[options] [VOLUME ...]",
        description="Back up the volumes of the configuration, side by side: snapshot,"
        " send, prune. Without names, all of them.",
        epilog=EPILOG,
    )
    add_config(parser)
    add_only(parser)
    add_backup_options(parser)
    add_display(parser)
    return parser


def add_only(parser: Parser) -> None:
    """Add the option that chooses targets."""
    parser.add_argument(
        "--only",
        action="append",
        metavar="TARGET",
        help="send to this target only, and leave out the volumes that do not go"
        " there; may be repeated",
    )


def read(options: argparse.Namespace, given: Mapping[str, Any] = EMPTY) -> RunOptions:
    """Return the options.

    :param given: options of a backup that count first, by their places of argparse.
    :raises UsageError: if a place is named.
    """
    for word in options.places:
        if word.startswith(("/", ".", "ssh://", "shell://")):
            raise UsageError(
                f"{visible(word)} is a place, and names of volumes are expected",
                hint="A backup of places needs no command:  "
                f"{PROGRAM} [options] SOURCE [DESTINATION ...]",
            )
    return RunOptions(
        configuration_path(options.config),
        tuple(options.places),
        tuple(getattr(options, "only", None) or ()),
        given,
    )


def _noting(failed: set[str], session: Session) -> Session:
    """Return a session that notes the places at which something failed."""

    def emit(event: Event) -> None:
        if isinstance(event, Failed):
            failed.add(event.place)
        session.emit(event)

    return replace(session, emit=emit)


def _look_after(job: Job, upkeep: Mapping[Location, Upkeep], session: Session) -> Tally:
    """Verify backups where nothing failed, as far as that is asked for and due."""
    tally = Tally()
    for one in job.destinations:
        due = upkeep.get(one.location, _NONE)
        is_wanted = due.verify or due.restore_test
        if is_wanted and job.transfer and not (job.dry_run or one.location.is_command):
            from btrfs_backup_ng.actions.verify.upkeep import (  # here: few ask for it
                look_after,
            )

            tally.add(look_after(job, one, due, session))
    return tally


def _run(options: RunOptions, call: Call) -> int:
    configuration, given = read_configuration(options.path), options.given
    plans = plan_volumes(
        configuration, given, wanted=options.volumes, only=options.only
    )
    if not plans and options.only:
        raise UsageError("none of these volumes goes to that target")
    for name in unmatched(configuration, options.volumes):
        Output(call).line(f"{name}: no subvolume now; skipped (optional)")
    run = _ConfiguredRun(
        configuration,
        plans,
        read_notifiers(configuration),
        dry_run=bool(given.get("Job.dry_run")),
        is_whole=not (options.volumes or options.only or given.keys() & {*_PARTIAL}),
    )
    jobs = tuple(plan.job for plan in plans)
    at_once = configured_jobs(configuration, given)
    return backup.run(BackupOptions(jobs, False, at_once), call, run.do, run.do_all)


class _ConfiguredRun:
    """The volumes of a run, with their conditions, hooks and messages."""

    def __init__(
        self,
        configuration: Configuration,
        plans: Sequence[VolumePlan],
        notifiers: Notifiers | None,
        *,
        dry_run: bool,
        is_whole: bool,
    ) -> None:
        self._configuration = configuration
        self._plans = plans
        self._dry_run = dry_run
        self._notified: NotifiedRun | None = None
        if notifiers and not dry_run:
            self._notified = NotifiedRun(notifiers, plans, is_whole=is_whole)

    def do(self, number: int, job: Job, session: Session) -> Tally:
        """Back up one volume."""
        if self._notified:
            session = self._notified.hearing(number, session)
        plan = self._plans[number]
        at_targets = [target.conditions for target in plan.targets]
        left, tally = admit(job, plan.conditions, at_targets, session)
        if left:
            hooks = SnapshotHooks(
                read_hooks(SNAPSHOT, *self._configuration.levels(plan.volume)),
                plan.name,
                str(job.source),
                self._dry_run,
            )
            failed: set[str] = set()
            tally.add(back_up(left, _noting(failed, session), hooks.around))
            upkeep = {
                one.location: target.upkeep
                for target, one in zip(plan.targets, plan.job.destinations)
                if str(one.location) not in failed
            }
            tally.add(_look_after(left, upkeep, session))
        return tally

    def do_all(self, work: Callable[[], list[Tally]], session: Session) -> list[Tally]:
        """Do the work of all volumes, with what comes before and after it."""
        if not self._notified:
            return self._between_hooks(work, session)
        return self._notified.around(partial(self._between_hooks, work), session)

    def _between_hooks(
        self, work: Callable[[], list[Tally]], session: Session
    ) -> list[Tally]:
        def give_up(error: BackupError) -> None:
            for plan in self._plans:
                folder = plan.job.snapshot_folder
                Journal(plan.job, replace(session, folder=folder)).end(error)

        return run_between(
            read_hooks(RUN, self._configuration.top),
            work,
            session,
            dry_run=self._dry_run,
            give_up=give_up,
        )
