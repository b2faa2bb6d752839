"""The changes in an incremental stream: its commands to one change for each path.

``btrfs send -p A B`` goes through the inodes that differ, lowest number first, and its
commands name paths as they are at the receiver at that moment. A new inode, and one
whose name another one needs, is called oINO-GEN-SEQ for a while; a renamed file comes
as RENAME or as LINK and UNLINK; and a directory may be moved after all else, or keep a
temporary name until the last of its entries is gone (``process_recorded_refs`` and
``apply_dir_move`` in fs/btrfs/send.c). So the very last command may rename a directory
and with it every path below: no final name is known before END, and reading the stream
twice would give the first change no earlier than reading it once gives the last. So the
touched files are kept as a tree, some 400 bytes for each path named in the stream and
nothing for the rest of A, and are returned in order of the paths after END.

A stream does not contain:

- That two names of A belong to one file. So a file with several names is reported as
  changed under one of them, and another may be reported as added and deleted, or
  renamed.
- Whether written data differs from the old data: extents come whole, and count if they
  were written again with the same bytes.
- The size of a file that was in A, unless it was truncated or has a hole at its end.
- Which of the times of a file changed, if any: reading it may be enough (atime), or
  a call that changed nothing (truncating it to the size that it had).
"""

import enum
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated

from btrfs_backup_ng.core.document import Named
from btrfs_backup_ng.core.value import Value, replace
from btrfs_backup_ng.sendstream.reader import StreamCommand
from btrfs_backup_ng.sendstream.tree import FileType, Node, Touch, TouchedTree

__all__ = ["Change", "FileType", "Sort", "Touch", "read_changes"]


class Sort(enum.Enum):
    ADDED = "added"
    CHANGED = "changed"
    RENAMED = "renamed"
    DELETED = "deleted"
    METADATA = "metadata"


class Change(Value):
    """How one path changed, relative to the snapshots; ``.`` is their top.

    If another file has a path now and the old one was deleted, the path is changed
    (``replaced``), not deleted and added. Unchanged files in a renamed directory are
    not reported, nor is a directory if only its times changed because names came or
    went.

    :ivar path: in B; in A for a deleted one.
    :ivar old_path: in A, of a renamed one.
    :ivar file_type: if it is known.
    :ivar touched: changes, besides its name, of a file that was in A. Times count only
        if nothing else changed.
    :ivar written: bytes of data in the stream.
    :ivar shared: bytes that the stream takes from elsewhere in A (reflinks).
    :ivar size: of the file in B, if it is known.
    :ivar link_to: the path in B of the file of which this is another name.
    :ivar replaced: the file that had this path in A was deleted.
    """

    sort: Annotated[Sort, Named("change")]
    path: bytes
    old_path: bytes | None = None
    file_type: Annotated[FileType | None, Named("type")] = None
    touched: Touch = Touch(0)
    written: int = 0
    shared: int = 0
    size: int | None = None
    link_to: bytes | None = None
    replaced: bool = False


_TIMES = int(Touch.TIMES)
_DATA = int(Touch.DATA)


def read_changes(commands: Iterable[StreamCommand]) -> Iterator[Change]:
    """Return the changes in an incremental stream, in order of the paths.

    A directory comes before its entries. A path comes twice only if its file in A is
    deleted and the one in B came with a renamed directory. All commands are read before
    this returns.

    :raises StreamDamaged: if they contradict each other.
    """
    tree = TouchedTree()
    for command in commands:
        tree.apply(command)
    return _merged(_present(tree.root), _deleted(tree.root))


def _merged(present: Iterator[Change], deleted: Iterator[Change]) -> Iterator[Change]:
    lost = next(deleted, None)
    for change in present:
        while lost and _order(lost) <= _order(change):
            if lost.path == change.path and change.sort in (Sort.ADDED, Sort.RENAMED):
                sort = Sort.CHANGED if change.sort is Sort.ADDED else change.sort
                change = replace(change, sort=sort, replaced=True)
            else:
                yield lost
            lost = next(deleted, None)
        yield change
    if lost:
        yield lost
        yield from deleted


def _order(change: Change) -> bytes:
    """Return a key that sorts paths name by name: no name holds a NUL."""
    return b"" if change.path == b"." else change.path.replace(b"/", b"\0")


def _present(root: Node) -> Iterator[Change]:
    """Return the changes of the names in B."""
    if change := _kept(root, b"."):
        yield change
    reported: set[Node] = set()
    for directory, name, node, path in _walk(root, _entries):
        if change := _judge(node, directory, name, path, reported):
            yield change


def _deleted(root: Node) -> Iterator[Change]:
    """Return the files that had a name in A and have none in B."""
    for _, _, node, path in _walk(root, _entries_in_a):
        if not node.names:
            yield Change(Sort.DELETED, path, file_type=node.file_type)


def _walk(
    root: Node, entries: Callable[[Node], dict[bytes, Node]]
) -> Iterator[tuple[Node, bytes, Node, bytes]]:
    """Return directory, name, node and path of everything below a directory."""
    # no recursion: paths may be deeper than Python's stack
    stack = [(b"", root, iter(sorted(entries(root).items())))]
    while stack:
        above, directory, rest = stack[-1]
        name, node = next(rest, (None, root))
        if name is None:
            stack.pop()
            continue
        path = above + name
        yield directory, name, node, path
        if below := entries(node):
            stack.append((path + b"/", node, iter(sorted(below.items()))))


def _entries(directory: Node) -> dict[bytes, Node]:
    return directory.children or {}


def _entries_in_a(directory: Node) -> dict[bytes, Node]:
    children = _entries(directory).items()
    kept = {name: node for name, node in children if node.is_at_home(directory, name)}
    return kept | (directory.gone or {})


def _judge(
    node: Node, directory: Node, name: bytes, path: bytes, reported: set[Node]
) -> Change | None:
    """Return the change that one name of a file means, if it is worth reporting.

    :param reported: files with several names, of which one was reported.
    """
    if node.is_at_home(directory, name):
        return _kept(node, path)
    if node.home and node.is_kept:
        first = _path_now(node.home, node.home_name)
        return Change(Sort.ADDED, path, file_type=node.file_type, link_to=first)
    if node in reported:
        assert node.parent
        first = _path_now(node.parent, node.name)
        return Change(Sort.ADDED, path, file_type=node.file_type, link_to=first)
    if node.names > 1:
        reported.add(node)
        node.parent = directory
        node.name = name
    if node.home:
        old_path = _path_in_a(node.home, node.home_name)
        return _change(Sort.RENAMED, path, node, node.touched & ~_TIMES, old_path)
    return _change(Sort.ADDED, path, node, 0)


def _kept(node: Node, path: bytes) -> Change | None:
    touched = node.touched
    if touched & _DATA:
        return _change(Sort.CHANGED, path, node, touched & ~_TIMES)
    if touched & ~_TIMES:
        return _change(Sort.METADATA, path, node, touched & ~_TIMES)
    # Names that came or went change the times, too, and are reported themselves.
    if touched and node.names == 1 and not node.has_other_entries():
        return _change(Sort.METADATA, path, node, touched)
    return None


def _change(
    sort: Sort, path: bytes, node: Node, touched: int, old_path: bytes | None = None
) -> Change:
    return Change(
        sort,
        path,
        old_path=old_path,
        file_type=FileType.DIRECTORY if node.is_directory else node.file_type,
        touched=Touch(touched),
        written=node.written,
        shared=node.shared,
        size=node.size,
    )


def _path_now(directory: Node, name: bytes) -> bytes:
    names = [name]
    while directory.parent:
        names.append(directory.name)
        directory = directory.parent
    return b"/".join(reversed(names))


def _path_in_a(directory: Node, name: bytes) -> bytes:
    names = [name]
    while directory.home:
        names.append(directory.home_name)
        directory = directory.home
    return b"/".join(reversed(names))
