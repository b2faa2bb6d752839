"""One attempt at a transfer: ``prepare`` only looks, ``run`` only moves."""

import logging
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import (
    AbstractContextManager,
    contextmanager,
    nullcontext,
    suppress,
)
from datetime import datetime

from btrfs_backup_ng.__util__ import (
    BackupError,
    Interrupted,
    attempt,
    format_size,
    visible,
)
from btrfs_backup_ng.btrfs.parse import explain, is_cut_off, is_full, is_read_only
from btrfs_backup_ng.core import codecs
from btrfs_backup_ng.core.model import Integrity, Snapshot
from btrfs_backup_ng.core.plan import Transfer
from btrfs_backup_ng.core.value import Value, replace
from btrfs_backup_ng.endpoint import staging
from btrfs_backup_ng.endpoint.common import (
    Endpoint,
    Place,
    WrongArrival,
    new_transfer_id,
)
from btrfs_backup_ng.endpoint.staging import Checkpoint
from btrfs_backup_ng.host.common import Host
from btrfs_backup_ng.host.disks import filesystem_of
from btrfs_backup_ng.host.entry import refusal_by_verb
from btrfs_backup_ng.process.command import Command, CommandFailed, Completed, TimedOut
from btrfs_backup_ng.process.fan_out import Seat
from btrfs_backup_ng.process.interruption import check_interrupted
from btrfs_backup_ng.process.pipeline import (
    Meter,
    Moved,
    PipelineFailed,
    Stalled,
    TooLarge,
    run_pipeline,
)
from btrfs_backup_ng.sendstream.filter import DIFFERS, filter_argv, filter_words
from btrfs_backup_ng.sendstream.look import look_argv
from btrfs_backup_ng.session.turns import SMALL
from btrfs_backup_ng.sshutil.refusal import explain_session
from btrfs_backup_ng.transfer.probe import probe_codec
from btrfs_backup_ng.transfer.route import PROTOCOLS, Route, crosses_wire
from btrfs_backup_ng.transfer.size import quick_stream_size, written_since
from btrfs_backup_ng.wire import grammar

log = logging.getLogger(__name__)

_FILTER = "the checkpoint filter"
_LOOK = "the look at the stream"
#: Begins the label of the stage at the source.
_SENDER = "btrfs send"
#: Time that a remote receiver may take to notice the end of its stream.
_ENDING_S = 10.0
#: Filesystem -> held while a snapshot is published there. Each publishing asks the
#: kernel for a commit; if two ask at once, one may wait for the next regular commit, up
#: to 30 s later.
_PUBLISHING: dict[str, threading.Lock] = {}


class StreamChanged(BackupError):
    """An interrupted transfer cannot be resumed: the stream is a different one."""


class Attempt(Value):
    """One attempt at a transfer, ready to run; made by :func:`prepare`.

    :ivar interval: bytes between two checkpoints, 0 for none.
    :ivar checkpoint: of the earlier attempt that is resumed, if any.
    :ivar is_short: between directories of this machine, as far as known.
    """

    transfer: Transfer
    route: Route
    interval: int = 0
    checkpoint: Checkpoint | None = None
    is_short: bool = False

    def run(
        self,
        meter: Meter,
        now: datetime,
        before_publishing: Callable[[], None] = lambda: None,
        seat: Seat | None = None,
    ) -> Moved:
        """Move one snapshot and publish it, durably.

        After a failure, nothing has the final name. If the attempt can be resumed from
        a checkpoint, its staging stays. If not, its staging is deleted: now if the
        place can be reached, or by the next run. After a timeout, the place is not
        asked again.

        :param before_publishing: called when the stream has arrived.
        :param seat: at a sender that other attempts share.
        :raises StreamChanged: if the checkpoint did not match; it was deleted.
        :raises BackupError: if it failed.
        """
        transfer_id = self._transfer_id(now)
        if self.checkpoint:
            meter.resumed_bytes = self.checkpoint.offset
        options, place = self.route.options, self.route.sink.place
        try:
            moved = run_pipeline(
                self._stages(transfer_id, is_shared=seat is not None),
                meter=meter,
                stall_timeout_s=options.stall_timeout_s,
                max_size=options.max_size,
                seat=seat,
            )
            before_publishing()
            with _publishing(place):
                self.route.sink.publish(
                    transfer_id,
                    self.transfer.snapshot,
                    self.transfer.target,
                    output=moved.output,
                    verify=options.verify,
                )
        except TimedOut:
            raise
        except TooLarge as error:
            error.hint = _drop_all(place, transfer_id)
            raise
        except PipelineFailed as error:
            self._explain(error, transfer_id)
            raise
        except WrongArrival:
            attempt(lambda: place.discard([transfer_id]))
            raise
        except BackupError:
            self._clear(transfer_id)
            raise
        return moved

    def _transfer_id(self, now: datetime) -> str:
        if self.checkpoint:
            return self.checkpoint.transfer_id
        stream = self.transfer.snapshot, self.transfer.parent, self.route.protocol
        return staging.full_id(new_transfer_id(now), *stream)

    def _stages(self, transfer_id: str, *, is_shared: bool) -> tuple[Command, ...]:
        """Return the commands of the pipeline, from the sender to the receiver.

        :param is_shared: the sender is that of other attempts, too, so that the filter
            runs on this machine.
        """
        route, snapshot = self.route, self.transfer.snapshot
        useless = self.checkpoint.useless if self.checkpoint else ()
        words: tuple[str, ...] = ()
        if self.interval:
            known = self.checkpoint.known if self.checkpoint else None
            chance = staging.chance_in(transfer_id)
            words = filter_words(self.interval, chance, known)
        stream = snapshot, self.transfer.parent, route.protocol, route.codec
        is_here = is_shared or route.source.place.location.is_here
        stages = [route.source.send(*stream, () if is_here else words)]
        if words and is_here:  # else the sender has it
            stages.append(Command(filter_argv(words), label=_FILTER, counts=True))
        if not route.sink.checks:
            stages.append(Command(look_argv(), label=_LOOK, counts=True))
        stream_end = transfer_id, snapshot, route.codec, useless
        receiver = route.sink.receive(*stream_end, is_short=self.is_short)
        return (*stages, *route.stages_between(), receiver)

    def _explain(self, error: PipelineFailed, transfer_id: str) -> None:
        """Clear staging after a failed pipeline, and add a hint to the error.

        :raises StreamChanged: if the filter found that it is another stream.
        :raises Refused: if another user controls the state directory there.
        """
        sink, checkpoint = self.route.sink, self.checkpoint
        stages = (error.blamed, *error.others)
        if checkpoint and any(stage.status == DIFFERS for stage in stages):
            sink.place.discard([transfer_id])
            name = visible(self.transfer.snapshot.name)
            raise StreamChanged(
                f"the stream of {name} is no longer the one of which"
                f" {format_size(checkpoint.offset)} is at {sink}"
            ) from error
        if sink.lists and error.blamed.status == grammar.NOT_OURS:
            raise refusal_by_verb(sink.place.state, error.blamed.stderr) from error
        left = self._clear(transfer_id)
        if is_full(error.blamed.stderr):
            left = ""  # ``full_disk`` decides whether it stays
        hints = [error.hint or _next_step(error, self.route), left]
        error.hint = "\n".join(filter(None, hints))
        _begin_with_cause(error, self.route)

    def _clear(self, transfer_id: str) -> str:
        """Delete staging that cannot be resumed; return a sentence about the rest."""
        place, has_checkpoints = self.route.sink.place, self.interval > 0
        ids = [transfer_id]
        dropped = attempt(lambda: place.discard(ids, keep_sealed=has_checkpoints))
        if not has_checkpoints:
            return "The next run sends it again." if _crosses_wire(self.route) else ""
        safe: object = dropped
        if not isinstance(dropped, TimedOut):
            safe = attempt(lambda: place.safe_bytes(ids))
        if not isinstance(safe, int):
            each = format_size(self.interval)
            return (
                "The next run resumes from its last checkpoint there (one each"
                f" {each}), or begins again."
            )
        if not safe:
            return "No checkpoint of it was made, so the next run begins again."
        return f"{format_size(safe)} is kept there; the next run resumes from that."


def prepare(
    transfer: Transfer,
    route: Route,
    size_bytes: int | None,
    warn: Callable[[str], None],
) -> Attempt:
    """Prepare an attempt; move no data.

    End earlier attempts that are still running, and delete those that cannot be
    resumed.

    :param size_bytes: of the stream, if it is known.
    :param warn: takes sentences for the user.
    :raises BackupError: if one of the places cannot be read.
    """
    if not route.sink.takes_parents:
        return Attempt(transfer, route)
    if route.codec == codecs.AUTO:
        route = replace(route, codec=_choose_codec(transfer, route))
    ids = route.resumable(transfer)
    checkpoint = _find_checkpoint(route.sink, ids, transfer.snapshot)
    if checkpoint:  # also if little remains to be sent
        return Attempt(transfer, route, route.options.checkpoint_interval, checkpoint)
    if not ids:
        _warn_of_other_forms(transfer, route, warn)
    if route.source.place.location.is_here:
        size_bytes = _size_here(transfer, route, size_bytes)
    interval = _choose_interval(route, size_bytes)
    is_little = not interval and size_bytes is not None and size_bytes <= SMALL
    is_short = is_little and not _crosses_wire(route)
    return Attempt(transfer, route, interval, is_short=is_short)


def _choose_codec(transfer: Transfer, route: Route) -> str:
    """Try a codec on the beginning of a stream; return it if it pays, else none."""
    source, sink = route.source, route.sink
    stream = transfer.snapshot, transfer.parent, route.protocol
    plain = source.send(*stream, codecs.NONE)
    return probe_codec(source.place, sink.place, plain, codec=codecs.FASTEST)


def _find_checkpoint(
    sink: Endpoint, ids: Sequence[str], snapshot: Snapshot
) -> Checkpoint | None:
    """Find the farthest checkpoint of earlier attempts; delete the other attempts."""
    found: Checkpoint | None = None
    for transfer_id in ids:
        try:
            checkpoint = _unchanged(sink, sink.checkpoint(transfer_id, snapshot))
        except CommandFailed as error:
            if error.completed.status != grammar.BUSY:
                raise
            text = "%s: an earlier transfer (%s) is still running and cannot be stopped"
            log.warning(text, sink, transfer_id)
            continue
        if checkpoint is None or (found and found.offset >= checkpoint.offset):
            _drop(sink.place, transfer_id)
        else:
            found = checkpoint
    return found


def _unchanged(sink: Endpoint, checkpoint: Checkpoint | None) -> Checkpoint | None:
    """Return a checkpoint, or None if its seal is known to be changed."""
    if checkpoint is None:
        return None
    seal = sink.look_closely([checkpoint.tree_id], are_checkpoints=True)
    if seal is Integrity.CHANGED:
        log.warning("%s: a checkpoint was written to; it is not used", sink)
        return None
    return checkpoint


def _publishing(place: Place) -> AbstractContextManager[object]:
    """Wait until nothing else is being published on the filesystem of a place."""
    if not place.facts.is_btrfs:
        return nullcontext()
    filesystem = filesystem_of(place.host, place.facts)
    return _PUBLISHING.setdefault(filesystem, threading.Lock())


def _drop(place: Place, transfer_id: str) -> None:
    """Delete the staging of an attempt; log a failure, as it harms no other attempt."""
    error = attempt(lambda: place.discard([transfer_id]))
    if isinstance(error, BackupError):
        log.warning("%s: the remains of %s are kept: %s", place, transfer_id, error)


def _warn_of_other_forms(
    transfer: Transfer, route: Route, warn: Callable[[str], None]
) -> None:
    """Warn of earlier attempts with another protocol, which cannot be resumed."""
    place = route.sink.place
    for protocol in PROTOCOLS:
        size = place.safe_bytes(route.earlier_attempts(transfer, protocol))
        if size and protocol != route.protocol:
            name = visible(transfer.snapshot.name)
            text = f"{format_size(size)} of {name} at {place} came in another"
            warn(f"{text} form (see --compress), so it is sent from the start")


def _size_here(transfer: Transfer, route: Route, size_bytes: int | None) -> int | None:
    """Return the bytes of a stream from here, as far as they decide anything."""
    if size_bytes is not None:
        return size_bytes
    limit = max(route.options.checkpoint_interval, SMALL)
    ends = transfer.snapshot, transfer.parent
    found = attempt(lambda: written_since(route.source, *ends, limit=limit))
    return found if isinstance(found, int) else None


def _choose_interval(route: Route, size_bytes: int | None) -> int:
    """Return the bytes between two checkpoints; 0 if they would not pay.

    Checkpoints need Python at the source: so the part that is read again does not cross
    the network. A transfer that is shorter than an interval makes none; what is to
    cross a network must be much shorter, as the size is an estimate.

    :param size_bytes: of the stream, if it is known.
    """
    source, wanted = route.source, route.options.checkpoint_interval
    if not wanted:
        return 0
    if not source.place.facts.has_python:
        log.info("%s has no python3, so no checkpoints are made", source)
        return 0
    most = wanted // 2 if _crosses_wire(route) else wanted
    return wanted if size_bytes is None or size_bytes > most else 0


def _crosses_wire(route: Route) -> bool:
    return crosses_wire(route.source.place.location, route.sink.place.location)


@contextmanager
def expecting(
    meter: Meter,
    transfer: Transfer,
    route: Route,
    *,
    after_s: float = 0.0,
    exactly: bool = True,
) -> Iterator[None]:
    """Measure the size of a transfer while it runs, for percent and ETA.

    First estimate it, if nothing is known. Then measure it exactly, if that is cheap.

    :param after_s: measure only a transfer that lasts longer.
    :param exactly: measure, too; else the estimate will do.
    """
    if meter.expected_bytes is not None and not exactly:
        yield
        return
    over = threading.Event()

    def measure() -> None:
        ends = route.source, transfer.snapshot, transfer.parent
        form = route.protocol
        with suppress(Interrupted):  # the transfer raises it, too
            if over.wait(after_s):
                return
            if meter.expected_bytes is None:
                estimate = attempt(lambda: written_since(*ends, over=over))
                expect(estimate, is_estimate=True)
            if exactly:
                size = quick_stream_size
                expect(attempt(lambda: size(*ends, form, over, is_beside=True)))

    def expect(size: int | None | BackupError, *, is_estimate: bool = False) -> None:
        if isinstance(size, int) and not over.is_set():
            meter.expected_bytes, meter.is_estimate = size, is_estimate

    thread = threading.Thread(target=measure, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _drop_all(place: Place, transfer_id: str) -> str:
    """Delete the staging of a stream that is too long; return a hint about it."""
    deadline = time.monotonic() + _ENDING_S
    while True:  # a remote receiver may not have noticed the end yet
        left = attempt(lambda: place.discard([transfer_id]))
        if not left or isinstance(left, BackupError) or time.monotonic() > deadline:
            break
        check_interrupted()
        time.sleep(0.2)
    kept = "Nothing of it is kept."
    if left:
        why = left.message if isinstance(left, BackupError) else "it is in use"
        kept = f"The part that arrived ({transfer_id}) could not be discarded: {why}."
    return f"{kept}\nIf it should be so long, allow more:  --max-size SIZE"


def _begin_with_cause(error: PipelineFailed, route: Route) -> None:
    """Let the message begin with the object and the cause, before what programs said.

    Stages that failed only because their reader or their writer did are left out.
    """
    log.info("%s", error.message)
    first, *others = error.causes
    lines = [first, *(line for line in others if not is_cut_off(line))]
    blamed = error.blamed
    cause = explain(blamed.stderr) or explain_session(blamed.stderr)
    if cause and route.sink.lists and not isinstance(error, Stalled | TooLarge):
        lines.insert(0, f"{_place_of(blamed, route)}: {cause}")
    error.message = "\n  ".join(lines)


def refusing_hosts(error: BackupError, route: Route) -> list[Host]:
    """Return the hosts of a route of which the server refused a session."""
    if not isinstance(error, PipelineFailed):
        return []
    ends = [end for end in (error.blamed, *error.others) if explain_session(end.stderr)]
    return [_place_of(end, route).host for end in ends]


def _place_of(blamed: Completed, route: Route) -> Place:
    """Return the place at which a stage of a transfer works."""
    is_sender = blamed.command.label.startswith(_SENDER)
    return (route.source if is_sender else route.sink).place


def _next_step(error: PipelineFailed, route: Route) -> str:
    """Return the next step after a failure, or ""."""
    blamed = error.blamed
    # The output of a failed compressor may make the decompressor fail first.
    ends = [end for end in (blamed, *error.others) if end.command.reports]
    if any(end.status == grammar.CODEC_FAILED for end in ends):
        return "The (de)compressor there failed. Without one:  --compress none"
    if blamed.command.label == _LOOK:
        return (
            "The command got only a part of the stream: delete it, and run this again."
        )
    place = _place_of(blamed, route)
    if is_full(blamed.stderr):
        command = f"btrfs filesystem usage {shlex.quote(place.location.path)}"
        return f"See what takes the space:  {visible(place.host.by_hand(command))}"
    if is_read_only(blamed.stderr):
        return f"See why:  {visible(place.host.by_hand('dmesg | tail'))}"
    return ""
