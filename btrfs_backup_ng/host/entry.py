"""The walk into a directory that is ours below one that may belong to others.

The owner of a directory may exchange the entries of it at any moment. So a path is
entered one component at a time, and from then on its descriptor is used, never the
path. ``wire/verbs/common.sh`` does the same in a shell.

A path that is written ``TOP//a/b`` means: TOP is a path that the user chose, where
links are followed; neither ``a`` nor ``b`` may be a link.

A state directory often lies in a directory of another user, who can exchange it at any
moment (``docs/security.md``). So no path below it is ever resolved. A path is written
``TOP//a/b``: TOP is what the user named, where links are followed; ``a`` and ``b`` are
entered one at a time, neither may be a link, and those of ours must belong to us, with
no one else allowed to write there. ``entry.entered`` does that here and gives a
descriptor; in a shell ``go`` does it and stands there. Each step proves itself by its
parent: ``..`` is the directory that was stood in before, so no link that appeared in
between has led anywhere else. From then on only names in the entered directory are
used, and ``/proc/PID/fd/N`` for another one that was entered.

- Before anything is changed ``hello`` (or ``read_facts``) tells what is wrong with the
  state, and ``preflight`` refuses with status 4.
- btrfs follows a link that appears at a final name, so ``publish`` looks whether the
  snapshot is where it was made, and ``accept`` whether it is of what was staged; if
  not, ``children`` finds it by its parent, and ``remove`` deletes it.
- ``btrfs subvolume delete PATH`` resolves the path twice (realpath, open). Where
  another user could exchange any part of it in between (``is_out_of_reach``), it goes
  by the number of the subvolume, of the filesystem's mount point.
- ``btrfs receive`` and ``btrfs send`` resolve theirs twice, too, and take no number.
  What can come of that is a snapshot that arrives somewhere else, or the wrong one that
  is sent: both fail the check of what arrived.
"""

import errno
import os
import re
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from btrfs_backup_ng.__util__ import Refused, visible
from btrfs_backup_ng.core import record
from btrfs_backup_ng.process.command import last_words

#: Directory of our bookkeeping at every place, and of unfinished transfers in it.
STATE = ".btrfs-backup-ng"
INCOMING = "incoming"

#: Paths below TOP that must belong to us, with no one else allowed to write there.
_OURS = re.compile(
    rf"{re.escape(STATE)}(/snapshots|/{INCOMING}(/[^/]*)?)?|\.restoring-[^/]*"
)
#: How the name of a transfer's directory begins.
_TRANSFER = re.compile(r"\d{8}T\d{6}Z-")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NONBLOCK
_FOR_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class NotOurs(Refused):
    """A directory that must be ours is a link, or belongs to another user."""

    def __init__(self, words: str) -> None:
        """Build it.

        :param words: the last component of its path, and what is wrong with it.
        """
        super().__init__(words)


def below(top: str, path: str) -> str:
    """Return the path of something below a directory, without links in that part."""
    return f"{top}/{path}" if "//" in top else f"{top.rstrip('/')}//{path}"


def plain(path: str) -> str:
    """Return a path as people write it."""
    return path.replace("//", "/")


@contextmanager
def entered(path: str, *, to_look: bool = False) -> Iterator[int]:
    """Enter a directory, and give its descriptor.

    :param to_look: only to look at it, so it may belong to another user.

    :raises NotOurs: if a component is a link or no directory, or should be ours.
    :raises OSError: if it cannot be entered: there is none, or it is not allowed.
    """
    top, _, rest = path.partition("//")
    descriptor = os.open(top or "/", _DIRECTORY)
    try:
        walked: list[str] = []
        for name in filter(None, rest.split("/")):
            walked.append(name)
            deeper = _step(descriptor, name)
            os.close(descriptor)
            descriptor = deeper
            if not to_look and _OURS.fullmatch("/".join(walked)):
                check_private(descriptor, name)
        yield descriptor
    finally:
        os.close(descriptor)


def _step(directory: int, name: str) -> int:
    try:
        return os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    except NotADirectoryError as error:
        is_link = stat.S_ISLNK(
            os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
        )
        why = "is a symbolic link" if is_link else "is not a directory"
        raise NotOurs(f"{name} {why}") from error


def check_private(descriptor: int, name: str) -> None:
    """Go on only in a directory of ours to which no one else may write.

    :raises NotOurs: if it is not one.
    """
    status = os.fstat(descriptor)
    if status.st_mode & _FOR_OTHERS:
        mode = f"{stat.S_IMODE(status.st_mode):o}"
        raise NotOurs(f"{name} may be changed by other users (mode {mode})")
    if status.st_uid != os.geteuid():
        raise NotOurs(f"{name} belongs to the user with id {status.st_uid}")


def trouble_with(top: str) -> str:
    """Return why our state in a directory cannot be used, or nothing if it can.

    :raises OSError: if it cannot be looked at.
    """
    for part in ("", f"/{INCOMING}", "/snapshots"):
        try:
            with entered(below(top, STATE + part)):
                pass
        except FileNotFoundError:
            continue
        except NotOurs as error:
            return error.message
    return ""


def refusal(state: str, words: str) -> Refused:
    """Say that a part of a state directory is not ours, and how to mend that.

    :param words: from :class:`NotOurs`, or the verb that refused.
    """
    name, _, why = words.partition(" ")
    inside = f"/{INCOMING}/{name}" if _TRANSFER.match(name) else f"/{name}"
    path = plain(state if name == STATE else state + inside)
    aside = shlex.join(["mv", "-T", path, f"{path}.not-ours"])
    return Refused(
        f"{visible(path)} {why}, so nothing is done there",
        hint=f"If it is not yours, move it away there:  {visible(aside)}",
    )


def refusal_by_verb(state: str, stderr: str) -> Refused:
    """Say the same of a verb that ended with ``grammar.NOT_OURS``."""
    return refusal(state, last_words(stderr).removeprefix("ERROR: "))


def replace_file(directory: int, name: str, content: bytes) -> None:
    """Replace a file so that a reader, or a power cut, sees old or new.

    The new content is on the disk, and so is its name, when this returns.

    :param directory: descriptor of one that is ours.
    :raises OSError: if the directory cannot be written; the old file stays.
    """
    fresh = f"{name}.new"
    with open(fresh_file(directory, fresh), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.rename(fresh, name, src_dir_fd=directory, dst_dir_fd=directory)
    os.fsync(directory)


_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def fresh_file(directory: int, name: str) -> int:
    """Make an empty file in place of whatever has its name; give its descriptor.

    :param directory: descriptor of one that is ours.
    """
    _remove(directory, name)
    return os.open(name, _NEW_FILE, 0o600, dir_fd=directory)


def _remove(directory: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
    except IsADirectoryError as error:
        owner = os.stat(name, dir_fd=directory, follow_symlinks=False).st_uid
        raise NotOurs(f"{name} is a directory of the user with id {owner}") from error


def read_record(path: str, *, dir_fd: int | None = None) -> record.Content:
    """Read a record of this machine, of which never more than the limit is read.

    :param dir_fd: of the directory that a relative path is in.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, dir_fd=dir_fd)
    except FileNotFoundError:
        return None
    except OSError as error:
        kinds = {errno.ELOOP: record.LINK, errno.ENXIO: record.SPECIAL}
        return kinds.get(error.errno or 0) or _failed(error)
    try:
        return _read_descriptor(descriptor)
    except OSError as error:
        return _failed(error)
    finally:
        os.close(descriptor)


def _read_descriptor(descriptor: int) -> record.Content:
    status = os.fstat(descriptor)
    if stat.S_ISDIR(status.st_mode):
        return record.DIRECTORY
    if not stat.S_ISREG(status.st_mode):
        return record.SPECIAL
    if status.st_size > record.LIMIT_BYTES:
        return record.TOO_LARGE
    with open(descriptor, "rb", closefd=False) as file:
        content = file.read(record.LIMIT_BYTES + 1)
    return record.TOO_LARGE if len(content) > record.LIMIT_BYTES else content


def _failed(error: OSError) -> record.Unread:
    reason = f"{record.FAILED.reason}: {error.strerror or error}"
    return record.Unread(reason, may_be_whole=True)
