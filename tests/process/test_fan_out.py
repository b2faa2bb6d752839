"""One sender for several pipelines: each gets all, and fails alone."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btrfs_backup_ng.__util__ import KIB
from btrfs_backup_ng.process import interruption, pipeline
from btrfs_backup_ng.process.command import Command, Completed
from btrfs_backup_ng.process.fan_out import (
    Branch,
    CameTooLate,
    FanOut,
    SharedSender,
)
from btrfs_backup_ng.process.pipeline import Meter, Moved, PipelineFailed, run_pipeline
from btrfs_backup_ng.process.poller import Loop, Tail
from tests.support.processes import children, nothing_left_behind, wait_until

#: Small, so that readers often hold up each other.
RING = 64 * KIB
SENDER = Command(("the sender",), "the sender")


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test starts uninterrupted and leaves no file and no process behind."""
    monkeypatch.setattr(interruption, "interrupted_by", None)
    monkeypatch.setattr(pipeline, "AFTER_FAILED_S", 0.4)
    with nothing_left_behind():
        yield
    assert not interruption.live


class Reader:
    """The reader of one branch, which may be slow, and may end early."""

    def __init__(self, seed: int, dies_after: int | None, naps: bool) -> None:
        self.got = bytearray()
        self.dies_after = dies_after
        self._dice, self._naps = random.Random(seed), naps
        self._source, sink = os.pipe()
        self.branch = Branch(SENDER, sink, Tail(b"x"), lambda: None)
        os.close(sink)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while self.dies_after is None or len(self.got) < self.dies_after:
            if self._naps and self._dice.random() < 0.1:
                time.sleep(0.001)
            data = os.read(self._source, self._dice.choice((1, 700, 4096, 1 << 20)))
            if not data:
                break
            self.got += data
        os.close(self._source)

    def finish(self) -> int | None:
        self._thread.join()
        status = self.branch.peek()
        assert self.branch.poll() == status
        return status


READERS = st.lists(
    st.tuples(st.none() | st.integers(0, 300_000), st.booleans()),
    min_size=1,
    max_size=5,
)


@settings(max_examples=40, deadline=None)
@given(READERS, st.integers(0, 400_000), st.integers(0, 2**32))
def test_each_reader_that_lives_gets_the_same_bytes(
    wanted: list[tuple[int | None, bool]], size: int, seed: int
) -> None:
    stream = random.Random(seed).randbytes(size)
    source, sink = os.pipe()
    readers = [Reader(seed + n, *each) for n, each in enumerate(wanted)]
    dice = random.Random(seed)

    def write() -> None:
        left = memoryview(stream)
        try:
            while left:
                left = left[os.write(sink, left[: dice.choice((1, 5000, 200_000))]) :]
        except BrokenPipeError:
            pass
        os.close(sink)

    writer = threading.Thread(target=write)
    writer.start()
    branches = [reader.branch for reader in readers]
    fan_out = FanOut(Loop(), source, branches, patience_s=0.0, ring_size=RING)
    while fan_out.branches:
        fan_out.step()
        if fan_out.is_at_end:
            fan_out.note_end(0, Completed(SENDER, 0, b"", ""))
    os.close(source)
    writer.join()
    for reader in readers:
        status = reader.finish()
        if reader.dies_after is None:
            assert status == 0
            assert reader.got == stream
        else:
            assert status in (0, 128 + signal.SIGPIPE)
            assert stream.startswith(reader.got)


class Pipelines:
    """Pipelines that share their first stage, each in a thread."""

    def __init__(
        self, sender: str, *rest: str, patience_s: float = 30.0, seats: int = 0
    ) -> None:
        """Start them.

        :param rest: the script of all other stages of each.
        """
        self.results: list[Moved | BaseException | None] = [None] * len(rest)
        self.shared = SharedSender(seats or len(rest), patience_s, RING)
        command = Command(("sh", "-c", sender), "the sender")
        self._threads = [
            threading.Thread(target=self._run, args=(number, command, script))
            for number, script in enumerate(rest)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int, command: Command, script: str) -> None:
        seat = self.shared.seats[number]
        last = Command(("sh", "-c", script), f"reader {number}")
        try:
            self.results[number] = run_pipeline(
                [command, last], meter=Meter(), stall_timeout_s=60.0, seat=seat
            )
        except BaseException as error:
            self.results[number] = error
        finally:
            seat.give_up()

    def join(self) -> list[Moved | BaseException | None]:
        for thread in self._threads:
            thread.join()
        self.shared.join()
        return self.results


def moved(results: list[Moved | BaseException | None]) -> list[tuple[int, bytes]]:
    return [(r.size_bytes, r.output) for r in results if isinstance(r, Moved)]


def failures(results: list[Moved | BaseException | None]) -> list[PipelineFailed]:
    return [r for r in results if isinstance(r, PipelineFailed)]


def test_a_sender_runs_once_for_several_pipelines(tmp_path: Path) -> None:
    count = tmp_path / "count"
    sender = f"echo ran >>{count}; head -c 3000000 /dev/zero"
    results = Pipelines(sender, "wc -c", "sleep 0.2; wc -c", "wc -c").join()
    assert moved(results) == 3 * [(3_000_000, b"3000000\n")], results
    assert count.read_text() == "ran\n"


def test_a_sender_that_fails_is_blamed_by_each() -> None:
    sender = "head -c 100000 /dev/zero; echo why >&2; exit 3"
    results = Pipelines(sender, "cat >/dev/null", "cat >/dev/null; exit 1").join()
    for failed in failures(results):
        assert failed.message.startswith("the sender failed with status 3: why")
    assert len(failures(results)) == 2


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (
            "head -c 100000 >/dev/null; echo full >&2; exit 5",
            "failed with status 5: full",
        ),
        ("head -c 100000 >/dev/null; kill -KILL $$", "was killed by SIGKILL"),
        ("exit 7", "failed with status 7"),
        ("head -c 100000 >/dev/null", "ended before it had read everything"),
    ],
)
def test_a_pipeline_that_fails_is_blamed_alone(script: str, says: str) -> None:
    results = Pipelines("head -c 3000000 /dev/zero", "wc -c", script, "wc -c").join()
    assert moved(results) == 2 * [(3_000_000, b"3000000\n")]
    (failed,) = failures(results)
    assert failed.message.startswith(f"reader 1 {says}")


def test_a_sender_ends_with_its_last_pipeline() -> None:
    others = children(os.getpid())  # a test server, for instance
    results = Pipelines("exec yes", "exit 3", "head -c 1000000 >/dev/null").join()
    assert len(failures(results)) == 2
    assert children(os.getpid()) == others


def test_one_that_stands_still_is_left_behind() -> None:
    scripts = ["wc -c", "kill -STOP $$; cat >/dev/null", "wc -c"]
    pipelines = Pipelines("head -c 3000000 /dev/zero", *scripts, patience_s=0.5)
    results = pipelines.join()
    assert moved(results) == 2 * [(3_000_000, b"3000000\n")]
    assert len(failures(results)) == 1
    is_left = [seat.is_left_behind for seat in pipelines.shared.seats]
    assert is_left == [False, True, False]


def test_without_a_limit_the_others_wait_for_the_slowest(tmp_path: Path) -> None:
    go = tmp_path / "go"
    waits = f"until [ -e {go} ]; do sleep 0.1; done; wc -c"
    pipelines = Pipelines("head -c 3000000 /dev/zero", "wc -c", waits, patience_s=0.0)
    time.sleep(0.5)
    assert pipelines.results == [None, None]
    go.touch()
    assert moved(pipelines.join()) == 2 * [(3_000_000, b"3000000\n")]


def test_the_slowest_may_be_behind_by_a_ring_at_the_end(tmp_path: Path) -> None:
    go = tmp_path / "go"
    waits = f"until [ -e {go} ]; do sleep 0.1; done; wc -c"
    pipelines = Pipelines("head -c 60000 /dev/zero", "wc -c", waits, patience_s=0.1)
    wait_until(lambda: isinstance(pipelines.results[0], Moved))
    go.touch()
    assert moved(pipelines.join()) == 2 * [(60_000, b"60000\n")]


def test_the_stream_waits_until_every_seat_is_settled() -> None:
    pipelines = Pipelines("echo x", "wc -c", seats=2)
    time.sleep(0.3)
    assert pipelines.results == [None]
    pipelines.shared.seats[1].give_up()
    assert moved(pipelines.join()) == [(2, b"2\n")]


def test_one_that_comes_too_late_is_told_so() -> None:
    pipelines = Pipelines("echo x", "wc -c", seats=2, patience_s=0.2)
    wait_until(lambda: isinstance(pipelines.results[0], Moved))
    with pytest.raises(CameTooLate):
        pipelines.shared.seats[1].open(SENDER, 1)
    pipelines.join()


def test_a_sender_that_cannot_be_started_is_for_each_to_try() -> None:
    shared = SharedSender(2, 1.0)
    for seat in shared.seats:
        with pytest.raises(CameTooLate):
            seat.open(Command(("/no such program",), "it"), 1)
    shared.join()


def test_a_signal_ends_all_of_them() -> None:
    others = len(children(os.getpid()))
    pipelines = Pipelines("exec yes", "cat >/dev/null", "cat >/dev/null")
    wait_until(lambda: len(children(os.getpid())) == others + 3)
    interruption.interrupt(signal.SIGINT)
    results = pipelines.join()
    assert [type(result).__name__ for result in results] == 2 * ["Interrupted"]
