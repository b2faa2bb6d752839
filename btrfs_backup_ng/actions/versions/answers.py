"""What the verbs answer that look for one file in many snapshots.

Paths are absolute, NUL-separated on stdin. They and what they are stay as bytes that
``surrogateescape`` stands for. Needed there: ``xargs``, ``stat``, ``sha256sum``,
``readlink``, ``cat``, of coreutils or busybox; as root if sudo or doas lets us, else as
the user there.
"""

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass

#: What is said of paths that are not there: strerror(3) of ENOENT, ENOTDIR and ELOOP.
_ABSENT = re.compile(
    rb": (No such file or directory|Not a directory"
    rb"|(Too many levels of symbolic links|Symbolic link loop))$",
    re.MULTILINE,
)


class Unclear(ValueError):
    """An answer does not tell of every path what is there."""


@dataclass(frozen=True, slots=True)
class Status:
    """What a path is.

    :ivar modified: seconds since the epoch.
    :ivar stamps: all that tells, on one filesystem, that a file was not written to
        since: inode, size, and the times of its last change to the nanosecond. The
        time of the last change of an inode (``ctime``) cannot be set by anybody.
    """

    mode: int
    size: int
    modified: int
    stamps: bytes

    @property
    def kind(self) -> int:
        """Return the type of file, as in ``stat.S_IFMT``."""
        return stat.S_IFMT(self.mode)


#: Mode, inode, size, mtime and ctime, both once more with nanoseconds.
_STATUS = re.compile(rb"([0-9a-f]+) ((\d+) (\d+) (-?\d+) -?\d+ [^/\n]+) (?=/)")


def listed(paths: Sequence[str]) -> bytes:
    """Write paths as the verbs want them."""
    return b"".join(os.fsencode(path) + b"\0" for path in paths)


def parse_stats(answer: bytes, paths: Sequence[str]) -> list[Status | None]:
    """Read the answer of the verb ``versions``.

    It comes in the order of the paths, so that no name, however it looks, can be taken
    for another one.

    :returns: what each path is; ``None`` if nothing is there.
    :raises Unclear: if it is not known of each one.
    """
    lines, separator, said = answer.rpartition(b"\0")
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
    absent = len(_ABSENT.findall(said))
    if at != len(lines) or absent != found.count(None):
        others = [line for line in said.splitlines() if not _ABSENT.search(line)]
        words = b"; ".join(others[:3]).decode(errors="surrogateescape")
        raise Unclear(words or "what stat says is not understood")
    return found


#: A backslash in front: the path behind is escaped, as GNU's sha256sum does.
_DIGEST = re.compile(rb"(\\?)([0-9a-f]{64}) [ *]")
_ESCAPES = {b"n": b"\n", b"r": b"\r", b"\\": b"\\"}


def parse_digests(answer: bytes, paths: Sequence[str]) -> list[str | None]:
    """Read the answer of the verb ``digests``.

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
        raise Unclear("what sha256sum says is not understood")
    return found


def _unescaped(text: bytes) -> bytes:
    return re.sub(rb"\\(.)", lambda m: _ESCAPES.get(m[1], m[0]), text)


def parse_links(answer: bytes, sizes: Sequence[int]) -> list[str]:
    """Read the answer of the verb ``links``: where each link leads.

    :param sizes: of the links in bytes, which is how long their targets are.
    :raises Unclear: if the answer is not understood.
    """
    found: list[str] = []
    at = 0
    for size in sizes:
        found.append(os.fsdecode(answer[at : at + size]))
        at += size + 1
        if answer[at - 1 : at] != b"\n":
            raise Unclear("what readlink says is not understood")
    if at != len(answer):
        raise Unclear("what readlink says is not understood")
    return found
