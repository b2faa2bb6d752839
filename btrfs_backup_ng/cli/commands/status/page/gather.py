"""The contents of the page, from one look at places: a judgement of each series.

Verdicts and reasons are those of the planner that ``prune`` uses, and forecasts those
of ``list``: nothing is decided here.
"""

import os
import shlex
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import TypeVar
from uuid import UUID

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__util__ import BackupError, attempt, visible
from btrfs_backup_ng.actions.prune.place import (
    Needs,
    PruneRequest,
    common,
    course_of,
    judge_seen,
)
from btrfs_backup_ng.actions.status import Word
from btrfs_backup_ng.cli import values
from btrfs_backup_ng.cli.commands.status.lines import hints, texts
from btrfs_backup_ng.cli.commands.status.page.view import (
    Checked,
    Disk,
    Dot,
    Lane,
    PageView,
    Problem,
    Restorable,
)
from btrfs_backup_ng.cli.commands.status.view import StatusEntry
from btrfs_backup_ng.core.judgement import Clock
from btrfs_backup_ng.core.model import Result, Role
from btrfs_backup_ng.core.naming import prefix_in, time_in
from btrfs_backup_ng.core.policy import Policy, parse_policy
from btrfs_backup_ng.core.record import Unreadable
from btrfs_backup_ng.core.value import replace
from btrfs_backup_ng.host.machine import usual_prefix
from btrfs_backup_ng.place.contents import Kept, Seen, State
from btrfs_backup_ng.place.holds import parse_record
from btrfs_backup_ng.place.relations import foresee_all
from btrfs_backup_ng.place.sources import Series, parse_sources
from btrfs_backup_ng.session.history import PastRun, Record, runs_of
from btrfs_backup_ng.session.session import Session

T = TypeVar("T")

#: Runs in the drawing of transfers.
_RUNS = 60
#: Days of the history that count for the forecast of space, and the fewest.
_DAYS, _FEWEST_DAYS = 30, 2
#: Backups with a command, of each place, at most, and on the whole page.
_RESTORABLE_AT, _RESTORABLE = 24, 240
#: Damaged snapshots and the like that are named, at each place.
_NAMED = 5


def gather(
    entries: Sequence[StatusEntry],
    sources: Sequence[StatusEntry],
    records: Sequence[Record],
    session: Session,
) -> PageView:
    """Return all that the page shows.

    :param sources: those of configured volumes, which have no state of their own.
    """
    every = [*sources, *entries]
    now = session.now
    seen = {e.place: e.sight.contents for e in every if e.sight}
    forecasts = foresee_all(seen, now)
    return PageView(
        host=os.uname().nodename,
        now=now,
        entries=entries,
        lanes=tuple(_lanes(every, session)),
        runs=runs_at_once(runs_of(records))[-_RUNS:],
        disks=tuple(_disks(every, records, now)),
        next_backups={
            f"{source} → {place}": forecast.describe()
            for (source, place), forecast in forecasts.items()
        },
        checks=tuple(_checked(entry) for entry in every if entry.sight),
        problems=tuple(_problems(entries, sources, now)),
        restorable=tuple(_restorable(every)),
    )


def _lanes(every: Sequence[StatusEntry], session: Session) -> Iterator[Lane]:
    """Yield the timeline of each series of each entry."""
    looks: dict[tuple[str, Role], Seen] = {}
    for entry in every:
        for seen in entry.sight.contents.seen if entry.sight else ():
            looks.setdefault((entry.place, seen.role), seen)
    everything = list(looks.values())
    request = PruneRequest(
        keep=None,
        keep_at=None,
        prefix=None,
        usual_prefix=usual_prefix(),
        clock=Clock(session.now, session.is_synchronised),
    )
    needs = Needs(common(everything, session.now), course_of(everything, request))
    for entry in every:
        for seen in entry.sight.contents.seen if entry.sight else ():
            series = _series(entry, seen.role)
            for prefix, members in series.items():
                title = entry.title + (f", {prefix}" if len(series) > 1 else "")
                yield _lane(title, entry, seen, prefix, members, request, needs)


def _series(entry: StatusEntry, role: Role) -> dict[str, list[Kept]]:
    """Return the dated snapshots, or backups, of an entry by their prefixes."""
    found: dict[str, list[Kept]] = {}
    for kept in entry.sight.contents.kept if entry.sight else ():
        name = kept.snapshot.name
        if kept.kind is role and kept.state is not State.FOREIGN and time_in(name):
            found.setdefault(prefix_in(name), []).append(kept)
    return found


def _lane(
    title: str,
    entry: StatusEntry,
    seen: Seen,
    prefix: str,
    members: Sequence[Kept],
    request: PruneRequest,
    needs: Needs,
) -> Lane:
    """Return the timeline of a series, judged by the policy that counts there."""
    policy = entry.keep if entry.volume else _recorded_policy(seen, prefix)
    keep = policy or Policy(everything=True)
    request = replace(request, keep=keep, keep_at=keep, prefix=prefix)
    judged = attempt(partial(judge_seen, seen, request, needs))
    needed = {*needs.origins, *_held(entry, seen.role)}
    if isinstance(judged, BackupError):
        dots = [Dot(one.snapshot, ("not judged",), False) for one in members]
        return Lane(title, "", dots, judged.message)
    own = {one.snapshot.uuid for one in members}
    found = [
        Dot(one.snapshot, one.reasons, one.snapshot.origin in needed)
        for one in judged.verdicts
        if one.snapshot.uuid in own
    ]
    return Lane(title, str(policy) if policy else "all are kept", found)


def _held(entry: StatusEntry, role: Role) -> Collection[UUID]:
    """Return the origins that destinations need, as recorded at a source."""
    if role is not Role.SNAPSHOT or entry.sight is None:
        return ()
    every = entry.sight.contents.holds.values()
    return {hold.origin for holds in every for hold in holds}


def _recorded_policy(seen: Seen, prefix: str) -> Policy | None:
    """Return the policy that was applied to a series last; None if it is not known."""
    try:
        if seen.role is Role.BACKUP:
            text = parse_sources(seen.record).get(prefix, Series()).policy
        elif seen.record is None:
            return None
        else:
            policies = parse_record(seen.record).policies
            text = next((t for (_, p), t in policies.items() if p == prefix), "")
        words, _, zone = text.partition(" in ")
        return parse_policy(words, values.zone(zone) if zone else timezone.utc)
    except (Unreadable, ValueError, BackupError):
        return None  # none, or of a newer version


def runs_at_once(runs: Sequence[PastRun]) -> list[PastRun]:
    """Return what each run did at all of its destinations, the oldest first."""
    found: dict[tuple[datetime, str], PastRun] = {}
    for run in runs:
        if not (run.destination or run.errors):
            continue  # it made a snapshot, and that is no transfer
        key = run.time, run.source
        so_far = found.get(key) or PastRun(*key, "")
        sizes = (so_far.size_bytes, run.size_bytes)
        found[key] = PastRun(
            *key,
            "",
            sent=so_far.sent + run.sent,
            size_bytes=None if None in sizes else sum(size or 0 for size in sizes),
            elapsed_s=so_far.elapsed_s + run.elapsed_s,
            errors=so_far.errors + run.errors,
        )
    return list(found.values())


def _disks(
    every: Sequence[StatusEntry], records: Sequence[Record], now: datetime
) -> Iterator[Disk]:
    """Yield each filesystem once, with all places on it."""
    found: dict[tuple[str, int, int], dict[str, None]] = {}
    for entry in every:
        if entry.sight:
            facts = entry.sight.facts
            key = facts.filesystem[:8], facts.size_free, facts.size_used
            found.setdefault(key, {})[entry.place] = None
    for (_, free, used), places in found.items():
        yield Disk(tuple(places), free, used, daily_bytes(records, places, now))


def daily_bytes(
    records: Sequence[Record], places: Collection[str], now: datetime
) -> float | None:
    """Return the bytes that arrived at places on a day, by the last 30 days.

    :returns: None if less than two days are on record.
    """
    arrived = [
        r for r in records if r.destination in places and r.size_bytes and not r.error
    ]
    if not arrived:
        return None
    days = min((now - arrived[0].time) / timedelta(days=1), _DAYS)
    if days < _FEWEST_DAYS:
        return None
    since = now - timedelta(days=days)
    return sum(r.size_bytes or 0 for r in arrived if r.time >= since) / days


def _checked(entry: StatusEntry) -> Checked:
    assert entry.sight
    contents = entry.sight.contents
    good: dict[str, tuple[int, datetime]] = {}
    bad: list[str] = []
    for kept in contents.complete:
        seen = contents.verified.get(kept.snapshot.uuid)
        if seen and seen.result is Result.BAD:
            bad.append(kept.snapshot.name)
        elif seen:
            count, when = good.get(seen.level.value, (0, seen.when))
            good[seen.level.value] = count + 1, max(when, seen.when)
    return Checked(entry.title, len(contents.complete), good, tuple(bad))


def _problems(
    entries: Sequence[StatusEntry], sources: Sequence[StatusEntry], now: datetime
) -> Iterator[Problem]:
    """Yield what needs attention, each with at least one command."""
    for entry in entries:
        if not entry.is_fine(now):
            title = f"{entry.title}: {entry.word.value}"
            yield Problem(title, tuple(texts(entry, now)), tuple(_commands(entry)))
    for entry in (*entries, *sources):
        if entry.sight:
            yield from _flaws(entry)


def _commands(entry: StatusEntry) -> Iterator[str]:
    place = shlex.quote(entry.place)
    yield from hints(entry)
    if entry.word is Word.AWAY:
        yield visible(f"Find out why:  {PROGRAM} doctor {place}")
        return
    if not entry.run_line and entry.word in (Word.STALE, Word.FAILED, Word.NEVER):
        known = [*entry.last.failed, *filter(None, [entry.last.arrived])]
        source = shlex.quote(known[-1].source) if known else "SOURCE"
        where = "" if source == place else f" {place}"
        yield visible(f"Back up now:  {PROGRAM} {source}{where}")
    if entry.word is Word.FAILED:
        yield f"Past failures:  {PROGRAM} log --failures"


def _flaws(entry: StatusEntry) -> Iterator[Problem]:
    """Yield the problems of single snapshots and records at a place."""
    assert entry.sight
    contents, place = entry.sight.contents, shlex.quote(entry.place)
    verify = f"{PROGRAM} verify {place}"
    bad = _checked(entry).bad
    if bad:
        again = (f"{verify} {shlex.quote(name)}" for name in bad[:_NAMED])
        title = f"{entry.title}: {len(bad)} failed a verification"
        yield Problem(title, (), tuple(map(visible, again)))
    found = {one.snapshot.name: one.why for one in contents.kept if _is_flawed(one)}
    found |= {one.name: one.why for one in contents.broken}
    if found:
        lines = [f"{visible(name)}: {why}" for name, why in found.items()]
        title = f"{entry.title}: {len(found)} damaged or changed"
        yield Problem(title, tuple(lines[:_NAMED]), (visible(verify),))
    for text in contents.unread:
        line = visible(f"{PROGRAM} doctor {place}")
        yield Problem(f"{entry.title}: a record", (visible(text),), (line,))


def _is_flawed(kept: Kept) -> bool:
    return kept.state in (State.DAMAGED, State.CHANGED)


def _restorable(every: Sequence[StatusEntry]) -> Iterator[Restorable]:
    """Yield the commands that restore backups: of the newest, and some older ones."""
    most = max(min(_RESTORABLE // max(len(every), 1), _RESTORABLE_AT), 2)
    for entry in every:
        complete = entry.sight.contents.complete if entry.sight else ()
        backups = [one.snapshot for one in reversed(complete)]
        if not backups:
            continue
        words = [*entry.ssh_words, entry.place]
        lines = [
            (
                one.name,
                one.created,
                visible(
                    shlex.join([PROGRAM, "restore", *words, one.name, "--to", "."])
                ),
            )
            for one in _thinned(backups, most)
        ]
        others = visible(shlex.join([PROGRAM, "list", *words]))
        yield Restorable(entry.title, lines, len(backups), others)


def _thinned(newest_first: Sequence[T], most: int) -> list[T]:
    """Return some of many: the first half of them, and others at equal distances."""
    if len(newest_first) <= most:
        return list(newest_first)
    half = most // 2
    rest, wanted = newest_first[half:], most - half
    last = len(rest) - 1
    steps = (round(last * (number + 1) / wanted) for number in range(wanted))
    return [*newest_first[:half], *(rest[step] for step in steps)]
