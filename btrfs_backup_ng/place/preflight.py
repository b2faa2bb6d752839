"""The look at a place, and the checks that it has to pass before it is used.

A purpose is a tuple of checks, in the order in which a person would fix the findings. A
check takes the place and the session, and raises an error if the place fails it. The
first failure ends the look. Nothing has been changed by then.
"""

import os
import shlex
from collections.abc import Callable, Collection

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__util__ import MIB, Refused, UsageError, format_size, visible
from btrfs_backup_ng.core.events import Level, Noted
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import (
    Checks,
    Facts,
    Job,
    Privilege,
    SshOptions,
    TransferOptions,
)
from btrfs_backup_ng.endpoint import open_place
from btrfs_backup_ng.endpoint.common import Place
from btrfs_backup_ng.host.common import NeedsRoot
from btrfs_backup_ng.host.entry import plain, refusal
from btrfs_backup_ng.host.facts import is_same_filesystem
from btrfs_backup_ng.session.session import Session


class NoSource(Refused):
    """A place that keeps backups was named as a source, surely by mistake."""


#: Even the smallest transfer needs space for metadata: this much, and as much again as
#: the transfer itself, up to the least margin of large ones.
_SPACE_AT_LEAST, _LEAST_FOR_LARGE = 4 * MIB, 100 * MIB
#: Largest ratio of the size of a stream to the size of its data on a compressed disk.
_COMPRESSION_AT_MOST = 10

#: How all of a backup gets to any filesystem: it is a plain read-only subvolume.
ALL_BY_HAND = "All of it, where it is kept:  cp -a PLACE/SNAPSHOT/. PATH/"
#: So many nested subvolumes are named.
_NAMED = 10

#: Raises :class:`Refused` if something is wrong with a place.
Check = Callable[[Place, Session], None]
#: The checks that a place has to pass for one use.
Purpose = tuple[Check, ...]


def look_at(
    location: Location,
    session: Session,
    purpose: Purpose,
    *,
    with_snapshots: bool = True,
    folder: str = "",
    ssh: SshOptions | None = None,
) -> Place:
    """Look at a place; change nothing.

    :param with_snapshots: look for snapshots of its own, too.
    :param folder: of these, if it is not that of the session.
    :param ssh: options for the connection, if not those of the session.
    :raises UsageError: if it is a command, and the purpose needs a list of backups.
    :raises Refused: if it cannot be looked at, or is not fit for the purpose.
    """
    place = open_place(
        location,
        (folder or session.folder) if with_snapshots else None,
        connections=session.connections,
        ssh=ssh or session.ssh_at.get(location, session.ssh),
    )
    look(place, session.sudo_line)
    if place.backups.lists or lists in purpose:
        check(place, session, purpose)
    return place


def check(place: Place, session: Session, purpose: Purpose) -> None:
    """Check that a place, which was looked at, is fit for a purpose.

    :raises Refused: if it is not.
    """
    for one in purpose:
        one(place, session)


def look(place: Place, sudo_line: str) -> Facts:
    """Look at a place; if only root may, add the command to the error.

    :raises Refused: if it cannot be looked at.
    """
    try:
        return place.look()
    except NeedsRoot as error:
        error.hint = f"Run:  {sudo_line}"
        raise


def lists(place: Place, session: Session) -> None:
    """Refuse a command, as its backups cannot be listed."""
    if not place.backups.lists:
        raise UsageError(f"{place} cannot be listed")


def exists(place: Place, session: Session) -> None:
    if not place.facts.exists:
        raise Refused(f"{place} does not exist")


def subvolume_exists(place: Place, session: Session) -> None:
    if not place.facts.exists:
        raise Refused(f"{place} does not exist (expected a btrfs subvolume)")


def destination_exists(place: Place, session: Session) -> None:
    if not place.facts.exists:
        command = f"mkdir -p {shlex.quote(place.location.path)}"
        command = place.host.by_hand(command)
        raise Refused(
            f"{place} does not exist (expected a directory)",
            hint=f"Once its disk is mounted:  {visible(command)}",
        )


def is_directory(place: Place, session: Session) -> None:
    if not place.facts.is_directory:
        raise Refused(f"{place} is not a directory that can be entered")


def path_is_directory(place: Place, session: Session) -> None:
    """Refuse anything but a directory; the message names only the path."""
    if not place.facts.is_directory:
        path = visible(place.location.path)
        raise Refused(f"{path} is not a directory that can be entered")


def is_mounted(place: Place, session: Session) -> None:
    if place.facts.is_bare_mount_point:
        raise Refused(
            f"{place} is an empty directory on the system disk; is the backup disk"
            " mounted?"
        )


def destination_is_mounted(place: Place, session: Session) -> None:
    if place.facts.is_bare_mount_point:
        raise Refused(
            f"{place} is an empty directory on the system disk; is the backup"
            " disk mounted? Skipped, nothing written",
            hint="If it is meant to be there:  --fs-checks skip",
        )


def is_btrfs(place: Place, session: Session) -> None:
    if not place.facts.is_btrfs:
        kind = visible(place.facts.filesystem_type)
        raise Refused(f"{place} is {kind}, and snapshots are only on btrfs")


def source_is_btrfs(place: Place, session: Session) -> None:
    if not place.facts.is_btrfs:
        raise Refused(
            f"{place} is {visible(place.facts.filesystem_type)}, and only btrfs"
            " subvolumes can be snapshotted"
        )


def target_is_btrfs(place: Place, session: Session) -> None:
    if not place.facts.is_btrfs:
        raise Refused(
            f"{place} is {visible(place.facts.filesystem_type)}, and a snapshot can be"
            " restored to btrfs only",
            hint="Files and folders can be restored anywhere:  --file PATH"
            f"\n{ALL_BY_HAND}",
        )


def finds_parents(place: Place, session: Session) -> None:
    """Refuse a mount of a folder, through which btrfs receive finds no parents."""
    facts = place.facts
    if facts.is_folder_mount and not facts.can_mount:
        text = f"{place} is in a bind mount of the folder {visible(facts.mount_root)}"
        raise Refused(
            f"{text}, through which btrfs receive finds no parents",
            hint=whole_path_hint(facts)
            + "\nOr let root's rights there include unshare(1).",
        )


def whole_path_hint(facts: Facts) -> str:
    """Return the path to use instead of one in a bind mount, or how to get it."""
    if facts.whole_path:
        return f"Use its path in the whole filesystem:  {visible(facts.whole_path)}"
    point = shlex.quote(facts.mount_point)
    command = f'mount -o subvolid=5 "$(findmnt -nvo SOURCE {point})" /mnt'
    return f"Mount all of it, and use the path there:  {visible(command)}"


def has_tools(place: Place, session: Session) -> None:
    if place.facts.btrfs_version is None:
        where = visible(place.host.name)
        raise Refused(
            f"{where or 'this machine'} has no btrfs command (looked in PATH,"
            " /usr/local/sbin, /usr/sbin, /sbin)",
            hint=f"Install the package btrfs-progs {'there' if where else 'here'}.",
        )


def has_privilege(place: Place, session: Session) -> None:
    if place.facts.privilege is Privilege.NONE:
        raise NeedsRoot(
            f"reading snapshots of {place} needs root",
            hint=f"Run:  {session.sudo_line}",
        )


def is_subvolume(place: Place, session: Session) -> None:
    facts = place.facts
    if facts.is_folder_mount and not facts.is_subvolume:
        folder, hint = visible(facts.mount_root), whole_path_hint(facts)
        if facts.whole_path:
            hint += f"\nand make a subvolume of it:  {_conversion(facts.whole_path)}"
        raise Refused(
            f"{place} is in a bind mount of the folder {folder}, and only whole"
            " subvolumes can be snapshotted",
            hint=hint,
        )
    if not facts.is_subvolume:
        path, whole = visible(place.location.path), visible(facts.containing)
        raise Refused(
            f"{path} is a directory inside the subvolume {whole},"
            " and only whole subvolumes can be snapshotted",
            hint=f"Back up {whole}, or make a subvolume of it:  "
            + _conversion(place.location.path),
        )


def _conversion(path: str) -> str:
    new, old = shlex.quote(path), shlex.quote(f"{path}.old")
    return visible(
        f"mv {new} {old} && btrfs subvolume create {new}"
        f" && cp -a --reflink=always {old}/. {new}/"
    )


def is_ours(place: Place, session: Session) -> None:
    """Refuse a state directory with a link in it, or a file of another user."""
    if place.facts.trouble:
        raise refusal(place.state, place.facts.trouble)


def can_take_snapshots(place: Place, session: Session) -> None:
    if not place.facts.is_writable:
        why, hint = _why_not_writable(place)
        if place.facts.has_folder:
            hint += "\nSend the snapshots that exist:  -S"
        raise Refused(f"{place} {why}, so no snapshot can be made", hint=hint)


def _why_not_writable(place: Place) -> tuple[str, str]:
    """Return why nothing can be made at a place, and how to fix that."""
    facts, path = place.facts, shlex.quote(place.location.path)
    if facts.is_mounted_read_only:
        return "is mounted read-only", "See why:  dmesg | tail"
    if facts.is_sealed:
        command = f"btrfs property set -ts {path} ro false"
        return "is a read-only subvolume", f"Once it may change:  {visible(command)}"
    if facts.privilege is Privilege.ROOT:
        why = "is marked immutable, or in a read-only subvolume"
        return why, f"Look:  {visible(f'lsattr -d {path}')}"
    return (
        "is read-only, or you may not write to it",
        f"Look:  {visible(f'ls -ld {path}')}",
    )


def has_snapshots(place: Place, session: Session) -> None:
    """Refuse a source without snapshots where none can be made."""
    if place.facts.is_mounted_read_only and not place.facts.has_folder:
        folder = visible(plain(place.snapshots.directory))
        raise Refused(
            f"{place} is mounted read-only, and {folder} does not exist, so there is"
            " no snapshot to send",
            hint="See why:  dmesg | tail",
        )


def folder_is_directory(place: Place, session: Session) -> None:
    if place.facts.folder_trouble:
        raise Refused(
            f"{visible(plain(place.snapshots.directory))} can have no snapshots:"
            f" {visible(place.facts.folder_trouble)}",
            hint="Move that away, or choose another folder:  --snapshot-folder DIR",
        )


def folder_is_near(place: Place, session: Session) -> None:
    facts = place.facts
    if not is_same_filesystem(facts.folder_filesystem, facts.filesystem):
        raise Refused(
            f"the snapshot folder {visible(plain(place.snapshots.directory))} is on"
            f" another filesystem than {place}",
            hint="Choose one on the same filesystem:  --snapshot-folder DIR",
        )


def is_no_snapshot(place: Place, session: Session) -> None:
    facts = place.facts
    if facts.is_subvolume and not (facts.is_writable or facts.is_mounted_read_only):
        raise Refused(
            f"{place} is a read-only snapshot, and nothing can be made in it",
            hint="Choose another path:  --to PATH",
        )


def is_writable(place: Place, session: Session) -> None:
    if not place.facts.is_writable:
        why, hint = _why_not_writable(place)
        raise Refused(f"{place} {why}", hint=hint)


#: To look at a path that may be missing.
PATH: Purpose = (lists,)
#: To read the snapshots of a place.
READING: Purpose = (
    lists,
    exists,
    is_directory,
    is_mounted,
    is_btrfs,
    has_tools,
    has_privilege,
)
#: To change records, or to delete.
CHANGING: Purpose = (*READING, is_ours)
#: To receive snapshots for a test, also into an empty directory.
SCRATCH: Purpose = (
    *(check for check in CHANGING if check is not is_mounted),
    is_writable,
    finds_parents,
)
#: To make snapshots.
SOURCE: Purpose = (
    lists,
    subvolume_exists,
    path_is_directory,
    source_is_btrfs,
    has_tools,
    has_privilege,
    is_subvolume,
    is_ours,
    can_take_snapshots,
    folder_is_directory,
    folder_is_near,
)
#: To receive a restored snapshot, into a directory that exists.
TARGET: Purpose = (
    target_is_btrfs,
    has_tools,
    has_privilege,
    is_ours,
    is_no_snapshot,
    is_writable,
    finds_parents,
)


def source_purpose(job: Job) -> Purpose:
    """Return the checks of the source of a job."""

    def keeps_no_backups(place: Place, session: Session) -> None:
        """Refuse a place with backups as a new source, unless it was surely meant."""
        destination = place.location.join(place.facts.destination_above)
        named = (one.location for one in job.destinations)
        was_source = place.has_snapshots or place.facts.has_stub
        if not place.facts.destination_above or was_source or destination in named:
            return
        where = (
            "" if destination == place.location else f"lies in {destination}, which "
        )
        raise NoSource(
            f"{place} {visible(where)}keeps backups, and is used as a source with"
            " --force only",
            hint=_what_was_meant(job),
        )

    checks = list(SOURCE)
    if not job.take_snapshot:
        checks[checks.index(can_take_snapshots)] = has_snapshots
    elif not job.force:
        checks.insert(checks.index(source_is_btrfs), keeps_no_backups)
    return tuple(checks)


def _what_was_meant(job: Job) -> str:
    """Return the commands that were probably meant by one that backs up backups."""
    source, *others = (shlex.quote(str(place)) for place in job.places)
    if others:
        return visible(f"The source comes first:  {PROGRAM} {others[0]} {source}")
    return visible(f"List it:  {PROGRAM} list {source}") + (
        f"     All commands:  {PROGRAM} help"
    )


def destination_purpose(source: Place, checks: Checks) -> Purpose:
    """Return the checks of a destination for backups of a source.

    :param checks: ``SKIP`` leaves out those about a suspicious filesystem.
    """

    def destination_is_btrfs(place: Place, session: Session) -> None:
        if not place.facts.is_btrfs:
            kind = visible(place.facts.filesystem_type)
            # The name is put in by the shell here, the line is read by the one there.
            path = shlex.quote(f"{place.location.path}/")
            there = place.host.by_hand(f'cat > {path}"$1"')
            if not place.location.is_here:
                there = there.replace("$1", "'\"$1\"'")
            sink = shlex.quote(f"shell://{there}")
            line = f"btrfs-backup-ng {shlex.quote(str(source.location))} {sink}"
            raise Refused(
                f"{place} is {kind}, so snapshots cannot live there as subvolumes",
                hint="Use a directory on btrfs, or keep the streams in files:  "
                + visible(line),
            )

    purpose: Purpose = (
        destination_exists,
        path_is_directory,
        destination_is_mounted,
        destination_is_btrfs,
        has_tools,
        has_privilege,
        is_ours,
        is_writable,
        finds_parents,
    )
    skipped = (destination_is_mounted, is_writable) if checks is Checks.SKIP else ()
    return tuple(check for check in purpose if check not in skipped)


def note_nested(source: Place, destinations: Collection[Location]) -> list[Noted]:
    """Return a warning about nested subvolumes, which a snapshot leaves out.

    Not about the state directory and the snapshot folder of this program, nor about the
    backups in a destination that lies in the source.
    """
    beside = (one for one in destinations if one.is_beside(source.location))
    own = (
        plain(source.state),
        plain(source.snapshots.directory),
        *(one.path for one in beside),
    )
    nested = source.facts.nested
    paths = [os.path.join(source.location.path, path) for path in nested]
    foreign = [
        visible(path)
        for path in paths
        if path not in own and not path.startswith(tuple(f"{one}/" for one in own))
    ]
    if not foreign:
        return []
    count = f"{len(foreign)} nested subvolume{'s are' if len(foreign) > 1 else ' is'}"
    text = f"{count} not in this snapshot: {', '.join(foreign[:_NAMED])}"
    hint = ""
    if len(foreign) > _NAMED:
        text += f" and {len(foreign) - _NAMED} more"
        path = visible(shlex.quote(source.location.path))
        hint = f"All of them:  btrfs subvolume list -o {path}"
    return [Noted(str(source.location), Level.WARNING, text, hint)]


def mounts_left_out(
    source: Place, destinations: Collection[Location]
) -> frozenset[str]:
    """Return the mounts below a source, which its snapshot leaves out.

    Not those in which its destinations or its snapshots lie.
    """
    kept = [one.path for one in destinations if one.is_beside(source.location)]
    kept += [plain(source.snapshots.directory), plain(source.state)]
    return frozenset(
        mount
        for mount in source.facts.mounts
        if not any(f"{path}/".startswith(f"{mount}/") for path in kept)
    )


def note_mounts(source: Place, mounts: Collection[str]) -> Noted:
    """Return a remark about mounts that a snapshot leaves out."""
    names = [visible(path) for path in sorted(mounts)]
    text = f"mounted below {source}, so not in its snapshots:"
    text += f" {', '.join(names[:_NAMED])}"
    if len(names) > _NAMED:
        text += f" and {len(names) - _NAMED} more"
    hint = "Back up each that matters as a source of its own."
    return Noted(str(source.location), Level.INFO, text, hint)


def note_distance(destination: Place, source: Place, checks: Checks) -> list[Noted]:
    """Return a warning if source and backups are on one filesystem.

    :raises Refused: instead, if the checks are strict.
    """
    one, other = destination.facts.filesystem, source.facts.filesystem
    if checks is Checks.SKIP or not is_same_filesystem(one, other):
        return []
    text = (
        f"{destination} is on the same filesystem as {source}; what breaks one breaks"
        " both"
    )
    if checks is Checks.STRICT:
        raise Refused(text, hint="Without --fs-checks strict this is a warning.")
    return [Noted(str(destination.location), Level.WARNING, text)]


def check_space(
    destination: str,
    name: str,
    needed: int,
    free: int,
    options: TransferOptions,
    *,
    ways_out: Callable[[], str] = lambda: "Make room, or:  --no-check-space",
) -> list[Noted]:
    """Compare the size of a transfer with the free space; sizes in bytes.

    :param ways_out: returns the hint about them; called only for a refusal.
    :raises Refused: if it does not fit with the margin, unless forced.
    """
    if fits(needed, free, options):
        return []
    margin = _margin(needed, options)
    text = (
        f"{visible(destination)} has {format_size(free)} free; sending"
        f" {visible(name)} needs about {format_size(needed)} and a margin of"
        f" {format_size(margin)}"
    )
    if options.force:
        return [
            Noted(destination, Level.WARNING, f"{text}. Continuing, because of --force")
        ]
    raise Refused(f"{text}. Nothing was sent", hint=ways_out())


def fits(needed: int, free: int, options: TransferOptions) -> bool:
    """Return whether a transfer fits with the margin; sizes in bytes."""
    return needed + _margin(needed, options) <= free


def _margin(needed: int, options: TransferOptions) -> float:
    least = min(needed + _SPACE_AT_LEAST, _LEAST_FOR_LARGE)
    return max(needed * options.safety_margin_percent / 100, least)


def certainly_fits(source: Facts, free: int, options: TransferOptions) -> bool:
    """Return whether all data of the source's filesystem would fit, uncompressed."""
    margin = 1 + options.safety_margin_percent / 100
    return free > source.size_used * _COMPRESSION_AT_MOST * margin + _LEAST_FOR_LARGE
