"""The deletion by policy in a backup run, at the source and at destinations."""

import shlex
from collections.abc import Callable, Collection, Sequence
from functools import partial
from uuid import UUID

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__util__ import visible
from btrfs_backup_ng.actions.prune.ages import parse_times
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
from btrfs_backup_ng.core.value import replace
from btrfs_backup_ng.endpoint.common import Endpoint, Place
from btrfs_backup_ng.host.common import ListingFailed
from btrfs_backup_ng.place.holds import Holds
from btrfs_backup_ng.place.sources import Ownership
from btrfs_backup_ng.session.deed import Act, deed
from btrfs_backup_ng.session.session import Session
from btrfs_backup_ng.wire import verbs

#: Added to the generations of a source, to make them later than all generations at a
#: destination: a snapshot that is sent now arrives last.
_LATER = 2**64


def worth_sending(
    snapshots: Collection[Snapshot],
    there: Listing,
    keep: Policy | None,
    naming: Naming,
    course: Course,
    begun: Collection[UUID] = (),
) -> list[Snapshot]:
    """Leave out the snapshots that the destination's own policy would delete at once.

    Otherwise each run would send again the backups that the run before it deleted. The
    newest snapshot, by the generations of its filesystem, is always sent. A snapshot
    whose transfer was interrupted is sent, too: the transfer is resumed. A missing
    snapshot counts by the date in its name, not by its arrival: an old one is not worth
    sending because it would be the first to arrive today.

    :param keep: which backups stay there, ``None`` for all.
    :param begun: UUIDs of the snapshots of which a part has arrived.
    """
    if keep is None:
        return list(snapshots)
    present = {s.received_uuid for s in there.snapshots}
    missing = [
        replace(s, generation=s.generation + _LATER)
        for s in snapshots
        if s.origin not in present
    ]
    backups = [s for s in there.snapshots if s.received_uuid]
    verdicts = judge([*backups, *missing], [keep_by_policy(keep, naming, course)])
    kept = {verdict.snapshot.uuid for verdict in verdicts if verdict.kept}
    newest = max(snapshots, key=lambda s: s.generation, default=None)
    kept |= {newest.uuid} if newest else set()  # even if the clock is wrong
    kept |= set(begun)
    return [s for s in snapshots if s.origin in present or s.uuid in kept]


def older_gaps(
    snapshots: Collection[Snapshot], there: Listing, begun: Collection[UUID]
) -> set[UUID]:
    """Return the UUIDs of missing snapshots older than the newest common one.

    Their backups were deleted, or could not be made: they are not sent again by
    themselves. The order is that of the filesystem, as clocks jump.

    :param begun: UUIDs of the snapshots of which a part has arrived; these are sent.
    """
    present = {s.received_uuid for s in there.snapshots if s.received_uuid}
    common = [s.generation for s in snapshots if s.origin in present]
    newest = max(common, default=0)
    missing = (s for s in snapshots if s.origin not in present)
    return {s.uuid for s in missing if s.generation < newest} - set(begun)


class Pruning:
    """The deletion of all snapshots that the policies of a job do not keep.

    :param course: the possible times.
    """

    def __init__(self, job: Job, session: Session, course: Course) -> None:
        self._job = job
        self._session = session
        self._course = course

    def snapshots(
        self,
        source: Place,
        here: Listing,
        holds: Holds,
        expendable: Collection[UUID] = (),
    ) -> None:
        """Delete snapshots of the source that are neither kept nor needed.

        :param expendable: see :class:`Question`.
        :raises BackupError: if not all of them are gone.
        """
        policy, prefix = self._job.keep_source, self._job.naming.prefix
        if not policy:
            return
        question = Question(
            place=str(source),
            noun="snapshot",
            prefix=prefix,
            policy=policy,
            needed=holds.reasons(),
            of_source=True,
            doubts=holds.withheld,
            is_forced=self._job.force,
            applied=holds.applied(prefix),
            expendable=expendable,
        )
        record = partial(holds.apply, [prefix])
        self._prune(source.snapshots, self._named(here), question, record)

    def backups(
        self,
        place: Place,
        there: Listing,
        keep: Policy,
        base: Snapshot | None,
        ownership: Ownership,
    ) -> set[UUID]:
        """Delete backups that are not kept; ignore snapshots that were not received.

        :param base: parent of the next incremental backup; it stays.
        :returns: the origins of those that were deleted, or would be in a dry run.
        :raises BackupError: if not all of them are gone.
        """
        backups: Sequence[Snapshot]
        backups = [s for s in self._named(there) if s.received_uuid]
        if keep.looks_at_time:
            backups = with_arrivals(place, backups)
        question = Question(
            place=str(place),
            noun="backup",
            prefix=self._job.naming.prefix,
            policy=keep,
            needed={base.origin: "last common"} if base else {},
            of_source=False,
            doubts=ownership.withheld,
            is_forced=self._job.force,
            applied=ownership.applied,
        )
        gone = self._prune(place.backups, backups, question, ownership.apply)
        return {backup.origin for backup in gone}

    def _named(self, seen: Listing) -> list[Snapshot]:
        """Return the snapshots with the job's prefix; others are never deleted."""
        naming = self._job.naming
        return [s for s in seen.snapshots if naming.time_of(s.name) is not None]

    def _prune(
        self,
        endpoint: Endpoint,
        snapshots: Sequence[Snapshot],
        question: Question,
        record: Callable[[Policy], None],
    ) -> Sequence[Snapshot]:
        """Judge the snapshots, warn of those that stay for safety, delete the rest.

        :param record: records the policy, which is not new to the next run.
        :returns: those that were deleted, or would be in a dry run.
        :raises BackupError: if not all of them are gone.
        """
        job, place = self._job, str(endpoint.place.location)
        judgement = judge_series(question, snapshots, self._course)
        reasons = judgement.dangers or judgement.waiting
        if reasons and not judgement.doubts:
            ending = "; nothing is deleted there" if judgement.dangers else ""
            by_hand = self._by_hand(place, question)
            hint = f"To delete by this policy at once:  {by_hand}"
            text = visible(". ".join(reasons) + ending)
            self._session.emit(Noted(place, Level.WARNING, text, hint))
        to_delete = [] if judgement.withheld else judgement.to_delete
        if job.dry_run:
            for snapshot in to_delete:
                self._session.emit(Deleted(place, snapshot.name, dry=True))
            return to_delete
        if not judgement.dangers:
            record(question.policy)
        if not to_delete:
            return []
        outcome = delete(endpoint, to_delete, convert_rw=job.convert_rw)
        for snapshot in outcome.gone:
            self._session.emit(Deleted(place, snapshot.name, dry=False))
        if outcome.gone:
            names = [snapshot.name for snapshot in outcome.gone]
            self._session.remember(deed(self._session.now, place, Act.DELETED, names))
        if outcome.error:
            raise outcome.error
        if job.sync:
            endpoint.place.sync()
        return outcome.gone

    def _by_hand(self, place: str, question: Question) -> str:
        """Return the command that deletes all snapshots that a policy does not keep."""
        folder = self._job.snapshot_folder if question.of_source else None
        policy, prefix = question.policy, question.prefix
        return prune_line(policy, prefix, place, folder, is_forced=True)


def prune_line(
    policy: Policy,
    prefix: str,
    place: str,
    folder: str | None = None,
    *,
    is_forced: bool = False,
) -> str:
    """Return the command that applies a policy to one series at a place.

    :param folder: of its snapshots; None: the policy is for the backups there.
    """
    words = [PROGRAM, "prune", "--keep-at" if folder is None else "--keep", str(policy)]
    if policy.looks_at_time and str(policy.zone) != "UTC":
        words += ["--keep-zone", str(policy.zone)]
    if folder is not None:
        words += ["-f", folder]
    words.append(f"--snapshot-prefix={prefix}")
    if is_forced:
        words.append("--force")
    return visible(shlex.join([*words, place]))


def note_older_series(
    place: str, policy: Policy, prefixes: Collection[str], folder: str | None = None
) -> Noted:
    """Return a remark about older series of the same source, which are not thinned.

    As the usual prefix is the name of the host, a renamed host begins a new series.

    :param folder: see :func:`prune_line`.
    """
    names = ", ".join(visible(repr(prefix)) for prefix in prefixes)
    noun = "backups" if folder is None else "snapshots"
    text = f"{visible(place)} also has {noun} of this source that begin with {names};"
    text += " this run deletes none of them"
    lines = (prune_line(policy, prefix, place, folder) for prefix in prefixes)
    hint = "\n".join(f"To thin them, too:  {line}" for line in lines)
    return Noted(place, Level.INFO, text, hint)


def with_arrivals(place: Place, backups: Sequence[Snapshot]) -> Sequence[Snapshot]:
    """Add the times of arrival to backups, if they are not known.

    For a remote place, that takes one more command. For backups received by another
    program, they stay unknown.

    :raises ListingFailed: if the answer is not understood.
    """
    unknown = [s for s in backups if s.otime is None]
    asked = next((s for s in unknown if s.parent_uuid), None)
    if asked is None:
        return backups
    directory = place.backups.directory
    answer = place.host.call(verbs.TIMES, directory, asked.name).stdout
    try:
        times = parse_times(answer)
    except OutputNotUnderstood as error:
        raise ListingFailed(f"{place}: {visible(str(error))}") from error
    return [replace(s, otime=s.otime or times.get(s.uuid)) for s in backups]
