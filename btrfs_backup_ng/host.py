"""Own where commands run: what any machine can do, and how this one does it."""

import contextlib
import errno
import fcntl
import functools
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from btrfs_backup_ng import wire
from btrfs_backup_ng.__util__ import BackupError, Refused, visible, write_atomically
from btrfs_backup_ng.btrfs.facts import read_facts
from btrfs_backup_ng.btrfs.listing import look_closely, read_listing
from btrfs_backup_ng.btrfs.parse import parse_version
from btrfs_backup_ng.model import Facts, Listing, Privilege, Seal
from btrfs_backup_ng.command import Command, CommandNotStarted, Completed
from btrfs_backup_ng.process import check_interrupted, run
from btrfs_backup_ng.grammar import Verb

#: Tells the lock's holder what it is doing, for who meets the lock.
Say = Callable[[str], None]


class ListingFailed(BackupError):
    """A place could not be looked at, which is not the same as empty."""


class NeedsRoot(Refused):
    """This machine lets only root look at a place."""


class LockHeld(BackupError):
    """Somebody else holds a lock; what he wrote about himself is the message."""


class Host(Protocol):
    """Where commands run. Every method raises :class:`BackupError`.

    :ivar name: for people: ``backup@nas``, or nothing for this machine.
    """

    name: str

    def command(self, verb: Verb, *arguments: str, label: str) -> Command:
        """Give the command that does a verb there."""

    def call(self, verb: Verb, *arguments: str, stdin: bytes = b"") -> Completed:
        """Do a verb there, with its whole answer.

        :raises CommandFailed: if it ends with another status than 0.
        """

    def look(self, directory: str, *, folder: str = "") -> Facts:
        """Find out about a directory and its host; changes nothing.

        :param folder: where its snapshots go, for a source.
        """

    def listing(
        self, directory: str, state: str, *names: str
    ) -> tuple[Listing, tuple[bytes | None, ...]]:
        """Look at all snapshots of a directory, and read files of our bookkeeping.

        :returns: the snapshots, and the files' contents (``None``: no such file).
        :raises ListingFailed: if it cannot; nothing is known then.
        """

    def look_closely(
        self, directory: str, tree_ids: Sequence[int], *, are_checkpoints: bool = False
    ) -> Seal:
        """Tell whether all of some subvolumes of a filesystem are unchanged.

        :param are_checkpoints: as :func:`btrfs.parse.judge_seal` wants to know.
        """

    def lock(
        self, state: str, wait_s: float, who: str, preparation: Sequence[str] = ()
    ) -> AbstractContextManager[Say]:
        """Hold the lock of a place, which dies with this process.

        :param preparation: what the verb ``prepare`` is to make ready before, if
            anything.
        :raises LockHeld: if another run holds it for longer than ``wait_s``.
        """

    def held(self, state: str) -> str | None:
        """Give what the holder of a place's lock says of itself; ``None``: nobody is.

        Nothing is made, and nobody is kept from the lock.
        """

    def put(self, state: str, name: str, content: bytes) -> None:
        """Replace a small file of our bookkeeping, atomically and durably."""


class LocalHost:
    """This machine. What needs no process is done without one."""

    name = ""

    def command(self, verb: Verb, *arguments: str, label: str) -> Command:
        """Give the command that does a verb here."""
        argv = verb.local_argv((Privilege.ROOT.value, *arguments))
        return Command(argv, label=label, reports=True)

    def call(self, verb: Verb, *arguments: str, stdin: bytes = b"") -> Completed:
        """Do a verb here."""
        return run(self.command(verb, *arguments, label=verb.name), stdin=stdin)

    def look(self, directory: str, *, folder: str = "") -> Facts:
        """Find out about a directory of this machine, in process."""
        try:
            return read_facts(directory, folder, version=_local_version())
        except PermissionError as error:
            raise NeedsRoot(f"reading {visible(directory)} needs root") from error
        except OSError as error:
            raise BackupError(
                f"{visible(directory)} cannot be looked at: {error.strerror}"
            ) from error

    def listing(
        self, directory: str, state: str, *names: str
    ) -> tuple[Listing, tuple[bytes | None, ...]]:
        """Look at a directory of this machine, one ioctl a snapshot."""
        try:
            directory = os.path.realpath(directory)
            paths = (f"{state}/{name}" for name in names)
            return read_listing(directory), tuple(map(_read_if_there, paths))
        except OSError as error:
            raise ListingFailed(
                f"the snapshots in {visible(directory)} cannot be listed:"
                f" {error.strerror}"
            ) from error

    def look_closely(
        self, directory: str, tree_ids: Sequence[int], *, are_checkpoints: bool = False
    ) -> Seal:
        """Look at subvolumes of a filesystem here."""
        try:
            return look_closely(
                os.path.realpath(directory), tree_ids, are_checkpoints=are_checkpoints
            )
        except OSError as error:
            raise ListingFailed(
                f"{visible(directory)} cannot be looked at: {error.strerror}"
            ) from error

    @contextmanager
    def lock(
        self, state: str, wait_s: float, who: str, preparation: Sequence[str] = ()
    ) -> Iterator[Say]:
        """Hold a ``flock`` on the directory of our bookkeeping."""
        if preparation:
            self.call(wire.PREPARE, state, *preparation)
        deadline = time.monotonic() + wait_s
        holder = os.path.join(state, "holder")
        descriptor = _open_state(state)
        try:
            while not _flocked(descriptor, fcntl.LOCK_EX):
                check_interrupted()
                if time.monotonic() >= deadline:
                    raise LockHeld(os.fsdecode(_read_if_there(holder) or b""))
                time.sleep(0.2)

            def say(text: str) -> None:
                with contextlib.suppress(OSError):
                    _write_plainly(holder, text.encode(errors="surrogateescape"))

            with contextlib.suppress(OSError):  # a beat is of a lock from elsewhere
                os.unlink(os.path.join(state, "beat"))
            say(who)
            yield say
        finally:
            os.close(descriptor)

    def held(self, state: str) -> str | None:
        """Try for a shared lock, which ends at once."""
        if not os.path.lexists(state):
            return None
        descriptor = _open_state(state)
        try:
            if _flocked(descriptor, fcntl.LOCK_SH):
                return None
        finally:
            os.close(descriptor)
        return os.fsdecode(_read_if_there(os.path.join(state, "holder")) or b"")

    def put(self, state: str, name: str, content: bytes) -> None:
        """Replace a small file of our bookkeeping."""
        try:
            write_atomically(os.path.join(state, name), content)
        except OSError as error:
            raise BackupError(
                f"{visible(os.path.join(state, name))} cannot be written:"
                f" {error.strerror}"
            ) from error


@functools.cache
def _local_version() -> tuple[int, int] | None:
    command = Command(("btrfs", "--version"), label="btrfs")
    try:
        return parse_version(run(command, check=False).stdout.decode())
    except CommandNotStarted:
        return None


def _read_if_there(path: str) -> bytes | None:
    """Read a small file; nothing (which no record is) if it cannot be read."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        return None
    except OSError:
        return b""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return b""
    with open(descriptor, "rb") as file:
        try:
            return file.read()
        except OSError:
            return b""


def _write_plainly(path: str, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)


def _open_state(state: str) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(state, flags)
    except OSError as error:
        raise BackupError(
            f"{visible(state)} must be a directory of ours: {error.strerror}"
        ) from error


def _flocked(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno == errno.EWOULDBLOCK:
            return False
        raise
    return True
