"""The search for the snapshot to restore."""

import os
import shlex
from collections.abc import Iterable, Iterator, Sequence

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__util__ import BackupError, Refused, attempt, visible
from btrfs_backup_ng.core.choose import NotChosen, choose, is_time
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import Integrity, Snapshot
from btrfs_backup_ng.core.naming import prefix_in
from btrfs_backup_ng.core.value import Value, replace
from btrfs_backup_ng.endpoint.common import Endpoint, Place
from btrfs_backup_ng.place.contents import Contents, Kept, State, read_contents
from btrfs_backup_ng.place.preflight import READING, look_at
from btrfs_backup_ng.place.sources import path_of_source
from btrfs_backup_ng.session.session import Session


class Chosen(Value):
    """The snapshot to restore, and others near it.

    :ivar others: snapshots that may serve as parent, the nearest first.
    :ivar is_changed: it was written to after it was made.
    :ivar owner: the place of its source, as recorded with the backups; "" if that is
        not known.
    """

    kept: Kept
    others: tuple[Snapshot, ...]
    is_changed: bool = False
    owner: str = ""

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
    location: Location,
    word: str,
    session: Session,
    *,
    prefix: str | None,
    source: str = "",
    force: bool = False,
    for_files: bool = False,
) -> Chosen:
    """Find the snapshot at a place that a word of the user means; change nothing.

    :param prefix: of the names, for words about time; ``None`` for any.
    :param source: of the backup, as the user names it; "" for any.
    :param force: one that was written to after it was made will do.
    :param for_files: it will do if there is no other, as only files are taken from it.
    :raises NotChosen: if no snapshot matches, or more than one does.
    :raises Refused: if the place cannot be looked at, or the snapshot was changed.
    """
    place = look_at(location, session, READING)
    contents = read_contents(place)
    if not contents.kept:
        raise Refused(f"{place} has no snapshots", hint=_inside_hint(place))
    how = {"force": force, "for_files": for_files}
    named = _of_source(contents, source, place) if source else contents
    kept = _choose(named, word, prefix, place, session, **how)
    snapshot = kept.snapshot
    integrity = snapshot.integrity
    if integrity is Integrity.UNKNOWN:
        integrity = kept.endpoint.look_closely([snapshot.tree_id])
    is_changed = kept.state is State.CHANGED or integrity is Integrity.CHANGED
    if is_changed and not (force or for_files):
        raise _changed(snapshot.name, place)
    if is_changed:
        text = f"{snapshot.name} was written to after it was made, so it may not be"
        text += " what was backed up"
        session.warn(str(location), text)
    others = tuple(_others(contents, kept))
    return Chosen(kept, others, is_changed, contents.owner_of(kept))


def _of_source(contents: Contents, source: str, place: Place) -> Contents:
    """Return the contents without the backups of other sources.

    :raises NotChosen: if there is no backup of that source, or several have that path.
    """
    every = {contents.owner_of(kept) for kept in contents.kept} - {""}
    wanted = source.rstrip("/") or source
    found = [one for one in every if one == wanted] or [
        one for one in every if path_of_source(one) == wanted
    ]
    if len(found) != 1:
        text = "backups of several sources with the path" if found else "no backups of"
        raise NotChosen(
            f"{place} has {text} {visible(source)}", hint=_say_whose(found or every)
        )
    mine = [kept for kept in contents.kept if contents.owner_of(kept) == found[0]]
    return replace(contents, kept=tuple(mine))


def _say_whose(sources: Iterable[str]) -> str:
    words = [f"--from {visible(shlex.quote(one))}" for one in sorted(sources)]
    return "Choose one:  " + "   or  ".join(words) if words else ""


def _check_whose(
    contents: Contents, found: Snapshot, dated: Sequence[Snapshot], word: str
) -> None:
    """Check that a time means backups of one source only.

    :raises NotChosen: if it does not.
    """
    uuids = {snapshot.uuid for snapshot in dated}
    candidates = [kept for kept in contents.kept if kept.snapshot.uuid in uuids]
    if found.name == word or not is_time(word):
        return
    owners = {contents.owner_of(kept) for kept in candidates}
    if len(owners) > 1:
        place = candidates[0].endpoint
        unknown = " (and the source of some is not known)" if "" in owners else ""
        raise NotChosen(
            f"{place} has backups of several sources under one prefix{unknown}, and"
            f" {visible(repr(word))} matches several",
            hint=_say_whose(owners - {""}),
        )


def _changed(name: str, place: Place) -> Refused:
    name = visible(name)
    check = visible(shlex.join([PROGRAM, "verify", str(place.location), name]))
    return Refused(
        f"{name} at {place} was written to after it was made, so it may not be what was"
        " backed up",
        hint="If its files were deduplicated (bees, duperemove), it is. To find out,"
        f" and clear it:\n{check} --data --source SOURCE\n"
        "To restore files as they are:  --file PATH\n"
        "To restore all of it as it is, to a writable subvolume:  --force",
    )


def _choose(
    contents: Contents,
    word: str,
    prefix: str | None,
    place: Place,
    session: Session,
    *,
    force: bool,
    for_files: bool,
) -> Kept:
    """Choose a snapshot; warn of a newer one that was passed over.

    :raises Refused: if the only ones that a time means were written to.
    """
    every = [kept.snapshot for kept in contents.kept]

    def chosen(*states: State) -> Snapshot:
        dated = [
            kept.snapshot
            for kept in contents.kept
            if kept.state in states and prefix in (None, prefix_in(kept.snapshot.name))
        ]
        found = choose(word, every, dated=dated, place=str(place), now=session.now)
        _check_whose(contents, found, dated, word)
        return found

    wanted = chosen(State.COMPLETE, State.CHANGED)
    found = wanted
    if not force:
        complete = attempt(lambda: chosen(State.COMPLETE))
        if not isinstance(complete, BackupError):
            found = complete
        elif not for_files:
            raise _changed(wanted.name, place)
    if found != wanted:
        text = f"{wanted.name} is newer, but was written to after it was made, so it"
        text += " is skipped; give its name to choose it"
        session.warn(str(place.location), text)
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
    prefix, owner = prefix_in(wanted.snapshot.name), contents.owner_of(wanted)
    kin = [
        kept.snapshot
        for kept in contents.kept
        if kept.kind is wanted.kind
        and prefix_in(kept.snapshot.name) == prefix
        and contents.owner_of(kept) == owner
    ]
    at = kin.index(wanted.snapshot)
    yield from reversed(kin[:at])
    yield from kin[at + 1 :]
