"""The options of the classic command line: words -> jobs."""

import argparse
import os
from collections.abc import Collection, Sequence

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__util__ import UsageError, resembling, visible
from btrfs_backup_ng.cli import values
from btrfs_backup_ng.cli.argv import expand, naming_line, split_tasks
from btrfs_backup_ng.cli.call import Call, read_call
from btrfs_backup_ng.cli.parser import (
    OptionGroup,
    Parser,
    add_check_space,
    add_display,
    add_folder,
    add_policies,
    add_sending,
    add_wait,
    new_parser,
    parse_places,
    read_fields,
)
from btrfs_backup_ng.cli.ssh_options import add_ssh, read_transfer
from btrfs_backup_ng.core.model import Destination, Incremental, Job, TransferOptions
from btrfs_backup_ng.core.naming import Naming
from btrfs_backup_ng.core.policy import Policy
from btrfs_backup_ng.core.value import Value, replace
from btrfs_backup_ng.host.machine import usual_prefix

_EPILOG = """\
places:
  /path  a subvolume (SOURCE), or a directory on btrfs (DESTINATION)
  ssh://[user@]host[:port]/path  the same on another machine
  shell://COMMAND  DESTINATION only: any command. It reads the stream from its stdin,
    always in full; $1 is the name of the snapshot.

policies:
  24h 7d 4w 12m 5y  keep the first snapshot of each of the last 24 hours, 7 days, 4
    ISO weeks, 12 months and 5 years
  min=2d  keep everything from the last two days
  latest=N  keep the latest N
  *d  keep the first snapshot of every day; also *h, *w, *m, *y
  all  keep everything
  whole-weeks  months consist of whole weeks, as in btrbk
  week=sunday  weeks begin on Sunday, not on Monday
  day=5h  days and weeks begin at 5 o'clock, not at midnight
  A policy is a list of these words. Never deleted: the newest snapshot, anything
  that this program did not create, anything that a destination still needs, and
  the latest snapshot that two places share.

arguments:
  @FILE  is replaced by the arguments in FILE, one option or argument a line;
    list, status, prune, verify and doctor take it, too
  TASK :: TASK  several tasks side by side, each with its own options

commands:
  help COMMAND  the options of a command; a command is the first word, or follows its
    options

exit status:
  0  done
  1  failed
  2  usage error
  3  another run is at work
  4  refused before any change
  10  some destinations failed, others did not
  70  a bug
  128+N  ended by signal N
"""
_USAGE = "[options] SOURCE [DESTINATION ...]"
#: Verbs of other programs, for the work that this one does without a verb.
_NEEDLESS = ("backup", "copy", "create", "sync", "transfer")


class BackupOptions(Value):
    """The tasks of one call of the classic form.

    :ivar jobs: one for each task.
    :ivar as_root: run again through sudo first.
    :ivar at_once: how many tasks may run at once; None: as their disks allow.
    """

    jobs: tuple[Job, ...]
    as_root: bool
    at_once: int | None


def parse_backup(
    words: Sequence[str], verbs: Collection[str]
) -> tuple[BackupOptions, Call] | None:
    """Read the words of a call; options may stand before and after the places.

    :param verbs: one of which may have been meant.
    :returns: ``None`` if only the version was asked for, and printed.
    :raises UsageError: if they do not make sense.
    """
    parser = build_parser()

    def parse(task: Sequence[str]) -> argparse.Namespace:
        return parse_task(task, verbs, parser)

    expanded = split_tasks(expand(words, parser.valued))
    tasks = [naming_line(task, parse) for task in expanded]
    call = read_call(words, tasks)
    if call is None:
        return None
    jobs = [naming_line(task, lambda each: read_job(parse(each))) for task in expanded]
    numbers = [task.at_once for task in tasks if task.at_once is not None]
    as_root = any(task.as_root for task in tasks)
    return BackupOptions(tuple(jobs), as_root, min(numbers, default=None)), call


def parse_task(
    words: Sequence[str], verbs: Collection[str] = (), parser: Parser | None = None
) -> argparse.Namespace:
    """Read the words of one task.

    :param parser: of :func:`build_parser`, which makes one otherwise.
    :raises UsageError: if they do not make sense.
    """
    if words and not words[0].startswith("-"):
        _check_source(words[0], verbs)  # before its options, which may be of a verb
    options = parse_places(parser or build_parser(), words)
    if options.places and "--" not in words:
        _check_source(options.places[0], verbs)
    return options


def _check_source(word: str, verbs: Collection[str]) -> None:
    """Check that a word may mean a place, and not a verb.

    :raises UsageError: if not.
    """
    text = visible(word)
    directory = f"A directory of that name:  {visible('./' + word)}"
    if word in verbs:
        raise UsageError(
            f"{text} is a command, but the options before it are not options of it",
            hint=f"See:  {PROGRAM} help {word}     {directory}",
        )
    if not word or "/" in word or ":" in word or os.path.lexists(word):
        return
    see = f"See:  {PROGRAM} help"
    if word in _NEEDLESS:
        hint = f"A backup needs no command:  {PROGRAM} {_USAGE}"
    elif meant := resembling(word, verbs):
        hint = f"Did you mean:  {PROGRAM} {meant}\n{see}"
    else:
        hint = f"The commands are {', '.join(sorted(verbs))}.\n{see}"
    raise UsageError(f"{text} is neither a command nor an existing path", hint=hint)


def build_parser() -> Parser:
    """Return the parser of the words."""
    parser = new_parser(
        "",
        usage=[_USAGE, "COMMAND [options] ..."],
        description="Take a read-only snapshot of a btrfs subvolume, send each"
        " destination what it is missing, and delete old snapshots and backups"
        " according to your retention policy.",
        epilog=_EPILOG,
    )
    add_backup_options(parser)
    add_display(parser)
    return parser


def add_backup_options(parser: Parser, *, has_steps: bool = True) -> None:
    """Add all options of a backup but those about its output.

    :param has_steps: with those that leave out a step.
    """
    _add_keeping(parser, has_steps)
    _add_transfer(parser)
    add_ssh(parser)
    _add_safety(parser)
    _add_tasks(parser)


def _add_keeping(parser: Parser, has_steps: bool) -> None:
    group = parser.add_argument_group("snapshots")
    job = OptionGroup(group, Job)
    group.add_argument(
        "-N",
        "--num-snapshots",
        type=values.count,
        metavar="N",
        help="keep the latest N snapshots at the source, and those that a destination"
        " still needs (default: keep all)",
    )
    group.add_argument(
        "-n",
        "--num-backups",
        type=values.backup_count,
        metavar="N",
        help="keep the latest N backups at each destination (default: keep all)",
    )
    add_policies(group)
    if has_steps:
        _add_steps(job)
    add_folder(group)
    group.add_argument(
        "-p",
        "--snapshot-prefix",
        metavar="P",
        help="prefix of the snapshots' names (default: host name and -)",
    )
    job.add(
        "sync",
        "-s",
        "--sync",
        action="store_true",
        help="after deleting, wait until the space is free",
    )
    job.add(
        "convert_rw",
        "-w",
        "--convert-rw",
        action="store_true",
        help="make snapshots writable before deleting them (needed by old kernels)",
    )


def _add_steps(job: OptionGroup) -> None:
    job.add(
        "take_snapshot",
        "-S",
        "--no-snapshot",
        action="store_false",
        help="make no snapshot; send existing ones only",
    )
    job.add(
        "transfer",
        "-T",
        "--no-transfer",
        action="store_false",
        help="send nothing; only make a snapshot (also while another run sends), and"
        " delete old ones (unless another run is at work)",
    )
    job.add(
        "prune",
        "--no-prune",
        action="store_false",
        help="delete nothing, whatever the policies say; backups that they would delete"
        " at once are not sent",
    )


def _add_transfer(parser: Parser) -> None:
    group = parser.add_argument_group("transfer")
    add = OptionGroup(group, TransferOptions).add
    group.add_argument(
        "-I", "--no-incremental", action="store_true", help="always send in full"
    )
    add(
        "incremental",
        "--incremental",
        choices=["auto", "required"],
        help="required: fail instead of sending in full (default: %(default)s)",
    )
    add_sending(OptionGroup(group, TransferOptions))
    add(
        "checkpoint_interval",
        "--no-checkpoints",
        action="store_const",
        const=0,
        help="after an interruption, send again from the start",
    )
    add(
        "staging_max_age",
        "--staging-max-age",
        type=values.staging_age,
        metavar="AGE",
        help="delete interrupted transfers that were not resumed for AGE, like 36h"
        f" (default: {TransferOptions().staging_max_age.days}d)",
    )
    OptionGroup(group, Job).add(
        "fan_out",
        "--no-fan-out",
        action="store_false",
        help="read a snapshot again for each destination, one destination after the"
        " other",
    )
    add(
        "mbuffer",
        "--use-mbuffer",
        action="store_true",
        help="buffer with mbuffer (default: over ssh, if it is installed and this"
        " machine has 4 cores)",
    )
    add("mbuffer", "--no-mbuffer", action="store_false", help="never use mbuffer")
    add(
        "verify",
        "--verify-transfer",
        action=argparse.BooleanOptionalAction,
        help="check each backup again after publishing it (default: yes; it is always"
        " checked before)",
    )


def _add_safety(parser: Parser) -> None:
    group = parser.add_argument_group("safety")
    job, destination = OptionGroup(group, Job), OptionGroup(group, Destination)
    transfer = OptionGroup(group, TransferOptions)
    job.add(
        "dry_run",
        "--dry-run",
        action="store_true",
        help="print what would be done, with sizes; change nothing",
    )
    add_wait(group)
    group.add_argument(
        "--locked-destinations",
        action="store_true",
        help="also back up to every destination that snapshots are held for",
    )
    job.add(
        "remove_locks",
        "--remove-locks",
        action="store_true",
        help="release the snapshots that are held for the given destinations, and do"
        " nothing else",
    )
    job.add(
        "disk",
        "--disk",
        metavar="ID",
        help="with --remove-locks: the disk to forget, if one place had several; or"
        " all",
    )
    _add_checks(destination, transfer)
    transfer.add(
        "backfill",
        "--backfill",
        action="store_true",
        help="also send missing snapshots that are older than the newest backup",
    )
    transfer.add(
        "force",
        "--force",
        action="store_true",
        help="continue although the space check fails, the source keeps backups, or"
        " a policy would delete more than half",
    )


def _add_checks(destination: OptionGroup, transfer: OptionGroup) -> None:
    destination.add(
        "checks",
        "--fs-checks",
        help="suspicious filesystems: strict refuses them, skip ignores them"
        " (default: %(default)s)",
    )
    destination.add(
        "checks",
        "--skip-fs-checks",
        action="store_const",
        const="skip",
        help="the same as --fs-checks skip",
    )
    add_check_space(transfer)
    transfer.add(
        "safety_margin_percent",
        "--safety-margin",
        type=values.percent,
        metavar="PCT",
        help="also leave PCT percent of the transfer free, and at least 100 MiB (less"
        " for a small transfer) (default: %(default)g)",
    )


def _add_tasks(parser: Parser) -> None:
    """Add the option about tasks; it counts for all of them."""
    group = parser.add_argument_group("several tasks")
    group.add_argument(
        "--jobs",
        type=values.tasks,
        dest="at_once",
        metavar="N",
        help="run up to N tasks (SOURCE ... :: SOURCE ...) at once, of which up to 4"
        " send from or to one disk; 1: one after the other (default: 8, where transfers"
        " that share a disk take turns)",
    )


def read_job(options: argparse.Namespace) -> Job:
    """Return the job of one task.

    :raises UsageError: if the options contradict each other.
    """
    if not options.places:
        raise UsageError(
            "no source given",
            hint=f"Usage:  {PROGRAM} {_USAGE}\n        {PROGRAM} COMMAND [options] ..."
            f"\nSee:  {PROGRAM} --help",
        )
    source, *destinations = map(values.location, options.places)
    if source.is_command:
        raise UsageError("a command (shell://) cannot be a source")
    for place in destinations:
        if destinations.count(place) > 1:
            raise UsageError(f"{place} is given twice")
        if place == source:
            raise UsageError(f"{place} is source and destination at once")
    prefix = options.snapshot_prefix
    transfer, ssh = read_transfer(options)
    if options.no_incremental:
        if transfer.incremental is Incremental.REQUIRED:
            raise UsageError("-I sends in full, and --incremental=required forbids it")
        transfer = replace(transfer, incremental=Incremental.NEVER)
    template = read_fields(
        Destination,
        options,
        location=source,
        keep=_policy(options, "-n", "--keep-at"),
        ssh=ssh,
        options=transfer,
    )
    job = read_fields(
        Job,
        options,
        source=source,
        destinations=tuple(replace(template, location=p) for p in destinations),
        recorded=template if options.locked_destinations else None,
        naming=Naming(usual_prefix() if prefix is None else prefix),
        snapshot_folder=options.snapshot_folder,
        keep_source=_policy(options, "-N", "--keep"),
        wait_s=options.wait,
        force=transfer.force,
        ssh=ssh,
    )
    if job.remove_locks and not destinations:
        raise UsageError("--remove-locks needs the destinations to forget")
    if job.disk and not job.remove_locks:
        raise UsageError("--disk chooses what --remove-locks forgets")
    return job


def _policy(options: argparse.Namespace, number: str, option: str) -> Policy | None:
    """Return the policy given as a number or a text.

    :raises UsageError: if both are given.
    """
    at_source = option == "--keep"
    count = options.num_snapshots if at_source else options.num_backups
    text = options.keep if at_source else options.keep_at
    if count is None:
        return values.policy(text, option, options.keep_zone)
    if text is not None:
        raise UsageError(
            f"{number} and {option} both set the number to keep",
            hint=f"As one policy:  {option} 'latest={count} ...'",
        )
    return Policy(latest=count)
