"""The private directory of a connection, in which its control socket is.

The program that made it holds a lock on a file in it, and removes it in the end. If the
program was killed, the lock is free, and the next directory made beside clears it away.
"""

import contextlib
import fcntl
import os
import pwd
import re
import shutil
import stat

from btrfs_backup_ng.__util__ import BackupError

#: Longest path of a control socket. ``sun_path`` has 108 bytes, and ssh appends 17
#: while it binds (measured with OpenSSH 9.2: 90 works, 91 fails).
_SOCKET_PATH_MAX = 90
_NAME = re.compile("bbng-[0-9a-f]{8}")
_LOCK, _UNLOCKED = "lock", "lock.new"
_NO_LINK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class PrivateDirectory:
    """A directory that only its owner can enter, until it is removed.

    :ivar path: short enough for a socket named ``s`` in it.
    """

    def __init__(self, path: str, lock: int) -> None:
        self.path = path
        self._lock = lock

    def remove(self) -> None:
        """Remove it with its contents; may be repeated."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def make_private_directory(user: str, *, runs: bool) -> PrivateDirectory:
    """Make one with an unpredictable name, and remove those of killed programs.

    :param user: its owner; "" for the program's own user.
    :param runs: programs will be run from it.
    :raises BackupError: if it cannot be made anywhere.
    """
    wanted = [os.environ.get(name, "") for name in ("XDG_RUNTIME_DIR", "TMPDIR")]
    for place in (*([] if user else wanted), "/tmp", "/var/tmp"):
        path = os.path.join(place, f"bbng-{os.urandom(4).hex()}")
        if not place.startswith("/") or len(os.fsencode(path)) + 2 > _SOCKET_PATH_MAX:
            continue
        with contextlib.suppress(OSError):
            if runs and os.statvfs(place).f_flag & os.ST_NOEXEC:
                continue
            os.mkdir(path, 0o700)
            directory = PrivateDirectory(path, _take_lock(path))
            give_to(user, path)
            owner = pwd.getpwnam(user).pw_uid if user else os.geteuid()
            clear_left_behind(place, owner)
            return directory
    raise BackupError("cannot make a directory for the ssh socket in /tmp or /var/tmp")


def give_to(user: str, path: str) -> None:
    """Make a user the owner of a file, unless the name is ""."""
    if user:
        entry = pwd.getpwnam(user)
        os.chown(path, entry.pw_uid, entry.pw_gid)


def _take_lock(path: str) -> int:
    """Make the lock of a new directory, and return its descriptor.

    It gets its name when it is locked: a free one means that its program is gone.
    """
    new = os.path.join(path, _UNLOCKED)
    lock = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.rename(new, os.path.join(path, _LOCK))
    return lock


def clear_left_behind(place: str, owner: int) -> None:
    """Remove the private directories of killed programs, as far as that is possible.

    :param owner: user id; directories of other users stay.
    """
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        for name in [entry.name for entry in entries if _NAME.fullmatch(entry.name)]:
            with contextlib.suppress(OSError):
                _remove_if_dead(os.path.join(place, name), owner)


def _remove_if_dead(path: str, owner: int) -> None:
    """Remove a private directory, unless a program holds its lock, or it has none.

    Only names in the directory that was opened are removed, and no link is followed.

    :raises OSError: if it cannot be removed.
    """
    with contextlib.ExitStack() as stack:
        directory = os.open(path, _NO_LINK | os.O_DIRECTORY)
        stack.callback(os.close, directory)
        found = os.fstat(directory)
        if found.st_uid != owner or stat.S_IMODE(found.st_mode) != 0o700:
            return
        lock = os.open(_LOCK, _NO_LINK, dir_fd=directory)
        stack.callback(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        names = sorted(os.listdir(directory), key=lambda name: name == _LOCK)
        for name in names:  # the lock last: without it the rest would stay
            os.unlink(name, dir_fd=directory)
        os.rmdir(path)
