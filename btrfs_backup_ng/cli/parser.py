"""The options of the classic command line."""

import argparse
from collections.abc import Sequence
from datetime import timedelta, timezone
from typing import NoReturn

from btrfs_backup_ng.__logger__ import PROGRAM
from btrfs_backup_ng.__util__ import GIB, UsageError, visible
from btrfs_backup_ng.cli import types as values
from btrfs_backup_ng.cli.argv import join_levels, split_at_dashes
from btrfs_backup_ng.cli.ssh_options import add_ssh
from btrfs_backup_ng.core.model import Checks

_EPILOG = """\
places:
  /path                        a subvolume (source), a directory on btrfs (destination)
  ssh://[user@]host[:port]/path  the same on another machine
  shell://COMMAND              any command; the stream comes on its stdin, always
                               in full, and $1 is the snapshot's name

  @FILE                        arguments from a file, one option or argument a line
  TASK :: TASK                 several tasks side by side, each with its own options

exit status:
  0 done   1 failed   2 usage   3 another run is at work   4 refused before any change
  10 some destinations failed, others did not   128+N ended by signal N

verbs, as the first word; each has a --help:
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


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are :class:`UsageError`."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and how to find out more."""
        hint = f"See:  {self.prog} --help"
        if "expected one argument" in message:
            hint = f"A value that starts with a dash:  --OPTION=VALUE\n{hint}"
        raise UsageError(visible(message), hint=hint)


def parse_task(words: Sequence[str]) -> argparse.Namespace:
    """Read the words of one task; options may stand before and after the places.

    :raises UsageError: if they do not make sense.
    """
    return parse_places(_parser(), words)


def parse_places(parser: Parser, words: Sequence[str]) -> argparse.Namespace:
    """Read options and ``places`` in any order; behind ``--`` there are only places."""
    words, behind = split_at_dashes(join_levels(words))
    options = parser.parse_intermixed_args(words)
    options.places += behind
    return options


def _parser() -> Parser:
    parser = Parser(
        prog=PROGRAM,
        usage="%(prog)s [options] SOURCE [DESTINATION ...]",
        description="Take a read-only snapshot of a btrfs subvolume, bring to each"
        " destination\nwhat is missing there, and delete what is no longer wanted.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("places", nargs="*", metavar="PLACE", help=argparse.SUPPRESS)
    _add_keeping(parser)
    _add_transfer(parser)
    add_ssh(parser)
    _add_safety(parser)
    add_display(parser)
    return parser


def _add_keeping(parser: Parser) -> None:
    group = parser.add_argument_group("snapshots")
    add = group.add_argument
    add(
        "-N",
        "--num-snapshots",
        type=values.count,
        metavar="N",
        help="keep the latest N snapshots at the source, and what a destination needs"
        " (default: keep all)",
    )
    add(
        "-n",
        "--num-backups",
        type=values.backup_count,
        metavar="N",
        help="keep the latest N backups at each destination (default: keep all)",
    )
    add_policies(group)
    add(
        "-S",
        "--no-snapshot",
        action="store_true",
        help="make no snapshot, transfer the existing ones only",
    )
    add(
        "-T",
        "--no-transfer",
        action="store_true",
        help="transfer nothing, only snapshot and delete",
    )
    add(
        "-f",
        "--snapshot-folder",
        metavar="DIR",
        default=".btrfs-backup-ng/snapshots",
        help="where snapshots are kept, relative to the source or absolute"
        " (default: %(default)s)",
    )
    add(
        "-p",
        "--snapshot-prefix",
        metavar="P",
        help="start of the snapshots' names (default: host name and -)",
    )
    add(
        "-s",
        "--sync",
        action="store_true",
        help="after deletions, wait until the space is free",
    )
    add(
        "-w",
        "--convert-rw",
        action="store_true",
        help="make snapshots writable before deleting them, for old kernels",
    )


def add_policies(group: argparse._ActionsContainer) -> None:
    """Add the options that say which snapshots and backups stay."""
    add = group.add_argument
    add(
        "--keep",
        metavar="POLICY",
        help="keep at the source what a policy like '24h 7d 4w 12m 5y min=2d' wants:"
        " the first of each hour, day, ISO week, month, year, so many periods back, and"
        " all of the last 2 days; always the newest; also latest=N, *d for all days,"
        " all, whole-weeks (months of whole weeks, as in btrbk)",
    )
    add(
        "--keep-at",
        metavar="POLICY",
        help="the same for backups at each destination",
    )
    add(
        "--keep-zone",
        type=values.zone,
        metavar="ZONE",
        default=timezone.utc,
        help="the time zone of these periods, like Europe/Berlin (default: UTC)",
    )


def _add_transfer(parser: Parser) -> None:
    group = parser.add_argument_group("transfer")
    add = group.add_argument
    add("-I", "--no-incremental", action="store_true", help="always send in full")
    add(
        "--incremental",
        choices=["auto", "required"],
        default="auto",
        help="required: rather fail than send in full (default: %(default)s)",
    )
    add(
        "--rate",
        type=values.size,
        metavar="SIZE",
        help="at most SIZE bytes a second, like 10M; needs pv or mbuffer",
    )
    add(
        "--retries",
        type=values.retries,
        metavar="N",
        default=0,
        help="after a cut, wait and go on, up to N times in one run (default: 0; the"
        " next run goes on in any case)",
    )
    add(
        "--checkpoint-interval",
        type=values.interval,
        metavar="SIZE",
        default=GIB,
        help="how much a cut may cost: what has arrived is sealed each SIZE bytes, over"
        " ssh and for larger local transfers, and not sent again (default: 1G)",
    )
    add(
        "--no-checkpoints",
        action="store_const",
        const=0,
        dest="checkpoint_interval",
        help="after a cut, send again from the start",
    )
    add(
        "--staging-max-age",
        type=values.span,
        metavar="AGE",
        default=timedelta(days=14),
        help="delete what is left of a cut transfer with which this run does not go on"
        " after AGE, like 36h (default: 14d)",
    )
    add(
        "--use-mbuffer",
        action="store_true",
        default=None,
        dest="mbuffer",
        help="buffer with mbuffer (default: over ssh, if it is installed)",
    )
    add("--no-mbuffer", action="store_false", dest="mbuffer", help="never use mbuffer")
    add(
        "--compress",
        type=values.codec,
        metavar="HOW",
        default="none",
        help="compress on the way through ssh: zstd, zstd:LEVEL, lz4, none, or auto,"
        " which tries whether it pays (default: none)",
    )
    add(
        "--verify-transfer",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="look at a backup once more under its final name (default: yes; what"
        " arrived is checked before in any case)",
    )
    add_max_size(group)


def add_max_size(group: argparse._ActionsContainer) -> None:
    """Add the option that says how long a stream may be."""
    group.add_argument(
        "--max-size",
        type=values.max_size,
        metavar="SIZE",
        help="end a transfer that is longer than SIZE, like 500G, and keep nothing of"
        " it: for a source that is not trusted (default: no limit)",
    )


def _add_safety(parser: Parser) -> None:
    group = parser.add_argument_group("safety")
    add = group.add_argument
    add("--dry-run", action="store_true", help="say what would be done; change nothing")
    add(
        "--wait",
        type=values.seconds,
        metavar="S",
        default=0.0,
        help="wait up to S seconds for another run to end (default: 0)",
    )
    add(
        "--locked-destinations",
        action="store_true",
        help="add every destination that snapshots are held for",
    )
    add(
        "--remove-locks",
        action="store_true",
        help="forget what is held for the given destinations, and do nothing else",
    )
    add(
        "--fs-checks",
        choices=[check.value for check in Checks],
        default="auto",
        help="doubts about a filesystem: strict refuses, skip does not look"
        " (default: %(default)s)",
    )
    add(
        "--skip-fs-checks",
        action="store_const",
        const="skip",
        dest="fs_checks",
        help="the same as --fs-checks skip",
    )
    add(
        "--no-check-space",
        action="store_false",
        dest="check_space",
        help="do not compare what a transfer needs with what is free",
    )
    add(
        "--safety-margin",
        type=values.percent,
        metavar="PCT",
        default=10.0,
        help="free space to leave beyond what is needed, at least 100 MiB"
        " (default: 10)",
    )
    add("--force", action="store_true", help="go on where the space check says no")
    add(
        "--sudo",
        action="store_true",
        help="without root's rights: run all of this again through sudo",
    )


def add_display(parser: Parser) -> None:
    """Add the options about what is shown; they count for all tasks."""
    group = parser.add_argument_group("display")
    add = group.add_argument
    add(
        "-q",
        "--quiet",
        action="store_true",
        help="print nothing on success, everything about a failure",
    )
    add(
        "-v",
        "--verbose",
        action="count",
        default=0,
        help="say more; -vv: every command; or -v LEVEL with debug, info, warning,"
        " error",
    )
    add(
        "--verbosity",
        choices=["debug", "info", "warning", "error"],
        help=argparse.SUPPRESS,
    )
    add("-d", "--debug", action="store_true", help="the same as -v debug")
    add(
        "--progress",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="show progress in one line (default: on a terminal)",
    )
    add("--json", action="store_true", help="print one JSON document instead of lines")
    add(
        "--version",
        action="store_true",
        help="print the version; with -v those of python, kernel, btrfs and ssh, too",
    )


def display_level(namespaces: Sequence[argparse.Namespace]) -> str:
    """Return the name of the log level that all tasks together ask for."""
    levels = ("debug", "info", "warning", "error")
    named = [n.verbosity for n in namespaces if n.verbosity]
    loudness = max(n.verbose for n in namespaces)
    if loudness >= 2 or any(n.debug for n in namespaces):
        return "debug"
    if named:
        return levels[min(map(levels.index, named))]
    if loudness:
        return "info"
    return "error" if any(n.quiet for n in namespaces) else "warning"
