"""Entering the program's own directories below one that other users may change.

A state directory often lies in a directory of another user, who can exchange its
entries at any moment (``docs/security.md``). So no path below it is ever resolved. A
path is written ``TOP//a/b``: TOP is the user's path, where links are followed; ``a``
and ``b`` are entered one at a time, neither may be a link, and the program's own
directories must belong to its user, without write access for others. ``entered`` does
that here and yields a descriptor; in a shell ``go`` (``wire/verbs/common.sh``) changes
to the directory. Each step is verified by its parent: ``..`` is the directory before,
so no link that appeared in between has led elsewhere. From then on only names in the
entered directory are used, and ``/proc/PID/fd/N`` for another one that was entered.

- Before anything is changed ``hello`` (or ``read_facts``) reports any trouble with the
  state directory, and ``preflight`` refuses with status 4.
- The program ``btrfs`` follows a link that appears at a final name, so ``publish``
  checks that the snapshot is where it was made, and the endpoint that it is one of the
  staged subvolume; if not, ``children`` finds it by its parent, and ``remove`` deletes
  it. The kernel follows none (``host/in_process``).
- ``btrfs subvolume delete PATH`` resolves the path twice (realpath, open). If another
  user could exchange any part of it in between (``is_out_of_reach``), the subvolume is
  deleted by its id, at the mount point of the filesystem.
- ``btrfs receive`` and ``btrfs send`` resolve theirs twice, too, and take no id. The
  worst results are a snapshot that arrives elsewhere, or a wrong one that is sent: both
  fail the check after the transfer.
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

#: The state directory at every place, and the staging directory in it.
STATE = ".btrfs-backup-ng"
INCOMING = "incoming"
#: The record of the sources, in the state directory of a destination.
SOURCES = "sources.json"

#: Paths below TOP that must belong to the program's user, without write access for
#: others.
_OURS = rf"{re.escape(STATE)}(/snapshots|/{INCOMING}(/[^/]*)?)?|\.restoring-[^/]*"
#: The beginning of the name of a transfer's directory.
_TRANSFER = r"\d{8}T\d{6}Z-"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NONBLOCK
_FOR_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class NotOurs(Refused):
    """A directory that must be the program's own is a link, or of another user.

    The message is the last component of its path, and the problem.
    """


def below(top: str, path: str) -> str:
    """Return a path below a directory, where links are not followed."""
    return f"{top}/{path}" if "//" in top else f"{top.rstrip('/')}//{path}"


def plain(path: str) -> str:
    """Return a path without the double slash, for messages."""
    return path.replace("//", "/")


@contextmanager
def entered(path: str, *, to_look: bool = False) -> Iterator[int]:
    """Enter a directory, and yield its descriptor.

    :param to_look: only to read it, so it may belong to another user.
    :raises NotOurs: if a component is a link or not a directory, or not the program's.
    :raises OSError: if it does not exist, or may not be entered.
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
            if not to_look and re.fullmatch(_OURS, "/".join(walked)):
                check_private(descriptor, name)
        yield descriptor
    finally:
        os.close(descriptor)


def _step(directory: int, name: str) -> int:
    try:
        return os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    except NotADirectoryError as error:
        mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
        why = "is a symbolic link" if stat.S_ISLNK(mode) else "is not a directory"
        raise NotOurs(f"{name} {why}") from error


def check_private(descriptor: int, name: str) -> None:
    """Check that a directory is the program's own, and others cannot write to it.

    :raises NotOurs: if not.
    """
    status = os.fstat(descriptor)
    if status.st_mode & _FOR_OTHERS:
        mode = f"{stat.S_IMODE(status.st_mode):o}"
        raise NotOurs(f"{name} may be changed by other users (mode {mode})")
    if status.st_uid != os.geteuid():
        raise NotOurs(f"{name} belongs to the user with id {status.st_uid}")


def trouble_with(top: str) -> str:
    """Return why the state in a directory cannot be used, or "".

    :raises OSError: if it cannot be read.
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
    """Return the error for a part of a state directory that is not the program's own.

    :param words: from :class:`NotOurs`, or the verb that refused.
    """
    name, _, why = words.partition(" ")
    inside = f"/{INCOMING}/{name}" if re.match(_TRANSFER, name) else f"/{name}"
    path = plain(state if name == STATE else state + inside)
    aside = shlex.join(["mv", "-T", path, f"{path}.not-ours"])
    return Refused(
        f"{visible(path)} {why}, so it is not used",
        hint=f"If it is not yours, move it out of the way:  {visible(aside)}",
    )


def refusal_by_verb(state: str, stderr: str) -> Refused:
    """Return the same error for a verb that ended with ``grammar.NOT_OURS``."""
    return refusal(state, last_words(stderr).removeprefix("ERROR: "))


def replace_file(directory: int, name: str, content: bytes) -> None:
    """Replace a file so that a reader, or a power cut, sees the old or the new one.

    The new content and its name are on the disk when this returns.

    :param directory: descriptor of one of the program's own.
    :raises OSError: if the directory cannot be written; the old file is kept.
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
    """Make an empty file in place of the one of that name; return its descriptor.

    :param directory: descriptor of one of the program's own.
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
    """Read a record of this machine, never more than the limit.

    :param dir_fd: of the directory of a relative path.
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
