"""The options of ``prune``, and one place of its work."""

from datetime import timedelta
from typing import TYPE_CHECKING

from btrfs_backup_ng.cli.call import Call
from btrfs_backup_ng.cli.output import Output
from btrfs_backup_ng.cli.prompt import Declined, confirmed
from btrfs_backup_ng.core.events import Tally
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import SshOptions
from btrfs_backup_ng.core.policy import Policy
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.session.session import Session

if TYPE_CHECKING:
    from btrfs_backup_ng.cli.config.places import ConfiguredPlace


class PruneOptions(Value):
    """The options of ``prune``.

    :ivar configured: the places, if the call names none.
    :ivar prefix: of the names; ``None`` for all known snapshots.
    :ivar simulate: for how long to simulate a policy, instead of pruning.
    :ivar staging: discard interrupted transfers, instead of pruning.
    :ivar ids: of the transfers to discard; without any, all.
    :ivar one_source: record a prefix as that of one source, instead of pruning.
    """

    places: tuple[Location, ...]
    folder: str
    ssh: SshOptions
    keep: Policy | None
    keep_at: Policy | None
    prefix: str | None
    simulate: timedelta | None
    every: timedelta | None
    staging: bool
    ids: tuple[str, ...]
    one_source: bool
    dry_run: bool
    yes: bool
    force: bool
    wait_s: float
    configured: tuple["ConfiguredPlace", ...] = ()


class Site(Value):
    """One place of the work, and all that it needs.

    :ivar tally: of the work done at this place.
    """

    location: Location
    session: Session
    options: PruneOptions
    call: Call
    output: Output
    tally: Tally

    def say(self, text: str) -> None:
        """Print a line about the place."""
        self.output.about(self.location, text)

    def confirm(self, verb: str, count: int, done: str) -> None:
        """Ask whether to continue, unless ``--yes`` says so.

        :param verb: the action that needs a yes, like "Delete".
        :param done: its participle, for the message after a no, like "deleted".
        :raises Declined: if the answer was no.
        """
        them = "it" if count == 1 else f"these {count}"
        if not (self.options.yes or confirmed(f"{verb} {them}? [y/N]: ")):
            raise Declined(f"nothing was {done} at {self.location}")
