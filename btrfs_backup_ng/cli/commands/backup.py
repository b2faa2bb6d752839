"""The classic form: words -> jobs -> a backup run -> exit status."""

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace

from btrfs_backup_ng.__logger__ import PROGRAM, set_up_logging
from btrfs_backup_ng.__util__ import UsageError
from btrfs_backup_ng.actions.backup.run import back_up
from btrfs_backup_ng.cli import types as values
from btrfs_backup_ng.cli.argv import expand, split_tasks
from btrfs_backup_ng.cli.output import Output, print_line
from btrfs_backup_ng.cli.parser import display_level, parse_task
from btrfs_backup_ng.cli.places import remembered
from btrfs_backup_ng.cli.ssh_options import ssh_options
from btrfs_backup_ng.cli.sudo import become_root, sudo_line
from btrfs_backup_ng.cli.version import version_text
from btrfs_backup_ng.core.events import Tally, exit_status
from btrfs_backup_ng.core.location import Location, parse_location
from btrfs_backup_ng.core.model import (
    Checks,
    Destination,
    Incremental,
    Job,
    TransferOptions,
)
from btrfs_backup_ng.core.naming import Naming
from btrfs_backup_ng.core.policy import Policy
from btrfs_backup_ng.endpoint.ssh import Connections
from btrfs_backup_ng.host.clock import read_clock
from btrfs_backup_ng.place.forecast import usual_prefix
from btrfs_backup_ng.session.history import History, state_directory
from btrfs_backup_ng.session.progress import Progress
from btrfs_backup_ng.session.session import Session

#: Tasks at once. Over ssh each needs up to four sessions of a master at a time, and
#: sshd allows ten (MaxSessions).
_SIDE_BY_SIDE, _SIDE_BY_SIDE_SSH = 4, 2
_LOOK_FOR_SIGNALS_S = 0.1


def main(words: Sequence[str]) -> int:
    """Run the tasks that the command line names.

    :returns: the exit status.
    :raises UsageError: if the words do not make sense; nothing was done then.
    """
    tasks = split_tasks(expand(words))
    namespaces = [parse_task(task) for task in tasks]
    quiet = any(n.quiet for n in namespaces)
    level = display_level(namespaces)
    set_up_logging(level)
    if any(n.version for n in namespaces):
        print_line(version_text(detailed=any(n.verbose for n in namespaces)))
        return 0
    jobs = [_job(namespace) for namespace in namespaces]
    if any(n.sudo for n in namespaces):
        become_root(words)
    wanted = [n.progress for n in namespaces if n.progress is not None]
    line = wanted[-1] if wanted else sys.stderr.isatty() and not quiet
    as_json = any(n.json for n in namespaces)
    with Progress(line, silent=quiet) as progress, Connections() as connections:
        output = Output(
            progress=progress, quiet=quiet, notes=level != "error", as_json=as_json
        )
        clock = read_clock()
        session = Session(
            now=clock.now,
            is_synchronised=clock.is_synchronised,
            connections=connections,
            progress=progress,
            emit=output.tell,
            watched=line,
            sudo_line=sudo_line(words),
            remember=History(state_directory()).add,
            recall=remembered,
        )
        status = exit_status(_run_side_by_side(jobs, session))
    output.finish(status)
    return status


def _run_side_by_side(jobs: Sequence[Job], session: Session) -> list[Tally]:
    """Run each job in a thread; this one stays free for signals."""
    remote = any(place.is_remote for job in jobs for place in job.places)
    room = _SIDE_BY_SIDE_SSH if remote else _SIDE_BY_SIDE
    with ThreadPoolExecutor(room) as pool:
        futures = [pool.submit(back_up, job, session) for job in jobs]
        # Never without a limit: a signal that comes while another thread forks is
        # noted there, and does not wake this thread up, where its handler runs.
        while wait(futures, _LOOK_FOR_SIGNALS_S).not_done:
            pass
        return [future.result() for future in futures]


def _job(options: argparse.Namespace) -> Job:
    """Make one task of its options.

    :raises UsageError: if they contradict each other.
    """
    if not options.places:
        raise UsageError("a source is missing", hint=f"See:  {PROGRAM} --help")
    source, *destinations = [_location(text) for text in options.places]
    if source.is_command:
        raise UsageError("a command (shell://) cannot be a source")
    for place in destinations:
        if destinations.count(place) > 1:
            raise UsageError(f"{place} is given twice")
        if place == source:
            raise UsageError(f"{place} is source and destination at once")
    if options.remove_locks and not destinations:
        raise UsageError("--remove-locks needs the destinations to forget")
    prefix = options.snapshot_prefix
    if prefix is None:
        prefix = usual_prefix()
    ssh = ssh_options(options)
    template = Destination(
        source,
        keep=_policy(options, "-n", "--keep-at"),
        checks=Checks(options.fs_checks),
        ssh=ssh,
        options=_transfer_options(options),
    )
    return Job(
        source=source,
        destinations=tuple(replace(template, location=p) for p in destinations),
        recorded=template if options.locked_destinations else None,
        naming=Naming(prefix),
        snapshot_folder=options.snapshot_folder,
        keep_source=_policy(options, "-N", "--keep"),
        take_snapshot=not options.no_snapshot,
        transfer=not options.no_transfer,
        sync=options.sync,
        convert_rw=options.convert_rw,
        remove_locks=options.remove_locks,
        wait_s=options.wait,
        dry_run=options.dry_run,
        ssh=ssh,
    )


def _policy(options: argparse.Namespace, number: str, option: str) -> Policy | None:
    """Return what is kept, by a number or by a policy.

    :raises UsageError: if both are given.
    """
    at_source = option == "--keep"
    count = options.num_snapshots if at_source else options.num_backups
    text = options.keep if at_source else options.keep_at
    if count is None:
        return values.policy(text, option, options.keep_zone)
    if text is not None:
        raise UsageError(
            f"{number} and {option} both say what is kept",
            hint=f"As one policy:  {option} 'latest={count} ...'",
        )
    return Policy(latest=count)


def _location(text: str) -> Location:
    return parse_location(text, working_directory=os.getcwd())


def _transfer_options(options: argparse.Namespace) -> TransferOptions:
    if options.no_incremental and options.incremental == "required":
        raise UsageError("-I sends in full, and --incremental=required forbids it")
    incremental = Incremental(options.incremental)
    return TransferOptions(
        incremental=Incremental.NEVER if options.no_incremental else incremental,
        mbuffer=options.mbuffer,
        compress=options.compress,
        rate=options.rate,
        stall_timeout_s=options.stall_timeout,
        verify=options.verify_transfer,
        check_space=options.check_space,
        safety_margin_percent=options.safety_margin,
        force=options.force,
        checkpoint_interval=options.checkpoint_interval,
        retries=options.retries,
        staging_max_age=options.staging_max_age,
        max_size=options.max_size,
    )
