"""Pipelines: bytes moved, success, and the stage to blame for a failure."""

import contextlib
import errno
import functools
import logging
import os
import signal
import time
from collections.abc import Sequence

from btrfs_backup_ng.__util__ import MIB, BackupError, format_size, visible
from btrfs_backup_ng.core.value import Value, replace
from btrfs_backup_ng.process import child as process
from btrfs_backup_ng.process.child import DEVNULL, Child
from btrfs_backup_ng.process.command import (
    Command,
    Completed,
    blame,
    describe,
    patience,
)
from btrfs_backup_ng.process.fan_out import Branch, Seat
from btrfs_backup_ng.process.interruption import check_interrupted, interrupted
from btrfs_backup_ng.process.poller import TICK_S, Loop, widen
from btrfs_backup_ng.process.relay import Hop, Meter, Watch
from btrfs_backup_ng.process.silence import Silence
from btrfs_backup_ng.wire import protocol

__all__ = ["Meter", "Moved", "PipelineFailed", "Stalled", "TooLarge", "run_pipeline"]

log = logging.getLogger(__name__)

_OUTPUT_KEPT = MIB
#: Limit on that stdout, which would have no end otherwise.
_OUTPUT_AT_MOST = 64 * MIB
# Once a stage has ended, the rest of the work of the others is of little use. They get
# this long to end by themselves (by SIGPIPE, or at the end of their input):
#: Stages before one that failed.
BEFORE_FAILED_S = 1.0
#: Stages before one that ended well: an ssh client that waits for its peer.
BEFORE_ENDED_S = 60.0
#: Stages after one that failed: a receiver that still processes its input.
AFTER_FAILED_S = 30.0

#: Status by which a shell reports that SIGPIPE killed a command.
_SHELL_SIGPIPE = 128 + signal.SIGPIPE


class Moved(Value):
    """The result of a pipeline.

    :ivar size_bytes: written by the first stage; 0 if it was the only one.
    :ivar output: stdout of the last stage, its first MiB.
    :ivar words: of each stage on stderr.
    """

    size_bytes: int
    elapsed_s: float
    output: bytes
    words: tuple[str, ...] = ()


class PipelineFailed(BackupError):
    """A pipeline did not succeed.

    :ivar blamed: the stage that is the most likely cause.
    :ivar others: the other stages that failed, in their order.
    :ivar causes: a line for each stage that failed by its own doing, the blamed first.
    """

    def __init__(
        self,
        message: str,
        blamed: Completed,
        others: tuple[Completed, ...],
        causes: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.blamed = blamed
        self.others = others
        self.causes = causes

    @property
    def unknown(self) -> bool:
        """Whether the outcome of some stage is unknown: look before a retry."""
        return any(stage.status is None for stage in (self.blamed, *self.others))


class Stalled(PipelineFailed):
    """Nothing moved for too long, so the pipeline was ended."""


class TooLarge(PipelineFailed):
    """The stream was longer than allowed."""


def run_pipeline(
    stages: Sequence[Command],
    *,
    meter: Meter,
    stall_timeout_s: float,
    max_size: int | None = None,
    seat: Seat | None = None,
) -> Moved:
    """Run commands, each reading the output of the one before it.

    The first reads ``/dev/null``. Success is status 0 of every stage, with every byte
    of the first one delivered. The total time is not limited, only the time in which
    nothing moves while the first stage has more data, and that in which a receiving
    verb is silent after the end of the stream. Python's SIGPIPE setting (ignored) must
    stay as it is.

    :param stall_timeout_s: 0 for no limit.
    :param max_size: limit on the bytes of the stream, with those that the meter says
        were received before; None for no limit. They are counted before the last stage.
    :param seat: at the sender that is the first stage of other pipelines, too.
    :raises PipelineFailed: if a stage failed.
    :raises Stalled: if nothing moved for ``stall_timeout_s``.
    :raises TooLarge: if more moves than ``max_size``.
    :raises CommandNotStarted: if a program is missing; the started stages are ended.
    :raises CameTooLate: if the shared sender has begun without it.
    :raises Interrupted: if it failed after a signal interrupted the program.
    """
    with contextlib.ExitStack() as stack:
        running = _Pipeline(meter, stall_timeout_s, max_size)
        stack.callback(running.close)
        running.start(stages, seat)
        running.attend()
        return running.judge()


class _Stage:
    def __init__(self, child: Child | Branch) -> None:
        self.child = child
        self.order = -1  # in which it ended: 0 is the first; -1 while it runs
        self.status: int | None = None  # of the process; its report comes later
        self.deadline: float | None = None
        self.was_ended = False  # by this program
        self.killed = False

    def must_end_by(self, deadline: float) -> None:
        if self.deadline is None or deadline < self.deadline:
            self.deadline = deadline

    def press(self, now: float) -> None:
        """After its deadline ask it to end; after two more seconds kill it."""
        if self.deadline is None or now < self.deadline:
            return
        if not self.was_ended:
            self.was_ended = True
            self.deadline = now + process.END_GRACE_S
            self.child.terminate()
        elif not self.killed:
            self.killed = True
            self.child.send(signal.SIGKILL)


class _Verdict(Value):
    """Why the pipeline is ended: the stage to blame, and the message."""

    stage: _Stage
    kind: type[PipelineFailed]
    text: str


class _Pipeline:
    def __init__(
        self, meter: Meter, stall_timeout_s: float, max_size: int | None
    ) -> None:
        self._loop = Loop()
        self._meter = meter
        self._stall_timeout_s = stall_timeout_s
        self._max_size = max_size
        self._stages: list[_Stage] = []
        self._hop: Hop | Watch | None = None
        self._output = bytearray()
        self._ended = 0
        self._quiet_s = 0.0
        self._seen = (0, 0, 0)
        self._said_bytes = 0
        self._end: Silence | None = None  # once the last stage has the whole stream
        self._verdict: _Verdict | None = None

    def start(self, commands: Sequence[Command], seat: Seat | None) -> None:
        """Start the stages, first to last, and connect them.

        Only the children hold the ends of the pipes when this returns.

        :param seat: gives the first stage.
        """
        self._meter.started = self._meter.last_moved = time.monotonic()
        direct = seat is None and _may_be_direct(commands)
        with contextlib.ExitStack() as ours:
            stdin = DEVNULL
            for number, command in enumerate(commands):
                last = number == len(commands) - 1
                read_end, stdout = (-1, process.PIPE) if last else _pipe(ours)
                if seat and number == 0:
                    stage = _Stage(seat.open(command, stdout))
                else:
                    if direct and number == 0:
                        command = replace(command, ends_by_pipes=False)
                    child = Child(command, stdin=stdin, stdout=stdout)
                    stage = _Stage(child)
                self._stages.append(stage)
                stage.child.attend(self._loop, functools.partial(self._note, stage))
                stdin = read_end
                if number != len(commands) - 2:
                    continue
                if command.counts or direct:
                    self._hop = Watch(os.dup(read_end))
                else:  # before the last stage, so that no buffer hides a stall
                    stdin, write_end = _pipe(ours)
                    ends = os.dup(read_end), os.dup(write_end)
                    self._hop = Hop(*ends, self._meter, self._loop)
        assert child.stdout
        self._loop.drain(child.stdout, self._keep)

    def _keep(self, data: bytes) -> None:
        self._said_bytes += len(data)
        self._output += data[: _OUTPUT_KEPT - len(self._output)]

    def _note(self, stage: _Stage) -> None:
        """Note that a stage ended, and set the deadlines of the others."""
        now = time.monotonic()
        stage.order = self._ended
        self._ended += 1
        stage.status = stage.child.peek(ended=True)
        number = self._stages.index(stage)
        before_s = BEFORE_FAILED_S if stage.status else BEFORE_ENDED_S
        for other in self._stages[:number]:
            other.must_end_by(now + before_s)
        if stage.status:
            for other in self._stages[number + 1 :]:
                other.must_end_by(now + AFTER_FAILED_S)
        if self._hop and number >= len(self._stages) - 2:
            self._hop.note_end(source=stage is not self._stages[-1])

    def attend(self) -> None:
        """Wait until every stage has ended, and end stages at their deadlines."""
        looked = time.monotonic()
        while self._ended < len(self._stages):
            self._loop.step(TICK_S)
            self._check_sizes()
            now = time.monotonic()
            if now - looked < TICK_S:
                continue
            self._watch_stall(min(now - looked, 2 * TICK_S))
            looked = now
            for stage in self._stages:
                if interrupted() or self._verdict:
                    stage.must_end_by(now)
                stage.press(now)
            if self._hop:
                self._hop.pass_end_on()
        if self._hop:
            self._hop.close()
        self._loop.linger()
        self._count()
        self._check_sizes()
        self._meter.ended = time.monotonic()

    def _watch_stall(self, elapsed_s: float) -> None:
        """Add up the time in which nothing moved.

        Time in which this program did not run (Ctrl-Z, a suspended machine) does not
        count. A slow reader frees a page of the pipe only once in a while, so the
        unread bytes in it count as movement, too. A verb reports when it has the whole
        stream; from then on it may work as long as it says that it works. Another
        program reports nothing, and may work for ever.
        """
        hop = self._hop
        if not hop:
            return
        seen = self._moved(hop)
        if not self._stall_timeout_s or self._verdict:
            return
        last = self._stages[-1]
        command = last.child.command
        if not hop.is_open and not (command.reports or command.answer):
            return
        if not hop.is_open and protocol.has_received_all(bytes(last.child.words)):
            self._end = self._end or Silence(patience(self._stall_timeout_s, ""))
        if self._end:
            self._watch_end(last, self._end)
            return
        self._quiet_s = 0.0 if seen != self._seen else self._quiet_s + elapsed_s
        self._seen = seen
        if self._quiet_s >= self._stall_timeout_s:
            stalled = self._stages[0 if hop.is_starved else -1]
            did = "took no more data" if stalled is last else "sent no data"
            text = f"no data moved for {self._stall_timeout_s:g} s (--stall-timeout)"
            self._condemn(stalled, Stalled, text, did)

    def _watch_end(self, last: _Stage, silence: Silence) -> None:
        """Let a receiver with the whole stream work as long as it says that it does."""
        heard = self._said_bytes + last.child.words.added
        if did := silence.too_long(heard):
            text = "all of the stream was read, but the work on it did not end"
            self._condemn(last, Stalled, text, f"{did} (--stall-timeout)")

    def _check_sizes(self) -> None:
        """End the pipeline if a stage writes too much."""
        if self._verdict:
            return
        moved = self._meter.resumed_bytes + self._meter.size_bytes
        if self._max_size is not None and moved > self._max_size:
            size = format_size(self._max_size)
            text = f"the stream is longer than {size} (--max-size)"
            self._condemn(self._stages[0], TooLarge, text, "sent more")
        text = "an answer was too long"
        if self._said_bytes > _OUTPUT_AT_MOST:
            did = f"wrote more than {_OUTPUT_AT_MOST} bytes"
            self._condemn(self._stages[-1], PipelineFailed, text, did)
        for stage in self._stages:
            if stage.child.words.added > process.WORDS_AT_MOST:
                did = f"wrote more than {process.WORDS_AT_MOST} bytes to stderr"
                self._condemn(stage, PipelineFailed, text, did)

    def _condemn(
        self, stage: _Stage, kind: type[PipelineFailed], text: str, did: str
    ) -> None:
        """Blame a stage; the pipeline is ended because of it."""
        label = visible(stage.child.command.label)
        text = f"{text}, so the transfer was stopped: {label} {did}"
        self._verdict = _Verdict(stage, kind, text)

    def _moved(self, hop: Hop | Watch) -> tuple[int, int, int]:
        """Return values that change as long as something moves."""
        meter = self._meter
        if meter.resumed_bytes and not meter.size_bytes:
            for stage in self._stages[:-1]:
                skipped = protocol.skipped_bytes(bytes(stage.child.words))
                meter.skipped_bytes = max(meter.skipped_bytes, skipped)
        self._count()
        return meter.size_bytes, hop.waiting, meter.skipped_bytes

    def _count(self) -> None:
        """Read the count of a stage that counts its bytes."""
        if not isinstance(self._hop, Watch):
            return
        child = self._stages[-2].child
        if isinstance(child, Child) and child.command.is_counted:
            size_bytes = child.written_bytes()
        else:
            size_bytes = protocol.moved_bytes(bytes(child.words))
        if size_bytes > self._meter.size_bytes:
            self._meter.add(size_bytes - self._meter.size_bytes)

    def close(self) -> None:
        if self._hop:
            self._hop.close()
        process.end_together(stage.child for stage in self._stages)

    def judge(self) -> Moved:
        """Return the result, or raise with the stage to blame."""
        ends = [stage.child.complete() for stage in self._stages]
        lost = self._hop is not None and self._hop.lost
        failed = [number for number, end in enumerate(ends) if end.status != 0]
        forgiven = self._verdict is None or self._verdict.kind is Stalled
        if not failed and not lost and forgiven:
            elapsed_s = (self._meter.ended or 0.0) - (self._meter.started or 0.0)
            words = tuple(end.stderr for end in ends)
            answer = self._stages[-1].child.command.answer
            output = answer() if answer else bytes(self._output)
            return Moved(self._meter.size_bytes, elapsed_s, output, words)
        check_interrupted()
        blamed = self._find_blamed(ends, failed)
        others = [number for number in failed if number != blamed]
        kind = PipelineFailed
        text = _describe(ends[blamed], self._stages[blamed])
        if self._verdict:
            kind = self._verdict.kind
            text = self._verdict.text
        causes = [text]
        for number in others:
            then = f"then {_describe(ends[number], self._stages[number])}"
            text += f"\n  {then}"
            causes += [] if self._is_victim(number, ends) else [then]
        left = tuple(ends[number] for number in others)
        raise kind(text, ends[blamed], left, tuple(causes))

    def _find_blamed(self, ends: list[Completed], failed: list[int]) -> int:
        """Return the number of the first stage that ended badly by its own doing.

        If all failed for want of a reader, return the one that stopped reading.
        """
        if self._verdict:
            return self._stages.index(self._verdict.stage)
        causes = [number for number in failed if not self._is_victim(number, ends)]
        if causes:
            return min(causes, key=lambda number: self._stages[number].order)
        return min(max(failed, default=0) + 1, len(ends) - 1)

    def _is_victim(self, number: int, ends: list[Completed]) -> bool:
        """Return whether it failed only because its reader had ended, or was ended."""
        stage, later = self._stages[number], self._stages[number + 1 :]
        if stage.was_ended:
            return True
        if {stage.status, ends[number].status} & {-signal.SIGPIPE, _SHELL_SIGPIPE}:
            return True
        reader_was_gone = any(other.order < stage.order for other in later)
        return ends[number].status == errno.EPIPE and reader_was_gone


def _may_be_direct(commands: Sequence[Command]) -> bool:
    """Return whether no byte of a stream need pass through the program.

    If the last stage ends by its pipes, only the program can end it.
    """
    return (
        len(commands) == 2
        and commands[0].is_counted
        and not commands[1].ends_by_pipes
        and os.path.exists("/proc/self/io")
    )


def _describe(end: Completed, stage: _Stage) -> str:
    if stage.was_ended:
        return blame(end, " was stopped by this program")
    if end.status == 0:
        return blame(end, " ended before it had read everything")
    return describe(end)


def _pipe(closing: contextlib.ExitStack) -> tuple[int, int]:
    """Make a pipe, of 1 MiB if allowed, that is closed with the stack."""
    ends = os.pipe()
    for end in ends:
        closing.callback(os.close, end)
    widen(ends[1])
    return ends
