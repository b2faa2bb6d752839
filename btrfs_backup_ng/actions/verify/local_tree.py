"""The entries of a tree on this machine: each file is read once, in path order."""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Generator, Iterator

from btrfs_backup_ng.__util__ import MIB, BackupError, visible
from btrfs_backup_ng.actions.verify.manifest import (
    STUB_INODE,
    TOP,
    Entry,
    Names,
    Xattrs,
)
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.host.entry import entered
from btrfs_backup_ng.process.interruption import check_interrupted

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class CannotRead(BackupError):
    """A tree, or a part of it, cannot be read."""


def walk(
    top: str, count: Callable[[int], None] = lambda size: None
) -> Generator[Entry, None, None]:
    """Yield all entries of a tree; leave out other filesystems mounted in it.

    The walk holds each directory on its path open, and follows no link. So it stays in
    the tree even if another process moves directories.

    :param count: called with the number of bytes of files read since its last call.
    :raises CannotRead: if anything but the contents of a file cannot be read.
    :raises Interrupted: after a signal to end.
    """
    try:
        with entered(top) as descriptor:
            status = os.fstat(descriptor)
            walker = _Walker(status.st_dev, count)
            yield walker.entry(descriptor, b".", TOP, status)
            yield from walker.below(os.dup(descriptor))
    except OSError as error:
        where = os.fsdecode(error.filename) if error.filename else ""
        reason = visible(f"{error.strerror}: {where}" if where else f"{error.strerror}")
        raise CannotRead(f"{visible(top)} cannot be read: {reason}") from error


class _Level(Value):
    """A directory on the path of the walk: its remaining names, the last one first."""

    descriptor: int
    path: bytes
    left: list[bytes]


class _Walker:
    def __init__(self, device: int, count: Callable[[int], None]) -> None:
        self.device = device
        self.count = count
        self.names = Names()
        self.buffer = memoryview(bytearray(MIB))

    def below(self, descriptor: int) -> Iterator[Entry]:
        """Yield the entries below a directory, and close it."""
        levels = [_Level(descriptor, TOP, _sorted_names(descriptor))]
        try:
            while levels:
                check_interrupted()
                level = levels[-1]
                if not level.left:
                    os.close(levels.pop().descriptor)
                    continue
                name = level.left.pop()
                if name.endswith(b"/"):
                    levels += self._entered(level, name[:-1])
                    continue
                status = os.lstat(name, dir_fd=level.descriptor)
                if not _is_stub(status):
                    path = level.path + b"/" + name
                    yield self.entry(level.descriptor, name, path, status)
        finally:
            for level in levels:
                os.close(level.descriptor)

    def _entered(self, level: _Level, name: bytes) -> list[_Level]:
        descriptor = os.open(name, _DIRECTORY, dir_fd=level.descriptor)
        try:
            status = os.fstat(descriptor)
            if _is_stub(status) or status.st_dev != self.device:
                os.close(descriptor)
                return []
            left = _sorted_names(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return [_Level(descriptor, level.path + b"/" + name, left)]

    def entry(
        self, directory: int, name: bytes, path: bytes, status: os.stat_result
    ) -> Entry:
        """Return the entry of a name in an open directory."""
        mode, inode = status.st_mode, status.st_ino
        has_names = status.st_nlink > 1 and not stat.S_ISDIR(mode)
        known = self.names.first(inode) if has_names else None
        link, digest, why = known or (None, None, "")
        if stat.S_ISREG(mode) and not known:
            digest, why = self._digest(directory, name)
        if has_names and not known:
            self.names.remember(inode, path, digest, why, status.st_nlink)
            link = path
        number = status.st_rdev
        is_device = stat.S_ISBLK(mode) or stat.S_ISCHR(mode)
        is_link = stat.S_ISLNK(mode)
        return Entry(
            path=path,
            mode=mode,
            uid=status.st_uid,
            gid=status.st_gid,
            size=status.st_size if stat.S_ISREG(mode) else 0,
            mtime_ns=status.st_mtime_ns,
            device=(os.major(number), os.minor(number)) if is_device else None,
            target=os.readlink(name, dir_fd=directory) if is_link else None,
            link=link,
            digest=digest,
            unreadable=why,
            xattrs=_xattrs(directory, name),
        )

    def _digest(self, directory: int, name: bytes) -> tuple[bytes | None, str]:
        """Hash a file; return the reason if it cannot be read."""
        digest = hashlib.sha256()
        try:
            descriptor = os.open(name, _FILE, dir_fd=directory)
            try:
                while size := os.readv(descriptor, [self.buffer]):
                    digest.update(self.buffer[:size])
                    self.count(size)
                    check_interrupted()
            finally:
                os.close(descriptor)
        except OSError as error:
            return None, str(error.strerror)
        return digest.digest(), ""


def _is_stub(status: os.stat_result) -> bool:
    return status.st_ino == STUB_INODE and stat.S_ISDIR(status.st_mode)


def _sorted_names(descriptor: int) -> list[bytes]:
    """Return the names in a directory, the last one first.

    A directory appears twice: by its name, and with a slash at the position of its
    contents in the order of paths (``a``, ``a-b``, ``a/c``).
    """
    names: list[bytes] = []
    with os.scandir(descriptor) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            names.append(name)
            if entry.is_dir(follow_symlinks=False):
                names.append(name + b"/")
    names.sort(reverse=True)
    return names


def _xattrs(directory: int, name: bytes) -> Xattrs:
    """Read all extended attributes, without opening the file."""
    path = b"/proc/self/fd/%d/%s" % (directory, name)
    try:
        return {
            os.fsencode(key): os.getxattr(path, key, follow_symlinks=False)
            for key in os.listxattr(path, follow_symlinks=False)
        }
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise
