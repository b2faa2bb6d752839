"""What an incremental stream changes: its commands to one change for each path.

``btrfs send -p A B`` goes through the inodes that differ, lowest number first, and its
commands name paths as they are at the receiver at that moment. A new inode, and one
that is in the way of another, is called oINO-GEN-SEQ for a while; a renamed file comes
as RENAME or as LINK and UNLINK; and a directory may be moved after all else, or wait
under such a name for the last of its entries to go (``process_recorded_refs`` and
``apply_dir_move`` in fs/btrfs/send.c). So the very last command may rename a directory
and with it every path below: no final name is known before END, and a second look at
the stream would tell its first change when one look can tell the last. What is touched
is therefore kept as a tree, some 400 bytes for each path named in the stream and
nothing for the rest of A, and is told in order of the paths once END has come.

What a stream cannot tell:

- That two names of A belong to one file. So a file with several names is told as
  changed by one of them, and one of them may be told as added and deleted, or renamed.
- Whether what is written differs from what was there: extents come whole, and count
  if they were written anew with the same bytes.
- How large a file that was in A is, unless it was cut or has a hole at its end.
- Which of the times of a file changed, if any: reading it may be enough (atime), or
  a call that changed nothing (truncating it to the size that it had).
"""

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated

from btrfs_backup_ng.core.document import Named
from btrfs_backup_ng.sendstream.reader import StreamCommand
from btrfs_backup_ng.sendstream.tree import FileType, Node, Touch, TouchedTree

__all__ = ["Change", "FileType", "Sort", "Touch", "read_changes"]


class Sort(enum.Enum):
    """What happened to a path."""

    ADDED = "added"
    CHANGED = "changed"
    RENAMED = "renamed"
    DELETED = "deleted"
    METADATA = "metadata"


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to one path, relative to the snapshots; ``.`` is their top.

    A path at which another file is now is changed, and not deleted and added, if the
    old one was deleted (``replaced``). What lies in a renamed directory and did not
    change itself is not told, nor is a directory of which only the times changed
    because names came or went.

    :ivar path: in B; in A for what was deleted.
    :ivar old_path: in A, of what was renamed.
    :ivar file_type: if it is known.
    :ivar touched: what changed of something that was in A, besides its name. Times
        count only where nothing else is to be told.
    :ivar written: bytes of data in the stream.
    :ivar shared: bytes that the stream takes from where they were before (reflinks).
    :ivar size: of the file in B, if it is known.
    :ivar link_to: the path in B of the file of which this is one more name.
    :ivar replaced: what had this path in A was deleted.
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


_TIMES, _DATA = int(Touch.TIMES), int(Touch.DATA)


def read_changes(commands: Iterable[StreamCommand]) -> Iterator[Change]:
    """Tell what an incremental stream changes, in order of the paths.

    A directory comes before what is in it. No path comes twice, unless what it was in
    A is deleted and it came with a renamed directory. All commands are taken before
    this returns.

    :raises StreamDamaged: if they do not fit together.
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
    """Return what sorts paths name by name: no name holds a NUL."""
    return b"" if change.path == b"." else change.path.replace(b"/", b"\0")


def _present(root: Node) -> Iterator[Change]:
    """Tell of what has a name in B."""
    if change := _kept(root, b"."):
        yield change
    told: set[Node] = set()
    ways = [(b"", root, iter(sorted(root.children or ())))]
    while ways:
        above, directory, names = ways[-1]
        name = next(names, None)
        if name is None:
            ways.pop()
            continue
        assert directory.children
        node, path = directory.children[name], above + name
        if change := _judge(node, directory, name, path, told):
            yield change
        if node.children:
            ways.append((path + b"/", node, iter(sorted(node.children))))


def _deleted(root: Node) -> Iterator[Change]:
    """Tell of what had a name in A and has none in B."""
    ways = [(b"", root, iter(_names_in_a(root)))]
    while ways:
        above, directory, names = ways[-1]
        name = next(names, None)
        if name is None:
            ways.pop()
            continue
        node = (directory.gone or {}).get(name) or (directory.children or {})[name]
        path = above + name
        if not node.names:
            yield Change(Sort.DELETED, path, file_type=node.file_type)
        if node.children or node.gone:
            ways.append((path + b"/", node, iter(_names_in_a(node))))


def _names_in_a(directory: Node) -> list[bytes]:
    children = (directory.children or {}).items()
    kept = [name for name, node in children if node.is_at_home(directory, name)]
    return sorted([*kept, *(directory.gone or ())])


def _judge(
    node: Node, directory: Node, name: bytes, path: bytes, told: set[Node]
) -> Change | None:
    """Tell what one name of something means, if it is worth telling.

    :param told: what has several names, once one of them was told.
    """
    if node.is_at_home(directory, name):
        return _kept(node, path)
    if node.home and node.is_kept:
        first = _path_now(node.home, node.home_name)
        return Change(Sort.ADDED, path, file_type=node.file_type, link_to=first)
    if node in told:
        assert node.parent
        first = _path_now(node.parent, node.name)
        return Change(Sort.ADDED, path, file_type=node.file_type, link_to=first)
    if node.names > 1:
        told.add(node)
        node.parent, node.name = directory, name
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
    # Names that came or went change the times, too, and are told themselves.
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
