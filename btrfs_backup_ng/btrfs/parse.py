"""What btrfs-progs prints: text -> values, and what an error means."""

import re
from dataclasses import dataclass
from uuid import UUID

from btrfs_backup_ng.core.model import Integrity

_VERSION = re.compile(r"btrfs-progs v(\d+)\.(\d+)")
#: The fields of ``btrfs subvolume show`` as they follow one another; between these
#: stand others, which differ from version to version.
_SHOWN = re.compile(
    r"^\tUUID: *\t+(?P<uuid>\S+)\n\tParent UUID: *\t+(?P<parent_uuid>\S+)\n"
    r"\tReceived UUID: *\t+(?P<received_uuid>\S+)\n(?:\t[^\n]*\n){,2}?"
    r"\t(?:Subvolume|Object) ID: *\t+(?P<tree_id>\d+)\n"
    r"\tGeneration: *\t+(?P<generation>\d+)\n\tGen at creation: *\t+(?P<made>\d+)\n"
    r"(?:\t[^\n]*\n){,3}?\tFlags: *\t+(?P<flags>[^\n]*)\n"
    r"(?:(?:\tSend [^\n]*\n)*\tReceive transid: *\t+(?P<received>\d+)\n)?",
    re.MULTILINE,
)
_ROOT_ITEM = re.compile(
    r"\bkey \((\d+) ROOT_ITEM (?:(?!ROOT_ITEM).)*?\bflags 0x[0-9a-f]+\((\w+)\)"
    r"(?:(?!ROOT_ITEM).)*?\breceived_uuid (\S+)\s+"
    r"ctransid (\d+) otransid (\d+) stransid \d+ rtransid (\d+)",
    re.DOTALL,
)
#: ``inode 257 file offset 0 len 3 disk start 0 offset 0 gen 7 flags INLINE f``
_EXTENT = re.compile(rb"^inode \d+ file offset \d+ len (\d+) .*? flags (\S+) ")


class OutputNotUnderstood(ValueError):
    """btrfs printed something else than its known versions do."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What ``btrfs subvolume show`` tells of one subvolume.

    :ivar tree_id: the number of the subvolume.
    :ivar made: transaction that made it ("Gen at creation").
    :ivar received: transaction that finished its receive, 0 if none did.
    :ivar parent_uuid: of what it was made of.
    """

    uuid: UUID
    parent_uuid: UUID | None
    received_uuid: UUID | None
    read_only: bool
    tree_id: int
    generation: int
    made: int
    received: int


def parse_version(text: str) -> tuple[int, int] | None:
    """Read the version of btrfs-progs, ``None`` if there is none in the text."""
    match = _VERSION.search(text)
    return (int(match[1]), int(match[2])) if match else None


def parse_show(text: str) -> Shown:
    """Read ``btrfs subvolume show``.

    Names stand before and behind the fields, and may hold anything.

    :raises OutputNotUnderstood: if the fields are not there, or seem to be twice.
    """
    found = list(_SHOWN.finditer(text))
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


def parse_uuid(text: str) -> UUID | None:
    """Read a UUID, or the ``-`` that stands for none."""
    text = text.strip()
    return None if text == "-" else UUID(text)


def parse_root_items(text: str) -> dict[int, tuple[bool, int, int, int]]:
    """Read root items of ``dump-tree``: id -> arguments of :func:`judge_integrity`."""
    items = {}
    for found in _ROOT_ITEM.finditer(text):
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
) -> Integrity:
    """Tell from its transactions whether a snapshot was changed after it was made.

    ``snapshot -r`` makes content and snapshot in one transaction, and nothing but an
    edit moves ``ctransid`` on: not balance, scrub, remount or use as a base. A copy
    that another tool received in place was written after it was made, so that this
    tells nothing; being read-only with a received UUID must do there. What we publish
    is made after its receive was committed, so ``otransid`` is later then.

    :param rtransid: 0 if it carries no received UUID.
    :param is_checkpoint: it was received as it was made, without a write.
    """
    received_in_place = rtransid and otransid <= rtransid
    if is_checkpoint:
        received_in_place = received_in_place and ctransid <= rtransid
    unchanged = ctransid <= otransid or received_in_place
    return Integrity.INTACT if read_only and unchanged else Integrity.CHANGED


def extent_size(line: bytes) -> int:
    """Return the bytes that a line of ``find-new`` adds to a send stream.

    Preallocated extents hold no data; a line about something else adds nothing.
    """
    match = _EXTENT.match(line)
    if match is None or b"PREALLOC" in match[2]:
        return 0
    return int(match[1])


#: What btrfs says -> what it means for the user. Hints only: no decision rests on it.
_MEANINGS = (
    ("No space left on device", "the filesystem is full"),
    ("Disk quota exceeded", "a quota of the filesystem is used up"),
    ("cannot find parent subvolume", "the parent is missing there"),
    ("unexpected EOF in stream", "the stream ended too early"),
    ("Read-only file system", "the filesystem is mounted read-only"),
    ("empty stream is not considered valid", "no data arrived"),
    ("File exists", "that name exists there already"),
    ("Operation not permitted", "btrfs needs root for this"),
    ("a password is required", "sudo asks for a password there"),
)


#: Of these, what does not pass by itself.
_LASTING = {
    "No space left on device",
    "Disk quota exceeded",
    "cannot find parent subvolume",
    "Read-only file system",
    "File exists",
    "Operation not permitted",
    "a password is required",
}


def is_full(stderr: str) -> bool:
    """Tell whether a failed btrfs command met a full filesystem."""
    return "No space left on device" in stderr


def is_permanent(stderr: str) -> bool:
    """Tell whether what a failed btrfs command met is there the next time, too."""
    return any(said in stderr for said in _LASTING)


def explain(stderr: str) -> str:
    """Say in one clause what a failed btrfs command met, or ``""``."""
    return next((meaning for said, meaning in _MEANINGS if said in stderr), "")
