"""The record that backups with a prefix have one source: ``prune --one-source``."""

from btrfs_backup_ng.__util__ import BackupError, visible
from btrfs_backup_ng.actions.prune.one_source import Settled, settle
from btrfs_backup_ng.cli import wording
from btrfs_backup_ng.cli.commands.prune.site import Site
from btrfs_backup_ng.core.events import Tally
from btrfs_backup_ng.core.model import Role
from btrfs_backup_ng.core.value import Value


class SettledPlace(Value):
    """A place in the document."""

    place: str
    dry_run: bool
    prefix: str
    backups: int | None
    error: BackupError | None


class Settling:
    """Records one source at one place."""

    def __init__(self, site: Site, prefix: str) -> None:
        self.site = site
        self._prefix = prefix
        self._done: Settled | None = None

    def run(self) -> None:
        """Record the source, and print the outcome.

        :raises Busy: if another run works there.
        """
        site, options = self.site, self.site.options
        done = self._done = settle(
            site.location,
            site.session,
            self._prefix,
            wait_s=options.wait_s,
            dry_run=options.dry_run,
        )
        site.tally.add(Tally(done=1))
        word = "would be" if options.dry_run else "is"
        if done.aside:
            aside = visible(done.aside)
            site.say(
                f"the record of sources cannot be read, and {word} moved to {aside}"
            )
        backups = wording.count(Role.BACKUP, done.backups)
        text = f"{word} recorded: one source for all that begin with {self._prefix!r}"
        site.say(f"{text}, {backups} now")

    def report(self, error: BackupError | None) -> SettledPlace:
        """Return the place for the document."""
        return SettledPlace(
            place=str(self.site.location),
            dry_run=self.site.options.dry_run,
            prefix=self._prefix,
            backups=self._done.backups if self._done else None,
            error=error,
        )
