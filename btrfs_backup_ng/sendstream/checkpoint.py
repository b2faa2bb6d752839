"""Checkpoints: one send stream becomes several, so that received data is saved.

``btrfs receive`` takes streams one after the other, finds the parent of each by its
UUID among the subvolumes it received before, and seals a finished one: read-only, with
the UUID of the stream as its received UUID. So every interval, between two commands,
the stream ends, and the next one continues from a snapshot of the data so far::

    body 0   SUBVOL or SNAPSHOT of the real parent   ... commands ...      END
    seal     SNAPSHOT of body 0, uuid = digest of all commands so far      END
    body 1   SNAPSHOT of the seal                    ... commands ...      END
    ...
    final    SNAPSHOT of the last body, with the real name and UUID        END

The UUID of a seal identifies its contents, and its name says how much of the stream
that is: nothing else is needed to resume there. Bodies have random UUIDs, and the
digests a key, so that none is ever taken for one of another attempt. See
``endpoint/staging``.
"""

from __future__ import annotations

from collections.abc import Callable

from btrfs_backup_ng.sendstream.crc32c import crc32c
from btrfs_backup_ng.sendstream.format import (
    ATTRIBUTE,
    COMMAND,
    MAGIC,
    PREAMBLE_SIZE,
    Attribute,
    Kind,
    StreamDamaged,
    build_command,
)
from btrfs_backup_ng.sendstream.names import body_name, seal_name

_UUID_BYTES = 16
#: Of a longer command only the header goes into the digest: its checksum represents the
#: rest, which would cost as much to digest as all else together.
_LONG = 4096
#: Size of the buffer. A shorter stream passes unchanged.
BUFFER_SIZE = 1 << 20
#: If long commands follow one another, only the head of each is read, and the rest
#: moved within the kernel; most heads fit (paths are short).
_HEAD = 512

#: Commands of which more than the header is read.
_SPECIAL = frozenset((Kind.SUBVOL, Kind.SNAPSHOT, Kind.CLONE, Kind.END))


class StreamDiffers(ValueError):
    """The stream is not the one of the checkpoint."""


class Checkpoints:
    """Add checkpoints to one stream between a reader and a writer."""

    def __init__(
        self,
        read_into: Callable[[memoryview], int],
        write: Callable[[memoryview | bytes], None],
        move: Callable[[int, bool], int],
        *,
        interval: int,
        key: bytes,
        known: tuple[int, bytes] | None,
        new_uuid: Callable[[], bytes],
        note: Callable[[int], None] = lambda offset: None,
    ) -> None:
        """Prepare; nothing is read yet.

        :param read_into: fills the beginning of a buffer and returns by how much; 0 at
            the end.
        :param write: writes its whole argument.
        :param move: moves at most this many bytes on unread, or drops them if the
            second argument is false; returns the number, 0 at the end.
        :param interval: bytes of the stream between two seals.
        :param key: of the digest; each attempt at a stream has its own, so that it
            never takes a seal of another one for its own.
        :param known: offset and digest of the seal to resume at: the stream before it
            is read, compared and dropped.
        :param note: called with the offset, repeatedly, while nothing is written.
        """
        from hashlib import blake2b  # here: it loads OpenSSL; others need only names

        self._read_into = read_into
        self._write = write
        self._move = move
        self._interval = interval
        self._known = known
        self._new_uuid = new_uuid
        self._note = note
        self._buffer = bytearray(BUFFER_SIZE)
        self._view = memoryview(self._buffer)
        self._end = 0
        self._base = 0  # offset of the buffer's first byte in the stream
        self._at = 0  # of the next command in the buffer; beyond it while one is long
        self._digest = blake2b(key=key, digest_size=_UUID_BYTES)
        self._boundary = 0
        self._over = False
        self._swaps: dict[int, int] = {}

    @property
    def offset(self) -> int:
        """Return the number of bytes taken from the stream so far."""
        return self._base + self._at

    def run(self) -> None:
        """Carry the stream to its end.

        :raises StreamDamaged: if it is truncated, or not a send stream.
        :raises StreamDiffers: if it is not the one of ``known``; then nothing was
            written.
        """
        little = min(BUFFER_SIZE, self._interval)
        while self._end < little and self._fill():
            pass
        if self._end < little and self._known is None:
            self._write(self._view[: self._end])
            return
        self._begin()
        while True:
            self._walk()
            if self._over:
                return
            if self._known:
                self._note(self._base)
            if not (self._pass_on() if self._at else self._fill()):
                raise StreamDamaged(self._base, "it ends before its END command")

    def _fill(self, size: int = BUFFER_SIZE) -> bool:
        taken = self._read_into(self._view[self._end : self._end + size])
        self._end += taken
        return taken > 0

    def _pass_on(self) -> bool:
        """Move the rest of a long command on, and those right behind it; read the next.

        Does the same as :meth:`_walk` at the lowest cost: a large file consists of long
        commands.

        :returns: false if the stream ends here.
        """
        buffer, view, header = self._buffer, self._view, COMMAND.size
        head = view[:_HEAD]
        wanted = self._known is None
        base = self._base
        left = self._at
        taken = 0
        while True:
            while left:
                moved = self._move(left, wanted)
                if not moved:
                    self._base, self._at = base, left
                    return False
                left -= moved
                base += moved
            taken = self._read_into(head)
            if taken < header or base >= self._boundary:
                break
            size, kind, _ = COMMAND.unpack_from(buffer)
            left = header + size - taken
            if size <= _LONG or kind in _SPECIAL or left < 0:
                break
            self._digest.update(view[:header])
            if wanted:
                self._write(view[:taken])
            else:
                self._note(base)
            base += taken
        self._base = base
        self._at = 0
        self._end = taken
        return taken > 0

    def _begin(self) -> None:
        """Read the preamble and the command that makes the subvolume."""
        first = PREAMBLE_SIZE
        if self._buffer[: len(MAGIC)] != MAGIC or self._end < first + COMMAND.size:
            raise StreamDamaged(0, "it does not begin like a send stream")
        self._preamble = bytes(self._view[:first])
        size, kind, _ = COMMAND.unpack_from(self._buffer, first)
        self._at = first + COMMAND.size + size
        if kind not in (Kind.SUBVOL, Kind.SNAPSHOT) or self._at > self._end:
            raise StreamDamaged(first, "it does not begin with a subvolume")
        made = self._attributes(first, self._at)
        try:
            self._name = made.pop(Attribute.PATH)
            self._uuid = made.pop(Attribute.UUID)
            self._ctransid = made.pop(Attribute.CTRANSID)
        except KeyError as error:
            raise StreamDamaged(first, f"attribute {error} is missing") from error
        self._digest.update(self._view[: self._at])
        self._drop(self._at)
        if self._known:
            self._boundary = self._known[0]
        else:
            self._open(kind, 0, list(made.items()))
            self._boundary = self._interval

    def _attributes(self, start: int, end: int) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        at = start + COMMAND.size
        while at + ATTRIBUTE.size <= end:
            kind, size = ATTRIBUTE.unpack_from(self._buffer, at)
            at += ATTRIBUTE.size
            found[kind] = bytes(self._view[at : at + size])
            at += size
        if at != end:
            raise StreamDamaged(
                self._base + start, "the attributes do not fill the command"
            )
        return found

    def _walk(self) -> None:
        """Pass on the commands in the buffer, and move the rest to its start.

        All data passes here: each command costs one iteration.
        """
        buffer, view, end = self._buffer, self._view, self._end
        unpack, header, update = COMMAND.unpack_from, COMMAND.size, self._digest.update
        clone, last = Kind.CLONE, Kind.END
        at = digested = self._at
        written = 0
        limit = self._boundary - self._base
        while at + header <= end:
            size, kind, _ = unpack(buffer, at)
            after = at + header + size
            if at >= limit and kind != last:
                update(view[digested:at])
                digested = at
                if not self._known:
                    self._write(view[written:at])
                self._seal(self._base + at)
                written = at
                limit = self._boundary - self._base
            if size > _LONG and kind != clone:  # paths may be long
                update(view[digested : at + header])
                digested = after
            elif after > end:
                break
            elif kind == clone:
                update(view[digested:after])
                digested = after
                self._redirect(at, after)
            elif kind == last:
                self._at = after
                self._finish(written)
                return
            elif kind in (Kind.SUBVOL, Kind.SNAPSHOT):
                raise StreamDamaged(self._base + at, "it creates a second subvolume")
            at = after
        if digested < at:
            update(view[digested:at])
        done = min(at, end)
        if not self._known:
            self._write(view[written:done])
        self._drop(done)
        self._at = at - done

    def _drop(self, size: int) -> None:
        rest = self._end - size
        self._buffer[:rest] = self._buffer[size : self._end]
        self._end = rest
        self._base += size
        self._at = 0

    def _redirect(self, start: int, end: int) -> None:
        """Let a clone from the subvolume itself come from its current body.

        The checksum is linear: it changes by the checksum of the difference.
        """
        if self._known:
            return
        at = start + COMMAND.size
        while at < end:
            kind, size = ATTRIBUTE.unpack_from(self._buffer, at)
            at += ATTRIBUTE.size
            if kind == Attribute.CLONE_UUID:
                break
            at += size
        if self._buffer[at : at + _UUID_BYTES] != self._uuid:
            return
        behind = end - at - _UUID_BYTES
        if behind not in self._swaps:
            difference = bytes(a ^ b for a, b in zip(self._uuid, self._body))
            self._swaps[behind] = crc32c(difference + bytes(behind))
        size, kind, checksum = COMMAND.unpack_from(self._buffer, start)
        self._buffer[at : at + _UUID_BYTES] = self._body
        checksum ^= self._swaps[behind]
        COMMAND.pack_into(self._buffer, start, size, kind, checksum)

    def _seal(self, offset: int) -> None:
        """Seal the data so far and continue; or compare it with the known seal."""
        digest = self._digest.digest()
        if self._known:
            if self._known != (offset, digest):
                raise StreamDiffers(f"the stream differs before byte {offset}")
            self._known = None
        else:
            self._end_stream()
            self._open_snapshot(seal_name(offset, self._name), digest, self._body)
            self._end_stream()
        self._open(Kind.SNAPSHOT, offset, self._parent(digest))
        self._boundary = offset + self._interval

    def _finish(self, written: int) -> None:
        """Write the end of the last body, and the snapshot itself."""
        if self._known:
            raise StreamDiffers("the stream ends before the checkpoint")
        self._write(self._view[written : self._at])
        if self._end > self._at or self._read_into(self._view):
            raise StreamDamaged(self.offset, "data follows its end")
        self._open_snapshot(self._name, self._uuid, self._body)
        self._end_stream()
        self._over = True

    def _open(self, kind: int, offset: int, parent: list[tuple[int, bytes]]) -> None:
        """Begin the stream of a body."""
        self._body = self._new_uuid()
        name = body_name(offset, self._name, self._body[-4:])
        self._swaps.clear()
        self._make(kind, name, self._body, parent)

    def _open_snapshot(self, name: bytes, uuid: bytes, parent: bytes) -> None:
        self._make(Kind.SNAPSHOT, name, uuid, self._parent(parent))

    def _parent(self, uuid: bytes) -> list[tuple[int, bytes]]:
        return [
            (Attribute.CLONE_UUID, uuid),
            (Attribute.CLONE_CTRANSID, self._ctransid),
        ]

    def _make(
        self, kind: int, name: bytes, uuid: bytes, parent: list[tuple[int, bytes]]
    ) -> None:
        identity = [
            (Attribute.PATH, name),
            (Attribute.UUID, uuid),
            (Attribute.CTRANSID, self._ctransid),
        ]
        self._write(self._preamble + build_command(kind, [*identity, *parent]))

    def _end_stream(self) -> None:
        self._write(build_command(Kind.END, ()))
