"""The ``list`` verb: places -> what they keep -> lines or a document."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from uuid import UUID

from btrfs_backup_ng.__util__ import (
    BackupError,
    format_size,
    visible,
)
from btrfs_backup_ng.cli import text as tell
from btrfs_backup_ng.cli.output import print_line, tell_failure
from btrfs_backup_ng.cli.parser import Parser, add_display
from btrfs_backup_ng.cli.places import (
    EPILOG_PLACES,
    add_folder,
    new_parser,
    open_session,
    print_document,
    read_words,
    remembered,
    wanted_places,
)
from btrfs_backup_ng.cli.ssh_options import add_ssh
from btrfs_backup_ng.cli.table import table, wrapped
from btrfs_backup_ng.core.events import Failed, Tally, exit_status
from btrfs_backup_ng.core.model import Role, Waiting
from btrfs_backup_ng.place.contents import (
    Broken,
    Contents,
    Kept,
    State,
    look_at_all,
)
from btrfs_backup_ng.place.relations import Relation, foresee_all, relate
from btrfs_backup_ng.session.history import sizes_sent

_EPILOG = f"""\
{EPILOG_PLACES}
  Without any: those that are on record on this machine, and the destinations that
  sources know of.
each line, oldest first:
  name, age, time, size of the stream that brought it (if that is on record), state:
  complete   can be restored, and serves as parent
  foreign    was not received, or is not named by us; never deleted by us
  changed    somebody wrote to it after it was made
  damaged    has a name of ours, and is not what stands under such a name; and why
  waiting    a transfer that was cut, and how much of it need not be sent again
  running    a transfer that somebody works on
  and how it was verified last, and when; and what it is to other places:
  also at    the same snapshot is at another place of this call
  parent of the next transfer     a backup between these places would start from it now;
             "perhaps" if that depends on the prefix (-p), or on what is on its way
  on record as parent ...         the same of a place that is not looked at in this
             call, as recorded at the source when it was seen last

exit status:
  0 all places were listed   10 some were   1 none was   2 usage
"""

_LONG_AGO = datetime.min.replace(tzinfo=timezone.utc)


def main(words: Sequence[str]) -> int:
    """List places, one after the other.

    :raises UsageError: if the words do not make sense.
    """
    options = read_words(_parser(), words, needs_place=False)
    if options is None:
        return 0
    records = remembered(needed=not options.places)
    places, now = wanted_places(options, records), datetime.now().astimezone()
    with open_session(options, options.snapshot_folder, "list", words) as way:
        seen = look_at_all(places, way, follow=not options.places)
        told = _Told(seen, sizes_sent(records), now)
    tally = Tally()
    for place, contents in seen.items():
        if isinstance(contents, BackupError):
            tally.add(Tally(failures=(1,)))
            tell_failure(Failed(place, contents.message, contents.hint, 1))
            continue
        tally.add(Tally(done=1))
        if not options.json and not options.quiet:
            print_line("\n".join(told.lines(place, contents)))
    status = exit_status([tally])
    if options.json:
        print_document(status, [told.fields(*each) for each in seen.items()])
    return status


def _parser() -> Parser:
    parser = new_parser(
        "list",
        usage="[options] [PLACE ...]",
        description="List the snapshots and backups at places, and the transfers that"
        " wait to go on.\nNothing is changed.",
        epilog=_EPILOG,
    )
    add_folder(parser)
    add_ssh(parser)
    add_display(parser)
    return parser


class _Told:
    """How all that was seen is told."""

    def __init__(
        self,
        seen: Mapping[str, Contents | BackupError],
        sizes: Mapping[tuple[str, UUID], int],
        now: datetime,
    ) -> None:
        looked = {p: c for p, c in seen.items() if not isinstance(c, BackupError)}
        self._relation = relate(looked, foresee_all(looked, now))
        self._sizes = sizes
        self._now = now

    def lines(self, place: str, contents: Contents) -> Iterator[str]:
        """Return the lines of a place."""
        told = ", ".join(_counts(contents)) or "nothing yet"
        yield from wrapped(f"{visible(place)}: {told}", 2)
        both = len({kept.kind for kept in contents.kept}) > 1
        rows = [self._row(place, contents, kept, both) for kept in contents.kept]
        rows += [self._broken_row(broken, both) for broken in contents.broken]
        rows.sort(key=lambda row: row[0])
        cells = [row for _, row in rows]
        cells += [self._waiting_row(transfer) for transfer in contents.waiting]
        if not any(size for *_, size, _ in cells):
            cells = [(*front, words) for *front, _, words in cells]
        yield from table(cells, 2)

    def _row(
        self, place: str, contents: Contents, kept: Kept, both: bool
    ) -> tuple[datetime, tuple[str, ...]]:
        snapshot = kept.snapshot
        size = self._size(place, kept)
        relation = tell.relation(self._relation(place, snapshot), kept.kind)
        words = [f"{kept.kind.value}"] if both else []
        seen = tell.verified(contents.verified.get(snapshot.uuid), self._now)
        words += [word for word in (tell.state(kept), seen, relation) if word]
        shown = "" if size is None else format_size(size)
        row = self._dated(visible(snapshot.name), snapshot.created)
        return snapshot.created or _LONG_AGO, (*row, shown, ", ".join(words))

    def _broken_row(
        self, broken: Broken, both: bool
    ) -> tuple[datetime, tuple[str, ...]]:
        kind = f"{broken.kind.value}, " if both else ""
        words = f"{kind}{State.DAMAGED.value} ({broken.why})"
        row = self._dated(visible(broken.name), broken.created)
        return broken.created, (*row, "", words)

    def _waiting_row(self, transfer: Waiting) -> tuple[str, ...]:
        word = "running" if transfer.running else "waiting"
        words = f"{word}, {tell.safe(transfer)}, id {transfer.transfer_id}"
        return (*self._dated(tell.name(transfer), transfer.started), "", words)

    def _dated(self, name: str, moment: datetime | None) -> tuple[str, str, str]:
        return name, tell.age(moment, self._now), tell.exact(moment)

    def _size(self, place: str, kept: Kept) -> int | None:
        return self._sizes.get((place, kept.snapshot.origin))

    def fields(self, place: str, contents: Contents | BackupError) -> dict[str, object]:
        """Return the fields of a place."""
        if isinstance(contents, BackupError):
            error = tell.error_fields(contents)
            return {"place": place, "snapshots": [], "waiting": [], "error": error}
        snapshots = [
            self._kept_fields(place, kept)
            | tell.verified_fields(contents.verified.get(kept.snapshot.uuid), self._now)
            for kept in contents.kept
        ]
        for broken in contents.broken:
            unrelated = tell.relation_fields(Relation())
            fields = tell.broken_fields(broken, self._now)
            more = {"size_bytes": None, "verified": None}
            snapshots.append({**fields, **unrelated, **more})
        return {
            "place": place,
            "snapshots": snapshots,
            "waiting": [tell.waiting_fields(w, self._now) for w in contents.waiting],
            "error": None,
        }

    def _kept_fields(self, place: str, kept: Kept) -> dict[str, object]:
        return {
            **tell.kept_fields(kept, self._now),
            "size_bytes": self._size(place, kept),
            **tell.relation_fields(self._relation(place, kept.snapshot)),
        }


def _counts(contents: Contents) -> Iterator[str]:
    kinds = [kept.kind for kept in contents.kept]
    yield from (tell.count(kind, kinds.count(kind)) for kind in Role if kind in kinds)
    damaged = sum(kept.state is State.DAMAGED for kept in contents.kept)
    cut = sum(not transfer.running for transfer in contents.waiting)
    for number, words in (
        (damaged + len(contents.broken), "damaged"),
        (cut, "waiting to go on"),
        (len(contents.waiting) - cut, "running"),
    ):
        if number:
            yield f"{number} {words}"
