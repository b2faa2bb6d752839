"""One transfer: stages, the move, the check, the final name; and its resumption."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime

from btrfs_backup_ng.__util__ import (
    BackupError,
    Interrupted,
    attempt,
    format_size,
    visible,
)
from btrfs_backup_ng.btrfs.parse import explain, is_full
from btrfs_backup_ng.core import codecs
from btrfs_backup_ng.core.location import Scheme
from btrfs_backup_ng.core.model import Integrity, Snapshot, TransferOptions
from btrfs_backup_ng.core.plan import Transfer
from btrfs_backup_ng.endpoint import staging
from btrfs_backup_ng.endpoint.common import (
    BtrfsEndpoint,
    Sink,
    WrongArrival,
    new_transfer_id,
)
from btrfs_backup_ng.endpoint.staging import Checkpoint
from btrfs_backup_ng.host.entry import refusal_by_verb
from btrfs_backup_ng.process.child import check_interrupted
from btrfs_backup_ng.process.command import Command, CommandFailed, TimedOut
from btrfs_backup_ng.process.pipeline import (
    Meter,
    Moved,
    PipelineFailed,
    TooLarge,
    run_pipeline,
)
from btrfs_backup_ng.sendstream.filter import DIFFERS, filter_argv, filter_words
from btrfs_backup_ng.sshutil.refusal import explain_session
from btrfs_backup_ng.transfer.probe import probe_codec
from btrfs_backup_ng.transfer.route import Route, stages_between
from btrfs_backup_ng.transfer.size import stream_size, written_since
from btrfs_backup_ng.wire import grammar

log = logging.getLogger(__name__)

_FILTER = "the checkpoint filter"
#: How long a receiver behind a wire may take to see that its stream is over.
_ENDING_S = 10.0
#: CPU time for finding out how long a stream is going to be, while it moves.
_MEASURING_S = 2.0


@dataclass(frozen=True, slots=True)
class Way:
    """How one snapshot goes.

    :ivar interval: bytes between two checkpoints, 0 for none.
    :ivar checkpoint: where an earlier attempt was cut, if it can go on.
    """

    route: Route
    options: TransferOptions
    interval: int = 0
    checkpoint: Checkpoint | None = None


class StreamChanged(BackupError):
    """A cut transfer cannot go on: the stream is not what it was."""


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
    meter: Meter,
    source: BtrfsEndpoint,
    transfer: Transfer,
    protocol: str,
    *,
    wanted: bool,
) -> Iterator[None]:
    """Find out beside a transfer how much it will move, for percent and ETA.

    First roughly, if nothing is known; then exactly, as long as that takes little CPU
    from the transfer.

    :param wanted: whether anybody is looking.
    """
    if not wanted:
        yield
        return
    over = threading.Event()

    def measure() -> None:
        what = transfer.snapshot, transfer.parent
        if meter.expected_bytes is None:
            expect(lambda: written_since(source, *what, over=over))
        expect(lambda: stream_size(source, *what, protocol, over, _MEASURING_S))

    def expect(way: Callable[[], int]) -> None:
        size = attempt(way)
        if isinstance(size, int) and not over.is_set():
            meter.expected_bytes = size

    thread = threading.Thread(target=measure, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def find_checkpoint(
    keeper: BtrfsEndpoint, attempts: Sequence[str], snapshot: Snapshot
) -> Checkpoint | None:
    """Find where an earlier attempt at a transfer was cut, if it can go on there.

    What still works on it is ended; what cannot go on is dropped.

    :param attempts: ids of the attempts.
    :raises BackupError: if the place cannot be asked.
    """
    found: Checkpoint | None = None
    for transfer_id in attempts:
        try:
            checkpoint = _unchanged(keeper, keeper.checkpoint(transfer_id, snapshot))
        except CommandFailed as error:
            if error.completed.status != grammar.BUSY:
                raise
            text = "%s: an earlier transfer (%s) still runs and cannot be ended"
            log.warning(text, keeper, transfer_id)
            continue
        if checkpoint is None or (found and found.offset >= checkpoint.offset):
            _drop(keeper, transfer_id)
        else:
            found = checkpoint
    return found


def _unchanged(
    keeper: BtrfsEndpoint, checkpoint: Checkpoint | None
) -> Checkpoint | None:
    """Return a checkpoint only if nobody wrote to its seal, as far as one can see."""
    if checkpoint is None:
        return None
    seal = keeper.look_closely([checkpoint.tree_id], are_checkpoints=True)
    if seal is Integrity.CHANGED:
        log.warning("%s: a checkpoint was written to; it is not built upon", keeper)
        return None
    return checkpoint


def _drop(keeper: BtrfsEndpoint, transfer_id: str) -> None:
    """Drop what is left of an attempt; what cannot be dropped is in nobody's way."""
    error = attempt(lambda: keeper.discard([transfer_id]))
    if isinstance(error, BackupError):
        log.warning("%s: what is left of %s stays: %s", keeper, transfer_id, error)


def run_transfer(
    transfer: Transfer,
    source: BtrfsEndpoint,
    sink: Sink,
    *,
    way: Way,
    meter: Meter,
    now: datetime,
    before_publishing: Callable[[], None] = lambda: None,
) -> Moved:
    """Move one snapshot and publish it; durable when this returns.

    On failure nothing stands under the final name. What can go on from a checkpoint
    stays in staging; else what was received is dropped, if the place can still be
    reached, or else by the next run. A place that fell silent is not asked again.

    :param before_publishing: what must have been done by then.
    :raises StreamChanged: if ``way.checkpoint`` is of no use; it was dropped.
    :raises BackupError: if it failed.
    """
    snapshot, checkpoint = transfer.snapshot, way.checkpoint
    if checkpoint:
        transfer_id = checkpoint.transfer_id
        meter.resumed_bytes = checkpoint.offset
    else:
        what = snapshot, transfer.parent, way.route.protocol
        transfer_id = staging.full_id(new_transfer_id(now), *what)
    stages = _stages(transfer, transfer_id, source, sink, way)
    try:
        moved = run_pipeline(
            stages,
            meter=meter,
            stall_timeout_s=way.options.stall_timeout_s,
            max_size=way.options.max_size,
        )
        before_publishing()
        sink.accept(
            transfer_id,
            snapshot,
            transfer.target,
            output=moved.output,
            verify=way.options.verify,
        )
    except (Interrupted, TimedOut):
        raise
    except TooLarge as error:
        error.hint = _drop_all(sink, transfer_id)
        raise
    except PipelineFailed as error:
        if checkpoint and _differs(error):
            sink.discard([transfer_id])
            raise StreamChanged(
                f"the stream of {visible(snapshot.name)} is not the one whose beginning"
                f" ({format_size(checkpoint.offset)}) is at {sink}"
            ) from error
        if isinstance(sink, BtrfsEndpoint) and error.blamed.status == grammar.NOT_OURS:
            raise refusal_by_verb(sink.state, error.blamed.stderr) from error
        left = _clear(sink, transfer_id, way)
        if is_full(error.blamed.stderr):
            left = ""  # what comes of it, ``delivery`` decides
        hints = [error.hint or _meaning(error), left]
        error.hint = "\n".join(filter(None, hints))
        raise
    except WrongArrival:
        attempt(lambda: sink.discard([transfer_id]))
        raise
    except BackupError:
        attempt(lambda: sink.discard([transfer_id], keep_sealed=way.interval > 0))
        raise
    return moved


def _stages(
    transfer: Transfer, transfer_id: str, source: BtrfsEndpoint, sink: Sink, way: Way
) -> tuple[Command, ...]:
    """Return what a transfer runs, from the sender to the receiver."""
    route, useless = way.route, way.checkpoint.useless if way.checkpoint else ()
    words = _filter_words(way, transfer_id)
    what = transfer.snapshot, transfer.parent, route.protocol, route.codec
    return (
        source.source(*what, words),
        *_filter_here(words, source),
        *stages_between(source.location, sink.location, way.options, route.codec),
        sink.sink(transfer_id, transfer.snapshot, route.codec, useless),
    )


def _filter_words(way: Way, transfer_id: str) -> tuple[str, ...]:
    """Return the arguments of the checkpoint filter, none if there is no filter."""
    if not way.interval:
        return ()
    known = way.checkpoint.known if way.checkpoint else None
    return filter_words(way.interval, staging.chance_in(transfer_id), known)


def _filter_here(words: Sequence[str], source: BtrfsEndpoint) -> tuple[Command, ...]:
    """Return the filter as a stage; that of another machine is a part of its sender."""
    if not words or source.location.scheme is not Scheme.LOCAL:
        return ()
    return (Command(filter_argv(words), label=_FILTER, counts=True),)


def _differs(error: PipelineFailed) -> bool:
    """Tell whether a filter, here or there, says that it is another stream."""
    return any(stage.status == DIFFERS for stage in (error.blamed, *error.others))


def _drop_all(sink: Sink, transfer_id: str) -> str:
    """Drop what came of a stream that is longer than it may be, and say so."""
    deadline = time.monotonic() + _ENDING_S
    while True:  # a receiver behind a wire may not have noticed yet that it is over
        left = attempt(lambda: sink.discard([transfer_id]))
        if not left or isinstance(left, BackupError) or time.monotonic() > deadline:
            break
        check_interrupted()
        time.sleep(0.2)
    kept = "Nothing of it is kept."
    if left:
        why = left.message if isinstance(left, BackupError) else "it is in use"
        kept = f"What came of it ({transfer_id}) could not be dropped: {why}."
    return f"{kept}\nIf it is to be so long, allow more:  --max-size SIZE"


def _clear(sink: Sink, transfer_id: str, way: Way) -> str:
    """Drop what is of no use any more, and say what is."""
    dropped = attempt(lambda: sink.discard([transfer_id], keep_sealed=way.interval > 0))
    if not way.interval:
        return ""
    unknown = "What is complete there stays; the next run goes on from it."
    if isinstance(dropped, TimedOut):
        return unknown
    left = attempt(lambda: sink.waiting([transfer_id]))
    if isinstance(left, BackupError):
        return unknown
    safe = max((waiting.size_bytes for waiting in left), default=0)
    if not safe:
        return ""
    return f"{format_size(safe)} are safe there; the next run goes on from that."


def _meaning(error: PipelineFailed) -> str:
    """Say what a failure means, or nothing."""
    blamed = error.blamed
    # What a failed compressor wrote may fail the other one first.
    ends = [end for end in (blamed, *error.others) if end.command.reports]
    if any(end.status == grammar.CODEC_FAILED for end in ends):
        return "The (de)compressor there failed. Without one:  --compress none"
    if meaning := explain(blamed.stderr) or explain_session(blamed.stderr):
        return f"{blamed.command.label}: {meaning}."
    return ""
