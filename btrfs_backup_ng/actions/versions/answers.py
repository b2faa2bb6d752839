"""The answers of the verbs that search for one file in many snapshots.

Paths are absolute, and NUL-separated on stdin. Bytes that are not UTF-8 are kept with
``surrogateescape``. The host needs ``xargs``, ``stat``, ``sha256sum``, ``readlink`` and
``cat``, of coreutils or busybox. They run as root if sudo or doas allows it, else as
the user there.
"""

import os
import re
import stat
from collections.abc import Sequence

from btrfs_backup_ng.core.value import Value

#: Messages about missing paths: strerror(3) of ENOENT, ENOTDIR and ELOOP.
_ABSENT = re.compile(
    rb": (No such file or directory|Not a directory"
    rb"|(Too many levels of symbolic links|Symbolic link loop))$",
    re.MULTILINE,
)


class Unclear(ValueError):
    """An answer does not state the status of every path."""


class Status(Value):
    """The status of a path.

    :ivar modified: seconds since the epoch.
    :ivar stamps: inode, size, mtime and ctime to the nanosecond. If they are the same
        in two snapshots of one filesystem, the file was not written to in between:
        no program can set the ctime of an inode.
    """

    mode: int
    size: int
    modified: int
    stamps: bytes

    @property
    def kind(self) -> int:
        """Return the type of file, as in ``stat.S_IFMT``."""
        return stat.S_IFMT(self.mode)


#: Mode, inode, size, mtime and ctime; then both times with nanoseconds.
_STATUS = re.compile(rb"([0-9a-f]+) ((\d+) (\d+) (-?\d+) -?\d+ [^/\n]+) (?=/)")


def listed(paths: Sequence[str]) -> bytes:
    """Write paths in the format of the verbs."""
    return b"".join(os.fsencode(path) + b"\0" for path in paths)


def parse_stats(answer: bytes, paths: Sequence[str]) -> list[Status | None]:
    """Parse the answer of the verb ``versions``.

    It is in the order of the paths, so no name can be mistaken for another one.

    :returns: the status of each path; ``None`` if it is missing.
    :raises Unclear: if the status of a path is not known.
    """
    lines, separator, errors = answer.rpartition(b"\0")
    if not separator:
        raise Unclear("the answer is cut short")
    found: list[Status | None] = []
    at = 0
    for path in paths:
        match = _STATUS.match(lines, at)
        line = os.fsencode(path) + b"\n"
        if match and lines.startswith(line, match.end()):
            at = match.end() + len(line)
            status = Status(int(match[1], 16), int(match[4]), int(match[5]), match[2])
            found.append(status)
        else:
            found.append(None)
    absent = len(_ABSENT.findall(errors))
    if at != len(lines) or absent != found.count(None):
        others = [line for line in errors.splitlines() if not _ABSENT.search(line)]
        words = b"; ".join(others[:3]).decode(errors="surrogateescape")
        raise Unclear(words or "the output of stat is not understood")
    return found


#: A backslash at the start: GNU's sha256sum has escaped the path.
_DIGEST = re.compile(rb"(\\?)([0-9a-f]{64}) [ *]")
_ESCAPES = {b"n": b"\n", b"r": b"\r", b"\\": b"\\"}


def parse_digests(answer: bytes, paths: Sequence[str]) -> list[str | None]:
    """Parse the answer of the verb ``digests``.

    :returns: the SHA-256 of each file, in hexadecimal; ``None`` if it cannot be read.
    :raises Unclear: if the answer is not understood.
    """
    found: list[str | None] = []
    at = 0
    for path in paths:
        match, raw = _DIGEST.match(answer, at), os.fsencode(path)
        end = -1
        if match and match[1]:
            line_end = answer.find(b"\n", match.end())
            if _unescaped(answer[match.end() : line_end]) == raw:
                end = line_end + 1
        elif match and answer.startswith(raw + b"\n", match.end()):
            end = match.end() + len(raw) + 1
        if match and end > 0:
            found.append(match[2].decode())
            at = end
        else:
            found.append(None)
    if at != len(answer):
        raise Unclear("the output of sha256sum is not understood")
    return found


def _unescaped(text: bytes) -> bytes:
    return re.sub(rb"\\(.)", lambda m: _ESCAPES.get(m[1], m[0]), text)


def parse_links(answer: bytes, sizes: Sequence[int]) -> list[str]:
    """Parse the answer of the verb ``links``: the target of each link.

    :param sizes: of the links: the length of each target in bytes.
    :raises Unclear: if the answer is not understood.
    """
    found: list[str] = []
    at = 0
    for size in sizes:
        found.append(os.fsdecode(answer[at : at + size]))
        at += size + 1
    if answer != b"".join(os.fsencode(target) + b"\n" for target in found):
        raise Unclear("the output of readlink is not understood")
    return found
