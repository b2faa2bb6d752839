"""The deletion of snapshots at a place by policies: look, judge, delete, check."""

import logging
import shlex
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import partial
from uuid import UUID

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__util__ import BackupError, Refused, attempt, visible
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
from btrfs_backup_ng.core.model import Role, Snapshot
from btrfs_backup_ng.core.naming import prefix_in, split_name
from btrfs_backup_ng.core.policy import Policy
from btrfs_backup_ng.core.retention import NOT_OURS, Verdict, in_order
from btrfs_backup_ng.core.value import Value, replace
from btrfs_backup_ng.host.entry import SOURCES
from btrfs_backup_ng.place import holds, preflight, sources
from btrfs_backup_ng.place.contents import Seen
from btrfs_backup_ng.place.forecast import foresee
from btrfs_backup_ng.place.holds import Holds, parse_holds, parse_record
from btrfs_backup_ng.place.locks import Holder
from btrfs_backup_ng.place.sources import Series, format_sources, parse_sources
from btrfs_backup_ng.session.session import Session

log = logging.getLogger(__name__)

_NOT_RECEIVED = "not received"
#: Why a backup stays until the user runs ``prune --one-source``.
OWNER_UNKNOWN = "of an unknown source"


class PruneRequest(Value):
    """The policies of a call, and the snapshots that they apply to.

    :ivar keep: for the snapshots of a source; ``None``: do not look at them.
    :ivar keep_at: for backups; ``None``: do not look at them.
    :ivar prefix: of the names; ``None`` for all that this program made.
    :ivar usual_prefix: names with it are this program's without any record.
    :ivar clock: of this machine.
    :ivar is_forced: the user confirms that the plan and the clock are right.
    """

    keep: Policy | None
    keep_at: Policy | None
    prefix: str | None
    usual_prefix: str
    clock: Clock
    is_forced: bool = False

    @property
    def now(self) -> datetime:
        """Return the time of this machine; aware."""
        return self.clock.now

    def policy(self, role: Role) -> Policy:
        policy = self.keep if role is Role.SNAPSHOT else self.keep_at
        assert policy
        return policy


class Needs(Value):
    """Facts from all places for the judgement of each.

    :ivar origins: of snapshots that must stay -> why.
    :ivar course: the possible times.
    """

    origins: Mapping[UUID, str]
    course: Course


class Judged(Value):
    """The judgement of the snapshots, or of the backups, of a place.

    :ivar verdicts: oldest first.
    :ivar refusals: reasons to delete nothing, unless forced.
    :ivar waiting: reasons to keep some for now, unless forced.
    """

    seen: Seen
    verdicts: tuple[Verdict, ...]
    refusals: tuple[str, ...]
    waiting: tuple[str, ...]

    @property
    def to_delete(self) -> list[Snapshot]:
        """Return the snapshots to delete, the oldest first."""
        return [v.snapshot for v in self.verdicts if not v.kept]

    @property
    def passed_over(self) -> list[str]:
        """Return the prefixes of dated names that are not known as this program's."""
        foreign = (v.snapshot for v in self.verdicts if v.reasons == (NOT_OURS,))
        found = (split_name(snapshot.name) for snapshot in foreign)
        return sorted({split[0] for split in found if split})


def look(location: Location, session: Session, request: PruneRequest) -> list[Seen]:
    """List the snapshots and backups of a place for which there is a policy.

    :raises Refused: if the place cannot be looked at, or no policy applies to it.
    :raises ListingFailed: if it cannot be listed.
    """
    place = preflight.look_at(location, session, preflight.CHANGING)
    found = []
    if place.has_snapshots and request.keep:
        found.append(Seen.of(place.snapshots))
    if request.keep_at:
        backups = Seen.of(place.backups)
        received = any(s.received_uuid for s in backups.snapshots)
        found += [backups] if received or not place.has_snapshots else []
    if not found:
        kind, option = (
            ("snapshots", "--keep") if place.has_snapshots else ("backups", "--keep-at")
        )
        raise Refused(
            f"no retention policy given for the {kind} at {place}",
            hint=f"Give one:  {option} 'latest 24h 7d 4w 12m'",
        )
    return found


def common(everything: Sequence[Seen], now: datetime) -> dict[UUID, str]:
    """Return the origins of possible parents of the next transfers, with the reasons.

    The newest snapshot that two places share is always one, even if it is not trusted
    as a parent now.

    :param now: aware.
    """
    needed: dict[UUID, str] = {}
    for here in (seen for seen in everything if seen.role is Role.SNAPSHOT):
        for there in (seen for seen in everything if seen.role is Role.BACKUP):
            received = {s.received_uuid for s in there.snapshots}
            both = [s for s in here.snapshots if s.origin in received]
            if both:
                newest = max(both, key=lambda s: s.generation)
                parents = {newest.origin, *foresee(here, there, now).parents}
                reason = f"last common: {here.place}, {there.place}"
                needed |= dict.fromkeys(parents, reason)
    return needed


def course_of(everything: Sequence[Seen], request: PruneRequest) -> Course:
    """Find the possible times, by all clocks and all dates of snapshots."""
    clock = request.clock
    if request.is_forced:
        return find_course(replace(clock, is_synchronised=True), _members(everything))
    found = (seen.place.facts.clock_ahead_s for seen in everything)
    others = tuple(later(clock.now, ahead) for ahead in found if ahead is not None)
    return find_course(replace(clock, others=others), _members(everything))


def _members(everything: Sequence[Seen]) -> list[list[Snapshot]]:
    """Return the snapshots with a date in the name, those of sources first."""
    ordered = sorted(everything, key=lambda seen: seen.role is not Role.SNAPSHOT)
    return [
        [
            replace(snapshot, created=split[1])
            for snapshot in seen.snapshots
            if (split := split_name(snapshot.name))
        ]
        for seen in ordered
    ]


def judge_seen(seen: Seen, request: PruneRequest, needs: Needs) -> Judged:
    """Decide which snapshots to delete, for each prefix by itself.

    :raises Refused: if it is not known which of them must stay.
    """
    _check_known(seen, None, (), request.prefix)
    needed = {**needs.origins, **_held(seen)}
    series, foreign = _series(seen, request)
    verdicts = [Verdict(s, (why,)) for s, why in foreign]
    judgements: list[Judgement] = []
    for prefix, members in series.items():
        _check_known(seen, prefix, members)
        _check_alone(seen, prefix)
        question = Question(
            place=str(seen.place),
            noun=seen.role.value,
            prefix=prefix,
            policy=request.policy(seen.role),
            needed=needed,
            of_source=seen.role is Role.SNAPSHOT,
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
    return Judged(seen, tuple(verdicts), tuple(refusals), tuple(waiting))


def _held(seen: Seen) -> Mapping[UUID, str]:
    """Return the origins that destinations need, as recorded at a source."""
    if seen.role is not Role.SNAPSHOT or seen.record is None:
        return {}
    return Holds(seen.place, parse_record(seen.record), dry_run=True).reasons()


def _check_known(
    seen: Seen,
    prefix: str | None,
    members: Sequence[Snapshot],
    wanted: str | None = None,
) -> None:
    """Check that the records say which snapshots must stay.

    :param prefix: of the members; ``None`` to check only that the record is readable.
    :param wanted: the prefix that the user named, for the command in the hint.
    :raises Refused: if they do not.
    """
    hint = "The next backup creates this record again."
    if seen.role is Role.SNAPSHOT:
        why = holds.why_unknown(seen.record, seen.record_path, members)
    else:
        why = sources.why_unknown(seen.record, seen.record_path, prefix)
        words = [PROGRAM, "prune", "--one-source", "-p", prefix or wanted or "PREFIX"]
        line = visible(shlex.join([*words, str(seen.place.location)]))
        hint += f" Or, if all backups there are of one source:  {line}"
    if why:
        raise Refused(f"{why[0]}, so nothing is deleted at {seen.place}", hint=hint)


def _series(
    seen: Seen, request: PruneRequest
) -> tuple[dict[str, Sequence[Snapshot]], list[tuple[Snapshot, str]]]:
    """Group the snapshots by prefix; return those of other programs separately.

    In the folder that only this program writes to, each snapshot with a date in its
    name counts. Elsewhere, only those with a recorded prefix, or the one that the user
    named.
    """
    known = _known_prefixes(seen, request)
    recorded = parse_sources(seen.record) if seen.role is Role.BACKUP else {}
    unknown = {uuid for series in recorded.values() for uuid in series.unknown}
    members: list[Snapshot] = []
    foreign = []
    for snapshot in seen.snapshots:
        prefix, moment = split_name(snapshot.name) or (None, None)
        if prefix is None or known is not None and prefix not in known:
            foreign.append((snapshot, NOT_OURS))
        elif seen.role is Role.BACKUP and snapshot.received_uuid is None:
            foreign.append((snapshot, _NOT_RECEIVED))
        elif seen.role is Role.BACKUP and snapshot.origin in unknown:
            foreign.append((snapshot, OWNER_UNKNOWN))
        else:
            members.append(replace(snapshot, created=moment))
    dated: Sequence[Snapshot] = members
    if seen.role is Role.BACKUP and request.policy(seen.role).looks_at_time:
        dated = with_arrivals(seen.place, members)
    series: dict[str, list[Snapshot]] = {}
    for snapshot in dated:
        series.setdefault(prefix_in(snapshot.name), []).append(snapshot)
    return dict(series), foreign


def _known_prefixes(seen: Seen, request: PruneRequest) -> Collection[str] | None:
    """Return the prefixes of this program's snapshots; ``None``: any prefix."""
    if request.prefix is not None:
        return {request.prefix}
    if seen.role is Role.BACKUP:
        return {*parse_sources(seen.record), request.usual_prefix}
    if seen.endpoint.directory.startswith(f"{seen.place.state}/"):
        return None
    held = parse_holds(seen.record).values() if seen.record else ()
    names = [split_name(hold.name) for holds in held for hold in holds]
    return {request.usual_prefix, *(found[0] for found in names if found)}


def _check_alone(seen: Seen, prefix: str) -> None:
    """Check that all backups of a prefix are of one source.

    :raises Refused: if several sources are recorded.
    """
    if seen.role is not Role.BACKUP:
        return
    series = parse_sources(seen.record).get(prefix, Series())
    owners = [source.place for source in series.sources]
    if len(owners) > 1:
        raise Refused(
            f"{seen.place} keeps backups of {visible(', '.join(owners))} that all"
            f" begin with {visible(prefix)!r}, so nothing is deleted there",
            hint="Give each source a directory of its own, or a prefix.",
        )


def carry_out(
    judged: Sequence[Judged], request: PruneRequest, needs: Needs, wait_s: float
) -> Deletion:
    """Delete the snapshots that are not kept at one place, under its lock.

    Judge again once the lock is held; delete only snapshots that both judgements name.

    :param judged: the snapshots and the backups of the place.
    :raises Busy: if another run works there for longer than ``wait_s``.
    """
    first, holder = judged[0].seen, Holder(request.now)
    place = first.place
    gone: list[Snapshot] = []
    errors: list[BackupError] = []
    with holder.holding(place, wait_s, first.role):
        holder.note("deleting old snapshots", place)
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
    seen = Seen.of(judged.seen.endpoint)
    still = judge_seen(seen, request, needs).to_delete
    going = [s for s in still if s.uuid in planned]
    _record(seen, {prefix_in(s.name) for s in going}, request.policy(seen.role))
    return delete(seen.endpoint, going)


def _record(seen: Seen, prefixes: Collection[str], policy: Policy) -> None:
    """Record the policy, so that it is not new to the next backup.

    :param prefixes: of the snapshots that it deletes.
    """
    if seen.role is Role.BACKUP:
        recorded = parse_sources(seen.record)
        settled = {
            prefix: replace(series, policy=policy.for_record)
            for prefix, series in recorded.items()
            if prefix in prefixes
        }
        if {**recorded, **settled} != recorded:
            content = format_sources({**recorded, **settled})
            seen.place.write_record(SOURCES, content)
    elif seen.record is not None:
        held = Holds(seen.place, parse_record(seen.record), dry_run=False)
        held.apply(prefixes, policy)
