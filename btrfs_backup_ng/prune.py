"""Own the deletion of what no rule keeps, at the source and at destinations."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from btrfs_backup_ng.__util__ import visible
from btrfs_backup_ng.appraisal import TIMES, parse_times
from btrfs_backup_ng.btrfs.parse import OutputNotUnderstood
from btrfs_backup_ng.context import Context
from btrfs_backup_ng.endpoint.common import BtrfsEndpoint
from btrfs_backup_ng.host import ListingFailed
from btrfs_backup_ng.model import Job, Listing, Snapshot
from btrfs_backup_ng.naming import Naming
from btrfs_backup_ng.policy import Policy
from btrfs_backup_ng.report import Deleted
from btrfs_backup_ng.retention import (
    Rule,
    judge,
    keep_by_arrival,
    keep_by_name,
    keep_origins,
)


def worth_sending(
    ours: Collection[Snapshot],
    there: Listing,
    keep: Policy | None,
    naming: Naming,
    now: datetime,
) -> list[Snapshot]:
    """Leave out what the destination's own policy would delete at once.

    Without that, each run would send again what the one before it deleted. The newest
    one by its filesystem's own time is always worth it. What would come now counts by
    its name: that an old one is the first to arrive today is no reason to send it.

    :param keep: which backups stay there, ``None`` for all.
    """
    if keep is None:
        return list(ours)
    present = {s.received_uuid for s in there.snapshots}
    missing = [s for s in ours if s.origin not in present]
    backups = [s for s in there.snapshots if s.received_uuid]
    verdicts = judge([*backups, *missing], [keep_by_name(keep, naming, now)])
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
    """Delete snapshots at the source that its policy does not keep and nobody needs.

    :param needed: origins that must stay, and why.
    """
    if job.keep_source is None:
        return
    rules = [keep_by_name(job.keep_source, job.naming, context.now)]
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
    """Delete backups at a destination that its policy does not keep.

    Only what was received counts as a backup, and the base of the next incremental
    one stays.
    """
    if job.keep_destination is None:
        return
    rules = backup_rules(job.keep_destination, job.naming, context.now)
    needed = {base.origin: "last common"} if base else {}
    backups: Sequence[Snapshot]
    backups = [s for s in there.snapshots if s.received_uuid]
    if job.keep_destination.looks_at_time:
        backups = with_arrivals(keeper, backups)
    _prune(keeper, backups, [*rules, keep_origins(needed)], job, context)


def backup_rules(policy: Policy, naming: Naming, now: datetime) -> list[Rule]:
    """Give the rules for backups, of which two times are known.

    Their names come from whoever sent them. So what must stay by the times at which
    they arrived stays whatever the names are. But a backlog arrives all at once: what
    must stay by its name does, too.

    :param now: aware UTC.
    """
    rules = [keep_by_name(policy, naming, now)]
    if policy.looks_at_time:
        rules.append(keep_by_arrival(policy, naming, now))
    return rules


def with_arrivals(
    place: BtrfsEndpoint, backups: Sequence[Snapshot]
) -> Sequence[Snapshot]:
    """Ask a place for the times at which backups arrived, where they are not known.

    Other machines tell them with one more command; of what arrived in other ways than
    ours, not even then.

    :raises ListingFailed: if the answer is not understood.
    """
    unknown = [s for s in backups if s.otime is None]
    asked = next((s for s in unknown if s.parent_uuid), None)
    if asked is None:
        return backups
    answer = place.host.call(TIMES, place.directory, asked.name).stdout
    try:
        times = parse_times(answer)
    except OutputNotUnderstood as error:
        raise ListingFailed(f"{place}: {visible(str(error))}") from error
    return [replace(s, otime=s.otime or times.get(s.uuid)) for s in backups]


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
