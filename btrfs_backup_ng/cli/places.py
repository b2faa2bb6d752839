"""What the verbs about places have in common: how their words are read."""

import argparse
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from btrfs_backup_ng.__logger__ import PROGRAM, set_up_logging
from btrfs_backup_ng.__util__ import BackupError, UsageError, attempt
from btrfs_backup_ng.cli.argv import expand
from btrfs_backup_ng.cli.output import print_line
from btrfs_backup_ng.cli.parser import Parser, display_level, parse_places
from btrfs_backup_ng.cli.ssh_options import ssh_options
from btrfs_backup_ng.cli.sudo import sudo_line
from btrfs_backup_ng.cli.version import version_text
from btrfs_backup_ng.core.location import Location, parse_location
from btrfs_backup_ng.endpoint.ssh import Connections
from btrfs_backup_ng.host.clock import read_clock
from btrfs_backup_ng.place.contents import places_in
from btrfs_backup_ng.session.history import Record, read_history, state_directory
from btrfs_backup_ng.session.progress import Progress
from btrfs_backup_ng.session.session import Session

log = logging.getLogger(__name__)

#: The part of an epilog that says what a place is.
EPILOG_PLACES = """\
places:
  /path, ssh://[user@]host[:port]/path   a source, a destination, or both
"""
#: Where the snapshots of a source are, unless it is said.
FOLDER = ".btrfs-backup-ng/snapshots"


def new_parser(verb: str, *, usage: str, description: str, epilog: str) -> Parser:
    """Make the parser of a verb that takes places, without further options."""
    parser = Parser(
        prog=f"{PROGRAM} {verb}",
        usage=f"%(prog)s {usage}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("places", nargs="*", metavar="PLACE", help=argparse.SUPPRESS)
    return parser


def read_words(
    parser: Parser, words: Sequence[str], *, needs_place: bool = True
) -> argparse.Namespace | None:
    """Read the words behind a verb, and set up the log.

    :param needs_place: whether places have to be named.
    :returns: the options; ``None`` if only the version was wanted, which is told.
    :raises UsageError: if they do not make sense, or a place is needed and missing.
    """
    options = parse_places(parser, expand(words))
    set_up_logging(display_level([options]))
    if options.version:
        print_line(version_text(detailed=bool(options.verbose)))
        return None
    if needs_place and not options.places:
        raise UsageError("a place is missing", hint=f"See:  {parser.prog} --help")
    return options


def read_places(options: argparse.Namespace) -> list[Location]:
    """Return the places."""
    directory = os.getcwd()
    return [parse_location(p, working_directory=directory) for p in options.places]


def add_folder(parser: Parser) -> None:
    """Add the option that says where a source's snapshots are."""
    parser.add_argument(
        "-f",
        "--snapshot-folder",
        metavar="DIR",
        default=FOLDER,
        help="where snapshots are kept, relative to the source or absolute"
        " (default: %(default)s)",
    )


def remembered(*, needed: bool = False) -> list[Record]:
    """Read what happened on this machine.

    :param needed: without it the verb cannot do what was asked for.
    :raises HistoryUnreadable: if that is so, and it cannot be read.
    """
    found = attempt(lambda: read_history(state_directory()))
    if not isinstance(found, BackupError):
        return found
    if needed:
        raise found
    log.info("%s", found.message)
    return []


def wanted_places(
    options: argparse.Namespace, records: Sequence[Record]
) -> list[tuple[Location, str]]:
    """Return the places that are named, or those that the history knows.

    :returns: each with the folder of its snapshots, "" for that of the options.
    :raises UsageError: if none is named and none is known, or one is a command.
    """
    if options.places:
        return [(place, "") for place in read_keepers(options)]
    folder = options.snapshot_folder
    known = places_in(records, "" if folder == FOLDER else folder)
    if not known:
        raise UsageError(
            "a place is missing, and no backup of this machine is on record yet",
            hint="Name places:  /path, ssh://[user@]host[:port]/path",
        )
    return known


def recorded_folder(options: argparse.Namespace, records: Sequence[Record]) -> str:
    """Return where a source's snapshots are: as the options say, else as recorded.

    :param records: of that source.
    """
    folder: str = options.snapshot_folder
    return records[-1].folder if records and folder == FOLDER else folder


def read_keepers(options: argparse.Namespace) -> list[Location]:
    """Return the places, all of which can be looked at.

    :raises UsageError: if one of them is a command.
    """
    places = read_places(options)
    if any(place.is_command for place in places):
        raise UsageError("a command (shell://) tells nobody what it keeps")
    return places


def print_document(status: int, places: Sequence[object]) -> None:
    """Print what ``--json`` asks for: the exit status, and the fields of each place."""
    document = {"version": 1, "exit_status": status, "places": places}
    print_line(json.dumps(document, indent=1))


@contextmanager
def open_session(
    options: argparse.Namespace, folder: str, verb: str, words: Sequence[str]
) -> Iterator[Session]:
    """Return the session of a command; its connections end with the context.

    :param folder: where a source's snapshots are.
    :param words: all those behind the verb.
    """
    with Connections() as connections:
        clock = read_clock()
        yield Session(
            now=clock.now,
            connections=connections,
            sudo_line=sudo_line([verb, *words]),
            progress=Progress(enabled_line=False, silent=True),
            ssh=ssh_options(options),
            folder=folder,
            is_synchronised=clock.is_synchronised,
        )
