"""The output of btrfs-progs: text to values, and the meaning of errors."""

import re
from typing import NamedTuple
from uuid import UUID

from btrfs_backup_ng.core.model import Integrity
from btrfs_backup_ng.core.value import Value

_VERSION = r"btrfs-progs v(\d+)\.(\d+)"
#: The fields of ``btrfs subvolume show`` in their order; the lines between them differ
#: from version to version.
_SHOWN = (
    r"(?m)^\tUUID: *\t+(?P<uuid>\S+)\n\tParent UUID: *\t+(?P<parent_uuid>\S+)\n"
    r"\tReceived UUID: *\t+(?P<received_uuid>\S+)\n(?:\t[^\n]*\n){,2}?"
    r"\t(?:Subvolume|Object) ID: *\t+(?P<tree_id>\d+)\n"
    r"\tGeneration: *\t+(?P<generation>\d+)\n\tGen at creation: *\t+(?P<made>\d+)\n"
    r"(?:\t[^\n]*\n){,3}?\tFlags: *\t+(?P<flags>[^\n]*)\n"
    r"(?:(?:\tSend [^\n]*\n)*\tReceive transid: *\t+(?P<received>\d+)\n)?"
)
_ROOT_ITEM = (
    r"(?s)\bkey \((\d+) ROOT_ITEM (?:(?!ROOT_ITEM).)*?\bflags 0x[0-9a-f]+\((\w+)\)"
    r"(?:(?!ROOT_ITEM).)*?\breceived_uuid (\S+)\s+"
    r"ctransid (\d+) otransid (\d+) stransid \d+ rtransid (\d+)"
)
#: ``inode 257 file offset 0 len 3 disk start 0 offset 0 gen 7 flags INLINE f``
_EXTENT = (
    rb"^inode (\d+) file offset \d+ len (\d+)"
    rb" disk start (\d+ offset \d+) .*? flags (\S+) "
)


class OutputNotUnderstood(ValueError):
    """The output of btrfs-progs is not that of a known version."""


class Shown(Value):
    """The output of ``btrfs subvolume show`` for one subvolume.

    :ivar made: transaction that made it ("Gen at creation").
    :ivar received: transaction that finished its receive, 0 if it was not received.
    :ivar parent_uuid: of its original.
    """

    uuid: UUID
    parent_uuid: UUID | None
    received_uuid: UUID | None
    read_only: bool
    tree_id: int
    generation: int
    made: int
    received: int


class Written(NamedTuple):
    """An extent of a file.

    :ivar size: the bytes that it adds to a send stream; preallocated space has none.
    :ivar place: on the disk, the same for all reflinks; None for data in the metadata.
    """

    inode: int
    size: int
    place: object


def parse_version(text: str) -> tuple[int, int] | None:
    """Read the version of btrfs-progs, None if it is not in the text."""
    match = re.search(_VERSION, text)
    return (int(match[1]), int(match[2])) if match else None


def parse_show(text: str) -> Shown:
    """Read ``btrfs subvolume show``.

    Names come before and after the fields, and may hold any text.

    :raises OutputNotUnderstood: if the fields are missing, or seem to come twice.
    """
    found = list(re.finditer(_SHOWN, text))
    if len(found) != 1:
        raise OutputNotUnderstood(f"btrfs subvolume show: {len(found)} sets of fields")
    fields = found[0]
    try:
        return Shown(
            uuid=UUID(fields["uuid"]),
            parent_uuid=parse_uuid(fields["parent_uuid"]),
            received_uuid=parse_uuid(fields["received_uuid"]),
            read_only="readonly" in fields["flags"].split(),
            tree_id=int(fields["tree_id"]),
            generation=int(fields["generation"]),
            made=int(fields["made"]),
            received=int(fields["received"] or 0),
        )
    except ValueError as error:
        raise OutputNotUnderstood(f"btrfs subvolume show: {error}") from error


def format_show(shown: Shown) -> str:
    """Write the fields of ``btrfs subvolume show`` that :func:`parse_show` reads."""
    received = f"\tReceive transid: \t{shown.received}\n"
    return (
        f"\tUUID: \t\t\t{shown.uuid}\n"
        f"\tParent UUID: \t\t{shown.parent_uuid or '-'}\n"
        f"\tReceived UUID: \t\t{shown.received_uuid or '-'}\n"
        f"\tSubvolume ID: \t\t{shown.tree_id}\n"
        f"\tGeneration: \t\t{shown.generation}\n"
        f"\tGen at creation: \t{shown.made}\n"
        f"\tFlags: \t\t\t{'readonly' if shown.read_only else '-'}\n"
        f"{received if shown.received else ''}"
    )


def parse_uuid(text: str) -> UUID | None:
    """Read a UUID; None for ``-``."""
    text = text.strip()
    return None if text == "-" else UUID(text)


def parse_root_items(text: str) -> dict[int, tuple[bool, int, int, int]]:
    """Read root items of ``dump-tree``: id -> arguments of :func:`judge_integrity`."""
    items = {}
    for found in re.finditer(_ROOT_ITEM, text):
        tree_id, flags, received_uuid, ctransid, otransid, rtransid = found.groups()
        received = UUID(received_uuid) != UUID(int=0)
        items[int(tree_id)] = (
            "RDONLY" in flags,
            int(ctransid),
            int(otransid),
            int(rtransid) if received else 0,
        )
    return items


def judge_integrity(
    read_only: bool,
    ctransid: int,
    otransid: int,
    rtransid: int,
    *,
    is_checkpoint: bool = False,
    cleared: int = 0,
) -> Integrity:
    """Return whether a snapshot was changed after it was made, by its transactions.

    ``snapshot -r`` makes content and snapshot in one transaction, and only an edit
    advances ``ctransid``: not balance, scrub, remount or use as a base. A copy that
    another tool received in place was written after it was made, so its transactions
    prove nothing; a read-only snapshot with a received UUID is accepted there. A backup
    of this program is made after its receive was committed, so its ``otransid`` is
    later.

    :param rtransid: 0 if it carries no received UUID.
    :param is_checkpoint: it was received without a write, as it was made.
    :param cleared: the last change that did not count (``core.cleared``).
    """
    received_in_place = rtransid and otransid <= rtransid
    if is_checkpoint:
        received_in_place = received_in_place and ctransid <= rtransid
    unchanged = ctransid <= max(otransid, cleared) or received_in_place
    return Integrity.INTACT if read_only and unchanged else Integrity.CHANGED


def parse_extent(line: bytes) -> Written | None:
    """Read a line of ``find-new``; None if it is about no extent."""
    match = re.match(_EXTENT, line)
    if match is None:
        return None
    inode, size, place, flags = match.groups()
    place = None if place.startswith(b"0 ") else place
    return Written(int(inode), 0 if b"PREALLOC" in flags else int(size), place)


_FULL = "No space left on device"
_READ_ONLY = "Read-only file system"
_OUTSIDE = (
    "a copy of the parent is outside the mounted part of the filesystem; mount all of"
    " the filesystem (-o subvolid=5) and use the path there"
)
#: Errors of btrfs and their meanings, for hints; a retry does not help with these.
_PERMANENT = {
    _FULL: "the filesystem is full",
    "Disk quota exceeded": "a quota of the filesystem is exceeded",
    "cannot find parent subvolume": "the parent is missing",
    "not reachable from inside the root subvol": _OUTSIDE,
    "mount btrfs, try to remount this btrfs filesystem": _OUTSIDE,
    _READ_ONLY: "the filesystem or a subvolume is read-only",
    "File exists": "that name already exists",
    "Operation not permitted": "btrfs needs root for this",
    "a password is required": "sudo asks for a password",
    "Input/output error": "a disk cannot be read or written; see dmesg",
    "Text file busy": "a swap file in it is in use (swapon --show); move it to a"
    " separate subvolume",
    "File name too long": "a path in it is too long",
}
#: Errors that only another snapshot avoids: a block that cannot be read, and paths
#: beyond ``PATH_MAX``, of ``btrfs send`` or in ``btrfs receive``.
_UNSENDABLE = ("send ioctl failed with -5:", "File name too long")
#: The words of ``btrfs receive`` and ``sendstream/format`` for a damaged stream.
_GARBLED = (
    "crc32 mismatch in command",
    "invalid tlv in cmd",
    "the stream is damaged at byte",
)
#: The words of the filters for a stream that ends too early.
_CUT_OFF = "it ends before its END command"
_TRANSIENT = {
    "unexpected EOF in stream": "the stream ended too early",
    "empty stream is not considered valid": "no data arrived",
}


def is_full(stderr: str) -> bool:
    return _FULL in stderr


def is_read_only(stderr: str) -> bool:
    return _READ_ONLY in stderr


def is_permanent(stderr: str) -> bool:
    """Return whether a retry of a failed btrfs command would fail, too."""
    return any(error in stderr for error in _PERMANENT)


def is_unsendable(stderr: str) -> bool:
    """Return whether a transfer failed because of the contents of the snapshot."""
    return any(error in stderr for error in _UNSENDABLE)


def is_garbled(stderr: str) -> bool:
    """Return whether the reader of a stream reports that it is damaged."""
    return any(error in stderr for error in _GARBLED) and _CUT_OFF not in stderr


def is_cut_off(stderr: str) -> bool:
    """Return whether a receiver only says that its stream ended too early."""
    return any(error in stderr for error in _TRANSIENT)


def explain(stderr: str) -> str:
    """Return the meaning of a btrfs command's errors in one clause, or ``""``."""
    meanings = _PERMANENT | _TRANSIENT
    return next((meanings[error] for error in meanings if error in stderr), "")
