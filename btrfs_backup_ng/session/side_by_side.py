"""The tasks of one call: which of them run at once, and in which order."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from functools import partial
from typing import Generic, TypeVar

from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.endpoint.ssh import HOSTS_AT_ONCE, Connections
from btrfs_backup_ng.process.interruption import check_interrupted, interrupted

T = TypeVar("T")

#: Sessions on a host beside those of locks: a sender and a receiver, or a question.
BESIDE_LOCKS = 2
_LOOK_FOR_SIGNALS_S = 0.1


class Task(Generic[T]):
    """One task of a call.

    :ivar places: all that it works on.
    :ivar hosts: how many of these are at each host behind ssh.
    :ivar future: its result, once it has been started.
    """

    def __init__(self, places: Collection[Location], action: Callable[[], T]) -> None:
        self.places = set(places)
        self.hosts = Counter(one.machine for one in self.places if one.is_remote)
        self.action = action
        self.future: Future[T] | None = None

    @property
    def is_running(self) -> bool:
        return self.future is not None and not self.future.done()

    def result(self) -> T:
        """Return its result, or raise its error.

        :raises Interrupted: if a signal kept it from starting.
        """
        if not self.future:
            check_interrupted()
        assert self.future
        return self.future.result()


def run_side_by_side(
    tasks: Sequence[Task[T]],
    *,
    at_once: int,
    at_once_on_a_host: int,
    allows: Callable[[Location, int], bool] = lambda host, sessions: True,
    waits: Callable[[Location], bool] = lambda host: False,
    threads: ThreadPoolExecutor | None = None,
) -> list[T]:
    """Run each task in a thread, and return their results in their order.

    Tasks that share a place run one after the other, in their order. After a signal no
    further task starts. If tasks raise errors, the others run to their end all the
    same; then the first of these errors is raised.

    :param allows: returns whether a host is known to allow so many sessions at once.
    :param waits: returns whether a host has not let us in for long. A task that waits
        for one does not count, so that many hosts that are off delay no other task.
    :param threads: to run them in, instead of new ones.
    """
    # Its threads stay until the end: a child ends with the thread that started it, as
    # the connection of a host, which other tasks use, too.
    most = at_once + HOSTS_AT_ONCE
    with nullcontext(threads) if threads else ThreadPoolExecutor(most) as pool:
        waiting = list(tasks)
        while waiting and not interrupted():
            running = [task for task in tasks if task.is_running]
            task = _find_free(waiting, running, at_once_on_a_host, allows)
            busy = [each for each in running if not any(map(waits, each.hosts))]
            if task and len(busy) < at_once and len(running) < most:
                task.future = pool.submit(task.action)
                waiting.remove(task)
            else:
                _wait(tasks, FIRST_COMPLETED)
        while _wait(tasks):
            pass
    return [task.result() for task in tasks]


def look_side_by_side(
    looks: Sequence[tuple[Location, Callable[[], T]]], connections: Connections
) -> list[T]:
    """Look at places, and return the results in their order.

    Several machines are looked at at once, so that one that hangs delays no other; the
    places of one machine, one after the other.
    """
    machines: dict[Location, list[int]] = {}
    for number, (location, _) in enumerate(looks):
        machines.setdefault(location.machine, []).append(number)

    def look(numbers: Sequence[int]) -> dict[int, T]:
        return {number: looks[number][1]() for number in numbers}

    parts = run_side_by_side(
        [Task([one], partial(look, here)) for one, here in machines.items()],
        at_once=HOSTS_AT_ONCE,
        at_once_on_a_host=1,
        threads=connections.threads,
    )
    found = {number: result for part in parts for number, result in part.items()}
    return [found[number] for number in range(len(looks))]


def _find_free(
    waiting: Sequence[Task[T]],
    running: Sequence[Task[T]],
    at_once_on_a_host: int,
    allows: Callable[[Location, int], bool],
) -> Task[T] | None:
    """Find the first task that shares no place with those that run or come before."""
    taken = {place for task in running for place in task.places}
    for task in waiting:
        is_free = not task.places & taken
        if is_free and _has_room(task, running, at_once_on_a_host, allows):
            return task
        taken |= task.places
    return None


def _has_room(
    task: Task[T],
    running: Sequence[Task[T]],
    at_once: int,
    allows: Callable[[Location, int], bool],
) -> bool:
    """Return whether each host behind ssh takes it beside the tasks that run.

    Each place needs a session for its lock, as long as the task runs. The two sessions
    beside these are enough for any task to go on, so none waits for the end of another.
    A task that is alone may try more.
    """
    if not task.hosts:
        return True
    from btrfs_backup_ng.host.ssh import PLACES_AT_ONCE  # here: local tasks need no ssh

    for host, number in task.hosts.items():
        there = [one.hosts[host] for one in running if one.hosts[host]]
        locks = sum(there) + number
        fits = len(there) < at_once and locks <= PLACES_AT_ONCE
        if there and not (fits and allows(host, locks + BESIDE_LOCKS)):
            return False
    return True


def _wait(tasks: Sequence[Task[T]], until: str = "ALL_COMPLETED") -> bool:
    """Wait for tasks; return whether some still run.

    Never without a limit: a signal that comes while another thread forks is noted
    there, and does not wake this thread up, where its handler runs.
    """
    futures = [task.future for task in tasks if task.future and task.is_running]
    wait(futures, _LOOK_FOR_SIGNALS_S, until)
    return any(task.is_running for task in tasks)
