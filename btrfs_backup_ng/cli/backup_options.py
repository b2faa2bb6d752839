"""The options of the classic command line: words -> jobs."""

import argparse
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from btrfs_backup_ng.__logger__ import PROGRAM
from btrfs_backup_ng.__util__ import UsageError, visible
from btrfs_backup_ng.cli import values
from btrfs_backup_ng.cli.argv import expand, naming_line, resembling, split_tasks
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
from btrfs_backup_ng.host.machine import usual_prefix

_EPILOG = """\
places:
  /path                        a subvolume (source), a directory on btrfs (destination)
  ssh://[user@]host[:port]/path  the same on another machine
  shell://COMMAND              any command; the stream comes on its stdin, always
                               in full, and $1 is the snapshot's name

  @FILE                        arguments from a file, one option or argument a line;
                               list, status, prune, verify and doctor take it, too
  TASK :: TASK                 several tasks side by side, each with its own options

exit status:
  0 done   1 failed   2 usage   3 another run is at work   4 refused before any change
  10 some destinations failed, others did not   70 a bug   128+N ended by signal N

verbs, as the first word or behind their options; each has a --help:
  help [VERB]       this text, or that of a verb
  list [PLACE ...]  snapshots, backups, and transfers that wait to go on
  status [PLACE ...]
                    one word for each place: OK, RUNNING, WAITING, NEVER, AWAY
  restore PLACE ... a snapshot, or files of it, back at a new path
  prune PLACE ...   delete what a policy does not keep; drop transfers that wait
  diff A B          what changed between two snapshots of one place
  versions FILE     what a file was, in all snapshots and backups of it
  verify PLACE ...  is what a place keeps good? identity, contents, a test of restoring
  doctor PLACE ...  can backups be made from or to these places?
  demo              try it without risk:  sudo btrfs-backup-ng demo
"""
_USAGE = "[options] SOURCE [DESTINATION ...]"
#: Verbs of other programs, for what is done here without one.
_NEEDLESS = ("backup", "copy", "create", "run", "send", "snapshot", "sync", "transfer")


@dataclass(frozen=True, slots=True)
class BackupOptions:
    """The tasks of one call of the classic form.

    :ivar jobs: one for each task.
    :ivar as_root: run again through sudo first.
    """

    jobs: tuple[Job, ...]
    as_root: bool


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
    return BackupOptions(tuple(jobs), any(task.as_root for task in tasks)), call


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
    """Go on only if a word may mean a place, and not a verb.

    :raises UsageError: if not.
    """
    text = visible(word)
    directory = f"A directory of that name:  {visible('./' + word)}"
    if word in verbs:
        raise UsageError(
            f"{text} is a verb, and an option before it is not one of its own",
            hint=f"See:  {PROGRAM} help {word}     {directory}",
        )
    if not word or "/" in word or ":" in word or os.path.lexists(word):
        return
    see = f"See:  {PROGRAM} help"
    if word in _NEEDLESS:
        hint = f"A backup needs none:  {PROGRAM} {_USAGE}"
    elif meant := resembling(word, verbs):
        hint = f"Did you mean:  {PROGRAM} {meant}\n{see}"
    else:
        hint = f"The verbs are {', '.join(sorted(verbs))}.\n{see}"
    raise UsageError(f"{text} is no verb, and no path that exists", hint=hint)


def build_parser() -> Parser:
    """Return the parser of the words."""
    parser = new_parser(
        "",
        usage=f"{_USAGE}\n       %(prog)s VERB [options] ...",
        description="Take a read-only snapshot of a btrfs subvolume, bring to each"
        " destination\nwhat is missing there, and delete what is no longer wanted.",
        epilog=_EPILOG,
    )
    _add_keeping(parser)
    _add_transfer(parser)
    add_ssh(parser)
    _add_safety(parser)
    add_display(parser)
    return parser


def _add_keeping(parser: Parser) -> None:
    group = parser.add_argument_group("snapshots")
    job = OptionGroup(group, Job)
    group.add_argument(
        "-N",
        "--num-snapshots",
        type=values.count,
        metavar="N",
        help="keep the latest N snapshots at the source, and what a destination needs"
        " (default: keep all)",
    )
    group.add_argument(
        "-n",
        "--num-backups",
        type=values.backup_count,
        metavar="N",
        help="keep the latest N backups at each destination (default: keep all)",
    )
    add_policies(group)
    job.add(
        "take_snapshot",
        "-S",
        "--no-snapshot",
        action="store_false",
        help="make no snapshot, transfer the existing ones only",
    )
    job.add(
        "transfer",
        "-T",
        "--no-transfer",
        action="store_false",
        help="transfer nothing, only snapshot and delete",
    )
    add_folder(group)
    group.add_argument(
        "-p",
        "--snapshot-prefix",
        metavar="P",
        help="start of the snapshots' names (default: host name and -)",
    )
    job.add(
        "sync",
        "-s",
        "--sync",
        action="store_true",
        help="after deletions, wait until the space is free",
    )
    job.add(
        "convert_rw",
        "-w",
        "--convert-rw",
        action="store_true",
        help="make snapshots writable before deleting them, for old kernels",
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
        help="required: rather fail than send in full (default: %(default)s)",
    )
    add_sending(OptionGroup(group, TransferOptions))
    add(
        "checkpoint_interval",
        "--no-checkpoints",
        action="store_const",
        const=0,
        help="after a cut, send again from the start",
    )
    add(
        "staging_max_age",
        "--staging-max-age",
        type=values.staging_age,
        metavar="AGE",
        help="delete what is left of a cut transfer with which this run does not go on"
        f" after AGE, like 36h (default: {TransferOptions().staging_max_age.days}d)",
    )
    add(
        "mbuffer",
        "--use-mbuffer",
        action="store_true",
        help="buffer with mbuffer (default: over ssh, if it is installed)",
    )
    add("mbuffer", "--no-mbuffer", action="store_false", help="never use mbuffer")
    add(
        "verify",
        "--verify-transfer",
        action=argparse.BooleanOptionalAction,
        help="look at a backup once more under its final name (default: yes; what"
        " arrived is checked before in any case)",
    )


def _add_safety(parser: Parser) -> None:
    group = parser.add_argument_group("safety")
    job, destination = OptionGroup(group, Job), OptionGroup(group, Destination)
    transfer = OptionGroup(group, TransferOptions)
    job.add(
        "dry_run",
        "--dry-run",
        action="store_true",
        help="say what would be done; change nothing",
    )
    add_wait(group)
    group.add_argument(
        "--locked-destinations",
        action="store_true",
        help="add every destination that snapshots are held for",
    )
    job.add(
        "remove_locks",
        "--remove-locks",
        action="store_true",
        help="forget what is held for the given destinations, and do nothing else",
    )
    job.add(
        "disk",
        "--disk",
        metavar="ID",
        help="with --remove-locks: the disk to forget, if several were at one place,"
        " or all",
    )
    _add_checks(destination, transfer)
    transfer.add(
        "backfill",
        "--backfill",
        action="store_true",
        help="send what is older than the newest backup and missing there, too",
    )
    transfer.add(
        "force",
        "--force",
        action="store_true",
        help="go on where the space check says no, or where the source keeps backups",
    )


def _add_checks(destination: OptionGroup, transfer: OptionGroup) -> None:
    destination.add(
        "checks",
        "--fs-checks",
        help="doubts about a filesystem: strict refuses, skip does not look"
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
        help="free space to leave beyond what is needed, at least 100 MiB"
        " (default: %(default)g)",
    )


def read_job(options: argparse.Namespace) -> Job:
    """Return the job of one task.

    :raises UsageError: if the options contradict each other.
    """
    if not options.places:
        raise UsageError(
            "a source is missing",
            hint=f"Usage:  {PROGRAM} {_USAGE}\n        {PROGRAM} VERB [options] ..."
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
    """Return the policy that a number or a text says.

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
