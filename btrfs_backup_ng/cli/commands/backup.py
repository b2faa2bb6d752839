"""The classic form: jobs -> a backup run -> exit status."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from btrfs_backup_ng.__util__ import format_size
from btrfs_backup_ng.actions.backup.run import back_up
from btrfs_backup_ng.cli.backup_options import BackupOptions
from btrfs_backup_ng.cli.call import Call
from btrfs_backup_ng.cli.output import Output
from btrfs_backup_ng.cli.places import remembered
from btrfs_backup_ng.cli.session import open_progress, open_session
from btrfs_backup_ng.cli.sudo import become_root
from btrfs_backup_ng.core.events import Event, Sent, Tally, exit_status
from btrfs_backup_ng.core.model import Job, SshOptions
from btrfs_backup_ng.core.value import Value, replace
from btrfs_backup_ng.session.history import History, state_directory
from btrfs_backup_ng.session.session import Session

#: Tasks at once. Over ssh each needs up to four sessions of a master at a time, and
#: sshd allows ten (MaxSessions).
_SIDE_BY_SIDE, _SIDE_BY_SIDE_SSH = 4, 2
_LOOK_FOR_SIGNALS_S = 0.1


class BackupReport(Value):
    """The document of a run."""

    events: list[Event]


def run(options: BackupOptions, call: Call) -> int:
    """Run the tasks that the command line names, and return the exit status."""
    if options.as_root:
        become_root(call.words)
    events: list[Event] = []
    with (
        open_progress(call) as progress,
        open_session(call, SshOptions(), progress=progress) as session,
    ):
        output = Output(call, progress)

        def emit(event: Event) -> None:
            output.tell(event)
            events.append(event)

        session = replace(
            session,
            emit=emit,
            remember=History(state_directory()).add,
            recall=remembered,
        )
        status = exit_status(_run_side_by_side(options.jobs, session))
    planned = [e.size_bytes or 0 for e in events if isinstance(e, Sent) and e.dry]
    if len(planned) > 1:
        total = format_size(sum(planned))
        output.line(f"in total: about {total} in {len(planned)} transfers")
    return output.finish(status, BackupReport(events))


def _run_side_by_side(jobs: Sequence[Job], session: Session) -> list[Tally]:
    """Run each job in a thread; this one stays free for signals."""
    remote = any(place.is_remote for job in jobs for place in job.places)
    room = _SIDE_BY_SIDE_SSH if remote else _SIDE_BY_SIDE
    with ThreadPoolExecutor(room) as pool:
        futures = [pool.submit(back_up, job, session) for job in jobs]
        # Never without a limit: a signal that comes while another thread forks is
        # noted there, and does not wake this thread up, where its handler runs.
        while wait(futures, _LOOK_FOR_SIGNALS_S).not_done:
            pass
        return [future.result() for future in futures]
