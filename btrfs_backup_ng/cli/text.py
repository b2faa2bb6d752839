"""How what a place keeps is told: words for people, fields for programs."""

from datetime import datetime, timedelta, timezone

from btrfs_backup_ng.__util__ import BackupError, format_age, format_size, visible
from btrfs_backup_ng.core.model import Result, Role, Waiting
from btrfs_backup_ng.place.contents import Broken, Kept, State
from btrfs_backup_ng.place.forecast import Forecast
from btrfs_backup_ng.place.relations import Relation
from btrfs_backup_ng.place.verified import Verified

#: Clocks differ a little; what is dated later than that is not "now".
_TOLERANCE = timedelta(minutes=10)

Json = dict[str, object]


def count(kind: Role, number: int) -> str:
    """Write how many there are of a kind."""
    return f"{number} {kind.value}{'' if number == 1 else 's'}"


def exact(moment: datetime | None) -> str:
    """Write a time for people, in the zone of this machine."""
    if moment is None:
        return "time unknown"
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


def age(moment: datetime | None, now: datetime) -> str:
    """Write how long ago that was; nothing if nobody knows."""
    if moment is None:
        return ""
    if moment > now + _TOLERANCE:
        return "future"
    return format_age(max(now - moment, timedelta()))


def ago(moment: datetime | None, now: datetime) -> str:
    """Write the same for the middle of a sentence."""
    words = age(moment, now) or "some time"
    return "dated in the future" if words == "future" else f"{words} ago"


def state(kept: Kept) -> str:
    """Write the state of a snapshot, and why."""
    return kept.state.value + (f" ({kept.why})" if kept.why else "")


def safe(waiting: Waiting) -> str:
    """Write how much of a transfer is safe."""
    size = waiting.size_bytes
    return f"{format_size(size)} safe there" if size else "nothing safe there yet"


def name(waiting: Waiting) -> str:
    """Write what a transfer is about."""
    return visible(waiting.name) or "nothing yet"


def kept_fields(kept: Kept, now: datetime) -> Json:
    """Return the fields of a snapshot or backup."""
    snapshot = kept.snapshot
    return {
        "name": snapshot.name,
        "kind": kept.kind.value,
        **time_fields("created", snapshot.created, now),
        "state": kept.state.value,
        "complete": kept.state is State.COMPLETE,
        "why": kept.why,
        "uuid": str(snapshot.uuid),
        "parent_uuid": _text(snapshot.parent_uuid),
        "received_uuid": _text(snapshot.received_uuid),
    }


def broken_fields(broken: Broken, now: datetime) -> Json:
    """Return the fields of something damaged: those of a snapshot, as far as known."""
    return {
        "name": broken.name,
        "kind": broken.kind.value,
        **time_fields("created", broken.created, now),
        "state": State.DAMAGED.value,
        "complete": False,
        "why": broken.why,
        "uuid": None,
        "parent_uuid": None,
        "received_uuid": None,
    }


def relation(relation: Relation, kind: Role) -> str:
    """Write what a snapshot or backup is to other places; nothing if it is alone."""
    way = "to" if kind is Role.SNAPSHOT else "from"
    parents = (relation.parent, relation.perhaps_parent, relation.parent_on_record)
    others = [p for p in relation.common if not any(p in some for some in parents)]
    parts = (
        ("also at", others),
        (f"parent of the next transfer {way}", relation.parent),
        (f"perhaps parent of the next transfer {way}", relation.perhaps_parent),
        (f"on record as parent of the next transfer {way}", relation.parent_on_record),
        ("being sent to", relation.sending),
        ("perhaps needed by", relation.needed),
    )
    told = [f"{words} {visible(', '.join(at))}" for words, at in parts if at]
    return ", ".join(told)


def relation_fields(relation: Relation) -> Json:
    """Return the fields of a relation."""
    return {
        "common_with": list(relation.common),
        "next_parent": list(relation.parent),
        "perhaps_next_parent": list(relation.perhaps_parent),
        "next_parent_on_record": list(relation.parent_on_record),
        "being_sent_to": list(relation.sending),
        "perhaps_needed_by": list(relation.needed),
    }


def forecast_fields(forecast: Forecast | None) -> Json | None:
    """Return the fields of what is foretold of the next backup."""
    if forecast is None:
        return None
    cases = forecast.cases
    parents = {one.parent.name if one.parent else None for one in cases}
    return {
        "incremental": forecast.is_incremental,
        "certain": forecast.is_certain,
        "parent": parents.pop() if len(parents) == 1 else None,
        "cases": [
            {
                "prefix": one.prefix,
                "parent": one.parent.name if one.parent else None,
                "why_full": one.why_full.value if one.why_full else None,
                "refusals": list(one.refusals),
            }
            for one in cases
        ],
        "coming": list(forecast.coming),
    }


def waiting_fields(waiting: Waiting, now: datetime) -> Json:
    """Return the fields of a transfer."""
    return {
        "id": waiting.transfer_id,
        "name": waiting.name,
        **time_fields("started", waiting.started, now),
        "size_bytes": waiting.size_bytes,
        "running": waiting.running,
    }


def verified(seen: Verified | None, now: datetime) -> str:
    """Write how a snapshot was verified last; nothing if it never was."""
    if seen is None:
        return ""
    word = "verified" if seen.result is Result.GOOD else "found BAD"
    return f"{word} {ago(seen.when, now)} ({seen.level.value})"


def verified_fields(seen: Verified | None, now: datetime) -> Json:
    """Return the same as fields."""
    if seen is None:
        return {"verified": None}
    words = {"level": seen.level.value, "result": seen.result.value}
    return {"verified": {**words, **time_fields("when", seen.when, now)}}


def error_fields(error: BackupError) -> Json:
    """Return the fields of a failure."""
    return {"message": error.message, "hint": error.hint.splitlines()}


def time_fields(key: str, moment: datetime | None, now: datetime) -> Json:
    """Return the fields of a time."""
    if moment is None:
        return {key: None, "age_s": None}
    text = moment.astimezone(timezone.utc).isoformat(timespec="seconds")
    return {key: text, "age_s": round((now - moment).total_seconds())}


def _text(value: object | None) -> str | None:
    return None if value is None else str(value)
