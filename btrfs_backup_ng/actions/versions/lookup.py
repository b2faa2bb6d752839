"""The status of one path in many snapshots, and the comparison of the contents.

Two versions differ in content. Few files have to be read to decide that:

1. In snapshots of one filesystem, files with the same inode, size, mtime and ctime have
   the same content: no program can set the ctime.
2. A snapshot and its copy (the same origin) have the same content, if type and size
   agree.
3. Files of different sizes differ.

Only files of the same size that are still in doubt are read, on the machine that has
them: one SHA-256 for each version, at the nearest place (``DIGESTS``). The targets of
symbolic links are always read (``LINKS``).
"""

import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from uuid import UUID

from btrfs_backup_ng.__util__ import BackupError, attempt, visible
from btrfs_backup_ng.actions.versions import answers
from btrfs_backup_ng.actions.versions.answers import Status
from btrfs_backup_ng.actions.versions.timeline import KINDS, Content
from btrfs_backup_ng.core.value import replace
from btrfs_backup_ng.endpoint.common import Place
from btrfs_backup_ng.wire import verbs
from btrfs_backup_ng.wire.grammar import Verb

#: Place, type of file, stamps.
_Key = tuple[int, int, bytes]


class Look:
    """The file in one snapshot, or the present file.

    :ivar place: index of the place.
    :ivar path: of the file, absolute.
    """

    def __init__(
        self, place: int, snapshot: str, time: datetime, origin: UUID | None, path: str
    ) -> None:
        self.place = place
        self.snapshot = snapshot
        self.time = time
        self.origin = origin
        self.path = path
        self.status: Status | None = None


def take_stats(place: Place, looks: Sequence[Look], path: str) -> None:
    """Set the status of the file in each snapshot, with one question for all.

    Ask for the directories above it, too: a link among them would lead out of the
    snapshot.
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
        found = answers.parse_stats(answer, paths)
    for number, look in enumerate(looks):
        *above, status = found[number * depth : (number + 1) * depth]
        if all(one and one.kind == stat.S_IFDIR for one in above):
            look.status = status


def _ask(place: Place, verb: Verb, paths: Sequence[str]) -> bytes:
    return place.host.call(verb, stdin=answers.listed(paths)).stdout


@contextmanager
def _understanding(place: Place) -> Iterator[None]:
    """Add the place to the error about an answer that is not understood."""
    try:
        yield
    except answers.Unclear as error:
        words = str(error)
        hint = "Log in as root, or let sudo run stat, sha256sum, readlink and cat, too."
        raise BackupError(
            f"the contents of snapshots at {place} cannot be read: {visible(words)}",
            hint=hint if "Permission denied" in words else "",
        ) from error


class SameContents:
    """The contents of the file in all looks, to compare them.

    :ivar failures: places at which a file could not be read.
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
        """Return the content in a look; ``None`` if the file was missing."""
        key = _key(look)
        return self._contents[self._root(key)] if key else None

    def _join_copies(self, looks: Sequence[Look]) -> None:
        """Join the keys of copies of one snapshot, if type and size agree."""
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
            if mark is None:  # unknown content is like no other
                unlike = f"unreadable {place.location} {number}"
                self._contents[key] = replace(content, mark=unlike, is_readable=False)
            else:
                self._contents[key] = replace(content, mark=mark)


def _key(look: Look) -> _Key | None:
    """Return a key that only the same, unchanged file has."""
    status = look.status
    return (look.place, status.kind, status.stamps) if status else None


def _digests(place: Place, looks: Sequence[Look]) -> Sequence[str | None]:
    paths = [look.path for look in looks]
    answer = _ask(place, verbs.DIGESTS, paths)
    with _understanding(place):
        return answers.parse_digests(answer, paths)


def _links(place: Place, looks: Sequence[Look]) -> Sequence[str | None]:
    answer = _ask(place, verbs.LINKS, [look.path for look in looks])
    with _understanding(place):
        sizes = [look.status.size for look in looks if look.status]
        return answers.parse_links(answer, sizes)
