"""``prune --staging``: interrupted transfers, discarded by the user."""

from btrfs_backup_ng.__util__ import BackupError
from btrfs_backup_ng.actions.prune.staging import check_free, discard, find
from btrfs_backup_ng.cli import wording
from btrfs_backup_ng.cli.commands.prune.site import Site
from btrfs_backup_ng.core.document import Inline
from btrfs_backup_ng.core.events import Tally
from btrfs_backup_ng.core.model import Waiting
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.place.preflight import CHANGING, look_at


class DiscardedTransfer(Value):
    """A transfer in the document, and whether it was discarded."""

    transfer: Inline[Waiting]
    outcome: str


class DiscardedPlace(Value):
    """A place in the document."""

    place: str
    dry_run: bool
    transfers: tuple[DiscardedTransfer, ...]
    error: BackupError | None


class Discarding:
    """Discards the interrupted transfers of one place."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._waiting: tuple[Waiting, ...] = ()
        self._outcomes: dict[str, str] = {}

    def run(self) -> None:
        """Look at the place, list the transfers, ask, and discard them.

        :raises Busy: if another run works there.
        :raises Declined: if the answer was no.
        """
        site, options = self.site, self.site.options
        place = look_at(site.location, site.session, CHANGING, with_snapshots=False)
        self._waiting = find(place, options.ids)
        if not self._waiting:
            site.say("no interrupted transfers")
            site.tally.add(Tally(done=1))
            return
        if options.dry_run:
            self._report_each({one.transfer_id for one in self._waiting if one.running})
            return
        if not options.wait_s:
            check_free(place)
        if not options.yes:
            for one in self._waiting:
                site.say(self._described(one))
        site.confirm("Discard", len(self._waiting), "discarded")
        now = site.session.now
        self._report_each(discard(place, self._waiting, wait_s=options.wait_s, now=now))

    def _report_each(self, running: frozenset[str] | set[str]) -> None:
        """Print the outcome of each transfer, and count it.

        :param running: ids of those that are kept, as they still run.
        """
        dry = self.site.options.dry_run
        done = "would discard" if dry else "discarded"
        outcome, kept = ("would drop", "would stay") if dry else ("dropped", "stays")
        for one in self._waiting:
            if one.transfer_id in running:
                self._outcomes[one.transfer_id] = kept
                self.site.say(f"kept, as it is still running: {self._described(one)}")
                self.site.tally.add(Tally(failures=(3,)))
            else:
                self._outcomes[one.transfer_id] = outcome
                self.site.say(f"{done} {self._described(one)}")
                self.site.tally.add(Tally(done=1))

    def _described(self, one: Waiting) -> str:
        words = wording.described(one, self.site.session.now)
        return f"{words}, id {one.transfer_id}"

    def report(self, error: BackupError | None) -> DiscardedPlace:
        """Return the place for the document."""
        return DiscardedPlace(
            place=str(self.site.location),
            dry_run=self.site.options.dry_run,
            transfers=tuple(
                DiscardedTransfer(one, self._outcomes.get(one.transfer_id, "stays"))
                for one in self._waiting
            ),
            error=error,
        )
