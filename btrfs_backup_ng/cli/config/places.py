"""The places of a configuration, for the commands that look at places."""

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from btrfs_backup_ng.__util__ import BackupError, Refused, visible
from btrfs_backup_ng.actions.conditions import Unmet, check_place
from btrfs_backup_ng.cli.config.file import configuration_path, read_configuration
from btrfs_backup_ng.cli.config.jobs import (
    Options,
    VolumePlan,
    given_options,
    plan_volumes,
)
from btrfs_backup_ng.cli.output import Output
from btrfs_backup_ng.cli.parser import Parser
from btrfs_backup_ng.core.conditions import Conditions
from btrfs_backup_ng.core.configuration import Configuration
from btrfs_backup_ng.core.events import Level, Noted
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import Checks, Destination, SshOptions
from btrfs_backup_ng.core.policy import Policy
from btrfs_backup_ng.core.value import EMPTY, Value, replace
from btrfs_backup_ng.session.session import Session


class ConfiguredPlace(Value):
    """A source, or one of its targets.

    :ivar plan: of the volume, with its name and its job.
    :ivar conditions: those that count here.
    :ivar target: its name; "" for the source.
    :ivar destination: the target as the job has it; None for the source.
    :ivar max_age: of its newest backup of the volume, None for any.
    :ivar options: those that count here, by their places of argparse.
    """

    plan: VolumePlan
    conditions: Conditions
    target: str = ""
    destination: Destination | None = None
    max_age: timedelta | None = None
    options: Options = EMPTY

    @property
    def location(self) -> Location:
        return self.destination.location if self.destination else self.plan.job.source

    @property
    def source(self) -> Location:
        """Return the source of the volume."""
        return self.plan.job.source

    @property
    def ssh(self) -> SshOptions:
        """Return how it is reached."""
        return self.destination.ssh if self.destination else self.plan.job.ssh

    @property
    def folder(self) -> str:
        """Return where the snapshots of a source are; "" for a target."""
        return "" if self.destination else self.plan.job.snapshot_folder

    @property
    def keep(self) -> Policy | None:
        """Return the policy for its snapshots or backups; None to keep all."""
        destination = self.destination
        return destination.keep if destination else self.plan.job.keep_source


def configured_places(
    configuration: Configuration, given: Mapping[str, Any] = EMPTY
) -> list[ConfiguredPlace]:
    """Return each source, followed by its targets, in the order of the file.

    Two volumes may go to one place: see :func:`distinct`. Commands (shell://) are left
    out, as they cannot be looked at.

    :param given: options of the call, by their places of argparse; they count first.
    :raises UsageError: if the configuration makes no sense.
    """
    plans = plan_volumes(configuration, given)
    return [place for plan in plans for place in _places(plan)]


def _places(plan: VolumePlan) -> Iterator[ConfiguredPlace]:
    yield ConfiguredPlace(
        plan, plan.conditions, max_age=plan.max_age, options=plan.options
    )
    for target, destination in zip(plan.targets, plan.job.destinations):
        if not destination.location.is_command:
            yield ConfiguredPlace(
                plan,
                target.conditions,
                target.name,
                destination,
                target.max_age,
                target.options,
            )


def find_configured(
    options: argparse.Namespace, parser: Parser, words: Sequence[str]
) -> list[ConfiguredPlace]:
    """Return the configured places for a call that names none.

    :param parser: of the command, with ``--config``; it is of no use afterwards.
    :param words: of the call, which the parser could read.
    :returns: nothing if no configuration is named, and the user has none.
    :raises UsageError: if the configuration cannot be read, or makes no sense.
    :raises Refused: if other users can change it.
    """
    path = configuration_path(options.config)
    if not (options.config or os.path.lexists(path)):
        return []
    return configured_places(read_configuration(path), given_options(parser, words))


def distinct(places: Sequence[ConfiguredPlace]) -> list[ConfiguredPlace]:
    """Return each place once; one that is a source and a target, as the source."""
    found = {place.location: place for place in places}
    found |= {place.location: place for place in places if not place.destination}
    return list(found.values())


def ssh_at(places: Sequence[ConfiguredPlace]) -> dict[Location, SshOptions]:
    """Return how each place, and the source of each, is reached, for a session."""
    sources = {place.source: place.plan.job.ssh for place in places}
    return {place.location: place.ssh for place in places} | sources


def find_absent(
    places: Sequence[ConfiguredPlace], session: Session, output: Output
) -> tuple[set[Location], dict[str, BackupError]]:
    """Find the places that do not meet their conditions.

    :returns: those that are away and need not be there, each of which costs a line;
        and those that must not be used, each with the reason.
    """
    away, refused = set[Location](), dict[str, BackupError]()
    for place in distinct(places):
        conditions = replace(place.conditions, min_free=None)
        checks = place.destination.checks if place.destination else Checks.AUTO
        name = str(place.location)
        try:
            ssh = session.ssh_at.get(place.location, place.ssh)
            check_place(place.location, conditions, ssh, session, checks)
        except Unmet as unmet:
            output.tell(Noted(name, Level.INFO, f"{visible(name)}: {unmet}"))
            away.add(place.location)
        except Refused as error:
            refused[name] = error
    return away, refused
