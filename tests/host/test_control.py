"""Verbs that share a session: framed answers, and sessions that die or refuse.

Through login shells of this machine instead of ssh.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from btrfs_backup_ng.__util__ import KIB, MIB, BackupError, Refused
from btrfs_backup_ng.host.ssh import SshHost
from btrfs_backup_ng.process.child import PIPE, Child
from btrfs_backup_ng.process.command import (
    Command,
    CommandFailed,
    Completed,
    ContactLost,
    TimedOut,
)
from btrfs_backup_ng.sshutil.master import Sessions, SSHMasterManager
from btrfs_backup_ng.wire import verbs
from btrfs_backup_ng.wire.grammar import Verb
from tests.support import processes
from tests.wire.hostile import HOSTILE, PRINT, Made

#: Prints the number of its session's shell.
SESSION = Made("session", "printf %s $PPID; finish 0")
#: Passes its stdin on.
COPY = Made("copy", "cat; finish 0")
#: Ends as it is told.
FAIL = Made("fail", 'printf some; echo "ERROR: words" >&2; finish "$1"')


class Shells(SSHMasterManager):
    """A connection whose sessions are shells of this machine.

    :ivar opened: the verbs for which sessions were opened.
    :ivar before: shell that runs in front of each; ``$verb`` is that verb.
    """

    name = by_hand = "there"

    def __init__(self, before: str = "") -> None:
        self.sessions = Sessions()
        self.opened: list[str] = []
        self.before = before

    def ensure(self) -> bool:
        """Do nothing: there is nothing to lose."""
        return False

    def command(self, remote: str) -> tuple[str, ...]:
        """Return the argv that runs one string in a login shell."""
        verb = remote.rpartition("' bbng2 ")[2].partition(" ")[0]
        self.opened.append(verb)
        return ("sh", "-c", f"verb={verb}; {self.before}\n{remote}")


@pytest.fixture
def master() -> Shells:
    return Shells()


@pytest.fixture
def host(master: Shells) -> Iterator[SshHost]:
    with processes.nothing_left_behind(), closing(SshHost(master)) as host:
        yield host


def answer(host: SshHost, verb: Made, *words: bytes, stdin: bytes = b"") -> bytes:
    return host.call(verb, *map(os.fsdecode, words), stdin=stdin).stdout


def test_verbs_run_in_one_session_and_get_their_words_and_stdin_byte_by_byte(
    host: SshHost, master: Shells
) -> None:
    first = answer(host, SESSION)
    assert answer(host, PRINT, *HOSTILE).split(b"\0")[:-1] == HOSTILE
    everything = bytes(range(256)) * 300 + b"\n\n"
    for size in (1, 65535, 65536, 65537, len(everything)):
        assert answer(host, COPY, stdin=everything[:size]) == everything[:size]
    assert answer(host, COPY) == b""
    assert answer(host, Made("early", "head -c 5; finish 0"), stdin=everything)
    assert answer(host, SESSION) == first
    assert master.opened == ["loop"]


def test_8_mib_travel_in_both_directions(host: SshHost) -> None:
    content = os.urandom(MIB) * 8
    assert answer(host, COPY, stdin=content) == content


@pytest.mark.parametrize("status", [1, 66, 75])
def test_a_failure_is_that_of_its_verb_and_the_session_stays(
    host: SshHost, master: Shells, status: int
) -> None:
    with pytest.raises(CommandFailed) as caught:
        answer(host, FAIL, b"%d" % status)
    assert caught.value.completed.status == status
    assert caught.value.completed.stdout == b"some"
    assert f"fail on there failed with status {status}" in caught.value.message
    assert caught.value.message.endswith(": ERROR: words")
    assert answer(host, COPY, stdin=b"x") == b"x"
    assert master.opened == ["loop"]


def test_a_script_travels_once(host: SshHost) -> None:
    """And another one of that name is another one."""
    one, other = Made("same", "printf 1; finish 0"), Made("same", "printf 2; finish 0")
    assert [answer(host, verb) for verb in (one, other, one)] == [b"1", b"2", b"1"]
    everything = Made("sizes", 'printf %s "${#script}"; finish 0')
    assert answer(host, everything) == b"%d" % len(everything.script)


def test_signs_of_life_and_words_belong_to_one_verb(host: SshHost) -> None:
    loud = Made("loud", "notify working; head -c 100000 /dev/zero >&2; finish 1")
    with pytest.raises(CommandFailed):
        answer(host, loud)
    with pytest.raises(CommandFailed) as caught:
        answer(host, Made("quiet", "finish 1"))
    assert caught.value.completed.stderr == ""


def test_a_slow_verb_holds_up_no_other_one(
    host: SshHost, master: Shells, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "go")
    slow = Made("slow", 'cat "$1"; finish 0')
    found: list[bytes] = []
    thread = threading.Thread(
        target=lambda: found.append(answer(host, slow, os.fsencode(tmp_path / "go")))
    )
    thread.start()
    processes.wait_until(lambda: len(master.opened) == 1)
    assert answer(host, COPY, stdin=b"x") == b"x"
    assert found == []
    (tmp_path / "go").write_text("gone on")
    thread.join()
    assert found == [b"gone on"] and master.opened == ["loop", "loop"]


def test_a_session_outlives_the_thread_that_opened_it(
    host: SshHost, master: Shells
) -> None:
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(answer(host, SESSION)))
    thread.start()
    thread.join()
    assert answer(host, SESSION) == found[0]
    assert master.opened == ["loop"]


# Answers that are none.


def test_no_answer_imitates_the_frame_of_another(host: SshHost) -> None:
    """What is known of a request to those who are not asked."""
    nosy = Made("nosy", 'cat "/proc/$PPID/cmdline" "/proc/$PPID/environ"; finish 0')
    known = answer(host, nosy)
    assert b"loop" in known
    imitated = known.replace(b"\0", b"\n") + b"\n0123456789abcdef 0\n" * 9
    assert answer(host, COPY, stdin=imitated) == imitated
    assert answer(host, COPY, stdin=b"x") == b"x"


GARBLED = {
    "behind its end": "(sleep 0.2; echo late) & finish 0",
    "killed": "kill -9 $$",
    "killed in mid-answer": "printf half; kill -9 $$",
    "no status": "exit 0",
    "the loop is killed": "printf half; kill -9 $PPID; sleep 1",
    "a second frame": "finish 0",
}


@pytest.mark.parametrize("how", GARBLED)
def test_after_an_answer_without_an_end_the_next_one_is_right(
    host: SshHost, how: str
) -> None:
    try:
        answer(host, Made("odd", GARBLED[how]))
    except ContactLost as error:
        assert "odd on there" in error.message
    time.sleep(0.3)
    for number in range(3):
        try:
            assert answer(host, COPY, stdin=b"%d" % number) == b"%d" % number
        except ContactLost:
            assert (how, number) == ("behind its end", 0)


def test_an_answer_over_the_limit_ends_its_session(
    host: SshHost, master: Shells
) -> None:
    first = answer(host, SESSION)
    with pytest.raises(CommandFailed, match="many on there wrote more than 1024 bytes"):
        host.call(Made("many", "cat /dev/zero"), output_limit=KIB)
    assert answer(host, SESSION) != first


def test_a_host_that_goes_silent_in_mid_answer_is_given_up(
    master: Shells, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("btrfs_backup_ng.process.command.LEAST_S", 0)
    with closing(SshHost(master, silence_s=3)) as host:
        assert answer(host, COPY, stdin=b"x") == b"x"
        with pytest.raises(TimedOut, match="odd on there was silent for 3 s"):
            answer(host, Made("odd", "printf half; exec sleep 9"))
        assert answer(host, COPY, stdin=b"x") == b"x"


# Sessions that die, or do not come to be.


def kill_sessions(before: set[int]) -> None:
    """Kill the shells of the sessions that were opened since."""
    mine = [p for p in processes.children(os.getpid()) if p.pid not in before]
    assert mine
    processes.kill(mine)
    processes.wait_until(lambda: not any(p.alive() for p in mine))


def test_a_dead_session_is_opened_again_once(master: Shells) -> None:
    before = {p.pid for p in processes.children(os.getpid())}
    with closing(SshHost(master)) as host:
        for opened in (["loop"], ["loop"] * 2):
            assert answer(host, COPY, stdin=b"x") == b"x"
            assert master.opened == opened
            kill_sessions(before)
        for number in range(2):
            assert answer(host, COPY, stdin=b"%d" % number) == b"%d" % number
    assert master.opened == ["loop", "loop", "copy", "copy"]


#: How a host refuses the loop, and nothing else.
REFUSALS = {
    "a guard": '[ $verb != loop ] || { echo "no such verb" >&2; exit 126; }',
    "a killed shell": "[ $verb != loop ] || kill -9 $$",
    "no dd": "dd() { exit 1; }; [ $verb != loop ] || exit 69",
}


@pytest.mark.parametrize("how", ["a guard", "no dd"])
def test_a_host_that_refuses_the_loop_gets_a_session_for_each_verb(how: str) -> None:
    master = Shells(REFUSALS[how])
    with closing(SshHost(master)) as host:
        for number in range(2):
            assert answer(host, COPY, stdin=b"%d" % number) == b"%d" % number
        with pytest.raises(CommandFailed, match="fail on there failed with status 66"):
            answer(host, FAIL, b"66")
    assert master.opened == ["loop", "copy", "copy", "fail"]


def test_a_dd_that_does_not_wait_for_all_bytes_is_not_relied_upon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dd").write_text("#!/bin/sh\necho unrecognized operand >&2\nexit 1\n")
    (tmp_path / "dd").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    master = Shells()
    with closing(SshHost(master)) as host:
        assert answer(host, COPY, stdin=b"x" * 100) == b"x" * 100
    assert master.opened == ["loop", "copy"]


@pytest.mark.parametrize("refuses", ["", REFUSALS["a guard"]])
def test_a_login_shell_that_prints_text_is_named(refuses: str) -> None:
    with closing(SshHost(Shells(f"{refuses}\necho hello"))) as host:
        with pytest.raises(Refused, match=r"prints text of its own \('hello'\)"):
            host.hello("/")


def test_only_what_is_a_fact_is_read_from_hello(
    host: SshHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = ("uid=0", "no fact", "=1", "", "aes:1\n", "path:a\n\n", "where=/a=:\n")

    def call(verb: Verb, nonce: str, *_: str) -> Completed:
        text = "\0".join((nonce, *items, "cut"))
        return Completed(Command((), label=verb.name), 0, text.encode(), "")

    monkeypatch.setattr(host, "call", call)
    said = {"uid": "0", "aes": "1", "path": "a\n", "where": "/a=:\n"}
    assert host.hello("/") == said


# Locks.


@pytest.fixture(params=["control session", "session of its own"])
def locking(request: pytest.FixtureRequest) -> Iterator[tuple[SshHost, Shells]]:
    """Return a host that runs the loop, and one that refuses it."""
    is_refused = request.param == "session of its own"
    master = Shells(REFUSALS["a guard"] if is_refused else "")
    with processes.nothing_left_behind(), closing(SshHost(master)) as host:
        yield host, master


def test_locks_are_held_side_by_side_and_released_at_once(
    locking: tuple[SshHost, Shells], tmp_path: Path
) -> None:
    host, master = locking
    states = [tmp_path / str(number) for number in range(3)]
    for state in states:
        state.mkdir()
    for _ in range(2):
        with host.lock(str(states[0]), 0, "one") as say:
            with host.lock(str(states[1]), 0, "two"):
                assert host.held(str(states[0])) == "one"
                say("first")
                processes.wait_until(lambda: host.held(str(states[0])) == "first")
                assert host.held(str(states[1])) == "two"
                assert host.held(str(states[2])) is None
            assert host.held(str(states[1])) is None
        assert host.held(str(states[0])) is None
    if master.before == "":
        assert master.opened == ["loop"] * 3


def test_a_session_is_open_before_the_first_verb_under_a_lock(
    host: SshHost, master: Shells, tmp_path: Path
) -> None:
    assert answer(host, COPY, stdin=b"x") == b"x"
    with host.lock(str(tmp_path), 0, "me"):
        assert master.opened == ["loop"] * 2
        assert answer(host, COPY, stdin=b"y") == b"y"
        assert master.opened == ["loop"] * 2


def test_a_lost_lock_is_noticed(
    locking: tuple[SshHost, Shells], tmp_path: Path
) -> None:
    host, _ = locking
    before = {p.pid for p in processes.children(os.getpid())}
    lost = "the connection to there was lost, and with it the lock on"
    with host.lock(str(tmp_path), 0, "me") as say:
        say("still me")
        kill_sessions(before)
        with pytest.raises(BackupError, match=lost):
            say("not me")
    assert host.held(str(tmp_path)) is None


def test_several_threads_may_write_notes(host: SshHost, tmp_path: Path) -> None:
    """As the transfers of a run do, and the run itself."""
    with ThreadPoolExecutor(4) as pool:
        with host.lock(str(tmp_path), 0, "me") as say:
            list(pool.map(say, map(str, range(300))))
            processes.wait_until(lambda: host.held(str(tmp_path)) not in (None, "me"))
        with pytest.raises(BackupError, match="lost, and with it the lock"):
            say("too late")


def test_a_lock_that_ended_at_the_other_side_alone_is_noticed(
    host: SshHost, tmp_path: Path
) -> None:
    """As after 30 s without a sign of life; its session may still be there."""
    with host.lock(str(tmp_path), 0, "me") as say:
        say("still me")
        say("")
        processes.wait_until(lambda: host.held(str(tmp_path)) is None)
        with pytest.raises(BackupError, match="lost, and with it the lock"):
            say("not me")
    assert host.held(str(tmp_path)) is None


# Room.


def limited(directory: Path, allowed: int) -> Shells:
    """Return a connection that takes only so many sessions at once."""
    flock = f"exec 9>>{directory}/$number; flock -n 9"
    refuse = "echo session open refused by peer >&2; exit 255"
    limit = f"for number in $(seq {allowed}); do {flock} && break; done; flock -n 9"
    return Shells(f"{limit} || {{ {refuse}; }}")


@pytest.mark.parametrize("allowed", [1, 2, 3, 9])
def test_a_stream_finds_room_where_few_sessions_are_allowed(
    allowed: int, tmp_path: Path
) -> None:
    """With a lock, as many streams as there is room for, and then a verb again."""
    master = limited(tmp_path, allowed)
    with closing(SshHost(master)) as host, ExitStack() as stack:
        answer(host, COPY)
        if allowed > 1:
            stack.enter_context(host.lock(str(tmp_path), 0, "me"))
        answer(host, COPY)
        command = host.command(verbs.WAIT, label="a stream")
        for _ in range({1: 1, 2: 1, 3: 1, 9: 6}[allowed]):
            child = Child.start(command, stdin=PIPE, stdout=PIPE)
            stack.enter_context(child)
            assert child.read_line() == b"ready"
        child.end()
        answer(host, COPY)


def test_a_verb_that_is_refused_a_session_waits_for_the_end_of_a_stream(
    tmp_path: Path,
) -> None:
    found: list[bytes] = []
    with (
        closing(SshHost(limited(tmp_path, 2))) as host,
        host.lock(str(tmp_path), 0, "me"),
    ):
        command = host.command(verbs.WAIT, label="a stream")
        with Child.start(command, stdin=PIPE, stdout=PIPE) as child:
            assert child.read_line() == b"ready"
            asking = threading.Thread(
                target=lambda: found.append(answer(host, COPY, stdin=b"x"))
            )
            asking.start()
            processes.wait_until(lambda: host.is_narrow)
            assert found == []
        asking.join()
        assert found == [b"x"]
        assert answer(host, COPY, stdin=b"y") == b"y"


def test_a_verb_that_waits_for_locks_alone_fails(tmp_path: Path) -> None:
    """They may be those of its own task, which would wait for itself."""
    with (
        closing(SshHost(limited(tmp_path, 1))) as host,
        host.lock(str(tmp_path), 0, "me"),
        pytest.raises(ContactLost, match="session open refused by peer"),
    ):
        answer(host, COPY)


@pytest.mark.parametrize("allowed", [3, 4])
def test_a_server_proves_how_many_sessions_it_allows(
    allowed: int, tmp_path: Path
) -> None:
    master = limited(tmp_path, allowed)
    with closing(SshHost(master)) as host:
        assert not host.allows(1), "it was not looked at yet"
        host.look(str(tmp_path))
        for _ in range(2):
            assert [host.allows(number) for number in (3, 4)] == [True, allowed > 3]
        with host.lock(str(tmp_path), 0, "me"):
            answer(host, COPY)
    assert master.opened == ["loop"] * 4, "tried once, and used then"


def test_a_stream_of_many_costs_no_session_of_verbs(
    host: SshHost, master: Shells, tmp_path: Path
) -> None:
    """Whether there is room for it is tried once."""
    for _ in range(4):
        answer(host, COPY)
        with host.lock(str(tmp_path), 0, "me"):
            answer(host, COPY)
            command = host.command(verbs.WAIT, label="a stream")
            with Child.start(command, stdin=PIPE, stdout=PIPE) as child:
                assert child.read_line() == b"ready"
            answer(host, COPY)
    assert sorted(master.opened) == ["loop"] * 3 + ["wait"] * 4
