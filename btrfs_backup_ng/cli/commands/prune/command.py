"""The ``prune`` verb: old snapshots and backups go, or what cut transfers left."""

import argparse
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from btrfs_backup_ng.__logger__ import PROGRAM
from btrfs_backup_ng.__util__ import BackupError, Refused, UsageError, attempt
from btrfs_backup_ng.actions.prune.place import Needs, PruneRequest, common, course_of
from btrfs_backup_ng.cli import types as values
from btrfs_backup_ng.cli.commands.prune.one_source import Settling
from btrfs_backup_ng.cli.commands.prune.simulate import show_outlook
from btrfs_backup_ng.cli.commands.prune.snapshots import Thinner
from btrfs_backup_ng.cli.commands.prune.staging import Dropping
from btrfs_backup_ng.cli.output import tell_failure
from btrfs_backup_ng.cli.parser import Parser, add_display, add_policies
from btrfs_backup_ng.cli.places import (
    EPILOG_PLACES,
    add_folder,
    new_parser,
    open_session,
    print_document,
    read_keepers,
    read_words,
)
from btrfs_backup_ng.cli.ssh_options import add_ssh
from btrfs_backup_ng.core.events import Failed, Tally, exit_status
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.policy import Policy
from btrfs_backup_ng.host.clock import read_clock
from btrfs_backup_ng.place.forecast import usual_prefix
from btrfs_backup_ng.sshutil.passwords import has_terminal

_EPILOG = f"""\
{EPILOG_PLACES}
Of each snapshot and backup is told whether it stays, and why; then it asks. What
always stays: what we did not name, what a destination needs for its next backup, what
source and destination of the call have last in common, the newest of each prefix.

Refused without --force: a policy that keeps only the newest; to delete more than half
of what there is of a prefix. It also says that the clock of this machine is right: if
that may have jumped, what was wanted before stays until another clock confirms it; and
what is dated in the future stays.

exit status:
  0 all that was asked for is gone   1 failed, or the answer was no   2 usage
  3 another run is at work there   4 refused   10 done in part
"""

#: Options that mean nothing to a part of this verb.
_OF_NO_USE = {
    "policy": ("--id",),
    "staging": ("--keep", "--keep-at", "--snapshot-prefix", "--force", "--one-source"),
    "one-source": ("--keep", "--keep-at", "--id", "--force"),
    "simulate": ("--staging", "--one-source", "--id", "--snapshot-prefix", "--force"),
}


def main(words: Sequence[str]) -> int:
    """Prune places, one after the other.

    :raises UsageError: if the words do not make sense.
    """
    options = read_words(_parser(), words, needs_place=False)
    if options is None:
        return 0
    keep = values.policy(options.keep, "--keep", options.keep_zone)
    keep_at = values.policy(options.keep_at, "--keep-at", options.keep_zone)
    _check(options, keep, keep_at)
    clock = read_clock()
    now = clock.now
    if options.simulate is not None:
        policy = keep or keep_at
        assert policy
        show_outlook(policy, now, options)
        return 0
    if options.staging:
        return _drop(options, words, now)
    if options.one_source:
        return _settle(options, words)
    prefix, usual = options.snapshot_prefix, usual_prefix()
    request = PruneRequest(keep, keep_at, prefix, usual, clock, options.force)
    return _thin(options, words, request)


def _check(
    options: argparse.Namespace, keep: Policy | None, keep_at: Policy | None
) -> None:
    """Go on only if the options make sense together.

    :raises UsageError: if they do not.
    :raises Refused: if a policy keeps only the newest.
    """
    policies = [policy for policy in (keep, keep_at) if policy]
    what = "policy"
    if options.simulate is not None:
        what = "simulate"
    elif options.staging:
        what = "staging"
    elif options.one_source:
        what = "one-source"
    for option in _OF_NO_USE[what]:
        if getattr(options, option.strip("-").replace("-", "_")):
            alone = "without --staging" if what == "policy" else f"with --{what}"
            raise UsageError(f"{option} is of no use {alone}")
    if options.simulate is not None:
        if options.places:
            raise UsageError("--simulate is about no place, only about a policy")
        if len(policies) != 1:
            raise UsageError("--simulate needs one policy:  --keep POLICY")
        return
    if options.every is not None:
        raise UsageError("--every is of use with --simulate only")
    if not options.places:
        raise UsageError("a place is missing", hint=f"See:  {PROGRAM} prune --help")
    if options.one_source:
        if options.snapshot_prefix is None:
            raise UsageError("--one-source needs to know which backups:  -p PREFIX")
        return
    if not options.staging and not policies:
        raise UsageError(
            "a policy is missing that says which snapshots and backups stay",
            hint="For a source:  --keep '24h 7d 4w 12m'     For backups:  --keep-at ..."
            "\nTo drop transfers that wait to go on:  --staging",
        )
    if not (options.yes or options.dry_run or has_terminal() and not options.json):
        done = "dropped" if options.staging else "deleted"
        raise UsageError(
            f"nobody is here to be asked, so nothing is {done}",
            hint="Look first:  --dry-run     Without a question:  --yes",
        )
    if any(policy.keeps_only_newest for policy in policies) and not options.force:
        raise Refused(
            "this policy keeps only the newest, so nothing of the past would be left",
            hint="If that is what you want:  --force",
        )


def _drop(options: argparse.Namespace, words: Sequence[str], now: datetime) -> int:
    """Drop what cut transfers left at places."""
    places = read_keepers(options)
    with open_session(options, "", "prune", words) as way:
        return _do(options, [Dropping(place, way, options, now) for place in places])


def _settle(options: argparse.Namespace, words: Sequence[str]) -> int:
    """Record that backups at places are of one source."""
    places = read_keepers(options)
    with open_session(options, "", "prune", words) as way:
        return _do(options, [Settling(place, way, options) for place in places])


def _thin(
    options: argparse.Namespace, words: Sequence[str], request: PruneRequest
) -> int:
    """Delete at places what their policies do not keep."""
    places = read_keepers(options)
    with open_session(options, options.snapshot_folder, "prune", words) as way:
        thinners = [Thinner(place, way, options, request) for place in places]
        for thinner in thinners:
            thinner.look()
        everything = [seen for thinner in thinners for seen in thinner.everything]
        needs = Needs(common(everything, request.now), course_of(everything, request))
        for thinner in thinners:
            thinner.needs = needs
        return _do(options, thinners)


class _Work(Protocol):
    """What is done at one place."""

    location: Location
    tally: Tally

    def run(self) -> None:
        """Do it, and say so."""

    def fields(self, error: BackupError | None) -> dict[str, object]:
        """Return the place for the document."""


def _do(options: argparse.Namespace, works: Sequence[_Work]) -> int:
    """Work on places one after the other; a failure ends the work on that one only.

    :returns: the exit status.
    """
    tally, found = Tally(), []
    for work in works:
        error = attempt(work.run)
        if isinstance(error, BackupError):
            place, status = str(work.location), error.exit_status
            tell_failure(Failed(place, error.message, error.hint, status))
            tally.add(Tally(failures=(status,)))
        tally.add(work.tally)
        found.append(work.fields(error))
    status = exit_status([tally])
    if options.json:
        print_document(status, found)
    return status


def _parser() -> Parser:
    parser = new_parser(
        "prune",
        usage="--keep POLICY [--keep-at POLICY] [options] PLACE ...\n"
        "       %(prog)s --staging [options] PLACE ...\n"
        "       %(prog)s --one-source -p PREFIX [options] PLACE ...\n"
        "       %(prog)s --simulate SPAN [--every SPAN] --keep POLICY",
        description="Delete the snapshots and backups at places that a policy does not"
        " keep, or drop\nwhat transfers that were cut left there; that is sent again by"
        " the next backup.",
        epilog=_EPILOG,
    )
    add_policies(parser.add_argument_group("policies"))
    add = parser.add_argument
    add_folder(parser)
    add(
        "-p",
        "--snapshot-prefix",
        metavar="P",
        help="only names that start with P (default: all that are known as ours)",
    )
    add(
        "--simulate",
        type=values.simulated_span,
        metavar="SPAN",
        help="show what a policy will have kept after SPAN, like 400d; change nothing",
    )
    add(
        "--every",
        type=values.simulated_span,
        metavar="SPAN",
        help="with a snapshot each SPAN (default: 1h)",
    )
    add("--staging", action="store_true", help="drop transfers that wait to go on")
    add(
        "--one-source",
        action="store_true",
        help="record that all backups that start with P are of one source, so that a"
        " policy may delete them; delete nothing now",
    )
    add(
        "--id",
        action="append",
        default=[],
        metavar="ID",
        help="only the one with this id, which list and status tell; may be repeated",
    )
    add(
        "-n",
        "--dry-run",
        action="store_true",
        help="say what would be deleted or dropped; change nothing",
    )
    add("-y", "--yes", action="store_true", help="do not ask")
    add(
        "--force",
        action="store_true",
        help="go on where a plan looks dangerous, by the clock of this machine",
    )
    add(
        "--wait",
        type=values.seconds,
        metavar="S",
        default=0.0,
        help="wait up to S seconds for another run to end (default: 0)",
    )
    add_ssh(parser)
    add_display(parser)
    return parser
