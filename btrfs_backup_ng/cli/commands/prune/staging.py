"""The dropping of transfers that wait to go on: ``prune --staging``."""

import argparse
from collections.abc import Iterator
from datetime import datetime

from btrfs_backup_ng.__util__ import BackupError
from btrfs_backup_ng.actions.prune import staging as leftovers
from btrfs_backup_ng.cli import text as tell
from btrfs_backup_ng.cli.output import print_about
from btrfs_backup_ng.cli.prompt import Declined, confirmed
from btrfs_backup_ng.core.events import Tally
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import Waiting
from btrfs_backup_ng.endpoint.common import Place
from btrfs_backup_ng.place.preflight import CHANGING, look_at
from btrfs_backup_ng.session.session import Session


class Dropping:
    """One place, from the look to the last word about it."""

    def __init__(
        self,
        location: Location,
        way: Session,
        options: argparse.Namespace,
        now: datetime,
    ) -> None:
        self.location = location
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
        place = look_at(self.location, self._way, CHANGING, with_snapshots=False)
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

    def _ask(self, place: Place) -> None:
        for one in self._waiting:
            self._say(self._described(one))
        them = "it" if len(self._waiting) == 1 else f"these {len(self._waiting)}"
        if not confirmed(f"Drop {them}? [y/N]: "):
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
        print_about(self.location, text, self._options)

    def fields(self, error: BackupError | None) -> dict[str, object]:
        """Return the place for the document."""
        return {
            "place": str(self.location),
            "dry_run": self._options.dry_run,
            "transfers": list(self._transfer_fields()),
            "error": tell.error_fields(error) if error else None,
        }

    def _transfer_fields(self) -> Iterator[dict[str, object]]:
        for one in self._waiting:
            outcome = self._outcomes.get(one.transfer_id, "stays")
            yield {**tell.waiting_fields(one, self._now), "outcome": outcome}
