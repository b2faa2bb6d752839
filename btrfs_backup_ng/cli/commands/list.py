"""The ``list`` verb: places -> their snapshots and backups -> lines or a document."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from uuid import UUID

from btrfs_backup_ng.__util__ import BackupError, format_size, visible
from btrfs_backup_ng.cli import wording
from btrfs_backup_ng.cli.call import Call, run_command
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
    read_options,
    remembered,
)
from btrfs_backup_ng.cli.session import open_session
from btrfs_backup_ng.cli.ssh_options import add_ssh
from btrfs_backup_ng.cli.table import table
from btrfs_backup_ng.cli.views import PlacesReport, SnapshotView, view_broken, view_kept
from btrfs_backup_ng.core.document import Inline
from btrfs_backup_ng.core.events import Tally, exit_status
from btrfs_backup_ng.core.model import Role, Waiting
from btrfs_backup_ng.host.common import NeedsRoot
from btrfs_backup_ng.place.contents import Contents, Kept, State, look_at_all
from btrfs_backup_ng.place.relations import Relation, foresee_all, relate
from btrfs_backup_ng.place.verified import Verified
from btrfs_backup_ng.session.history import sizes_sent

_EPILOG = f"""\
{EPILOG_PLACES}
Without a place, it lists those on record on this machine, and the destinations that
sources know of.

states:
  complete  can be restored, and be the parent of a transfer
  foreign  was not made by this program, which never deletes it
  changed  was written to after it was made
  damaged  named like one of our snapshots but is not one (with the reason)
  waiting  an interrupted transfer, which will resume; shows how much is already there
  running  a transfer that is under way

relations:
  also at  the same snapshot is at another place of this call
  parent of the next transfer  the next backup between these places is the difference
    to it; "perhaps" if that depends on the prefix (-p) or on a transfer under way
  on record as parent  the same for a place that is not part of this call, as recorded
    at the source when it was last seen

Each line has the name, age, time, size of the stream that brought it (if on record),
state, the last verification, and relations; the oldest comes first.

exit status:
  0  all places were listed
  1  none was listed
  2  usage error
  4  needs root
  10  some places were listed
"""

_LONG_AGO = datetime.min.replace(tzinfo=timezone.utc)


def main(words: Sequence[str]) -> int:
    """List places."""
    parser = build_parser()
    return run_command(
        "list", words, parser, read_options, _run, JobFiles(parser).expand
    )


def build_parser() -> Parser:
    """Return the parser of the words."""
    parser = new_parser(
        "list",
        usage="[options] [PLACE ...]",
        description="List the snapshots and backups at places, and interrupted"
        " transfers. Changes nothing.",
        epilog=_EPILOG,
    )
    add_folder(parser)
    add_ssh(parser)
    add_display(parser)
    return parser


@dataclass(frozen=True, slots=True)
class ListedSnapshot:
    """A snapshot or backup, as it is listed.

    :ivar size_bytes: of the stream that brought it.
    :ivar source: of a backup, where several sources have backups with that prefix.
    """

    snapshot: Inline[SnapshotView]
    size_bytes: int | None = None
    source: str | None = None
    relation: Inline[Relation] = Relation()
    verified: Verified | None = None


@dataclass(frozen=True, slots=True)
class ListedPlace:
    """A place, as it is listed."""

    place: str
    snapshots: tuple[ListedSnapshot, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    error: BackupError | None = None


def _run(options: PlacesOptions, call: Call) -> int:
    records = remembered(needed=not options.places)
    places = named_or_known(options.places, options.folder, records, call.sudo_line)
    with open_session(call, options.ssh, options.folder) as session:
        seen = look_at_all(places, session, follow=not options.places)
        listed = _listed(seen, sizes_sent(records), call.now)
    output, tally = Output(call), Tally()
    for place in listed:
        if place.error:
            status = output.fail(place.place, place.error, _status_of(place.error))
            tally.add(Tally(failures=(status,)))
        else:
            tally.add(Tally(done=1))
            _show(place, output, call.now)
    return output.finish(exit_status([tally]), PlacesReport(listed))


def _status_of(error: BackupError) -> int:
    return error.exit_status if isinstance(error, NeedsRoot) else 1


def _listed(
    seen: Mapping[str, Contents | BackupError],
    sizes: Mapping[tuple[str, UUID], int],
    now: datetime,
) -> tuple[ListedPlace, ...]:
    looked = {p: c for p, c in seen.items() if not isinstance(c, BackupError)}
    relation = relate(looked, foresee_all(looked, now))

    def listed_kept(place: str, kept: Kept) -> ListedSnapshot:
        snapshot = kept.snapshot
        return ListedSnapshot(
            view_kept(kept),
            sizes.get((place, snapshot.origin)),
            _source(looked[place], kept),
            relation(place, snapshot),
            looked[place].verified.get(snapshot.uuid),
        )

    def listed(place: str, contents: Contents | BackupError) -> ListedPlace:
        if isinstance(contents, BackupError):
            return ListedPlace(place, error=contents)
        kept = [listed_kept(place, kept) for kept in contents.kept]
        kept += [ListedSnapshot(view_broken(b)) for b in contents.broken]
        return ListedPlace(place, tuple(kept), tuple(contents.waiting))

    return tuple(listed(*each) for each in seen.items())


def _source(contents: Contents, kept: Kept) -> str | None:
    if not contents.has_several(kept):
        return None
    return contents.owner_of(kept) or "an unknown source"


def _show(place: ListedPlace, output: Output, now: datetime) -> None:
    counts = ", ".join(_counts(place)) or "nothing yet"
    output.about(place.place, counts)
    states = [one for one in place.snapshots if one.snapshot.uuid]
    with_kind = len({one.snapshot.kind for one in states}) > 1
    snapshots = sorted(
        place.snapshots, key=lambda one: one.snapshot.created or _LONG_AGO
    )
    rows = [_snapshot_row(one, with_kind, now) for one in snapshots]
    rows += [_transfer_row(one, now) for one in place.waiting]
    if not any(size for *_, size, _ in rows):
        rows = [(*front, words) for *front, _, words in rows]
    for line in table(rows, 2):
        output.line(line)


def _counts(place: ListedPlace) -> Iterator[str]:
    """Write how much is there: snapshots and backups, and all that needs a look."""
    kinds = [one.snapshot.kind for one in place.snapshots if one.snapshot.uuid]
    for kind in Role:
        if kind in kinds:
            yield wording.count(kind, kinds.count(kind))
    damaged = sum(one.snapshot.state is State.DAMAGED for one in place.snapshots)
    running = sum(one.running for one in place.waiting)
    for number, words in (
        (damaged, "damaged"),
        (len(place.waiting) - running, "waiting to go on"),
        (running, "running"),
    ):
        if number:
            yield f"{number} {words}"


def _snapshot_row(
    listed: ListedSnapshot, with_kind: bool, now: datetime
) -> tuple[str, ...]:
    snapshot, size = listed.snapshot, listed.size_bytes
    words = (
        snapshot.kind.value if with_kind else "",
        f"of {visible(listed.source)}" if listed.source else "",
        wording.state(snapshot),
        wording.verified(listed.verified, now),
        wording.relation(listed.relation, snapshot.kind),
    )
    return (
        visible(snapshot.name),
        wording.age(snapshot.created, now),
        wording.exact(snapshot.created),
        "" if size is None else format_size(size),
        ", ".join(filter(None, words)),
    )


def _transfer_row(transfer: Waiting, now: datetime) -> tuple[str, ...]:
    word = "running" if transfer.running else "waiting"
    return (
        wording.name(transfer),
        wording.age(transfer.started, now),
        wording.exact(transfer.started),
        "",
        f"{word}, {wording.safe(transfer)}, id {transfer.transfer_id}",
    )
