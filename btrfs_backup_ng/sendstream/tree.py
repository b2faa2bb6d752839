"""The files that a stream touches at its receiver: a tree of the names in its commands.

A name that was not seen before, in a directory that is not new, must have existed
before the stream; in a new directory it is an error. So each command is applied as the
receiver would do it, and temporary names need no special care.
"""

import enum
from typing import Optional

from btrfs_backup_ng.sendstream.format import Attribute, Kind, StreamDamaged
from btrfs_backup_ng.sendstream.reader import StreamCommand


class FileType(enum.Enum):
    """The type of a file, as far as a stream shows it."""

    FILE = "file"
    DIRECTORY = "directory"
    DEVICE = "device"
    FIFO = "fifo"
    SOCKET = "socket"
    SYMLINK = "symlink"


class Touch(enum.IntFlag):
    MODE = enum.auto()
    OWNER = enum.auto()
    TIMES = enum.auto()
    XATTRS = enum.auto()
    FLAGS = enum.auto()
    VERITY = enum.auto()
    DATA = enum.auto()


_MAKING = {
    Kind.MKFILE: FileType.FILE,
    Kind.MKDIR: FileType.DIRECTORY,
    Kind.MKNOD: FileType.DEVICE,
    Kind.MKFIFO: FileType.FIFO,
    Kind.MKSOCK: FileType.SOCKET,
    Kind.SYMLINK: FileType.SYMLINK,
}
# Numbers: arithmetic of an IntFlag takes longer than the rest of a command.
_TOUCHING = {
    Kind.CHMOD: int(Touch.MODE),
    Kind.CHOWN: int(Touch.OWNER),
    Kind.UTIMES: int(Touch.TIMES),
    Kind.SET_XATTR: int(Touch.XATTRS),
    Kind.REMOVE_XATTR: int(Touch.XATTRS),
    Kind.FILEATTR: int(Touch.FLAGS),
    Kind.ENABLE_VERITY: int(Touch.VERITY),
}
_WRITING = (Kind.UPDATE_EXTENT, Kind.WRITE, Kind.ENCODED_WRITE, Kind.CLONE)
_DATA = int(Touch.DATA)
#: ``FALLOC_FL_KEEP_SIZE`` of linux/falloc.h: reserves space, changes no data.
_KEEP_SIZE = 1


class Node:
    """One file or directory that a stream names.

    :ivar home: its directory before, where it was called ``home_name``; None if new.
    :ivar parent: its directory now, where it is called ``name``; one of several names.
    :ivar names: how many names it has now.
    :ivar file_type: if it is known; that of a new one always is.
    :ivar children: its entries now, as far as the stream names them.
    :ivar gone: earlier entries that are elsewhere now.
    """

    __slots__ = (
        *("home", "home_name", "parent", "name", "names", "file_type"),
        *("children", "gone", "touched", "written", "shared", "size"),
    )

    def __init__(self, home: Optional["Node"], home_name: bytes) -> None:
        self.home = self.parent = home
        self.home_name = self.name = home_name
        self.names = 1
        self.file_type: FileType | None = None
        self.children: dict[bytes, Node] | None = None
        self.gone: dict[bytes, Node] | None = None
        self.touched = self.written = self.shared = 0
        self.size: int | None = None

    @property
    def is_kept(self) -> bool:
        """Whether it still has its earlier name."""
        if self.home is None:
            return False
        return (self.home.children or {}).get(self.home_name) is self

    @property
    def is_directory(self) -> bool:
        """Whether it certainly is one."""
        return self.file_type is FileType.DIRECTORY or self.children is not None

    def is_at_home(self, directory: "Node", name: bytes) -> bool:
        """Return whether it had that name before."""
        return self.home is directory and self.home_name == name

    def has_other_entries(self) -> bool:
        """Return whether names came to it, as a directory, or went."""
        return bool(self.gone) or any(
            not child.is_at_home(self, name)
            for name, child in (self.children or {}).items()
        )


class TouchedTree:
    """The tree at the receiver, as far as a stream touches it."""

    def __init__(self) -> None:
        self.root = Node(None, b"")
        self.root.children = {}
        self._last: tuple[bytes, Node] = (b"", self.root)

    def apply(self, command: StreamCommand) -> None:
        """Apply a command.

        :raises StreamDamaged: if that is not possible.
        """
        kind = command.kind
        if touched := _TOUCHING.get(kind):
            self._find(command.path, command).touched |= touched
        elif kind in _WRITING:
            self._write(command)
        elif kind in _MAKING:
            node = Node(None, b"")
            node.file_type = _MAKING[kind]
            node.size = 0 if kind is Kind.MKFILE else None
            node.names = 0
            self._put(command.path, node, command)
        elif kind is Kind.RENAME:
            node = self._take(command.path, command)
            self._put(command.value(Attribute.PATH_TO), node, command)
        elif kind is Kind.LINK:
            node = self._find(command.value(Attribute.PATH_LINK), command)
            self._put(command.path, node, command)
        elif kind is Kind.UNLINK:
            self._take(command.path, command)
        elif kind is Kind.RMDIR:
            self._take(command.path, command).file_type = FileType.DIRECTORY
        elif kind is Kind.TRUNCATE:
            node = self._find(command.path, command)
            node.size = command.number(Attribute.SIZE)
            node.touched |= _DATA
        elif kind is Kind.FALLOCATE:
            if command.number(Attribute.FALLOCATE_MODE) != _KEEP_SIZE:
                self._find(command.path, command).touched |= _DATA

    def _write(self, command: StreamCommand) -> None:
        node = self._find(command.path, command)
        node.touched |= _DATA
        if command.kind is Kind.CLONE:
            length = command.number(Attribute.CLONE_LEN)
            node.shared += length
        else:
            if command.kind is Kind.UPDATE_EXTENT:
                length = command.number(Attribute.SIZE)
            elif command.kind is Kind.ENCODED_WRITE:
                length = command.number(Attribute.UNENCODED_FILE_LEN)
            else:
                length = len(command.value(Attribute.DATA))
            node.written += length
        if node.size is not None:
            end = command.number(Attribute.FILE_OFFSET) + length
            node.size = max(node.size, end)

    def _find(self, path: bytes, command: StreamCommand) -> Node:
        """Return the file that has a path now; one not seen yet existed before."""
        last, node = self._last
        if path == last:
            return node
        node = self.root
        for name in path.split(b"/") if path else ():
            child = node.children.get(name) if node.children else None
            if child is None:
                is_new = node.file_type and node.home is None
                is_gone = node.gone and name in node.gone
                if not name or is_new or is_gone or node.names != 1:
                    raise _damaged(command, "names a path that does not exist")
                if node.children is None:
                    node.children = {}
                child = node.children[name] = Node(node, name)
            node = child
        self._last = path, node
        return node

    def _place(self, path: bytes, command: StreamCommand) -> tuple[Node, bytes]:
        parent, _, name = path.rpartition(b"/")
        directory = self._find(parent, command)
        if not name or directory.names != 1:
            raise _damaged(command, "names an impossible path")
        return directory, name

    def _take(self, path: bytes, command: StreamCommand) -> Node:
        """Remove a name and return the file that had it."""
        node = self._find(path, command)
        directory, name = self._place(path, command)
        self._forget(directory, name, node)
        return node

    def _forget(self, directory: Node, name: bytes, node: Node) -> None:
        self._last = (b"", self.root)
        assert directory.children
        del directory.children[name]
        node.names -= 1
        node.parent = None
        if node.is_at_home(directory, name):
            if directory.gone is None:
                directory.gone = {}
            directory.gone[name] = node

    def _put(self, path: bytes, node: Node, command: StreamCommand) -> None:
        """Add a name to a file; a file that had it before loses it."""
        directory, name = self._place(path, command)
        if node.names and (node.is_directory or node is directory):
            raise _damaged(command, "gives a directory a second name")
        if directory.children is None:
            if directory.file_type not in (None, FileType.DIRECTORY):
                raise _damaged(command, "names a path below a file")
            directory.children = {}
        if other := directory.children.get(name):
            if other is node:
                return
            self._forget(directory, name, other)
        self._last = (b"", self.root)
        directory.children[name] = node
        node.parent, node.name = directory, name
        node.names += 1
        if directory.gone and directory.gone.get(name) is node:
            del directory.gone[name]


def _damaged(command: StreamCommand, why: str) -> StreamDamaged:
    return StreamDamaged(command.offset, f"{command.kind.name} {why}")
