"""What goes and what stays of a series, by a policy and by what clocks there are.

A wrong clock must not delete. So what goes has to be superseded by every clock that may
be right: that of this machine, those of the other machines of the run, and, as long as
nothing confirms that this one was set right, the time at which it jumped.

A wrong clock must not delete. Two sentences are the rule: **What goes has to be
superseded at every time that it may be. It may be any time that a clock of the run
shows, and, if nothing was made for two days or longer before now, the time at which
that began, until snapshots were made on three more days or another clock confirms the
new time.** So a clock that is ten years ahead takes nothing away, for a run or a day of
runs; a machine that was off for two months backs up at once and is thinned a few runs
later. Every such time is one more rule, and rules only keep. Sending waits for no
clock.

- The clock is **confirmed**, and then it alone counts, if the kernel says that it is
  synchronised (``adjtimex``; setting the clock by hand takes that mark away), or if
  another machine of the run shows the same within ten minutes (``hello``). If a machine
  shows an earlier time, what was wanted then stays as well, for as long as they
  disagree.
- What makes days after a gap visible (the first snapshot of each of four days) stays
  meanwhile. What was made before something with an earlier date proves nothing: a clock
  that jumps at each start and is set right after that is never believed. A jump of less
  than two days costs at most what these two days would have.
- What is **dated in the future** stays and does not count. Once the clock is confirmed
  it is judged by when it was made: a filesystem numbers what it makes, so it lies
  between its neighbours, and is counted back from the later one. It only takes places
  beside the others, never one of theirs. Without a confirmed clock it stays until its
  date, or ``prune --force``.
- Where dates contradict that order (also those of a clock that was set back), it is
  judged without the ones and without the others, as nobody knows which are wrong.
  Destinations are held to the times of arrival.
- Numbers (``-n``, ``latest=N``) need no clock, so only what is dated in the future is
  kept beside them.
- **More than half** is not deleted at once: ``prune`` refuses it; a run does not do it
  by a policy that is new there. It does if only time went by, that is, if the same
  policy, at the last backup or before a pause, kept at least half of what was there
  then. Numbers of a run are not guarded.
- What waits is said with the command that overrules it (``prune --force``: the plan and
  this clock are right); the exit status stays 0, as with damaged records. What is not
  known (a damaged record, passed as a doubt) cannot be forced.
- What is sent goes in the order of making, and what was begun is always worth sending:
  so a transfer that was interrupted under a wrong clock is resumed. Staging expires by
  the earliest time that it may be.

For tests alone ``BTRFS_BACKUP_NG_CLOCK`` shifts the clock by so many seconds, and says
whether it is ``synchronised``.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from uuid import UUID

from btrfs_backup_ng.core.model import Snapshot
from btrfs_backup_ng.core.naming import Naming
from btrfs_backup_ng.core.policy import Policy
from btrfs_backup_ng.core.retention import (
    BY_ARRIVAL,
    CAME_IN_FUTURE,
    FUTURE,
    NOT_OURS,
    TOLERANCE,
    UNCONFIRMED,
    Rule,
    Verdict,
    judge,
    keep_dated,
    keep_origins,
)

#: A machine that made nothing for longer than this was off, or its clock jumped.
_JUMP = timedelta(days=2)
#: What was made on so many days after that confirms the new time, each of them so much
#: after the one before; less than a day, as nobody starts a backup by the second.
_DAYS, _DAY = 4, timedelta(hours=20)


@dataclass(frozen=True, slots=True)
class Clock:
    """What time it is, and who says so.

    :ivar now: by this machine; aware.
    :ivar is_synchronised: its kernel says that its clock follows another one, or a
        person does.
    :ivar others: what clocks of other machines show at the same moment.
    """

    now: datetime
    is_synchronised: bool = False
    others: tuple[datetime, ...] = ()

    @property
    def is_confirmed(self) -> bool:
        """Whether another clock says the same."""
        near = (abs(other - self.now) <= TOLERANCE for other in self.others)
        return self.is_synchronised or any(near)


def later(now: datetime, seconds: float) -> datetime:
    """Return a time so much later, within the years that ``datetime`` knows."""
    try:
        return now + timedelta(seconds=seconds)
    except OverflowError:
        edge = datetime.max if seconds > 0 else datetime.min
        return edge.replace(tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True)
class Course:
    """What time it may be, by all clocks and by all that was made before.

    :ivar now: by this machine's clock; aware.
    :ivar is_confirmed: another clock says the same.
    :ivar earlier: the other times that it may be.
    :ivar is_behind: another machine of the run has an earlier time.
    :ivar jump: the last two times between which the clock may have jumped, if that is
        a surprise.
    :ivar pauses: the beginning of each time in which nothing was made for long.
    :ivar shown: the times of what confirms by and by that the clock did not jump.
    :ivar dates: origin -> when it was made at the latest, of what has a name that is
        later than a confirmed clock.
    """

    now: datetime
    is_confirmed: bool = True
    earlier: tuple[datetime, ...] = ()
    is_behind: bool = False
    jump: tuple[datetime, datetime] | None = None
    pauses: tuple[datetime, ...] = ()
    shown: frozenset[datetime] = frozenset()
    dates: Mapping[UUID, datetime] = field(default_factory=dict)

    @property
    def earliest(self) -> datetime:
        """Return the first of all the times that it may be."""
        return min((self.now, *self.earlier))


def find_course(clock: Clock, places: Iterable[Collection[Snapshot]]) -> Course:
    """Find out what time it may be.

    A long time in which nothing was made may be a jump of the clock. It is taken for
    one until snapshots were made on three more days, or another clock confirms it.

    :param places: what was made at each of them, those of a source first.
    """
    places = list(map(list, places))
    seen, refuted = {clock.now}, set()
    for snapshots in places:
        for dated in (_by_name(snapshots), _by_arrival(snapshots)):
            seen |= {moment for moment, _ in dated if moment <= clock.now + TOLERANCE}
            wrong = _refuted(dated)
            refuted |= {moment for moment, s in dated if s.uuid in wrong}
    ordered = sorted(seen)
    gaps = [gap for gap in pairwise(ordered) if gap[1] - gap[0] > _JUMP]
    pauses = tuple(before for before, _ in gaps)
    if clock.is_confirmed:
        dates: dict[UUID, datetime] = {}
        for snapshots in places:
            late = _dates(_by_name(snapshots), clock.now)
            dates = {
                s.origin: late[s.uuid] for s in snapshots if s.uuid in late
            } | dates
        return Course(clock.now, pauses=pauses, dates=dates)
    credible = [moment for moment in ordered if moment not in refuted]
    doubted = [(gap, days) for gap in gaps if len(days := _days(gap, credible)) < _DAYS]
    behind = {other for other in clock.others if other < clock.now - TOLERANCE}
    return Course(
        clock.now,
        is_confirmed=False,
        earlier=tuple(sorted(behind | {before for (before, _), _ in doubted})),
        is_behind=bool(behind),
        jump=next((g for g, _ in reversed(doubted) if _is_odd(g, ordered)), None),
        pauses=pauses,
        shown=frozenset(day for _, days in doubted for day in days),
    )


_Dated = Sequence[tuple[datetime, Snapshot]]
_Gap = tuple[datetime, datetime]


def _by_name(snapshots: Collection[Snapshot]) -> _Dated:
    return [(s.created, s) for s in snapshots if s.created is not None]


def _by_arrival(snapshots: Collection[Snapshot]) -> _Dated:
    return [(s.otime, s) for s in snapshots if s.otime is not None]


def _refuted(dated: _Dated) -> set[UUID]:
    """Return what is dated later than something that was made after it.

    The order in which a filesystem made things does not depend on any clock.
    """
    refuted: set[UUID] = set()
    least: datetime | None = None
    for moment, snapshot in sorted(dated, key=_made_at, reverse=True):
        if least is not None and moment > least + TOLERANCE:
            refuted.add(snapshot.uuid)
        least = moment if least is None else min(least, moment)
    return refuted


def _belated(dated: _Dated) -> set[UUID]:
    """Return what is dated earlier than something that was made before it."""
    belated: set[UUID] = set()
    most: datetime | None = None
    for moment, snapshot in sorted(dated, key=_made_at):
        if most is not None and moment < most - TOLERANCE:
            belated.add(snapshot.uuid)
        most = moment if most is None else max(most, moment)
    return belated


def _made_at(item: tuple[datetime, Snapshot]) -> tuple[int, datetime]:
    return item[1].generation, item[0]


def _days(gap: _Gap, credible: Sequence[datetime]) -> list[datetime]:
    """Return the first times after a gap, each a day later than the one before."""
    days: list[datetime] = []
    for moment in credible:
        if moment >= (days[-1] + _DAY if days else gap[1]) and len(days) < _DAYS:
            days.append(moment)
    return days


def _is_odd(gap: _Gap, ordered: Sequence[datetime]) -> bool:
    """Tell whether a gap is longer than two that stand before it would be together."""
    before, after = gap
    position = ordered.index(before)
    pace = before - ordered[position - 1] if position else timedelta()
    return bool(after - before > 2 * pace)


def _dates(dated: _Dated, now: datetime) -> dict[UUID, datetime]:
    """Say when what is dated in the future was made, if something was made after it.

    The clock that dated it was wrong, and may well have gone at the right speed. So it
    is counted back from what was made after it, up to what was made before it.

    :param now: a confirmed time.
    """
    before: datetime | None = None
    late: list[tuple[datetime, Snapshot]] = []
    found: dict[UUID, datetime] = {}
    for moment, snapshot in sorted(dated, key=_made_at):
        if moment > now + TOLERANCE:
            late.append((moment, snapshot))
            continue
        latest = moment
        for wrong, other in reversed(late):
            real = moment - max(late[-1][0] - wrong, timedelta())
            latest = min(latest, max(real, before or real))
            found[other.uuid] = latest
        late, before = [], moment
    return found


def keep_by_policy(policy: Policy, naming: Naming, course: Course) -> Rule:
    """Keep what a policy wants by the names, at each time that it may be."""

    def claims(snapshots: Sequence[Snapshot]) -> Mapping[UUID, tuple[str, ...]]:
        dated: list[tuple[datetime, Snapshot]] = []
        foreign = []
        for snapshot in snapshots:
            moment = naming.time_of(snapshot.name)
            if moment is None:
                foreign.append(snapshot.uuid)
            else:
                dated.append((moment, snapshot))
        dates = _dates(dated, course.now) if course.is_confirmed else {}
        for _, snapshot in dated:
            if snapshot.origin in course.dates:
                dates[snapshot.uuid] = course.dates[snapshot.origin]
        rest = [(moment, s) for moment, s in dated if s.uuid not in dates]
        return _merged(
            dict.fromkeys(foreign, (NOT_OURS,)),
            keep_dated(policy, rest, course.now, FUTURE),
            _keep_redated(policy, dated, dates, course),
            _keep_by_earlier(policy, dated, course),
        )

    return claims


def keep_by_policy_on_arrival(policy: Policy, naming: Naming, course: Course) -> Rule:
    """Keep what a policy wants by the times at which backups came, likewise.

    Nobody who sends there can change those, so no name that is invented makes an older
    backup look superseded. Where such a time is not known, nothing is claimed.
    """

    def claims(snapshots: Sequence[Snapshot]) -> Mapping[UUID, tuple[str, ...]]:
        ours = [s for s in snapshots if naming.time_of(s.name) is not None]
        dated = _by_arrival(ours)
        dates = _dates(dated, course.now) if course.is_confirmed else {}
        rest = [(moment, s) for moment, s in dated if s.uuid not in dates]
        return _merged(
            keep_dated(policy, rest, course.now, CAME_IN_FUTURE, BY_ARRIVAL),
            _keep_redated(policy, dated, dates, course, BY_ARRIVAL),
            _keep_by_earlier(policy, dated, course),
        )

    return claims


def keep_made_in_order(
    policy: Policy, naming: Naming, course: Course, *, of_source: bool
) -> Rule:
    """Keep what a policy wants of what was dated in the order of its making.

    Where two contradict each other, one of them was dated by a wrong clock, and nobody
    knows which. So it is judged without the ones and without the others: neither what
    was dated in the future supersedes what was really made then, also when its date has
    come, nor what a clock that was set back dated supersedes what was there. Backups
    arrive in any order of their names, so for them the times count at which they came.
    """

    def claims(snapshots: Sequence[Snapshot]) -> Mapping[UUID, tuple[str, ...]]:
        ours = [s for s in snapshots if naming.time_of(s.name) is not None]
        every = _by_name(ours) if of_source else _by_arrival(ours)
        dated = [item for item in every if item[0] <= course.now + TOLERANCE]
        kept: Mapping[UUID, tuple[str, ...]] = {}
        suffix = "" if of_source else BY_ARRIVAL
        for wrong in filter(None, (_refuted(dated), _belated(dated))):
            rest = [item for item in dated if item[1].uuid not in wrong]
            kept = _merged(
                kept,
                keep_dated(policy, rest, course.now, suffix=suffix),
                _keep_by_earlier(policy, rest, course),
            )
        return kept

    return claims


def _keep_redated(
    policy: Policy,
    dated: _Dated,
    dates: Mapping[UUID, datetime],
    course: Course,
    suffix: str = "",
) -> Mapping[UUID, tuple[str, ...]]:
    """Keep what is wanted of all, with what is dated wrongly at its real place.

    This comes on top of what is kept without it, so nothing goes because of it.
    """
    if not dates:
        return {}
    real = [(dates.get(s.uuid, moment), s) for moment, s in dated]
    return keep_dated(policy, real, course.now, FUTURE, suffix)


def _keep_by_earlier(
    policy: Policy, dated: _Dated, course: Course
) -> Mapping[UUID, tuple[str, ...]]:
    """Keep what is wanted at the other times that it may be; numbers need no clock."""
    if not policy.looks_at_time:
        return {}
    kept = {s.uuid for moment, s in dated if moment in course.shown}
    for now in course.earlier:
        past = [item for item in dated if item[0] <= now]
        kept |= set(keep_dated(policy, past, now))
    return dict.fromkeys(kept, (UNCONFIRMED,))


def _merged(
    *claims: Mapping[UUID, tuple[str, ...]],
) -> dict[UUID, tuple[str, ...]]:
    """Put reasons together, each of them once; a weak one only where it is alone."""
    found: dict[UUID, tuple[str, ...]] = {}
    for claim in claims:
        for uuid, reasons in claim.items():
            before = found.get(uuid, ())
            new = tuple(why for why in reasons if why not in before)
            found[uuid] = before + new
    return found


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be judged: one series at one place.

    :ivar place: for people.
    :ivar noun: what is kept there: ``snapshot`` or ``backup``.
    :ivar prefix: of all the names.
    :ivar needed: origins that must stay, and why.
    :ivar of_source: they were made here, not received.
    :ivar doubts: why nothing may be deleted there in this run.
    :ivar is_forced: a person says that the plan, and the clock, are right.
    :ivar is_standing: the policy comes with each run, not once from a person.
    """

    place: str
    noun: str
    prefix: str
    policy: Policy
    needed: Mapping[UUID, str]
    of_source: bool
    doubts: tuple[str, ...] = ()
    is_forced: bool = False
    is_standing: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is to become of a series.

    :ivar verdicts: oldest first.
    :ivar doubts: why nothing may be deleted there.
    :ivar dangers: why nothing should be deleted unless that is forced.
    :ivar waiting: why some of it stays for now.
    """

    verdicts: tuple[Verdict, ...]
    doubts: tuple[str, ...] = ()
    dangers: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()

    @property
    def withheld(self) -> tuple[str, ...]:
        """Return all that stands against any deletion."""
        return self.doubts + self.dangers

    @property
    def to_delete(self) -> list[Snapshot]:
        """Return what the rules would delete, the oldest first."""
        return [v.snapshot for v in self.verdicts if not v.kept]


def rules_of(
    policy: Policy, naming: Naming, course: Course, *, of_source: bool
) -> list[Rule]:
    """Return the rules for the snapshots of a source, or for backups.

    Of backups two times are known. Their names come from whoever sent them, so what
    must stay by the times at which they came stays whatever the names are. But a
    backlog comes all at once: what must stay by its name does, too.
    """
    rules = [keep_by_policy(policy, naming, course)]
    if policy.looks_at_time:
        rules.append(keep_made_in_order(policy, naming, course, of_source=of_source))
        if not of_source:
            rules.append(keep_by_policy_on_arrival(policy, naming, course))
    return rules


def judge_series(
    question: Question, snapshots: Collection[Snapshot], course: Course
) -> Judgement:
    """Decide what goes of a series, and what stands against that.

    What the filesystem itself made last always stays, whatever the clocks say.

    :param snapshots: with names of this prefix; other names are kept.
    """
    verdicts = _verdicts(question, snapshots, course)
    return Judgement(
        verdicts,
        question.doubts,
        () if question.is_forced else tuple(_dangers(question, verdicts, course)),
        tuple(_waiting(question, verdicts, course)),
    )


def _verdicts(
    question: Question, snapshots: Collection[Snapshot], course: Course
) -> tuple[Verdict, ...]:
    needed = dict(question.needed)
    last = max(snapshots, key=lambda s: s.generation, default=None)
    if last:
        word = "made last" if question.of_source else "arrived last"
        needed.setdefault(last.origin, word)
    naming, of_source = Naming(question.prefix), question.of_source
    rules = rules_of(question.policy, naming, course, of_source=of_source)
    verdicts = judge(snapshots, [*rules, keep_origins(needed)])
    return tuple(Verdict(v.snapshot, _in_short(v.reasons)) for v in verdicts)


def _in_short(reasons: Sequence[str]) -> tuple[str, ...]:
    """Return each reason once, and that of the clocks only where it is the only one."""
    others = tuple(dict.fromkeys(why for why in reasons if why != UNCONFIRMED))
    return others or tuple(dict.fromkeys(reasons))


def _dangers(
    question: Question, verdicts: Sequence[Verdict], course: Course
) -> Iterator[str]:
    """Say if more than half would go at once.

    With each run a number of snapshots is no surprise. Nor is a policy by time, if what
    went by is only time: if at the last backup, or before a pause, it kept what was
    there then.
    """
    to_delete = sum(not verdict.kept for verdict in verdicts)
    if 2 * to_delete <= len(verdicts):
        return
    if question.is_standing:
        if not question.policy.looks_at_time:
            return
        if _is_explained(question, [v.snapshot for v in verdicts], course):
            return
    which = f" that begin with {question.prefix!r}" if question.prefix else ""
    yield (
        f"{to_delete} of {len(verdicts)} {question.noun}s at {question.place}{which}"
        " would go, more than half"
    )


def _is_explained(
    question: Question, snapshots: Sequence[Snapshot], course: Course
) -> bool:
    """Tell whether the policy kept at least half of this a while ago."""
    moments = sorted(moment for moment, _ in _by_name(snapshots))
    before = [moment for moment in moments if moment < course.now]
    asked = {*before[-2:], *course.pauses}  # the very last one was made by this run
    for moment in sorted(asked, reverse=True):
        there = [
            replace(s, otime=s.otime if s.otime and s.otime <= moment else None)
            for s in snapshots
            if s.created and s.created <= moment
        ]
        if 2 * len(there) < len(snapshots):
            return False
        verdicts = _verdicts(question, there, Course(moment))
        if 2 * sum(not verdict.kept for verdict in verdicts) <= len(there):
            return True
    return False


def _waiting(
    question: Question, verdicts: Sequence[Verdict], course: Course
) -> Iterator[str]:
    """Say what stays only until the clock is confirmed, unless that is usual there."""
    waiting = sum(verdict.reasons == (UNCONFIRMED,) for verdict in verdicts)
    if waiting and (course.is_behind or course.jump):
        yield (
            f"{_counted(waiting, question.noun)} at {question.place}"
            f" {'stays' if waiting == 1 else 'stay'} that the policy no longer keeps:"
            f" {_why(course)}"
        )
    late = [v for v in verdicts if {FUTURE, CAME_IN_FUTURE} & set(v.reasons)]
    if late:
        name = late[-1].snapshot.name
        what = f"{name} at {question.place} is"
        they = "It counts for nothing and stays"
        if len(late) > 1:
            what = f"{name} and {len(late) - 1} more at {question.place} are"
            they = "They count for nothing and stay"
        yield (
            f"{what} dated later than the clock of this machine, so one of two clocks"
            f" is wrong, or was. {they} until that clock is synchronised"
        )


def _counted(count: int, noun: str) -> str:
    return f"1 {noun}" if count == 1 else f"{count} {noun}s"


def _why(course: Course) -> str:
    """Say why it may be earlier than this machine's clock says."""
    if course.jump is None:
        return "the clock of another machine of this run is behind the one here"
    before, after = (f"{moment:%Y-%m-%d}" for moment in course.jump)
    return (
        f"nothing was made from {before} to {after}, and nothing confirms that it is"
        f" {course.now:%Y-%m-%d} now. That goes once the clock of this machine is"
        " synchronised, or after backups on three more days"
    )
