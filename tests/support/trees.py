"""Complete descriptions of directory trees, and their comparison.

Paths are bytes in here, because a file name need not be text.
"""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import fcntl
import functools
import hashlib
import io
import os
import stat
import struct
from collections.abc import Collection, Iterator, Mapping
from typing import Any

type_names = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "block device",
    stat.S_IFCHR: "character device",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """Everything about one file that a backup has to bring back.

    ``size`` and ``data`` are those of regular files; ``rdev`` is that of devices;
    ``links`` are all names in the tree of a file that has more than one.  ``data`` are
    the ranges, as (start, end), that are not holes.  ``blocks`` counts 512 bytes each,
    and depends on compression and on the state of the filesystem.
    """

    type: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int | None = None
    rdev: int | None = None
    target: bytes | None = None
    xattrs: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    sha256: str | None = None
    links: frozenset[bytes] = frozenset()
    data: tuple[tuple[int, int], ...] = ()
    blocks: int = 0


Tree = dict[bytes, Entry]

#: How a file's content is laid out.  btrfs-send(8) keeps all holes in a full stream;
#: in an incremental one it writes zeros where a hole was made since the parent.
LAYOUT = ("blocks", "data")


def describe(path: str | bytes | os.PathLike[str]) -> Tree:
    """Describe a tree: relative path -> entry; the top itself is ``b"."``.

    Nested subvolumes are described with the rest.
    """
    top = os.fsencode(path)
    names: dict[tuple[int, int], set[bytes]] = {}
    paths = [b".", *walk(top)]
    for relative in paths:
        status = os.lstat(os.path.join(top, relative))
        if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
            names.setdefault((status.st_dev, status.st_ino), set()).add(relative)
    return {relative: _entry(top, relative, names) for relative in paths}


def differences(
    first: Tree, second: Tree, *, ignore: Collection[str] = LAYOUT
) -> list[str]:
    """List the differences of two trees, each in a sentence.

    :param ignore: fields of :class:`Entry` that do not matter.
    """
    fields = [field.name for field in dataclasses.fields(Entry)]
    assert set(ignore) <= set(fields), f"not all fields of an entry: {ignore}"
    found = [f"only in the first: {path!r}" for path in sorted(first.keys() - second)]
    found += [f"only in the second: {path!r}" for path in sorted(second.keys() - first)]
    for path in sorted(first.keys() & second):
        for name in fields:
            one, other = getattr(first[path], name), getattr(second[path], name)
            if name not in ignore and one != other:
                if name == "mode":
                    one, other = oct(one), oct(other)
                found.append(f"{path!r}: {name}: {one!r} != {other!r}")
    return found


#: The state directory of the program.
BOOKKEEPING = b".btrfs-backup-ng"


def walk(top: bytes) -> Iterator[bytes]:
    """Yield the relative path of all that is below ``top``, a directory first.

    The bookkeeping of the program at its top, a subvolume of its own, is left out.
    """
    for directory, below, files in os.walk(top):
        if directory == top and BOOKKEEPING in below:
            below.remove(BOOKKEEPING)
        below.sort()
        for name in sorted(below + files):
            yield os.path.relpath(os.path.join(directory, name), top)


def shares_extents(one: os.PathLike[str] | str, other: os.PathLike[str] | str) -> bool:
    """Return whether two files of one filesystem share any data on disk."""
    return shared_bytes(one, other) > 0


def shared_bytes(one: os.PathLike[str] | str, other: os.PathLike[str] | str) -> int:
    """Count the bytes on disk that belong to both of two files of one filesystem."""
    return sum(
        max(0, min(one_end, other_end) - max(one_start, other_start))
        for one_start, one_end in physical_extents(one)
        for other_start, other_end in physical_extents(other)
    )


_FS_IOC_FIEMAP = 0xC020660B  # linux/fs.h
_FIEMAP_FLAG_SYNC = 0x1  # linux/fiemap.h, as are the rest
_FIEMAP_EXTENT_LAST = 0x1
_NO_ADDRESS = 0x2 | 0x4 | 0x200  # UNKNOWN, DELALLOC, DATA_INLINE
_HEADER = struct.Struct("=QQIIII")
_EXTENT = struct.Struct("=QQQQQIIII")
_AT_A_TIME = 512


def physical_extents(path: os.PathLike[str] | str) -> list[tuple[int, int]]:
    """List the addresses of a file's data, as (start, end); inline data has none."""
    extents = []
    start, last = 0, False
    with open(path, "rb") as file:
        while not last:
            request = bytearray(_HEADER.size + _AT_A_TIME * _EXTENT.size)
            _HEADER.pack_into(
                request,
                0,
                start,
                2**64 - 1 - start,
                _FIEMAP_FLAG_SYNC,
                0,
                _AT_A_TIME,
                0,
            )
            fcntl.ioctl(file, _FS_IOC_FIEMAP, request)
            count = _HEADER.unpack_from(request)[3]
            last = count == 0
            for number in range(count):
                logical, physical, length, _, _, flags, *_ = _EXTENT.unpack_from(
                    request, _HEADER.size + number * _EXTENT.size
                )
                start, last = logical + length, bool(flags & _FIEMAP_EXTENT_LAST)
                if not flags & _NO_ADDRESS:
                    extents.append((physical, physical + length))
    return extents


_FICLONE = 0x40049409  # linux/fs.h
_CANNOT_CLONE = {errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL}


def reflink(source: bytes, target: bytes) -> None:
    """Make ``target`` a copy that shares its data; a plain copy where that fails."""
    with open(source, "rb") as old, open(target, "wb") as new:
        try:
            fcntl.ioctl(new, _FICLONE, old.fileno())
        except OSError as error:
            if error.errno not in _CANNOT_CLONE:
                raise
            new.write(old.read())


_libc = ctypes.CDLL(None, use_errno=True)
_FALLOC_FL_KEEP_SIZE, _FALLOC_FL_PUNCH_HOLE = 0x1, 0x2  # linux/falloc.h


def punch_hole(path: bytes, start: int, length: int) -> None:
    """Make a hole in a file."""
    with open(path, "r+b") as file:
        if _libc.fallocate(
            file.fileno(),
            _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE,
            ctypes.c_int64(start),
            ctypes.c_int64(length),
        ):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)


def _entry(
    top: bytes, relative: bytes, names: Mapping[tuple[int, int], set[bytes]]
) -> Entry:
    path = os.path.join(top, relative)
    status = os.lstat(path)
    kind = stat.S_IFMT(status.st_mode)
    more: dict[str, Any] = {}
    if kind == stat.S_IFREG:
        more["size"] = status.st_size
        more["blocks"] = status.st_blocks
        with open(path, "rb") as file:
            more["sha256"] = digest(file)
            more["data"] = tuple(_data_ranges(file.fileno()))
    elif kind == stat.S_IFLNK:
        more["target"] = os.readlink(path)
    elif kind in (stat.S_IFBLK, stat.S_IFCHR):
        more["rdev"] = status.st_rdev
    return Entry(
        type=type_names[kind],
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
        xattrs={
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in sorted(os.listxattr(path, follow_symlinks=False))
        },
        links=frozenset(names.get((status.st_dev, status.st_ino), ())),
        **more,
    )


def digest(file: io.BufferedReader) -> str:
    """Return the SHA-256 of a file, without reading one that is nothing but a hole."""
    if not next(_data_ranges(file.fileno()), None):
        return _digest_of_zeros(os.fstat(file.fileno()).st_size)
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def _digest_of_zeros(size: int) -> str:
    return hashlib.sha256(bytes(size)).hexdigest()


def _data_ranges(file: int) -> Iterator[tuple[int, int]]:
    end = 0
    while True:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole from here on
                return
            raise
        end = os.lseek(file, start, os.SEEK_HOLE)
        yield start, end
