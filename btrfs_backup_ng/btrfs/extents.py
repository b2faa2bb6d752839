"""The extents of files: which are compressed, and how large they are on the disk.

Layout: ``struct btrfs_file_extent_item`` in ``linux/btrfs_tree.h``.
"""

import struct
from collections.abc import Iterator

from btrfs_backup_ng.btrfs.ioctl import LAST, Item, Key, search
from btrfs_backup_ng.btrfs.parse import Written

#: ``BTRFS_EXTENT_DATA_KEY``.
_EXTENT_DATA = 108
#: Compression and type; size on the disk, in an extent that is not inline.
_FILE_EXTENT = struct.Struct("<16xBxxxB")
_DISK_SIZE = struct.Struct("<29xQ")
#: Transaction, size in memory, type.
_BEGINNING = struct.Struct("<2Q4xB")
#: Place on the disk; offset in it and length, in an extent that is not inline.
_PLACE = struct.Struct("<21xQ8x2Q")
_INLINE, _PREALLOCATED = 0, 2
_INLINE_HEADER = 21
#: Limit on a compressed extent (``BTRFS_MAX_UNCOMPRESSED``).
_LONGEST = 128 * 1024
#: The tree of the subvolume that the descriptor is of.
_OWN_TREE = 0


class Extents:
    """The extents of a subvolume's files; fast if read in order of offset."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._inode = -1
        self._items: Iterator[Item] = iter(())
        self._item: Item | None = None
        self._next: Item | None = None

    def compressed_size(self, inode: int, offset: int) -> int | None:
        """Return the compressed size of the extent at an offset of a file.

        :returns: None if it is not compressed, or does not exist.
        :raises OSError: ``EPERM`` without ``CAP_SYS_ADMIN``.
        """
        if inode != self._inode or (self._item and offset < self._item.offset):
            first = Key(inode, _EXTENT_DATA, max(0, offset - _LONGEST))
            self._items = search(self._descriptor, _OWN_TREE, first, inode)
            self._inode = inode
            self._item = None
            self._next = self._take()
        while self._next and self._next.offset <= offset:
            self._item, self._next = self._next, self._take()
        return _compressed_size(self._item.data) if self._item else None

    def _take(self) -> Item | None:
        item = next(self._items, None)
        wanted = item and (item.objectid, item.key) == (self._inode, _EXTENT_DATA)
        return item if wanted else None


def _compressed_size(item: bytes) -> int | None:
    compression, kind = _FILE_EXTENT.unpack_from(item)
    if not compression:
        return None
    if kind == _INLINE:
        return len(item) - _INLINE_HEADER
    (size,) = _DISK_SIZE.unpack_from(item)
    return int(size)


def written_since(descriptor: int, generation: int) -> Iterator[Written]:
    """Yield the extents of a subvolume written by this transaction or later.

    Those that ``btrfs subvolume find-new`` finds.

    :raises OSError: ``EPERM`` without ``CAP_SYS_ADMIN``.
    """
    first = Key(0, 0, 0)
    for item in search(descriptor, _OWN_TREE, first, LAST, generation, _EXTENT_DATA):
        transaction, size, kind = _BEGINNING.unpack_from(item.data)
        if transaction < generation:
            continue
        place = None
        if kind != _INLINE:
            start, offset, size = _PLACE.unpack_from(item.data)
            place = (start, offset) if start else None
        yield Written(item.objectid, 0 if kind == _PREALLOCATED else size, place)
