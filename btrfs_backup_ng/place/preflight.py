"""What must be true of every place before anything is changed."""

import os
import shlex

from btrfs_backup_ng.__util__ import MIB, Refused, format_size, visible
from btrfs_backup_ng.core.events import Level, Noted
from btrfs_backup_ng.core.model import Checks, Facts, Job, Privilege, TransferOptions
from btrfs_backup_ng.endpoint.common import BtrfsEndpoint
from btrfs_backup_ng.host.common import Host, NeedsRoot
from btrfs_backup_ng.host.entry import plain, refusal
from btrfs_backup_ng.host.facts import is_same_filesystem

#: A send needs room for metadata, too, however small it is.
_SPACE_AT_LEAST = 100 * MIB
#: What is used on the disk may be so many times as much in a stream.
_COMPRESSION_AT_MOST = 10


def check_ours(place: BtrfsEndpoint) -> None:
    """Go on only where our bookkeeping is ours.

    :raises Refused: if a part of it is a link, or belongs to another user.
    """
    if place.facts.trouble:
        raise refusal(place.state, place.facts.trouble)


def check_source(source: BtrfsEndpoint, job: Job, sudo_line: str) -> list[Noted]:
    """Look at the source.

    :param sudo_line: runs the same as root, for a hint.
    :returns: what the user should know.
    :raises Refused: if no snapshot of it could be made, or none kept.
    """
    facts = look(source, sudo_line)
    path = visible(source.location.path)
    _check_directory(source, facts)
    if not facts.is_btrfs:
        raise Refused(
            f"{source} is {visible(facts.filesystem_type)}, and only btrfs subvolumes"
            " can be snapshotted"
        )
    check_tools(source.host, facts)
    check_privilege(source, facts, sudo_line)
    if not facts.is_subvolume:
        raise Refused(
            f"{path} is a directory inside the subvolume {visible(facts.containing)},"
            " and only whole subvolumes can be snapshotted",
            hint=f"Back up {visible(facts.containing)}, or make a subvolume of it:  "
            + _conversion(source.location.path),
        )
    check_ours(source)
    if job.take_snapshot and not facts.is_writable:
        raise Refused(f"{source} is mounted read-only, so no snapshot can be made")
    if not is_same_filesystem(facts.folder_filesystem, facts.filesystem):
        raise Refused(
            f"the snapshot folder {visible(plain(source.directory))} is on another"
            f" filesystem than {source}",
            hint="Choose one on the same filesystem:  --snapshot-folder DIR",
        )
    return _nested_note(source, facts)


def _conversion(path: str) -> str:
    new, old = shlex.quote(path), shlex.quote(f"{path}.old")
    return visible(
        f"mv {new} {old} && btrfs subvolume create {new}"
        f" && cp -a --reflink=always {old}/. {new}/"
    )


def _stream_hint(source: BtrfsEndpoint, destination: BtrfsEndpoint) -> str:
    path = shlex.quote(f"{destination.location.path}/")
    sink = shlex.quote(f'shell://cat > {path}"$1"')
    return visible(f"btrfs-backup-ng {shlex.quote(str(source.location))} {sink}")


def look(endpoint: BtrfsEndpoint, sudo_line: str) -> Facts:
    """Look at a place; if only root may, say how.

    :raises Refused: if it cannot be looked at.
    """
    try:
        return endpoint.look()
    except NeedsRoot as error:
        error.hint = f"Run:  {sudo_line}"
        raise


def _nested_note(source: BtrfsEndpoint, facts: Facts) -> list[Noted]:
    """Name the subvolumes that a snapshot leaves out; ours are no loss."""
    ours = (plain(source.state), plain(source.directory))
    paths = (os.path.join(source.location.path, nested) for nested in facts.nested)
    foreign = [
        visible(path)
        for path in paths
        if path not in ours and not path.startswith(tuple(f"{our}/" for our in ours))
    ]
    if not foreign:
        return []
    count = f"{len(foreign)} nested subvolume{'s are' if len(foreign) > 1 else ' is'}"
    text = f"{count} not in this snapshot: {', '.join(foreign)}"
    return [Noted(str(source.location), Level.WARNING, text)]


def check_destination(
    destination: BtrfsEndpoint, source: BtrfsEndpoint, job: Job, sudo_line: str
) -> list[Noted]:
    """Look at a destination.

    :returns: what the user should know.
    :raises Refused: if no backup could be kept there, or not where it seems to.
    """
    facts = look(destination, sudo_line)
    _check_directory(destination, facts)
    if job.checks is not Checks.SKIP:
        _check_mounted(destination, facts)
    if not facts.is_btrfs:
        raise Refused(
            f"{destination} is {visible(facts.filesystem_type)}, so snapshots cannot"
            " live there as subvolumes",
            hint="Use a directory on btrfs, or keep the streams in files:  "
            + _stream_hint(source, destination),
        )
    check_tools(destination.host, facts)
    check_privilege(destination, facts, sudo_line)
    check_ours(destination)
    if job.checks is Checks.SKIP:
        return []
    if not facts.is_writable:
        raise Refused(f"{destination} is mounted read-only or not ours to write")
    return _check_distance(destination, source, job)


def check_readable(
    place: BtrfsEndpoint, sudo_line: str, *, may_be_empty: bool = False
) -> None:
    """Look at a place that nothing is going to be changed at.

    :param may_be_empty: an empty directory on the system disk is what is meant.
    :raises Refused: if what it keeps cannot be seen, or may be somewhere else.
    """
    facts = look(place, sudo_line)
    if not facts.exists:
        raise Refused(f"{place} does not exist")
    if not facts.is_directory:
        raise Refused(f"{place} is not a directory that can be entered")
    if facts.on_system_disk and facts.is_empty and not may_be_empty:
        raise Refused(
            f"{place} is an empty directory on the system disk; is the backup disk"
            " mounted?"
        )
    if not facts.is_btrfs:
        kind = visible(facts.filesystem_type)
        raise Refused(f"{place} is {kind}, and snapshots are only on btrfs")
    check_tools(place.host, facts)
    check_privilege(place, facts, sudo_line)


def _check_directory(endpoint: BtrfsEndpoint, facts: Facts) -> None:
    path = visible(endpoint.location.path)
    if not facts.exists:
        what = "subvolume" if endpoint.is_source else "directory"
        hint = "" if endpoint.is_source else _make_hint(endpoint)
        raise Refused(f"{endpoint} does not exist; a {what} is needed", hint=hint)
    if not facts.is_directory:
        raise Refused(f"{path} is not a directory that can be entered")


def _make_hint(endpoint: BtrfsEndpoint) -> str:
    command = f"mkdir -p {shlex.quote(endpoint.location.path)}"
    if endpoint.host.name:
        command = shlex.join(["ssh", endpoint.host.name, command])
    return f"Once its disk is mounted:  {visible(command)}"


def _check_mounted(destination: BtrfsEndpoint, facts: Facts) -> None:
    if facts.on_system_disk and facts.is_empty:
        raise Refused(
            f"{destination} is an empty directory on the system disk; is the backup"
            " disk mounted? Skipped, nothing written",
            hint="If it is meant to be there:  --fs-checks skip",
        )


def check_tools(host: Host, facts: Facts) -> None:
    """Go on only where there is a btrfs command.

    :raises Refused: if there is none.
    """
    if facts.btrfs_version is None:
        where = visible(host.name)
        raise Refused(
            f"{where or 'this machine'} has no btrfs command (looked in PATH,"
            " /usr/local/sbin, /usr/sbin, /sbin)",
            hint=f"Install the package btrfs-progs {'there' if where else 'here'}.",
        )


def check_privilege(endpoint: BtrfsEndpoint, facts: Facts, sudo_line: str) -> None:
    """Go on only with the rights that btrfs needs.

    :raises Refused: without them.
    """
    if facts.privilege is not Privilege.NONE:
        return
    raise Refused(
        f"reading snapshots of {endpoint} needs root", hint=f"Run:  {sudo_line}"
    )


def _check_distance(
    destination: BtrfsEndpoint, source: BtrfsEndpoint, job: Job
) -> list[Noted]:
    one, other = destination.facts.filesystem, source.facts.filesystem
    if not is_same_filesystem(one, other):
        return []
    text = (
        f"{destination} is on the same filesystem as {source}; what breaks one breaks"
        " both"
    )
    if job.checks is Checks.STRICT:
        raise Refused(text, hint="Without --fs-checks strict this is a warning.")
    return [Noted(str(destination.location), Level.WARNING, text)]


def check_space(
    destination: str, name: str, needed: int, free: int, options: TransferOptions
) -> list[Noted]:
    """Compare what a transfer needs with what is free; sizes in bytes.

    :raises Refused: if it does not fit with the margin, unless that is forced.
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
        return [Noted(destination, Level.WARNING, f"{text}. Going on, as --force says")]
    raise Refused(
        f"{text}. Nothing was sent",
        hint="Make room, or:  --safety-margin PCT, --no-check-space, --force",
    )


def fits(needed: int, free: int, options: TransferOptions) -> bool:
    """Tell whether a transfer fits with the margin; sizes in bytes."""
    return needed + _margin(needed, options) <= free


def _margin(needed: int, options: TransferOptions) -> float:
    return max(needed * options.safety_margin_percent / 100, _SPACE_AT_LEAST)


def certainly_fits(source: Facts, free: int, options: TransferOptions) -> bool:
    """Tell whether even all data of the source's filesystem would fit, uncompressed."""
    margin = 1 + options.safety_margin_percent / 100
    return free > source.size_used * _COMPRESSION_AT_MOST * margin + _SPACE_AT_LEAST
