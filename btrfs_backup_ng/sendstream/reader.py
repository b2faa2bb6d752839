"""The reader of send streams: bytes to commands, or the damage that prevents it.

The input may be hostile. No length in it is used before it is checked, so a reader
never holds more than a block and a command (:data:`MAX_COMMAND`).
"""

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from btrfs_backup_ng.sendstream.format import (
    COMMAND,
    LAST_VERSION,
    MAGIC,
    MAX_COMMAND,
    PREAMBLE_SIZE,
    VERSION,
    Attribute,
    Kind,
    StreamDamaged,
    checksum,
)

#: Limit on a path or name: PATH_MAX of Linux without the NUL at its end.
MAX_TEXT = 4095
BLOCK = 256 << 10

#: Offset of a command in the input, protocol of its stream, kind, raw attributes.
Frame = tuple[int, int, int, bytes]

# Required attributes, as btrfs-progs reads them: common/send-stream.c.
_A = Attribute
_NEEDED_BY: dict[Kind, tuple[Attribute, ...]] = {
    Kind.SUBVOL: (_A.PATH, _A.UUID, _A.CTRANSID),
    Kind.SNAPSHOT: (_A.PATH, _A.UUID, _A.CTRANSID, _A.CLONE_UUID, _A.CLONE_CTRANSID),
    Kind.MKFILE: (_A.PATH, _A.INO),
    Kind.MKDIR: (_A.PATH, _A.INO),
    Kind.MKNOD: (_A.PATH, _A.INO, _A.MODE, _A.RDEV),
    Kind.MKFIFO: (_A.PATH, _A.INO),
    Kind.MKSOCK: (_A.PATH, _A.INO),
    Kind.SYMLINK: (_A.PATH, _A.INO, _A.PATH_LINK),
    Kind.RENAME: (_A.PATH, _A.PATH_TO),
    Kind.LINK: (_A.PATH, _A.PATH_LINK),
    Kind.UNLINK: (_A.PATH,),
    Kind.RMDIR: (_A.PATH,),
    Kind.SET_XATTR: (_A.PATH, _A.XATTR_NAME, _A.XATTR_DATA),
    Kind.REMOVE_XATTR: (_A.PATH, _A.XATTR_NAME),
    Kind.WRITE: (_A.PATH, _A.FILE_OFFSET, _A.DATA),
    Kind.CLONE: (
        *(_A.PATH, _A.FILE_OFFSET, _A.CLONE_LEN, _A.CLONE_UUID),
        *(_A.CLONE_CTRANSID, _A.CLONE_PATH, _A.CLONE_OFFSET),
    ),
    Kind.TRUNCATE: (_A.PATH, _A.SIZE),
    Kind.CHMOD: (_A.PATH, _A.MODE),
    Kind.CHOWN: (_A.PATH, _A.UID, _A.GID),
    Kind.UTIMES: (_A.PATH, _A.ATIME, _A.MTIME, _A.CTIME),
    Kind.END: (),
    Kind.UPDATE_EXTENT: (_A.PATH, _A.FILE_OFFSET, _A.SIZE),
    Kind.FALLOCATE: (_A.PATH, _A.FALLOCATE_MODE, _A.FILE_OFFSET, _A.SIZE),
    Kind.FILEATTR: (_A.PATH, _A.FILEATTR),
    Kind.ENCODED_WRITE: (
        *(_A.PATH, _A.FILE_OFFSET, _A.UNENCODED_FILE_LEN),
        *(_A.UNENCODED_LEN, _A.UNENCODED_OFFSET, _A.DATA),
    ),
    Kind.ENABLE_VERITY: (
        *(_A.PATH, _A.VERITY_ALGORITHM, _A.VERITY_BLOCK_SIZE),
        *(_A.VERITY_SALT_DATA, _A.VERITY_SIG_DATA),
    ),
}
_TIMES = (_A.CTIME, _A.MTIME, _A.ATIME, _A.OTIME)
_LENGTHS = {
    **dict.fromkeys((_A.UUID, _A.CLONE_UUID), 16),
    **dict.fromkeys(_TIMES, 12),
    **dict.fromkeys((_A.CTRANSID, _A.INO, _A.SIZE, _A.MODE, _A.UID, _A.GID), 8),
    **dict.fromkeys((_A.RDEV, _A.FILE_OFFSET, _A.CLONE_CTRANSID), 8),
    **dict.fromkeys((_A.CLONE_OFFSET, _A.CLONE_LEN, _A.FILEATTR), 8),
    **dict.fromkeys((_A.UNENCODED_FILE_LEN, _A.UNENCODED_LEN), 8),
    **{_A.UNENCODED_OFFSET: 8, _A.VERITY_ALGORITHM: 1, _A.VERITY_BLOCK_SIZE: 4},
    **dict.fromkeys((_A.FALLOCATE_MODE, _A.COMPRESSION, _A.ENCRYPTION), 4),
}

# The same by number, for speed; 0 does not exist.
_KINDS = (Kind.END, *Kind)
_USUAL = tuple(_NEEDED_BY[kind] for kind in _KINDS)
_END, _PATH = int(Kind.END), int(Attribute.PATH)
# Attributes of fixed size by type and size as one number, the size above; others by
# type.
_ATTRIBUTE = struct.Struct("<I")
_FIXED = {name | size << 16: name for name, size in _LENGTHS.items()}
_TEXT = {
    int(name): name
    for name in (_A.PATH, _A.PATH_TO, _A.PATH_LINK, _A.CLONE_PATH, _A.XATTR_NAME)
}
_BYTES = {
    int(name): name
    for name in (_A.XATTR_DATA, _A.DATA, _A.VERITY_SALT_DATA, _A.VERITY_SIG_DATA)
}
_DATA = Attribute.DATA  # looking it up takes as long as reading it
_DATA_TYPE = _DATA.to_bytes(2, "little")


class StreamCommand(NamedTuple):
    """One command of a send stream.

    It has all attributes that its kind requires, each of the right length. If one comes
    twice, the last one counts, as for ``btrfs receive``.

    :ivar offset: of the command in the input.
    """

    offset: int
    kind: Kind
    attributes: dict[Attribute, bytes]

    @property
    def path(self) -> bytes:
        """Return its path, relative to the subvolume; b"" is its top.

        :raises StreamDamaged: if it has none, like END.
        """
        return self.value(Attribute.PATH)

    def value(self, attribute: Attribute) -> bytes:
        """Return an attribute unchanged.

        :raises StreamDamaged: if it is missing.
        """
        try:
            return self.attributes[attribute]
        except KeyError:
            raise StreamDamaged(
                self.offset, f"{self.kind.name} has no {attribute.name}"
            ) from None

    def number(self, attribute: Attribute) -> int:
        """Return an attribute as a number.

        :raises StreamDamaged: if it is missing, or not a number.
        """
        value = self.value(attribute)
        if len(value) > 8 or len(value) != _LENGTHS.get(attribute):
            raise StreamDamaged(self.offset, f"{attribute.name} is not a number")
        return int.from_bytes(value, "little")

    def time_ns(self, attribute: Attribute) -> int:
        """Return an attribute as a time, in nanoseconds since 1970.

        :raises StreamDamaged: if it is missing, or not a time.
        """
        value = self.value(attribute)
        if len(value) != 12:
            raise StreamDamaged(self.offset, f"{attribute.name} is not a time")
        seconds = int.from_bytes(value[:8], "little", signed=True)
        return seconds * 10**9 + int.from_bytes(value[8:], "little")


def read_commands(
    read: Callable[[int], bytes], *, check: bool = True
) -> Iterator[StreamCommand]:
    """Read every command of the streams on an input, END included.

    Several streams may follow one another, as ``btrfs receive`` accepts them: after END
    comes the end of the input, or the next stream. To read one stream, stop at END; up
    to a block of the following input has been read by then.

    :param read: returns up to the given number of bytes; none only at the end.
    :param check: compare checksums, which takes most of the time.
    :raises StreamDamaged: if anything is wrong.
    """
    return map(parse_frame, read_frames(read, check=check))


def read_frames(read: Callable[[int], bytes], *, check: bool = True) -> Iterator[Frame]:
    """Read the same commands without their attributes, which is faster.

    :raises StreamDamaged: if anything else is wrong.
    """
    source = _Source(read)
    source.fill(1)
    while True:
        version = _take_preamble(source)
        yield from _read_to_end(source, version, check=check)
        if not source.fill(1):
            return


def parse_frame(frame: Frame) -> StreamCommand:
    """Read the attributes of a command.

    :raises StreamDamaged: if they are not those that its kind requires.
    """
    offset, version, kind, body = frame
    attributes: dict[Attribute, bytes] = {}
    unpack, fixed, text = _ATTRIBUTE.unpack_from, _FIXED, _TEXT
    start = 0
    end = len(body)
    while start < end:
        if start + 4 > end:
            attributes[_DATA] = _take_short_data(frame, start)
            break
        (header,) = unpack(body, start)
        stop = start + 4 + (header >> 16)
        value = body[start + 4 : stop]
        name = fixed.get(header)
        if name is None:
            name = text.get(header & 0xFFFF)
            if name is None:
                name, value, stop = _take_data(frame, start, header)
            elif b"\0" in value or len(value) > MAX_TEXT:
                raise StreamDamaged(offset, f"{name.name} is not a path or name")
        attributes[name] = value
        start = stop
    if start > end:
        raise StreamDamaged(offset, _cut_off(kind))
    if tuple(attributes) != _USUAL[kind]:
        for name in _NEEDED_BY[Kind(kind)]:
            if name not in attributes:
                raise StreamDamaged(offset, f"{Kind(kind).name} has no {name.name}")
    return StreamCommand._make((offset, _KINDS[kind], attributes))


def path_of(frame: Frame) -> bytes:
    """Return the path of a command without reading the rest of it.

    :raises StreamDamaged: if it has none, like END.
    """
    body = frame[3]
    if len(body) >= 4:
        (header,) = _ATTRIBUTE.unpack_from(body)
        end = 4 + (header >> 16)
        path = body[4:end]
        if header & 0xFFFF == _PATH and end <= len(body) and b"\0" not in path:
            if len(path) <= MAX_TEXT:
                return path
    return parse_frame(frame).path  # the kernel always puts it first


class _Source:
    """An input, and the part of it in memory.

    :ivar at: offset of the next command in the buffer.
    :ivar base: offset of the buffer in the input.
    """

    __slots__ = ("_read", "at", "base", "buffer")

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self.buffer = b""
        self.at = self.base = 0

    def fill(self, count: int) -> bool:
        """Read until the buffer has ``count`` bytes from ``at``, or the input ends."""
        if len(self.buffer) - self.at >= count:
            return True
        buffer = bytearray(self.buffer[self.at :])
        while len(buffer) < count and (block := self._read(BLOCK)):
            buffer += block
        self.buffer = bytes(buffer)
        self.base += self.at
        self.at = 0
        return len(buffer) >= count


def _take_preamble(source: _Source) -> int:
    if not source.fill(PREAMBLE_SIZE):
        why = "the input ends within the preamble"
        raise StreamDamaged(source.base, why if source.buffer else "the input is empty")
    start, offset = source.at, source.base + source.at
    source.at += PREAMBLE_SIZE
    if not source.buffer.startswith(MAGIC, start):
        raise StreamDamaged(offset, "no send stream starts here")
    (version,) = VERSION.unpack_from(source.buffer, start + len(MAGIC))
    if not 1 <= version <= LAST_VERSION:
        raise StreamDamaged(offset, f"unknown protocol {version}")
    return int(version)


def _read_to_end(source: _Source, version: int, *, check: bool) -> Iterator[Frame]:
    """Yield the commands of one stream; END is the last."""
    unpack, header = COMMAND.unpack_from, COMMAND.size
    buffer, at, base, limit = source.buffer, source.at, source.base, len(source.buffer)
    while True:
        needed = header
        if at + header <= limit:
            size, kind, wanted = unpack(buffer, at)
            if size > MAX_COMMAND or not 0 < kind < len(_KINDS):
                raise StreamDamaged(base + at, _no_command(kind, size))
            end = at + header + size
            if end <= limit:
                if check and wanted != checksum(buffer, at, end):
                    raise StreamDamaged(base + at, "the checksum does not match")
                source.at = end
                yield base + at, version, kind, buffer[at + header : end]
                if kind == _END:
                    return
                at = end
                continue
            needed += size
        if not source.fill(needed):
            where = "within a command" if source.buffer else "before END"
            raise StreamDamaged(source.base, f"the input ends {where}")
        buffer, at, base, limit = source.buffer, 0, source.base, len(source.buffer)


def _take_data(frame: Frame, start: int, header: int) -> tuple[Attribute, bytes, int]:
    """Return an attribute that has no fixed length and is not text, and its end."""
    offset, version, kind, body = frame
    name = _BYTES.get(header & 0xFFFF)
    if name is None:
        raise StreamDamaged(offset, _no_attribute(kind, header))
    if name is _DATA and version > 1:
        return name, body[start + 2 :], len(body)
    stop = start + 4 + (header >> 16)
    return name, body[start + 4 : stop], stop


def _take_short_data(frame: Frame, start: int) -> bytes:
    """Return DATA of at most one byte, where it has no length."""
    offset, version, kind, body = frame
    if version > 1 and body.startswith(_DATA_TYPE, start):
        return body[start + 2 :]
    raise StreamDamaged(offset, _cut_off(kind))


def _no_command(kind: int, size: int) -> str:
    if 0 < kind < len(_KINDS):
        return f"{Kind(kind).name} cannot be {size} bytes long"
    return f"unknown command {kind}"


def _no_attribute(kind: int, header: int) -> str:
    number, size = header & 0xFFFF, header >> 16
    if 1 <= number <= len(Attribute):
        return (
            f"{Attribute(number).name} of {Kind(kind).name} has the wrong length {size}"
        )
    return f"{Kind(kind).name} has an unknown attribute {number}"


def _cut_off(kind: int) -> str:
    return f"the last attribute of {Kind(kind).name} is incomplete"
