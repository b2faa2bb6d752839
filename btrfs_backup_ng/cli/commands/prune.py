"""Own the ``prune`` verb, which so far drops transfers that wait to go on."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from select import select

from btrfs_backup_ng import leftovers
from btrfs_backup_ng.__util__ import BackupError, UsageError, attempt, visible
from btrfs_backup_ng.cli import tell
from btrfs_backup_ng.cli.commands.listing import EPILOG_PLACES
from btrfs_backup_ng.cli.layout import wrapped
from btrfs_backup_ng.cli.output import print_line, tell_failure
from btrfs_backup_ng.cli.parser import Parser, add_display
from btrfs_backup_ng.cli.values import seconds
from btrfs_backup_ng.cli.sshopts import add_ssh
from btrfs_backup_ng.cli.verb import (
    access,
    new_parser,
    print_document,
    read_keepers,
    read_words,
)
from btrfs_backup_ng.endpoint.common import BtrfsEndpoint
from btrfs_backup_ng.listing import Access
from btrfs_backup_ng.location import Location
from btrfs_backup_ng.model import Waiting
from btrfs_backup_ng.process import check_interrupted
from btrfs_backup_ng.report import Failed, Tally, exit_status
from btrfs_backup_ng.sshutil.passwords import has_terminal

_EPILOG = f"""\
{EPILOG_PLACES}
Snapshots and backups are never deleted by this. A run of a backup does that, by
its options -N (snapshots at the source) and -n (backups at each destination).

exit status:
  0 all that was asked for is dropped   1 failed, or the answer was no   2 usage
  3 another run is at work there   4 refused   10 done in part
"""


class Declined(BackupError):
    """The answer was no."""


def main(words: Sequence[str]) -> int:
    """Drop what cut transfers left at places, one place after the other.

    :raises UsageError: if the words do not make sense.
    """
    parser = _parser()
    options = read_words(parser, words)
    if options is None:
        return 0
    if not options.staging:
        raise UsageError(
            "prune can only drop transfers that wait to go on, so far: --staging",
            hint="To delete old snapshots and backups, give a backup its limits:\n"
            "  btrfs-backup-ng -S -N 24 -n 60 SOURCE DESTINATION",
        )
    if not (options.yes or options.dry_run or has_terminal() and not options.json):
        raise UsageError(
            "nobody is here to be asked, so nothing is dropped",
            hint="Look first:  --dry-run     Without a question:  --yes",
        )
    places, now = read_keepers(options), datetime.now().astimezone()
    tally, found = Tally(), []
    with access(options, "", "prune", words) as way:
        for place in places:
            pruning = _Pruning(place, way, options, now)
            error = attempt(pruning.run)
            if isinstance(error, BackupError):
                status = error.exit_status
                tell_failure(Failed(str(place), error.message, error.hint, status))
                tally.add(Tally(failures=(status,)))
            tally.add(pruning.tally)
            found.append(pruning.fields(error))
    status = exit_status([tally])
    if options.json:
        print_document(status, found)
    return status


def _parser() -> Parser:
    parser = new_parser(
        "prune",
        usage="--staging [options] PLACE ...",
        description="Drop what transfers that were cut left at places. What is dropped"
        " is sent\nagain by the next backup.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("--staging", action="store_true", help="drop transfers that wait to go on")
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
        help="say what would be dropped; change nothing",
    )
    add("-y", "--yes", action="store_true", help="do not ask")
    add(
        "--wait",
        type=seconds,
        metavar="S",
        default=0.0,
        help="wait up to S seconds for another run to end (default: 0)",
    )
    add_ssh(parser)
    add_display(parser)
    return parser


class _Pruning:
    """One place, from the look to the last word about it."""

    def __init__(
        self,
        location: Location,
        way: Access,
        options: argparse.Namespace,
        now: datetime,
    ) -> None:
        self._location = location
        self._way = way
        self._options = options
        self._now = now
        self._waiting: tuple[Waiting, ...] = ()
        self._outcomes: dict[str, str] = {}
        self.tally = Tally()

    def run(self) -> None:
        """Look, show, ask, and drop.

        :raises Busy: if another run works there.
        :raises Declined: if the answer was no.
        """
        options = self._options
        place = leftovers.open_staging(self._location, self._way)
        self._waiting = leftovers.find(place, options.id)
        if not self._waiting:
            self._say("no transfer waits there")
            self.tally.add(Tally(done=1))
            return
        if options.dry_run:
            self._tell_all({one.transfer_id for one in self._waiting if one.running})
            return
        if not options.wait:
            leftovers.check_free(place)
        if not options.yes:
            self._ask(place)
        running = leftovers.drop(
            place, self._waiting, wait_s=options.wait, now=self._now
        )
        self._tell_all(running)

    def _ask(self, place: BtrfsEndpoint) -> None:
        for one in self._waiting:
            self._say(self._described(one))
        them = "it" if len(self._waiting) == 1 else f"these {len(self._waiting)}"
        if not _confirmed(f"Drop {them}? [y/N]: "):
            raise Declined(f"nothing was dropped at {place}")

    def _tell_all(self, running: frozenset[str] | set[str]) -> None:
        """Say of each what became of it, and count it.

        :param running: ids of those that stay, as somebody works on them.
        """
        dry = self._options.dry_run
        done, stays = ("would drop", "would stay") if dry else ("dropped", "stays")
        for one in self._waiting:
            if one.transfer_id in running:
                word = stays
                self._say(f"{stays}, as it still runs: {self._described(one)}")
                self.tally.add(Tally(failures=(3,)))
            else:
                word = done
                self._say(f"{done} {self._described(one)}")
                self.tally.add(Tally(done=1))
            self._outcomes[one.transfer_id] = word

    def _described(self, one: Waiting) -> str:
        words = [tell.name(one), tell.safe(one)]
        words += [
            f"since {tell.exact(one.started)} ({tell.age(one.started, self._now)})"
        ]
        return ", ".join([*words, f"id {one.transfer_id}"])

    def _say(self, text: str) -> None:
        if not self._options.json and not self._options.quiet:
            for line in wrapped(f"{visible(str(self._location))}: {text}", 2):
                print_line(line)

    def fields(self, error: BackupError | None) -> dict[str, object]:
        """Give the place for the document."""
        return {
            "place": str(self._location),
            "dry_run": self._options.dry_run,
            "transfers": list(self._transfer_fields()),
            "error": tell.error_fields(error) if error else None,
        }

    def _transfer_fields(self) -> Iterator[dict[str, object]]:
        for one in self._waiting:
            outcome = self._outcomes.get(one.transfer_id, "stays")
            yield {**tell.waiting_fields(one, self._now), "outcome": outcome}


def _confirmed(question: str) -> bool:
    """Ask at the terminal; only a yes is a yes.

    :raises Interrupted: if a signal told us to end meanwhile.
    """
    print(question, end="", file=sys.stderr, flush=True)
    while not select([0], [], [], 0.1)[0]:
        check_interrupted()
    answer = os.read(0, 1024).decode(errors="replace").strip().lower()
    check_interrupted()
    return answer in ("y", "yes")
