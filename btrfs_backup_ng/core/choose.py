"""The words that choose a snapshot: ``latest``, a date, a name, part of a UUID."""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from btrfs_backup_ng.__util__ import Refused, UsageError, visible
from btrfs_backup_ng.core.model import Snapshot
from btrfs_backup_ng.core.naming import prefix_in
from btrfs_backup_ng.core.retention import in_order

ALL = "all"
LATEST = "latest"
YESTERDAY = "yesterday"
#: The id of the version of a file that is the present one.
NOW = "now"
_DATE = r"(\d{4}-\d\d-\d\d)(?:[ T](\d\d:\d\d)(:\d\d)?(Z|[+-]\d\d:?\d\d)?)?"
_UUID_PART = r"[0-9a-fA-F-]+"
#: Fewer digits of a UUID may match by accident.
_DIGITS = 4
#: Snapshots that an error lists.
_SHOWN = 5
#: Clocks differ a little: a snapshot dated later than this from now is not "latest".
_TOLERANCE = timedelta(minutes=10)


class NotChosen(Refused):
    """A word matches no snapshot, or more than one."""


def choose(
    word: str,
    snapshots: Sequence[Snapshot],
    *,
    dated: Sequence[Snapshot],
    place: str,
    now: datetime,
) -> Snapshot:
    """Find the snapshot that a word means.

    :param word: ``latest``; ``yesterday``, the newest before today's midnight; a date
        or a time, the newest of that day (minute, second) or before; a name; or the
        first digits of a UUID. Times without an offset are local.
    :param snapshots: candidates for a name or a UUID.
    :param dated: candidates for a time.
    :param place: its name in messages.
    :param now: aware.
    :raises NotChosen: if the word matches no snapshot, or more than one.
    :raises UsageError: if the word is a time that does not exist.
    """
    named = [s for s in snapshots if s.name == word]
    if named:
        return _only(named, word, place)
    if end := _end(word, now):
        if not dated:
            raise NotChosen(
                f"{place} has no complete snapshot", hint=_available(snapshots)
            )
        return _newest(word, dated, end, place)
    digits = word.replace("-", "").lower()
    if re.fullmatch(_UUID_PART, word) and len(digits) >= _DIGITS:
        found = [s for s in snapshots if any(_starts(s, digits))]
        if found:
            return _only(found, word, place)
    raise NotChosen(
        f"{place} has no snapshot {visible(repr(word))}",
        hint=f"{_available(snapshots)}\nUse a name, at least the first 4 digits of"
        " a UUID, latest, yesterday, or a time like 2026-11-20 or '2026-11-20 10:30'.",
    )


def is_time(word: str) -> bool:
    """Return whether a word means the newest snapshot of a time."""
    return word in (LATEST, YESTERDAY) or re.fullmatch(_DATE, word) is not None


def _starts(snapshot: Snapshot, digits: str) -> list[bool]:
    uuids = (snapshot.uuid, snapshot.received_uuid)
    return [uuid.hex.startswith(digits) for uuid in uuids if uuid]


def _only(found: Sequence[Snapshot], word: str, place: str) -> Snapshot:
    """Return the snapshot found; copies of one snapshot count as one."""
    if len({s.origin for s in found}) == 1:
        return found[0]
    lines = [f"{visible(s.name)}  {s.uuid}" for s in found]
    raise NotChosen(
        f"{visible(repr(word))} matches {len(found)} snapshots at {place}",
        hint="\n".join(lines),
    )


def _newest(
    word: str, dated: Sequence[Snapshot], end: datetime, place: str
) -> Snapshot:
    prefixes = sorted({prefix_in(s.name) for s in dated})
    if len(prefixes) > 1:
        raise NotChosen(
            f"{place} has snapshots with several prefixes, so"
            f" {visible(repr(word))} is ambiguous",
            hint="Name one:  "
            + "   or  ".join(f"-p {visible(prefix)!r}" for prefix in prefixes[:_SHOWN]),
        )
    found = [s for s in dated if s.created and s.created < end]
    if not found:
        raise NotChosen(
            f"{place} has no complete snapshot from {visible(repr(word))} or before",
            hint=_available(dated),
        )
    return in_order(found)[-1]


def _end(word: str, now: datetime) -> datetime | None:
    """Return the first moment after the time that a word means, if it means one."""
    if word == LATEST:
        return now + _TOLERANCE
    if word == YESTERDAY:
        today = now.astimezone().date()
        return datetime.combine(today, datetime.min.time()).astimezone()
    match = re.fullmatch(_DATE, word)
    if match is None:
        return None
    date, minute, second, zone = match.groups()
    try:
        given = datetime.fromisoformat(
            f"{date} {minute or '00:00'}{second or ':00'}{zone or ''}"
        )
        if not minute:
            return (given + timedelta(days=1)).astimezone()
        unit = timedelta(seconds=1) if second else timedelta(minutes=1)
        return given.astimezone() + unit
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{visible(repr(word))} is not a time that exists") from error


def _available(snapshots: Sequence[Snapshot]) -> str:
    """List the names that could be chosen instead, the newest first."""
    if not snapshots:
        return "No snapshot is available."
    newest = [visible(s.name) for s in in_order(snapshots)[: -_SHOWN - 1 : -1]]
    more = len(snapshots) - len(newest)
    return "Available: " + ", ".join(newest) + (f", and {more} more." if more else ".")


def pick(
    words: Sequence[str], snapshots: Sequence[Snapshot], place: str, now: datetime
) -> list[Snapshot]:
    """Return the snapshots that words mean, each once, in the order of the snapshots.

    :param words: names (of several snapshots, perhaps), ``all``, or words for
        :func:`choose`; no word means ``all``.
    :param now: aware.
    :raises UsageError: if a word matches no snapshot, or more than one.
    """
    wanted = set()
    for word in words or (ALL,):
        found = [s for s in snapshots if word in (ALL, s.name)]
        if not found and word != ALL:
            name = visible(place)
            try:
                found = [choose(word, snapshots, dated=snapshots, place=name, now=now)]
            except NotChosen as error:
                raise UsageError(error.message, hint=error.hint) from error
        wanted |= {snapshot.uuid for snapshot in found}
    return [snapshot for snapshot in snapshots if snapshot.uuid in wanted]


def is_in_part(snapshot: Snapshot, number: int, parts: int) -> bool:
    """Return whether a snapshot belongs, for ever, to part ``number`` (from 1)."""
    import hashlib  # here: it loads OpenSSL, and only parts need it

    digest = hashlib.sha256(snapshot.origin.bytes).digest()
    return int.from_bytes(digest[:8], "big") % parts == number - 1


def parse_version_id(text: str) -> str:
    """Read the id of a version of a file, without dashes."""
    plain = text.replace("-", "").lower()
    if plain != NOW and not re.fullmatch("[0-9a-f]{4,32}", plain):
        raise UsageError(
            f"'{visible(text)}' is not the id of a version",
            hint="versions FILE prints it before each version: 4 to 32 of the digits 0"
            " to 9 and a to f",
        )
    return plain
