"""The ``list`` verb: places -> their snapshots and backups -> lines or a document."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from uuid import UUID

from btrfs_backup_ng.__util__ import BackupError, format_size, visible
from btrfs_backup_ng.cli import wording
from btrfs_backup_ng.cli.call import Call, run_command
from btrfs_backup_ng.cli.config.options import EPILOG_FILE, add_config
from btrfs_backup_ng.cli.job_files import JobFiles
from btrfs_backup_ng.cli.output import Output
from btrfs_backup_ng.cli.parser import (
    EPILOG_PLACES,
    Parser,
    add_display,
    add_folder,
    new_parser,
)
from btrfs_backup_ng.cli.places import (
    PlacesOptions,
    named_or_known,
    read_configured,
    read_options,
)
from btrfs_backup_ng.cli.session import open_session
from btrfs_backup_ng.cli.ssh_options import add_ssh
from btrfs_backup_ng.cli.stdout import trouble
from btrfs_backup_ng.cli.table import ALL, Cell, Column, table
from btrfs_backup_ng.cli.views import PlacesReport, SnapshotView, view_broken, view_kept
from btrfs_backup_ng.core.document import Inline
from btrfs_backup_ng.core.events import Tally, exit_status
from btrfs_backup_ng.core.model import Result, Role, Waiting
from btrfs_backup_ng.core.naming import prefix_in
from btrfs_backup_ng.core.value import Value, replace
from btrfs_backup_ng.host.common import NeedsRoot
from btrfs_backup_ng.place.contents import (
    Contents,
    Kept,
    State,
    forget_hint,
    look_at_all,
    new_paths,
)
from btrfs_backup_ng.place.relations import Relation, foresee_all, relate
from btrfs_backup_ng.place.space import Space, weigh
from btrfs_backup_ng.place.verified import Verified
from btrfs_backup_ng.session.history import Record, known_places, remembered, sizes_sent
from btrfs_backup_ng.session.session import Session

_EPILOG = f"""\
{EPILOG_PLACES}
Without a place, it lists those of the configuration; if there is none, those on record
on this machine, and the destinations that sources know of.

columns:
  AGE  since it was made; the oldest comes first
  NAME  of the snapshot
  KIND  snapshot or backup, where a place has both
  SOURCE  of a backup, where several sources have backups with that prefix
  TIME  when it was made
  SENT  size of the stream that brought it (if on record)
  HOLDS  with --size: all the data in it, shared or not
  FREES  with --size: the least that deleting it frees, as prune measures it
  ID  with -v: UUID of a snapshot, id of a transfer
  STATE  then the last verification, and the relations

The last line of a place has the sums of SENT and FREES. On a narrow terminal TIME, then
SENT, then KIND are left out, and dots stand for relations that do not fit; -v shows
them all.

states:
  complete  can be restored, and be the parent of a transfer
  foreign  was not made by this program, which never deletes it
  changed  was written to after it was made
  damaged  named like a backup of this program but is not one (with the reason)
  waiting  an interrupted transfer, which will resume; shows how much is already there
  running  a transfer that is under way

relations:
  also at  the same snapshot is at another place of this call
  parent of the next transfer  the next backup between these places is the difference
    to it; "perhaps" if that depends on the prefix (-p) or on a transfer under way
  on record as parent  the same for a place that is not part of this call, as recorded
    at the source when it was last seen

exit status:
  0  all places were listed
  1  none was listed
  2  usage error
  4  needs root
  10  some places were listed

{EPILOG_FILE}"""

#: The measuring of a place ends after so many seconds, unless more is asked for (-v).
_WEIGHING_S = "10"
_COLUMNS = (
    Column("AGE"),
    Column("NAME", is_name=True),
    Column("KIND", leaves=20),
    Column("SOURCE"),
    Column("TIME", leaves=ALL),
    Column("SENT", leaves=28, is_right=True),
    Column("HOLDS", is_right=True),
    Column("FREES", is_right=True),
    Column("ID"),
    Column("STATE"),
)
Row = tuple[Cell, ...]
_LONG_AGO = datetime.min.replace(tzinfo=timezone.utc)


def main(words: Sequence[str]) -> int:
    """List places."""
    parser = build_parser()
    expand = JobFiles(parser).expand

    def read_all(options: argparse.Namespace) -> ListOptions:
        return read(options, expand(words))

    return run_command("list", words, parser, read_all, _run, expand)


class ListOptions(Value):
    """The options of ``list``.

    :ivar is_latest: list only the newest complete one of each series.
    :ivar with_space: measure the space of each.
    """

    looking: PlacesOptions
    is_latest: bool
    with_space: bool


def read(options: argparse.Namespace, words: Sequence[str] = ()) -> ListOptions:
    """Return the options.

    :param words: of the call, expanded.
    :raises UsageError: if one place is a command, or the configuration has an error.
    """
    configured = read_configured(options, build_parser, words)
    looking = read_options(options, configured)
    return ListOptions(looking, options.latest, options.size)


def build_parser() -> Parser:
    """Return the parser of the words."""
    parser = new_parser(
        "list",
        usage="[options] [PLACE ...]",
        description="List the snapshots and backups at places, and interrupted"
        " transfers. Changes nothing.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--latest",
        action="store_true",
        help="list only the newest complete snapshot or backup of each prefix and"
        " source; transfers are always listed",
    )
    parser.add_argument(
        "--size",
        action="store_true",
        help="measure how much each holds, and how much deleting it frees: from quota"
        f" groups, or for up to {_WEIGHING_S} s a place, newest first (with -v: without"
        " a limit)",
    )
    add_config(parser)
    add_folder(parser)
    add_ssh(parser)
    add_display(parser)
    return parser


class ListedSnapshot(Value):
    """A snapshot or backup, as it is listed.

    :ivar size_bytes: of the stream that brought it.
    :ivar source: of a backup, where several sources have backups with that prefix.
    :ivar held_bytes: of all its data; None if that is not known, or not asked for.
    :ivar space_bytes: of these, those that nothing else uses.
    """

    snapshot: Inline[SnapshotView]
    size_bytes: int | None = None
    source: str | None = None
    relation: Inline[Relation] = Relation()
    verified: Verified | None = None
    held_bytes: int | None = None
    space_bytes: int | None = None


class ListedPlace(Value):
    """A place, as it is listed."""

    place: str
    snapshots: tuple[ListedSnapshot, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    error: BackupError | None = None


def _run(options: ListOptions, call: Call) -> int:
    looking, output, tally = options.looking, Output(call), Tally()
    records = remembered(needed=looking.are_known)
    with open_session(call, looking.ssh, looking.folder) as session:
        if looking.configured:
            seen = _look_at_configured(looking, session, output)
        else:
            places = named_or_known(
                looking.places, looking.folder, records, call.sudo_line
            )
            seen = look_at_all(places, session, follow=looking.are_known)
        if looking.are_known:
            seen = _without_renamed(seen, records)
        listed = tuple(_listed(seen, sizes_sent(records), options, call))
    for place in listed:
        if place.error:
            status = output.fail(place.place, place.error, _status_of(place.error))
            tally.add(Tally(failures=(status,)))
        else:
            tally.add(Tally(done=1))
            _show(place, output, call, is_latest=options.is_latest)
    return output.finish(exit_status([tally]), PlacesReport(listed))


def _look_at_configured(
    looking: PlacesOptions, session: Session, output: Output
) -> dict[str, Contents | BackupError]:
    """Look at the configured places; one that may be away, and is, costs a line."""
    from btrfs_backup_ng.cli.config import places  # here: only for these

    session = replace(session, ssh_at=places.ssh_at(looking.configured))
    away, refused = places.find_absent(looking.configured, session, output)
    left = [
        (one.location, one.folder)
        for one in places.distinct(looking.configured)
        if one.location not in away and str(one.location) not in refused
    ]
    return {**look_at_all(left, session), **refused}


def _without_renamed(
    seen: Mapping[str, Contents | BackupError], records: Sequence[Record]
) -> dict[str, Contents | BackupError]:
    """Leave out the old paths of sources; show how to forget places that are gone."""
    lost = {p: e for p, e in seen.items() if isinstance(e, BackupError)}
    made = {p: c.made_here for p, c in seen.items() if not isinstance(c, BackupError)}
    renamed = new_paths(lost, made, records)
    known = {one.place for one in known_places(records)}
    for place in known.intersection(lost):
        lost[place].hint = f"{lost[place].hint}\n{forget_hint(place)}".strip()
    return {place: one for place, one in seen.items() if place not in renamed}


def _status_of(error: BackupError) -> int:
    return error.exit_status if isinstance(error, NeedsRoot) else 1


def _listed(
    seen: Mapping[str, Contents | BackupError],
    sizes: Mapping[tuple[str, UUID], int],
    options: ListOptions,
    call: Call,
) -> Iterator[ListedPlace]:
    looked = {p: c for p, c in seen.items() if not isinstance(c, BackupError)}
    relation = relate(looked, foresee_all(looked, call.now))
    for place, contents in seen.items():
        if isinstance(contents, BackupError):
            yield ListedPlace(place, error=contents)
            continue
        kept = _latest(contents) if options.is_latest else contents.kept
        spaces = _spaces(contents, kept, call) if options.with_space else {}
        snapshots = []
        for one in kept:
            space = spaces.get(one.snapshot.uuid)
            view = ListedSnapshot(
                snapshot=view_kept(one),
                size_bytes=sizes.get((place, one.snapshot.origin)),
                source=_source(contents, one),
                relation=relation(place, one.snapshot),
                verified=contents.verified.get(one.snapshot.uuid),
                held_bytes=space.total_bytes if space else None,
                space_bytes=space.own_bytes if space else None,
            )
            snapshots.append(view)
        if not options.is_latest:
            snapshots += [ListedSnapshot(view_broken(b)) for b in contents.broken]
        yield ListedPlace(place, tuple(snapshots), tuple(contents.waiting))


def _latest(contents: Contents) -> tuple[Kept, ...]:
    """Return the newest complete snapshot or backup of each prefix and source."""
    newest = {
        (one.kind, prefix_in(one.snapshot.name), contents.owner_of(one)): one
        for one in contents.complete
    }
    return tuple(newest.values())


def _spaces(
    contents: Contents, kept: Sequence[Kept], call: Call
) -> Mapping[UUID, Space | None]:
    """Measure snapshots and backups, the newest first, within the limit of time."""
    found: dict[UUID, Space | None] = {}
    for seen in contents.seen:
        here = [k.snapshot for k in reversed(kept) if k.endpoint is seen.endpoint]
        spaces = weigh(seen, here, "all" if call.verbose else _WEIGHING_S)
        found.update(zip((one.uuid for one in here), spaces, strict=True))
    return found


def _source(contents: Contents, kept: Kept) -> str | None:
    if not contents.has_several(kept):
        return None
    return contents.owner_of(kept) or "an unknown source"


def _show(place: ListedPlace, output: Output, call: Call, *, is_latest: bool) -> None:
    counts = ", ".join(_counts(place)) or "nothing yet"
    output.about(place.place, f"latest: {counts}" if is_latest else counts)
    if not output.has_lines:
        return
    states = [one for one in place.snapshots if one.snapshot.uuid]
    with_kind = len({one.snapshot.kind for one in states}) > 1
    snapshots = sorted(
        place.snapshots, key=lambda one: one.snapshot.created or _LONG_AGO
    )
    rows = [_snapshot_row(one, with_kind, call) for one in snapshots]
    rows += [_transfer_row(one, call) for one in place.waiting]
    for line in table(rows, 2, _COLUMNS, clips=not call.verbose):
        output.line(line)
    sums = ", ".join(_sums(place))
    if sums and len(rows) > 1:
        output.line(f"  sum: {sums}", 4)


def _counts(place: ListedPlace) -> Iterator[str]:
    """Return the counts: snapshots and backups, and all that needs a look."""
    kinds = [one.snapshot.kind for one in place.snapshots if one.snapshot.uuid]
    for kind in Role:
        if kind in kinds:
            yield wording.count(kind, kinds.count(kind))
    damaged = sum(one.snapshot.state is State.DAMAGED for one in place.snapshots)
    running = sum(one.running for one in place.waiting)
    for number, words in (
        (damaged, "damaged"),
        (len(place.waiting) - running, "waiting to resume"),
        (running, "running"),
    ):
        if number:
            yield f"{number} {words}"


def _snapshot_row(listed: ListedSnapshot, with_kind: bool, call: Call) -> Row:
    snapshot = listed.snapshot
    state = wording.state(snapshot)
    verified = wording.verified(listed.verified, call.now)
    words = [verified, *wording.relations(listed.relation, snapshot.kind)]
    if listed.verified and listed.verified.result is Result.BAD:
        state, *words = f"{state}, {verified}", *words[1:]
    age = wording.age(snapshot.created, call.now)
    return (
        trouble(age) if age == wording.FUTURE else age,
        visible(snapshot.name),
        snapshot.kind.value if with_kind else "",
        visible(listed.source or ""),
        wording.exact(snapshot.created),
        _size(listed.size_bytes),
        _size(listed.held_bytes),
        _size(listed.space_bytes),
        str(snapshot.uuid) if call.verbose and snapshot.uuid else "",
        (state, *filter(None, words)),
    )


def _transfer_row(transfer: Waiting, call: Call) -> Row:
    word = "running" if transfer.running else "waiting"
    return (
        wording.age(transfer.started, call.now),
        wording.name(transfer),
        "",
        "",
        wording.exact(transfer.started),
        *("", "", ""),
        transfer.transfer_id if call.verbose else "",
        f"{word}, {wording.safe(transfer)}",
    )


def _sums(place: ListedPlace) -> Iterator[str]:
    """Write the sums of the sizes that are known."""
    number = len(place.snapshots)
    for words, sizes in (
        ("{} sent", [one.size_bytes for one in place.snapshots]),
        ("deleting all frees {} or more", [one.space_bytes for one in place.snapshots]),
    ):
        known = [size for size in sizes if size is not None]
        of = "" if len(known) == number else f" (known of {len(known)} of {number})"
        if known:
            yield words.format(format_size(sum(known))) + of


def _size(size_bytes: int | None) -> str:
    return "" if size_bytes is None else format_size(size_bytes)
