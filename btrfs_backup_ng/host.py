"""Own where commands run: on this machine, or on one behind ssh."""

import contextlib
import errno
import fcntl
import functools
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from btrfs_backup_ng import wire
from btrfs_backup_ng.__util__ import BackupError, Refused, visible, write_atomically
from btrfs_backup_ng.btrfs.facts import parse_facts, read_facts
from btrfs_backup_ng.btrfs.listing import look_closely, parse_listing, read_listing
from btrfs_backup_ng.btrfs.parse import (
    OutputNotUnderstood,
    judge_seal,
    parse_root_items,
    parse_version,
)
from btrfs_backup_ng.model import Facts, Listing, Privilege, Seal
from btrfs_backup_ng.command import (
    Command,
    CommandFailed,
    CommandNotStarted,
    Completed,
    last_words,
)
from btrfs_backup_ng.process import PIPE, Child, check_interrupted, run
from btrfs_backup_ng.sshutil.master import SSHMasterManager
from btrfs_backup_ng.wire import Verb

log = logging.getLogger(__name__)

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
        self, directory: str, state: str, name: str
    ) -> tuple[Listing, bytes | None]:
        """Look at all snapshots of a directory, and read a file of our bookkeeping.

        :returns: the snapshots, and the file's content (``None``: no such file).
        :raises ListingFailed: if it cannot; nothing is known then.
        """

    def look_closely(self, directory: str, tree_ids: Sequence[int]) -> Seal:
        """Tell whether all of some subvolumes of a filesystem are unchanged."""

    def lock(self, state: str, wait_s: float, who: str) -> AbstractContextManager[Say]:
        """Hold the lock of a place, which dies with this process.

        :raises LockHeld: if another run holds it for longer than ``wait_s``.
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
        self, directory: str, state: str, name: str
    ) -> tuple[Listing, bytes | None]:
        """Look at a directory of this machine, one ioctl a snapshot."""
        try:
            directory = os.path.realpath(directory)
            return read_listing(directory), _read_if_there(f"{state}/{name}")
        except OSError as error:
            raise ListingFailed(
                f"the snapshots in {visible(directory)} cannot be listed:"
                f" {error.strerror}"
            ) from error

    def look_closely(self, directory: str, tree_ids: Sequence[int]) -> Seal:
        """Look at subvolumes of a filesystem here."""
        try:
            return look_closely(os.path.realpath(directory), tree_ids)
        except OSError as error:
            raise ListingFailed(
                f"{visible(directory)} cannot be looked at: {error.strerror}"
            ) from error

    @contextmanager
    def lock(self, state: str, wait_s: float, who: str) -> Iterator[Say]:
        """Hold a ``flock`` on the directory of our bookkeeping."""
        deadline = time.monotonic() + wait_s
        holder = os.path.join(state, "holder")
        descriptor = _open_state(state)
        try:
            while not _flocked(descriptor):
                check_interrupted()
                if time.monotonic() >= deadline:
                    raise LockHeld(os.fsdecode(_read_if_there(holder) or b""))
                time.sleep(0.2)

            def say(text: str) -> None:
                with contextlib.suppress(OSError):
                    _write_plainly(holder, text.encode(errors="surrogateescape"))

            say(who)
            yield say
        finally:
            os.close(descriptor)

    def put(self, state: str, name: str, content: bytes) -> None:
        """Replace a small file of our bookkeeping."""
        try:
            write_atomically(os.path.join(state, name), content)
        except OSError as error:
            raise BackupError(
                f"{visible(os.path.join(state, name))} cannot be written:"
                f" {error.strerror}"
            ) from error


class SshHost:
    """A machine behind ssh: every question is one session of the shared master.

    :param forced_sudo: use sudo there without finding out.
    """

    def __init__(self, master: SSHMasterManager, *, forced_sudo: bool) -> None:
        self._master = master
        self.name = master.name
        self._privilege = "sudo" if forced_sudo else "auto"

    def command(self, verb: Verb, *arguments: str, label: str) -> Command:
        """Give the command that does a verb there."""
        remote = verb.remote_command((self._privilege, *arguments))
        argv = self._master.command(remote)
        return Command(argv, label=f"{label} on {visible(self.name)}", reports=True)

    def call(self, verb: Verb, *arguments: str, stdin: bytes = b"") -> Completed:
        """Do a verb there."""
        return run(self.command(verb, *arguments, label=verb.name), stdin=stdin)

    def look(self, directory: str, *, folder: str = "") -> Facts:
        """Find out about a directory there: one session."""
        nonce = os.urandom(8).hex()
        answer = self.call(wire.HELLO, nonce, directory, folder).stdout
        noise, found, rest = answer.partition(nonce.encode() + b"\0")
        if noise or not found:
            words = visible(noise[:80].decode(errors="surrogateescape").strip())
            raise Refused(
                f"the login shell of {visible(self.name)} prints text of its own"
                f" ({words!r}), which would damage every transfer",
                hint="Let its start files (.bashrc, .cshrc, config.fish ...) print only"
                " in interactive shells.",
            )
        items = (os.fsdecode(i).partition("=") for i in rest.split(b"\0"))
        said = {key: value for key, _, value in items}
        if not said.get("flock"):
            raise Refused(
                f"{visible(self.name)} has no flock command, so two runs could not be"
                " kept apart",
                hint="Install util-linux or busybox there.",
            )
        if self._master.prefers_aes and said.get("aes") == "0":
            words = "%s has no AES instructions; this is faster there:  --ssh-opt %s"
            log.warning(words, self.name, "Ciphers=chacha20-poly1305@openssh.com")
        self._privilege = said.get("privilege", "none")
        if self._privilege == "none" and said.get("program"):
            raise _privilege_error(self.name, said)
        try:
            return parse_facts(said)
        except (ValueError, KeyError) as error:
            raise BackupError(
                f"{visible(self.name)} answers in a way not understood: {error}"
            ) from error

    def listing(
        self, directory: str, state: str, name: str
    ) -> tuple[Listing, bytes | None]:
        """Look at a directory there: one session, however many snapshots."""
        try:
            return parse_listing(self.call(wire.LIST, directory, state, name).stdout)
        except (CommandFailed, OutputNotUnderstood, ValueError) as error:
            raise ListingFailed(
                f"the snapshots in {visible(directory)} on {visible(self.name)} cannot"
                f" be listed: {error}"
            ) from error

    def look_closely(self, directory: str, tree_ids: Sequence[int]) -> Seal:
        """Look at subvolumes of a filesystem there: one session.

        ``UNKNOWN`` where the root tree there cannot be read.
        """
        numbers = [str(tree_id) for tree_id in tree_ids]
        text = self.call(wire.ITEMS, directory, *numbers).stdout.decode()
        items = parse_root_items(text)
        if not set(tree_ids) <= set(items):
            return Seal.UNKNOWN
        seals = [judge_seal(*items[tree_id]) for tree_id in tree_ids]
        return Seal.BROKEN if Seal.BROKEN in seals else Seal.INTACT

    @contextmanager
    def lock(self, state: str, wait_s: float, who: str) -> Iterator[Say]:
        """Hold a ``flock`` there in a session that lasts as long as the context."""
        command = self.command(wire.LOCK, state, str(int(wait_s)), who, label="lock")
        with Child.start(command, stdin=PIPE, stdout=PIPE) as child:
            assert child.stdin and child.stdout
            word = _read_line(child.stdout.fileno())
            if word == b"busy":
                raise LockHeld(os.fsdecode(child.stdout.read()))
            if word != b"locked":
                child.wait(10)
                words = visible(last_words(child.stderr_tail()))
                raise BackupError(
                    f"{visible(self.name)} gives no lock on {visible(state)}: {words}",
                    hint="The user there must own that directory, or be allowed more"
                    " than btrfs.",
                )

            def say(text: str) -> None:
                assert child.stdin
                with contextlib.suppress(OSError):
                    child.stdin.write(text.encode(errors="surrogateescape") + b"\n")
                    child.stdin.flush()

            yield say
            with contextlib.suppress(OSError):
                child.stdin.close()
            child.wait(5)

    def put(self, state: str, name: str, content: bytes) -> None:
        """Replace a small file of our bookkeeping there."""
        self.call(wire.PUT, state, name, stdin=content)


@functools.cache
def _local_version() -> tuple[int, int] | None:
    command = Command(("btrfs", "--version"), label="btrfs")
    try:
        return parse_version(run(command, check=False).stdout.decode())
    except CommandNotStarted:
        return None


def _privilege_error(name: str, said: Mapping[str, str]) -> Refused:
    """Say what it takes to run btrfs there as root."""
    if "password" in said.get("why", ""):
        why = "sudo asks for a password; unattended backups cannot type it"
    else:
        why = "btrfs needs root, and neither sudo nor doas gives it unasked"
    rule = f"{said.get('user', '')} ALL=(root) NOPASSWD: {said.get('program', '')}"
    return Refused(
        f"on {visible(name)}, {why}",
        hint="Log in as root, or allow btrfs there, with this in"
        f" /etc/sudoers.d/btrfs-backup-ng:\n  {visible(rule)}",
    )


def _read_line(descriptor: int) -> bytes:
    """Read a line, byte by byte, so that what follows stays in the pipe."""
    line = b""
    while (byte := os.read(descriptor, 1)) not in (b"", b"\n"):
        line += byte
    return line


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


def _flocked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno == errno.EWOULDBLOCK:
            return False
        raise
    return True
