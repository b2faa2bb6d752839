"""The words of cp, tar and stat about files that they could not read, or not take.

All three continue with the next file, so what they name is all that is missing. GNU
programs quote names as a shell does; tar writes them with the escapes of C.
"""

import os
import re
from collections.abc import Mapping

#: The reason for a socket, which an archive cannot have.
SOCKET = "a socket, without data"

_QUOTED = r"""((?:'[^']*'|"[^"]*"|\$'(?:[^'\\]|\\.)*'|\\')+)"""
_BY_CP_OR_STAT = re.compile(
    rf"(?:cp|stat): (?:error reading|error copying|cannot (?:open|access|stat|statx"
    rf"|read symbolic link)) {_QUOTED}(?: for reading| to {_QUOTED})?: ([^:]+)"
)
# In a snapshot, no file shrinks: tar could read a beginning of it.
_BY_TAR = re.compile(
    r"tar: (.+): (?:(socket) ignored|(?:Cannot (?:open|stat|savedir|readlink)"
    r"|Read error at byte \d+, while reading \d+ bytes): ([^:]+)"
    r"|File shrank by \d+ bytes?; padding with zeros)"
)
#: Ends the words if tar failed at some files; then its archive is whole (``pack``).
_IN_PART = re.compile("tar: (?:status [12]|Exiting with failure status.*)")
_PIECE = re.compile(r"""'([^']*)'|"([^"]*)"|\$'((?:[^'\\]|\\.)*)'|\\(')""")
_ESCAPE = re.compile(r"\\([0-7]{3}|.)", re.DOTALL)
_ESCAPED = dict(zip("abfnrtv", "\a\b\f\n\r\t\v"))


def left_by_copy(stderr: str) -> Mapping[str, str] | None:
    """Return the paths that cp or stat could not read, with the reasons.

    :returns: ``None`` if they complain of anything else.
    """
    found: dict[str, str] = {}
    for line in filter(None, stderr.splitlines()):
        if not (match := _BY_CP_OR_STAT.fullmatch(line)):
            return None
        found[_relative(_unquoted(match[1]))] = f"cannot be read: {match[3]}"
    return found


def left_by_tar(stderr: str) -> Mapping[str, str] | None:
    """Return the paths that are not in an archive of tar, with the reasons.

    A file that was read in part is in the archive, filled up with zeros.

    :returns: ``None`` if tar failed at anything else.
    """
    lines = [line for line in stderr.splitlines() if line.startswith("tar: ")]
    has_failed = any(map(_IN_PART.fullmatch, lines))
    found: dict[str, str] = {}
    for line in lines:
        if match := _BY_TAR.fullmatch(line):
            why = match[3] or "only the beginning of it"
            reason = SOCKET if match[2] else f"cannot be read: {why}"
            found[_relative(_unescaped(match[1]))] = reason
        elif has_failed and not _IN_PART.fullmatch(line):
            return None
    return found


def _unquoted(text: str) -> str:
    """Return a name that is quoted as for a shell."""
    return "".join(
        _unescaped(piece[3]) if piece[3] else "".join(filter(None, piece.groups()))
        for piece in _PIECE.finditer(text)
    )


def _unescaped(text: str) -> str:
    """Return a name without the escapes of C."""

    def one(match: re.Match[str]) -> bytes:
        word = match[1]
        if len(word) == 3:
            return bytes((int(word, 8),))
        return _ESCAPED.get(word, word).encode(errors="surrogateescape")

    raw, end = b"", 0
    for match in _ESCAPE.finditer(text):
        raw += os.fsencode(text[end : match.start()]) + one(match)
        end = match.end()
    return os.fsdecode(raw + os.fsencode(text[end:]))


def _relative(path: str) -> str:
    return path.removeprefix("./")
