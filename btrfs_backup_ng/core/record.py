"""How records are read: holds, sources, verified snapshots, the history.

An unreadable record is not an empty one: parsing it is an error with a reason.

A record (``holds.json``, ``sources.json``, ``verified.json``, the history) is at most 8
MiB, here and on another machine. A symbolic link, a directory, a special file, a file
that is too large, damaged or of another version never counts as "no record". An
unreadable record is moved aside, with one warning, and a new one is written; a record
of a newer version gets a name with that version. The verb ``list`` answers for each
record nothing (it does not exist), ``1`` and its content, or ``2`` and a word
(``link``, ``directory``, ``special``, ``large``, ``unread``: not readable by the remote
user); NUL ends each, and the NUL bytes of a damaged record come as ``\\001``, which no
record may hold either.

If the reasons to keep are not known, nothing is deleted at that place in that run
(``withheld``: the reasons, each a sentence; empty if deletion is allowed), a dry run
shows no deletion, and ``prune`` refuses (exit status 4). Sending continues. The run
ends with 0 and one warning: the next run catches up on the deletions.

- **Holds** are expected if snapshots have the program's names, except for a single one
  that a restore brought; so each run leaves a record, even an empty one. To replace a
  lost one, all snapshots are held for each destination of the run until it is seen,
  most often in the same run; for each other destination in the history of this machine,
  its last snapshot that arrived. Only for this is the history needed, and it only ever
  keeps more.
- **Sources** are expected, for each prefix separately, if received backups have that
  prefix and a time; so a first backup into an empty directory, or with a new prefix, is
  not disturbed. Backups of an older version, another tool or ``btrfs-ssh-send`` count
  as lost, too. Backups belong to the run's source if the source has a snapshot of their
  origin, or the history shows that one was sent from it. The origins of all others are
  recorded beside the sources (``unknown``): they are kept, in later runs and by
  ``prune``, and do not count for the policy. The source's own backups, and all later
  ones, are pruned from the next run on, so the disk does not fill up. If another source
  is still in use, it registers with its next backup, and then nothing is deleted, as
  before.
- The user resolves this with ``prune --one-source -p PREFIX PLACE``: all backups of
  that prefix are of one source. It deletes nothing. If several sources have registered,
  they are forgotten, and the next one to send is registered.
- ``unknown`` is an additional key in version 1 of the record, because an older program
  treats another version as no record.
- The record of **verified** snapshots can be lost: they are verified again, and nothing
  is deleted because of it.
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any, TypeVar

from btrfs_backup_ng.__util__ import MIB
from btrfs_backup_ng.core.value import Value

T = TypeVar("T")

#: A larger record was not written by this program, and is not read.
LIMIT_BYTES = 8 * MIB
#: A larger number means damage, not a version.
_LAST_VERSION = 9999


class Unread(Value):
    """A record that exists and was not read.

    :ivar reason: the rest of a sentence in a message.
    :ivar may_be_whole: only the reading failed.
    """

    reason: str
    may_be_whole: bool = False


#: The content of a record, or why it was not read; None if it does not exist.
Content = bytes | Unread | None

LINK = Unread("it is a symbolic link")
DIRECTORY = Unread("it is a directory")
SPECIAL = Unread("it is a special file")
TOO_LARGE = Unread(f"it is larger than {LIMIT_BYTES // MIB} MiB")
FAILED = Unread("reading failed", may_be_whole=True)

#: Answers of another machine instead of a record (the verb ``list``).
ANSWERS: Mapping[bytes, Unread] = {
    b"link": LINK,
    b"directory": DIRECTORY,
    b"special": SPECIAL,
    b"large": TOO_LARGE,
    b"unread": FAILED,
}


class Unreadable(ValueError):
    """A record exists, and its content is not known.

    :ivar newer: its version, if a newer version of this program wrote it; else 0.
    """

    def __init__(self, reason: str, newer: int = 0) -> None:
        super().__init__(reason)
        self.newer = newer

    def name_aside(self, name: str, now: datetime) -> str:
        """Return the name to move the record aside to; it shows a newer version.

        :param name: of the record.
        :param now: aware.
        """
        stamp = now.astimezone(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        word = f"version-{self.newer}" if self.newer else "unreadable"
        return f"{name}.{word}-{stamp}"


def parse_document(
    content: bytes | Unread, version: int, build: Callable[[Any], T]
) -> T:
    """Read a record of one version; see :func:`parse_versions`."""
    return parse_versions(content, {version: build})


def parse_versions(
    content: bytes | Unread, builders: Mapping[int, Callable[[Any], T]]
) -> T:
    """Read a record.

    :param builders: for each supported version what makes the value from the JSON
        document. Any error that a document of another shape causes in it means that the
        record is damaged.
    :raises Unreadable: if the record is not fully understood; then nothing is known.
    """
    if isinstance(content, Unread):
        raise Unreadable(content.reason)
    if len(content) > LIMIT_BYTES:
        raise Unreadable(TOO_LARGE.reason)
    try:
        document = json.loads(content.decode())
        found = document["version"]
        if type(found) is not int or found not in builders:
            is_newer = type(found) is int and max(builders) < found <= _LAST_VERSION
            raise Unreadable(f"version {found!r:.40}", found if is_newer else 0)
        return builders[found](document)
    except Unreadable:
        raise
    except KeyError as error:
        raise Unreadable(f"{error} is missing") from error
    except _DAMAGE as error:
        raise Unreadable(str(error)) from error


#: Errors from parsing JSON that is damaged or of another shape.
_DAMAGE = (ValueError, TypeError, AttributeError, OverflowError, RecursionError)


# Each returns the value, which must be of that type; else it raises Unreadable.


def as_list(value: object) -> list[Any]:
    return _checked(value, list, "a list")


def as_dict(value: object) -> dict[str, Any]:
    return _checked(value, dict, "an object")


def as_text(value: object) -> str:
    return _checked(value, str, "a string")


def as_int(value: object) -> int:
    return _checked(value, int, "a whole number")


def _checked(value: object, kind: type[T], words: str) -> T:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise Unreadable(f"{value!r:.40} instead of {words}")
    return value


def format_document(version: int, fields: Mapping[str, object], **how: Any) -> bytes:
    """Return a record of these fields.

    :param how: arguments of ``json.dumps``.
    """
    return json.dumps({"version": version, **fields}, **how).encode("ascii") + b"\n"


def parse_answer(raw: bytes) -> Content:
    """Read the answer of another machine for a record (the verb ``list``).

    :param raw: nothing, or ``1`` and the content, or ``2`` and a key of
        :data:`ANSWERS`.
    :raises ValueError: if it is something else.
    """
    kind, rest = raw[:1], raw[1:]
    if kind == b"1":
        return TOO_LARGE if len(rest) > LIMIT_BYTES else rest
    if kind == b"2" and rest in ANSWERS:
        return ANSWERS[rest]
    if raw:
        raise ValueError(f"{raw!r:.40} instead of a record")
    return None
