"""Tasks side by side: which run at once, which wait, and how they end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest

from btrfs_backup_ng.__util__ import Interrupted
from btrfs_backup_ng.core.location import Location, Scheme, parse_location
from btrfs_backup_ng.endpoint.ssh import Connections
from btrfs_backup_ng.process import interruption
from btrfs_backup_ng.session.side_by_side import (
    Task,
    look_side_by_side,
    run_side_by_side,
)
from btrfs_backup_ng.session.turns import STREAM_ENDS, Turns
from tests.support.processes import wait_until


@pytest.fixture(autouse=True)
def _uninterrupted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(interruption, "interrupted_by", None)
    yield
    assert threading.active_count() == 1


def places(*words: str) -> list[Location]:
    return [parse_location(word, working_directory="/") for word in words]


class Watched:
    """Tasks that begin, and end when they are told to."""

    def __init__(
        self,
        *wanted: Sequence[str],
        at_once: int = 9,
        on_a_host: int = 9,
        allows: Callable[[Location, int], bool] = lambda host, sessions: True,
        waits: Callable[[Location], bool] = lambda host: False,
    ):
        self.began: list[int] = []
        self.results: list[int] = []
        self.errors: list[BaseException] = []
        self._may_end = [threading.Event() for _ in wanted]
        tasks = [
            Task(places(*words), self._action(number))
            for number, words in enumerate(wanted)
        ]

        def attend() -> None:
            try:
                self.results = run_side_by_side(
                    tasks,
                    at_once=at_once,
                    at_once_on_a_host=on_a_host,
                    allows=allows,
                    waits=waits,
                )
            except BaseException as error:
                self.errors.append(error)

        self._thread = threading.Thread(target=attend)
        self._thread.start()

    def _action(self, number: int) -> Callable[[], int]:
        def run() -> int:
            self.began.append(number)
            self._may_end[number].wait(30)
            return 10 * number

        return run

    def end(self, *numbers: int) -> None:
        for number in numbers:
            wait_until(lambda: number in self.began)
            self._may_end[number].set()

    def wait_for(self, *numbers: int) -> None:
        wait_until(lambda: sorted(self.began) == sorted(numbers))

    def join(self) -> None:
        self._thread.join()


def test_tasks_of_different_places_run_at_once() -> None:
    watched = Watched(["/a", "/b"], ["/c", "/d"], ["/e"])
    watched.wait_for(0, 1, 2)
    watched.end(2, 1, 0)
    watched.join()
    assert watched.results == [0, 10, 20]


def test_tasks_that_share_a_place_keep_their_order() -> None:
    watched = Watched(["/a", "/b"], ["/b", "/c"], ["/c"], ["/d"])
    watched.wait_for(0, 3)  # not the third, which the second will wait for
    watched.end(0)
    watched.wait_for(0, 3, 1)
    watched.end(1)
    watched.wait_for(0, 3, 1, 2)
    watched.end(2, 3)
    watched.join()


def test_not_more_run_at_once_than_asked_for() -> None:
    watched = Watched(["/a"], ["/b"], ["/c"], at_once=2)
    watched.wait_for(0, 1)
    watched.end(1)
    watched.wait_for(0, 1, 2)
    watched.end(0, 2)
    watched.join()
    assert watched.began.index(2) == 2


def test_a_task_whose_host_does_not_answer_takes_no_place_of_another() -> None:
    silent = set[str]()
    watched = Watched(
        ["ssh://one/a"],
        ["ssh://two/a"],
        ["/a"],
        ["/b"],
        at_once=1,
        waits=lambda host: host.host in silent,
    )
    watched.wait_for(0)
    silent.add("one")
    watched.wait_for(0, 1)
    silent.add("two")
    watched.wait_for(0, 1, 2)
    watched.end(2)
    watched.wait_for(0, 1, 2, 3)
    watched.end(0, 1, 3)
    watched.join()
    assert watched.results == [0, 10, 20, 30]


def test_a_host_takes_a_few_tasks_and_a_few_places_at_once() -> None:
    host = "ssh://nas"
    watched = Watched(
        [f"{host}/a", f"{host}/b", f"{host}/c"],
        [f"{host}/d", f"{host}/e", f"{host}/f"],  # six places together
        [f"{host}/g"],
        [f"{host}/h"],
        ["ssh://other/a"],
        on_a_host=2,
    )
    watched.wait_for(0, 2, 4)
    watched.end(2)
    watched.wait_for(0, 2, 3, 4)
    watched.end(0)
    watched.wait_for(0, 1, 2, 3, 4)
    watched.end(1, 3, 4)
    watched.join()


def test_a_host_takes_no_second_task_unless_it_allows_enough_sessions() -> None:
    """For the locks of both, and two beside these."""
    asked: set[tuple[str, int]] = set()
    may = threading.Event()

    def allows(host: Location, sessions: int) -> bool:
        asked.add((host.host, sessions))
        return may.is_set()

    watched = Watched(
        ["ssh://nas/a", "ssh://nas/b"],
        ["ssh://nas/c"],
        ["ssh://other/a"],
        allows=allows,
    )
    watched.wait_for(0, 2)
    wait_until(lambda: asked == {("nas", 5)})
    assert sorted(watched.began) == [0, 2]
    may.set()
    watched.wait_for(0, 1, 2)
    watched.end(0, 1, 2)
    watched.join()


def test_one_task_that_raises_does_not_end_the_others() -> None:
    over = []

    def fail() -> None:
        raise ZeroDivisionError

    def work() -> None:
        wait_until(lambda: not any(t.name == "fails" for t in threading.enumerate()))
        over.append(True)

    tasks = [Task([], fail), Task([], work)]
    with pytest.raises(ZeroDivisionError):
        run_side_by_side(tasks, at_once=2, at_once_on_a_host=2)
    assert over == [True]


def test_after_a_signal_no_further_task_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched = Watched(["/a"], ["/a"])
    watched.wait_for(0)
    monkeypatch.setattr(interruption, "interrupted_by", 2)
    watched.end(0)
    watched.join()
    assert watched.began == [0]
    assert isinstance(watched.errors[0], Interrupted)


class Streams:
    """Threads that take turns to send."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.sending: list[str] = []
        self._may_end: dict[str, threading.Event] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._waiting: list[str] = []

    def begin(
        self, name: str, *disks: str, is_small: bool = False, **hosts: int
    ) -> None:
        over = self._may_end[name] = threading.Event()
        ends = {Location(Scheme.SSH, "", host): n for host, n in hosts.items()}

        def send() -> None:
            self._waiting.append(name)
            with self._turns.taking(disks, ends, lambda: is_small):
                self.sending.append(name)
                over.wait(30)
                self.sending.remove(name)

        self._threads[name] = threading.Thread(target=send)
        self._threads[name].start()
        wait_until(lambda: name in self._waiting)

    def end(self, name: str) -> None:
        wait_until(lambda: name in self.sending)
        self._may_end[name].set()
        self._threads.pop(name).join()

    def wait_for(self, *names: str) -> None:
        wait_until(lambda: sorted(self.sending) == sorted(names))


def test_streams_that_share_a_disk_take_turns_in_their_order() -> None:
    streams = Streams(Turns())
    streams.begin("one", "a", "b")
    streams.wait_for("one")
    streams.begin("two", "b", "c")
    streams.begin("far", "d")
    streams.wait_for("one", "far")
    streams.begin("three", "c", "d")  # waits for "two", which waits itself
    streams.end("far")
    streams.wait_for("one")
    streams.end("one")
    streams.wait_for("two")
    streams.end("two")
    streams.wait_for("three")
    streams.end("three")


def test_little_is_sent_without_a_turn_of_the_disk_but_not_of_the_host() -> None:
    streams = Streams(Turns())
    streams.begin("large", "a", nas=1)
    streams.wait_for("large")
    streams.begin("small", "a", is_small=True, nas=1)
    streams.wait_for("large", "small")
    streams.begin("too many there", "a", is_small=True, nas=1)
    streams.begin("small here", "a", is_small=True)
    streams.wait_for("large", "small", "small here")
    streams.end("large")
    streams.wait_for("too many there", "small", "small here")
    streams.begin("large too", "a")  # does not wait for what took no turn
    streams.wait_for("too many there", "small", "small here", "large too")
    for name in ("too many there", "small", "small here", "large too"):
        streams.end(name)


def test_a_task_with_a_free_disk_is_not_asked_how_much_it_sends() -> None:
    def fail() -> bool:
        raise AssertionError

    two = Turns(2)
    with two.taking(["a"], {}, fail), two.taking(["a", "b"], {}, fail):
        pass


def test_a_disk_takes_as_many_streams_as_it_may_in_their_order() -> None:
    streams = Streams(Turns(2))
    streams.begin("one", "a")
    streams.begin("two", "a", "b")
    streams.begin("three", "a")
    streams.begin("four", "b")
    streams.wait_for("one", "two", "four")
    streams.begin("five", "b")  # waits for "two" or "four"
    streams.end("one")
    streams.wait_for("two", "three", "four")
    streams.end("two")
    streams.wait_for("three", "four", "five")
    for name in ("three", "four", "five"):
        streams.end(name)


def test_a_host_takes_a_limited_number_of_streams_also_with_free_disks() -> None:
    streams = Streams(Turns(9))
    streams.begin("one", "a", nas=1)
    streams.begin("two", "a", nas=1)
    streams.wait_for("one", "two")
    streams.begin("both", "a", nas=STREAM_ENDS + 3)  # all that there may be
    streams.begin("else", "a", other=1)
    streams.wait_for("one", "two", "else")
    streams.end("one")
    streams.wait_for("two", "else")
    streams.end("two")
    streams.wait_for("both", "else")
    streams.end("both")
    streams.end("else")


def test_a_signal_ends_the_waiting_for_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = Turns()
    with turns.taking(["a"], {}):
        monkeypatch.setattr(interruption, "interrupted_by", 15)
        with pytest.raises(Interrupted), turns.taking(["a"], {}):
            pass
    with turns.taking(["a"], {}):  # nothing of it is left
        pass


def test_hosts_are_looked_at_at_once_and_the_places_of_one_in_their_order():
    others, seen = threading.Event(), list[str]()

    def look(name: str) -> str:
        if name == "first":
            assert others.wait(30)
        elif name == "last":
            others.set()
        seen.append(name)
        return name.upper()

    names = ["first", "here", "second", "last"]
    where = places("ssh://hangs/1", "/tmp", "ssh://hangs/2", "ssh://other/1")
    with Connections() as connections:
        for _ in range(2):  # in the same threads
            others.clear()
            looks = [(at, partial(look, name)) for at, name in zip(where, names)]
            found = look_side_by_side(looks, connections)
            assert found == ["FIRST", "HERE", "SECOND", "LAST"]
            assert seen.index("last") < seen.index("first") < seen.index("second")
            seen.clear()
