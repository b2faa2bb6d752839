"""Deletions, verifications and skips at a place, for the history."""

import enum
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from btrfs_backup_ng.core.record import as_int, as_text
from btrfs_backup_ng.core.value import Value, defaults_of


class Act(enum.Enum):
    """What a command did to snapshots, or that it skipped a place."""

    DELETED = "deleted"
    VERIFIED = "verified"
    SKIPPED = "skipped"


class Deed(Value):
    """Something that one command did at a place, mostly to its snapshots.

    The names of the fields are the keys in the file.

    :ivar time: when the command began, aware UTC.
    :ivar place: the text of its location.
    :ivar how: of a verification: how deep it was; of what was skipped: why.
    :ivar count: of the snapshots; 0 of what was skipped.
    :ivar first: the name of the first one; with ``last`` instead of all of them, so
        that a line is short.
    :ivar error: what was not good; "" if all was.
    """

    time: datetime
    place: str
    act: Act
    how: str = ""
    count: int = 0
    first: str = ""
    last: str = ""
    error: str = ""


def deed(
    time: datetime,
    place: object,
    act: Act,
    names: Sequence[str],
    *,
    how: str = "",
    error: str = "",
) -> Deed:
    """Return what was done to snapshots of these names."""
    first, last = (names[0], names[-1]) if names else ("", "")
    return Deed(time, str(place), act, how, len(names), first, last, error)


def fields_of(one: Deed) -> dict[str, Any]:
    """Return a deed as a JSON document."""
    moment = one.time.astimezone(timezone.utc).isoformat(timespec="milliseconds")
    return defaults_of(Deed) | vars(one) | {"time": moment, "act": one.act.value}


def read_fields(fields: Any) -> Deed:
    """Return the deed of a JSON document; any error means that it is damaged."""
    texts = ("place", "how", "first", "last", "error")
    return Deed(
        time=datetime.fromisoformat(fields["time"]).astimezone(timezone.utc),
        act=Act(fields["act"]),
        count=as_int(fields["count"]),
        **{key: as_text(fields[key]) for key in texts},
    )
