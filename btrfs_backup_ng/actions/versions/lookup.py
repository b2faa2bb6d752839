"""The look into many snapshots for one path: what it is in each, what is the same.

Two versions differ in content. What must be read to know that is little: a file with
the same inode, size and times (``ctime``, which nobody can set, among them) in two
snapshots of one filesystem was not written to in between; a snapshot and its copy hold
the same; and files of different sizes differ. What is left, files of one size, is told
apart by SHA-256, taken where they lie, once for each version.
"""

import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from btrfs_backup_ng.__util__ import BackupError, attempt, visible
from btrfs_backup_ng.actions.versions import answers as wire_versions
from btrfs_backup_ng.actions.versions.answers import Status
from btrfs_backup_ng.actions.versions.timeline import KINDS, Content
from btrfs_backup_ng.endpoint.common import Place
from btrfs_backup_ng.wire import verbs
from btrfs_backup_ng.wire.grammar import Verb

#: Place, type of file, stamps.
_Key = tuple[int, int, bytes]


@dataclass(slots=True)
class Look:
    """One snapshot, or what is there now, that is looked into.

    :ivar place: index of the place.
    :ivar path: of the file, absolute.
    """

    place: int
    snapshot: str
    time: datetime
    origin: UUID | None
    path: str
    status: Status | None = None


def take_stats(place: Place, looks: Sequence[Look], path: str) -> None:
    """Find out what the file is in each snapshot: one question for all.

    The directories above it are looked at, too: a link among them would lead out of
    the snapshot.
    """
    depth = path.count("/") + 1
    paths: list[str] = []
    for look in looks:
        parts = look.path.rsplit("/", depth)
        paths += ["/".join(parts[: 2 + n]) for n in range(depth)]
    if not paths:
        return
    answer = _ask(place, verbs.STATS, paths)
    with _understanding(place):
        found = wire_versions.parse_stats(answer, paths)
    for number, look in enumerate(looks):
        *above, status = found[number * depth : (number + 1) * depth]
        if all(one and one.kind == stat.S_IFDIR for one in above):
            look.status = status


def _ask(place: Place, verb: Verb, paths: Sequence[str]) -> bytes:
    return place.host.call(verb, stdin=wire_versions.listed(paths)).stdout


@contextmanager
def _understanding(place: Place) -> Iterator[None]:
    """Say of which place an answer is not understood."""
    try:
        yield
    except wire_versions.Unclear as error:
        words = str(error)
        hint = "Log in as root, or let sudo run stat, sha256sum, readlink and cat, too."
        raise BackupError(
            f"what is in the snapshots at {place} cannot be seen: {visible(words)}",
            hint=hint if "Permission denied" in words else "",
        ) from error


class SameContents:
    """Which looks saw the same content.

    :ivar failures: places at which that could not be found out.
    """

    def __init__(self, looks: Sequence[Look], places: Sequence[Place]) -> None:
        self.failures: list[tuple[str, BackupError]] = []
        self._same: dict[_Key, _Key] = {}
        self._join_copies(looks)
        classes: dict[_Key, Look] = {}
        for look in sorted(looks, key=lambda one: (not one.snapshot, one.place)):
            if key := _key(look):
                classes.setdefault(self._root(key), look)
        self._contents: dict[_Key, Content] = {}
        for key, look in classes.items():
            assert look.status
            kind = KINDS.get(look.status.kind, "unknown")
            size = look.status.size if kind in ("file", "link") else 0
            self._contents[key] = Content(kind, size)
        sizes = Counter(self._contents.values())
        for index, place in enumerate(places):
            here = {k: c for k, c in classes.items() if c.place == index}
            for kind, read in (("file", _digests), ("link", _links)):
                doubtful = [
                    key
                    for key in here
                    if (content := self._contents[key]).kind == kind
                    and content.size
                    and (kind == "link" or sizes[content] > 1)
                ]
                if doubtful:
                    self._read(place, doubtful, here, read)

    def of(self, look: Look) -> Content | None:
        """Return what a look saw; ``None``: the file was not there."""
        key = _key(look)
        return self._contents[self._root(key)] if key else None

    def _join_copies(self, looks: Sequence[Look]) -> None:
        """Take copies of one snapshot for the same, if they look it."""
        seen: dict[tuple[UUID, int, int], _Key] = {}
        for look in looks:
            key = _key(look)
            if key is None or look.origin is None:
                continue
            assert look.status
            copy = look.origin, look.status.kind, look.status.size
            one, other = self._root(seen.setdefault(copy, key)), self._root(key)
            if one != other:
                self._same[other] = one

    def _root(self, key: _Key) -> _Key:
        while (above := self._same.get(key)) is not None:
            key = above
        return key

    def _read(
        self,
        place: Place,
        keys: Sequence[_Key],
        looks: Mapping[_Key, Look],
        read: Callable[[Place, Sequence[Look]], Sequence[str | None]],
    ) -> None:
        marks = attempt(lambda: read(place, [looks[key] for key in keys]))
        if isinstance(marks, BackupError):
            self.failures.append((str(place.location), marks))
            marks = [None] * len(keys)
        for number, (key, mark) in enumerate(zip(keys, marks, strict=True)):
            content = self._contents[key]
            if mark is None:  # nobody knows what it is like
                unlike = f"unreadable {place.location} {number}"
                self._contents[key] = replace(content, mark=unlike, is_readable=False)
            else:
                self._contents[key] = replace(content, mark=mark)


def _key(look: Look) -> _Key | None:
    """Return what is the same only for what is the same file, unchanged."""
    status = look.status
    return (look.place, status.kind, status.stamps) if status else None


def _digests(place: Place, looks: Sequence[Look]) -> Sequence[str | None]:
    paths = [look.path for look in looks]
    answer = _ask(place, verbs.DIGESTS, paths)
    with _understanding(place):
        return wire_versions.parse_digests(answer, paths)


def _links(place: Place, looks: Sequence[Look]) -> Sequence[str | None]:
    answer = _ask(place, verbs.LINKS, [look.path for look in looks])
    with _understanding(place):
        sizes = [look.status.size for look in looks if look.status]
        return wire_versions.parse_links(answer, sizes)
