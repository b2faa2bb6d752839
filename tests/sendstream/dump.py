"""The comparison of our reader with ``btrfs receive --dump``."""

from __future__ import annotations

import io
import itertools
import os
import re
import subprocess
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from btrfs_backup_ng.sendstream.format import (
    PREAMBLE_SIZE,
    Attribute,
    Kind,
    StreamDamaged,
    preamble,
)
from btrfs_backup_ng.sendstream.reader import StreamCommand, read_commands

_A = Attribute
_ESCAPES = {
    **{7: b"a", 8: b"b", 27: b"e", 12: b"f", 10: b"n", 13: b"r", 9: b"t", 11: b"v"},
    **{ord(" "): b" ", ord("\\"): b"\\"},
}


# What --dump takes and ours does not.  The kernel writes nothing of it: commands that
# nobody knows (--dump leaves them out) or of more than 1 MiB, protocol 0, paths with a
# NUL (--dump cuts them), and attributes of a wrong size that their command has no use
# for.
STRICTER = re.compile(
    r"unknown command|cannot be \d+ bytes long|unknown protocol 0"
    r"|is not a path or name|has the wrong length"
)
# A time goes on with its zone.
_WORD_ENDS = (b" ", b",", b"+")


class Dump(NamedTuple):
    """What ``btrfs receive --dump`` says about a stream; it stops at the first END."""

    status: int
    lines: list[bytes]


class Reading(NamedTuple):
    """What our reader says: what it read, and what was wrong then."""

    commands: list[StreamCommand]
    damage: StreamDamaged | None

    def until_end(self) -> list[StreamCommand]:
        """Return the commands of the first stream."""
        for number, command in enumerate(self.commands, 1):
            if command.kind is Kind.END:
                return self.commands[:number]
        return self.commands

    @property
    def accepts_one(self) -> bool:
        """Tell whether there is a whole stream, whatever may follow."""
        return any(command.kind is Kind.END for command in self.commands)


def dump(stream: bytes) -> Dump:
    """Ask ``btrfs receive --dump``."""
    done = subprocess.run(
        ["btrfs", "receive", "--dump"],
        input=stream,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "LC_ALL": "C", "TZ": "UTC"},
    )
    return Dump(done.returncode, done.stdout.split(b"\n")[:-1])


def read(stream: bytes, *, check: bool = True) -> Reading:
    """Ask our reader, which may raise nothing but StreamDamaged."""
    commands = []
    try:
        for command in read_commands(io.BytesIO(stream).read, check=check):
            commands.append(command)
    except StreamDamaged as damage:
        return Reading(commands, damage)
    return Reading(commands, None)


def disagreements(stream: bytes, reading: Reading | None = None) -> list[str]:
    """Say in what the two differ about the first stream of an input.

    Not counted is where ours is stricter on purpose (:data:`STRICTER`), and where
    --dump knows less or gives up over how to print something (:func:`_gives_up`).
    """
    reading = reading or read(stream)
    # btrfs-progs 6.2 knows what is new in protocol 3, but not its number.
    known = preamble(2) + stream[PREAMBLE_SIZE:]
    dumped = dump(known if stream.startswith(preamble(3)) else stream)
    told = [command for command in reading.until_end() if command.kind is not Kind.END]
    lines = list(_joined(told, dumped.lines))
    accepts = dumped.status == 0
    if not accepts and _gives_up(told[len(lines) :]):
        told = told[: len(lines)]
    elif not reading.accepts_one and STRICTER.search(str(reading.damage)):
        lines = lines[: len(told)]
    elif accepts != reading.accepts_one:
        return [f"--dump: status {dumped.status}; ours: {reading.damage}"]
    if len(told) != len(lines):
        return [f"--dump tells of {len(lines)} commands, ours of {len(told)}"]
    return list(_differing(told, lines))


def _gives_up(rest: list[StreamCommand]) -> bool:
    """Tell whether --dump cannot print the next command, though nothing is wrong.

    It prints no path that is too long with the subvolume's name before it, and no time
    whose year does not fit into an int.
    """
    if not rest:
        return False
    seconds = [
        int.from_bytes(value[:8], "little", signed=True)
        for attribute, value in rest[0].attributes.items()
        if attribute in (_A.ATIME, _A.MTIME, _A.CTIME)
    ]
    longest = max(map(len, rest[0].attributes.values()))
    return longest > 3900 or any(abs(second) > 1 << 55 for second in seconds)


def _differing(told: list[StreamCommand], lines: list[bytes]) -> Iterator[str]:
    subvolume = b"."  # for who never heard of one
    for command, line in zip(told, lines):
        if command.kind in (Kind.SUBVOL, Kind.SNAPSHOT):
            subvolume = _below(b".", command.path)
        head, *words = line_of(command, subvolume)
        said = b" " + line[len(head) :].lstrip(b" ") + b" "
        missing = [
            word
            for word in words
            if not any(b" %s%s" % (word, end) in said for end in _WORD_ENDS)
        ]
        if not line.startswith(head) or missing:
            yield f"{line!r} of --dump has not {[head, *missing]}"


def _joined(commands: list[StreamCommand], lines: list[bytes]) -> Iterator[bytes]:
    """Put lines together again that --dump breaks.

    It prints xattrs as they are, or, in newer versions (seen in 6.14), escaped as
    paths are, and without ``data=``.
    """
    waiting = iter(lines)
    for command in commands:
        parts = list(itertools.islice(waiting, 1))
        if parts and command.kind in (Kind.SET_XATTR, Kind.REMOVE_XATTR):
            name = command.value(_A.XATTR_NAME)
            data = command.attributes.get(_A.XATTR_DATA, b"").partition(b"\0")[0]
            escaped, broken = b"name=" + escape(name), (name + data).count(b"\n")
            if escaped in parts[0] and b" data=" not in parts[0]:
                parts[0] = parts[0].replace(escaped, b"name=" + name)
            else:
                parts += itertools.islice(waiting, broken)
        if parts:
            yield b"\n".join(parts)
    yield from waiting


def line_of(command: StreamCommand, subvolume: bytes) -> list[bytes]:
    """Tell how its line in --dump starts, and which words must be in it."""
    kind, number = command.kind, command.number
    whole = subvolume
    if kind not in (Kind.SUBVOL, Kind.SNAPSHOT):
        whole = _below(subvolume, command.path)
    head = b"%-16s%s" % (kind.name.lower().encode(), escape(whole))
    words: list[bytes] = []
    for name, attribute in _NUMBERS.get(kind, {}).items():
        words.append(b"%s=%d" % (name.encode(), number(attribute)))
    for name, attribute in _DATA.get(kind, {}).items():
        words.append(b"%s=%d" % (name.encode(), len(command.value(attribute))))
    for name, attribute in _UUIDS.get(kind, {}).items():
        identity = uuid.UUID(bytes=command.value(attribute))
        words.append(f"{name}={identity}".encode())
    if kind in _OTHERS:
        words += _OTHERS[kind](command, subvolume)
    return [head, *words]


def escape(path: bytes) -> bytes:
    """Write a path as --dump does: print_path_escaped() in cmds/receive-dump.c."""
    return b"".join(
        (
            b"\\" + _ESCAPES[byte]
            if byte in _ESCAPES
            else bytes([byte]) if 32 < byte < 127 else b"\\%03o" % byte
        )
        for byte in path
    )


def _below(subvolume: bytes, path: bytes) -> bytes:
    """Do as path_cat_out() in common/path-utils.c does."""
    return subvolume.removesuffix(b"/") + b"/" + path.removesuffix(b"/")


def _times(command: StreamCommand, subvolume: bytes) -> list[bytes]:
    words = []
    for attribute in (_A.ATIME, _A.MTIME, _A.CTIME):
        seconds = int.from_bytes(command.value(attribute)[:8], "little", signed=True)
        if abs(seconds) < 1 << 35:  # years of four digits
            moment = datetime.fromtimestamp(seconds, UTC)
            words.append(f"{attribute.name.lower()}={moment:%Y-%m-%dT%H:%M:%S}")
    return [word.encode() for word in words]


def _clone_source(command: StreamCommand, subvolume: bytes) -> list[bytes]:
    """Tell what is like in btrfs-progs 6.2, too.

    That keeps the length in an int, and prints the path as it is, unlike all others.
    """
    path = _below(subvolume, command.value(_A.CLONE_PATH))
    length = command.number(_A.CLONE_LEN)
    words = [b"len=%d" % length] if length < 1 << 31 else []
    return [*words, b"from=" + path] if path == escape(path) else words


_OFFSET = {"offset": _A.FILE_OFFSET}
_NUMBERS: dict[Kind, dict[str, Attribute]] = {
    Kind.SUBVOL: {"transid": _A.CTRANSID},
    Kind.SNAPSHOT: {"transid": _A.CTRANSID, "parent_transid": _A.CLONE_CTRANSID},
    Kind.WRITE: _OFFSET,
    Kind.ENCODED_WRITE: {
        **_OFFSET,
        "unencoded_file_len": _A.UNENCODED_FILE_LEN,
        "unencoded_len": _A.UNENCODED_LEN,
        "unencoded_offset": _A.UNENCODED_OFFSET,
    },
    Kind.CLONE: {**_OFFSET, "clone_offset": _A.CLONE_OFFSET},
    Kind.TRUNCATE: {"size": _A.SIZE},
    Kind.CHOWN: {"gid": _A.GID, "uid": _A.UID},
    Kind.UPDATE_EXTENT: {**_OFFSET, "len": _A.SIZE},
    Kind.FALLOCATE: {**_OFFSET, "len": _A.SIZE, "mode": _A.FALLOCATE_MODE},
    Kind.ENABLE_VERITY: {
        "algorithm": _A.VERITY_ALGORITHM,
        "block_size": _A.VERITY_BLOCK_SIZE,
    },
}
_DATA: dict[Kind, dict[str, Attribute]] = {
    Kind.WRITE: {"len": _A.DATA},
    Kind.ENCODED_WRITE: {"len": _A.DATA},
    Kind.SET_XATTR: {"len": _A.XATTR_DATA},
    Kind.ENABLE_VERITY: {
        "salt_len": _A.VERITY_SALT_DATA,
        "sig_len": _A.VERITY_SIG_DATA,
    },
}
_UUIDS: dict[Kind, dict[str, Attribute]] = {
    Kind.SUBVOL: {"uuid": _A.UUID},
    Kind.SNAPSHOT: {"uuid": _A.UUID, "parent_uuid": _A.CLONE_UUID},
}
_OTHERS: dict[Kind, Callable[[StreamCommand, bytes], list[bytes]]] = {
    Kind.MKNOD: lambda command, _: [
        b"mode=%o" % command.number(_A.MODE),
        b"dev=0x%x" % command.number(_A.RDEV),
    ],
    Kind.SYMLINK: lambda command, _: [b"dest=" + escape(command.value(_A.PATH_LINK))],
    Kind.LINK: lambda command, _: [b"dest=" + escape(command.value(_A.PATH_LINK))],
    Kind.RENAME: lambda command, subvolume: [
        b"dest=" + escape(_below(subvolume, command.value(_A.PATH_TO)))
    ],
    Kind.CLONE: _clone_source,
    Kind.SET_XATTR: lambda command, _: [b"name=" + command.value(_A.XATTR_NAME)],
    Kind.REMOVE_XATTR: lambda command, _: [b"name=" + command.value(_A.XATTR_NAME)],
    Kind.CHMOD: lambda command, _: [b"mode=%o" % command.number(_A.MODE)],
    Kind.UTIMES: _times,
    # FILEATTR: btrfs-progs 6.2 prints "0x" and the number as a decimal.
}
