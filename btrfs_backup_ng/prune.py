"""Own the deletion of what no rule keeps, at the source and at destinations."""

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from btrfs_backup_ng.context import Context
from btrfs_backup_ng.endpoint.common import BtrfsEndpoint
from btrfs_backup_ng.model import Job, Listing, Snapshot
from btrfs_backup_ng.naming import Naming
from btrfs_backup_ng.report import Deleted
from btrfs_backup_ng.retention import Rule, judge, keep_latest, keep_origins


def worth_sending(
    ours: Collection[Snapshot],
    there: Listing,
    keep: int | None,
    naming: Naming,
    now: datetime,
) -> list[Snapshot]:
    """Leave out what the destination's own limit would delete at once.

    Without that, each run would send again what the one before it deleted. The newest
    one by its filesystem's own time is always worth it.

    :param keep: how many of the latest backups stay there, ``None`` for all.
    """
    if keep is None:
        return list(ours)
    present = {s.received_uuid for s in there.snapshots}
    missing = [s for s in ours if s.origin not in present]
    backups = [s for s in there.snapshots if s.received_uuid]
    verdicts = judge([*backups, *missing], [keep_latest(keep, naming, now)])
    kept = {verdict.snapshot.uuid for verdict in verdicts if verdict.kept}
    newest = max(ours, key=lambda s: s.generation, default=None)
    kept |= {newest.uuid} if newest else set()  # whatever the clock says
    return [s for s in ours if s.origin in present or s.uuid in kept]


def prune_source(
    source: BtrfsEndpoint,
    here: Listing,
    needed: dict[UUID, str],
    job: Job,
    context: Context,
) -> None:
    """Delete snapshots at the source beyond its limit that nobody needs.

    :param needed: origins that must stay, and why.
    """
    if job.keep_source is None:
        return
    rules = [keep_latest(job.keep_source, job.naming, context.now)]
    newest = max(here.snapshots, key=lambda s: s.generation, default=None)
    if newest:  # by its filesystem's own time: clocks jump
        needed = {**needed, newest.origin: "made last"}
    _prune(source, here.snapshots, [*rules, keep_origins(needed)], job, context)


def prune_destination(
    keeper: BtrfsEndpoint,
    there: Listing,
    base: Snapshot | None,
    job: Job,
    context: Context,
) -> None:
    """Delete backups at a destination beyond its limit.

    Only what was received counts as a backup, and the base of the next incremental
    one stays.
    """
    if job.keep_destination is None:
        return
    rules = [keep_latest(job.keep_destination, job.naming, context.now)]
    needed = {base.origin: "last common"} if base else {}
    backups = [s for s in there.snapshots if s.received_uuid]
    _prune(keeper, backups, [*rules, keep_origins(needed)], job, context)


def _prune(
    place: BtrfsEndpoint,
    snapshots: Sequence[Snapshot],
    rules: Sequence[Rule],
    job: Job,
    context: Context,
) -> None:
    verdicts = judge(snapshots, rules)
    names = [verdict.snapshot.name for verdict in verdicts if not verdict.kept]
    if names and not job.dry_run:
        place.delete(names, convert_rw=job.convert_rw)
    for name in names:
        context.tell(Deleted(str(place.location), name, job.dry_run))
    if names and job.sync and not job.dry_run:
        place.sync()
