"""This machine as a host."""

import contextlib
import errno
import fcntl
import functools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

from btrfs_backup_ng.__util__ import BackupError, visible
from btrfs_backup_ng.btrfs import ioctl
from btrfs_backup_ng.btrfs.listing import look_closely, read_listing
from btrfs_backup_ng.btrfs.parse import parse_version
from btrfs_backup_ng.core import record
from btrfs_backup_ng.core.cleared import NOTHING_CLEARED
from btrfs_backup_ng.core.model import (
    STALL_TIMEOUT_S,
    Facts,
    Integrity,
    Listing,
    Privilege,
)
from btrfs_backup_ng.host.common import IF_SLOW, ListingFailed, LockHeld, NeedsRoot, Say
from btrfs_backup_ng.host.entry import (
    NotOurs,
    entered,
    fresh_file,
    plain,
    read_record,
    replace_file,
)
from btrfs_backup_ng.host.facts import read_facts
from btrfs_backup_ng.process.child import run
from btrfs_backup_ng.process.command import (
    Command,
    CommandNotStarted,
    Completed,
    patience,
)
from btrfs_backup_ng.process.interruption import check_interrupted
from btrfs_backup_ng.wire import verbs
from btrfs_backup_ng.wire.grammar import Verb


class LocalHost:
    """This machine. A process is started only if needed.

    :param silence_s: limit on the silence of a verb; 0 for no limit.
    """

    name = ""
    is_narrow = False

    def __init__(self, silence_s: float = STALL_TIMEOUT_S) -> None:
        self.silence_s = silence_s
        hint = f"Check the kernel log for errors of its disk:  dmesg | tail\n{IF_SLOW}"
        self._patience = patience(silence_s, hint)

    def waits_after_refusal(self) -> bool:
        """Return False: nothing here is refused."""
        return False

    def by_hand(self, line: str) -> str:
        """Return the line by which a person runs a line of shell here."""
        return line

    def command(
        self, verb: Verb, *arguments: str, label: str, is_short: bool = False
    ) -> Command:
        from btrfs_backup_ng.host import in_process  # here: not for a look

        if alone := in_process.start(verb, arguments, label, is_short=is_short):
            return alone
        return self.script(verb, *arguments, label=label)

    def script(self, verb: Verb, *arguments: str, label: str) -> Command:
        """Return the command that runs the script of a verb."""
        argv = verb.local_argv((Privilege.ROOT.value, *arguments))
        return Command(argv, label=label, reports=True, patience=self._patience)

    def call(self, verb: Verb, *arguments: str, stdin: bytes = b"") -> Completed:
        from btrfs_backup_ng.host import in_process  # here: not for a look

        if in_process.can_do(verb):
            return in_process.do(verb, arguments)
        return run(self.command(verb, *arguments, label=verb.name), stdin=stdin)

    def look(self, directory: str, *, folder: str = "") -> Facts:
        """Read the facts without a process."""
        try:
            return read_facts(directory, folder, version=_local_version())
        except PermissionError as error:
            raise NeedsRoot(f"reading {visible(directory)} needs root") from error
        except OSError as error:
            raise BackupError(
                f"cannot access {visible(directory)}: {error.strerror}"
            ) from error

    def listing(
        self, directory: str, state: str, *names: str
    ) -> tuple[Listing, tuple[record.Content, ...]]:
        """List a directory with one ioctl a snapshot."""
        try:
            with entered(directory) as descriptor:
                seen = read_listing(descriptor)
            return seen, _read_records(state, names)
        except OSError as error:
            raise ListingFailed(
                f"cannot list the snapshots in {visible(plain(directory))}:"
                f" {error.strerror}"
            ) from error

    def look_closely(
        self,
        directory: str,
        tree_ids: Sequence[int],
        cleared: Mapping[int, int] = NOTHING_CLEARED,
        *,
        are_checkpoints: bool = False,
    ) -> Integrity:
        try:
            with entered(directory) as descriptor:
                return look_closely(
                    descriptor, tree_ids, cleared, are_checkpoints=are_checkpoints
                )
        except OSError as error:
            raise ListingFailed(
                f"cannot access {visible(plain(directory))}: {error.strerror}"
            ) from error

    def last_change(self, directory: str, tree_id: int) -> int:
        try:
            with entered(directory) as descriptor:
                found = ioctl.read_root_item(descriptor, tree_id)
        except OSError:
            return 0
        return found[1] if found else 0

    @contextmanager
    def lock(
        self, state: str, wait_s: float, who: str, preparation: Sequence[str] = ()
    ) -> Iterator[Say]:
        """Hold a ``flock`` on the state directory."""
        if preparation:
            self.call(verbs.PREPARE, state, *preparation)
        deadline = time.monotonic() + wait_s
        with _entered_state(state) as directory:
            while not _flocked(directory, fcntl.LOCK_EX):
                check_interrupted()
                if time.monotonic() >= deadline:
                    raise LockHeld(_note_of_holder(directory))
                time.sleep(0.2)
            with contextlib.suppress(OSError):  # left by a lock of another machine
                os.unlink("beat", dir_fd=directory)
            with contextlib.ExitStack() as stack:
                note: IO[bytes] | None = None
                with contextlib.suppress(OSError):
                    descriptor = fresh_file(directory, "holder")
                    note = stack.enter_context(open(descriptor, "wb", buffering=0))

                def say(text: str) -> None:
                    if note:
                        with contextlib.suppress(OSError):
                            note.seek(0)
                            note.truncate()
                            note.write(text.encode(errors="surrogateescape"))

                say(who)
                yield say

    def held(self, state: str) -> str | None:
        """Try to take a shared lock, and release it at once."""
        try:
            with entered(state, to_look=True) as directory:
                if _flocked(directory, fcntl.LOCK_SH):
                    return None
                return _note_of_holder(directory)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _cannot_enter(state, error) from error

    def put(self, state: str, name: str, content: bytes) -> None:
        try:
            with entered(state) as directory:
                replace_file(directory, name, content)
        except OSError as error:
            raise BackupError(
                f"cannot write {visible(plain(f'{state}/{name}'))}: {error.strerror}"
            ) from error


@functools.cache
def _local_version() -> tuple[int, int] | None:
    command = Command(("btrfs", "--version"), label="btrfs", ends_by_pipes=True)
    try:
        return parse_version(run(command, check=False).stdout.decode())
    except CommandNotStarted:
        return None


def _read_records(state: str, names: Sequence[str]) -> tuple[record.Content, ...]:
    try:
        with entered(state) as directory:
            return tuple(read_record(name, dir_fd=directory) for name in names)
    except FileNotFoundError:
        return (None,) * len(names)
    except (OSError, NotOurs):
        return (record.FAILED,) * len(names)


def _note_of_holder(directory: int) -> str:
    """Return the note that the holder of a lock left, if it can be read."""
    content = read_record("holder", dir_fd=directory)
    return os.fsdecode(content) if isinstance(content, bytes) else ""


@contextmanager
def _entered_state(state: str) -> Iterator[int]:
    """Enter a state directory.

    :raises BackupError: if that is not possible.
    """
    with contextlib.ExitStack() as stack:
        try:
            directory = stack.enter_context(entered(state))
        except OSError as error:
            raise _cannot_enter(state, error) from error
        yield directory


def _cannot_enter(state: str, error: OSError) -> BackupError:
    return BackupError(f"cannot enter {visible(plain(state))}: {error.strerror}")


def _flocked(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno == errno.EWOULDBLOCK:
            return False
        raise
    return True
