"""The upkeep of backups: those that each run verifies, and when it restores one."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import ClassVar
from uuid import UUID

from btrfs_backup_ng.__util__ import parse_span, visible
from btrfs_backup_ng.core.configuration import LEVELS, ConfigKey, Settings, chosen
from btrfs_backup_ng.core.model import Snapshot
from btrfs_backup_ng.core.value import Value

_OFF = "off"
_SPANS = {"daily": "1d", "weekly": "7d", "monthly": "30d"}


class Upkeep(Value):
    """What a run does for the backups at a target, after it sent.

    :ivar verify: it verifies one of so many backups; None: none.
    :ivar restore_test: the longest time between two restores as a test; None: none.
    :ivar scratch: the directory that they restore to, or "".
    """

    #: The key of each field.
    NAMES: ClassVar = ("verify", "restore-test", "scratch")

    verify: int | None = None
    restore_test: timedelta | None = None
    scratch: str = ""


def read_upkeep(*levels: Settings) -> Upkeep:
    """Return the upkeep of settings, the most general ones first."""
    found = chosen(Upkeep.NAMES, levels)
    return Upkeep(
        **{name.replace("-", "_"): each.value for name, each in found.items()}
    )


def _parts(text: str) -> int | None:
    """Read into how many parts the backups are divided, one for each run."""
    match = re.fullmatch(r"auto/([0-9]{1,6})", text)
    if text != _OFF and not (match and int(match[1])):
        raise ValueError(f"'{visible(text)}' is no part; expected auto/30 or off")
    return int(match[1]) if match else None


def _interval(text: str) -> timedelta | None:
    if text == _OFF:
        return None
    try:
        span = parse_span(_SPANS.get(text, text))
    except ValueError as error:
        words = ", ".join(_SPANS)
        text = (
            f"'{visible(text)}' is no time; expected {words}, a span like 14d, or off"
        )
        raise ValueError(text) from error
    if not span:
        raise ValueError("it must be longer than zero; to do none, write off")
    return span


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError(f"'{visible(text)}' is not an absolute path")
    return text


#: The keys of :class:`Upkeep`.
UPKEEP_KEYS = (
    ConfigKey("verify", frozenset(LEVELS), _parts),
    ConfigKey("restore-test", frozenset(LEVELS), _interval),
    ConfigKey("scratch", frozenset(LEVELS), _path),
)


def choose_longest_unverified(
    snapshots: Sequence[Snapshot], parts: int, last: Mapping[UUID, datetime]
) -> list[Snapshot]:
    """Return one of so many snapshots, rounded up: the longest unverified ones.

    Those that never were come first. So each has its turn within so many calls.

    :param last: UUID -> the time of the last check, aware.
    :returns: in the order of the snapshots.
    """
    count = -(-len(snapshots) // parts)
    never = [one for one in snapshots if one.uuid not in last]
    known = [one for one in snapshots if one.uuid in last]
    known.sort(key=lambda one: last[one.uuid])  # a stable order
    chosen = {one.uuid for one in [*never, *known][:count]}
    return [one for one in snapshots if one.uuid in chosen]
