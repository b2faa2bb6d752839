"""How large a transfer is going to be: quickly and roughly, or exactly.

``btrfs send --no-data`` says for each piece of data how long it is, and leaves it out.
With the framing of the real commands that is the length of the real stream, to the byte
(``sendstream.size``); for compressed data that goes as it lies on the disk, the extents
are looked up where that is possible (this machine), else it is an upper bound. It takes
as long as sending for millions of small files, so it runs beside a transfer, only if
somebody looks at the progress, and only for 2 s of CPU time; until then, and beyond, an
estimate of ``find-new`` must do. A rehearsal waits for it. What a run would snapshot is
measured on a snapshot that is gone afterwards (verb ``rehearse``). Whether there is
room is asked of ``find-new`` first, which is quick and rarely too low; only if that
says no is it measured.
"""

import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from uuid import uuid4

from btrfs_backup_ng.__util__ import KIB, MIB, BackupError
from btrfs_backup_ng.btrfs.extents import Extents
from btrfs_backup_ng.btrfs.parse import extent_size
from btrfs_backup_ng.core.model import Snapshot
from btrfs_backup_ng.endpoint.common import Endpoint, Place, new_transfer_id
from btrfs_backup_ng.host.entry import INCOMING, entered
from btrfs_backup_ng.process.child import PIPE, Child
from btrfs_backup_ng.process.command import CommandFailed, Completed, read_status
from btrfs_backup_ng.sendstream.format import StreamDamaged
from btrfs_backup_ng.sendstream.size import Compressed, predict_sizes
from btrfs_backup_ng.wire import verbs

#: What a stream says of a file beside its data, in bytes: mkfile, rename, chown, chmod,
#: utimes and the head of a write, with paths of some length (measured: 261).
_BESIDE = 256
#: How much of a dry stream is taken at once.
_BLOCK = MIB
#: No line about an extent is longer: two numbers of a file, and its path.
_LINE = 64 * KIB


def written_since(
    source: Endpoint,
    snapshot: Snapshot | None,
    parent: Snapshot | None,
    limit: int | None = None,
    over: threading.Event | None = None,
) -> int:
    """Return how many bytes of data were written since the parent, in little time.

    A stream is mostly no larger: it holds no data that it can clone. Preallocated space
    counts in a stream, and here it does not.

    :param snapshot: ``None`` for the source as it is now.
    :param limit: if it is more than this, how much more is of no interest.
    :param over: nobody wants to know any more; what is given then means nothing.
    :raises CommandFailed: if btrfs does not tell.
    """
    path = source.path(snapshot.name) if snapshot else source.place.location.path
    since = str(parent.generation) if parent else "0"
    command = source.place.host.command(verbs.SIZE, path, since, label="btrfs find-new")
    size, inode = 0, b""
    with Child.start(command, stdout=PIPE) as child:
        for line in _lines(child, over):
            size += extent_size(line)
            number = line[: line.find(b" ", 6)]  # ``inode 257 file offset ...``
            if number != inode:
                inode, size = number, size + _BESIDE
            if (limit is not None and size > limit) or (over and over.is_set()):
                return size
        if not (over and over.is_set()):
            _check(child)
    return size


def _lines(child: Child, over: threading.Event | None) -> Iterator[bytes]:
    """Return the lines that a child prints; until nobody wants to know any more.

    :raises CommandFailed: if one is so long that it is none.
    """
    rest = b""
    while block := child.read(_BLOCK, over):
        *whole, rest = (rest + block).split(b"\n")
        yield from whole
        if len(rest) > _LINE:
            raise child.failure(
                CommandFailed, "prints something that is not understood"
            )
    if rest:
        yield rest


def stream_size(
    source: Endpoint,
    snapshot: Snapshot,
    parent: Snapshot | None,
    protocol: str,
    over: threading.Event | None = None,
    budget_s: float = math.inf,
) -> int:
    """Return how long a stream is going to be, from its twin without data.

    Exact, but for compressed data that goes as it lies on the disk: there it is an
    upper bound. Takes milliseconds for large files, and about as long as the stream
    itself for small ones.

    :param protocol: as the verb ``send`` takes it.
    :param over: nobody wants to know any more; what is given then means nothing.
    :param budget_s: so much CPU time may be spent; then it is over, too.
    :raises BackupError: if btrfs does not tell.
    """
    dry = source.send(snapshot, parent, "n" + protocol.removesuffix("c"), "none")
    end = time.thread_time() + budget_s
    with Child.start(dry, stdout=PIPE) as child:

        def read(size: int) -> bytes:
            if over and time.thread_time() > end:
                over.set()
            if over and over.is_set():
                return b""
            return child.read(min(size, _BLOCK), over)

        size = 0
        try:
            with _compressed(source, snapshot, protocol) as compressed:
                for size in predict_sizes(read, compressed=compressed):
                    pass
        except StreamDamaged as error:
            if over and over.is_set():
                return size
            _check(child)  # more often it is the sender that has something to say
            raise BackupError(f"{source}: {error}") from error
        _check(child)
    return size


@contextmanager
def rehearsed(source: Place, name: str, now: datetime) -> Iterator[Snapshot | None]:
    """Make the snapshot that a run would make, in staging, for as long as it is needed.

    If we are killed, that of this machine stays until the next run.

    :returns: something whose size can be told, named by its whole path; ``None`` before
        the first run ever: there is no place for it, and no trace is to be left.
    :raises CommandFailed: if it cannot be made.
    """
    if not source.facts.has_state:
        yield None
        return
    transfer_id = new_transfer_id(now)
    words = (source.location.path, source.state, transfer_id, name)
    command = source.host.command(verbs.REHEARSE, *words, label="a rehearsal")
    with Child.start(command, stdin=PIPE, stdout=PIPE) as child:
        assert child.stdin
        if child.read_line() != b"ready":
            _check(child)
        yield Snapshot(
            name=f"{source.state}/{INCOMING}/{transfer_id}/{name}",
            created=now,
            uuid=uuid4(),
            parent_uuid=source.facts.uuid,
            received_uuid=None,
            generation=0,
        )
        child.stdin.close()
        _check(child)


@contextmanager
def _compressed(
    source: Endpoint, snapshot: Snapshot, protocol: str
) -> Iterator[bool | Compressed]:
    """Find out, where it can be seen, how data lies on the disk that goes like that."""
    if not protocol.endswith("c") or not source.place.location.is_here:
        yield protocol.endswith("c")
        return
    with entered(source.path(snapshot.name)) as top:
        extents = Extents(top)
        last: tuple[bytes, int | None] = b"", None

        def compressed_size(path: bytes, inode: int | None, offset: int) -> int | None:
            nonlocal last
            if inode is None and path != last[0]:
                last = path, _inode(path, top)
            inode = inode or last[1]
            return extents.compressed_size(inode, offset) if inode else None

        yield compressed_size


def _inode(path: bytes, top: int) -> int | None:
    """Return the inode of a file that a stream names, if the name is its last one."""
    try:
        return os.stat(path, dir_fd=top, follow_symlinks=False).st_ino
    except OSError:
        return None


def _check(child: Child) -> None:
    status, words = read_status(child.command, child.finish(), bytes(child.words))
    if status != 0:
        raise CommandFailed(Completed(child.command, status, b"", words))
