"""Whether other users can change a file here: a configuration, a program of a hook."""

import errno
import os
import shlex
import stat
from collections.abc import Iterator

from btrfs_backup_ng.__util__ import BackupError, Refused, visible

#: As Linux follows them.
_MOST_LINKS = 40


def check_trust(path: str, status: os.stat_result, example: str) -> None:
    """Check that no other user can change a file; of root's, nor exchange it.

    :param path: absolute.
    :param status: of the file itself, not of a link to it.
    :param example: the end of the hint where such a file may be.
    :raises Refused: if one can.
    """
    if reason := _open_to(status):
        name = shlex.quote(path)
        command = f"chown {_owner(status)} {name}; chmod go-w {name}"
        raise Refused(
            f"{visible(path)} {reason}, so it is not used",
            hint=f"Check its contents, then:  {visible(command)}",
        )
    if os.geteuid() == 0 and (found := find_open_directory(path)):
        raise Refused(
            f"{visible(path)} is not used: {found}, who could put another file there",
            hint=f"Keep it in a directory of root's, {example}.",
        )


def find_open_directory(path: str) -> str:
    """Return which directory or link on the way other users can change, and why, or "".

    Where a directory is sticky, they can only change what is their own.

    :param path: absolute.
    """
    for passed, found in _passed(path):
        is_sticky = found.st_mode & stat.S_ISVTX or stat.S_ISLNK(found.st_mode)
        is_safe = is_sticky and _is_ours(found.st_uid)
        if not is_safe and (reason := _open_to(found)):
            return f"{visible(passed)} {reason}"
    return ""


def check_program(path: str) -> None:
    """Check that a program can run, and that no other user can change it.

    :param path: absolute.
    :raises BackupError: if not; :class:`Refused` if another user can.
    """
    shown = visible(path)
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", "") or str(error)
        raise BackupError(f"{shown} cannot be used: {reason}") from error
    if not stat.S_ISREG(status.st_mode):
        raise BackupError(f"{shown} is not a file")
    check_trust(path, status, "as /usr/local/sbin is")
    if not os.access(path, os.X_OK):
        hint = f"Run:  {visible(shlex.join(['chmod', '+x', path]))}"
        raise BackupError(f"{shown} is not executable", hint=hint)


def _open_to(status: os.stat_result) -> str:
    """Return which other users can change a file or directory, or ""."""
    if not _is_ours(status.st_uid):
        return f"belongs to another user ({status.st_uid})"
    return "can be written by other users" if status.st_mode & 0o022 else ""


def _is_ours(owner: int) -> bool:
    return owner in (0, os.geteuid())


def _owner(status: os.stat_result) -> int:
    return status.st_uid if _is_ours(status.st_uid) else os.geteuid()


def _passed(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield each directory and each link on the way to a file.

    :param path: absolute.
    :raises OSError: if the way does not exist.
    """
    here, left, links = "/", _parts(path), 0
    yield here, os.stat(here)
    while left:
        name = left.pop()
        if name == "..":
            here = os.path.dirname(here)
            continue
        there = os.path.join(here, name)
        found = os.lstat(there)
        if stat.S_ISLNK(found.st_mode):
            yield there, found
            target = os.readlink(there)
            left += _parts(target)
            here = "/" if target.startswith("/") else here
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        elif left:
            yield there, found
            here = there


def _parts(path: str) -> list[str]:
    """Return the names in a path, the last one first."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]
