"""Files that other programs read at any time: they see the old or the new one."""

import contextlib
import os
import stat

from btrfs_backup_ng.__util__ import BackupError, UsageError, visible


def replace_whole(path: str, text: str) -> None:
    """Write a file, or replace it in one step.

    Others may be able to write to the directory: a new file of another name is made
    there, which then gets the name. No link is followed.

    :param text: without surrogates.
    :raises UsageError: if there is something that is not a file, such as a link.
    :raises BackupError: if it cannot be written; the old file is kept.
    """
    fresh = f"{path}.{os.urandom(4).hex()}.new"
    try:
        if not _is_free(path):
            raise UsageError(f"{visible(path)} is not a file, so it is not replaced")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(fresh, flags, 0o644)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            os.rename(fresh, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(fresh)
            raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BackupError(f"cannot write {visible(path)}: {reason}") from error


def _is_free(path: str) -> bool:
    """Return whether a path names nothing, or a file."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return True
    return stat.S_ISREG(mode)
