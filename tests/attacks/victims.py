"""The victims: root's directories, and what proves that nothing touched them."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from btrfs_backup_ng.btrfs import ioctl
from tests.support.filesystems import Filesystem

#: In every file of a victim; nothing may print it.
SECRET = "the secret of root"
#: The name of a transfer, as it was called before there were checkpoints.
OLD_ID = "20200101T000000Z-deadbeef"
RECORDS = ("holder", "beat", "sources.json", "verified.json", "holds.json")

#: Of what was done to a victim, so many things are told.
_SHOWN = 4

Entry = tuple[object, ...]


class Victim:
    """A directory of root's on a filesystem, with all the names that we use in it.

    :ivar path: the directory.
    """

    def __init__(self, path: Path, mode: int, names: Sequence[str]) -> None:
        """Make it.

        :param names: of subvolumes in it: as backups, seals and transfers are called.
        """
        self.path = path
        self._mode = mode
        self._names = tuple(names)
        self._was: dict[str, Entry] = {}
        self.make()

    def make(self) -> None:
        """Make it as it has to stay."""
        self.path.mkdir()
        for name in (*RECORDS, *(f"{record}.new" for record in RECORDS)):
            (self.path / name).write_text(SECRET)
        (self.path / "precious").write_text(SECRET)
        (self.path / "empty").mkdir()
        (self.path / "directory/deep").mkdir(parents=True)
        (self.path / "directory/deep/precious").write_text(SECRET)
        incoming = self.path / "incoming"
        places = (self.path, incoming, incoming / OLD_ID, self.path / "snapshots")
        for place in places:
            place.mkdir(exist_ok=True)
            (place / "precious").write_text(SECRET)
        for name in self._names:
            _subvolume(self.path / name)
        for place in (incoming / OLD_ID, self.path / "snapshots"):
            _subvolume(place / self._names[0])
        _subvolume(incoming / "subvolume", is_read_only=False)
        (self.path / "not for all").write_text(SECRET)
        (self.path / "not for all").chmod(0o600)
        self.path.chmod(self._mode)
        self._was = dict(_described(self.path))

    def remove(self) -> None:
        """Remove what is left of it."""
        if not os.path.lexists(self.path):
            return
        for directory, below, _ in os.walk(self.path, topdown=False):
            for name in (*below, "."):
                path = os.path.join(directory, name)
                if os.path.lexists(path) and os.lstat(path).st_ino == 256:
                    _btrfs("subvolume", "delete", os.path.normpath(path))
        subprocess.run(["rm", "-rf", "--one-file-system", self.path], check=True)

    def harm(self, *, may_have_passed: bool = False) -> list[str]:
        """List what was done to it, and make it anew if that is anything.

        :param may_have_passed: something may have been there that is gone again: the
            times of directories do not count.
        """
        is_now = dict(_described(self.path)) if self.path.is_dir() else {}
        found = []
        for path in sorted({*self._was, *is_now}):
            before, after = self._was.get(path), is_now.get(path)
            if may_have_passed and before and after and before[0] == "directory":
                before, after = before[:-1], after[:-1]
            if before != after:
                found.append(f"{path}: was {before}, is {after}")
        if found:
            self.remove()
            self.make()
        else:
            self._was = is_now
        more = len(found) - _SHOWN
        return [*found[:_SHOWN], *([f"and {more} more"] if more > 0 else [])]


def _described(top: Path) -> Iterator[tuple[str, Entry]]:
    """Describe all that is below a directory; the time comes last."""
    yield str(top), _describe(str(top))
    for directory, below, files in os.walk(top):
        for name in (*below, *files):
            path = os.path.join(directory, name)
            yield path, _describe(path)


def _describe(path: str) -> Entry:
    status = os.lstat(path)
    common = (
        *(status.st_ino, oct(status.st_mode), status.st_uid, status.st_gid),
        status.st_mtime_ns,
    )
    if stat.S_ISREG(status.st_mode):
        return "file", Path(path).read_bytes(), *common
    if stat.S_ISLNK(status.st_mode):
        return "link", os.readlink(path), *common
    if not stat.S_ISDIR(status.st_mode):
        return "special", *common
    if not ioctl.is_subvolume(status):
        return "directory", *common
    with ioctl.opened_directory(path) as descriptor:
        info = ioctl.subvolume_info(descriptor)
    same = (info.tree_id, info.uuid, info.received_uuid, info.read_only)
    return "subvolume", *same, *common


def make_victims(filesystem: Filesystem, names: Sequence[str]) -> tuple[Victim, Victim]:
    """Make the victims of a filesystem: one that all may read, and a private one."""
    return (
        Victim(filesystem.path / "open-victim", 0o755, names),
        Victim(filesystem.path / "private-victim", 0o700, names),
    )


def _subvolume(path: Path, *, is_read_only: bool = True) -> None:
    _btrfs("subvolume", "create", path)
    (path / "precious").write_text(SECRET)
    if is_read_only:
        _btrfs("property", "set", "-ts", path, "ro", "true")


def _btrfs(*argv: str | Path) -> None:
    subprocess.run(["btrfs", "-q", *argv], check=True)
