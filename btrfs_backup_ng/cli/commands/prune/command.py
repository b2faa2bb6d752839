"""The ``prune`` verb: delete old snapshots and backups, or interrupted transfers."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__util__ import BackupError, Refused, UsageError, attempt
from btrfs_backup_ng.actions.prune.place import PruneRequest
from btrfs_backup_ng.cli import values
from btrfs_backup_ng.cli.call import Call, run_command
from btrfs_backup_ng.cli.commands.prune.one_source import Settling
from btrfs_backup_ng.cli.commands.prune.simulate import show_outlook
from btrfs_backup_ng.cli.commands.prune.site import PruneOptions, Site
from btrfs_backup_ng.cli.commands.prune.snapshots import Thinning, look_at_all
from btrfs_backup_ng.cli.commands.prune.staging import Discarding
from btrfs_backup_ng.cli.config.options import EPILOG_FILE, add_config
from btrfs_backup_ng.cli.job_files import POLICIES, PREFIX, WAIT, JobFiles
from btrfs_backup_ng.cli.output import Output
from btrfs_backup_ng.cli.parser import (
    EPILOG_PLACES,
    Parser,
    add_display,
    add_folder,
    add_policies,
    add_wait,
    new_parser,
)
from btrfs_backup_ng.cli.places import need_places, read_configured, read_places
from btrfs_backup_ng.cli.session import open_session
from btrfs_backup_ng.cli.ssh_options import add_ssh, read_ssh
from btrfs_backup_ng.cli.views import PlacesReport
from btrfs_backup_ng.core.events import Tally, exit_status
from btrfs_backup_ng.core.judgement import Clock
from btrfs_backup_ng.core.model import Role
from btrfs_backup_ng.core.policy import Policy
from btrfs_backup_ng.host.clock import read_clock
from btrfs_backup_ng.host.machine import usual_prefix
from btrfs_backup_ng.sshutil.passwords import has_terminal

if TYPE_CHECKING:
    from btrfs_backup_ng.cli.config.places import ConfiguredPlace

_EPILOG = f"""\
{EPILOG_PLACES}
It shows which snapshots will be kept or deleted and why, then asks for confirmation.
Policies are explained by: {PROGRAM} --help-all

Never deleted: the newest snapshot of each prefix, anything that this program did not
create, anything that a destination still needs, and the latest snapshot that source and
destination of this call share.

Without --force it refuses a policy that keeps only the newest, and to delete more than
half of the snapshots of a prefix. --force also confirms that the clock of this machine
is right: otherwise, if it may have jumped, snapshots that were kept before are kept
until another clock confirms the time, and so are snapshots dated in the future.

exit status:
  0  everything that was asked for is gone
  1  failed, or the answer was no
  2  usage error
  3  another run is at work there
  4  refused
  10  done in part

{EPILOG_FILE}"""

#: Options that mean nothing to a part of this verb.
_OF_NO_USE = {
    "policy": ("--id",),
    "staging": ("--keep", "--keep-at", "--snapshot-prefix", "--force", "--one-source"),
    "one-source": ("--keep", "--keep-at", "--id", "--force"),
    "simulate": ("--staging", "--one-source", "--id", "--snapshot-prefix", "--force"),
}

#: Options of a backup's argument file that count for a part of this verb.
_FROM_FILES = {"--staging": (WAIT,), "--one-source": (PREFIX, WAIT)}


def main(words: Sequence[str]) -> int:
    """Prune places."""
    parser = build_parser()
    wanted: tuple[str, ...] = (*POLICIES, PREFIX, WAIT)
    for mode, options in _FROM_FILES.items():
        wanted = options if mode in words else wanted
    settles = "--one-source" in words  # sources of the backups, at destinations
    files = JobFiles(parser, wanted, (Role.BACKUP,) if settles else tuple(Role))

    def read_all(options: argparse.Namespace) -> PruneOptions:
        return read(options, _configured(options, files.expand(words)))

    return run_command("prune", words, parser, read_all, _run, files.expand)


def _configured(
    options: argparse.Namespace, words: Sequence[str]
) -> tuple["ConfiguredPlace", ...]:
    """Return the configured places, if their own policies are to be applied.

    :param words: of the call, expanded.
    """
    if _mode(options) == "policy" and not (options.keep or options.keep_at):
        return read_configured(options, build_parser, words)
    if options.config:
        raise UsageError("-c takes places and policies of the configuration only")
    return ()


def build_parser() -> Parser:
    """Return the parser of the words."""
    parser = new_parser(
        "prune",
        usage=(
            "[options]",
            "--keep POLICY [--keep-at POLICY] [options] PLACE ...",
            "--staging [options] PLACE ...",
            "--one-source -p PREFIX [options] PLACE ...",
            "--simulate SPAN [--every SPAN] --keep POLICY",
        ),
        description="Delete snapshots and backups that a policy no longer keeps; or"
        " discard interrupted transfers (the next backup starts them over). Without"
        " places and policies, those of the configuration count.",
        epilog=_EPILOG,
    )
    add_config(parser)
    add_policies(parser.add_argument_group("policies"))
    add_folder(parser)
    _add_selection(parser)
    _add_caution(parser)
    add_ssh(parser)
    add_display(parser)
    return parser


def _add_selection(parser: Parser) -> None:
    """Add the options that choose the snapshots or transfers."""
    add = parser.add_argument
    add(
        "-p",
        "--snapshot-prefix",
        metavar="P",
        help="only names that start with P (default: all that this program created)",
    )
    add(
        "--simulate",
        type=values.simulated_span,
        metavar="SPAN",
        help="show which snapshots a policy keeps after SPAN, like 400d; change"
        " nothing",
    )
    add(
        "--every",
        type=values.simulated_span,
        metavar="SPAN",
        help="with --simulate: take a snapshot every SPAN (default: 1h)",
    )
    add("--staging", action="store_true", help="discard interrupted transfers")
    add(
        "--one-source",
        action="store_true",
        help="record that all backups that start with P are of one source, so that a"
        " policy may delete them; deletes nothing now",
    )
    add(
        "--id",
        action="append",
        default=[],
        metavar="ID",
        help="with --staging: only this transfer; list and status show the id; may be"
        " repeated",
    )


def _add_caution(parser: Parser) -> None:
    add = parser.add_argument
    add(
        "-n",
        "--dry-run",
        action="store_true",
        help="print what would be deleted or discarded; change nothing",
    )
    add("-y", "--yes", action="store_true", help="do not ask for confirmation")
    add(
        "--force",
        action="store_true",
        help="continue although a plan looks dangerous, by the clock of this machine",
    )
    add_wait(parser)


def read(
    options: argparse.Namespace, configured: tuple["ConfiguredPlace", ...] = ()
) -> PruneOptions:
    """Return the options, if they make sense together.

    :param configured: the places, if the call names none.
    :raises UsageError: if they do not.
    :raises Refused: if a policy keeps only the newest.
    """
    keep = values.policy(options.keep, "--keep", options.keep_zone)
    keep_at = values.policy(options.keep_at, "--keep-at", options.keep_zone)
    found = [keep, keep_at, *(one.keep for one in configured)]
    policies = [policy for policy in found if policy]
    mode = _mode(options)
    for option in _OF_NO_USE[mode]:
        if getattr(options, option.strip("-").replace("-", "_")):
            alone = "without --staging" if mode == "policy" else f"with --{mode}"
            raise UsageError(f"{option} has no effect {alone}")
    if mode == "simulate":
        _check_simulation(options, policies)
    else:
        if not configured:
            need_places(options.places, "prune")
        _check_work(options, mode, policies)
    return PruneOptions(
        places=read_places(options.places),
        folder=options.snapshot_folder,
        ssh=read_ssh(options),
        keep=keep,
        keep_at=keep_at,
        prefix=options.snapshot_prefix,
        simulate=options.simulate,
        every=options.every,
        staging=options.staging,
        ids=tuple(options.id),
        one_source=options.one_source,
        dry_run=options.dry_run,
        yes=options.yes,
        force=options.force,
        wait_s=options.wait,
        configured=configured,
    )


def _mode(options: argparse.Namespace) -> str:
    if options.simulate is not None:
        return "simulate"
    if options.staging:
        return "staging"
    return "one-source" if options.one_source else "policy"


def _check_simulation(options: argparse.Namespace, policies: Sequence[Policy]) -> None:
    if options.places:
        raise UsageError("--simulate takes a policy, and no places")
    if len(policies) != 1:
        raise UsageError("--simulate needs one policy:  --keep POLICY")


def _check_work(
    options: argparse.Namespace, mode: str, policies: Sequence[Policy]
) -> None:
    if options.every is not None:
        raise UsageError("--every needs --simulate")
    if mode == "one-source":
        if options.snapshot_prefix is None:
            raise UsageError("--one-source needs the prefix of the backups:  -p PREFIX")
        return
    if mode == "policy" and not policies:
        raise UsageError(
            "no retention policy given",
            hint="For a source:  --keep '24h 7d 4w 12m'     For backups:  --keep-at ..."
            "\nTo discard interrupted transfers:  --staging",
        )
    if not (options.yes or options.dry_run or has_terminal() and not options.json):
        done = "discarded" if mode == "staging" else "deleted"
        raise UsageError(
            f"cannot ask for confirmation (no terminal); nothing {done}",
            hint="Preview:  --dry-run     Skip the question:  --yes",
        )
    if any(policy.keeps_only_newest for policy in policies) and not options.force:
        raise Refused(
            "this policy keeps only the newest snapshot; all history would be deleted",
            hint="To proceed:  --force",
        )


class _Work(Protocol):
    """Works at one place."""

    site: Site

    def run(self) -> None:
        """Do the work, and print its outcome."""

    def report(self, error: BackupError | None) -> object:
        """Return the place for the document."""


def _run(options: PruneOptions, call: Call) -> int:
    if options.simulate is not None:
        policy, now = options.keep or options.keep_at, read_clock().now
        assert policy
        return show_outlook(policy, now, options.simulate, options.every, call)
    output = Output(call)
    thins = not (options.staging or options.one_source)
    folder = options.folder if thins else ""
    with open_session(call, options.ssh, folder) as session:
        if options.configured:
            from btrfs_backup_ng.cli.commands.prune import configured  # here: for these

            return _do(configured.thinnings(options, session, call, output), output)
        sites = [
            Site(place, session, options, call, output, Tally())
            for place in options.places
        ]
        if options.staging:
            return _do([Discarding(site) for site in sites], output)
        if options.one_source:
            assert options.prefix is not None
            return _do([Settling(site, options.prefix) for site in sites], output)
        request = PruneRequest(
            keep=options.keep,
            keep_at=options.keep_at,
            prefix=options.prefix,
            usual_prefix=usual_prefix(),
            clock=Clock(session.now, session.is_synchronised),
            is_forced=options.force,
        )
        works = [Thinning(site, request) for site in sites]
        look_at_all(works, request)
        return _do(works, output)


def _do(works: Sequence[_Work], output: Output) -> int:
    """Work on places one after the other; a failure ends the work on that one only.

    :returns: the exit status.
    """
    tally, places = Tally(), list[object]()
    for work in works:
        error = attempt(work.run)
        if error:
            tally.add(Tally(failures=(output.fail(work.site.location, error),)))
        tally.add(work.site.tally)
        places.append(work.report(error))
    return output.finish(exit_status([tally]), PlacesReport(places))
