"""The finding of the snapshot that somebody wants back."""

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
from btrfs_backup_ng.endpoint import open_source
from btrfs_backup_ng.endpoint.common import BtrfsEndpoint
from btrfs_backup_ng.place import preflight
from btrfs_backup_ng.place.contents import (
    ANY_NAME,
    Access,
    Contents,
    Kept,
    Role,
    State,
    open_place,
    read_contents,
)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The snapshot that is wanted, and where it is.

    :ivar keeper: the place as what has its snapshots in its directory.
    :ivar others: what else may serve as parent, the nearest first.
    """

    kept: Kept
    keeper: BtrfsEndpoint
    others: tuple[Snapshot, ...]

    @property
    def path(self) -> str:
        """Return its path on its host."""
        return self.keeper.path(self.kept.snapshot.name)


def find_snapshot(
    location: Location, word: str, *, prefix: str | None, access: Access, now: datetime
) -> Chosen:
    """Find the snapshot that a word means at a place; changes nothing.

    :param prefix: what names begin with, for words about time; ``None`` for any.
    :raises NotChosen: if there is none, or more than one.
    :raises Refused: if the place cannot be looked at, or what is there was changed.
    """
    place = open_place(location, access)
    contents = read_contents(place, access)
    if not contents.kept:
        raise Refused(f"{place} keeps no snapshot", hint=_inside_hint(place))
    kept = _choose(contents, word, prefix, place, now)
    snapshot = kept.snapshot
    if kept.kind is Role.BACKUP:
        place = open_source(
            location, ANY_NAME, "", connections=access.connections, ssh=access.ssh
        )
        preflight.look(place, access.sudo_line)
    seal = snapshot.integrity
    if seal is Integrity.UNKNOWN:
        seal = place.look_closely([snapshot.tree_id])
    if kept.state is State.CHANGED or seal is Integrity.CHANGED:
        raise Refused(
            f"{visible(snapshot.name)} at {place} was written to after it was made, so"
            " it is not what was backed up",
            hint="Files can be taken from it as they are:  --file PATH",
        )
    return Chosen(kept, place, tuple(_others(contents, kept)))


def _choose(
    contents: Contents, word: str, prefix: str | None, place: object, now: datetime
) -> Kept:
    complete = [kept.snapshot for kept in contents.kept if kept.state is State.COMPLETE]
    dated = [s for s in complete if prefix in (None, prefix_in(s.name))]
    every = [kept.snapshot for kept in contents.kept]
    found = choose(word, every, dated=dated, place=str(place), now=now)
    return next(kept for kept in contents.kept if kept.snapshot == found)


def _inside_hint(place: BtrfsEndpoint) -> str:
    """Help who names a snapshot where its place belongs."""
    if not place.facts.is_subvolume or place.facts.is_writable:
        return ""
    directory, name = os.path.split(place.location.path)
    above = str(place.location.join(directory))
    words = shlex.join([PROGRAM, "restore", above, name])
    return f"If that is a snapshot itself:  {visible(words)} --to PATH"


def _others(contents: Contents, wanted: Kept) -> Iterator[Snapshot]:
    """Return possible parents: older ones from the newest on, then newer ones."""
    prefix = prefix_in(wanted.snapshot.name)
    kin = [
        kept.snapshot
        for kept in contents.kept
        if kept.kind is wanted.kind and prefix_in(kept.snapshot.name) == prefix
    ]
    at = kin.index(wanted.snapshot)
    yield from reversed(kin[:at])
    yield from kin[at + 1 :]
