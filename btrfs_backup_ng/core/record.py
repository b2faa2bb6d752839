"""How records are read: holds, sources, what was verified, the history.

Not known is never empty: a record that is there and cannot be read is another value
than no record, and to parse it is an error with a reason.

A record (``holds.json``, ``sources.json``, ``verified.json``, the history) is read by
``record``: at most 8 MiB of it, here and on another machine; a symbolic link, a
directory, a special file, something too large, damaged or of another version is never
the same as "there is none". What cannot be read is moved aside, that is told once, and
the record is made anew; what a newer version wrote gets a name that tells that version.
The verb ``list`` answers for each record nothing (there is none), ``1`` and its
content, or ``2`` and a word (``link``, ``directory``, ``special``, ``large``,
``unread``: not readable by the user there); NUL ends each, and the NUL bytes of a
damaged record come as ``\\001``, which no record may hold either.

Not known is never empty. Where it is not known what must stay, nothing is deleted at
that place in that run (``withheld``: the reasons, each a sentence; empty if deletion
may go on), a dry run shows none, and ``prune`` refuses (exit status 4). Sending goes
on. The run ends with 0 and one warning, as all that can be done was done and the next
run deletes what this one did not.

- **Holds** are expected where there are snapshots with names of ours, except for a
  single one that a restore brought; so each run leaves a record, even an empty one. A
  lost one is made anew: all snapshots are held for each destination of the run until it
  is seen, which is most often in the same run; for each other destination that the
  history of this machine knows, what arrived there last. That is the one thing that the
  history is asked for, and it only ever keeps more.
- **Sources** are expected, for each prefix by itself, where there are received backups
  with that prefix and a time; so a first backup into an empty directory, or with a new
  prefix, is not disturbed. What an older version, another tool or ``btrfs-ssh-send``
  left there counts as lost, too. The backups are the run's own if the source has a
  snapshot of their origin, or the history tells that one was sent from it. Of all
  others it is not known whose they are: their origins are recorded beside the sources
  (``unknown``), and they stay, in later runs and in ``prune``, and do not count for the
  policy. All that is the source's own or comes later is thinned out from the next run
  on, so the disk does not fill up. If another source is still at work it signs in with
  its next backup, and then nothing is deleted, as ever.
- A person settles it with ``prune --one-source -p PREFIX PLACE``: all backups of that
  prefix are of one source. It deletes nothing. If several sources have signed in, they
  are forgotten, and the next one to send is it.
- ``unknown`` is a key more in version 1 of the record, because an older program takes
  another version for no record.
- What was **verified** is lost with its record and verified again; nothing is deleted
  because of it.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, TypeVar

from btrfs_backup_ng.__util__ import MIB

T = TypeVar("T")

#: A record that is larger was not written by this program, and is not read.
LIMIT_BYTES = 8 * MIB
#: What is above is no version of a record, but damage.
_LAST_VERSION = 9999


@dataclass(frozen=True, slots=True)
class Unread:
    """A record that is there, and that was not read.

    :ivar reason: why, as the rest of a sentence for people.
    :ivar may_be_whole: only the reading failed.
    """

    reason: str
    may_be_whole: bool = False


#: What lies under the name of a record: its bytes, or why they were not read;
#: ``None`` if there is nothing.
Content = bytes | Unread | None

LINK = Unread("it is a symbolic link")
DIRECTORY = Unread("it is a directory")
SPECIAL = Unread("it is a special file")
TOO_LARGE = Unread(f"it is larger than {LIMIT_BYTES // MIB} MiB")
FAILED = Unread("reading failed", may_be_whole=True)

#: What another machine answers in place of a record (the verb ``list``).
ANSWERS: Mapping[bytes, Unread] = {
    b"link": LINK,
    b"directory": DIRECTORY,
    b"special": SPECIAL,
    b"large": TOO_LARGE,
    b"unread": FAILED,
}


class Unreadable(ValueError):
    """A record is there, and what it says is not known.

    :ivar newer: the version of it, if a newer version of this program wrote it; else 0.
    """

    def __init__(self, reason: str, newer: int = 0) -> None:
        super().__init__(reason)
        self.newer = newer

    def name_aside(self, name: str, now: datetime) -> str:
        """Return the name that the record is moved aside to.

        It tells the program version that understands the record, if one does.

        :param name: of the record.
        :param now: aware.
        """
        stamp = now.astimezone(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        word = f"version-{self.newer}" if self.newer else "unreadable"
        return f"{name}.{word}-{stamp}"


def parse_document(
    content: bytes | Unread, version: int, build: Callable[[Any], T]
) -> T:
    """Read a record.

    :param version: the one that is understood.
    :param build: makes of the JSON document what is wanted. Whatever a document of
        another shape makes it raise means that the record is damaged.
    :raises Unreadable: if the record is not fully understood; then nothing is known.
    """
    if isinstance(content, Unread):
        raise Unreadable(content.reason)
    if len(content) > LIMIT_BYTES:
        raise Unreadable(TOO_LARGE.reason)
    try:
        document = json.loads(content.decode())
        found = document["version"]
        if type(found) is not int or found != version:
            is_newer = type(found) is int and version < found <= _LAST_VERSION
            raise Unreadable(f"version {found!r:.40}", found if is_newer else 0)
        return build(document)
    except Unreadable:
        raise
    except KeyError as error:
        raise Unreadable(f"{error} is missing") from error
    except _DAMAGE as error:
        raise Unreadable(str(error)) from error


#: What the parsing of damaged JSON, or of another shape of it, raises.
_DAMAGE = (ValueError, TypeError, AttributeError, OverflowError, RecursionError)


def as_list(value: object) -> list[Any]:
    """Return the value, which must be a list.

    :raises Unreadable: if it is something else.
    """
    if not isinstance(value, list):
        raise Unreadable(f"{value!r:.40} where a list belongs")
    return value


def as_dict(value: object) -> dict[str, Any]:
    """Return the value, which must be an object of JSON.

    :raises Unreadable: if it is something else.
    """
    if not isinstance(value, dict):
        raise Unreadable(f"{value!r:.40} where an object belongs")
    return value


def as_text(value: object) -> str:
    """Return the value, which must be a text.

    :raises Unreadable: if it is something else.
    """
    if not isinstance(value, str):
        raise Unreadable(f"{value!r:.40} where a text belongs")
    return value


def as_int(value: object) -> int:
    """Return the value, which must be a whole number.

    :raises Unreadable: if it is something else.
    """
    if type(value) is not int:
        raise Unreadable(f"{value!r:.40} where a whole number belongs")
    return value


def format_document(version: int, fields: Mapping[str, object], **how: Any) -> bytes:
    """Write a record, so that :func:`parse_document` gives the same fields.

    :param how: for ``json.dumps``.
    """
    return json.dumps({"version": version, **fields}, **how).encode("ascii") + b"\n"


def parse_answer(raw: bytes) -> Content:
    """Read what another machine answered for a record (the verb ``list``).

    :param raw: nothing, or ``1`` and the content, or ``2`` and a word of
        :data:`ANSWERS`.
    :raises ValueError: if it is something else.
    """
    kind, rest = raw[:1], raw[1:]
    if kind == b"1":
        return TOO_LARGE if len(rest) > LIMIT_BYTES else rest
    if kind == b"2" and rest in ANSWERS:
        return ANSWERS[rest]
    if raw:
        raise ValueError(f"{raw!r:.40} where a record belongs")
    return None
