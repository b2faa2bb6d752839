"""Words for people: counts, times, ages, states, relations."""

from datetime import datetime, timedelta

from btrfs_backup_ng.__util__ import format_age, format_size, visible
from btrfs_backup_ng.cli.stdout import trouble
from btrfs_backup_ng.cli.views import SnapshotView
from btrfs_backup_ng.core.model import Result, Role, Waiting
from btrfs_backup_ng.place.contents import State
from btrfs_backup_ng.place.relations import Relation
from btrfs_backup_ng.place.verified import Verified

#: Clocks differ a little; only a later date is "future".
_TOLERANCE = timedelta(minutes=10)
#: The age of a snapshot with such a date.
FUTURE = "future"


def count(kind: Role, number: int) -> str:
    """Return a number with its noun."""
    return f"{number} {kind.value}{'' if number == 1 else 's'}"


def exact(moment: datetime | None) -> str:
    """Write a time for people, in the zone of this machine."""
    if moment is None:
        return "time unknown"
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


def age(moment: datetime | None, now: datetime) -> str:
    """Return the age of a time, or "" if it is not known."""
    if moment is None:
        return ""
    if moment > now + _TOLERANCE:
        return FUTURE
    return format_age(max(now - moment, timedelta()))


def ago(moment: datetime | None, now: datetime) -> str:
    """Write the same for the middle of a sentence."""
    words = age(moment, now) or "some time"
    return "dated in the future" if words == FUTURE else f"{words} ago"


def lines(text: str) -> list[str]:
    """Return the lines of a message; none holds a line break, not even as ``\\n``."""
    return [visible(line.strip()) for line in text.splitlines() if line.strip()]


def state(view: SnapshotView) -> str:
    """Write the state of a snapshot, and why."""
    word = view.state.value
    if view.state in (State.CHANGED, State.DAMAGED):
        word = trouble(word)
    return word + (f" ({view.why})" if view.why else "")


def safe(transfer: Waiting) -> str:
    """Return the part of a transfer that need not be sent again."""
    size = transfer.size_bytes
    return f"{format_size(size)} safe there" if size else "nothing safe there yet"


def name(transfer: Waiting) -> str:
    """Return the name of the transferred snapshot."""
    return visible(transfer.name) or "nothing yet"


def described(transfer: Waiting, now: datetime) -> str:
    """Return the transferred snapshot, the part that is safe, and the start."""
    since = f"since {exact(transfer.started)} ({age(transfer.started, now)})"
    return f"{name(transfer)}, {safe(transfer)}, {since}"


def verified(seen: Verified | None, now: datetime) -> str:
    """Return the last verification of a snapshot, or "" without one."""
    if seen is None:
        return ""
    word = "verified" if seen.result is Result.GOOD else f"found {trouble('BAD')}"
    return f"{word} {ago(seen.when, now)} ({seen.level.value})"


def relations(relation: Relation, kind: Role) -> list[str]:
    """Write the relations of a snapshot or backup to other places."""
    way = "to" if kind is Role.SNAPSHOT else "from"
    parents = (
        relation.next_parent,
        relation.perhaps_next_parent,
        relation.next_parent_on_record,
    )
    others = [p for p in relation.common_with if not any(p in some for some in parents)]
    parts = (
        ("also at", others),
        (f"parent of the next transfer {way}", parents[0]),
        (f"perhaps parent of the next transfer {way}", parents[1]),
        (f"on record as parent of the next transfer {way}", parents[2]),
        ("being sent to", relation.being_sent_to),
        ("perhaps needed by", relation.perhaps_needed_by),
    )
    return [f"{words} {visible(', '.join(at))}" for words, at in parts if at]
