"""The thinning out of a place by a person: look, judge, delete, look again."""

import logging
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from uuid import UUID

from btrfs_backup_ng.__logger__ import PROGRAM
from btrfs_backup_ng.__util__ import BackupError, Refused, UsageError, attempt, visible
from btrfs_backup_ng.actions.prune.ages_and_sizes import parse_space
from btrfs_backup_ng.actions.prune.deletion import Deletion, delete
from btrfs_backup_ng.actions.prune.rules import with_arrivals
from btrfs_backup_ng.core.judgement import (
    Clock,
    Course,
    Judgement,
    Question,
    find_course,
    judge_series,
    later,
)
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import Listing, Snapshot
from btrfs_backup_ng.core.naming import split_name
from btrfs_backup_ng.core.policy import Policy
from btrfs_backup_ng.core.record import Content
from btrfs_backup_ng.core.retention import NOT_OURS, Verdict, in_order
from btrfs_backup_ng.endpoint import open_destination
from btrfs_backup_ng.endpoint.common import BtrfsEndpoint
from btrfs_backup_ng.place import holds, preflight
from btrfs_backup_ng.place import sources as origins
from btrfs_backup_ng.place.contents import ANY_NAME, Access, Role, open_place
from btrfs_backup_ng.place.forecast import Forecast, foresee
from btrfs_backup_ng.place.holds import Holds, parse_holds
from btrfs_backup_ng.place.locks import Holder
from btrfs_backup_ng.place.sources import Series, parse_origins
from btrfs_backup_ng.wire import verbs

log = logging.getLogger(__name__)

_NOT_RECEIVED = "not received"
#: Reason for what stays as long as nobody settled whose it is.
OWNER_UNKNOWN = "of an unknown source"


@dataclass(frozen=True, slots=True)
class PruneRequest:
    """What is to be kept.

    :ivar keep: of the snapshots of a source, ``None``: they are not looked at.
    :ivar keep_at: of backups, likewise.
    :ivar prefix: of the names that are meant; ``None`` for all that are ours.
    :ivar usual_prefix: of names that are ours without any record.
    :ivar clock: of this machine.
    :ivar is_forced: a person says that the plan, and the clock, are right.
    """

    keep: Policy | None
    keep_at: Policy | None
    prefix: str | None
    usual_prefix: str
    clock: Clock
    is_forced: bool = False

    @property
    def now(self) -> datetime:
        """Return the time by this machine; aware."""
        return self.clock.now


@dataclass(frozen=True, slots=True)
class Part:
    """The snapshots of a source, or the backups of a destination, as one look saw them.

    :ivar listing: all that the look saw.
    :ivar records: our bookkeeping there about them.
    """

    place: BtrfsEndpoint
    kind: Role
    policy: Policy
    listing: Listing = field(default_factory=Listing)
    records: Content = None

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        """Return all snapshots that the look saw."""
        return self.listing.snapshots

    def looked_again(self) -> "Part":
        """See what is there now.

        :raises ListingFailed: if that is not possible.
        """
        seen, records = self.place.listing(self.kind.record)
        return replace(self, listing=seen, records=records)


@dataclass(frozen=True, slots=True)
class Needs:
    """What the judgement of one part has to know of all places.

    :ivar origins: what must stay, and why.
    :ivar course: what time it may be.
    """

    origins: Mapping[UUID, str]
    course: Course


@dataclass(frozen=True, slots=True)
class Judged:
    """What is to become of a part.

    :ivar verdicts: oldest first.
    :ivar refusals: why that should not be done unless it is forced.
    :ivar waiting: why some of it stays for now, unless it is forced.
    """

    part: Part
    verdicts: tuple[Verdict, ...]
    refusals: tuple[str, ...]
    waiting: tuple[str, ...]

    @property
    def to_delete(self) -> list[Snapshot]:
        """Return what is to be deleted, the oldest first."""
        return [v.snapshot for v in self.verdicts if not v.kept]

    @property
    def passed_over(self) -> list[str]:
        """Return the prefixes of names that have our form and are not known as ours."""
        foreign = (v.snapshot for v in self.verdicts if v.reasons == (NOT_OURS,))
        found = (split_name(snapshot.name) for snapshot in foreign)
        return sorted({split[0] for split in found if split})


def look(location: Location, access: Access, request: PruneRequest) -> list[Part]:
    """See what a place keeps of what is meant; one listing for each kind.

    :raises Refused: if it cannot be looked at, or there is no policy for what it keeps.
    :raises ListingFailed: if it cannot be listed.
    """
    if request.keep is None:  # quicker: nothing of a source is looked for
        keeper = _open_keeper(location, access)
        preflight.check_readable(keeper, access.sudo_line)
        preflight.check_ours(keeper)
        backups = _backups(keeper, request)
        if any(s.received_uuid for part in backups for s in part.snapshots):
            return backups
    place = open_place(location, access)
    preflight.check_ours(place)
    is_source = place.facts.is_subvolume and place.facts.has_folder
    parts = []
    if is_source and request.keep:
        parts.append(Part(place, Role.SNAPSHOT, request.keep).looked_again())
    keeper = _open_keeper(location, access)
    keeper.facts = place.facts
    for part in _backups(keeper, request):
        received = any(s.received_uuid for s in part.snapshots)
        parts += [part] if received or not is_source else []
    if not parts:
        what, option = (
            ("snapshots", "--keep") if is_source else ("backups", "--keep-at")
        )
        raise Refused(
            f"{place} keeps {what}, and no policy says which of them stay",
            hint=f"For these:  {option} 'latest 24h 7d 4w 12m'",
        )
    return parts


def _open_keeper(location: Location, access: Access) -> BtrfsEndpoint:
    keeper = open_destination(
        location, ANY_NAME, connections=access.connections, ssh=access.ssh
    ).keeper
    if keeper is None:
        raise UsageError(f"{location} keeps nothing that could be seen")
    return keeper


def _backups(keeper: BtrfsEndpoint, request: PruneRequest) -> list[Part]:
    """Look at backups, if they are meant."""
    if request.keep_at is None:
        return []
    return [Part(keeper, Role.BACKUP, request.keep_at).looked_again()]


def common(parts: Sequence[Part], now: datetime) -> dict[UUID, str]:
    """Return the origins that the next transfer between these places may start from.

    The newest that two of them have stays in any case, whether or not it is trusted as
    a parent now.

    :param now: aware.
    """
    needed: dict[UUID, str] = {}
    for source in (part for part in parts if part.kind is Role.SNAPSHOT):
        for keeper in (part for part in parts if part.kind is Role.BACKUP):
            there = {s.received_uuid for s in keeper.snapshots}
            both = [s for s in source.snapshots if s.origin in there]
            if both:
                newest = max(both, key=lambda s: s.generation)
                parents = {newest.origin, *_foreseen(source, keeper, now).parents}
                reason = f"last common: {source.place}, {keeper.place}"
                needed |= dict.fromkeys(parents, reason)
    return needed


def _foreseen(source: Part, keeper: Part, now: datetime) -> Forecast:
    return foresee(
        source.place,
        source.listing,
        keeper.place,
        keeper.listing,
        name=str(keeper.place.location),
        now=now,
        holds=source.records,
        origins=keeper.records,
    )


def course_of(parts: Sequence[Part], request: PruneRequest) -> Course:
    """Find out what time it may be, by all clocks and all that was made at places."""
    clock = request.clock
    if request.is_forced:
        return find_course(replace(clock, is_synchronised=True), _members(parts))
    found = (part.place.facts.clock_ahead_s for part in parts)
    others = tuple(later(clock.now, ahead) for ahead in found if ahead is not None)
    return find_course(replace(clock, others=others), _members(parts))


def _members(parts: Sequence[Part]) -> list[list[Snapshot]]:
    """Return what has a time of ours in its name, the snapshots of sources first."""
    ordered = sorted(parts, key=lambda part: part.kind is not Role.SNAPSHOT)
    return [
        [
            replace(snapshot, created=split[1])
            for snapshot in part.snapshots
            if (split := split_name(snapshot.name))
        ]
        for part in ordered
    ]


def judge_part(part: Part, request: PruneRequest, needs: Needs) -> Judged:
    """Decide what is to go. Snapshots of different prefixes count for themselves.

    :raises Refused: if nobody can tell what must stay there.
    """
    _check_known(part, None, (), request.prefix)
    needed = {**needs.origins, **_held(part)}
    series, foreign = _series(part, request)
    verdicts = [Verdict(s, (why,)) for s, why in foreign]
    judgements: list[Judgement] = []
    for prefix, members in series.items():
        _check_known(part, prefix, members)
        _check_alone(part, prefix)
        question = Question(
            place=str(part.place),
            noun=part.kind.value,
            prefix=prefix,
            policy=part.policy,
            needed=needed,
            of_source=part.kind is Role.SNAPSHOT,
            is_forced=request.is_forced,
        )
        judgement = judge_series(question, members, needs.course)
        judgements.append(judgement)
        verdicts += judgement.verdicts
    ordered = in_order([verdict.snapshot for verdict in verdicts])
    position = {snapshot.uuid: number for number, snapshot in enumerate(ordered)}
    verdicts.sort(key=lambda verdict: position[verdict.snapshot.uuid])
    refusals = [why for judgement in judgements for why in judgement.withheld]
    waiting = [why for judgement in judgements for why in judgement.waiting]
    return Judged(part, tuple(verdicts), tuple(refusals), tuple(waiting))


def _held(part: Part) -> Mapping[UUID, str]:
    """Return what is recorded at a source as needed by destinations."""
    if part.kind is not Role.SNAPSHOT or part.records is None:
        return {}
    return Holds(part.place, parse_holds(part.records), dry_run=True).reasons()


def _check_known(
    part: Part,
    prefix: str | None,
    members: Sequence[Snapshot],
    wanted: str | None = None,
) -> None:
    """Refuse to delete where the records do not tell what must stay.

    :param prefix: of the members; ``None`` to look only at what is recorded.
    :param wanted: the prefix that a person named, for the command that settles it.
    :raises Refused: if that is so.
    """
    hint = "The next backup makes this record anew."
    if part.kind is Role.SNAPSHOT:
        why = holds.why_unknown(part.records, holds.path_of(part.place), members)
    else:
        why = origins.why_unknown(part.records, origins.path_of(part.place), prefix)
        words = [PROGRAM, "prune", "--one-source", "-p", prefix or wanted or "PREFIX"]
        line = visible(shlex.join([*words, str(part.place.location)]))
        hint += f" Or if all backups there are of one source:  {line}"
    if why:
        raise Refused(f"{why[0]}, so nothing is deleted at {part.place}", hint=hint)


def _series(
    part: Part, request: PruneRequest
) -> tuple[dict[str, Sequence[Snapshot]], list[tuple[Snapshot, str]]]:
    """Sort what is there by the prefixes of its names; give what is not ours apart.

    Everything with a time in its name is ours in the folder that only we write to;
    elsewhere only what has a prefix that is recorded, or that was named.
    """
    known = _known_prefixes(part, request)
    recorded = parse_origins(part.records) if part.kind is Role.BACKUP else {}
    unknown = {uuid for series in recorded.values() for uuid in series.unknown}
    members: list[Snapshot] = []
    foreign = []
    for snapshot in part.snapshots:
        prefix, moment = split_name(snapshot.name) or (None, None)
        if prefix is None or known is not None and prefix not in known:
            foreign.append((snapshot, NOT_OURS))
        elif part.kind is Role.BACKUP and snapshot.received_uuid is None:
            foreign.append((snapshot, _NOT_RECEIVED))
        elif part.kind is Role.BACKUP and snapshot.origin in unknown:
            foreign.append((snapshot, OWNER_UNKNOWN))
        else:
            members.append(replace(snapshot, created=moment))
    dated: Sequence[Snapshot] = members
    if part.kind is Role.BACKUP and part.policy.looks_at_time:
        dated = with_arrivals(part.place, members)
    series: dict[str, list[Snapshot]] = {}
    for snapshot in dated:
        series.setdefault(_prefix_of(snapshot.name), []).append(snapshot)
    return dict(series), foreign


def _prefix_of(name: str) -> str:
    return (split_name(name) or ("", None))[0]


def _known_prefixes(part: Part, request: PruneRequest) -> Collection[str] | None:
    """Return the prefixes of names that are ours; ``None``: all of them are."""
    if request.prefix is not None:
        return {request.prefix}
    if part.kind is Role.BACKUP:
        return {*parse_origins(part.records), request.usual_prefix}
    if part.place.directory.startswith(f"{part.place.state}/"):
        return None
    held = parse_holds(part.records).values() if part.records else ()
    names = [split_name(hold.name) for holds in held for hold in holds]
    return {request.usual_prefix, *(found[0] for found in names if found)}


def _check_alone(part: Part, prefix: str) -> None:
    """Refuse to delete where backups of two sources look the same.

    :raises Refused: if they do.
    """
    if part.kind is not Role.BACKUP:
        return
    series = parse_origins(part.records).get(prefix, Series())
    sources = [origin.place for origin in series.sources]
    if len(sources) > 1:
        raise Refused(
            f"{part.place} keeps backups of {visible(', '.join(sources))} that all"
            f" begin with {visible(prefix)!r}, so nothing is deleted there",
            hint="Give each source a directory of its own, or a prefix.",
        )


def weigh(part: Part, snapshots: Sequence[Snapshot], limit: str) -> list[int | None]:
    """Ask how many bytes are each snapshot's alone: the least that deleting it frees.

    :param limit: what :data:`SPACE` takes for it.
    :returns: ``None`` where nobody can tell.
    """
    if not snapshots:
        return []
    names = [s.name for s in snapshots]
    raw = "".join(f"./{name}\0" for name in names).encode(errors="surrogateescape")
    place = part.place
    answer = attempt(
        lambda: place.host.call(verbs.SPACE, place.directory, limit, stdin=raw)
    )
    if isinstance(answer, BackupError):
        log.debug("%s: %s", place, answer.message)
        return [None] * len(names)
    return parse_space(answer.stdout, names, [s.tree_id for s in snapshots])


def carry_out(
    judged: Sequence[Judged], request: PruneRequest, needs: Needs, wait_s: float
) -> Deletion:
    """Delete the judged snapshots of a place under its lock; check that they are gone.

    A snapshot that a second judgement under the lock keeps is not deleted.

    :param judged: the parts of the place.
    :raises Busy: if another run works there for longer than ``wait_s``.
    """
    place, holder = judged[0].part.place, Holder(request.now)
    gone: list[Snapshot] = []
    errors: list[BackupError] = []
    with holder.holding(place, wait_s):
        holder.tell("deleting old snapshots", place)
        for one in judged:
            outcome = attempt(partial(_delete, one, request, needs))
            if isinstance(outcome, BackupError):
                errors.append(outcome)
            else:
                gone += outcome.gone
                errors += [outcome.error] if outcome.error else []
    return Deletion(tuple(gone), errors[0] if errors else None)


def _delete(judged: Judged, request: PruneRequest, needs: Needs) -> Deletion:
    planned = {s.uuid for s in judged.to_delete}
    part = judged.part.looked_again()
    to_delete = [
        s for s in judge_part(part, request, needs).to_delete if s.uuid in planned
    ]
    return delete(part.place, to_delete)
