"""The comparison of two trees, each on any host."""

import functools
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

from btrfs_backup_ng.__util__ import KIB, visible
from btrfs_backup_ng.actions.verify.local_tree import CannotRead, walk
from btrfs_backup_ng.actions.verify.manifest import Difference, Entry, Garbled, compare
from btrfs_backup_ng.actions.verify.remote_tree import (
    join,
    read_digests,
    read_xattrs,
    split,
)
from btrfs_backup_ng.core.value import Value, replace
from btrfs_backup_ng.host.common import Host
from btrfs_backup_ng.process.child import PIPE, Child
from btrfs_backup_ng.process.command import (
    CommandFailed,
    Completed,
    ContactLost,
    TimedOut,
)
from btrfs_backup_ng.process.interruption import check_interrupted
from btrfs_backup_ng.process.relay import Meter
from btrfs_backup_ng.sshutil.refusal import explain_session
from btrfs_backup_ng.wire import verbs
from btrfs_backup_ng.wire.grammar import UNAVAILABLE, UNREADABLE

_BLOCK = 64 * KIB


class Tree(Value):
    """A tree that is being read.

    :ivar entries: in order; an iteration raises the errors of :func:`reading`.
    :ivar no_xattrs: why the extended attributes are not known, or "".
    """

    entries: Iterator[Entry]
    no_xattrs: str = ""


@contextmanager
def reading(
    host: Host, path: str, count: Callable[[int], None] = lambda size: None
) -> Iterator[Tree]:
    """Read a tree on its host, each file once.

    :param count: called with the number of bytes of files read since its last call.
    :raises CannotRead: if it cannot be read.
    """
    if not host.name:
        with closing(walk(path, count)) as entries:
            yield Tree(entries)
        return
    with answering(host, path) as tree:
        yield replace(tree, entries=_counted(tree.entries, count))


def _counted(entries: Iterator[Entry], count: Callable[[int], None]) -> Iterator[Entry]:
    for entry in entries:
        if entry.link in (None, entry.path):  # a file with several names is read once
            count(entry.size)
        yield entry


@contextmanager
def answering(host: Host, path: str) -> Iterator[Tree]:
    """Read a tree with the verb ``hash``, in three sessions at the same time.

    :raises CannotRead: if it cannot be read.
    """
    with ExitStack() as stack:
        answers = {}
        for part in ("tree", "data", "xattrs"):
            command = host.command(verbs.HASH, path, part, label="reading files")
            patience = replace(command.patience, longest_s=0.0)  # trees may be large
            command = replace(command, patience=patience)
            child = stack.enter_context(Child.start(command, stdin=PIPE, stdout=PIPE))
            answers[part] = _answer(child, part == "data")
        pairs = read_xattrs(split(answers["xattrs"], b"\n"))
        why = ""
        try:
            head = list(itertools.islice(pairs, 1))
        except _Unavailable as error:
            why = f"{visible(host.name) or 'this machine'} has {error.words}"
        except Garbled as error:
            raise _not_understood(host, error) from error
        entries = functools.partial(
            join,
            split(answers["tree"], b"\0"),
            read_digests(split(answers["data"], b"\0")),
            None if why else itertools.chain(head, pairs),
        )
        yield Tree(_understood(host, entries()), why)


class _Unavailable(CannotRead):
    """A program is not installed there.

    :ivar words: message of the verb, with the name of the program.
    """

    def __init__(self, completed: Completed) -> None:
        self.words = visible(completed.stderr.strip().splitlines()[-1])
        where = completed.command.label
        super().__init__(
            f"{where}: {self.words}, which this needs",
            hint="Install coreutils (8.28) and findutils there; attr for xattrs.",
        )


def _answer(child: Child, may_lack: bool) -> Iterator[bytes]:
    """Yield the output of a command in blocks, and check its exit status.

    :param may_lack: files that cannot be read are not a failure.
    """
    try:
        while block := child.read(_BLOCK):
            yield block
        completed = child.finish()
    except TimedOut as error:
        raise _explained(error) from error
    check_interrupted()
    status = completed.status
    if status == UNAVAILABLE and completed.stderr.strip():
        raise _Unavailable(completed)
    if status is None:
        raise _explained(ContactLost(completed))
    if status and not (may_lack and status == UNREADABLE):
        raise _explained(CommandFailed(completed))


def _explained(error: CommandFailed) -> CannotRead:
    """Return the error about files that cannot be read, with a hint."""
    stderr = error.completed.stderr
    hint = explain_session(stderr)
    if "sudo" in stderr or "doas" in stderr:
        hint = "Reading all files needs root there: log in as root, or let sudo run env"
    failed = CannotRead(error.message, hint=error.hint or hint)
    failed.__cause__ = error
    return failed


def _understood(host: Host, entries: Iterator[Entry]) -> Iterator[Entry]:
    try:
        yield from entries
    except Garbled as error:
        raise _not_understood(host, error) from error


def _not_understood(host: Host, error: Garbled) -> CannotRead:
    where = visible(host.name) or "this machine"
    return CannotRead(
        f"the answer of {where} about its files is not understood: {error}"
    )


#: Number of differences that are kept; all are counted.
KEPT = 1000


class Compared:
    """The result of a comparison so far.

    :ivar differences: the first :data:`KEPT`.
    :ivar count: of all differences.
    :ivar unclear: number of differences where the original cannot be read.
    :ivar by_send: the difference that ``btrfs send`` itself may make; not counted.
    :ivar entries: number of compared entries of the original.
    :ivar no_xattrs: why extended attributes could not be compared, or "".
    """

    def __init__(self) -> None:
        self.differences: list[Difference] = []
        self.count = 0
        self.unclear = 0
        self.by_send: Difference | None = None
        self.entries = 0
        self.no_xattrs = ""


class TreeLocation(Value):
    """The host and the path of a tree."""

    host: Host
    path: str


def compare_trees(
    original: TreeLocation, copy: TreeLocation, meter: Meter, compared: Compared
) -> None:
    """Compare two trees completely.

    :param meter: counts the bytes of files that are read, on both sides.
    :param compared: gets the result, also the part before a failure.
    :raises CannotRead: if one of them cannot be read.
    :raises Interrupted: after a signal to end.
    """
    meter.started = time.monotonic()

    def count(entry: Entry) -> None:
        compared.entries += 1

    with (
        reading(original.host, original.path, meter.add) as one,
        reading(copy.host, copy.path, meter.add) as other,
    ):
        compared.no_xattrs = one.no_xattrs or other.no_xattrs
        differences = compare(one.entries, other.entries, count)
        for difference in _in_order(differences):
            if difference.is_by_send:
                compared.by_send = difference
                continue
            compared.count += 1
            compared.unclear += difference.unclear
            if compared.count <= KEPT:
                compared.differences.append(difference)


def _in_order(differences: Iterator[Difference]) -> Iterator[Difference]:
    try:
        yield from differences
    except Garbled as error:
        raise CannotRead(f"the files do not come in order: {error}") from error
