"""The verbs that need no shell on this machine.

One ioctl does the work of some (:func:`do`); those with a stream are ``btrfs send`` and
``btrfs receive`` alone, if nothing has to be done beside them (:func:`start`).

Each has the arguments, the answer and the exit statuses of its script in
``wire/verbs``, which is what other machines run. A directory is entered once
(``host/entry``), and the kernel takes a name in it, never a path. So nothing is deleted
elsewhere, and no snapshot appears elsewhere: a link at its name is a name in use.
"""

import errno
import fcntl
import functools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from btrfs_backup_ng.__util__ import BackupError
from btrfs_backup_ng.btrfs import ioctl
from btrfs_backup_ng.btrfs.parse import Shown, format_show
from btrfs_backup_ng.core import codecs
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.host.entry import (
    INCOMING,
    STATE,
    NotOurs,
    check_private,
    entered,
    plain,
    refusal,
)
from btrfs_backup_ng.process.command import Command, CommandFailed, Completed
from btrfs_backup_ng.process.interruption import check_interrupted
from btrfs_backup_ng.wire import grammar, verbs
from btrfs_backup_ng.wire.grammar import Verb

log = logging.getLogger(__name__)

#: Of a name that is missing, or is a link or a file.
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class _Failed(Exception):
    """A verb ends with a status and words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.words = f"ERROR: {words}"


def can_do(verb: Verb) -> bool:
    """Return whether a verb needs no process here."""
    return verb in _ACTS


def do(verb: Verb, arguments: Sequence[str]) -> Completed:
    """Do the work of a verb.

    :raises CommandFailed: if its status is not 0.
    :raises NotOurs: if a directory of the program belongs to another user.
    :raises Interrupted: if a signal interrupted the program before.
    """
    check_interrupted()
    command = Command((verb.name, *arguments), label=verb.name)
    log.debug("+ %s", command)
    try:
        return Completed(command, 0, _ACTS[verb](*arguments), "")
    except _Failed as error:
        completed = Completed(command, error.status, b"", error.words)
        raise CommandFailed(completed) from error


def _snapshot(
    source: str, folder: str, name: str, state: str, identity: str, transfer_id: str
) -> bytes:
    """See ``snapshot.sh``."""
    with _entered(source) as origin:
        if identity == "keep":
            with _entered(folder) as directory:
                _appear(origin, directory, name)
                return b"\0" + _show(directory, name)
        with _staged(state, transfer_id) as staging:
            with _doing(f"cannot make a snapshot of {source}"):
                ioctl.make_snapshot(origin, staging, name, read_only=False)
            with _opened(staging, name) as fresh, _entered(folder) as directory:
                with _doing(f"cannot make {name} read-only"):
                    ioctl.set_read_only(fresh)
                _appear(fresh, directory, name)
                shown = _show(staging, name) + b"\0" + _show(directory, name)
            _erase(staging, [name])
        _unstage(state, transfer_id)
        return shown


def _publish(
    state: str,
    transfer_id: str,
    name: str,
    folder: str,
    target: str,
    check: str,
    *others: str,
) -> bytes:
    """See ``publish.sh``."""
    shown = b""
    with _entered(f"{state}/{INCOMING}/{transfer_id}") as staging:
        with _opened(staging, name) as arrived, _entered(folder) as directory:
            _appear(arrived, directory, target)
            if check == "1" or not _is_private(directory):
                shown = _show(directory, target)
        _erase(staging, [name, *others])
    _unstage(state, transfer_id)
    return shown


_ACTS: dict[Verb, Callable[..., bytes]] = {
    verbs.SNAPSHOT: _snapshot,
    verbs.PUBLISH: _publish,
}


def start(
    verb: Verb, arguments: Sequence[str], label: str, *, is_short: bool
) -> Command | None:
    """Return the one process that does the work of a verb, or None if none does.

    :param is_short: little comes, so neither flushes nor old checkpoints need care.
    """
    if verb is verbs.SEND:
        return _send(label, *arguments)
    if verb is verbs.RECEIVE and is_short:
        return _receive(label, *arguments)
    return None


def _send(
    label: str, form: str, parent: str, snapshot: str, codec: str, *code: str
) -> Command | None:
    """See ``send.sh``."""
    folder, _, name = snapshot.rpartition("/")
    parent_folder, _, base = parent.rpartition("/")
    is_apart = bool(parent) and parent_folder != folder
    if form not in _FORMS or codec != codecs.NONE or any(code) or is_apart:
        return None
    words = (*_FORMS[form], *(("-p", f"./{base}") if parent else ()))
    return Command(
        ("btrfs", "send", "-q", *words, "--", f"./{name}"),
        label=label,
        is_counted=True,
        ends_by_pipes=True,
        directory=_Reached(folder),
    )


#: The options of ``btrfs send`` for each protocol.
_FORMS = {
    "1": (),
    "2": ("--proto", "2"),
    "2c": ("--proto", "2", "--compressed-data"),
}


def _receive(
    label: str, state: str, transfer_id: str, name: str, codec: str, *useless: str
) -> Command | None:
    """See ``receive.sh``."""
    if codec != codecs.NONE or useless:
        return None
    return Command(
        ("btrfs", "receive", "-C", "-q", "--", "."),
        label=label,
        ends_by_pipes=True,
        directory=_Locked(state, transfer_id),
        answer=functools.partial(_arrived, state, transfer_id, name),
    )


class _Locked(Value):
    """Enters the directory of a transfer, locked for the process that inherits it.

    The lock ends with that process: see ``reap.sh``.
    """

    state: str
    transfer_id: str

    @contextmanager
    def __call__(self) -> Iterator[int]:
        with _told(self.state), _staged(self.state, self.transfer_id) as staging:
            with _doing(f"{self.transfer_id} is in use"):
                fcntl.flock(staging, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield staging


class _Reached(Value):
    """Enters a folder. Equal for equal streams, which may share a sender."""

    folder: str

    @contextmanager
    def __call__(self) -> Iterator[int]:
        state = f"{self.folder.partition('//')[0]}/{STATE}"
        with _told(state), _entered(self.folder) as directory:
            yield directory


@contextmanager
def _told(state: str) -> Iterator[None]:
    """Raise what is wrong with a directory as an error for the user."""
    try:
        yield
    except NotOurs as error:
        raise refusal(state, error.message) from error
    except _Failed as error:
        raise BackupError(str(error)) from error


def _arrived(state: str, transfer_id: str, name: str) -> bytes:
    """Return the names in the directory of a transfer, and the facts of one of them."""
    path = f"{state}/{INCOMING}/{transfer_id}"
    with _told(state), _entered(path) as staging:
        names = os.listdir(staging)
        shown = _show(staging, name) if name in names else b""
        return b"".join(os.fsencode(one) + b"\0" for one in (*names, "")) + shown


@contextmanager
def _doing(text: str) -> Iterator[None]:
    """Convert an error of the kernel to the words and the status of a verb."""
    try:
        yield
    except OSError as error:
        raise _Failed(1, f"{text}: {error.strerror}") from error


@contextmanager
def _entered(path: str) -> Iterator[int]:
    with ExitStack() as stack:
        with _doing(f"cannot enter {plain(path)}"):
            descriptor = stack.enter_context(entered(path))
        yield descriptor


@contextmanager
def _opened(directory: int, name: str) -> Iterator[int]:
    """Open a subvolume in a directory, no link to one."""
    with ExitStack() as stack:
        with _doing(f"cannot open {name}"):
            opened = ioctl.opened_directory(name, dir_fd=directory)
            descriptor = stack.enter_context(opened)
        yield descriptor


@contextmanager
def _staged(state: str, transfer_id: str) -> Iterator[int]:
    """Enter the directory of a transfer; make it if it is missing."""
    for path, name in ((state, INCOMING), (f"{state}/{INCOMING}", transfer_id)):
        with _entered(path) as directory, _doing(f"cannot make {name}"):
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=directory)
    with _entered(f"{state}/{INCOMING}/{transfer_id}") as staging:
        yield staging


def _unstage(state: str, transfer_id: str) -> None:
    """Remove the directory of a transfer if it is empty."""
    with _entered(f"{state}/{INCOMING}") as incoming, suppress(OSError):
        os.rmdir(transfer_id, dir_fd=incoming)


def _appear(source: int, directory: int, name: str) -> None:
    """Make a read-only snapshot under a free name."""
    try:
        with _doing(f"cannot make the snapshot {name}"):
            ioctl.make_snapshot(source, directory, name, read_only=True)
    except _Failed as error:
        if isinstance(error.__cause__, FileExistsError):
            error.status = grammar.EXISTS
        raise


def _is_private(directory: int) -> bool:
    """Return whether no other user can write to a directory."""
    try:
        check_private(directory, "")
    except NotOurs:
        return False
    return True


def _show(directory: int, name: str) -> bytes:
    """Return ``btrfs subvolume show`` of a snapshot that was made just now.

    The owner of the directory may have renamed it, and put anything in its place.
    """
    astray = _Failed(grammar.ASTRAY, f"{name} is no longer where it was made")
    try:
        with _opened(directory, name) as descriptor:
            if not ioctl.is_subvolume(os.fstat(descriptor)):
                raise astray
            with _doing(f"cannot read {name}"):
                info = ioctl.subvolume_info(descriptor)
    except _Failed as error:
        if getattr(error.__cause__, "errno", 0) in _NOT_THERE:
            raise astray from error
        raise
    shown = Shown(
        uuid=info.uuid,
        parent_uuid=info.parent_uuid,
        received_uuid=info.received_uuid,
        read_only=info.read_only,
        tree_id=info.tree_id,
        generation=info.generation,
        made=info.otransid,
        received=info.rtransid if info.received_uuid else 0,
    )
    return format_show(shown).encode()


def _erase(directory: int, names: Sequence[str]) -> None:
    """Delete subvolumes of a directory of the program, together and durably."""
    failure: _Failed | None = None
    for name in names:
        try:
            with _doing(f"cannot delete {name}"):
                ioctl.delete_subvolume(directory, name)
        except _Failed as error:
            failure = error
    with _doing("cannot write to the disk"):
        ioctl.commit(directory)
    if failure:
        raise failure
