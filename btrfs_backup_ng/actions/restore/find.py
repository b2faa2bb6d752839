"""The search for the snapshot to restore."""

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from btrfs_backup_ng.__logger__ import PROGRAM
from btrfs_backup_ng.__util__ import Refused, visible
from btrfs_backup_ng.core.choose import choose
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import Integrity, Snapshot
from btrfs_backup_ng.core.naming import prefix_in
from btrfs_backup_ng.endpoint.common import Endpoint, Place
from btrfs_backup_ng.place.contents import Contents, Kept, State, read_contents
from btrfs_backup_ng.place.preflight import READING, look_at
from btrfs_backup_ng.session.session import Session


@dataclass(frozen=True, slots=True)
class Chosen:
    """The snapshot to restore, and others near it.

    :ivar others: snapshots that may serve as parent, the nearest first.
    """

    kept: Kept
    others: tuple[Snapshot, ...]

    @property
    def snapshot(self) -> Snapshot:
        return self.kept.snapshot

    @property
    def endpoint(self) -> Endpoint:
        return self.kept.endpoint

    @property
    def place(self) -> Place:
        return self.endpoint.place


def find_snapshot(
    location: Location, word: str, session: Session, *, prefix: str | None
) -> Chosen:
    """Find the snapshot at a place that a word of the user means; change nothing.

    :param prefix: of the names, for words about time; ``None`` for any.
    :raises NotChosen: if no snapshot matches, or more than one does.
    :raises Refused: if the place cannot be looked at, or the snapshot was changed.
    """
    place = look_at(location, session, READING)
    contents = read_contents(place)
    if not contents.kept:
        raise Refused(f"{place} keeps no snapshot", hint=_inside_hint(place))
    kept = _choose(contents, word, prefix, place, session.now)
    snapshot = kept.snapshot
    integrity = snapshot.integrity
    if integrity is Integrity.UNKNOWN:
        integrity = kept.endpoint.look_closely([snapshot.tree_id])
    if kept.state is State.CHANGED or integrity is Integrity.CHANGED:
        raise Refused(
            f"{visible(snapshot.name)} at {place} was written to after it was made, so"
            " it is not what was backed up",
            hint="Files can be taken from it as they are:  --file PATH",
        )
    return Chosen(kept, tuple(_others(contents, kept)))


def _choose(
    contents: Contents, word: str, prefix: str | None, place: object, now: datetime
) -> Kept:
    complete = [kept.snapshot for kept in contents.kept if kept.state is State.COMPLETE]
    dated = [s for s in complete if prefix in (None, prefix_in(s.name))]
    every = [kept.snapshot for kept in contents.kept]
    found = choose(word, every, dated=dated, place=str(place), now=now)
    return next(kept for kept in contents.kept if kept.snapshot == found)


def _inside_hint(place: Place) -> str:
    """Return a hint if the user named a snapshot instead of its place."""
    if not place.facts.is_subvolume or place.facts.is_writable:
        return ""
    directory, name = os.path.split(place.location.path)
    above = str(place.location.join(directory))
    words = shlex.join([PROGRAM, "restore", above, name])
    return f"If that is a snapshot itself:  {visible(words)} --to PATH"


def _others(contents: Contents, wanted: Kept) -> Iterator[Snapshot]:
    """Yield possible parents: first the older ones, from the newest on; then newer."""
    prefix = prefix_in(wanted.snapshot.name)
    kin = [
        kept.snapshot
        for kept in contents.kept
        if kept.kind is wanted.kind and prefix_in(kept.snapshot.name) == prefix
    ]
    at = kin.index(wanted.snapshot)
    yield from reversed(kin[:at])
    yield from kin[at + 1 :]
