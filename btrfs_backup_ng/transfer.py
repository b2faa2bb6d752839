"""Own one transfer: stages, the move, the check, the final name."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

from btrfs_backup_ng import codecs, wire
from btrfs_backup_ng.__util__ import BackupError, Interrupted, attempt
from btrfs_backup_ng.btrfs.parse import explain
from btrfs_backup_ng.command import Completed
from btrfs_backup_ng.endpoint.common import BtrfsEndpoint, Sink, new_transfer_id
from btrfs_backup_ng.model import TransferOptions
from btrfs_backup_ng.pipeline import Meter, Moved, PipelineFailed, run_pipeline
from btrfs_backup_ng.plan import Transfer
from btrfs_backup_ng.probe import probe_codec
from btrfs_backup_ng.route import Route, stages_between
from btrfs_backup_ng.sshutil.refusal import explain_session


def decided(
    route: Route, transfer: Transfer, source: BtrfsEndpoint, sink: BtrfsEndpoint
) -> Route:
    """Decide what is open about a route: whether it pays to compress.

    :raises BackupError: if that cannot be tried.
    """
    if route.codec != codecs.AUTO:
        return route
    plain = source.source(
        transfer.snapshot, transfer.parent, route.protocol, codecs.NONE
    )
    codec = probe_codec(source, sink, plain, codec=codecs.FASTEST)
    return replace(route, codec=codec)


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
    route: Route,
    options: TransferOptions,
    meter: Meter,
    now: datetime,
    before_publishing: Callable[[], None] = lambda: None,
) -> Moved:
    """Move one snapshot and publish it; durable when this returns.

    On failure nothing stands under the final name, and what was received is
    dropped, if the place can still be reached; else the next run drops it.

    :param before_publishing: what must have been done by then.
    :raises BackupError: if it failed.
    """
    transfer_id = new_transfer_id(now)
    snapshot = transfer.snapshot
    stages = (
        source.source(snapshot, transfer.parent, route.protocol, route.codec),
        *stages_between(source.location, sink.location, options, route.codec),
        sink.sink(transfer_id, snapshot, route.codec),
    )
    try:
        moved = run_pipeline(
            stages, meter=meter, stall_timeout_s=options.stall_timeout_s
        )
        before_publishing()
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
        error.hint = error.hint or _meaning(error.blamed)
        attempt(lambda: sink.discard([transfer_id]))
        raise
    except BackupError:
        attempt(lambda: sink.discard([transfer_id]))
        raise
    return moved


def _meaning(blamed: Completed) -> str:
    """Say what the failure of a stage means, or nothing."""
    if blamed.command.reports and blamed.status == wire.CODEC_FAILED:
        return "The (de)compressor there failed. Without one:  --compress none"
    if meaning := explain(blamed.stderr) or explain_session(blamed.stderr):
        return f"{blamed.command.label}: {meaning}."
    return ""
