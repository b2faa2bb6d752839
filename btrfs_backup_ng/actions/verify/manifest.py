"""The entries of a tree, and the differences between two trees.

Entries are sorted by the bytes of their paths, so two trees of any size are compared in
one pass, with a few entries in memory. The empty directories in place of nested
subvolumes are not entries, as ``btrfs receive`` does not make them.
"""

import enum
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping

from btrfs_backup_ng.core.value import Value

Xattrs = Mapping[bytes, bytes]

#: Inode of the empty directory in place of a nested subvolume in a snapshot:
#: ``BTRFS_EMPTY_SUBVOL_DIR_OBJECTID``, linux/btrfs_tree.h. Other inodes are above 255.
STUB_INODE = 2
#: Path of the tree's own root; all others begin with it and a slash.
TOP = b"."

_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "block device",
    stat.S_IFCHR: "character device",
}
_MISSING = "missing"


class Garbled(ValueError):
    """A description of a tree is truncated, not in order, or in a wrong format."""


class Aspect(enum.Enum):
    """A property in which entries may differ."""

    PRESENCE = "presence"
    TYPE = "type"
    MODE = "mode"
    OWNER = "owner"
    GROUP = "group"
    SIZE = "size"
    MTIME = "mtime"
    TARGET = "target"
    DEVICE = "device"
    LINK = "hard link"
    CONTENTS = "contents"
    XATTR = "xattr"


class Entry(Value):
    """One name in a tree, with all properties that a backup has to restore.

    :ivar path: ``.`` or ``./a/b``, any bytes.
    :ivar mode: with the type, as ``st_mode``.
    :ivar size: bytes of a file, 0 for anything else.
    :ivar mtime_ns: since the epoch.
    :ivar device: major and minor number of a device.
    :ivar target: of a symlink.
    :ivar link: the first name of a file with several names.
    :ivar digest: SHA-256 of a file; ``None`` for anything else, or if unreadable.
    :ivar unreadable: why a file cannot be read, or "".
    :ivar xattrs: with ACLs; ``None`` if they are not known.
    """

    path: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    device: tuple[int, int] | None = None
    target: bytes | None = None
    link: bytes | None = None
    digest: bytes | None = None
    unreadable: str = ""
    xattrs: Xattrs | None = None

    @property
    def type(self) -> str:
        return _TYPES.get(stat.S_IFMT(self.mode), "unknown")


class Difference(Value):
    """One property in which a copy differs from its original.

    :ivar path: relative to the top, ``.`` for the top itself; any bytes.
    :ivar original: the value there, for people; escape it before printing.
    :ivar name: of the xattr, else "".
    :ivar unclear: the original cannot be read, so the copy may be good.
    """

    path: bytes
    aspect: Aspect
    original: str
    copy: str
    name: str = ""
    unclear: bool = False

    @property
    def is_by_send(self) -> bool:
        """Whether ``btrfs send`` may have made it, which says nothing of the copy.

        In an incremental stream new files are made in the top directory, under a number
        as name, and renamed to their places; the time that this leaves on the top
        directory is set right only if it was changed itself (send.c of Linux).
        """
        return self.path == TOP and self.aspect is Aspect.MTIME


def compare(
    originals: Iterable[Entry],
    copies: Iterable[Entry],
    compared: Callable[[Entry], None] = lambda entry: None,
) -> Iterator[Difference]:
    """Yield the differences between a tree and its copy, in one pass.

    :param compared: called with each compared entry of the original.
    :raises Garbled: if one of the trees is not in order.
    """
    one_by_one, other_by_one = _ordered(originals), _ordered(copies)
    one, other = next(one_by_one, None), next(other_by_one, None)
    while one or other:
        if other is None or one and one.path < other.path:
            assert one
            yield _presence(one.path, one.type, _MISSING)
            compared(one)
            one = next(one_by_one, None)
        elif one is None or other.path < one.path:
            yield _presence(other.path, _MISSING, other.type)
            other = next(other_by_one, None)
        else:
            yield from _between(one, other)
            compared(one)
            one, other = next(one_by_one, None), next(other_by_one, None)


def _ordered(entries: Iterable[Entry]) -> Iterator[Entry]:
    last = b""
    for entry in entries:
        if entry.path <= last:
            raise Garbled(f"{entry.path!r:.200} comes after {last!r:.200}")
        last = entry.path
        yield entry


def shown_path(path: bytes) -> bytes:
    """Return a path as users write it."""
    return path[2:] or TOP


def _presence(path: bytes, original: str, copy: str) -> Difference:
    return Difference(shown_path(path), Aspect.PRESENCE, original, copy)


def _between(one: Entry, other: Entry) -> Iterator[Difference]:
    path = shown_path(one.path)
    if one.type != other.type:
        yield Difference(path, Aspect.TYPE, one.type, other.type)
        return
    for aspect, show in _SHOWN.items():
        values = show(one), show(other)
        if values[0] != values[1]:
            yield Difference(path, aspect, *values)
    if one.digest != other.digest:
        values = _contents(one), _contents(other)
        unclear = one.digest is None
        yield Difference(path, Aspect.CONTENTS, *values, unclear=unclear)
    elif one.unreadable:
        reasons = _contents(one), _contents(other)
        yield Difference(path, Aspect.CONTENTS, *reasons, unclear=True)
    if one.xattrs is None or other.xattrs is None or one.xattrs == other.xattrs:
        return
    for name in sorted(one.xattrs.keys() | other.xattrs.keys()):
        before, after = one.xattrs.get(name), other.xattrs.get(name)
        if before != after:
            words = _xattr(before), _xattr(after)
            yield Difference(path, Aspect.XATTR, *words, name=_text(name))


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _target(entry: Entry) -> str:
    return "" if entry.target is None else _text(entry.target)


def _device(entry: Entry) -> str:
    return "" if entry.device is None else "{}:{}".format(*entry.device)


def _link(entry: Entry) -> str:
    if entry.link is None:
        return "the only name"
    if entry.link == entry.path:
        return "first of several names"
    return f"same as {_text(shown_path(entry.link))}"


def _mtime(entry: Entry) -> str:
    seconds, nanoseconds = divmod(entry.mtime_ns, 10**9)
    return f"{seconds}.{nanoseconds:09}"


_SHOWN: Mapping[Aspect, Callable[[Entry], str]] = {
    Aspect.MODE: lambda entry: f"{stat.S_IMODE(entry.mode):04o}",
    Aspect.OWNER: lambda entry: str(entry.uid),
    Aspect.GROUP: lambda entry: str(entry.gid),
    Aspect.SIZE: lambda entry: str(entry.size),
    Aspect.MTIME: _mtime,
    Aspect.TARGET: _target,
    Aspect.DEVICE: _device,
    Aspect.LINK: _link,
}


def _contents(entry: Entry) -> str:
    if entry.digest is None:
        return f"cannot be read: {entry.unreadable or 'no reason given'}"
    return f"sha256 {entry.digest.hex()}"


def _xattr(value: bytes | None) -> str:
    if value is None:
        return _MISSING
    return f"{value.hex()[:64]} ({len(value)} bytes)" if value else "empty"


class Names:
    """The first names of files with several names, while a tree is read in order.

    An inode is forgotten after the last of its names.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[bytes, bytes | None, str, int]] = {}

    def first(self, inode: int) -> tuple[bytes, bytes | None, str] | None:
        """Return the first name of an inode, its digest, and why that is missing.

        :returns: ``None`` if this name is the first.
        """
        if inode not in self._known:
            return None
        path, digest, unreadable, left = self._known.pop(inode)
        if left > 1:
            self._known[inode] = path, digest, unreadable, left - 1
        return path, digest, unreadable

    def remember(
        self, inode: int, path: bytes, digest: bytes | None, why: str, count: int
    ) -> None:
        self._known[inode] = path, digest, why, count - 1
