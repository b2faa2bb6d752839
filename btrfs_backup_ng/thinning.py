"""Own the thinning out of a place: look, judge by policy, delete, look again."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from uuid import UUID

from btrfs_backup_ng import preflight
from btrfs_backup_ng.__util__ import BackupError, Refused, UsageError, attempt, visible
from btrfs_backup_ng.appraisal import SPACE, parse_space
from btrfs_backup_ng.endpoint import open_destination
from btrfs_backup_ng.endpoint.common import BtrfsEndpoint
from btrfs_backup_ng.holds import Holds, Unreadable, parse_holds
from btrfs_backup_ng.listing import ANY_NAME, Access, Kind, open_place
from btrfs_backup_ng.location import Location
from btrfs_backup_ng.locks import Holder
from btrfs_backup_ng.model import Snapshot
from btrfs_backup_ng.naming import Naming, split_name
from btrfs_backup_ng.origins import parse_origins
from btrfs_backup_ng.policy import Policy
from btrfs_backup_ng.prune import backup_rules, with_arrivals
from btrfs_backup_ng.retention import (
    CAME_IN_FUTURE,
    FUTURE,
    NOT_OURS,
    Verdict,
    in_order,
    judge,
    keep_by_name,
    keep_origins,
)

log = logging.getLogger(__name__)

_NOT_RECEIVED = "not received"


class CameBack(BackupError):
    """What was deleted is still there."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be kept.

    :ivar keep: of the snapshots of a source, ``None``: they are not looked at.
    :ivar keep_at: of backups, likewise.
    :ivar prefix: of the names that are meant; ``None`` for all that are ours.
    :ivar usual_prefix: of names that are ours without any record.
    :ivar now: aware.
    """

    keep: Policy | None
    keep_at: Policy | None
    prefix: str | None
    usual_prefix: str
    now: datetime


@dataclass(frozen=True, slots=True)
class Part:
    """The snapshots of a source, or the backups of a destination, as one look saw them.

    :ivar records: our bookkeeping there about them.
    """

    place: BtrfsEndpoint
    kind: Kind
    policy: Policy
    snapshots: tuple[Snapshot, ...]
    records: bytes | None

    def looked_again(self) -> "Part":
        """See what is there now.

        :raises ListingFailed: if that is not possible.
        """
        seen, records = self.place.listing(self.kind.record)
        return replace(self, snapshots=seen.snapshots, records=records)


@dataclass(frozen=True, slots=True)
class Judged:
    """What is to become of a part.

    :ivar verdicts: oldest first.
    :ivar refusals: why that should not be done unless it is forced.
    """

    part: Part
    verdicts: tuple[Verdict, ...]
    refusals: tuple[str, ...]

    @property
    def doomed(self) -> list[Snapshot]:
        """Give what is to be deleted, the oldest first."""
        return [v.snapshot for v in self.verdicts if not v.kept]

    @property
    def passed_over(self) -> list[str]:
        """Give the prefixes of names that have our form and are not known as ours."""
        foreign = (v.snapshot for v in self.verdicts if v.reasons == (NOT_OURS,))
        found = (split_name(snapshot.name) for snapshot in foreign)
        return sorted({split[0] for split in found if split})


def look(location: Location, access: Access, wish: Wish) -> list[Part]:
    """See what a place keeps of what is meant; one listing for each kind.

    :raises Refused: if it cannot be looked at, or there is no policy for what it keeps.
    :raises ListingFailed: if it cannot be listed.
    """
    if wish.keep is None:  # quicker: nothing of a source is looked for
        keeper = _open_keeper(location, access)
        preflight.check_readable(keeper, access.sudo_line)
        backups = _backups(keeper, wish)
        if any(s.received_uuid for part in backups for s in part.snapshots):
            return backups
    place = open_place(location, access)
    is_source = place.facts.is_subvolume and place.facts.has_folder
    parts = []
    if is_source and wish.keep:
        parts.append(Part(place, Kind.SNAPSHOT, wish.keep, (), None).looked_again())
    keeper = _open_keeper(location, access)
    keeper.facts = place.facts
    for part in _backups(keeper, wish):
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


def _backups(keeper: BtrfsEndpoint, wish: Wish) -> list[Part]:
    """Look at backups, if they are meant."""
    if wish.keep_at is None:
        return []
    return [Part(keeper, Kind.BACKUP, wish.keep_at, (), None).looked_again()]


def common(parts: Sequence[Part]) -> dict[UUID, str]:
    """Give the origins that the next transfer between these places starts from."""
    needed: dict[UUID, str] = {}
    for source in (part for part in parts if part.kind is Kind.SNAPSHOT):
        for keeper in (part for part in parts if part.kind is Kind.BACKUP):
            there = {s.received_uuid for s in keeper.snapshots}
            both = [s for s in source.snapshots if s.origin in there]
            if both:
                newest = max(both, key=lambda s: s.generation)
                needed[newest.origin] = f"last common: {source.place}, {keeper.place}"
    return needed


def judge_part(part: Part, wish: Wish, needed: Mapping[UUID, str]) -> Judged:
    """Decide what is to go. Snapshots of different prefixes count for themselves.

    :param needed: origins that must stay, and why.
    :raises Refused: if nobody can tell what must stay there.
    """
    needed = {**needed, **_held(part)}
    series, foreign = _series(part, wish)
    verdicts = [Verdict(s, (why,)) for s, why in foreign]
    refusals = []
    for prefix, members in series.items():
        _check_alone(part, prefix)
        naming = Naming(prefix)
        last = max(members, key=lambda s: s.generation)
        word = "made last" if part.kind is Kind.SNAPSHOT else "arrived last"
        reasons = {**needed, last.origin: needed.get(last.origin, word)}
        if part.kind is Kind.SNAPSHOT:
            rules = [keep_by_name(part.policy, naming, wish.now)]
        else:
            rules = backup_rules(part.policy, naming, wish.now)
        judged = judge(members, [*rules, keep_origins(reasons)])
        refusals += _refusals(part, prefix, judged)
        verdicts += judged
    ordered = in_order([verdict.snapshot for verdict in verdicts])
    position = {snapshot.uuid: number for number, snapshot in enumerate(ordered)}
    verdicts.sort(key=lambda verdict: position[verdict.snapshot.uuid])
    return Judged(part, tuple(verdicts), tuple(refusals))


def _held(part: Part) -> Mapping[UUID, str]:
    """Give what is recorded at a source as needed by destinations.

    :raises Refused: if the record is damaged; nobody knows then.
    """
    if part.kind is not Kind.SNAPSHOT or part.records is None:
        return {}
    try:
        records = parse_holds(part.records)
    except Unreadable as error:
        raise Refused(
            f"what destinations need of {part.place} cannot be read"
            f" ({visible(str(error))}), so nothing is deleted there",
            hint="The next backup makes these records anew.",
        ) from error
    return Holds(part.place, records, trusted=True, dry_run=True).reasons()


def _series(
    part: Part, wish: Wish
) -> tuple[dict[str, Sequence[Snapshot]], list[tuple[Snapshot, str]]]:
    """Sort what is there by the prefixes of its names; give what is not ours apart.

    Everything with a time in its name is ours in the folder that only we write to;
    elsewhere only what has a prefix that is recorded, or that was named.
    """
    known = _known_prefixes(part, wish)
    members: list[Snapshot] = []
    foreign = []
    for snapshot in part.snapshots:
        prefix, moment = split_name(snapshot.name) or (None, None)
        if prefix is None or known is not None and prefix not in known:
            foreign.append((snapshot, NOT_OURS))
        elif part.kind is Kind.BACKUP and snapshot.received_uuid is None:
            foreign.append((snapshot, _NOT_RECEIVED))
        else:
            members.append(replace(snapshot, created=moment))
    dated: Sequence[Snapshot] = members
    if part.kind is Kind.BACKUP and part.policy.looks_at_time:
        dated = with_arrivals(part.place, members)
    series: dict[str, list[Snapshot]] = {}
    for snapshot in dated:
        series.setdefault(_prefix_of(snapshot.name), []).append(snapshot)
    return dict(series), foreign


def _prefix_of(name: str) -> str:
    return (split_name(name) or ("", None))[0]


def _known_prefixes(part: Part, wish: Wish) -> Collection[str] | None:
    """Give the prefixes of names that are ours; ``None``: all of them are."""
    if wish.prefix is not None:
        return {wish.prefix}
    if part.kind is Kind.BACKUP:
        return {*parse_origins(part.records), wish.usual_prefix}
    if part.place.directory.startswith(f"{part.place.state}/"):
        return None
    held = parse_holds(part.records).values() if part.records else ()
    names = [split_name(hold.name) for holds in held for hold in holds]
    return {wish.usual_prefix, *(found[0] for found in names if found)}


def _check_alone(part: Part, prefix: str) -> None:
    """Refuse to delete where backups of two sources look the same.

    :raises Refused: if they do.
    """
    if part.kind is not Kind.BACKUP:
        return
    sources = [origin.place for origin in parse_origins(part.records).get(prefix, ())]
    if len(sources) > 1:
        raise Refused(
            f"{part.place} keeps backups of {visible(', '.join(sources))} that all"
            f" begin with {visible(prefix)!r}, so nothing is deleted there",
            hint="Give each source a directory of its own, or a prefix.",
        )


def _refusals(part: Part, prefix: str, verdicts: Sequence[Verdict]) -> list[str]:
    """Say what is dangerous about a plan for one series."""
    found = []
    late = [v for v in verdicts if {FUTURE, CAME_IN_FUTURE} & set(v.reasons)]
    if late:
        name = visible(late[-1].snapshot.name)
        found.append(
            f"{name} at {part.place} is later than the clock of this machine, so one"
            " of two clocks is wrong, or was"
        )
    doomed = sum(not verdict.kept for verdict in verdicts)
    if 2 * doomed > len(verdicts):
        which = f" that begin with {visible(prefix)!r}" if prefix else ""
        found.append(
            f"{doomed} of {len(verdicts)} {part.kind.value}s at {part.place}{which}"
            " would go, more than half"
        )
    return found


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
    answer = attempt(lambda: place.host.call(SPACE, place.directory, limit, stdin=raw))
    if isinstance(answer, BackupError):
        log.debug("%s: %s", place, answer.message)
        return [None] * len(names)
    return parse_space(answer.stdout, names, [s.tree_id for s in snapshots])


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a deletion.

    :ivar gone: what is no longer there, as a look afterwards saw.
    :ivar error: why that is not all that was to go.
    """

    gone: frozenset[UUID]
    error: BackupError | None


def carry_out(
    judged: Sequence[Judged], wish: Wish, needed: Mapping[UUID, str], wait_s: float
) -> Outcome:
    """Delete what is doomed at one place, under its lock, and look whether it is gone.

    What is no longer doomed when the lock is held stays.

    :param judged: the parts of the place.
    :raises Busy: if another run works there for longer than ``wait_s``.
    """
    place, holder = judged[0].part.place, Holder(wish.now)
    gone: set[UUID] = set()
    errors: list[BackupError] = []
    with holder.holding(place, wait_s):
        holder.tell("deleting old snapshots", place)
        for one in judged:
            outcome = attempt(partial(_delete, one, wish, needed))
            if isinstance(outcome, BackupError):
                errors.append(outcome)
            else:
                gone |= outcome.gone
                errors += [outcome.error] if outcome.error else []
    return Outcome(frozenset(gone), errors[0] if errors else None)


def _delete(judged: Judged, wish: Wish, needed: Mapping[UUID, str]) -> Outcome:
    planned = {s.uuid for s in judged.doomed}
    part = judged.part.looked_again()
    doomed = [s for s in judge_part(part, wish, needed).doomed if s.uuid in planned]
    if not doomed:
        return Outcome(frozenset(), None)
    place, names = part.place, [s.name for s in doomed]
    error = attempt(lambda: place.delete(names, convert_rw=False))
    there = {s.uuid for s in part.looked_again().snapshots}
    left = [s for s in doomed if s.uuid in there]
    if left and not isinstance(error, BackupError):
        error = CameBack(
            f"{place}: {visible(left[0].name)} was deleted and is there again"
            + (f", and {len(left) - 1} more" if left[1:] else ""),
            hint="Look for an error of the filesystem:  dmesg",
        )
    failed = error if isinstance(error, BackupError) else None
    return Outcome(frozenset({s.uuid for s in doomed} - there), failed)
