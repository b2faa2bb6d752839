"""How the tests of pure functions make snapshots and listings."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from uuid import UUID

from btrfs_backup_ng.core.judgement import Course, keep_by_policy
from btrfs_backup_ng.core.model import Integrity, Listing, Snapshot
from btrfs_backup_ng.core.naming import Naming
from btrfs_backup_ng.core.plan import Transfer
from btrfs_backup_ng.core.policy import Policy
from btrfs_backup_ng.core.retention import Rule
from btrfs_backup_ng.core.value import replace

NAMING = Naming("home-")
START = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


def keep_by_name(policy: Policy, now: datetime) -> Rule:
    """Return the rule of a policy while no clock is in doubt."""
    return keep_by_policy(policy, NAMING, Course(now, is_confirmed=False))


def uid(number: int) -> UUID:
    """Return the UUID of that number."""
    return UUID(int=number)


def made(
    number: int,
    *,
    name: str | None = None,
    received: UUID | None = None,
    integrity: Integrity = Integrity.INTACT,
    generation: int | None = None,
    created: datetime | None = None,
) -> Snapshot:
    """Make the snapshot that a source took in hour ``number``."""
    created = created or START + timedelta(hours=number)
    return Snapshot(
        name=name or f"home-{created.astimezone():%Y%m%d-%H%M%S}",
        created=created,
        uuid=uid(1000 + number),
        parent_uuid=uid(1),
        received_uuid=received,
        generation=number if generation is None else generation,
        integrity=integrity,
    )


def copy_of(
    snapshot: Snapshot,
    *,
    name: str | None = None,
    integrity: Integrity = Integrity.INTACT,
    number: int | None = None,
) -> Snapshot:
    """Make the backup of a snapshot that a destination has."""
    return replace(
        snapshot,
        name=name or snapshot.name,
        uuid=uid(number or snapshot.uuid.int + 10**6),
        parent_uuid=None,
        received_uuid=snapshot.origin,
        generation=snapshot.generation + 500,
        integrity=integrity,
    )


def listing(
    snapshots: Iterable[Snapshot], *, others: Iterable[str] = (), hidden: int = 0
) -> Listing:
    """Make the listing of a place.

    :param others: names taken by what is no snapshot.
    :param hidden: copies of each backup elsewhere on the same filesystem.
    """
    snapshots = tuple(snapshots)
    carriers: dict[UUID, tuple[int, ...]] = {}
    for number, snapshot in enumerate(snapshots, 256):
        if origin := snapshot.received_uuid:
            more = () if origin in carriers else range(9000, 9000 + hidden)
            carriers[origin] = (*carriers.get(origin, ()), number, *more)
    names = frozenset({s.name for s in snapshots} | set(others))
    return Listing(snapshots, names, carriers)


def with_transfers(there: Listing, transfers: Iterable[Transfer]) -> Listing:
    """Return what a destination has after these transfers."""
    arrived = [
        copy_of(t.snapshot, name=t.target, number=t.snapshot.uuid.int + 2 * 10**6)
        for t in transfers
    ]
    others = there.names - {s.name for s in there.snapshots}
    return listing([*there.snapshots, *arrived], others=others)
