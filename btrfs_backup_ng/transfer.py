"""Own one transfer: stages, the move, the check, the final name."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from btrfs_backup_ng.__util__ import BackupError, Interrupted, UsageError, attempt
from btrfs_backup_ng.btrfs.parse import explain
from btrfs_backup_ng.endpoint.common import BtrfsEndpoint, Sink, new_transfer_id
from btrfs_backup_ng.location import Scheme
from btrfs_backup_ng.model import TransferOptions
from btrfs_backup_ng.pipeline import Meter, Moved, PipelineFailed, run_pipeline
from btrfs_backup_ng.plan import Transfer
from btrfs_backup_ng.command import Command, find_program

#: From these versions on, btrfs-progs send and receive compressed extents as they
#: lie on the disk (changelog of btrfs-progs; receive fell back wrongly before).
_COMPRESSED_SINCE = (6, 0)
#: What mbuffer may use; enough for a second or so of a fast disk.
_BUFFER = "64M"
#: send, ssh and receive keep two busy; there mbuffer costs a fifth of the throughput
#: (measured: benchmarks/README.md).
_CORES_FOR_A_BUFFER = 4


def send_protocol(source: BtrfsEndpoint, sink: Sink) -> int:
    """Give the stream version both ends can: 2 brings compressed data as it is."""
    ends = (source.facts, sink.facts)
    versions = [end.btrfs_version or (0, 0) for end in ends]
    if min(versions) < _COMPRESSED_SINCE:
        return 1
    return min(2, *(end.send_protocol for end in ends))


def middle_stages(
    options: TransferOptions, schemes: frozenset[Scheme], *, cores: int
) -> tuple[Command, ...]:
    """Give what stands between sender and receiver: rate limit and buffer.

    A buffer is of use where a network makes the ends take turns, so it is used
    there if it is installed and has a core to run on, and elsewhere on request.

    :param cores: how many this process may use.
    :raises UsageError: if what was asked for is not installed.
    """
    has_mbuffer = find_program("mbuffer") is not None
    wants_mbuffer = options.mbuffer
    if wants_mbuffer is None:
        is_ssh, has_room = Scheme.SSH in schemes, cores >= _CORES_FOR_A_BUFFER
        wants_mbuffer = has_mbuffer and is_ssh and has_room
    if options.mbuffer and not has_mbuffer:
        raise UsageError(
            "--use-mbuffer needs mbuffer, which is not installed",
            hint="Install it, or leave the option out.",
        )
    stages = []
    if options.rate is not None:
        if find_program("pv"):
            stages.append(_stage("pv", "-q", "-L", str(options.rate)))
        elif has_mbuffer and options.mbuffer is not False:
            rate = str(options.rate)
            return (_stage("mbuffer", "-q", "-m", _BUFFER, "-R", rate),)
        else:
            raise UsageError(
                "--rate needs pv or mbuffer, and neither is installed",
                hint="Install pv, or leave the option out.",
            )
    if wants_mbuffer:
        stages.append(_stage("mbuffer", "-q", "-m", _BUFFER, "-s", "128k"))
    return tuple(stages)


def _stage(*argv: str) -> Command:
    return Command(argv, label=argv[0])


@contextmanager
def expecting(
    meter: Meter, source: BtrfsEndpoint, transfer: Transfer, *, wanted: bool
) -> Iterator[None]:
    """Find out beside a transfer how much it will move, for percent and ETA.

    :param wanted: whether anybody is looking.
    """
    if not wanted or meter.expected_bytes is not None:
        yield
        return
    over = threading.Event()

    def estimate() -> None:
        size = attempt(
            lambda: source.size_since(transfer.snapshot, transfer.parent, over)
        )
        if isinstance(size, int) and not over.is_set():
            meter.expected_bytes = size

    thread = threading.Thread(target=estimate, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def run_transfer(
    transfer: Transfer,
    source: BtrfsEndpoint,
    sink: Sink,
    *,
    options: TransferOptions,
    meter: Meter,
    now: datetime,
) -> Moved:
    """Move one snapshot and publish it; durable when this returns.

    On failure nothing stands under the final name, and what was received is
    dropped, if the place can still be reached; else the next run drops it.

    :raises BackupError: if it failed.
    """
    transfer_id = new_transfer_id(now)
    snapshot = transfer.snapshot
    schemes = frozenset((source.location.scheme, sink.location.scheme))
    stages = (
        source.source(snapshot, transfer.parent, protocol=send_protocol(source, sink)),
        *middle_stages(options, schemes, cores=len(os.sched_getaffinity(0))),
        sink.sink(transfer_id, snapshot),
    )
    try:
        moved = run_pipeline(
            stages, meter=meter, stall_timeout_s=options.stall_timeout_s
        )
        sink.accept(
            transfer_id,
            snapshot,
            transfer.target,
            output=moved.output,
            verify=options.verify,
        )
    except Interrupted:
        raise
    except PipelineFailed as error:
        meaning = explain(error.blamed.stderr)
        if meaning and not error.hint:
            error.hint = f"{error.blamed.command.label}: {meaning}."
        attempt(lambda: sink.discard([transfer_id]))
        raise
    except BackupError:
        attempt(lambda: sink.discard([transfer_id]))
        raise
    return moved
