"""The btrfs ioctls: facts about subvolumes, and changes, without starting a process.

Layouts and numbers: ``linux/btrfs.h`` and ``linux/btrfs_tree.h``, offsets verified
with a compiled program on x86-64; they are the same on every architecture with the
generic ioctl encoding.
"""

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

#: ``BTRFS_SUPER_MAGIC`` as ``stat -f -c %t`` prints it.
SUPER_MAGIC = "9123683e"
#: Inode of the root directory of every subvolume, ``BTRFS_FIRST_FREE_OBJECTID``.
SUBVOLUME_INODE = 256
#: Inode of the empty directory that a snapshot has in place of a nested subvolume,
#: ``BTRFS_EMPTY_SUBVOL_DIR_OBJECTID``.
STUB_INODE = 2

_GET_SUBVOL_INFO = 0x81F8943C
_SUBVOL_INFO_SIZE = 504
#: tree_id, generation, flags, three UUIDs, ctransid, otransid, stransid, rtransid,
#: otime.
_SUBVOL_INFO = struct.Struct("=Q272x2Q16s16s16s4Q16xQI")
#: ``BTRFS_IOC_TREE_SEARCH_V2``.
TREE_SEARCH = 0xC0709411
_INO_LOOKUP = 0xD0009412
_INO_LOOKUP_SIZE = 4096
_SYNC = 0x9408
_START_SYNC = 0x80089418
_WAIT_SYNC = 0x40089416
#: ``BTRFS_IOC_SNAP_CREATE_V2`` and ``BTRFS_IOC_SNAP_DESTROY``, for :func:`request`.
SNAP_CREATE, SNAP_DESTROY = 0x50009417, 0x5000940F
_GET_FLAGS = 0x80089419
_SET_FLAGS = 0x4008941A
_READ_ONLY = 1
_NO_UUID = bytes(16)
#: A UUID occurs several times in a run: as parent, as origin of a backup.
_REMEMBERED = 1 << 14
#: ``BTRFS_SUBVOL_RDONLY``.
_FLAG_READ_ONLY = 2
#: ``struct btrfs_ioctl_vol_args``: a descriptor, a name.
_VOLUME = struct.Struct("=q4088s")
#: ``struct btrfs_ioctl_vol_args_v2``: a descriptor, flags, a name.
_VOLUME_V2 = struct.Struct("=q8xQ32x4040s")
_U64 = struct.Struct("=Q")

#: ``BTRFS_ROOT_TREE_OBJECTID`` and ``BTRFS_ROOT_REF_KEY``.
_ROOT_TREE = 1
_ROOT_REF_KEY = 156
#: ``BTRFS_ROOT_ITEM_KEY``; the offsets below are of ``struct btrfs_root_item``.
_ROOT_ITEM = 132
#: ``BTRFS_UUID_TREE_OBJECTID`` and ``BTRFS_UUID_KEY_RECEIVED_SUBVOL``.
_UUID_TREE = 9
_RECEIVED_KEY = 252
#: tree, min/max objectid, min/max offset, min/max transid, min/max type,
#: number of items, padding, size of the buffer.
_SEARCH = struct.Struct("=7Q3I36xQ")
#: In front of each item: transaction, objectid, offset, type, size.
_SEARCH_HEADER = struct.Struct("=3Q2I")
_KIND_AND_SIZE = struct.Struct("=24x2I")
#: ``struct btrfs_root_ref``: directory inode, sequence, length of the name behind it.
_ROOT_REF = struct.Struct("<2QH")
_BUFFER = 64 * 1024
#: The largest part of a key.
LAST = 2**64 - 1


class SubvolumeInfo(NamedTuple):
    """A part of ``struct btrfs_ioctl_get_subvol_info_args``.

    ``generation`` is the transaction of the last change of any kind, ``ctransid`` that
    of the last change of content, ``otransid`` that of the creation of the subvolume,
    ``rtransid`` that of the end of a receive.
    """

    tree_id: int
    generation: int
    read_only: bool
    uuid: UUID
    parent_uuid: UUID | None
    received_uuid: UUID | None
    ctransid: int
    otransid: int
    rtransid: int
    created: datetime


_ioctl = ctypes.CDLL(None, use_errno=True).ioctl
_ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)


def request(descriptor: int, number: int, words: bytearray) -> None:
    """Make an ioctl that may take long; other threads run meanwhile.

    They do not in ``fcntl.ioctl``, with more than 1024 bytes.

    :param words: the argument, which the kernel may change.
    """
    memory = (ctypes.c_char * len(words)).from_buffer(words)
    if _ioctl(descriptor, number, ctypes.addressof(memory)) < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


@contextmanager
def opened_directory(path: str | bytes, *, dir_fd: int | None = None) -> Iterator[int]:
    """Open a directory itself, never the target of a symbolic link.

    :param dir_fd: of the directory in which a name is meant.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = os.open(path, flags, dir_fd=dir_fd)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def subvolume_info(descriptor: int) -> SubvolumeInfo:
    """Read the facts about the subvolume that contains a directory.

    Needs no privilege.

    :raises OSError: ``ENOTTY`` outside btrfs and on kernels before 4.18.
    """
    buffer = bytearray(_SUBVOL_INFO_SIZE)
    fcntl.ioctl(descriptor, _GET_SUBVOL_INFO, buffer)
    found = _SUBVOL_INFO.unpack_from(buffer)
    tree_id, generation, flags, uuid, parent, received, *transactions = found
    ctransid, otransid, _, rtransid, seconds, nanoseconds = transactions
    made = datetime.fromtimestamp(seconds + nanoseconds / 1e9, timezone.utc)
    read_only = bool(flags & _READ_ONLY)
    uuids = _read_uuid(uuid), _uuid_or_none(parent), _uuid_or_none(received)
    # by position, which takes half as long: a listing makes many
    return SubvolumeInfo(
        tree_id, generation, read_only, *uuids, ctransid, otransid, rtransid, made
    )


def _uuid_or_none(raw: bytes) -> UUID | None:
    return None if raw == _NO_UUID else _read_uuid(raw)


@lru_cache(_REMEMBERED)
def _read_uuid(raw: bytes) -> UUID:
    return UUID(bytes=raw)


def is_subvolume(status: os.stat_result) -> bool:
    """Return whether a directory on btrfs is the root of a subvolume."""
    return status.st_ino == SUBVOLUME_INODE


def received_carriers(descriptor: int) -> dict[UUID, tuple[int, ...]]:
    """Return received UUID -> ids of all subvolumes of the filesystem that carry it.

    Reads the UUID tree, in blocks of 64 KiB.

    :raises OSError: ``EPERM`` without ``CAP_SYS_ADMIN``.
    """
    carriers = {}
    first = Key(0, 0, 0)
    for item in search(descriptor, _UUID_TREE, first, LAST, kind=_RECEIVED_KEY):
        uuid = _read_uuid(struct.pack("<2Q", item.objectid, item.offset))
        ids = struct.unpack(f"<{len(item.data) // 8}Q", item.data)  # one a subvolume
        carriers[uuid] = ids
    return carriers


def read_root_item(descriptor: int, tree_id: int) -> tuple[bool, int, int, int] | None:
    """Write what is in memory; read from the root tree whether a subvolume was changed.

    :returns: read-only, ``ctransid``, ``otransid`` and ``rtransid`` (0 if it carries no
        received UUID); None if the subvolume does not exist.
    :raises OSError: ``EPERM`` without ``CAP_SYS_ADMIN``.
    """
    sync(descriptor)  # the tree lacks changes not committed yet
    for item in search(descriptor, _ROOT_TREE, Key(tree_id, _ROOT_ITEM, 0), tree_id):
        if (item.objectid, item.key) == (tree_id, _ROOT_ITEM) and len(item.data) > 327:
            (flags,) = struct.unpack_from("<Q", item.data, 208)
            ctransid, otransid, _, rtransid = struct.unpack_from("<4Q", item.data, 295)
            received = any(item.data[279:295])
            return bool(flags & _READ_ONLY), ctransid, otransid, rtransid * received
    return None


def sync(descriptor: int) -> None:
    """Write all changes of a filesystem to its disk."""
    fcntl.ioctl(descriptor, _SYNC)


def commit(descriptor: int) -> None:
    """Wait until all that was changed so far is on the disk, except data of files.

    As ``btrfs subvolume delete -c`` does it.
    """
    transaction = bytearray(_U64.size)
    fcntl.ioctl(descriptor, _START_SYNC, transaction)
    fcntl.ioctl(descriptor, _WAIT_SYNC, transaction)


def make_snapshot(source: int, directory: int, name: str, *, read_only: bool) -> None:
    """Make a snapshot of a subvolume, with all its data, under a name in a directory.

    The kernel looks the name up in the directory itself, and follows no link.

    :raises FileExistsError: if the name is in use, also by a link.
    """
    flags = _FLAG_READ_ONLY if read_only else 0
    words = _VOLUME_V2.pack(source, flags, os.fsencode(name))
    request(directory, SNAP_CREATE, bytearray(words))


def set_read_only(descriptor: int) -> None:
    """Make a subvolume read-only."""
    flags = bytearray(_U64.size)
    fcntl.ioctl(descriptor, _GET_FLAGS, flags)
    (old,) = _U64.unpack(flags)
    fcntl.ioctl(descriptor, _SET_FLAGS, _U64.pack(old | _FLAG_READ_ONLY))


def delete_subvolume(directory: int, name: str) -> None:
    """Delete a subvolume in a directory; it is gone for good after :func:`commit`.

    The kernel looks the name up in the directory itself, and follows no link.
    """
    words = _VOLUME.pack(0, os.fsencode(name))
    request(directory, SNAP_DESTROY, bytearray(words))


def nested_subvolumes(descriptor: int) -> list[bytes]:
    """Return the paths of the subvolumes directly below one, relative to it.

    :raises OSError: ``EPERM`` without ``CAP_SYS_ADMIN``.
    """
    tree_id = subvolume_info(descriptor).tree_id
    first = Key(tree_id, _ROOT_REF_KEY, 0)
    paths = []
    directories: dict[int, bytes] = {}
    for item in search(descriptor, _ROOT_TREE, first, tree_id, kind=_ROOT_REF_KEY):
        inode, _, length = _ROOT_REF.unpack_from(item.data)
        name = item.data[_ROOT_REF.size :][:length]
        if inode not in directories:
            directories[inode] = _directory_path(descriptor, tree_id, inode)
        paths.append(directories[inode] + name)
    return paths


def _directory_path(descriptor: int, tree_id: int, inode: int) -> bytes:
    """Return a directory's path in its subvolume, ending with a slash, or nothing."""
    buffer = bytearray(_INO_LOOKUP_SIZE)
    struct.pack_into("=2Q", buffer, 0, tree_id, inode)
    fcntl.ioctl(descriptor, _INO_LOOKUP, buffer)
    return bytes(buffer[16:]).partition(b"\0")[0]


class Key(NamedTuple):
    """The position of an item in a tree."""

    objectid: int
    key: int
    offset: int


class Item(NamedTuple):
    objectid: int
    key: int
    offset: int
    data: bytes


def search(
    descriptor: int,
    tree: int,
    first: Key,
    last_objectid: int,
    since: int = 0,
    kind: int | None = None,
) -> Iterator[Item]:
    """Return the items of a tree from ``first`` to the end of ``last_objectid``.

    :param since: only those in blocks that were written by this transaction or later.
    :param kind: only those with this key. The kernel cannot choose them; most items of
        a tree are others, and are left out here with as little work as possible.
    """
    buffer = bytearray(_SEARCH.size + _BUFFER)
    unpack, header_size = _SEARCH_HEADER.unpack_from, _SEARCH_HEADER.size
    kind_and_size = _KIND_AND_SIZE.unpack_from
    while True:
        # keys compare as (objectid, type, offset), so the maxima bind at the end
        _SEARCH.pack_into(
            buffer, 0, tree, first.objectid, last_objectid, first.offset, LAST,
            since, LAST, first.key, 255, 4096, _BUFFER,
        )  # fmt: skip
        try:
            request(descriptor, TREE_SEARCH, buffer)
        except OSError as error:
            if error.errno == errno.ENOENT:  # an old filesystem without UUID tree
                return
            raise
        found, after = _SEARCH.unpack_from(buffer)[9], _SEARCH.size
        if not found:
            return
        for _ in range(found):
            at = after
            key, size = kind_and_size(buffer, at)
            after = at + header_size + size
            if kind is None or key == kind:
                _, objectid, offset, _, _ = unpack(buffer, at)
                data = bytes(buffer[at + header_size : after])
                yield Item(objectid, key, offset, data)
        _, objectid, offset, key, _ = unpack(buffer, at)
        if kind is not None and key < kind:
            first = Key(objectid, kind, 0)  # beyond the rest of a large directory
        elif offset < LAST:
            first = Key(objectid, key, offset + 1)
        else:
            first = Key(objectid, key + 1, 0)
