"""A run of the configuration about which messages are sent: events -> what failed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime

from btrfs_backup_ng.__util__ import Busy, visible
from btrfs_backup_ng.cli.config.jobs import VolumePlan
from btrfs_backup_ng.cli.output import describe
from btrfs_backup_ng.core.events import Event, Failed, Noted, Tally, exit_status
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.naming import time_in
from btrfs_backup_ng.core.notices import (
    Affected,
    Age,
    Outcome,
    RunSight,
    find_failures,
    find_stale,
)
from btrfs_backup_ng.core.notifiers import Notifiers
from btrfs_backup_ng.core.value import replace
from btrfs_backup_ng.session.history import Record, state_directory
from btrfs_backup_ng.session.session import Session

#: The last events that a report has.
_IN_REPORT = 200


class NotifiedRun:
    """Hears the events of a run, and has the messages about it sent."""

    def __init__(
        self, notifiers: Notifiers, plans: Sequence[VolumePlan], *, is_whole: bool
    ) -> None:
        """Prepare.

        :param is_whole: it runs all that is configured. Else there is no ping, as that
            would say that all is well.
        """
        self._notifiers = notifiers if is_whole else replace(notifiers, ping=None)
        self._plans = plans
        # The last part is about the whole run.
        self._heard: list[list[Event]] = [[] for _ in range(len(plans) + 1)]

    def hearing(self, number: int, session: Session) -> Session:
        """Return the session of a volume whose events are heard, too."""

        def emit(event: Event) -> None:
            self._heard[number].append(event)
            session.emit(event)

        return replace(session, emit=emit)

    def around(
        self, work: Callable[[Session], list[Tally]], session: Session
    ) -> list[Tally]:
        """Do the work, and send the messages about its begin and its end.

        None are sent about the end of an interrupted run.
        """
        from btrfs_backup_ng.actions.notify.run import RunMessages  # here: few have it

        messages = RunMessages(self._notifiers, state_directory(), session)
        messages.begin()
        tallies = work(self.hearing(len(self._plans), session))
        outcomes = list(map(_outcome, self._plans, self._heard))
        beside = [event for event in self._heard[-1] if isinstance(event, Failed)]
        failed = find_failures(outcomes, beside)
        ages = _ages(self._plans, outcomes, session.recall())
        stale = find_stale(ages, session.now)
        sight = RunSight(failed.troubles + stale.troubles, failed.good + stale.good)
        events = [event for heard in self._heard for event in heard]
        report = "\n".join(map(_line, events[-_IN_REPORT:]))
        failures = {status for tally in tallies for status in tally.failures}
        is_busy = failures == {Busy.exit_status}
        messages.finish(sight, exit_status(tallies), report, is_busy=is_busy)
        return tallies


def _outcome(plan: VolumePlan, events: Iterable[Event]) -> Outcome:
    source = str(plan.job.source)
    subject = Affected(plan.name, "", source, "")
    targets = [
        (
            Affected(plan.name, _public(one.location, target.name), source, place),
            str(one.location),
        )
        for target, one in zip(plan.targets, plan.job.destinations)
        for place in [_public(one.location, str(one.location))]
    ]
    return Outcome(subject, tuple(targets), tuple(events))


def _ages(
    plans: Iterable[VolumePlan],
    outcomes: Iterable[Outcome],
    records: Iterable[Record],
) -> Iterator[Age]:
    """Yield the ages of the newest backups that arrived, where that is limited.

    A target may be away, so this machine's own records count.
    """
    newest: dict[tuple[str, str], datetime] = {}
    for record in records:
        if record.name and record.destination and not record.error:
            key = record.source, record.destination
            made = time_in(record.name) or record.time
            newest[key] = max(made, newest.get(key, made))
    for plan, outcome in zip(plans, outcomes):
        for target, (subject, _) in zip(plan.targets, outcome.targets):
            if target.max_age is not None:
                made_at = newest.get((subject.source, subject.destination))
                yield Age(subject, made_at, target.max_age)


def _public(location: Location, name: str) -> str:
    """Return a name, or only the scheme of a command, which may have secrets."""
    return "shell://" if location.is_command and "://" in name else name


def _line(event: Event) -> str:
    match event:
        case Failed():
            text = f"FAILED: {event.message}"
            return f"{visible(event.place)}: {text}" if event.place else text
        case Noted():
            return f"note: {event.text}"
    return describe(event)
