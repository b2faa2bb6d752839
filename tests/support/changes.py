"""The slow way to find the changes between two trees: comparing all of both.

Data that was written again with the same bytes (as btrfs does with zeros at the edges
of a hole) may be reported as changed: only its place on the disk shows that.

A file is identified by its inode number, which btrfs does not use twice while a
filesystem stays mounted. Paths are bytes.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import stat
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tests.support import trees
from tests.support.trees import physical_extents

#: Directory (by inode) and name in it, which survive if a directory above is renamed.
Name = tuple[int, bytes]

_FS_IOC_GETFLAGS = 0x80086601  # linux/fs.h


@dataclasses.dataclass
class Inode:
    """One file: its names, with their paths, and all properties that can change."""

    aspects: dict[str, Any]
    times: tuple[int, int, int]
    is_directory: bool
    size: int
    extents: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    names: dict[Name, bytes] = dataclasses.field(default_factory=dict)

    @property
    def path(self) -> bytes:
        """Return its path, if it has one name."""
        (path,) = self.names.values()
        return path


Tree = dict[int, Inode]


class Reported(NamedTuple):
    """One change, as far as a comparison of trees shows it."""

    change: str
    path: bytes
    old_path: bytes | None = None
    touched: frozenset[str] = frozenset()


def describe(top: os.PathLike[str] | str) -> Tree:
    """Read a whole tree."""
    root = os.fsencode(top)
    tree = {os.stat(root).st_ino: _inode(root)}
    tree[os.stat(root).st_ino].names[(0, b"")] = b"."
    for directory, below, files in os.walk(root):
        parent = os.stat(directory).st_ino
        for name in below + files:
            path = os.path.join(directory, name)
            number = os.lstat(path).st_ino
            if number not in tree:
                tree[number] = _inode(path)
            tree[number].names[(parent, name)] = os.path.relpath(path, root)
    return tree


def _inode(path: bytes) -> Inode:
    status = os.lstat(path)
    aspects: dict[str, Any] = {
        "mode": stat.S_IMODE(status.st_mode),
        "owner": (status.st_uid, status.st_gid),
        "xattrs": {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in os.listxattr(path, follow_symlinks=False)
        },
    }
    is_file, is_directory = stat.S_ISREG(status.st_mode), stat.S_ISDIR(status.st_mode)
    if is_file or is_directory:
        descriptor = os.open(path, os.O_RDONLY)
        aspects["flags"] = fcntl.ioctl(descriptor, _FS_IOC_GETFLAGS, bytes(8))[:4]
        if is_file:
            with open(descriptor, "rb", closefd=False) as file:
                aspects["data"] = trees.digest(file)
        os.close(descriptor)
    times = status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns
    extents = physical_extents(os.fsdecode(path)) if is_file else []
    return Inode(aspects, times, is_directory, status.st_size, extents)


def disagreements(one: Tree, other: Tree, told: list[Mapping[str, Any]]) -> list[str]:
    """Compare the output of ``diff --json`` for two trees with the trees.

    The change that it reports for a path must be the true one. It may report a change
    of a file with several names under any of them, and decide which of them became
    which.
    """
    return list(_Comparison(one, other).disagreements(told))


class _Comparison:
    def __init__(self, one: Tree, other: Tree) -> None:
        self.one, self.other = one, other
        self.paths = [
            {path: number for number, inode in tree.items()
             for path in inode.names.values()}
            for tree in (one, other)
        ]  # fmt: skip
        self.common = one.keys() & other.keys()
        self.rewritten: set[int] = set()  # with the same bytes, and reported
        self.moved: set[int] = set()  # directories in which names came or went
        for number in one.keys() | other.keys():
            names = one[number].names.keys() if number in one else set()
            now = other[number].names.keys() if number in other else set()
            self.moved |= {directory for directory, _ in names ^ now}

    def has_many(self, number: int) -> bool:
        return any(
            len(tree[number].names) > 1
            for tree in (self.one, self.other)
            if number in tree
        )

    def disagreements(self, told: list[Mapping[str, Any]]) -> Iterator[str]:
        paths = [path_of(change) for change in told]
        twice = [p for p in set(paths) if paths.count(p) > 1]
        for path in twice:
            sorts = [c["change"] for c in told if path_of(c) == path]
            if len(sorts) > 2 or sorts[0] != "deleted" or "added" in sorts:
                yield f"told twice: {path!r}: {sorts}"
        if paths != sorted(paths, key=lambda p: p.split(b"/") if p != b"." else []):
            yield "not in order"
        simple: set[Reported] = set()
        many: dict[int, list[Reported]] = {}
        for change in told:
            yield from self._check_size(change)
            for single in _unfolded(change):
                number = self.paths[single.change != "deleted"].get(single.path)
                if number is None:
                    yield f"no such path: {single}"
                    continue
                if "data" in single.touched and number in self.common:
                    if self.one[number].extents != self.other[number].extents:
                        self.rewritten.add(number)
                if self.has_many(number):
                    many.setdefault(number, []).append(single)
                else:
                    simple.add(single)
            if change["link_to"] is not None:
                numbers = {self.paths[1][path_of(change, key)]
                           for key in ("path", "link_to")}  # fmt: skip
                if len(numbers) != 1:
                    yield f"not the same file: {change}"
        expected = set(self._simple())
        yield from (f"not told: {one}" for one in sorted(expected - simple, key=str))
        yield from (f"not so: {one}" for one in sorted(simple - expected, key=str))
        for number in self.one.keys() | self.other.keys():
            if self.has_many(number):
                yield from self._check_many(number, many.get(number, []))

    def _check_size(self, change: Mapping[str, Any]) -> Iterator[str]:
        if change["change"] == "deleted" or change["link_to"] is not None:
            return
        inode = self.other[self.paths[1][path_of(change)]]
        is_new = change["change"] == "added" or change["change"] == "changed" and (
            change["replaced"]
        )  # fmt: skip
        wanted = is_new and change["type"] == "file"
        if (wanted or change["size"] is not None) and change["size"] != inode.size:
            yield f"its size is {inode.size}: {change}"

    def _simple(self) -> Iterator[Reported]:
        """Yield the changes of all files with one name."""
        for number in self.one.keys() | self.other.keys():
            if self.has_many(number):
                continue
            if number not in self.other:
                yield Reported("deleted", self.one[number].path)
            elif number not in self.one:
                yield Reported("added", self.other[number].path)
            elif told := self._of_common(number):
                yield told

    def _of_common(self, number: int) -> Reported | None:
        was, is_ = self.one[number], self.other[number]
        path, touched = is_.path, self._touched(number)
        if was.names.keys() != is_.names.keys():
            return Reported("renamed", path, was.path, touched)
        if touched:
            change = "changed" if "data" in touched else "metadata"
            return Reported(change, path, None, touched)
        is_told = number not in self.moved and path != b"."
        if was.times != is_.times and is_told:
            return Reported("metadata", path, None, frozenset({"times"}))
        return None

    def _touched(self, number: int) -> frozenset[str]:
        was, is_ = self.one[number].aspects, self.other[number].aspects
        touched = frozenset(key for key in was if was[key] != is_[key])
        return touched | {"data"} if number in self.rewritten else touched

    def _check_many(self, number: int, told: list[Reported]) -> Iterator[str]:
        was = self.one[number].names if number in self.one else {}
        now = self.other[number].names if number in self.other else {}
        gone = {was[name] for name in was.keys() - now.keys()}
        fresh = {now[name] for name in now.keys() - was.keys()}
        told_gone = {t.path for t in told if t.change == "deleted"}
        told_gone |= {t.old_path for t in told if t.old_path is not None}
        told_fresh = {t.path for t in told if t.change in ("added", "renamed")}
        about = f"{told} of {was} -> {now}"
        if (gone, fresh) != (told_gone, told_fresh):
            yield f"names {gone} are gone and {fresh} are new: {about}"
        if number not in self.common:
            return
        touched = frozenset().union(*(t.touched for t in told))
        times = self.one[number].times != self.other[number].times
        if touched - {"times"} != self._touched(number):
            yield f"changed {set(self._touched(number))}: {about}"
        if "times" in touched and not times:
            yield f"its times are the same: {about}"
        if times and not touched and not fresh:
            yield f"its times changed: {about}"


def path_of(change: Mapping[str, Any], key: str = "path") -> bytes:
    """Return a path of a change; one that is not UTF-8 comes as surrogates."""
    return os.fsencode(change[key])


def _unfolded(change: Mapping[str, Any]) -> Iterator[Reported]:
    path = path_of(change)
    old_path = path_of(change, "old_path") if change["old_path"] is not None else None
    touched = frozenset(change["touched"])
    if not change["replaced"]:
        yield Reported(change["change"], path, old_path, touched)
        return
    yield Reported("deleted", path)
    sort = "added" if change["change"] == "changed" else change["change"]
    yield Reported(sort, path, old_path, touched)
