"""Own what may be deleted: rules only keep, and deleted is what no rule claims."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from btrfs_backup_ng.model import Snapshot
from btrfs_backup_ng.naming import Naming

#: What is dated later than this after the start of the run is no "newest". More
#: than the run itself needs to make a snapshot, less than a clock jump that hurts.
_TOLERANCE = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to become of one snapshot, and why.

    :ivar reasons: why it stays; empty means that it is deleted.
    """

    snapshot: Snapshot
    reasons: tuple[str, ...]

    @property
    def kept(self) -> bool:
        """Whether any rule claimed it."""
        return bool(self.reasons)


#: A rule gives a reason to keep for each snapshot (by UUID) that it claims.
Rule = Callable[[Sequence[Snapshot]], Mapping[UUID, str]]


def in_order(snapshots: Collection[Snapshot]) -> list[Snapshot]:
    """Sort oldest first; the order of the input never matters."""
    return sorted(snapshots, key=_age_key)


def _age_key(snapshot: Snapshot) -> tuple[float, int, str]:
    created = snapshot.created.timestamp() if snapshot.created else float("-inf")
    return created, snapshot.generation, snapshot.name


def keep_latest(count: int, naming: Naming, now: datetime) -> Rule:
    """Keep the ``count`` newest of our own names, and all that are not ours.

    A name that is not ours, or that is dated in the future, is kept and does not
    count, so that a clock that jumped never makes a snapshot look superseded.

    :param count: at least 1: the newest is always kept.
    :param now: aware UTC.
    :raises ValueError: if ``count`` is below 1.
    """
    if count < 1:
        raise ValueError("the newest snapshot is always kept")

    def claims(snapshots: Sequence[Snapshot]) -> Mapping[UUID, str]:
        kept: dict[UUID, str] = {}
        ours: list[Snapshot] = []
        for snapshot in snapshots:
            named = naming.time_of(snapshot.name)
            if named is None:
                kept[snapshot.uuid] = "not named by us"
            elif named > now + _TOLERANCE:
                kept[snapshot.uuid] = "dated in the future"
            else:
                ours.append(snapshot)
        for snapshot in in_order(ours)[-count:]:
            kept[snapshot.uuid] = f"latest {count}"
        return kept

    return claims


def keep_origins(reasons: Mapping[UUID, str]) -> Rule:
    """Keep the snapshots with these origins: held, or common with some place."""

    def claims(snapshots: Sequence[Snapshot]) -> Mapping[UUID, str]:
        return {s.uuid: reasons[s.origin] for s in snapshots if s.origin in reasons}

    return claims


def judge(snapshots: Collection[Snapshot], rules: Sequence[Rule]) -> list[Verdict]:
    """Decide which snapshots no rule wants to keep.

    A rule can only claim snapshots, so adding one never deletes more. Without
    any rule everything is kept.

    :returns: one verdict per snapshot, oldest first.
    """
    ordered = in_order(snapshots)
    claims = [rule(ordered) for rule in rules]
    return [
        Verdict(
            snapshot,
            (
                tuple(c[snapshot.uuid] for c in claims if snapshot.uuid in c)
                if rules
                else ("no limit set",)
            ),
        )
        for snapshot in ordered
    ]
