"""Pipelines: bytes, ends, blame; and that nothing of them stays behind."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from btrfs_backup_ng.__util__ import MIB, Interrupted
from btrfs_backup_ng.process import child as process
from btrfs_backup_ng.process import command, interruption, pipeline
from btrfs_backup_ng.process.command import Command, CommandNotFound
from btrfs_backup_ng.process.interruption import interrupt
from btrfs_backup_ng.process.pipeline import (
    Meter,
    Moved,
    PipelineFailed,
    Stalled,
    TooLarge,
)
from btrfs_backup_ng.wire.protocol import MAGIC
from tests.support.processes import (
    Process,
    children,
    descendants,
    everything,
    nothing_left_behind,
    wait_until,
)

_CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test starts uninterrupted and leaves no file and no process behind."""
    monkeypatch.setattr(interruption, "interrupted_by", None)
    with nothing_left_behind():
        yield
    assert not interruption.live


#: Carries bytes like the filter for checkpoints, and says how many.
COUNTING = """
import os, signal, sys
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
size = 0
while data := os.read(0, 100_000):
    while data:
        written = os.write(1, data)
        data = data[written:]
        size += written
        os.write(2, b"bbng2 moved %d\\n" % size)
"""


def counting(script: str = COUNTING) -> Command:
    argv = (sys.executable, "-I", "-S", "-c", script)
    return Command(argv, "the filter", counts=True)


@pytest.fixture
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "BEFORE_FAILED_S", 0.2)
    monkeypatch.setattr(pipeline, "BEFORE_ENDED_S", 0.3)
    monkeypatch.setattr(pipeline, "AFTER_FAILED_S", 0.4)
    monkeypatch.setattr(process, "END_GRACE_S", 0.3)


def run(
    *scripts: str | Command,
    meter: Meter | None = None,
    stall_timeout_s: float = 0.0,
    max_size: int | None = None,
) -> Moved:
    """Run shell scripts as a pipeline; they are labelled by their number."""
    stages = [
        script if isinstance(script, Command) else shell(script, f"stage {number}")
        for number, script in enumerate(scripts)
    ]
    meter = meter or Meter()
    return pipeline.run_pipeline(
        stages, meter=meter, stall_timeout_s=stall_timeout_s, max_size=max_size
    )


def shell(script: str, label: str, *, reports: bool = False) -> Command:
    return Command(("sh", "-c", script), label, reports=reports)


def running(marker: str) -> list[Process]:
    return [p for p in everything() if marker in p.argv and p.state not in "ZX"]


# Limits

TAKEN = "cat >/dev/null; echo bbng2 received >&2; "
WORKS = f"echo {MAGIC} working >&2; sleep 0.2; "


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "LEAST_S", 0.0)


def receiver(script: str) -> Command:
    return shell(f"{script} echo bbng2 0 >&2", "the receiver", reports=True)


def test_a_receiver_that_says_that_it_works_may_work(_impatient):
    last = receiver(TAKEN + 12 * WORKS + "echo done;")
    assert run("echo x", last, stall_timeout_s=2).output == b"done\n"


@pytest.mark.parametrize("works", [0, 3])
def test_a_receiver_that_has_taken_all_and_falls_silent_is_a_stall(_impatient, works):
    last = receiver(TAKEN + works * WORKS + "sleep 31;")
    with pytest.raises(Stalled) as caught:
        run("echo x", last, stall_timeout_s=0.7)
    assert str(caught.value) == (
        "all of the stream was read, but the work on it did not end, so the transfer"
        " was stopped: the receiver was silent for 0.7 s (--stall-timeout)"
    )


def test_a_receiver_that_only_says_that_it_works_is_a_stall_in_the_end(
    _impatient, monkeypatch
):
    monkeypatch.setattr(command, "LONGEST_S", 1.0)
    with pytest.raises(Stalled, match="did not end within 1 s"):
        run("echo x", receiver(f"{TAKEN} while :; do {WORKS} done;"), stall_timeout_s=9)


def test_saying_that_it_works_is_no_taking(_impatient):
    last = receiver(f"while :; do {WORKS} done;")
    with pytest.raises(Stalled, match="the receiver took no more data"):
        run("cat /dev/zero", last, stall_timeout_s=0.7)


@pytest.mark.parametrize("counts", [False, True])
def test_a_stream_that_is_too_long_is_ended(counts, _hurry):
    middle = [counting()] if counts else []
    meter = Meter()
    with pytest.raises(TooLarge) as caught:
        run("cat /dev/zero", *middle, "cat >/dev/null", meter=meter, max_size=3 * MIB)
    assert str(caught.value).splitlines()[0] == (
        "the stream is longer than 3.0 MiB (--max-size), so the transfer was stopped:"
        " stage 0 sent more"
    )
    assert meter.size_bytes < 3000 * MIB


def test_a_stream_that_was_too_long_is_so_even_if_all_went_well():
    with pytest.raises(TooLarge):
        run("head -c 2000001 /dev/zero", "cat >/dev/null", max_size=2_000_000)
    size = run("head -c 2000000 /dev/zero", "cat >/dev/null", max_size=2_000_000)
    assert size.size_bytes == 2_000_000


def test_what_was_there_before_counts_as_well():
    meter = Meter(resumed_bytes=1_000_000)
    with pytest.raises(TooLarge):
        run("head -c 5 /dev/zero", "cat", meter=meter, max_size=1_000_001)


def test_an_answer_without_an_end_ends_the_pipeline():
    with pytest.raises(PipelineFailed, match="stage 1 wrote more than 67108864 bytes"):
        run("echo x", "cat; exec cat /dev/zero")


# Success


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_all_bytes_arrive(length):
    meter = Meter()
    source = "head -c 5000000 /dev/zero"
    moved = run(source, *(length - 1) * ["exec cat"], "exec sha256sum", meter=meter)
    digest = hashlib.sha256(bytes(5_000_000)).hexdigest()
    assert moved.output == f"{digest}  -\n".encode()
    assert moved.size_bytes == meter.size_bytes == 5_000_000
    assert meter.started and meter.last_moved and meter.ended
    assert meter.started <= meter.last_moved <= meter.ended
    assert moved.elapsed_s == meter.ended - meter.started


def test_a_single_stage_is_a_pipeline_too():
    assert run("cat; echo done").output == b"done\n"


def test_bytes_are_moved_unchanged_in_odd_pieces():
    script = (
        "import os, random; r = random.Random(1)\n"
        "while n < 3000000:\n n += os.write(1, r.randbytes(r.randrange(1, 99999)))"
    )
    source = Command((sys.executable, "-c", "n = 0; " + script), "source")
    slow = "import sys, time\n" + (
        "for n in range(60): sys.stdout.buffer.write(sys.stdin.buffer.read(n * 999));"
        "time.sleep(0.001)\n"
        "sys.stdout.buffer.write(sys.stdin.buffer.read())"
    )
    sink = Command((sys.executable, "-c", slow), "sink")
    whole = subprocess.run(source.argv, stdout=subprocess.PIPE, check=True).stdout
    moved = run(source, sink, "exec sha256sum")
    assert moved.output[:64].decode() == hashlib.sha256(whole).hexdigest()
    assert moved.size_bytes == len(whole)


def test_without_splice_bytes_are_copied(monkeypatch):
    def refuse(*args: object, **words: object) -> int:
        raise OSError(errno.EINVAL, "no splice here")

    monkeypatch.setattr(os, "splice", refuse)
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:9999]))
    meter = Meter()
    moved = run("head -c 5000000 /dev/zero", "sleep 0.2; exec wc -c")
    assert moved.output == b"5000000\n"
    with pytest.raises(PipelineFailed, match="^stage 1 failed with status 3"):
        run("exec yes", "head -c 1000000 >/dev/null; exit 3", meter=meter)
    assert meter.size_bytes >= 1_000_000


def test_the_output_of_the_last_stage_is_bounded():
    assert run("exec true", "head -c 3000000 /dev/zero").output == bytes(MIB)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_flood_of_words_hangs_nothing(position):
    scripts = ["head -c 2000000 /dev/zero", "exec cat", "exec wc -c"]
    flood = "head -c 300000 /dev/zero | tr '\\0' x >&2; "
    scripts[position] = flood + scripts[position].replace("exec ", "")
    scripts[position] += f"; {flood}"
    assert run(*scripts).output == b"2000000\n"


def test_a_failed_flood_keeps_its_last_words():
    flood = "head -c 300000 /dev/zero | tr '\\0' x >&2; echo >&2; echo why >&2; exit 9"
    with pytest.raises(PipelineFailed) as caught:
        run("exec true", "cat; " + flood, "exec cat")
    assert caught.value.blamed.stderr.endswith("x\nwhy\n")
    assert len(caught.value.blamed.stderr) == 65536
    assert str(caught.value).endswith("; why")


def test_pipelines_run_side_by_side():
    """And no pipe of one is held open by a process of another."""
    results: list[Moved | BaseException] = []

    def work(number: int) -> None:
        size = 1_000_000 + number
        try:
            source = f"sleep 0.{number}; head -c {size} /dev/zero"
            results.append(run(source, "exec cat", "exec wc -c"))
        except BaseException as error:
            results.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sizes = sorted(moved.size_bytes for moved in results if isinstance(moved, Moved))
    assert sizes == [1_000_000 + number for number in range(6)], results


# Failure


@dataclass
class Way:
    """A way to fail, as a script, and how it reads."""

    script: str
    says: str
    status: int


WAYS = {
    "status": Way("cat | head -c 100000; echo why >&2; exit 3", "status 3: why", 3),
    "at once": Way("exit 3", "failed with status 3", 3),
    "killed": Way("head -c 9999; kill -KILL $$", "was killed by SIGKILL", -9),
    "aborted": Way("kill -ABRT $$", "was killed by SIGABRT", -6),
    "deaf": Way("exec <&-; sleep 0.1; exit 4", "failed with status 4", 4),
    "dumb": Way("exec >&-; sleep 0.1; exit 5", "failed with status 5", 5),
    "255": Way("cat; exit 255", "failed with status 255", 255),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(
    ("length", "position"), [(n, p) for n in range(1, 5) for p in range(n)]
)
def test_whoever_fails_is_blamed(length, position, way):
    """The others: an endless source where the end has to come from behind."""
    scripts = ["exec yes" if position else "exit 0"] + (length - 1) * ["exec cat"]
    scripts[position] = way.script
    if way.status == 255:  # it reads all, which must end
        scripts[0] = "head -c 100000 /dev/zero" if position else way.script
    began = time.monotonic()
    with pytest.raises(PipelineFailed) as caught:
        run(*scripts)
    assert time.monotonic() - began < 5
    message = str(caught.value).split("\n")[0]
    assert message.startswith(f"stage {position} ") and message.endswith(way.says)
    assert caught.value.blamed.command.label == f"stage {position}"
    assert caught.value.blamed.status == way.status
    assert not caught.value.unknown
    labels = [other.command.label for other in caught.value.others]
    assert labels == sorted(set(labels) - {f"stage {position}"})
    assert all(f"\n  then {label} " in str(caught.value) for label in labels)


@pytest.mark.parametrize(
    ("length", "position"), [(n, p) for n in range(1, 5) for p in range(n)]
)
def test_a_missing_program_ends_what_was_started(length, position):
    scripts: list[str | Command] = [*(length * ["exec sleep 30"])]
    scripts[position] = Command(("no-such-program", "x"), "it")
    began = time.monotonic()
    with pytest.raises(CommandNotFound, match="^cannot run no-such-program: not found"):
        run(*scripts)
    assert time.monotonic() - began < 5


def test_a_receiver_that_complains_of_a_dead_sender_is_not_blamed():
    complain = "cat; echo 'ERROR: unexpected EOF' >&2; exit 1"
    for _ in range(20):
        with pytest.raises(PipelineFailed) as caught:
            run("echo a; echo gone >&2; exit 2", complain)
        assert str(caught.value) == (
            "stage 0 failed with status 2: gone\n"
            "  then stage 1 failed with status 1: ERROR: unexpected EOF"
        )


def test_a_sender_that_complains_of_a_dead_receiver_is_not_blamed():
    complain = (
        "import signal; signal.signal(signal.SIGPIPE, signal.SIG_IGN)\n"
        "try:\n while True: print('x' * 9999, flush=True)\n"
        "except OSError: import os; os._exit(255)"
    )
    sender = Command((sys.executable, "-c", complain), "sender")
    for _ in range(5):
        with pytest.raises(PipelineFailed) as caught:
            run(sender, "read x; exit 28")
        assert str(caught.value) == (
            "stage 1 failed with status 28\n  then sender failed with status 255"
        )


@pytest.mark.parametrize("status", [141, errno.EPIPE])
def test_victims_of_a_broken_pipe_are_not_blamed(status):
    """``btrfs send`` ends with 32 where SIGPIPE is ignored, a shell with 141."""
    with pytest.raises(PipelineFailed) as caught:
        run(
            f"trap '' PIPE; while echo x; do :; done 2>/dev/null; exit {status}", "exit"
        )
    assert str(caught.value) == (
        "stage 1 ended before it had read everything\n"
        f"  then stage 0 failed with status {status}"
    )


def test_a_status_that_only_looks_like_a_broken_pipe_is_blamed():
    with pytest.raises(PipelineFailed, match="^stage 0 failed with status 32$"):
        run("echo x; exit 32", "exec cat")


def test_unread_bytes_are_no_success():
    """Though everybody says so: nobody got a SIGPIPE."""
    with pytest.raises(PipelineFailed) as caught:
        run("sleep 0.2; echo", "exec true")
    assert str(caught.value) == "stage 1 ended before it had read everything"
    assert caught.value.others == ()


def test_if_everybody_lost_his_reader_the_one_who_did_not_read_is_blamed():
    with pytest.raises(PipelineFailed) as caught:
        run("exec yes", "exec cat", "exec head -c 1", "exec cat")
    assert str(caught.value).startswith("stage 2 ended before it had read everything\n")
    assert [other.status for other in caught.value.others] == 2 * [-signal.SIGPIPE]


def test_words_from_outside_cannot_steer_the_terminal():
    with pytest.raises(PipelineFailed) as caught:
        run(shell("printf '\\033[2J' >&2; exit 1", "a\x1bb"))
    assert str(caught.value) == "a\\x1bb failed with status 1: \\x1b[2J"


def test_a_lost_contact_is_unknown_and_says_so():
    with pytest.raises(PipelineFailed) as caught:
        run("exec true", shell("cat; exit 0", "put on nas", reports=True))
    assert str(caught.value) == (
        "put on nas: the connection was lost before it finished"
    )
    assert caught.value.unknown and caught.value.blamed.status is None


def test_a_reported_status_counts():
    report = "cat >&2; echo bbng2 {} >&2; exit {}"
    assert run("true", shell(report.format(0, 0), "put", reports=True))
    with pytest.raises(PipelineFailed, match="^put failed with status 5: x$"):
        run("echo x", shell(report.format(5, 0), "put", reports=True))


# Ends


@pytest.mark.usefixtures("_hurry")
@pytest.mark.parametrize("script", ["exit 3", "exit 0"])
def test_a_silent_sender_ends_when_its_reader_did(script):
    began = time.monotonic()
    with pytest.raises(PipelineFailed) as caught:
        run("exec sleep 30", "exec cat", script)
    assert time.monotonic() - began < 5
    assert caught.value.blamed.command.label == "stage 2" or script == "exit 0"
    assert "then stage 0 was stopped by this program" in str(caught.value)


@pytest.mark.usefixtures("_hurry")
def test_a_receiver_that_goes_on_after_a_dead_sender_is_ended():
    began = time.monotonic()
    with pytest.raises(PipelineFailed) as caught:
        run("exit 3", "exec sleep 30")
    assert 0.3 < time.monotonic() - began < 5
    assert str(caught.value) == (
        "stage 0 failed with status 3\n  then stage 1 was stopped by this program"
    )


@pytest.mark.usefixtures("_hurry")
def test_what_ignores_the_polite_signal_is_killed():
    began = time.monotonic()
    with pytest.raises(PipelineFailed, match="^stage 1 failed with status 3"):
        run("trap '' TERM; while :; do sleep 0.1; done", "exit 3")
    assert time.monotonic() - began < 5


def test_a_receiver_gets_all_and_its_time_though_the_sender_ended():
    slow = "sleep 0.7; wc -c"
    moved = run("head -c 900000 /dev/zero", slow, stall_timeout_s=0.5)
    assert moved.output == b"900000\n"


def test_a_stage_that_writes_on_after_its_sender_is_read():
    assert run("echo a", "cat; sleep 0.2; echo b", "exec cat").output == b"a\nb\n"


def test_what_is_left_behind_and_writes_on_is_heard():
    moved = run("exec true", "(sleep 0.3; echo late) & echo early")
    assert moved.output == b"early\nlate\n"


def test_an_end_is_passed_on_though_the_stage_goes_on(tmp_path):
    token = tmp_path / "token"
    source = f"echo a; exec >&-; while ! [ -e {token} ]; do sleep 0.02; done"
    assert run(source, f"cat; touch {token}").output == b"a\n"
    token.unlink()
    sink = f"read a; exec <&-; while ! [ -e {token} ]; do sleep 0.02; done"
    with pytest.raises(PipelineFailed, match="^stage 1 ended before it had read"):
        run(f"yes; touch {token}; exit 141", sink)


def test_waiting_for_a_slow_reader_takes_no_work(monkeypatch):
    calls, splice = [], os.splice

    def count(*args: Any, **how: Any) -> int:
        calls.append(1)
        return splice(*args, **how)

    monkeypatch.setattr(os, "splice", count)
    run("head -c 3000000 /dev/zero", "sleep 0.5; cat >/dev/null")
    assert len(calls) < 200


def test_a_daemon_that_holds_the_outputs_open_does_not_hold_us_up(monkeypatch):
    monkeypatch.setattr("btrfs_backup_ng.process.poller.LINGER_S", 0.2)
    marker = "27.1821"
    began = time.monotonic()
    assert run("echo a", f"cat; sleep {marker} & exit 0").output == b"a\n"
    assert time.monotonic() - began < 5
    wait_until(lambda: not running(marker), 5)


def test_whole_groups_end(monkeypatch):
    monkeypatch.setattr("btrfs_backup_ng.process.poller.LINGER_S", 0.2)
    marker = "27.1822"
    with pytest.raises(PipelineFailed):
        run(f"sleep {marker} & sleep {marker} & exit 1", f"sleep {marker} & exit 2")
    wait_until(lambda: not running(marker), 5)


# Stalls


@pytest.mark.parametrize(
    ("scripts", "says"),
    [
        (("exec yes", "exec sleep 30"), "stage 1 took no more data"),
        (("exec yes", "exec cat", "kill -STOP $$"), "stage 2 took no more data"),
        (("exec sleep 30", "exec cat"), "stage 0 sent no data"),
        (("echo a; exec sleep 30", "exec cat"), "stage 0 sent no data"),
        (("head -c 1500000 /dev/zero", "exec sleep 30"), "stage 1 took no more data"),
    ],
)
def test_a_stall_ends_the_pipeline_and_names_itself(scripts, says):
    began = time.monotonic()
    with pytest.raises(Stalled) as caught:
        run(*scripts, stall_timeout_s=0.4)
    assert 0.4 <= time.monotonic() - began < 5
    first, *others = str(caught.value).split("\n  then ")
    assert first == (
        "no data moved for 0.4 s (--stall-timeout), so the transfer was stopped: "
        + says
    )
    assert caught.value.blamed.command.label == says[:7]
    assert all(line.endswith("was stopped by this program") for line in others)


def test_a_slow_reader_is_no_stall():
    """Taking a few bytes at a time does not even free a page of the pipe."""
    few = "for i in 1 2 3 4 5 6; do sleep 0.2; dd bs=100 count=1 status=none; done"
    slow = "{ " + few + "; cat; } | wc -c"
    began = time.monotonic()
    moved = run("head -c 3000000 /dev/zero", slow, stall_timeout_s=0.8)
    assert moved.output == b"3000000\n"
    assert time.monotonic() - began > 1


def test_a_slow_writer_is_no_stall():
    slow = "for i in 1 2 3 4; do sleep 0.25; echo; done"
    assert run(slow, "exec wc -c", stall_timeout_s=0.8).output == b"4\n"


def test_no_limit_means_none():
    assert run("sleep 0.5", "exec cat", stall_timeout_s=0).size_bytes == 0


def test_time_in_which_we_did_not_run_is_no_stall():
    """As after Ctrl-Z, while the children go on."""
    script = """
from btrfs_backup_ng.process.pipeline import *
from btrfs_backup_ng.process.command import Command
sleeper = Command(("sh", "-c", "echo a; sleep 1.2"), "sleeper")
run_pipeline([sleeper, Command(("cat",), "cat")], meter=Meter(), stall_timeout_s=0.8)
"""
    ours = subprocess.Popen([sys.executable, "-c", script], cwd=_CHECKOUT)
    wait_until(lambda: len(descendants(ours.pid)) == 3)
    time.sleep(0.2)
    ours.send_signal(signal.SIGSTOP)
    time.sleep(0.9)
    ours.send_signal(signal.SIGCONT)
    assert ours.wait() == 0


# Interrupts and our own death


def test_an_interrupt_ends_all_pipelines():
    ends: list[BaseException] = []

    def work(*scripts: str) -> None:
        try:
            run(*scripts)
        except BaseException as error:
            ends.append(error)

    works = [("exec yes", "cat >/dev/null"), ("exec sleep 30", "exec cat", "exec cat")]
    threads = [threading.Thread(target=work, args=scripts) for scripts in works]
    others = len(children(os.getpid()))  # a test server, for instance
    for thread in threads:
        thread.start()
    wait_until(lambda: len(children(os.getpid())) - others == 5)
    began = time.monotonic()
    interrupt(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert time.monotonic() - began < 5
    assert [type(error) for error in ends] == 2 * [Interrupted]


@pytest.mark.usefixtures("_hurry")
def test_an_interrupt_kills_stages_that_ignore_it():
    threading.Timer(0.1, interrupt, [signal.SIGINT]).start()
    with pytest.raises(Interrupted):
        run("trap '' TERM; while :; do sleep 0.1; done", "trap '' TERM; cat; sleep 30")


def test_killed_we_leave_no_survivors():
    marker = "27.1823"
    script = f"""
import threading
from btrfs_backup_ng.process.pipeline import *
from btrfs_backup_ng.process.command import Command
sleep = Command(("sleep", "{marker}"), "sleep")
def work():
    run_pipeline([sleep, sleep, sleep], meter=Meter(), stall_timeout_s=300)
thread = threading.Thread(target=work)
thread.start()
work()
"""
    ours = subprocess.Popen([sys.executable, "-c", script], cwd=_CHECKOUT)
    try:
        wait_until(lambda: len(running(marker)) == 6)
    finally:
        ours.kill()
        ours.wait()
    wait_until(lambda: not running(marker), 5)


def test_a_bug_in_the_middle_leaves_nothing_behind(monkeypatch):
    def fail(*args: Any, **how: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(os, "splice", fail)
    with pytest.raises(ZeroDivisionError):
        run("exec yes", "exec cat", "exec sleep 30")


def test_memory_stays_small():
    before = _peak_kib()
    run("head -c 500000000 /dev/zero", "cat >/dev/null")
    assert _peak_kib() - before < 8192


def _peak_kib() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if "VmHWM" in line)


# A stage that counts writes to the last one directly


def test_what_a_stage_counts_is_what_moved():
    meter = Meter()
    source = "head -c 5000000 /dev/zero"
    moved = run(source, counting(), "sleep 0.3; exec wc -c", meter=meter)
    assert moved.output == b"5000000\n"
    assert moved.size_bytes == meter.size_bytes == 5_000_000
    assert meter.started and meter.last_moved and meter.ended
    assert meter.started <= meter.last_moved <= meter.ended


def test_what_a_counting_stage_says_of_itself_shows_without_its_counts(_hurry):
    script = COUNTING + "sys.exit('ERROR: no more')"
    with pytest.raises(PipelineFailed) as caught:
        run("head -c 100000 /dev/zero", counting(script), "exec cat")
    assert caught.value.message == "the filter failed with status 1: ERROR: no more"


@pytest.mark.parametrize(
    ("last", "why"),
    [
        ("head -c 100000 >/dev/null; exit 3", "failed with status 3"),
        ("head -c 100000 >/dev/null", "ended before it had read everything"),
        ("head -c 1000000 >/dev/null; exec <&-; exit 3", "failed with status 3"),
    ],
)
def test_who_stops_reading_what_is_counted_is_blamed(_hurry, last, why):
    for source in ("exec yes", "head -c 1500000 /dev/zero"):
        with pytest.raises(PipelineFailed) as caught:
            run(source, counting(), last)
        assert caught.value.message.partition("\n")[0] == f"stage 2 {why}"


def test_a_sender_that_fails_before_a_counting_stage_is_blamed(_hurry):
    with pytest.raises(PipelineFailed, match="^stage 0 failed with status 7") as caught:
        run("head -c 1000; exit 7", counting(), "cat >/dev/null; exit 1")
    assert [other.command.label for other in caught.value.others] == ["stage 2"]


@pytest.mark.parametrize(
    ("source", "last", "who"),
    [
        ("echo some; exec sleep 60", "exec cat", "stage 0 sent no data"),
        ("exec yes", "exec sleep 60", "stage 2 took no more data"),
    ],
)
def test_who_stalls_beside_a_counting_stage_is_blamed(_hurry, source, last, who):
    with pytest.raises(Stalled, match=who):
        run(source, counting(), last, stall_timeout_s=0.5)


def test_a_slow_reader_of_what_is_counted_is_no_stall(_hurry):
    slow = "for i in 1 2 3 4 5 6; do head -c 4096; sleep 0.2; done | wc -c; cat >&2"
    moved = run("head -c 900000 /dev/zero", counting(), slow, stall_timeout_s=0.5)
    assert moved.size_bytes == 900_000


# A sender whose bytes the kernel counts writes to the last stage directly


def counted(*argv: str) -> Command:
    return Command(argv, "the sender", is_counted=True)


@pytest.mark.parametrize(
    ("is_counted", "ends_by_pipes", "is_direct"),
    [(True, False, True), (True, True, False), (False, False, False)],
)
def test_a_counted_stream_is_connected_directly(is_counted, ends_by_pipes, is_direct):
    """Not if the last stage ends by its pipes: then the program has to hold one."""
    source = Command(("readlink", "/proc/self/fd/1"), "it", is_counted=is_counted)
    argv = ("sh", "-c", "cat; readlink /proc/self/fd/0")
    last = Command(argv, "last", ends_by_pipes=ends_by_pipes)
    before, after = run(source, last).output.splitlines()
    assert before.startswith(b"pipe:[") and (before == after) is is_direct


def test_what_the_kernel_counts_is_what_moved():
    meter = Meter()
    source = counted("head", "-c", "5000000", "/dev/zero")
    moved = run(source, "sleep 0.3; exec wc -c", meter=meter)
    assert moved.output == b"5000000\n"
    assert moved.size_bytes == meter.size_bytes == 5_000_000
    assert meter.started and meter.last_moved and meter.ended
    assert meter.started <= meter.last_moved <= meter.ended


@pytest.mark.parametrize(
    ("last", "why"),
    [
        ("head -c 100000 >/dev/null; exit 3", "failed with status 3"),
        ("head -c 100000 >/dev/null", "ended before it had read everything"),
        ("head -c 1000000 >/dev/null; exec <&-; exit 3", "failed with status 3"),
    ],
)
def test_who_stops_reading_from_a_counted_sender_is_blamed(_hurry, last, why):
    for source in (["yes"], ["head", "-c", "1500000", "/dev/zero"]):
        with pytest.raises(PipelineFailed) as caught:
            run(counted(*source), last)
        assert caught.value.message.partition("\n")[0] == f"stage 1 {why}"


def test_a_counted_sender_that_fails_is_blamed(_hurry):
    source = counted("sh", "-c", "head -c 1000 /dev/zero; exit 7")
    with pytest.raises(PipelineFailed, match="^the sender failed with status 7"):
        run(source, "cat >/dev/null; exit 1")


@pytest.mark.parametrize(
    ("source", "last", "who"),
    [
        ("echo some; exec sleep 60", "exec cat", "the sender sent no data"),
        ("exec yes", "exec sleep 60", "stage 1 took no more data"),
    ],
)
def test_who_stalls_in_a_direct_connection_is_blamed(_hurry, source, last, who):
    with pytest.raises(Stalled, match=who):
        run(counted("sh", "-c", source), last, stall_timeout_s=0.5)


@pytest.mark.parametrize("ends_by_pipes", [False, True])
def test_both_ends_end_with_a_killed_program(tmp_path, ends_by_pipes):
    script = f"""
from btrfs_backup_ng.process.command import Command
from btrfs_backup_ng.process.pipeline import Meter, run_pipeline
more = {{"ends_by_pipes": {ends_by_pipes}}}
stages = [
    Command(("yes", "{tmp_path}"), "it", is_counted=True, **more),
    Command(("tail", "-f", "--", "-"), "last", **more),
]
run_pipeline(stages, meter=Meter(), stall_timeout_s=0)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.DEVNULL, cwd=_CHECKOUT
    ) as program:
        wait_until(lambda: len(children(program.pid)) == 2)
        both = children(program.pid)
        program.kill()
    wait_until(lambda: not any(one.alive() for one in both))
