"""Own which snapshots are meant: words and parts -> snapshots."""

import hashlib
import re
from collections.abc import Collection, Sequence

from btrfs_backup_ng.__util__ import UsageError, visible
from btrfs_backup_ng.model import Snapshot

#: The beginning of a UUID: its first group at least.
_UUID_PREFIX = re.compile(r"[0-9a-f]{8}[0-9a-f-]{0,28}")
ALL, LATEST = "all", "latest"


def pick(
    words: Sequence[str], snapshots: Sequence[Snapshot], place: str
) -> list[Snapshot]:
    """Give the snapshots that words mean, each once, in the order of the snapshots.

    :param words: names, ``latest``, ``all``, beginnings of a UUID (own or received);
        none for all.
    :param snapshots: oldest first.
    :param place: for people.
    :raises UsageError: if a word means none.
    """
    wanted = {
        s.uuid for word in words or (ALL,) for s in _meant(word, snapshots, place)
    }
    return [snapshot for snapshot in snapshots if snapshot.uuid in wanted]


def _meant(
    word: str, snapshots: Sequence[Snapshot], place: str
) -> Collection[Snapshot]:
    if found := [snapshot for snapshot in snapshots if snapshot.name == word]:
        return found
    if word == ALL:
        return snapshots
    if word == LATEST and snapshots:
        return snapshots[-1:]
    if _UUID_PREFIX.fullmatch(word.lower()):
        for snapshot in snapshots:
            uuids = snapshot.uuid, snapshot.received_uuid
            if any(str(uuid).startswith(word.lower()) for uuid in uuids):
                return [snapshot]
    raise UsageError(
        f"there is no snapshot '{visible(word)}' at {visible(place)}",
        hint=f"See what there is:  btrfs-backup-ng list {visible(place)}",
    )


def is_in_part(snapshot: Snapshot, number: int, parts: int) -> bool:
    """Tell whether a snapshot belongs to a part, which never changes.

    :param number: of the part, from 1.
    """
    digest = hashlib.sha256(snapshot.origin.bytes).digest()
    return int.from_bytes(digest[:8], "big") % parts == number - 1
