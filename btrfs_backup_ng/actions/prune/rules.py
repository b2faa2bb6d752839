"""The deletion of what no rule keeps, at the source and at destinations."""

import shlex
from collections.abc import Collection, Sequence
from dataclasses import replace
from uuid import UUID

from btrfs_backup_ng.__logger__ import PROGRAM
from btrfs_backup_ng.__util__ import visible
from btrfs_backup_ng.actions.prune.ages_and_sizes import parse_times
from btrfs_backup_ng.actions.prune.deletion import delete
from btrfs_backup_ng.btrfs.parse import OutputNotUnderstood
from btrfs_backup_ng.core.events import Deleted, Level, Noted
from btrfs_backup_ng.core.judgement import (
    Course,
    Question,
    judge_series,
    keep_by_policy,
)
from btrfs_backup_ng.core.model import Job, Listing, Snapshot
from btrfs_backup_ng.core.naming import Naming
from btrfs_backup_ng.core.policy import Policy
from btrfs_backup_ng.core.retention import judge
from btrfs_backup_ng.endpoint.common import BtrfsEndpoint
from btrfs_backup_ng.host.common import ListingFailed
from btrfs_backup_ng.session.context import Context
from btrfs_backup_ng.wire import verbs

#: Added to the generations of a source, so that they are later than those of a
#: destination: what is sent now arrives later than all that is there.
_LATER = 2**64


def worth_sending(
    ours: Collection[Snapshot],
    there: Listing,
    keep: Policy | None,
    naming: Naming,
    course: Course,
    begun: Collection[UUID] = (),
) -> list[Snapshot]:
    """Leave out what the destination's own policy would delete at once.

    Without that, each run would send again what the one before it deleted. The newest
    one by its filesystem's own time is always worth it, and so is one whose transfer
    was begun: that is resumed. What would come now counts by its name: that an old one
    is the first to arrive today is no reason to send it.

    :param keep: which backups stay there, ``None`` for all.
    :param begun: UUIDs of those of which a part is there.
    """
    if keep is None:
        return list(ours)
    present = {s.received_uuid for s in there.snapshots}
    missing = [
        replace(s, generation=s.generation + _LATER)
        for s in ours
        if s.origin not in present
    ]
    backups = [s for s in there.snapshots if s.received_uuid]
    verdicts = judge([*backups, *missing], [keep_by_policy(keep, naming, course)])
    kept = {verdict.snapshot.uuid for verdict in verdicts if verdict.kept}
    newest = max(ours, key=lambda s: s.generation, default=None)
    kept |= {newest.uuid} if newest else set()  # whatever the clock says
    kept |= set(begun)
    return [s for s in ours if s.origin in present or s.uuid in kept]


def prune_source(
    source: BtrfsEndpoint,
    here: Listing,
    needed: dict[UUID, str],
    job: Job,
    context: Context,
    course: Course,
    doubts: tuple[str, ...] = (),
) -> None:
    """Delete snapshots at the source that its policy does not keep and nobody needs.

    :param needed: origins that must stay, and why.
    :param doubts: why nothing may be deleted there in this run; that was told.
    :raises BackupError: if not all of it is gone.
    """
    if job.keep_source is None:
        return
    question = Question(
        place=str(source),
        noun="snapshot",
        prefix=job.naming.prefix,
        policy=job.keep_source,
        needed=needed,
        of_source=True,
        doubts=doubts,
        is_standing=True,
    )
    ours = _ours(here, job)
    _prune(source, ours, question, job, context, course)


def prune_destination(
    keeper: BtrfsEndpoint,
    there: Listing,
    base: Snapshot | None,
    job: Job,
    context: Context,
    course: Course,
    doubts: tuple[str, ...] = (),
) -> None:
    """Delete backups at a destination that its policy does not keep.

    Only what was received counts as a backup, and the base of the next incremental
    one stays.

    :param doubts: why nothing may be deleted there in this run; that was told.
    :raises BackupError: if not all of it is gone.
    """
    if job.keep_destination is None:
        return
    backups: Sequence[Snapshot]
    backups = [s for s in _ours(there, job) if s.received_uuid]
    if job.keep_destination.looks_at_time:
        backups = with_arrivals(keeper, backups)
    question = Question(
        place=str(keeper),
        noun="backup",
        prefix=job.naming.prefix,
        policy=job.keep_destination,
        needed={base.origin: "last common"} if base else {},
        of_source=False,
        doubts=doubts,
        is_standing=True,
    )
    _prune(keeper, backups, question, job, context, course)


def _ours(seen: Listing, job: Job) -> list[Snapshot]:
    """Return what has a name of ours: nothing else is ever deleted, or counts."""
    naming = job.naming
    return [s for s in seen.snapshots if naming.time_of(s.name) is not None]


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
    answer = place.host.call(verbs.TIMES, place.directory, asked.name).stdout
    try:
        times = parse_times(answer)
    except OutputNotUnderstood as error:
        raise ListingFailed(f"{place}: {visible(str(error))}") from error
    return [replace(s, otime=s.otime or times.get(s.uuid)) for s in backups]


def _prune(
    place: BtrfsEndpoint,
    snapshots: Sequence[Snapshot],
    question: Question,
    job: Job,
    context: Context,
    course: Course,
) -> None:
    """Judge, say what waits and how to overrule that, and delete the rest.

    :raises BackupError: if not all of it is gone.
    """
    judgement = judge_series(question, snapshots, course)
    told = judgement.dangers or judgement.waiting
    if told and not judgement.doubts:
        ending = "; nothing is deleted there" if judgement.dangers else ""
        hint = f"To delete by this policy at once:  {_by_hand(place, question, job)}"
        text = visible(". ".join(told) + ending)
        name = str(place.location)
        context.emit(Noted(name, Level.WARNING, text, hint))
    to_delete = [] if judgement.withheld else judgement.to_delete
    if job.dry_run:
        for snapshot in to_delete:
            context.emit(Deleted(str(place.location), snapshot.name, dry=True))
        return
    if not to_delete:
        return
    outcome = delete(place, to_delete, convert_rw=job.convert_rw)
    for snapshot in outcome.gone:
        context.emit(Deleted(str(place.location), snapshot.name, dry=False))
    if outcome.error:
        raise outcome.error
    if job.sync:
        place.sync()


def _by_hand(place: BtrfsEndpoint, question: Question, job: Job) -> str:
    """Return the command that deletes all that a policy does not keep."""
    policy = question.policy
    words = [PROGRAM, "prune", "--keep" if question.of_source else "--keep-at"]
    words.append(str(policy))
    if policy.looks_at_time and str(policy.zone) != "UTC":
        words += ["--keep-zone", str(policy.zone)]
    if question.of_source:
        words += ["-f", job.snapshot_folder]
    words.append(f"--snapshot-prefix={question.prefix}")
    words += ["--force", str(place.location)]
    return visible(shlex.join(words))
