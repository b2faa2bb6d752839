"""The size of a transfer: a quick estimate, or the exact number of bytes.

**The estimate** comes from ``btrfs subvolume find-new``, on this machine from the same
search without a process; it is quick, and rarely too low; but each reflink of a file
counts. The check for free space uses it first, and measures only if it says that the
transfer does not fit. Before the first run there is no place for a temporary snapshot,
so a dry run counts what files share once instead.
``find-new`` writes out what the filesystem has in memory (a sync, the only effect of a
dry run on a source), and counts from the generation that it is given: that of the
parent is in the parent already.

**The measurement** reads ``btrfs send --no-data``, which prints the length of each
piece of data instead of the data. With the framing of the real commands, that gives the
size of the real stream to the byte (``sendstream.size``). If compressed data is sent
compressed, the size of each extent is looked up on this machine; for a remote source
the result is an upper bound. For millions of small files, measuring takes as long as
sending. A dry run waits for it. Where it only helps (:func:`quick_stream_size`), it is
given up at the first sign of many small commands, and beside a transfer it has the
lowest priority and a second of CPU time; the estimate counts then. The snapshot that a
run would make is measured on a temporary one (verb ``preview``).
"""

import os
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from uuid import uuid4

from btrfs_backup_ng.__util__ import KIB, MIB, BackupError, visible
from btrfs_backup_ng.btrfs import extents, ioctl
from btrfs_backup_ng.btrfs.extents import Extents
from btrfs_backup_ng.btrfs.parse import Written, parse_extent
from btrfs_backup_ng.core.model import Snapshot
from btrfs_backup_ng.endpoint.common import Endpoint, Place, new_transfer_id
from btrfs_backup_ng.host.entry import INCOMING, entered, plain
from btrfs_backup_ng.process.child import PIPE, Child
from btrfs_backup_ng.process.command import CommandFailed
from btrfs_backup_ng.process.interruption import check_interrupted
from btrfs_backup_ng.sendstream.format import StreamDamaged
from btrfs_backup_ng.sendstream.size import Compressed, predict_sizes
from btrfs_backup_ng.wire import verbs

#: Bytes in a stream for each file beside its data: mkfile, rename, chown, chmod, utimes
#: and the header of a write, with paths of some length (measured: 261).
_BESIDE = 256
#: Bytes that are read at once.
_BLOCK = MIB
# Measuring that is not waited for:
#: CPU time that it may take.
_BUDGET_S = 1.0
#: Commands after which it is asked whether it is cheap,
_LOOK_EACH = 5000
#: which it is not if they stand for less than this, each.
_SMALL = 4 * KIB
#: Longest line about an extent: two numbers of a file, and its path.
_LINE = 64 * KIB


def written_since(
    source: Endpoint,
    snapshot: Snapshot | None,
    parent: Snapshot | None,
    limit: int | None = None,
    over: threading.Event | None = None,
    *,
    once: bool = False,
) -> int:
    """Estimate the size of a stream quickly: bytes of data written since the parent.

    The stream is rarely larger, and may be smaller: it has no data that it can clone.
    Preallocated space counts in a stream, but not here.

    :param snapshot: ``None`` for the source as it is now.
    :param limit: stop counting above this.
    :param once: count what several files share (reflinks) once, as a stream clones it;
        takes memory for each extent.
    :param over: if set, stop; the result then means nothing.
    :raises BackupError: if it cannot be read.
    """
    path = source.path(snapshot.name) if snapshot else source.place.location.path
    since = parent.generation + 1 if parent else 0
    if source.place.location.is_here:
        found = _written_here(path, since, is_live=snapshot is None)
    else:
        found = _written_there(source.place, path, since, over)
    size, inode = 0, -1
    seen: set[object] = set()
    with closing(found) as written:
        for extent in written:
            check_interrupted()
            if not (once and extent.place in seen):
                size += extent.size
            if once and extent.place:
                seen.add(extent.place)
            if extent.inode != inode:
                inode, size = extent.inode, size + _BESIDE
            if (limit is not None and size > limit) or (over and over.is_set()):
                break
    return size


def _written_here(
    path: str, since: int, *, is_live: bool
) -> Generator[Written, None, None]:
    """Yield what was written to a subvolume of this machine.

    :param is_live: some of it may be in memory alone.
    :raises BackupError: if it cannot be read.
    """
    try:
        with entered(path) as descriptor:
            if is_live:
                ioctl.sync(descriptor)
            yield from extents.written_since(descriptor, since)
    except OSError as error:
        text = f"cannot read {visible(plain(path))}: {error.strerror}"
        raise BackupError(text) from error


def _written_there(
    place: Place, path: str, since: int, over: threading.Event | None
) -> Generator[Written, None, None]:
    """Yield what ``btrfs subvolume find-new`` prints, until ``over`` is set.

    :raises CommandFailed: if btrfs fails.
    """
    command = place.host.command(verbs.SIZE, path, str(since), label="btrfs find-new")
    with Child.start(command, stdout=PIPE) as child:
        for line in _lines(child, over):
            if extent := parse_extent(line):
                yield extent
        if not (over and over.is_set()):
            _check(child)


def _lines(child: Child, over: threading.Event | None) -> Iterator[bytes]:
    """Yield the lines that a child prints, until ``over`` is set.

    :raises CommandFailed: if one is too long for a line about an extent.
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
    source: Endpoint, snapshot: Snapshot, parent: Snapshot | None, protocol: str
) -> int:
    """Measure the size of a stream, from the same stream without data.

    Exact; an upper bound if a remote source sends compressed data. Takes milliseconds
    for large files, and about as long as the stream itself for small ones.

    :param protocol: as the verb ``send`` takes it.
    :raises BackupError: if btrfs fails.
    """
    size = 0
    for size in _predict(source, snapshot, parent, protocol):
        pass
    return size


def quick_stream_size(
    source: Endpoint,
    snapshot: Snapshot,
    parent: Snapshot | None,
    protocol: str,
    over: threading.Event | None = None,
    *,
    is_beside: bool = False,
) -> int | None:
    """Measure the size of a stream like :func:`stream_size` if that is cheap.

    :param over: if set, stop; the result then means nothing.
    :param is_beside: the stream itself is being sent meanwhile.
    :returns: ``None`` if it is not cheap: the stream has many small commands.
    :raises BackupError: if btrfs fails, or takes more than a second of CPU time.
    """
    end = time.thread_time() + _BUDGET_S
    size = 0
    form = "i" if is_beside else "n"
    with closing(_predict(source, snapshot, parent, protocol, form, over)) as sizes:
        for number, size in enumerate(sizes, 1):
            if number % _LOOK_EACH == 0:
                if size < number * _SMALL or time.thread_time() > end:
                    return None
    return size


def _predict(
    source: Endpoint,
    snapshot: Snapshot,
    parent: Snapshot | None,
    protocol: str,
    form: str = "n",
    over: threading.Event | None = None,
) -> Generator[int, None, None]:
    """Send without data; yield the size of the real stream after each command.

    :param form: of the dry stream, as the verb ``send`` takes it.
    """
    dry = source.send(snapshot, parent, form + protocol.removesuffix("c"), "none")
    with Child.start(dry, stdout=PIPE) as child:

        def read(size: int) -> bytes:
            return child.read(min(size, _BLOCK), over)

        try:
            with _compressed(source, snapshot, protocol) as compressed:
                yield from predict_sizes(read, compressed=compressed)
        except StreamDamaged as error:
            if over and over.is_set():
                return
            _check(child)  # an error of the sender is the more likely reason
            raise BackupError(f"{source}: {error}") from error
        _check(child)


@contextmanager
def temporary_snapshot(
    source: Place, name: str, now: datetime
) -> Iterator[Snapshot | None]:
    """Make the snapshot that a run would make, in staging, and delete it at the end.

    If this process is killed, a local one stays until the next run.

    :returns: the snapshot, named by its absolute path; ``None`` before the first run,
        as there is no staging yet, and a dry run must not create it.
    :raises CommandFailed: if it cannot be made.
    """
    if not (source.facts.has_state or source.is_prepared):
        yield None
        return
    transfer_id = new_transfer_id(now)
    words = (source.location.path, source.state, transfer_id, name)
    command = source.host.command(verbs.PREVIEW, *words, label="a dry run")
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
    """Return whether data is sent compressed, or a function for its size on disk."""
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
    """Return the inode of a file in a stream, or None if it has been renamed."""
    try:
        return os.stat(path, dir_fd=top, follow_symlinks=False).st_ino
    except OSError:
        return None


def _check(child: Child) -> None:
    completed = child.finish()
    if completed.status != 0:
        raise CommandFailed(completed)
