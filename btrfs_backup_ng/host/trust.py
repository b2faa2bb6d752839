"""Whether other users can change a file here: a configuration, a program of a hook."""

import os
import shlex
import stat
from collections.abc import Iterator

from btrfs_backup_ng.__util__ import BackupError, Refused, visible


def check_trust(path: str, status: os.stat_result, example: str) -> None:
    """Check that no other user can change a file; of root's, nor exchange it.

    :param path: absolute.
    :param status: of the file itself, not of a link to it.
    :param example: the end of the hint where such a file may be.
    :raises Refused: if one can.
    """
    if reason := _open_to(status):
        command = f"chown {_owner(status)} {path}; chmod go-w {path}"
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
    """Return which directory above a path other users can change, and why, or ""."""
    for directory in _directories(path):
        found = os.stat(directory)
        is_sticky = found.st_mode & stat.S_ISVTX and _is_ours(found.st_uid)
        if not is_sticky and (reason := _open_to(found)):
            return f"{visible(directory)} {reason}"
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


def _directories(path: str) -> Iterator[str]:
    """Yield the directories above a file, and above each link on the way to it."""
    names = {path, os.path.realpath(path)}
    while os.path.islink(path):
        path = os.path.join(os.path.dirname(path), os.readlink(path))
        names.add(path)
    for name in names:
        while name != "/":
            name = os.path.dirname(name)
            yield name
