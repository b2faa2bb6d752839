"""The classic form: jobs -> a backup run -> exit status."""

import threading
from collections.abc import Callable
from functools import partial

from btrfs_backup_ng.__util__ import format_size
from btrfs_backup_ng.actions.backup.run import back_up
from btrfs_backup_ng.cli.backup_options import BackupOptions
from btrfs_backup_ng.cli.call import Call
from btrfs_backup_ng.cli.output import Output
from btrfs_backup_ng.cli.session import open_progress, open_session
from btrfs_backup_ng.cli.sudo import become_root
from btrfs_backup_ng.core.events import Event, Sent, Tally, exit_status
from btrfs_backup_ng.core.model import Job, SshOptions
from btrfs_backup_ng.core.value import Value, replace
from btrfs_backup_ng.session.history import remembered
from btrfs_backup_ng.session.session import Session
from btrfs_backup_ng.session.turns import Turns

#: Tasks at once, unless --jobs says otherwise. On a host behind ssh each needs up to
#: four sessions of a connection at a time, and sshd allows ten (MaxSessions).
_AT_ONCE, _AT_ONCE_ON_A_HOST = 8, 2
#: Transfers at once from or to one disk with --jobs. Some hosts send more slowly than a
#: disk writes, so several fill it; many make it seek, and each holds staging and room.
_ON_A_DISK = 4


class BackupReport(Value):
    """The document of a run."""

    events: list[Event]


#: Does one job; its number, the job, and a session that shows its events.
Work = Callable[[int, Job, Session], Tally]
#: Does all jobs, by a function that returns their tallies, and more before and after.
Around = Callable[[Callable[[], list[Tally]], Session], list[Tally]]


def _back_up(number: int, job: Job, session: Session) -> Tally:
    return back_up(job, session)


def _alone(work: Callable[[], list[Tally]], session: Session) -> list[Tally]:
    return work()


def run(
    options: BackupOptions,
    call: Call,
    do: Work = _back_up,
    around: Around = _alone,
) -> int:
    """Run the tasks that the command line names, and return the exit status."""
    if options.as_root:
        become_root(call.words)
    with (
        open_progress(call) as progress,
        open_session(call, SshOptions(), progress=progress) as session,
    ):
        output = Output(call, progress)
        reports = Reports(output.tell, len(options.jobs))
        session = replace(
            session,
            recall=remembered,
            turns=Turns(1 if options.at_once is None else _ON_A_DISK),
        )
        work = partial(_run_tasks, options, session, reports, do)
        tallies = around(work, replace(session, emit=reports.tell_beside))
        status = exit_status(tallies)
    events = reports.events
    planned = [e.size_bytes or 0 for e in events if isinstance(e, Sent) and e.dry]
    if len(planned) > 1:
        total = format_size(sum(planned))
        output.line(f"in total: about {total} in {len(planned)} transfers")
    return output.finish(status, BackupReport(events))


def _run_tasks(
    options: BackupOptions, session: Session, reports: "Reports", do: Work
) -> list[Tally]:
    """Run the tasks, several side by side as far as they may."""
    reports.begin()

    def work(number: int, job: Job) -> Tally:
        emit = partial(reports.tell, number)
        try:
            return do(number, job, replace(session, emit=emit))
        finally:
            reports.end(number)

    if len(options.jobs) == 1:
        return [work(0, *options.jobs)]
    from btrfs_backup_ng.session import side_by_side  # here: for several tasks

    tasks = [
        side_by_side.Task(job.places, partial(work, number, job))
        for number, job in enumerate(options.jobs)
    ]
    at_once = options.at_once or _AT_ONCE
    on_a_host = options.at_once or _AT_ONCE_ON_A_HOST
    try:
        return side_by_side.run_side_by_side(
            tasks,
            at_once=at_once,
            at_once_on_a_host=on_a_host,
            allows=session.connections.allow,
            waits=session.connections.awaits,
        )
    finally:
        for number in range(len(tasks)):  # those that a signal kept from starting
            reports.end(number)


class Reports:
    """The events of several tasks: each task's together, in the order of the tasks.

    Those of the first task that is not over are shown as they happen, those of the
    others when the tasks before are over. The events beside the tasks come before and
    after all of them.
    """

    def __init__(self, show: Callable[[Event], None], count: int) -> None:
        """Prepare.

        :param count: of the tasks.
        """
        self._show = show
        # The first and the last of these parts are the events beside the tasks.
        self._told: list[list[Event]] = [[] for _ in range(count + 2)]
        self._over: set[int] = set()
        self._first = 0  # of those that are not over
        self._guard = threading.Lock()

    @property
    def events(self) -> list[Event]:
        return [event for told in self._told for event in told]

    def tell_beside(self, event: Event) -> None:
        """Take an event from before or after all tasks."""
        self._tell(0 if 0 not in self._over else len(self._told) - 1, event)

    def begin(self) -> None:
        """Note that the tasks begin."""
        self._end(0)

    def tell(self, number: int, event: Event) -> None:
        """Take an event of a task, from any thread."""
        self._tell(number + 1, event)

    def end(self, number: int) -> None:
        """Note that a task is over; may be repeated."""
        self._end(number + 1)

    def _tell(self, part: int, event: Event) -> None:
        with self._guard:
            self._told[part].append(event)
            if part == self._first:
                self._show(event)

    def _end(self, part: int) -> None:
        with self._guard:
            self._over.add(part)
            while self._first in self._over:
                self._first += 1
                for event in self._told[self._first]:
                    self._show(event)
