"""The steps after a restore: the next backup, and the swap with the old subvolume."""

import logging
import os
from collections.abc import Sequence

from btrfs_backup_ng.__util__ import BackupError, attempt, visible
from btrfs_backup_ng.actions.restore.files import FileRestoration, look_below
from btrfs_backup_ng.actions.restore.find import Chosen
from btrfs_backup_ng.actions.restore.snapshot import SNAPSHOTS, Restoration
from btrfs_backup_ng.actions.restore.swap import Around, Swap, parse_default, plan_swap
from btrfs_backup_ng.btrfs.listing import parse_nested
from btrfs_backup_ng.btrfs.parse import OutputNotUnderstood
from btrfs_backup_ng.core.location import Location, parse_location
from btrfs_backup_ng.core.model import Role
from btrfs_backup_ng.core.naming import prefix_in
from btrfs_backup_ng.core.record import Unreadable
from btrfs_backup_ng.host.entry import SOURCES, STATE
from btrfs_backup_ng.place.contents import Seen
from btrfs_backup_ng.place.forecast import Forecast, any_place_with, foresee
from btrfs_backup_ng.place.preflight import PATH, look_at
from btrfs_backup_ng.place.sources import Series, parse_sources
from btrfs_backup_ng.wire import verbs

log = logging.getLogger(__name__)


def foresee_next(done: Restoration) -> Forecast:
    """Predict the next backup of a subvolume that was restored as writable.

    The destination is the place of the restored backup. If that is a source, it is an
    imaginary place that has the same snapshot, unchanged.

    :raises BackupError: if one of the two cannot be looked at.
    """
    chosen, session = done.chosen, done.session
    made = look_at(done.place, session, PATH, folder=SNAPSHOTS)
    here = Seen.of(made.snapshots)
    if chosen.kept.kind is Role.BACKUP:
        return foresee(here, Seen.of(chosen.endpoint), session.now)
    name = f"any place that has {chosen.snapshot.name}"
    there = any_place_with(chosen.snapshot, made)
    return foresee(here, there, session.now, name=name)


def find_originals(done: FileRestoration) -> list[str]:
    """Find the files of today of which older ones were restored.

    :returns: their absolute paths on the target's machine; none if it is not known
        where the source is.
    """
    old, new = _old_path(done.chosen, done.to), done.to.path
    if done.to.is_here:
        old, new = old and os.path.realpath(old), os.path.realpath(new)
    if old in ("", new):  # not known, or they came back in place
        return []
    seen = attempt(lambda: look_below(done.host, old, done.paths))
    if isinstance(seen, BackupError):
        log.info("what is in %s now is not known: %s", visible(old), seen)
        return []
    return [os.path.join(old, path) for path in done.paths if path in seen]


def find_swap(done: Restoration) -> Swap | None:
    """Find the commands that replace the old subvolume by the restored one.

    :returns: ``None`` if the old path is not known, or is the same path.
    """
    old = done.request.replaces or _old_path(done.chosen, done.target.location)
    if not old or not done.request.writable:
        return None
    around = _look_around(done, old)
    if around.new == around.old:
        return None
    stamp = done.session.now.strftime("%Y%m%d-%H%M%S")
    try:
        return plan_swap(around, stamp)
    except ValueError as error:
        log.warning("no commands to swap it in: %s", visible(str(error)))
        return None


def _look_around(done: Restoration, old: str) -> Around:
    answer = done.target.host.call(verbs.AROUND, done.place.path, old).stdout
    fields = [os.fsdecode(field) for field in answer.split(b"\0")]
    new, old_there, exists, mounts, kernel, fstab, default, *of_old = fields
    new, old = _real(new, done.place.path), _real(old_there, old)
    nested = _nested(answer.split(b"\0")[-4:-1], old) if len(of_old) > 1 else ()
    inside = new.removeprefix(f"{old.rstrip('/')}/")
    return Around(
        new=new,
        old=old,
        old_exists=exists == "1",
        mounts=mounts,
        kernel=kernel,
        fstab=fstab,
        default=parse_default(default),
        old_is_subvolume=len(of_old) > 1,
        nested=tuple(path for path in nested if path not in (STATE, inside)),
        has_state=STATE in nested,
    )


def _nested(fields: Sequence[bytes], old: str) -> tuple[str, ...]:
    """Return the subvolumes in the old one, from the answer of the verb ``around``."""
    path, text, back = fields
    path = path.removesuffix(b"x").removesuffix(b"\n")
    path = b"" if path == b"/" else path
    try:
        return tuple(sorted(parse_nested(text, back, path)))
    except OutputNotUnderstood as error:
        words = "whether there are subvolumes in %s is not known: %s"
        log.warning(words, visible(old), visible(str(error)))
        return ()


def _real(text: str, instead: str) -> str:
    """Return a path that ``readlink`` printed; the verb adds an x behind it."""
    path = text.removesuffix("x").removesuffix("\n")
    return path or instead


def _old_path(chosen: Chosen, target: Location) -> str:
    """Return the path of the source, if that is on the target's machine, or ""."""
    place = chosen.place
    if chosen.kept.kind is Role.SNAPSHOT:
        return place.location.path if place.location.is_beside(target) else ""
    if chosen.owner:
        return _path_on(chosen.owner, target)
    _, (content,) = place.backups.listing(SOURCES)
    prefix = prefix_in(chosen.snapshot.name)
    try:
        sources = parse_sources(content).get(prefix, Series()).sources
    except Unreadable as error:
        text = "%s cannot be read (%s), so where the source was is not known"
        log.warning(text, place.record_path(SOURCES), visible(str(error)))
        return ""
    found = [path for one in sources if (path := _path_on(one.place, target))]
    return found[0] if len(found) == 1 else ""  # of several, it may be any


def _path_on(place: str, target: Location) -> str:
    """Return the path of a recorded source, if it is on the target's machine."""
    if place.startswith("ssh://"):
        found = attempt(lambda: parse_location(place, working_directory="/"))
        if isinstance(found, BackupError):
            return ""
        return found.path if found.is_beside(target) else ""
    host, _, path = place.partition(":")
    return path if target.is_here and host == os.uname().nodename else ""
