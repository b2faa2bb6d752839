"""What ``prune --one-source`` says about a place."""

import argparse

from btrfs_backup_ng.__util__ import BackupError, visible
from btrfs_backup_ng.actions.prune.one_source import Settled, settle
from btrfs_backup_ng.cli import text as tell
from btrfs_backup_ng.cli.output import print_about
from btrfs_backup_ng.core.events import Tally
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import Role
from btrfs_backup_ng.session.session import Session


class Settling:
    """One place, from the look to the last word about it."""

    def __init__(
        self,
        location: Location,
        way: Session,
        options: argparse.Namespace,
    ) -> None:
        self.location = location
        self._way = way
        self._options = options
        self._done: Settled | None = None
        self.tally = Tally()

    def run(self) -> None:
        """Record it, and say so.

        :raises Busy: if another run works there.
        """
        options = self._options
        prefix: str = options.snapshot_prefix
        done = self._done = settle(
            self.location,
            self._way,
            prefix,
            wait_s=options.wait,
            dry_run=options.dry_run,
        )
        self.tally.add(Tally(done=1))
        word = "would be" if options.dry_run else "is"
        if done.aside:
            aside = visible(done.aside)
            text = f"the record of sources cannot be read, and {word} moved to {aside}"
            print_about(self.location, text, options)
        backups = tell.count(Role.BACKUP, done.backups)
        text = f"{word} recorded: one source for all that begin with {prefix!r}"
        print_about(self.location, f"{text}, {backups} now", options)

    def fields(self, error: BackupError | None) -> dict[str, object]:
        """Return the place for the document."""
        return {
            "place": str(self.location),
            "dry_run": self._options.dry_run,
            "prefix": self._options.snapshot_prefix,
            "backups": self._done.backups if self._done else None,
            "error": tell.error_fields(error) if error else None,
        }
