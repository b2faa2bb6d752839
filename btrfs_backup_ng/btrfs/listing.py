"""The listing of all snapshots in a directory: here by ioctl, elsewhere by text.

Both cost one step for each place, however many snapshots it has, and both are safe with
any name.
"""

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from btrfs_backup_ng.btrfs import ioctl
from btrfs_backup_ng.btrfs.parse import OutputNotUnderstood, judge_integrity, parse_uuid
from btrfs_backup_ng.core.cleared import NOTHING_CLEARED
from btrfs_backup_ng.core.model import Integrity, Listing, Snapshot
from btrfs_backup_ng.core.naming import time_in
from btrfs_backup_ng.core.record import Content, parse_answer
from btrfs_backup_ng.core.value import Value

#: A line of ``btrfs subvolume list -uqRcg``, up to the path.
_FULL = (
    rb"^ID (\d+) gen (\d+) cgen (\d+) top level (\d+)"
    rb" parent_uuid (\S+) +received_uuid (\S+) +uuid (\S+) path "
)
#: The same of ``list -R``, and of ``list`` alone.
_RECEIVED = rb"^ID (\d+) gen \d+ top level \d+ received_uuid (\S+) +path "
#: A line of ``list -su``.
_DATED = (
    rb"^ID \d+ gen \d+ cgen \d+ top level \d+ otime (\d[\d-]{9} [\d:]{8})"
    rb" uuid (\S+) +path "
)
#: The same of ``list -qu``.
_PARENTS = rb"^ID (\d+) gen \d+ top level \d+ parent_uuid (\S+) +uuid \S+ path "
_SHORT = rb"^ID \d+ gen \d+ top level \d+ path "
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def read_listing(directory: int) -> Listing:
    """List a directory of this machine; the carriers need root.

    :param directory: its descriptor.
    :raises OSError: if the directory cannot be read.
    """
    snapshots, names = [], []
    with os.scandir(directory) as entries:
        for entry in entries:
            names.append(entry.name)
            snapshot = _read_snapshot(directory, entry.name)
            if snapshot is not None:
                snapshots.append(snapshot)
    carriers = ioctl.received_carriers(directory)
    return Listing(tuple(snapshots), frozenset(names), carriers)


def look_closely(
    directory: int,
    tree_ids: Iterable[int],
    cleared: Mapping[int, int] = NOTHING_CLEARED,
    *,
    are_checkpoints: bool = False,
) -> Integrity:
    """Return whether all of some subvolumes of a filesystem here are unchanged.

    :param directory: descriptor of one on that filesystem.
    :param cleared: id -> last change that did not count.
    :raises OSError: if they cannot be read.
    """
    for tree_id in tree_ids:
        found = ioctl.read_root_item(directory, tree_id)
        integrity = found and judge_integrity(
            *found, is_checkpoint=are_checkpoints, cleared=cleared.get(tree_id, 0)
        )
        if integrity is Integrity.CHANGED:
            return Integrity.CHANGED
    return Integrity.INTACT


def _read_snapshot(directory: int, name: str) -> Snapshot | None:
    """Return the read-only subvolume of that name, None if it is something else."""
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if not (stat.S_ISDIR(status.st_mode) and ioctl.is_subvolume(status)):
            return None
        descriptor = os.open(name, _FLAGS, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
            return None  # deleted or replaced meanwhile
        raise
    try:
        info = ioctl.subvolume_info(descriptor)
    except OSError as error:
        if error.errno == errno.ENOTTY:  # another filesystem is mounted there
            return None
        raise
    finally:
        os.close(descriptor)
    if not info.read_only:
        return None
    return Snapshot(
        name=name,
        created=time_in(name) or info.created,
        uuid=info.uuid,
        parent_uuid=info.parent_uuid,
        received_uuid=info.received_uuid,
        generation=info.otransid,
        integrity=judge_integrity(
            True,
            info.ctransid,
            info.otransid,
            info.rtransid if info.received_uuid else 0,
        ),
        tree_id=info.tree_id,
        otime=info.created,
        changed=info.ctransid,
    )


def parse_listing(answer: bytes, files: int) -> tuple[Listing, tuple[Content, ...]]:
    """Read the answer of the verb ``list``: the listing, and files read with it.

    Each file is an answer for :func:`record.parse_answer`, and ends with NUL. The verb
    replaces the NUL bytes in it, which no record has.

    :param files: the number of files asked for.
    :returns: the listing, and the contents of the files.
    :raises OutputNotUnderstood: if it is not the output of a known version.
    """
    names_raw, _, rest = answer.partition(b"\0\0")
    if answer.startswith(b"\0"):  # an empty directory
        names_raw, rest = b"", answer[1:]
    try:
        tree_id, path, relative, *lists, behind = rest.split(b"\0", 7)
        full, full_reversed, received, received_reversed = lists
    except ValueError as error:
        raise OutputNotUnderstood("the list is incomplete") from error
    names = frozenset(name for name in names_raw.split(b"\0") if name)
    path = path.removesuffix(b"\n")
    relative = relative.removesuffix(b"\n").removeprefix(b"./")
    prefix = b"".join(part.rstrip(b"/") + b"/" for part in (path, relative) if part)
    snapshots = []
    for match, found in _records(_FULL, full, full_reversed):
        if int(match[4]) != int(tree_id) or not found.startswith(path):
            raise OutputNotUnderstood("the list is of another subvolume")
        name = found[len(prefix) :]
        if found.startswith(prefix) and name in names:
            text = os.fsdecode(name)
            snapshots.append(_snapshot(match, text, time_in(text)))
    carriers: dict[UUID, tuple[int, ...]] = {}
    for match, _ in _records(_RECEIVED, received, received_reversed):
        uuid = parse_uuid(match[2].decode())
        if uuid:
            carriers[uuid] = (*carriers.get(uuid, ()), int(match[1]))
    listing = Listing(tuple(snapshots), frozenset(map(os.fsdecode, names)), carriers)
    *contents, end = behind.split(b"\0")
    if end or len(contents) != files:
        raise OutputNotUnderstood("the records after the list are incomplete")
    try:
        return listing, tuple(map(parse_answer, contents))
    except ValueError as error:
        raise OutputNotUnderstood(str(error)) from error


def parse_dated(text: bytes, reversed_text: bytes) -> Iterator[tuple[UUID, str]]:
    """Read ``btrfs subvolume list -su``: UUID and creation time of each snapshot.

    :param reversed_text: the same list, sorted the other way round.
    :raises OutputNotUnderstood: if it is not the output of a known version.
    """
    for match, _ in _records(_DATED, text, reversed_text):
        yield UUID(match[2].decode()), match[1].decode()


class Subvolumes(Value):
    """The subvolumes of a filesystem, each named by its path.

    :ivar read_only: those of ``everything`` that are read-only.
    """

    read_only: tuple[Snapshot, ...]
    everything: tuple[Snapshot, ...]

    @property
    def writable(self) -> frozenset[UUID]:
        """Return the UUIDs of those that are writable."""
        read_only = {one.uuid for one in self.read_only}
        return frozenset(one.uuid for one in self.everything) - read_only

    def line_of(self, subvolume: UUID) -> tuple[Snapshot, ...]:
        """Return the read-only ones of a subvolume's line.

        A line is the subvolume, the one that it was made of, and so on, with the
        snapshots of each. They share most of their data.
        """
        made_of = {one.uuid: one.parent_uuid for one in self.everything}
        line: set[UUID] = set()
        ancestor: UUID | None = subvolume
        while ancestor and ancestor not in line:
            line.add(ancestor)
            ancestor = made_of.get(ancestor)
        return tuple(
            one for one in self.read_only if one.uuid in line or one.parent_uuid in line
        )


def parse_subvolumes(answer: bytes) -> Subvolumes:
    """Read the answer of the verb ``relatives``.

    :raises OutputNotUnderstood: if it is not the output of a known version.
    """
    *lists, _ = answer.split(b"\0")
    return Subvolumes(_parse_full(lists[:2]), _parse_full(lists[2:]))


def _parse_full(lists: Sequence[bytes]) -> tuple[Snapshot, ...]:
    """Read one of the lists, which comes in both orders."""
    try:
        text, reversed_text = lists
        return tuple(
            _snapshot(match, os.fsdecode(path))
            for match, path in _records(_FULL, text, reversed_text)
        )
    except ValueError as error:
        raise OutputNotUnderstood("the list is incomplete") from error


class ListedSubvolume(Value):
    """A snapshot in the list of a filesystem.

    :ivar path: from the top of the filesystem, or of the part that is mounted.
    :ivar parent: UUID of its original.
    """

    tree_id: int
    path: str
    parent: UUID


def parse_children(answer: bytes) -> list[ListedSubvolume]:
    """Read the answer of the verb ``children``.

    :raises OutputNotUnderstood: if it is not the output of a known version.
    """
    try:
        text, reversed_text, _ = answer.split(b"\0")
    except ValueError as error:
        raise OutputNotUnderstood("the list is incomplete") from error
    return [
        ListedSubvolume(int(match[1]), os.fsdecode(path), parent)
        for match, path in _records(_PARENTS, text, reversed_text)
        if (parent := parse_uuid(match[2].decode()))
    ]


def _snapshot(
    match: re.Match[bytes], name: str, created: datetime | None = None
) -> Snapshot:
    generation, made = int(match[2]), int(match[3])
    return Snapshot(
        name=name,
        created=created,
        uuid=UUID(match[7].decode()),
        parent_uuid=parse_uuid(match[5].decode()),
        received_uuid=parse_uuid(match[6].decode()),
        generation=made,
        # a later generation may mean a change, or just that it served as base
        integrity=Integrity.INTACT if generation == made else Integrity.UNKNOWN,
        tree_id=int(match[1]),
    )


def _records(
    form: bytes, text: bytes, reversed_text: bytes
) -> Iterator[tuple[re.Match[bytes], bytes]]:
    """Split ``btrfs subvolume list`` into its lines; return each with its path.

    A path may hold newlines, and text that looks like other lines: any user who may
    make a subvolume could forge a backup. But the parts of a path follow the same line
    also in the list in reverse order, and a true line does not.

    :param reversed_text: the same list, sorted the other way round.
    """
    pattern = re.compile(form, re.MULTILINE)
    pieces = _pieces(pattern, text)
    others = _pieces(pattern, reversed_text)
    after = set(zip(others, others[1:], strict=False))
    whole: list[bytes] = []
    for before, piece in zip([b"", *pieces], pieces, strict=False):
        if whole and (before, piece) in after:
            whole[-1] += piece
        else:
            whole.append(piece)
    for line in whole:
        match = pattern.match(line)
        assert match
        yield match, line[match.end() :].removesuffix(b"\n")


def _pieces(pattern: re.Pattern[bytes], text: bytes) -> list[bytes]:
    starts = [match.start() for match in pattern.finditer(text)]
    if text.strip() and starts[:1] != [0]:
        raise OutputNotUnderstood("unknown format of btrfs subvolume list")
    ends = [*starts[1:], len(text)] if starts else []
    return [text[a:b] for a, b in zip(starts, ends, strict=True)]


def parse_nested(
    text: bytes, reversed_text: bytes, subvolume_path: bytes
) -> tuple[str, ...]:
    """Return the subvolumes in ``btrfs subvolume list -o``, relative to their parent.

    :param reversed_text: the same list, sorted the other way round.
    :param subvolume_path: of the parent, from the top of the filesystem.
    """
    above = subvolume_path + b"/" if subvolume_path else b""
    return tuple(
        os.fsdecode(path.removeprefix(above))
        for _, path in _records(_SHORT, text, reversed_text)
    )
