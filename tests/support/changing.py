"""Random changes of a tree: all that a filesystem allows, in any order."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import random
import shutil
import socket
import stat
from collections.abc import Callable

from tests.support.trees import punch_hole, reflink

_libc = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
_FS_IOC_GETFLAGS, _FS_IOC_SETFLAGS = 0x80086601, 0x40086602  # linux/fs.h
_FS_NODUMP_FL = 0x40

#: Names that are hard to write, and those that btrfs send itself uses.
HOSTILE = (
    b"new\nline",
    b"\x1b[31mred",
    b"not \xff\xfe utf-8",
    b" ",
    b"-rf",
    b"a -> b  (3 B)",
    b"o257-7-0",
    b"long" * 63 + b"123",
    "schön".encode(),
    b"back\\slash",
)


class Changing:
    """A tree at ``top`` that changes at random."""

    def __init__(self, top: os.PathLike[str] | str, seed: int) -> None:
        self.top = os.fsencode(top)
        self._random = random.Random(seed)
        self._count = 0
        self._ways: list[Callable[[], None]] = [
            *(3 * [self._create, self._write, self._append, self._rename]),
            *(2 * [self._make_directory, self._move_directory, self._swap, self._link]),
            *(2 * [self._remove, self._rename_over, self._replace]),
            *(self._truncate, self._symlink, self._node, self._remove_tree),
            *(self._directory_to_file, self._file_to_directory, self._save),
            *(self._chmod, self._chown, self._xattr, self._touch, self._flags),
            *(self._reflink, self._punch, self._come_and_go, self._nest, self._read),
            *(self._inside_out, self._rotate, self._remake_directory),
        ]

    def change(self, times: int) -> None:
        """Make this many random changes; impossible ones are left out."""
        for _ in range(times):
            with contextlib.suppress(IndexError, OSError):
                self._random.choice(self._ways)()

    def _all(self) -> list[bytes]:
        found = []
        for directory, below, files in os.walk(self.top):
            found += [os.path.join(directory, name) for name in below + files]
        return sorted(found)

    def _directories(self) -> list[bytes]:
        return [p for p in self._all() if stat.S_ISDIR(os.lstat(p).st_mode)]

    def _files(self) -> list[bytes]:
        return [p for p in self._all() if stat.S_ISREG(os.lstat(p).st_mode)]

    def _others(self) -> list[bytes]:
        return [p for p in self._all() if not stat.S_ISDIR(os.lstat(p).st_mode)]

    def _any(self, paths: list[bytes]) -> bytes:
        return self._random.choice(paths)

    def _fresh(self) -> bytes:
        """Return a free path; names come again, so that changes meet."""
        while True:
            directory = self._any([self.top, *self._directories()])
            if self._random.random() < 0.2:
                name = self._random.choice(HOSTILE)
            else:
                name = b"n%d" % self._random.randrange(20)
            self._count += 1
            if self._count % 50 == 0:
                name = b"unique%d" % self._count
            path = os.path.join(directory, name)
            if not os.path.lexists(path):
                return path

    def _bytes(self) -> bytes:
        sizes = (0, 1, 100, 3000, 4096, 5000, 20000, 150000)
        return self._random.randbytes(self._random.choice(sizes))

    def _create(self) -> None:
        self._fill(self._fresh())

    def _fill(self, path: bytes) -> None:
        with open(path, "xb") as file:
            file.write(self._bytes())
            if self._random.random() < 0.2:
                file.truncate(self._random.randrange(200000))

    def _write(self) -> None:
        with open(self._any(self._files()), "r+b") as file:
            file.seek(self._random.randrange(30000))
            file.write(self._random.randbytes(self._random.randrange(1, 9000)))

    def _append(self) -> None:
        with open(self._any(self._files()), "ab") as file:
            file.write(self._bytes())

    def _truncate(self) -> None:
        path = self._any(self._files())
        old = os.stat(path).st_size
        new = self._random.randrange(2 * old + 10)
        if new != old:  # else btrfs writes the inode, and not even its times change
            os.truncate(path, new)

    def _punch(self) -> None:
        path = self._any([p for p in self._files() if os.stat(p).st_size])
        start = self._random.randrange(os.stat(path).st_size) // 4096 * 4096
        punch_hole(path, start, 4096 * self._random.randrange(1, 6))

    def _reflink(self) -> None:
        source, target = self._any(self._files()), self._fresh()
        with open(target, "xb"):
            pass
        reflink(source, target)

    def _make_directory(self) -> None:
        path = self._fresh()
        os.mkdir(path)
        for _ in range(self._random.randrange(3)):
            self._fill(os.path.join(path, b"n%d" % self._random.randrange(20)))

    def _symlink(self) -> None:
        os.symlink(self._random.choice(HOSTILE), self._fresh())

    def _node(self) -> None:
        path = self._fresh()
        match self._random.randrange(3):
            case 0:
                os.mkfifo(path)
            case 1:
                os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
            case 2:
                directory = os.open(os.path.dirname(path), os.O_PATH)
                with (
                    socket.socket(socket.AF_UNIX) as unix,
                    contextlib.suppress(OSError),
                ):
                    unix.bind(b"/proc/self/fd/%d/" % directory + os.path.basename(path))
                os.close(directory)

    def _link(self) -> None:
        os.link(self._any(self._others()), self._fresh(), follow_symlinks=False)

    def _rename(self) -> None:
        os.rename(self._any(self._others()), self._fresh())

    def _move_directory(self) -> None:
        path, target = self._any(self._directories()), self._fresh()
        if not target.startswith(path + b"/"):
            os.rename(path, target)

    def _rename_over(self) -> None:
        os.rename(self._any(self._others()), self._any(self._others()))

    def _swap(self) -> None:
        one, other = self._any(self._all()), self._any(self._all())
        if not (one + b"/").startswith(other) and not (other + b"/").startswith(one):
            _libc.renameat2(_AT_FDCWD, one, _AT_FDCWD, other, _RENAME_EXCHANGE)

    def _inside_out(self) -> None:
        """Exchange a directory with one inside it."""
        inner = self._any([d for d in self._directories()
                           if os.path.dirname(d) != self.top])  # fmt: skip
        outer, spare = os.path.dirname(inner), self._fresh()
        if spare.startswith(outer + b"/"):
            return
        os.rename(inner, spare)
        os.rename(outer, os.path.join(spare, os.path.basename(inner)))
        os.rename(spare, outer)

    def _nest(self) -> None:
        """Put a directory into a new one of the same name."""
        path = self._any(self._directories())
        spare = path + b"."
        if len(os.path.basename(spare)) < 256:
            os.rename(path, spare)
            os.mkdir(path)
            os.rename(spare, os.path.join(path, os.path.basename(path)))

    def _rotate(self) -> None:
        """Rename files in a chain, as log rotation does."""
        first, second = self._any(self._others()), self._any(self._others())
        os.rename(first, second)
        self._fill(first)

    def _save(self) -> None:
        """Replace a file as editors do."""
        path = self._any(self._files())
        self._fill(path[:-1] + b"~")
        os.rename(path[:-1] + b"~", path)

    def _remove(self) -> None:
        os.unlink(self._any(self._others()))

    def _remove_tree(self) -> None:
        shutil.rmtree(self._any(self._directories()))

    def _remake_directory(self) -> None:
        path = self._any(self._directories())
        names = os.listdir(path)
        shutil.rmtree(path)
        os.mkdir(path)
        for name in names[:2]:
            self._fill(os.path.join(path, name))

    def _replace(self) -> None:
        path = self._any(self._others())
        os.unlink(path)
        self._fill(path)

    def _directory_to_file(self) -> None:
        path = self._any(self._directories())
        shutil.rmtree(path)
        self._fill(path)

    def _file_to_directory(self) -> None:
        path = self._any(self._others())
        os.unlink(path)
        os.mkdir(path)
        self._fill(os.path.join(path, b"in it"))

    def _come_and_go(self) -> None:
        path = self._fresh()
        self._fill(path)
        os.unlink(path)

    def _chmod(self) -> None:
        path = self._any([self.top, *self._files(), *self._directories()])
        os.chmod(path, self._random.choice((0o600, 0o644, 0o755, 0o4711, 0o2770)))

    def _chown(self) -> None:
        path = self._any([self.top, *self._all()])
        os.chown(path, self._random.randrange(3), 0, follow_symlinks=False)

    def _xattr(self) -> None:
        path, name = self._any([self.top, *self._files()]), "user.x"
        if name in os.listxattr(path) and self._random.random() < 0.5:
            os.removexattr(path, name)
        else:
            os.setxattr(path, name, self._random.randbytes(3))

    def _touch(self) -> None:
        path = self._any([self.top, *self._all()])
        when = self._random.randrange(2**60)
        os.utime(path, ns=(when, when), follow_symlinks=False)

    def _read(self) -> None:
        with open(self._any(self._files()), "rb") as file:
            file.read()

    def _flags(self) -> None:
        path = self._any([*self._files(), *self._directories()])
        descriptor = os.open(path, os.O_RDONLY)
        flags = int.from_bytes(
            fcntl.ioctl(descriptor, _FS_IOC_GETFLAGS, bytes(8)), "little"
        )
        flags ^= _FS_NODUMP_FL
        fcntl.ioctl(descriptor, _FS_IOC_SETFLAGS, flags.to_bytes(8, "little"))
        os.close(descriptor)
