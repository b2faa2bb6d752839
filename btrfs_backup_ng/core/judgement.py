"""Which snapshots of a series are deleted, by a policy and by every clock there is.

A wrong clock must not delete. The rule: **A snapshot is deleted only if it is
superseded at every time that it may be now. It may be any time that a clock of the run
shows; and, if nothing was made for two days or longer before now, also the time at
which that gap began, until snapshots were made on three more days or another clock
confirms the new time.** So a clock that is ten years ahead deletes nothing, for a run
or a day of runs; a machine that was off for two months backs up at once and is pruned a
few runs later. Every such time is one more rule, and rules only keep. Sending does not
depend on the clock.

- The clock is **confirmed**, and then it alone counts, if the kernel says that it is
  synchronised (``adjtimex``; setting the clock by hand clears that mark), or if another
  machine of the run shows the same within ten minutes (``hello``). If a machine shows
  an earlier time, snapshots wanted at that time are kept, too, while the clocks
  disagree.
- The snapshots that show days after a gap (the first of each of four days) are kept
  meanwhile. A snapshot made before one with an earlier date proves nothing: a clock
  that jumps at each start and is corrected later is never believed. A jump of less
  than two days costs at most the snapshots of these two days.
- A snapshot **dated in the future** is kept and does not count. Once the clock is
  confirmed, it is judged by its order: a filesystem numbers its snapshots, so it was
  made between its neighbours, and its time is counted back from the later one. It never
  takes the place of another snapshot. Without a confirmed clock it is kept until its
  date, or ``prune --force``.
- Dates may contradict that order, also after a clock was set back. Nothing shows which
  of two is wrong, so the series is judged without the one and without the other.
  Backups are judged so by their times of arrival.
- Numbers (``-n``, ``latest=N``) need no clock; only snapshots dated in the future are
  kept beside them.
- **More than half** is not deleted at once: ``prune`` refuses it, and a run does not do
  it by a policy that is new there, or tighter. The records of a place have the policy
  that was applied to each series last (``holds.json``, ``sources.json``), so the same
  one, or one that keeps more, may delete any number after a pause or failed runs. A
  series without snapshots takes the policy of its first run. A run without a policy
  leaves the one on record, as the policy may be in another job (each hour without one,
  ``-n 60`` each week); ``all`` is a policy that keeps all. A policy that waits is not
  recorded: it waits until ``prune --force``, or until it deletes half at most. On a
  full source, snapshots that a destination of the run has do not count.
- A postponed deletion is reported with the command that overrules it (``prune
  --force``: plan and clock are right); the exit status stays 0, as with damaged
  records. A doubt (a damaged record) cannot be overruled.
- Snapshots are sent in the order of creation, and a transfer that was begun is always
  worth sending: one that was interrupted under a wrong clock is resumed. Staging
  expires by the earliest time that it may be.

For tests alone ``BTRFS_BACKUP_NG_CLOCK`` shifts the clock by so many seconds, and says
whether it is ``synchronised``.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from itertools import accumulate, pairwise
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
from btrfs_backup_ng.core.value import EMPTY, Value

#: After a longer gap the machine was off, or its clock has jumped.
_JUMP = timedelta(days=2)
#: Snapshots on so many days after a gap confirm the new time, each so much after the
#: one before; less than a day, as backups do not start on the second.
_DAYS = 4
_DAY = timedelta(hours=20)


class Clock(Value):
    """The time, by all clocks of a run.

    :ivar now: by this machine; aware.
    :ivar is_synchronised: the kernel says that its clock follows another one, or the
        user says so.
    :ivar others: clocks of other machines at the same moment.
    """

    now: datetime
    is_synchronised: bool = False
    others: tuple[datetime, ...] = ()

    @property
    def is_confirmed(self) -> bool:
        """Whether another clock shows the same time."""
        near = (abs(other - self.now) <= TOLERANCE for other in self.others)
        return self.is_synchronised or any(near)


def later(now: datetime, seconds: float) -> datetime:
    """Return a time so many seconds later, within the years that ``datetime`` knows."""
    try:
        return now + timedelta(seconds=seconds)
    except OverflowError:
        edge = datetime.max if seconds > 0 else datetime.min
        return edge.replace(tzinfo=timezone.utc)


class Course(Value):
    """The times that it may be, by all clocks and by all snapshots.

    :ivar now: by this machine's clock; aware.
    :ivar is_confirmed: another clock shows the same.
    :ivar earlier: the other times that it may be.
    :ivar is_behind: another machine of the run shows an earlier time.
    :ivar jump: the last two times between which the clock may have jumped, if the gap
        between them is unusual.
    :ivar shown: the times of snapshots that confirm, in the end, that the clock did not
        jump.
    :ivar dates: origin -> latest possible time of creation, for snapshots whose name is
        later than a confirmed clock.
    """

    now: datetime
    is_confirmed: bool = True
    earlier: tuple[datetime, ...] = ()
    is_behind: bool = False
    jump: tuple[datetime, datetime] | None = None
    shown: frozenset[datetime] = frozenset()
    dates: Mapping[UUID, datetime] = EMPTY

    @property
    def earliest(self) -> datetime:
        return min((self.now, *self.earlier))


def find_course(clock: Clock, places: Iterable[Collection[Snapshot]]) -> Course:
    """Find the times that it may be.

    A long gap may be a jump of the clock. It is treated as one until snapshots were
    made on three more days, or another clock confirms the time.

    :param places: the snapshots of each of them, those of a source first.
    """
    places = list(map(list, places))
    seen = {clock.now}
    refuted = set()
    for snapshots in places:
        for dated in (_by_name(snapshots), _by_arrival(snapshots)):
            seen |= {moment for moment, _ in dated if moment <= clock.now + TOLERANCE}
            too_late, _ = _out_of_order(dated)
            refuted |= {moment for moment, s in dated if s.uuid in too_late}
    ordered = sorted(seen)
    gaps = [gap for gap in pairwise(ordered) if gap[1] - gap[0] > _JUMP]
    if clock.is_confirmed:
        dates: dict[UUID, datetime] = {}
        for snapshots in places:
            late = _dates(_by_name(snapshots), clock.now)
            for snapshot in snapshots:
                if snapshot.uuid in late:
                    dates.setdefault(snapshot.origin, late[snapshot.uuid])
        return Course(clock.now, dates=dates)
    credible = [moment for moment in ordered if moment not in refuted]
    doubted = [(gap, days) for gap in gaps if len(days := _days(gap, credible)) < _DAYS]
    behind = {other for other in clock.others if other < clock.now - TOLERANCE}
    return Course(
        clock.now,
        is_confirmed=False,
        earlier=tuple(sorted(behind | {before for (before, _), _ in doubted})),
        is_behind=bool(behind),
        jump=next((g for g, _ in reversed(doubted) if _is_odd(g, ordered)), None),
        shown=frozenset(day for _, days in doubted for day in days),
    )


_Dated = Sequence[tuple[datetime, Snapshot]]
_Gap = tuple[datetime, datetime]


def _by_name(snapshots: Collection[Snapshot]) -> _Dated:
    return [(s.created, s) for s in snapshots if s.created is not None]


def _by_arrival(snapshots: Collection[Snapshot]) -> _Dated:
    return [(s.otime, s) for s in snapshots if s.otime is not None]


def _out_of_order(dated: _Dated) -> tuple[set[UUID], set[UUID]]:
    """Return the snapshots dated after a newer one, and those dated before an older.

    The order in which a filesystem made them does not depend on any clock.
    """
    ordered = sorted(dated, key=_made_at)
    moments = [moment for moment, _ in ordered]
    latest_until = accumulate(moments, max)
    earliest_from = reversed(list(accumulate(reversed(moments), min)))
    too_late = set()
    too_early = set()
    for (moment, s), latest, earliest in zip(ordered, latest_until, earliest_from):
        if moment > earliest + TOLERANCE:
            too_late.add(s.uuid)
        if moment < latest - TOLERANCE:
            too_early.add(s.uuid)
    return too_late, too_early


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
    """Return whether a gap is more than twice as long as the time before it."""
    before, after = gap
    position = ordered.index(before)
    pace = before - ordered[position - 1] if position else timedelta()
    return bool(after - before > 2 * pace)


def _dates(dated: _Dated, now: datetime) -> dict[UUID, datetime]:
    """Return when snapshots dated in the future were made, if a later one shows it.

    The clock that dated them was wrong, but may have run at the right speed. So they
    are counted back from the next snapshot, no further than the one before them.

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
    """Keep snapshots by the times in their names, at each time that it may be."""

    def claims(snapshots: Sequence[Snapshot]) -> Mapping[UUID, tuple[str, ...]]:
        times = [(naming.time_of(s.name), s) for s in snapshots]
        foreign = {s.uuid: (NOT_OURS,) for moment, s in times if moment is None}
        dated = [(moment, s) for moment, s in times if moment is not None]
        dates = _dates(dated, course.now) if course.is_confirmed else {}
        for _, snapshot in dated:
            if snapshot.origin in course.dates:
                dates[snapshot.uuid] = course.dates[snapshot.origin]
        return foreign | _keep_redated(policy, dated, dates, course, FUTURE)

    return claims


def keep_by_policy_on_arrival(policy: Policy, naming: Naming, course: Course) -> Rule:
    """Keep backups by their times of arrival, at each time that it may be.

    The sender cannot change those, so no invented name makes an older backup look
    superseded. Backups without a known time of arrival are not claimed.
    """

    def claims(snapshots: Sequence[Snapshot]) -> Mapping[UUID, tuple[str, ...]]:
        ours = [s for s in snapshots if naming.time_of(s.name) is not None]
        dated = _by_arrival(ours)
        dates = _dates(dated, course.now) if course.is_confirmed else {}
        future = CAME_IN_FUTURE
        return _keep_redated(policy, dated, dates, course, future, BY_ARRIVAL)

    return claims


def keep_made_in_order(
    policy: Policy, naming: Naming, course: Course, *, of_source: bool
) -> Rule:
    """Keep snapshots that were dated in the order of their creation.

    Where two contradict each other, a wrong clock dated one of them, and nothing shows
    which. So the series is judged without the one and without the other. A snapshot
    dated in the future does not supersede those really made at that time, also once
    its date has come; nor does one dated by a clock that was set back supersede older
    ones. Backups arrive in any order of their names, so their times of arrival count.
    """

    def claims(snapshots: Sequence[Snapshot]) -> Mapping[UUID, tuple[str, ...]]:
        ours = [s for s in snapshots if naming.time_of(s.name) is not None]
        every = _by_name(ours) if of_source else _by_arrival(ours)
        dated = [item for item in every if item[0] <= course.now + TOLERANCE]
        kept: Mapping[UUID, tuple[str, ...]] = {}
        suffix = "" if of_source else BY_ARRIVAL
        for wrong in filter(None, _out_of_order(dated)):
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
    future: str,
    suffix: str = "",
) -> dict[UUID, tuple[str, ...]]:
    """Keep snapshots without the wrongly dated ones, and with their real dates.

    The second judgement only adds to the first, so it deletes nothing.

    :param dates: UUID -> real date of a wrongly dated snapshot.
    """
    rest = [(moment, s) for moment, s in dated if s.uuid not in dates]
    real = [(dates.get(s.uuid, moment), s) for moment, s in dated] if dates else []
    return _merged(
        keep_dated(policy, rest, course.now, future, suffix),
        keep_dated(policy, real, course.now, FUTURE, suffix),
        _keep_by_earlier(policy, dated, course),
    )


def _keep_by_earlier(
    policy: Policy, dated: _Dated, course: Course
) -> Mapping[UUID, tuple[str, ...]]:
    """Keep snapshots wanted at the other possible times; numbers need no clock."""
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
    found: dict[UUID, tuple[str, ...]] = {}
    for claim in claims:
        for uuid, reasons in claim.items():
            before = found.get(uuid, ())
            new = tuple(why for why in reasons if why not in before)
            found[uuid] = before + new
    return found


class Question(Value):
    """One series at one place, to be judged.

    :ivar place: its name in messages.
    :ivar noun: ``snapshot`` or ``backup``.
    :ivar prefix: of all the names.
    :ivar needed: origin -> why its snapshot must be kept.
    :ivar of_source: the snapshots were made here, not received.
    :ivar doubts: why nothing may be deleted there in this run.
    :ivar is_forced: the user says that the plan, and the clock, are right.
    :ivar applied: the policy on record for the series, "" for none; None if the policy
        comes once from the user, and not with each run.
    :ivar expendable: origins of which a new policy may delete any number: a full source
        needs the room, and a destination of the run has them.
    """

    place: str
    noun: str
    prefix: str
    policy: Policy
    needed: Mapping[UUID, str]
    of_source: bool
    doubts: tuple[str, ...] = ()
    is_forced: bool = False
    applied: str | None = None
    expendable: Collection[UUID] = ()


class Judgement(Value):
    """The verdicts on a series.

    :ivar verdicts: oldest first.
    :ivar doubts: why nothing may be deleted there.
    :ivar dangers: why nothing should be deleted without force.
    :ivar waiting: why some deletions are postponed.
    """

    verdicts: tuple[Verdict, ...]
    doubts: tuple[str, ...] = ()
    dangers: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()

    @property
    def withheld(self) -> tuple[str, ...]:
        return self.doubts + self.dangers

    @property
    def to_delete(self) -> list[Snapshot]:
        """Return the snapshots that no rule keeps, oldest first."""
        return [v.snapshot for v in self.verdicts if not v.kept]


def rules_of(
    policy: Policy, naming: Naming, course: Course, *, of_source: bool
) -> list[Rule]:
    """Return the rules for the snapshots of a source, or for backups.

    A backup has two times. The sender chooses its name, so a backup is kept by its
    time of arrival whatever its name. But a backlog arrives at once, so a backup is
    kept by the time in its name, too.
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
    """Decide which snapshots of a series are deleted, and list the reasons against it.

    The snapshot that the filesystem made last is always kept, whatever the clocks say.

    :param snapshots: with names of this prefix; other names are kept.
    """
    verdicts = _verdicts(question, snapshots, course)
    return Judgement(
        verdicts,
        question.doubts,
        () if question.is_forced else tuple(_dangers(question, verdicts)),
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
    """Return each reason once; that of the clocks only if it is the only one."""
    others = tuple(dict.fromkeys(why for why in reasons if why != UNCONFIRMED))
    return others or tuple(dict.fromkeys(reasons))


def _dangers(question: Question, verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Object if a new policy would delete more than half at once."""
    deleted = [verdict.snapshot for verdict in verdicts if not verdict.kept]
    lost = [s for s in deleted if s.origin not in question.expendable]
    count = len(deleted)
    policy, applied = question.policy, question.applied
    if 2 * len(lost) <= len(verdicts):
        return
    if applied is not None and policy.keeps_all_of(applied):
        return
    which = f" that begin with {question.prefix!r}" if question.prefix else ""
    subject = f"{question.noun}s at {question.place}{which}"
    if applied is None:
        yield f"{count} of {len(verdicts)} {subject} would be deleted, more than half"
        return
    before = f" (until now: {applied})" if applied else ""
    yield (
        f"the policy {policy.for_record} is new for the {subject}{before}: {count} of"
        f" {len(verdicts)} would be deleted, more than half"
    )


def _waiting(
    question: Question, verdicts: Sequence[Verdict], course: Course
) -> Iterator[str]:
    """Report deletions that wait for a confirmed clock, if that is unusual there."""
    waiting = sum(verdict.reasons == (UNCONFIRMED,) for verdict in verdicts)
    if waiting and (course.is_behind or course.jump):
        yield (
            f"{_counted(waiting, question.noun)} at {question.place} that the policy no"
            f" longer keeps {'is' if waiting == 1 else 'are'} kept for now:"
            f" {_why(course)}"
        )
    late = [v for v in verdicts if {FUTURE, CAME_IN_FUTURE} & set(v.reasons)]
    if late:
        name = late[-1].snapshot.name
        subject = f"{name} at {question.place} is"
        they = "It is ignored and kept"
        if len(late) > 1:
            subject = f"{name} and {len(late) - 1} more at {question.place} are"
            they = "They are ignored and kept"
        yield (
            f"{subject} dated later than the clock of this machine, so one of the"
            f" two clocks is or was wrong. {they} until that clock is synchronised"
        )


def _counted(count: int, noun: str) -> str:
    return f"1 {noun}" if count == 1 else f"{count} {noun}s"


def _why(course: Course) -> str:
    """Return why it may be earlier than this machine's clock shows."""
    if course.jump is None:
        return "the clock of another machine of this run is behind the one here"
    before, after = (f"{moment:%Y-%m-%d}" for moment in course.jump)
    return (
        f"no snapshot was made from {before} to {after}, and nothing confirms that it"
        f" is {course.now:%Y-%m-%d} now. This ends once the clock of this machine is"
        " synchronised, or after backups on three more days"
    )
