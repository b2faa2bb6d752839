"""Own the ``list`` verb: places -> what they keep -> lines or a document."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial

from btrfs_backup_ng.__util__ import BackupError, attempt, visible
from btrfs_backup_ng.cli import tell
from btrfs_backup_ng.cli.layout import table, wrapped
from btrfs_backup_ng.cli.output import print_line, tell_failure
from btrfs_backup_ng.cli.parser import Parser, add_display
from btrfs_backup_ng.cli.sshopts import add_ssh
from btrfs_backup_ng.cli.verb import (
    access,
    new_parser,
    print_document,
    read_keepers,
    read_words,
)
from btrfs_backup_ng.listing import (
    Access,
    Contents,
    Kind,
    open_place,
    read_contents,
)
from btrfs_backup_ng.location import Location
from btrfs_backup_ng.model import Waiting
from btrfs_backup_ng.report import Failed, Tally, exit_status

EPILOG_PLACES = """\
places:
  /path, ssh://[user@]host[:port]/path   a source, a destination, or both
"""
_EPILOG = f"""\
{EPILOG_PLACES}
each line, oldest first:
  name, age, time, and one of
  complete   can be restored, and serves as parent
  foreign    was not received, or is not named by us; never deleted by us
  changed    somebody wrote to it after it was made
  waiting    a transfer that was cut, and how much of it need not be sent again
  running    a transfer that somebody works on
  and how it was verified last, and when

exit status:
  0 all places were listed   10 some were   1 none was   2 usage
"""


def main(words: Sequence[str]) -> int:
    """List places, one after the other.

    :raises UsageError: if the words do not make sense.
    """
    options = read_words(_parser(), words)
    if options is None:
        return 0
    places, now = read_keepers(options), datetime.now().astimezone()
    tally, found = Tally(), []
    with access(options, options.snapshot_folder, "list", words) as way:
        for place in places:
            contents = attempt(partial(_look, place, way))
            if isinstance(contents, BackupError):
                tally.add(Tally(failures=(1,)))
                tell_failure(Failed(str(place), contents.message, contents.hint, 1))
            else:
                tally.add(Tally(done=1))
                if not options.json and not options.quiet:
                    print_line("\n".join(_lines(str(place), contents, now)))
            found.append(_fields(str(place), contents, now) if options.json else {})
    status = exit_status([tally])
    if options.json:
        print_document(status, found)
    return status


def _parser() -> Parser:
    parser = new_parser(
        "list",
        usage="[options] PLACE ...",
        description="List the snapshots and backups at places, and the transfers that"
        " wait to go on.\nNothing is changed.",
        epilog=_EPILOG,
    )
    add_folder(parser)
    add_ssh(parser)
    add_display(parser)
    return parser


def add_folder(parser: Parser) -> None:
    """Add the option that says where a source's snapshots are."""
    parser.add_argument(
        "-f",
        "--snapshot-folder",
        metavar="DIR",
        default=".btrfs-backup-ng/snapshots",
        help="where snapshots are kept, relative to the source or absolute"
        " (default: %(default)s)",
    )


def _look(location: Location, way: Access) -> Contents:
    return read_contents(open_place(location, way), way)


def _lines(place: str, contents: Contents, now: datetime) -> Iterator[str]:
    kinds = [kept.kind for kept in contents.kept]
    counts = [tell.count(kind, kinds.count(kind)) for kind in Kind if kind in kinds]
    if contents.waiting:
        cut = sum(not transfer.running for transfer in contents.waiting)
        running = len(contents.waiting) - cut
        counts += [f"{cut} waiting to go on"] if cut else []
        counts += [f"{running} running"] if running else []
    yield from wrapped(f"{visible(place)}: {', '.join(counts) or 'nothing yet'}", 2)
    both = len(set(kinds)) > 1
    rows = []
    for kept in contents.kept:
        made, kind = kept.snapshot.created, f"{kept.kind.value}, " if both else ""
        words = kind + tell.state(kept)
        seen = tell.verified(contents.verified.get(kept.snapshot.uuid), now)
        words += f", {seen}" if seen else ""
        row = (visible(kept.snapshot.name), tell.age(made, now), tell.exact(made))
        rows.append((*row, words))
    rows += [_waiting_row(transfer, now) for transfer in contents.waiting]
    yield from table(rows, 2)


def _waiting_row(transfer: Waiting, now: datetime) -> tuple[str, str, str, str]:
    began = transfer.started
    word = "running" if transfer.running else "waiting"
    words = f"{word}, {tell.safe(transfer)}, id {transfer.transfer_id}"
    return tell.name(transfer), tell.age(began, now), tell.exact(began), words


def _fields(
    place: str, contents: Contents | BackupError, now: datetime
) -> dict[str, object]:
    if isinstance(contents, BackupError):
        error = tell.error_fields(contents)
        return {"place": place, "snapshots": [], "waiting": [], "error": error}
    return {
        "place": place,
        "snapshots": [
            tell.kept_fields(kept, now)
            | tell.verified_fields(contents.verified.get(kept.snapshot.uuid), now)
            for kept in contents.kept
        ],
        "waiting": [tell.waiting_fields(one, now) for one in contents.waiting],
        "error": None,
    }
