"""Sixty days of five volumes and three targets, with all that goes wrong in them.

By default only some runs, around what goes wrong; with ``BBNG_DAYS=1`` in the
environment one each hour of the sixty days, with ``BBNG_DAYS=8`` each eighth.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path

from tests.conftest import MakesFilesystems
from tests.days.agreement import check_agreement
from tests.days.model import Model
from tests.days.reference import HOUR
from tests.days.world import KEEP, PAIRS, TARGETS, Place, World, moment_of, rules, sent
from tests.support.command_line import must
from tests.support.places import MIB, assert_equal
from tests.support.processes import killed, wait_until
from tests.support.sshd import Sshd

#: Hours between two runs; 0 for only a few.
EVERY = int(os.environ.get("BBNG_DAYS", 0))
DAY = 24
#: Hours since the start, and where the program is killed.
KILLS = {3 * DAY: "vault", 13 * DAY: "nas", 27 * DAY: "vault"}
FULL = range(8 * DAY, 9 * DAY + 6)
AWAY = range(20 * DAY, 40 * DAY)
RESTORE = 33 * DAY
#: Hours of the runs in the suite, beside those of which the test needs one anyway.
FEW = [1, FULL.start + 25, 14 * DAY + 14, 26 * DAY, 60 * DAY - 1]
#: Hours after whose runs all forms of the state are compared, in the suite, too.
LOOKS = (FULL.start, 26 * DAY, 60 * DAY - 1)


def hours() -> Iterator[int]:
    """Yield the hours of the runs."""
    edges = {RESTORE, *(edge for each in (FULL, AWAY) for edge in (each[0], each.stop))}
    edges |= {0, *KILLS, min(KILLS) + 1}
    more = range(0, 60 * DAY, EVERY) if EVERY else ()
    yield from sorted({*FEW, *edges, *more})


class Days:
    """The world beside its model.

    :ivar seen: the words of ``status`` so far.
    """

    def __init__(self, world: World) -> None:
        self.world, self.model = world, Model()
        self.away: tuple[str, ...] = ()
        self.full: tuple[str, ...] = ()
        self.seen: set[str] = set()

    def look(self, others: Mapping[Place, str], *, is_at_work: bool = False) -> None:
        """Compare all forms in which the state is shown.

        :param others: words of places that are at work, or were interrupted.
        """
        self.seen |= check_agreement(
            self.world, self.model, self.away, others, is_at_work=is_at_work
        )

    def run(self) -> None:
        """Back up, and compare each place and each message with the model."""
        world, model, away = self.world, self.model, self.away
        before = {place: set(model.there[place]) for place in model.there}
        failing = bool(self.full or "usb" in away)
        done = must(world.call("run", "--json"), 10 if failing else 0)
        made = {volume: self._made(volume) for volume in KEEP}
        told = model.run(world.now, made, away, self.full)
        assert world.take_messages() == told, world.now
        for place, expected in model.there.items():
            if place.target not in away:
                found = set(world.find(place))
                assert found == expected, (place, world.now, found ^ expected)
        for one in sent(done):
            volume, target = Path(one["source"]).name, self._target(one["destination"])
            assert bool(one["parent"]) == bool(before[Place(volume, target)]), one

    def _made(self, volume: str) -> datetime:
        """Return the time of the newest snapshot, which the last run made."""
        newest = max(self.world.find(Place(volume, "")))
        assert timedelta() <= newest - self.world.now < HOUR / 60, (volume, newest)
        return newest

    def _target(self, destination: str) -> str:
        tops = {name: str(self.world.disks[name].path) for name in TARGETS}
        return next(name for name, top in tops.items() if top in destination)

    def kill(self, target: str, *, is_looked_at: bool) -> None:
        """Kill a run while it sends a volume to a target."""
        world, model, place = self.world, self.model, Place("home", target)
        world.change(6 * MIB, place.volume)
        present = [each for each in PAIRS if each.volume == place.volume]
        present = [each for each in present if each.target not in self.away]
        with killed(world.start(place.volume, "--rate", "3M")) as program:
            wait_until(lambda: world.received_bytes(place) > MIB)
            program.send_signal(signal.SIGSTOP)
            if is_looked_at:
                self.look(dict.fromkeys(present, "RUNNING"), is_at_work=True)
        world.wait_for_quiet()
        assert not world.take_messages()
        for each in (*present, Place(place.volume, "")):
            expected, found = model.there[each], set(world.find(each))
            new = found - expected
            assert all(moment >= world.now for moment in new), each
            assert rules(each).keep(expected | new, world.now) <= found, each
            model.there[each] = found
        waiting = [each for each in present if world.received_bytes(each)]
        assert place in waiting
        if is_looked_at:
            self.look(dict.fromkeys(waiting, "WAITING"))
        world.now += HOUR / 6  # until the next one

    def restore(self) -> None:
        """Restore the newest backup of a volume, and compare it with its snapshot."""
        world, place = self.world, Place("home", "nas")
        scratch = world.disks[""].path / "scratch"
        scratch.mkdir()
        newest = max(self.model.there[place])
        name = world.find(place)[newest]
        must(world.restore(place, name, scratch))
        snapshot = world.path(Place(place.volume, "")) / name
        assert_equal(snapshot, scratch / name)


def begin(days: Days, hour: int) -> None:
    """Let happen what happens before the run of an hour."""
    world, usb, vault = days.world, days.world.disks["usb"], days.world.disks["vault"]
    if hour == 0:
        days.look({})
    if hour in KILLS:
        days.kill(KILLS[hour], is_looked_at=bool(EVERY) or hour == min(KILLS))
    if hour == FULL.start:
        world.change(6 * MIB)
        vault.fill_up()
        days.full = ("vault",)
    if hour == FULL.stop:
        (vault.path / "filler").unlink()
        vault.sync()
        days.full = ()
    if hour == AWAY.start:
        usb.unmount()
        days.away = ("usb",)
    if hour == AWAY.stop:
        usb.mount()
        days.away = ()
        days.look({})


def test_sixty_days_are_as_the_reference_says(
    tmp_path: Path, btrfs: MakesFilesystems, sshd: Sshd
) -> None:
    disks = {name: btrfs(size="512M") for name in ("", *TARGETS)}
    world = World(tmp_path, disks, sshd)
    days, day = Days(world), 0
    for hour in hours():
        world.now = moment_of(hour)
        begin(days, hour)
        world.change()
        days.run()
        if hour == RESTORE:
            days.restore()
        if hour in LOOKS or EVERY and hour // DAY > day:
            day = hour // DAY
            days.look({})
    assert days.seen == {
        *("NEVER", "OK", "RUNNING", "WAITING", "FAILED", "AWAY", "STALE")
    }
