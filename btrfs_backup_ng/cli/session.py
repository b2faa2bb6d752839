"""The set-up of the session that all actions of a call share."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from btrfs_backup_ng.cli.call import Call
from btrfs_backup_ng.core.model import SshOptions
from btrfs_backup_ng.endpoint.ssh import Connections
from btrfs_backup_ng.host.clock import read_clock
from btrfs_backup_ng.session.history import History, state_directory
from btrfs_backup_ng.session.progress import Progress, request_line
from btrfs_backup_ng.session.session import Session
from btrfs_backup_ng.session.turns import Turns


def open_progress(call: Call) -> Progress:
    """Return the progress of transfers, shown as the call asks for.

    SIGUSR1 asks for a line for each of them.
    """
    signal.signal(signal.SIGUSR1, lambda number, frame: request_line())
    return Progress(call.is_watched, silent=call.quiet)


@contextmanager
def open_session(
    call: Call, ssh: SshOptions, folder: str = "", progress: Progress | None = None
) -> Iterator[Session]:
    """Return the session of a call; its connections end with the context.

    :param folder: where a source's snapshots are.
    """
    with Connections() as connections:
        clock = read_clock()
        yield Session(
            now=clock.now,
            connections=connections,
            sudo_line=call.sudo_line,
            progress=progress or Progress(enabled_line=False, silent=True),
            turns=Turns(),
            remember=History(state_directory()).add,
            ssh=ssh,
            folder=folder,
            watched=call.is_watched,
            is_synchronised=clock.is_synchronised,
        )
