"""The comparison of two snapshots of one place, by the stream between them."""

import shlex
import signal
import time
from collections.abc import Iterator

from btrfs_backup_ng.__util__ import BackupError, Refused, UsageError, visible
from btrfs_backup_ng.core import codecs
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import Facts, Privilege
from btrfs_backup_ng.endpoint.common import Place
from btrfs_backup_ng.host.common import Host, NeedsRoot
from btrfs_backup_ng.host.facts import is_same_filesystem
from btrfs_backup_ng.place.preflight import Purpose, has_tools, is_directory, look_at
from btrfs_backup_ng.process.child import PIPE, Child
from btrfs_backup_ng.process.command import (
    Command,
    CommandFailed,
    ContactLost,
)
from btrfs_backup_ng.process.interruption import check_interrupted
from btrfs_backup_ng.process.pipeline import Meter
from btrfs_backup_ng.sendstream.changes import Change, Touch, read_changes
from btrfs_backup_ng.sendstream.format import StreamDamaged
from btrfs_backup_ng.sendstream.reader import read_commands
from btrfs_backup_ng.session.session import Session
from btrfs_backup_ng.sshutil.refusal import explain_session
from btrfs_backup_ng.wire import verbs

#: btrfs-progs send protocol 2 from this version on.
_PROTOCOL_2_SINCE = (6, 0)
#: Errors of ``btrfs send`` about two paths on different mounts. For hints only.
_TWO_MOUNTS = (
    "not on mount point",
    "all subvolumes must be from the same filesystem",
    "doesn't belong to btrfs mount point",
)


def compare(first: Location, second: Location, session: Session) -> Iterator[Change]:
    """Return the changes from one snapshot to another, related or not.

    The times of their top are left out if nothing else of it changed: making a snapshot
    changes them, and so does ``btrfs send``. All steps that can fail are done when this
    returns.

    :raises UsageError: if they are not at one place.
    :raises Refused: if they cannot be compared.
    :raises BackupError: if it failed.
    """
    if first.is_command or second.is_command:
        raise UsageError("a command (shell://) has no snapshots to compare")
    if not first.is_beside(second):
        raise UsageError(
            f"{visible(str(first))} and {visible(str(second))} are not on one machine,"
            " and only snapshots of one filesystem can be compared",
            hint="A second place without a host is beside the first:  A NAME",
        )
    place = look_at(first, session, _COMPARING, with_snapshots=False)
    other = look_at(second, session, _COMPARING, with_snapshots=False)
    if not is_same_filesystem(place.facts.filesystem, other.facts.filesystem):
        raise Refused(
            f"{place} and {other} are on two filesystems, and btrfs compares only"
            " within one",
            hint=_compare_by_hand(first, second),
        )
    words = (_protocol(place.facts), first.path, second.path, codecs.NONE, "")
    command = place.host.command(verbs.SEND, *words, label="btrfs send")
    meter = Meter(started=time.monotonic())
    with session.progress.add(meter, f"{first} -> {second.path}"):
        changes = _read(command, meter)
    return (change for change in changes if not _is_noise(change))


def _exists(place: Place, session: Session) -> None:
    if not place.facts.exists:
        raise Refused(f"{place} does not exist; a snapshot is needed")


def _is_btrfs(place: Place, session: Session) -> None:
    if not place.facts.is_btrfs:
        kind = visible(place.facts.filesystem_type)
        raise Refused(f"{place} is on {kind}, and only btrfs snapshots can be compared")


def _has_privilege(place: Place, session: Session) -> None:
    if place.facts.privilege is Privilege.NONE:
        raise NeedsRoot(
            f"comparing snapshots of {place} needs root",
            hint=f"Run:  {session.sudo_line}",
        )


def _is_snapshot(place: Place, session: Session) -> None:
    if not place.facts.is_subvolume:
        whole = visible(place.facts.containing)
        raise Refused(
            f"{place} is a directory inside the subvolume {whole},"
            " and only whole snapshots can be compared"
        )
    if place.facts.is_writable:
        raise Refused(
            f"{place} can be written to, and only read-only snapshots can be compared",
            hint=f"Take one:  {_snapshot_by_hand(place.host, place.location)}",
        )


#: To compare a snapshot with another one.
_COMPARING: Purpose = (
    _exists,
    is_directory,
    _is_btrfs,
    has_tools,
    _has_privilege,
    _is_snapshot,
)


def _protocol(facts: Facts) -> str:
    """Choose the protocol, without data; version 2 has inode flags."""
    version = facts.btrfs_version or (0, 0)
    return "n2" if facts.send_protocol > 1 and version >= _PROTOCOL_2_SINCE else "n1"


def _snapshot_by_hand(host: Host, location: Location) -> str:
    path = location.path
    words = shlex.join(["btrfs", "subvolume", "snapshot", "-r", path, f"{path}-now"])
    return visible(host.by_hand(words))


def _compare_by_hand(first: Location, second: Location) -> str:
    if not first.is_here:
        return ""
    return visible(
        f"Read both:  {shlex.join(['diff', '-rq', first.path, second.path])}"
    )


def _read(command: Command, meter: Meter) -> Iterator[Change]:
    """Run a sender, and read its stream to the end.

    :raises CommandFailed: if it fails.
    """
    changes: Iterator[Change] = iter(())
    damage: StreamDamaged | None = None
    with Child.start(command, stdout=PIPE) as child:

        def read(size: int) -> bytes:
            block = child.read(size)
            meter.add(len(block))
            return block

        try:  # no checksums: a pipe changes nothing, and ssh has its own
            changes = read_changes(read_commands(read, check=False))
        except StreamDamaged as error:
            damage = error
        child.close_pipes()
        completed = child.finish()
    check_interrupted()
    status = completed.status
    if status is None:
        raise _explained(ContactLost(completed))
    was_closed = damage and status in (-signal.SIGPIPE, 128 + signal.SIGPIPE)
    if status and not was_closed:
        raise _explained(CommandFailed(completed))
    if damage:
        label = visible(command.label)
        raise BackupError(
            f"the output of {label} is not understood: {damage}"
        ) from damage
    return changes


def _is_noise(change: Change) -> bool:
    return change.path == b"." and change.touched == Touch.TIMES


def _explained(error: CommandFailed) -> CommandFailed:
    stderr = error.completed.stderr
    if any(words in stderr for words in _TWO_MOUNTS):
        error.hint = "Name both by one mount of their filesystem."
    elif "is not read-only" in stderr:
        error.hint = "Only read-only snapshots can be compared."
    else:
        error.hint = explain_session(stderr)
    return error
