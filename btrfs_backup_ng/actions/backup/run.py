"""A backup run: look, plan, snapshot, send, prune.

A destination that fails does not stop the others.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from uuid import UUID

from btrfs_backup_ng.__util__ import (
    BackupError,
    Busy,
    Interrupted,
    Refused,
    attempt,
    visible,
)
from btrfs_backup_ng.actions.backup.journal import Journal
from btrfs_backup_ng.actions.backup.target import Target
from btrfs_backup_ng.actions.prune.rules import Pruning, note_older_series
from btrfs_backup_ng.core.events import (
    Failed,
    Level,
    Noted,
    Released,
    Snapshotted,
    Tally,
)
from btrfs_backup_ng.core.judgement import Clock, Course, find_course, later
from btrfs_backup_ng.core.location import parse_location
from btrfs_backup_ng.core.model import Destination, Job, Listing, Role, Snapshot
from btrfs_backup_ng.core.naming import prefix_in, split_name, time_in
from btrfs_backup_ng.core.record import Unreadable
from btrfs_backup_ng.core.value import replace
from btrfs_backup_ng.endpoint import staging
from btrfs_backup_ng.endpoint.common import Place
from btrfs_backup_ng.host.disks import disks_of
from btrfs_backup_ng.host.entry import plain
from btrfs_backup_ng.place import preflight
from btrfs_backup_ng.place.holds import HOLDS, Holds, open_holds, recorded_locations
from btrfs_backup_ng.place.locks import Holder
from btrfs_backup_ng.place.planner import next_snapshot
from btrfs_backup_ng.place.sources import own_listing
from btrfs_backup_ng.session.history import last_arrived_from
from btrfs_backup_ng.session.session import Session
from btrfs_backup_ng.session.turns import SMALL
from btrfs_backup_ng.transfer.route import middle_stages

log = logging.getLogger(__name__)

#: Reports and counts a failure at a place.
Fail = Callable[[str, BackupError], None]
#: Surrounds the making of a snapshot, in a dry run only the plan of it. A
#: :class:`BackupError` of its beginning means that it is not made.
Around = Callable[[str, Session, Fail], AbstractContextManager[None]]


def _alone(snapshot: str, session: Session, fail: Fail) -> AbstractContextManager[None]:
    return nullcontext()


def back_up(job: Job, session: Session, around: Around = _alone) -> Tally:
    """Run one job; report and count failures, and do not raise them."""
    session = replace(session, folder=job.snapshot_folder, ssh=job.ssh)
    journal = Journal(job, session)
    session = replace(session, emit=journal.emit, remember=journal.remember)
    run = _Run(job, session, around)
    try:
        with ExitStack() as stack:
            run.run(stack)
    except BackupError as error:
        if isinstance(error, preflight.NoSource):
            journal.leave_out_mistakes()
        run.fail(str(job.source), error)
        journal.end(error)
    except Interrupted as error:
        journal.end(error)
        raise
    return run.tally


class _Run:
    """One job while it runs."""

    def __init__(self, job: Job, session: Session, around: Around) -> None:
        self._job = job
        self._session = session
        self._around = around
        self._holder = Holder(session.now)
        self._here = Listing()
        self._known: list[str] | None = None
        self._course = Course(session.now)
        self._is_full = False
        self.tally = Tally()

    def fail(self, place: str, error: BackupError) -> None:
        """Report a failure and count it."""
        status = error.exit_status
        self._session.emit(Failed(place, error.message, error.hint, status))
        self.tally.add(Tally(failures=(status,)))

    def run(self, stack: ExitStack) -> None:
        """Run the job; change nothing before every place is checked."""
        job = self._job
        source = self._look_at_source()
        if job.remove_locks:
            self._remove_locks(source, stack)
            return
        destinations = self._destinations(source)
        targets = self._look_at_targets(source, destinations)
        is_alone = self._all_failed(targets)
        if is_alone and not self._is_known(source, destinations):
            return
        if not job.dry_run:
            stack.enter_context(self._holder)
            try:
                self._lock(stack, source, Role.SNAPSHOT)
            except Busy as error:
                self._snapshot_beside(source, error)
                return
            targets = self._each(
                targets, lambda target: self._lock(stack, target.place, Role.BACKUP)
            )
        holds = self._list(source)
        self._begin(source, holds)
        self._note_mounts(source, destinations, holds)
        targets = self._each(targets, lambda target: target.look(self._here))
        planned = self._plan_snapshot(source, targets) if job.take_snapshot else None
        self._course = self._find_course(source, targets)
        targets = self._each(
            targets, lambda target: target.plan(self._here, self._course)
        )
        targets = self._each(targets, lambda target: target.drop_expired(self._course))
        targets = self._each(targets, lambda target: target.check(self._here))
        if self._all_failed(targets) and not is_alone:
            return
        is_made, temporary = True, None
        if planned:
            try:
                temporary = self._take_snapshot(source, planned, targets, stack)
            except Refused:
                raise
            except BackupError as error:
                from btrfs_backup_ng.transfer import full_disk  # here: it is rare

                # What exists is sent and thinned, which may make room for the next run.
                self.fail(str(source.location), error)
                is_made = False
                self._is_full = full_disk.is_about_full_disk(error)
                self._drop_here(planned)
                targets = self._each(
                    targets, lambda target: target.plan(self._here, self._course)
                )

        with self._turn(source, targets):
            done = self._transfer(source, targets, holds, temporary)
        self.tally.add(Tally(done=len(done) + (is_made and not targets)))
        if source.facts.is_mounted_read_only:
            return
        holds.keep_record()
        if self._job.prune:
            self._prune(source, done, holds)
        holds.settle()

    def _transfer(
        self,
        source: Place,
        targets: Sequence[Target],
        holds: Holds,
        temporary: Snapshot | None,
    ) -> list[Target]:
        """Send what is planned, or report it; return the targets that did not fail."""
        sending = [target for target in targets if target.transfers]
        if not sending:
            return self._each(targets, lambda target: target.finish(holds))
        from btrfs_backup_ng.actions.backup import deliveries  # here: to send
        from btrfs_backup_ng.actions.backup.shipment import Shipment  # here: as above

        holder = self._holder
        shipments = {target: Shipment(target, holds, holder) for target in targets}
        if self._job.dry_run:
            return self._each(
                targets, lambda target: shipments[target].report(temporary)
            )
        if not self._job.fan_out or len(sending) < 2:
            return self._each(targets, lambda target: shipments[target].deliver())
        return deliveries.deliver_together(
            list(shipments.values()),
            source=source.location,
            # The others must not be thought to be stalled meanwhile.
            patience_s=min(t.options.stall_timeout_s for t in targets) / 2,
            fail=self.fail,
        )

    def _turn(
        self, source: Place, targets: Sequence[Target]
    ) -> AbstractContextManager[None]:
        """Wait until no other task of this call sends from or to the same disks."""
        sinks = [target.place for target in targets if target.transfers]
        if self._job.dry_run or not sinks:
            return nullcontext()
        disks = (disks_of(one.host, one.facts) for one in (source, *sinks))
        ends = Counter(one.location.machine for one in sinks if one.location.is_remote)
        if not self._job.fan_out:
            ends = Counter(set(ends))
        if source.location.is_remote:
            ends[source.location.machine] += 1
        return self._session.turns.taking(
            frozenset().union(*disks),
            ends,
            lambda: sum(target.size_up_to(SMALL) for target in targets) <= SMALL,
        )

    def _snapshot_beside(self, source: Place, busy: Busy) -> None:
        """Make a snapshot while another run holds the lock of the source; delete none.

        Only if nothing is to be sent: that run may take hours, and judges and deletes
        only what it has listed itself.

        :raises Busy: if this is not possible, or if the job deletes, too.
        """
        job = self._job
        if job.transfer or not job.take_snapshot or not source.facts.has_folder:
            raise busy
        self._here, _ = source.snapshots.listing()
        planned = next_snapshot(source, job.naming, self._session.now, self._here.names)
        self._make(source, planned.name)
        self.tally.add(Tally(done=1))
        policies = (job.keep_source, *(one.keep for one in job.destinations))
        if job.prune and any(policies):
            busy.message += "; the snapshot was made, and nothing was deleted"
            raise busy

    def _all_failed(self, targets: Sequence[Target]) -> bool:
        """Return whether all destinations failed; then nothing may be changed."""
        return bool(self.tally.failures) and not targets

    def _is_known(self, source: Place, destinations: Sequence[Destination]) -> bool:
        """Return whether one of the destinations, all away, has been there before.

        Then the source gets its snapshot, and is thinned, without them.
        """
        try:
            known = self._on_record(source)
        except Unreadable:
            return False
        return any(str(one.location) in known for one in destinations)

    def _on_record(self, source: Place) -> list[str]:
        """Return the destinations that the source's holds name, before it is locked.

        :raises Unreadable: if the record is not fully understood.
        """
        if self._known is None:
            _, (record,) = source.snapshots.listing(HOLDS)
            self._known = recorded_locations(record)
        return self._known

    def _each(
        self, targets: Sequence[Target], action: Callable[[Target], None]
    ) -> list[Target]:
        """Run an action on every target, and return those that did not fail."""
        done = []
        for target in targets:
            error = attempt(partial(action, target))
            if isinstance(error, BackupError):
                self.fail(target.name, error)
            else:
                done.append(target)
        return done

    def _look_at_source(self) -> Place:
        job, session = self._job, self._session
        purpose = preflight.source_purpose(job)
        source = preflight.look_at(job.source, session, purpose)
        destinations = [one.location for one in job.destinations]
        for note in preflight.note_nested(source, destinations):
            session.emit(note)
        return source

    def _destinations(self, source: Place) -> list[Destination]:
        """Return the destinations, and the recorded ones if the job asks for them.

        :raises UsageError: if options need a program that is not installed.
        """
        job = self._job
        wanted = list(job.destinations)
        if job.recorded:
            for text in self._recorded_destinations(source):
                location = parse_location(text, working_directory="/")
                if location not in (one.location for one in wanted):
                    wanted.append(replace(job.recorded, location=location))
        if not job.transfer:
            return [one for one in wanted if one.keep and job.prune]
        for destination in wanted:
            middle_stages(destination.options, is_remote=False, cores=1)
        return wanted

    def _recorded_destinations(self, source: Place) -> list[str]:
        try:
            return self._on_record(source)
        except Unreadable as error:
            path = source.record_path(HOLDS)
            text = f"{path} cannot be read ({visible(str(error))}), so the"
            text += " destinations on record are not known"
            hint = "Name them on the command line; then the record is created again."
            self.fail(str(source.location), BackupError(text, hint=hint))
            return []

    def _look_at_targets(
        self, source: Place, destinations: Sequence[Destination]
    ) -> list[Target]:
        targets = []
        for destination in destinations:
            target = attempt(partial(self._look_at_target, source, destination))
            if isinstance(target, BackupError):
                self.fail(str(destination.location), target)
            else:
                targets.append(target)
        return targets

    def _look_at_target(self, source: Place, destination: Destination) -> Target:
        session, checks = self._session, destination.checks
        place = preflight.look_at(
            destination.location,
            session,
            preflight.destination_purpose(source, checks),
            with_snapshots=False,
            ssh=destination.ssh,
        )
        if place.backups.lists:
            for note in preflight.note_distance(place, source, checks):
                session.emit(note)
        return Target(destination, place, source, self._job, session)

    def _lock(self, stack: ExitStack, place: Place, role: Role) -> None:
        """Lock a place, and clear the staging of transfers without checkpoints."""
        stack.enter_context(self._holder.holding(place, self._job.wait_s, role))
        left = place.facts.leftovers
        if not left or (role is Role.SNAPSHOT and place.facts.is_mounted_read_only):
            return
        log.info("%s: clearing the remains of unfinished transfers", place)
        for transfer_id in place.discard(left, keep_sealed=True):
            # A transfer of this run ends an earlier attempt at it.
            if role is Role.BACKUP and not staging.is_known(transfer_id):
                text = f"{place}: a transfer ({transfer_id}) is still running there"
                self._session.warn(str(place.location), text)

    def _list(self, source: Place) -> Holds:
        """List the source's snapshots, and read its holds."""
        snapshots = source.snapshots
        seen, (recorded,) = snapshots.listing(HOLDS)
        self._here = own_listing(source, seen)
        log.info("%s has %d snapshots", source, len(self._here.snapshots))
        time_of = self._job.naming.time_of
        if snapshots.directory.startswith(f"{source.state}/"):
            time_of = time_in  # of any prefix: only this program writes there
        made = [s for s in self._here.snapshots if time_of(s.name)]
        needing = self._job.destinations if self._job.transfer else ()
        name = str(source.location)
        is_read_only = source.facts.is_mounted_read_only
        if is_read_only:
            text = f"{source} is mounted read-only, so what destinations need cannot be"
            text += " recorded there. Its snapshots are sent, and nothing is deleted"
            hint = "See why it is read-only:  dmesg | tail"
            self._session.emit(Noted(name, Level.WARNING, text, hint))
        return open_holds(
            source,
            recorded,
            made,
            [str(destination.location) for destination in needing],
            now=self._session.now,
            dry_run=self._job.dry_run or is_read_only,
            emit=self._session.emit,
            last_arrived=lambda: last_arrived_from(self._session.recall(), name),
        )

    def _begin(self, source: Place, holds: Holds) -> None:
        """Take down the policy of this run; if its series is new, remark older ones."""
        naming = self._job.naming
        is_first = not any(naming.time_of(s.name) for s in self._here.snapshots)
        holds.begin(naming.prefix, self._job.keep_source, is_first=is_first)
        if is_first:
            self._note_older_series(source)

    def _note_older_series(self, source: Place) -> None:
        """Remark the snapshots of the source with other prefixes, if it is thinned."""
        job, uuid = self._job, source.facts.uuid
        own = (s.name for s in self._here.snapshots if s.parent_uuid == uuid)
        older = {prefix_in(name) for name in own if split_name(name)}
        if job.keep_source and older:
            self._session.emit(
                note_older_series(
                    str(source.location),
                    job.keep_source,
                    sorted(older),
                    job.snapshot_folder,
                )
            )

    def _note_mounts(
        self, source: Place, destinations: Sequence[Destination], holds: Holds
    ) -> None:
        """Remark which mounts no snapshot has, if one of them is new."""
        places = [one.location for one in destinations]
        mounts = preflight.mounts_left_out(source, places)
        if self._job.take_snapshot and holds.take_mounts(mounts):
            self._session.emit(preflight.note_mounts(source, mounts))

    def _find_course(self, source: Place, targets: Sequence[Target]) -> Course:
        """Find the possible times, by all clocks and all dates of snapshots."""
        now, naming = self._session.now, self._job.naming
        places = [source, *(target.place for target in targets)]
        found = (place.facts.clock_ahead_s for place in places)
        others = tuple(later(now, ahead) for ahead in found if ahead is not None)
        clock = Clock(now, self._session.is_synchronised, others)
        listings = [self._here, *(target.listing for target in targets)]
        return find_course(
            clock,
            [
                [s for s in seen.snapshots if naming.time_of(s.name) is not None]
                for seen in listings
            ],
        )

    def _plan_snapshot(self, source: Place, targets: Sequence[Target]) -> Snapshot:
        """Add the snapshot that will be made to the listing, with an unused name."""
        naming, now = self._job.naming, self._session.now
        taken = self._here.names.union(*(target.listing.names for target in targets))
        planned = next_snapshot(source, naming, now, taken)
        self._add_here(planned)
        return planned

    def _add_here(self, snapshot: Snapshot) -> None:
        others = [s for s in self._here.snapshots if s.name != snapshot.name]
        names = self._here.names | {snapshot.name}
        self._here = replace(self._here, snapshots=(*others, snapshot), names=names)

    def _drop_here(self, snapshot: Snapshot) -> None:
        others = tuple(s for s in self._here.snapshots if s.uuid != snapshot.uuid)
        names = self._here.names - {snapshot.name}
        self._here = replace(self._here, snapshots=others, names=names)

    def _take_snapshot(
        self,
        source: Place,
        planned: Snapshot,
        targets: Sequence[Target],
        stack: ExitStack,
    ) -> Snapshot | None:
        """Make the snapshot, and plan again with its real properties.

        :returns: in a dry run, a temporary one to measure, if there is one.
        """
        job, temporary = self._job, None
        if job.dry_run and targets:
            from btrfs_backup_ng.transfer import size  # here: only a dry run asks

            making = size.temporary_snapshot(source, planned.name, self._session.now)
            temporary = stack.enter_context(making)
        made = self._make(source, planned.name)
        if made:
            self._add_here(made)
            for target in targets:
                target.plan(self._here, self._course)
        return temporary

    def _make(self, source: Place, name: str) -> Snapshot | None:
        """Make a snapshot and report it; in a dry run, only report it.

        :raises BackupError: if it was not made.
        """
        made = None
        path = plain(source.snapshots.path(name))
        with self._around(path, self._session, self.fail):
            if not self._job.dry_run:
                self._holder.note(f"making {name}", source)
                made = source.snapshots.take_snapshot(name, self._session.now)
            event = Snapshotted(str(source.location), name, self._job.dry_run)
            self._session.emit(event)
        return made

    def _prune(self, source: Place, done: Sequence[Target], holds: Holds) -> None:
        """Delete snapshots that no rule keeps, except at places where a step failed."""
        doing = "deleting old snapshots"
        pruning = Pruning(self._job, self._session, self._course)
        is_full = self._is_full or holds.lacks_room
        expendable: set[UUID] = set()

        def prune_target(target: Target) -> None:
            gone: set[UUID] = set()
            if target.keep:
                self._holder.note(doing, target.place)
                target.check_alone()
                gone = pruning.backups(
                    target.place,
                    target.known,
                    target.keep,
                    target.base,
                    target.ownership,
                )
            if is_full:
                expendable.update(target.origins - gone)

        self._each(done, prune_target)
        self._holder.note(doing, source)
        if holds.is_read_again:
            self._here = own_listing(source, source.snapshots.listing()[0])
        pruning.snapshots(source, self._here, holds, expendable)

    def _remove_locks(self, source: Place, stack: ExitStack) -> None:
        """Delete the holds of the given destinations, and do nothing else."""
        job = self._job
        if not job.dry_run:
            self._lock(stack, source, Role.SNAPSHOT)
        locations = [str(one.location) for one in job.destinations]
        for location, hold in self._list(source).forget(locations, job.disk):
            event = Released(str(source.location), location, hold.name, job.dry_run)
            self._session.emit(event)
        self.tally.add(Tally(done=1))
