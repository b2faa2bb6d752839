"""The entries of a tree on another machine, from the answers of the verb ``hash``."""

import re
import stat
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from btrfs_backup_ng.__util__ import MIB
from btrfs_backup_ng.actions.verify.manifest import Entry, Garbled, Names, Xattrs

T = TypeVar("T")

_FACTS = re.compile(
    rb"([0-9a-f]+) (\d+) (\d+) (\d+) (-?\d+)\.(\d{9}) (\d+) (\d+)"
    rb" ([0-9a-f]+) ([0-9a-f]+)"
)
_DIGEST = re.compile(rb"(?s)([0-9a-f]{64})[ *]{2}(.*)")
_QUOTED = re.compile(rb"\\([0-7]{3})")
#: Longest record. Linux has paths of 4 KiB and xattr values of 64 KiB, written with two
#: or four characters a byte.
_RECORD = MIB
#: Longest text of all extended attributes of a file.
_XATTRS = 64 * MIB
_FILE = b"# file: "


def split(blocks: Iterable[bytes], end: bytes) -> Iterator[bytes]:
    """Split blocks into records.

    :raises Garbled: if the last one is truncated, or one is too long.
    """
    rest = b""
    for block in blocks:
        *whole, rest = (rest + block).split(end)
        yield from whole
        if len(rest) > _RECORD:
            raise Garbled(f"a record is longer than {_RECORD} bytes")
    if rest:
        raise Garbled("the last record is cut short")


def read_digests(records: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Parse the output of ``sha256sum -z``: paths and digests.

    :raises Garbled: if the format is wrong.
    """
    for record in records:
        match = _DIGEST.fullmatch(record)
        if match is None:
            raise Garbled(f"sha256sum says {record!r:.200}")
        yield match[2], bytes.fromhex(match[1].decode())


def read_xattrs(lines: Iterable[bytes]) -> Iterator[tuple[bytes, Xattrs]]:
    """Parse the output of ``getfattr -d -e hex``: paths and their xattrs.

    :raises Garbled: if the format is wrong.
    """
    path: bytes | None = None
    found: dict[bytes, bytes] = {}
    size = 0
    for line in lines:
        if line.startswith(_FILE) and path is None:
            path, found, size = _unquoted(line.removeprefix(_FILE)), {}, 0
        elif path is None:
            raise Garbled(f"getfattr says {line!r:.200}")
        elif line:
            size += len(line)
            if size > _XATTRS:
                raise Garbled(f"getfattr says too much of {path!r:.200}")
            name, separator, value = line.partition(b"=0x")
            try:
                found[_unquoted(name)] = bytes.fromhex(value.decode())
            except ValueError as error:
                raise Garbled(f"getfattr says {line!r:.200}") from error
            if not separator:
                raise Garbled(f"getfattr says {line!r:.200}")
        else:
            yield path, found
            path = None
    if path is not None:
        raise Garbled("what getfattr says is cut short")


def _unquoted(text: bytes) -> bytes:
    return _QUOTED.sub(lambda match: bytes((int(match[1], 8),)), text)


def join(
    fields: Iterator[bytes],
    digests: Iterable[tuple[bytes, bytes]],
    xattrs: Iterable[tuple[bytes, Xattrs]] | None,
) -> Iterator[Entry]:
    """Join the three answers of another machine, which are in the same order.

    :param fields: of each name: the path; the facts; and for a symlink the path,
        `` -> `` and its target.
    :param digests: of each readable file, by its first name.
    :param xattrs: of each name that has any; ``None`` if they are not known.
    :raises Garbled: if the answers do not match.
    """
    names, hashes = Names(), _Cursor(digests)
    attributes = None if xattrs is None else _Cursor(xattrs)
    for path in fields:
        facts, shown = next(fields, b""), next(fields, None)
        match = _FACTS.fullmatch(facts)
        if match is None or shown is None:
            raise Garbled(f"stat says {facts!r:.200} of {path!r:.200}")
        mode, inode, count = int(match[1], 16), int(match[7]), int(match[8])
        known = None
        if count > 1 and not stat.S_ISDIR(mode):
            known = names.first(inode)
        digest, why = known[1:] if known else (None, "")
        if stat.S_ISREG(mode) and not known:
            digest = hashes.take(path)
            why = "" if digest else "an error there"
        link = known[0] if known else None
        if count > 1 and not stat.S_ISDIR(mode) and not known:
            names.remember(inode, path, digest, why, count)
            link = path
        yield Entry(
            path=path,
            mode=mode,
            uid=int(match[2]),
            gid=int(match[3]),
            size=int(match[4]) if stat.S_ISREG(mode) else 0,
            mtime_ns=_nanoseconds(match[5], match[6]),
            device=_numbers(mode, match[9], match[10]),
            target=_target_in(path, shown) if stat.S_ISLNK(mode) else None,
            link=link,
            digest=digest,
            unreadable=why,
            xattrs=None if attributes is None else attributes.take(path) or {},
        )
    hashes.finish()
    if attributes:
        attributes.finish()


def _nanoseconds(seconds: bytes, fraction: bytes) -> int:
    """Return a time of ``stat`` in nanoseconds; the sign applies to both parts."""
    value = abs(int(seconds)) * 10**9 + int(fraction)
    return -value if seconds.startswith(b"-") else value


def _numbers(mode: int, major: bytes, minor: bytes) -> tuple[int, int] | None:
    is_device = stat.S_ISBLK(mode) or stat.S_ISCHR(mode)
    return (int(major, 16), int(minor, 16)) if is_device else None


def _target_in(path: bytes, shown: bytes) -> bytes:
    before = path + b" -> "
    if not shown.startswith(before):
        raise Garbled(f"stat says {shown!r:.200} of the symlink {path!r:.200}")
    return shown[len(before) :]


class _Cursor(Generic[T]):
    """Values for some paths of a tree, in the order of the tree."""

    def __init__(self, items: Iterable[tuple[bytes, T]]) -> None:
        self._items = iter(items)
        self._next = next(self._items, None)

    def take(self, path: bytes) -> T | None:
        if self._next is None or self._next[0] != path:
            return None
        value = self._next[1]
        self._next = next(self._items, None)
        return value

    def finish(self) -> None:
        if self._next is not None:
            raise Garbled(f"{self._next[0]!r:.200} is in no place of the tree")
