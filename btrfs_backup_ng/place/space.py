"""The space of snapshots: all that each uses, and the part that nothing else uses."""

import logging
import re
from collections.abc import Sequence

from btrfs_backup_ng.__util__ import BackupError, attempt
from btrfs_backup_ng.core.model import Snapshot
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.place.contents import Seen
from btrfs_backup_ng.wire import verbs

log = logging.getLogger(__name__)

_GROUP = rb"(?m)^0/(\d+) +(\d+) +(\d+)\b"
_DU_HEADER = rb" +Total +Exclusive +Set shared +Filename\n"
_DU_LINE = rb" *(\d+) +(\d+) +\S+  "


class Space(Value):
    """The space of one snapshot.

    :ivar total_bytes: of all that it refers to.
    :ivar own_bytes: of these, the bytes that nothing else uses: the least that deleting
        it frees.
    """

    total_bytes: int
    own_bytes: int


def weigh(seen: Seen, snapshots: Sequence[Snapshot], limit: str) -> list[Space | None]:
    """Ask for the space of snapshots: all that each uses, and the bytes of it alone.

    :param limit: of the verb ``space``.
    :returns: ``None`` where it is not known.
    """
    if not snapshots:
        return []
    names = [s.name for s in snapshots]
    raw = "".join(f"./{name}\0" for name in names).encode(errors="surrogateescape")
    place, directory = seen.place, seen.endpoint.directory
    answer = attempt(lambda: place.host.call(verbs.SPACE, directory, limit, stdin=raw))
    if isinstance(answer, BackupError):
        log.debug("%s: %s", place, answer.message)
        return [None] * len(names)
    return parse_space(answer.stdout, names, [s.tree_id for s in snapshots])


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
    top, row = re.compile(_DU_HEADER), re.compile(_DU_LINE)
    at = 1
    for name in names:  # a name may look like a line, but the names are known
        if header := top.match(answer, at):
            at = header.end()
        line = row.match(answer, at)
        end = f"./{name}\n".encode(errors="surrogateescape")
        if line is None or not answer.startswith(end, line.end()):
            break
        sizes.append(Space(int(line[1]), int(line[2])))
        at = line.end() + len(end)
    return sizes + [None] * (len(names) - len(sizes))
