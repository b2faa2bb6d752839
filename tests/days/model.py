"""What is to be at each place, and what is to be told, after each run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

from tests.days.reference import Teller, Told
from tests.days.world import KEEP, MAX_AGE, PAIRS, Place, rules

#: The one that fails while its target is away; the others may be away.
NEEDED = Place("root", "usb")


class Model:
    """The state of all places, by the slow reference.

    :ivar there: the times of the snapshots or backups at each place.
    :ivar failed: those at which the last run failed.
    """

    def __init__(self) -> None:
        self.there: dict[Place, set[datetime]] = {
            place: set() for place in [*PAIRS, *(Place(one, "") for one in KEEP)]
        }
        self.failed: set[Place] = set()
        self._teller = Teller()

    def run(
        self,
        now: datetime,
        made: Mapping[str, datetime],
        away: Collection[str] = (),
        full: Collection[str] = (),
    ) -> list[Told]:
        """Follow a run, and return what it is to tell.

        :param made: the time of the snapshot of each volume.
        :param away: targets that are.
        :param full: targets without room.
        """
        self.failed = {place for place in PAIRS if place.target in full}
        self.failed |= {NEEDED} & {place for place in PAIRS if place.target in away}
        reached = [place for place in PAIRS if place.target not in (*away, *full)]
        for volume, moment in made.items():
            self.there[Place(volume, "")].add(moment)
        for place in reached:
            source, backups = self.there[Place(place.volume, "")], self.there[place]
            newer = {one for one in source if not backups or one > max(backups)}
            self.there[place] = rules(place).keep(backups | newer, now)
        for volume in KEEP:
            here = Place(volume, "")
            parents = {
                max(self.there[place])
                for place in PAIRS
                if place.volume == volume and self.there[place]
            }
            self.there[here] = rules(here).keep(self.there[here], now) | parents
        stale = {place for place in PAIRS if self.is_stale(place, now)}
        troubles = {Told("failure", str(place)) for place in self.failed}
        troubles |= {Told("stale", str(place)) for place in stale}
        good = {Told("failure", str(place)) for place in reached}
        good |= {Told("stale", str(place)) for place in {*PAIRS} - stale}
        return self._teller.run(now, troubles, good)

    def is_stale(self, place: Place, now: datetime) -> bool:
        """Return whether the newest backup at a target is too old."""
        backups = self.there[place]
        limit = MAX_AGE.get(place.target)
        return bool(backups and limit and now - max(backups) > limit)

    def word(self, place: Place, now: datetime, away: Collection[str]) -> str:
        """Return the word of ``status`` for a target that nothing works on."""
        if place.target in away:
            return "AWAY"
        if place in self.failed:
            return "FAILED"
        if self.is_stale(place, now):
            return "STALE"
        return "OK" if self.there[place] else "NEVER"
