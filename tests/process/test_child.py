"""Single processes: how they are started, fed, drained, ended and spoken of."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from btrfs_backup_ng.__util__ import KIB, MIB, Interrupted
from btrfs_backup_ng.core.value import replace
from btrfs_backup_ng.process import child as process
from btrfs_backup_ng.process import interruption
from btrfs_backup_ng.process.child import PIPE, Child, run
from btrfs_backup_ng.process.command import (
    Command,
    CommandFailed,
    CommandNotFound,
    CommandNotStarted,
    ContactLost,
    Patience,
    TimedOut,
    environment,
    find_program,
    last_words,
    read_status,
)
from btrfs_backup_ng.process.interruption import end_all, interrupt
from btrfs_backup_ng.process.silence import Silence
from btrfs_backup_ng.wire.protocol import MAGIC
from tests.support.processes import (
    Process,
    children,
    descendants,
    everything,
    nothing_left_behind,
    wait_until,
)


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test starts uninterrupted and leaves no file and no process behind."""
    monkeypatch.setattr(interruption, "interrupted_by", None)
    with nothing_left_behind():
        yield
    assert not interruption.live


def shell(script: str, *, reports: bool = False) -> Command:
    return Command(("sh", "-c", script), "the script", reports=reports)


def python(script: str) -> Command:
    return Command((sys.executable, "-I", "-S", "-c", script), "the program")


def running(marker: str) -> list[Process]:
    return [p for p in everything() if marker in p.argv and p.state not in "ZX"]


def test_output_and_words_are_kept_apart():
    completed = run(shell("echo out; echo words >&2"))
    assert (completed.status, completed.stdout, completed.stderr) == (
        0,
        b"out\n",
        "words\n",
    )


def test_stdin_is_empty_unless_given():
    assert run(shell("cat; readlink /proc/self/fd/0")).stdout == b"/dev/null\n"


def test_a_megabyte_goes_in_and_comes_out():
    data = os.urandom(3 * MIB)
    assert run(shell("cat"), stdin=data).stdout == data


def test_a_command_may_leave_its_input_unread():
    assert run(shell("exec true"), stdin=bytes(3 * MIB)).status == 0


def test_floods_on_both_outputs_hang_nothing():
    flood = "head -c 300000 /dev/zero | tr '\\0' x"
    completed = run(shell(f"{flood} >&2; {flood}; {flood} >&2; echo end >&2"))
    assert len(completed.stdout) == 300_000
    assert len(completed.stderr) == 64 * KIB
    assert completed.stderr.endswith("xxxend\n")


def test_a_failure_names_the_culprit_its_status_and_its_last_words():
    with pytest.raises(CommandFailed) as caught:
        run(shell("echo first >&2; echo >&2; printf 'bad \\033[2J\\n' >&2; exit 3"))
    assert str(caught.value) == "the script failed with status 3: first; bad \\x1b[2J"
    assert caught.value.completed.status == 3


def test_a_signal_is_named():
    with pytest.raises(CommandFailed, match="^the script was killed by SIGKILL$"):
        run(shell("kill -KILL $$"))


def test_unchecked_failures_are_results():
    assert run(shell("exit 3"), check=False).status == 3
    assert run(shell("exit 0", reports=True), check=False).status is None


@pytest.mark.parametrize(
    ("argv", "kind", "message"),
    [
        (
            ("no-such-program",),
            CommandNotFound,
            "cannot run no-such-program: not found in PATH",
        ),
        (("/no/such",), CommandNotFound, "cannot run /no/such: no such file"),
        (("/etc/passwd",), CommandNotStarted, "cannot run /etc/passwd: Perm"),
        (("true", "x" * 200_000), CommandNotStarted, "cannot run true: Argument list"),
        (("true", "a\0b"), CommandNotStarted, "cannot run true: embedded null"),
    ],
)
def test_what_cannot_be_started_is_named(argv, kind, message):
    with pytest.raises(CommandNotStarted) as caught:
        run(Command(argv, "label"), check=False)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(message)


MARKER = f"31.{os.getpid()}"
WORKS = "while :; do printf '%s working\\n' >&2; sleep 0.05; done" % MAGIC


def patient(script: str, silence_s: float = 0.0, longest_s: float = 0.0) -> Command:
    patience = Patience(silence_s, longest_s, "Look there.")
    return replace(shell(script), patience=patience)


@pytest.mark.parametrize(
    ("command", "did"),
    [
        (
            patient(f"echo busy >&2; sleep {MARKER}; true", 0.3),
            "was silent for 0.3 s",
        ),
        (patient(f"echo busy >&2; {WORKS}", 0.3, 0.6), "did not end within"),
        (
            patient(f"exec >&-; echo busy >&2; sleep {MARKER}; true", 0.3),
            "was silent",
        ),
        (patient("kill -STOP $$", 0.3), "was silent for 0.3 s"),
    ],
)
@pytest.mark.parametrize("way", ["run", "read"])
def test_patience_has_an_end_and_ends_the_whole_group(command, did, way):
    began = time.monotonic()
    with pytest.raises(
        TimedOut, match=f"^the script {did}.*, so it was stopped"
    ) as told:
        answer(command) if way == "read" else run(command, check=False)
    assert time.monotonic() - began < 5
    wait_until(lambda: not running(MARKER))
    assert told.value.hint == "Look there."
    if "busy" in str(command):
        assert str(told.value).endswith("stopped: busy"), "the last words are missing"


def answer(command: Command) -> bytes:
    """Read what a child says a block after the other, to its end."""
    said = b""
    with Child.start(command, stdout=PIPE) as child:
        while block := child.read(100):
            said += block
        assert child.finish().status == 0
    return said


@pytest.mark.parametrize("way", [answer, lambda command: run(command).stdout])
@pytest.mark.parametrize("sign", ["echo x", "echo x >&2"])
def test_whoever_says_something_now_and_then_is_not_silent(way, sign):
    slow = f"for i in 1 2 3 4 5 6 7 8; do sleep 0.1; {sign}; done; echo end"
    assert way(patient(slow, 0.6)).endswith(b"end\n")


def test_input_that_is_taken_is_a_sign_of_life():
    slow = "for i in 1 2 3 4 5 6; do sleep 0.1; head -c 300000 >/dev/null; done; cat"
    assert run(patient(slow, 0.5), stdin=bytes(3 * MIB)).status == 0


def test_time_in_which_we_did_not_run_is_no_silence(monkeypatch):
    silence = Silence(Patience(1.0, 5.0))
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for _ in range(4):
        now += 3600
        assert silence.too_long(7) == ""
    for _ in range(4):
        now += 0.2
        said = silence.too_long(7)
    assert said == "was silent for 1 s"


def test_lines_that_say_that_it_works_are_shown_to_nobody():
    line = f"printf '{MAGIC} working\\n'"
    script = f"{line}; echo one; {line}; {line}; echo two; printf '{MAGIC} wor'; "
    script += "sleep 0.1; printf 'king\\n'; echo three"
    assert run(shell(f"{{ {script}; }} >&2")).stderr == "one\ntwo\nthree\n"


def test_many_lines_that_say_that_it_works_push_nothing_out():
    lines = f"yes '{MAGIC} working' | head -n 10000"
    assert run(shell(f"{{ echo why; {lines}; }} >&2")).stderr == "why\n"


def test_a_line_without_an_end_is_not_waited_for():
    with Child.start(shell("exec tr '\\0' x </dev/zero"), stdout=PIPE) as child:
        assert len(child.read_line()) == 4096
        assert len(child.read_rest(100_000)) == 100_000


def test_words_without_an_end_are_not_waited_for(monkeypatch):
    monkeypatch.setattr(process, "WORDS_AT_MOST", 3 * MIB)
    endless = shell("exec cat /dev/zero >&2")
    for way in (answer, run):
        with pytest.raises(TimedOut, match="wrote more than 3145728 bytes to stderr"):
            way(endless)


def test_a_limit_on_the_output_ends_an_endless_one():
    with pytest.raises(CommandFailed, match="wrote more than 100000 bytes"):
        run(shell("exec yes"), output_limit=100_000)


def test_the_limit_on_the_output_holds_for_what_is_left_behind():
    with pytest.raises(CommandFailed, match="wrote more than 100000 bytes"):
        run(shell("yes & exit 0"), output_limit=100_000)


def test_a_process_that_ignores_the_polite_signal_is_killed(monkeypatch):
    monkeypatch.setattr(process, "END_GRACE_S", 0.2)
    marker = "31.4152"
    with Child.start(shell(f"trap '' TERM; sleep {marker}; sleep {marker}")) as child:
        wait_until(lambda: running(marker))
    assert child.poll() == -signal.SIGKILL
    wait_until(lambda: not running(marker))


def test_a_stopped_process_ends_at_once():
    with Child.start(shell("kill -STOP $$; exit 0")) as child:
        wait_until(lambda: [c for c in children(os.getpid()) if c.state == "T"])
        began = time.monotonic()
    assert child.poll() == -signal.SIGTERM
    assert time.monotonic() - began < 5


def test_what_a_command_left_behind_does_not_hold_us_up(monkeypatch):
    monkeypatch.setattr("btrfs_backup_ng.process.poller.LINGER_S", 0.2)
    marker = "31.4153"
    began = time.monotonic()
    assert run(shell(f"sleep {marker} & echo said")).stdout == b"said\n"
    assert time.monotonic() - began < 5
    wait_until(lambda: not running(marker), 5)


def test_what_is_left_behind_and_writes_on_is_heard():
    assert run(shell("(sleep 0.3; echo late) & echo early")).stdout == b"early\nlate\n"


def test_what_is_left_behind_and_writes_for_ever_is_a_failure(monkeypatch):
    monkeypatch.setattr("btrfs_backup_ng.process.poller.LINGER_AT_MOST_S", 0.3)
    with pytest.raises(CommandFailed, match="left a process behind that keeps writing"):
        run(shell("while echo a; do sleep 0.01; done & exit 0"))


# The status line


@pytest.mark.parametrize(
    ("script", "status", "stderr"),
    [
        ("echo bbng2 0 >&2", 0, ""),
        ("echo a >&2; echo bbng2 0 >&2", 0, "a\n"),
        ("echo bbng2 7 >&2", 7, ""),
        ("echo bbng2 7 >&2; exit 255", 7, ""),
        ("echo bbng2 0 >&2; exit 255", 255, ""),
        ("echo bbng2 0 >&2; kill -KILL $$", -9, ""),
        ("echo bbng2 3 >&2; echo Shared connection closed. >&2", 3, "Shared c"),
        ("printf 'no newline' >&2; echo bbng2 4 >&2", 4, "no newline"),
        ("echo bbng2 0 >&2; echo bbng2 5 >&2", 5, "bbng2 0\n"),
        ("printf 'bbng2 12' >&2", None, "bbng2 12"),
        ("echo bbng2 >&2", None, "bbng2\n"),
        ("exit 0", None, ""),
        ("exit 255", None, ""),
    ],
)
def test_the_status_line_counts(script, status, stderr):
    completed = run(shell(script, reports=True), check=False)
    assert completed.status == status
    assert completed.stderr.startswith(stderr)
    assert status is None or "bbng2 7" not in completed.stderr


def test_without_its_status_line_the_outcome_is_unknown():
    with pytest.raises(ContactLost) as caught:
        run(shell("echo 'broken pipe' >&2; exit 255", reports=True))
    assert str(caught.value) == (
        "the script: the connection was lost before it finished: broken pipe"
    )
    assert caught.value.completed.status is None


def test_a_status_line_of_a_command_that_does_not_report_is_just_words():
    assert run(shell("echo bbng2 7 >&2")).stderr == "bbng2 7\n"


def test_words_that_are_not_text_survive():
    assert read_status(shell(""), 1, b"a\xff\n") == (1, "a\udcff\n")
    assert last_words("a\udcff\n") == "a\\xff"


def test_errors_marked_as_such_are_the_last_words():
    said = "Chroot to /x\nERROR: no space left\nAt snapshot y\n"
    assert last_words(said) == "ERROR: no space left"
    assert last_words("1\n2\n3\n\n4\n") == "2; 3; 4"


# Surroundings


def test_the_environment_is_built(monkeypatch):
    for name in list(os.environ):
        monkeypatch.delenv(name)
    given = {"HOME": "/h", "SSH_ASKPASS_REQUIRE": "force", "SUDO_USER": "me"}
    for name, value in {**given, "LANG": "de_DE", "LD_PRELOAD": "x"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", ":relative:/usr/bin:/bin:.:/sbin")
    path = "/usr/bin:/bin:/sbin:/usr/local/sbin:/usr/sbin"
    assert environment() == given | {"PATH": path, "LC_ALL": "C"}
    seen = run(Command(("env",), "env")).stdout.decode().splitlines()
    assert "LC_ALL=C" in seen and not any(line.startswith("LANG") for line in seen)


def test_programs_are_found_where_children_look(monkeypatch, tmp_path):
    program = tmp_path / "my-program"
    program.write_text("#!/bin/sh\necho mine\n")
    program.chmod(0o755)
    assert find_program("my-program") is None
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert find_program("my-program") == str(program)
    assert run(Command(("my-program",), "mine")).stdout == b"mine\n"


def test_a_child_has_three_files_and_default_signals():
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    try:
        seen = run(python("import os; print(sorted(os.listdir('/proc/self/fd')))"))
        assert seen.stdout == b"['0', '1', '2', '3']\n"  # 3: that of the listing
    finally:
        os.close(reader)
        os.close(writer)
    assert run(shell("kill -PIPE $$"), check=False).status == -signal.SIGPIPE


def test_a_child_has_a_group_of_its_own_unless_it_needs_the_terminal():
    script = "import os; print(os.getpgrp() == os.getpid())"
    assert run(python(script)).stdout == b"True\n"
    argv = python(script).argv
    assert run(Command(argv, "x", terminal=True)).stdout == b"False\n"


def test_ending_a_child_in_our_group_spares_us():
    with Child.start(Command(("sleep", "9"), "sleep", terminal=True)) as child:
        pass
    assert child.poll() == -signal.SIGTERM


def test_the_log_can_be_pasted_into_a_shell(caplog):
    caplog.set_level(logging.DEBUG)
    run(Command(("echo", "two words", "it's", "$HOME"), "echo"))
    line = caplog.messages[0]
    assert line.startswith("+ ")
    done = subprocess.run(["sh", "-c", line[2:]], capture_output=True, text=True)
    assert done.stdout == "two words it's $HOME\n"


# Long-lived children


def test_a_child_is_talked_with():
    with Child.start(shell("read a; echo got $a; cat"), stdin=PIPE, stdout=PIPE) as it:
        assert it.stdin and it.stdout
        it.stdin.write(b"this\n")
        assert it.stdout.readline() == b"got this\n"
        assert it.poll() is None
        assert it.wait(0.05) is None
        it.stdin.close()
        assert it.wait(5) == 0
        assert it.poll() == 0


def test_a_childs_stderr_is_drained_while_it_lives():
    flood = "head -c 300000 /dev/zero | tr '\\0' x >&2; echo up >&2; exec sleep 30"
    with Child.start(shell(flood)) as child:
        wait_until(lambda: child.stderr_tail().endswith("xup\n"))
        assert child.poll() is None


def test_ending_what_has_ended_is_fine():
    with Child.start(shell("exit 4")) as child:
        assert child.wait() == 4
        child.end()
        child.terminate()
    child.end()
    assert child.poll() == 4


def test_a_child_that_does_not_read_cannot_hold_up_its_end(monkeypatch):
    with Child.start(shell("exec sleep 30"), stdin=PIPE) as child:
        assert child.stdin
        os.set_blocking(child.stdin.fileno(), False)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(child.stdin.fileno(), bytes(4096))
        began = time.monotonic()
    assert time.monotonic() - began < 5


def test_what_we_may_not_signal_ends_by_its_pipes(monkeypatch):
    """As sudo does, which runs as another user."""
    monkeypatch.setattr(process, "END_GRACE_S", 20)
    monkeypatch.setattr(Child, "send", lambda *args: None)
    began = time.monotonic()
    with Child.start(shell("exec cat"), stdin=PIPE, stdout=PIPE) as child:
        pass
    assert child.poll() == 0
    assert time.monotonic() - began < 5


def test_what_cannot_be_ended_is_named_and_left(monkeypatch, caplog):
    monkeypatch.setattr(process, "END_GRACE_S", 0.05)
    with Child.start(shell("exec sleep 0.5")) as child:
        monkeypatch.setattr(Child, "send", lambda *args: None)
        child.end()
        assert caplog.messages == [
            f"the script (process {child.pid}) could not be stopped"
        ]
        assert child.wait(5) == 0


def test_a_lost_status_is_no_success():
    """With SIGCHLD ignored, as some parents leave it, the kernel reaps for us."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert run(shell("sleep 0.2"), check=False).status == 255
    finally:
        signal.signal(signal.SIGCHLD, before)


# Signals


def test_an_interrupt_ends_a_command_in_any_thread():
    ends: list[BaseException] = []

    def work() -> None:
        try:
            run(shell("trap '' HUP; sleep 30; sleep 30"))
        except Interrupted as error:
            ends.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    others = len(descendants(os.getpid()))  # a test server, for instance
    for thread in threads:
        thread.start()
    wait_until(lambda: len(descendants(os.getpid())) - others == 6)
    interrupt(signal.SIGTERM)
    interrupt(signal.SIGINT)  # the first one counts
    began = time.monotonic()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began < 5
    assert [e.exit_status for e in ends if isinstance(e, Interrupted)] == 3 * [143]


def test_an_interrupt_kills_what_ignores_it(monkeypatch):
    monkeypatch.setattr(process, "END_GRACE_S", 0.2)
    threading.Timer(0.2, interrupt, [signal.SIGINT]).start()
    with pytest.raises(Interrupted):
        run(shell("trap '' TERM; while :; do sleep 0.1; done"))


def test_after_an_interrupt_nothing_starts(monkeypatch):
    def spawn(*args: object) -> None:
        pytest.fail("it started")

    monkeypatch.setattr(subprocess, "Popen", spawn)
    interrupt(signal.SIGINT)
    with pytest.raises(Interrupted) as caught:
        Child.start(shell("exit 0"))
    assert caught.value.exit_status == 130
    assert interruption.interrupted() == signal.SIGINT


def test_an_interrupt_ends_waiting_for_a_child():
    with pytest.raises(Interrupted):
        with Child.start(shell("exec sleep 30")) as child:
            threading.Timer(0.1, interrupt, [signal.SIGTERM]).start()
            child.wait()


def test_a_success_stays_one_in_spite_of_an_interrupt():
    with Child.start(
        shell("trap 'exit 0' TERM; echo; read x"), stdin=PIPE, stdout=PIPE
    ) as child:
        assert child.stdout and child.stdout.readline()
        interrupt(signal.SIGTERM)
        wait_until(lambda: child.peek() is not None)
        assert child.wait() == 0


def test_an_interrupt_while_a_child_starts_ends_it(monkeypatch):
    pidfd_open = os.pidfd_open

    def interrupted(pid):
        interrupt(signal.SIGTERM)  # as a handler would, before anyone knows the child
        return pidfd_open(pid)

    monkeypatch.setattr(os, "pidfd_open", interrupted)
    with pytest.raises(Interrupted):
        Child.start(shell("exec sleep 30"))


def test_the_first_signal_spares_the_last_steps_of_a_thread_and_no_other():
    interrupt(signal.SIGTERM)
    with interruption.last_steps():
        assert interruption.interrupted() is None
        assert run(shell("exit 0")).status == 0
        with ThreadPoolExecutor() as pool:
            assert pool.submit(interruption.interrupted).result() == signal.SIGTERM
        with pytest.raises(Interrupted):
            with Child.start(shell("exec sleep 30")) as child:
                interrupt(signal.SIGINT)  # the next one
                child.wait()
        assert child.reap() == -signal.SIGTERM
    assert interruption.interrupted() == signal.SIGTERM


def test_a_signal_to_come_spares_them_too():
    with interruption.last_steps():
        with Child.start(shell("read x; exit 0"), stdin=PIPE) as child:
            interrupt(signal.SIGTERM)
            assert child.peek() is None and interruption.interrupted() is None
            child.close_pipes()
            assert child.wait() == 0
    assert interruption.interrupted() == signal.SIGTERM


def test_the_last_resort_kills_all():
    with Child.start(shell("trap '' TERM; sleep 30; sleep 30")) as child:
        wait_until(lambda: descendants(child.pid))
        end_all()
        assert child.wait(1) == -signal.SIGKILL


def test_children_die_with_us_even_if_we_are_killed():
    marker = "31.4154"
    script = f"""
from btrfs_backup_ng.process.command import Command
from btrfs_backup_ng.process.child import Child, run
with Child.start(Command(("sleep", "{marker}"), "a")):
    run(Command(("sleep", "{marker}"), "b"))
"""
    ours = subprocess.Popen([sys.executable, "-c", script], cwd=_CHECKOUT)
    try:
        wait_until(lambda: len(running(marker)) == 2)
    finally:
        ours.kill()
        ours.wait()
    wait_until(lambda: not running(marker), 5)


_CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))


def test_an_orphan_does_not_run(monkeypatch):
    """The parent may die between fork and the request to be told of its death."""
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert run(shell("exit 0"), check=False).status == 137


#: Holds the end of a process back for a second, as strace does for a moment.
TRACER = """
import ctypes, os, sys, time
ptrace = ctypes.CDLL(None, use_errno=True).ptrace
ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
PTRACE_SEIZE = 0x4206  # linux/ptrace.h
assert ptrace(PTRACE_SEIZE, int(sys.argv[1]), None, None) == 0
print("traced", flush=True)
time.sleep(1)
os.waitpid(int(sys.argv[1]), 0x40000000)  # __WALL
"""


@pytest.mark.root
def test_the_status_of_a_child_that_is_traced_is_waited_for():
    with Child(shell("read line; exit 3"), stdin=PIPE) as child:
        argv = (sys.executable, "-I", "-S", "-c", TRACER, str(child.pid))
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as tracer:
            assert tracer.stdout and tracer.stdout.readline() == b"traced\n"
            assert child.stdin
            child.stdin.close()
            child.sleep(5)
            assert child.peek() is None  # it has ended, and only its tracer knows how
            assert child.peek(ended=True) == 3
            assert child.reap() == 3
