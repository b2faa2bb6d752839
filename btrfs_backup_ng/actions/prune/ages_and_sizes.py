"""Answers of the verbs ``times`` and ``space``: ages and sizes of snapshots."""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from uuid import UUID

from btrfs_backup_ng.btrfs.listing import parse_dated
from btrfs_backup_ng.btrfs.parse import OutputNotUnderstood
from btrfs_backup_ng.core.value import Value

_CREATED = rb"(?m)^\tCreation time: *\t+(\d[\d-]{9} [\d:]{8}) ([+-]\d{4})$"
_GROUP = rb"(?m)^0/(\d+) +(\d+) +(\d+)\b"
_DU_HEADER = re.compile(rb" +Total +Exclusive +Set shared +Filename\n")
_DU_LINE = re.compile(rb" *(\d+) +(\d+) +\S+  ")
_FORMAT = "%Y-%m-%d %H:%M:%S"


class Space(Value):
    """The space of one snapshot.

    :ivar total_bytes: of all that it refers to.
    :ivar own_bytes: of these, the bytes that nothing else uses: the least that deleting
        it frees.
    """

    total_bytes: int
    own_bytes: int


def parse_times(answer: bytes) -> dict[UUID, datetime]:
    """Parse the answer of the verb ``times``: UUID -> aware UTC, to the second.

    :raises OutputNotUnderstood: if it is not in the format of the known versions.
    """
    try:
        listed, listed_reversed, shown = answer.split(b"\0", 2)
        ((moment, offset),) = re.findall(_CREATED, shown)
        reference = datetime.strptime(f"{moment.decode()}", _FORMAT)
        zone = datetime.strptime(offset.decode(), "%z").utcoffset()
        times = {
            uuid: datetime.strptime(text, _FORMAT)
            for uuid, text in parse_dated(listed, listed_reversed)
        }
    except ValueError as error:
        raise OutputNotUnderstood(f"times of snapshots: {error}") from error
    if reference not in times.values():
        raise OutputNotUnderstood("btrfs lists and shows different times")
    shift = zone or timedelta()
    return {uuid: (m - shift).replace(tzinfo=timezone.utc) for uuid, m in times.items()}


def parse_space(
    answer: bytes, names: Sequence[str], tree_ids: Sequence[int]
) -> list[Space | None]:
    """Parse the answer of the verb ``space``.

    :param names: of the snapshots, in the order of the question.
    :param tree_ids: their ids.
    :returns: ``None`` where it is not known.
    """
    if answer.startswith(b"q"):
        groups: dict[int, list[Space]] = {}
        for tree_id, total, own in re.findall(_GROUP, answer[1:]):
            groups.setdefault(int(tree_id), []).append(Space(int(total), int(own)))
        found = [groups.get(tree_id, []) for tree_id in tree_ids]
        return [sizes[0] if len(sizes) == 1 else None for sizes in found]
    sizes: list[Space | None] = []
    at = 1
    for name in names:  # a name may look like a line, but the names are known
        if header := _DU_HEADER.match(answer, at):
            at = header.end()
        line = _DU_LINE.match(answer, at)
        end = f"./{name}\n".encode(errors="surrogateescape")
        if line is None or not answer.startswith(end, line.end()):
            break
        sizes.append(Space(int(line[1]), int(line[2])))
        at = line.end() + len(end)
    return sizes + [None] * (len(names) - len(sizes))
