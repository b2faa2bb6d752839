"""Own which snapshots are meant: words and parts -> snapshots."""

import hashlib
from collections.abc import Sequence
from datetime import datetime

from btrfs_backup_ng.__util__ import UsageError, visible
from btrfs_backup_ng.choose import NotChosen, choose
from btrfs_backup_ng.model import Snapshot

ALL = "all"


def pick(
    words: Sequence[str], snapshots: Sequence[Snapshot], place: str, now: datetime
) -> list[Snapshot]:
    """Give the snapshots that words mean, each once, in the order of the snapshots.

    :param words: names (of all that have them), ``all``, or what :func:`choose.choose`
        knows; none for all.
    :param place: for people.
    :param now: aware.
    :raises UsageError: if a word means none, or more than one.
    """
    wanted = set()
    for word in words or (ALL,):
        found = [s for s in snapshots if word in (ALL, s.name)]
        if not found and word != ALL:
            found = [_chosen(word, snapshots, visible(place), now)]
        wanted |= {snapshot.uuid for snapshot in found}
    return [snapshot for snapshot in snapshots if snapshot.uuid in wanted]


def _chosen(
    word: str, snapshots: Sequence[Snapshot], place: str, now: datetime
) -> Snapshot:
    try:
        return choose(word, snapshots, dated=snapshots, place=place, now=now)
    except NotChosen as error:
        raise UsageError(error.message, hint=error.hint) from error


def is_in_part(snapshot: Snapshot, number: int, parts: int) -> bool:
    """Tell whether a snapshot belongs to a part, which never changes.

    :param number: of the part, from 1.
    """
    digest = hashlib.sha256(snapshot.origin.bytes).digest()
    return int.from_bytes(digest[:8], "big") % parts == number - 1
