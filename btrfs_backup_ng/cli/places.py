"""Places that a call names, or the configuration, or the history of this machine."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__util__ import UsageError, visible
from btrfs_backup_ng.cli import values
from btrfs_backup_ng.cli.parser import FOLDER, Parser
from btrfs_backup_ng.cli.ssh_options import read_ssh
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import SshOptions
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.host.common import NeedsRoot
from btrfs_backup_ng.place.contents import places_in
from btrfs_backup_ng.session.history import Record, hidden_directory, known_places

if TYPE_CHECKING:
    from btrfs_backup_ng.cli.config.places import ConfiguredPlace

log = logging.getLogger(__name__)


class PlacesOptions(Value):
    """The options of a command that looks at places.

    :ivar places: that the call names.
    :ivar folder: of a source's snapshots.
    :ivar configured: the places, if the call names none.
    """

    places: tuple[Location, ...]
    folder: str
    ssh: SshOptions
    configured: tuple[ConfiguredPlace, ...] = ()

    @property
    def are_known(self) -> bool:
        """Return whether the places are those of the history."""
        return not (self.places or self.configured)


def read_options(
    options: argparse.Namespace, configured: tuple[ConfiguredPlace, ...] = ()
) -> PlacesOptions:
    """Return the options.

    :param configured: the places, as :func:`read_configured` returns them.
    :raises UsageError: if one place is a command.
    """
    places = read_places(options.places)
    folder, ssh = options.snapshot_folder, read_ssh(options)
    return PlacesOptions(places, folder, ssh, configured)


def read_configured(
    options: argparse.Namespace, build: Callable[[], Parser], words: Sequence[str]
) -> tuple[ConfiguredPlace, ...]:
    """Return the places of the configuration, if the call names none.

    :param build: builds the parser of the command, with ``--config``.
    :param words: of the call, expanded.
    :raises UsageError: if the configuration has an error, or both are named.
    """
    if options.places:
        if options.config:
            raise UsageError(
                "-c names all places of a configuration, so no other can be named"
            )
        return ()
    from btrfs_backup_ng.cli.config.places import find_configured  # here: it is large

    return tuple(find_configured(options, build(), words))


def need_places(words: Sequence[str], verb: str) -> None:
    """Check that a place is named.

    :raises UsageError: if not.
    """
    if not words:
        raise UsageError("no place given", hint=f"See:  {PROGRAM} {verb} --help")


def read_place(word: str) -> Location:
    """Return the place that a word names, which must not be a command.

    :raises UsageError: if it is a command.
    """
    place = values.location(word)
    if place.is_command:
        raise UsageError("shell:// destinations cannot be listed")
    return place


def read_places(words: Sequence[str]) -> tuple[Location, ...]:
    """Return the places that words name, each of which must not be a command.

    :raises UsageError: if one is a command.
    """
    return tuple(map(read_place, words))


def named_or_known(
    named: Sequence[Location],
    folder: str,
    records: Sequence[Record],
    sudo_line: str,
) -> list[tuple[Location, str]]:
    """Return the places that are named, or else those that the history knows.

    :param sudo_line: the command that runs the same as root.
    :returns: each with the folder of its snapshots.
    :raises UsageError: if none is named and none is known.
    :raises NeedsRoot: if none is named, and only root's record can know some.
    """
    if named:
        return [(place, folder) for place in named]
    known = places_in(records, "" if folder == FOLDER else folder)
    hidden = hidden_directory()
    if hidden and known:
        log.warning("root's record in %s cannot be read, and is left out", hidden)
    if hidden and not known:
        raise NeedsRoot(
            f"no place given, and root's record in {hidden} cannot be read: that"
            " needs root",
            hint=f"Run:  {sudo_line}     Or name places:  /path, ssh://host/path",
        )
    if not known:
        raise UsageError(
            "no place given, and no backup of this machine is on record yet",
            hint="Name places:  /path, ssh://[user@]host[:port]/path",
        )
    return [(place, recorded or folder) for place, recorded in known]


def need_on_record(place: str, records: Sequence[Record]) -> None:
    """Check that a place is in the history.

    :raises UsageError: if not.
    """
    known = [one.place for one in known_places(records)]
    if place not in known:
        raise UsageError(
            f"nothing about {visible(place)} is on record on this machine",
            hint=f"On record are:  {visible(', '.join(known))}" if known else "",
        )


def recorded_folder(folder: str, records: Sequence[Record]) -> str:
    """Return where a source's snapshots are: the given folder, else as recorded.

    :param records: of that source.
    """
    return records[-1].folder if records and folder == FOLDER else folder
