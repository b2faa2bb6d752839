"""A backup run: look, plan, snapshot, send, prune; each destination for itself."""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

from btrfs_backup_ng.__util__ import BackupError, Interrupted, visible
from btrfs_backup_ng.actions.backup.target import Target
from btrfs_backup_ng.actions.prune import rules as prune
from btrfs_backup_ng.core.events import Failed, Released, Snapshotted, Tally
from btrfs_backup_ng.core.judgement import Clock, Course, find_course, later
from btrfs_backup_ng.core.location import Location, parse_location
from btrfs_backup_ng.core.model import Job, Listing, Snapshot
from btrfs_backup_ng.core.naming import time_in
from btrfs_backup_ng.core.record import Unreadable
from btrfs_backup_ng.endpoint import open_destination, open_source, staging
from btrfs_backup_ng.endpoint.common import BtrfsEndpoint
from btrfs_backup_ng.place import preflight
from btrfs_backup_ng.place.forecast import next_snapshot
from btrfs_backup_ng.place.holds import (
    HOLDS,
    Holds,
    open_holds,
    path_of,
    recorded_locations,
)
from btrfs_backup_ng.place.locks import Holder
from btrfs_backup_ng.session.context import Context
from btrfs_backup_ng.session.history import last_arrived_from
from btrfs_backup_ng.transfer import size as measure
from btrfs_backup_ng.transfer.route import middle_stages

log = logging.getLogger(__name__)


def back_up(job: Job, context: Context) -> Tally:
    """Do one task; failures are told and counted, not raised.

    :raises Interrupted: if a signal told us to end.
    """
    places = [job.source, *job.destinations]
    run = _Run(job, context)
    with context.turns.taking(places):
        try:
            with ExitStack() as stack:
                run.run(stack)
        except Interrupted:
            raise
        except BackupError as error:
            run.fail(str(job.source), error)
    return run.tally


class _Run:
    """One task while it runs."""

    def __init__(self, job: Job, context: Context) -> None:
        self._job = job
        self._context = context
        self._holder = Holder(context.now)
        self._here = Listing()
        self._course = Course(context.now)
        self.tally = Tally()

    def fail(self, place: str, error: BackupError) -> None:
        """Tell a failure and count it."""
        status = error.exit_status
        self._context.emit(Failed(place, error.message, error.hint, status))
        self.tally.add(Tally(failures=(status,)))

    def run(self, stack: ExitStack) -> None:
        """Do the task; nothing changes before every place was checked."""
        job = self._job
        source = self._open_source()
        if job.remove_locks:
            self._remove_locks(source, stack)
            return
        targets = self._open_targets(source, self._destinations(source))
        if self._nobody_is_left(targets):
            return
        if not job.dry_run:
            stack.enter_context(self._holder)
            targets = self._lock(stack, source, targets)
        holds = self._look(source)
        targets = self._each(targets, lambda target: target.look(self._here))
        planned = self._plan_snapshot(source, targets) if job.take_snapshot else None
        self._course = self._follow(source, targets)
        targets = self._each(
            targets, lambda target: target.plan(self._here, self._course)
        )
        targets = self._each(targets, lambda target: target.drop_expired(self._course))
        targets = self._each(targets, lambda target: target.check(self._here))
        if self._nobody_is_left(targets):
            return
        if planned:
            self._take_snapshot(source, planned, targets)
        standin = None
        if job.dry_run and planned and targets:
            making = measure.rehearsed(source, planned.name, self._context.now)
            standin = stack.enter_context(making)
        done = self._each(
            targets, lambda target: self._transfer(target, holds, standin)
        )
        self.tally.add(Tally(done=len(done) + (not targets)))
        holds.keep_record()
        self._prune(source, done, holds)

    def _nobody_is_left(self, targets: Sequence[Target]) -> bool:
        """Tell whether all destinations failed, so that nothing must be changed."""
        return bool(self.tally.failures) and not targets

    def _each(
        self, targets: Sequence[Target], action: Callable[[Target], None]
    ) -> list[Target]:
        """Do something for every target; one that fails is left out from then on."""
        done = []
        for target in targets:
            try:
                action(target)
            except Interrupted:
                raise
            except BackupError as error:
                self.fail(target.name, error)
            else:
                done.append(target)
        return done

    def _open_source(self) -> BtrfsEndpoint:
        job, context = self._job, self._context
        source = open_source(
            job.source,
            job.naming,
            job.snapshot_folder,
            connections=context.connections,
            ssh=job.ssh,
        )
        for note in preflight.check_source(source, job, context.sudo_line):
            context.emit(note)
        return source

    def _destinations(self, source: BtrfsEndpoint) -> list[Location]:
        """Return the destinations, with the recorded ones if those are asked for.

        :raises UsageError: if options need a program that is not installed.
        """
        job = self._job
        wanted = list(job.destinations)
        if job.locked_destinations:
            recorded = self._recorded_destinations(source)
            held = [parse_location(text, working_directory="/") for text in recorded]
            wanted += [location for location in held if location not in wanted]
        if job.transfer:
            middle_stages(job.options, frozenset(), cores=1)
        elif job.keep_destination is None:
            return []
        return wanted

    def _recorded_destinations(self, source: BtrfsEndpoint) -> list[str]:
        try:
            return recorded_locations(source.listing(HOLDS)[1])
        except Unreadable as error:
            text = f"{path_of(source)} cannot be read ({visible(str(error))}), so the"
            text += " destinations that are recorded there are not known"
            hint = "Name them on the command line; then the record is made anew."
            self.fail(str(source.location), BackupError(text, hint=hint))
            return []

    def _open_targets(
        self, source: BtrfsEndpoint, locations: Sequence[Location]
    ) -> list[Target]:
        targets = []
        for location in locations:
            try:
                targets.append(self._open_target(source, location))
            except Interrupted:
                raise
            except BackupError as error:
                self.fail(str(location), error)
        return targets

    def _open_target(self, source: BtrfsEndpoint, location: Location) -> Target:
        job, context = self._job, self._context
        destination = open_destination(
            location, job.naming, connections=context.connections, ssh=job.ssh
        )
        if destination.keeper:
            for note in preflight.check_destination(
                destination.keeper, source, job, context.sudo_line
            ):
                context.emit(note)
        return Target(destination, source, job, context)

    def _lock(
        self, stack: ExitStack, source: BtrfsEndpoint, targets: list[Target]
    ) -> list[Target]:
        """Lock all places, and clear what unfinished transfers left there."""
        self._lock_place(stack, source)

        def lock_target(target: Target) -> None:
            if target.keeper:
                self._lock_place(stack, target.keeper)

        return self._each(targets, lock_target)

    def _lock_place(self, stack: ExitStack, endpoint: BtrfsEndpoint) -> None:
        stack.enter_context(self._holder.holding(endpoint, self._job.wait_s))
        left = endpoint.facts.leftovers
        if not left:
            return
        log.info("%s: clearing what unfinished transfers left", endpoint)
        for transfer_id in endpoint.discard(left, keep_sealed=True):
            # A transfer of this run ends an earlier attempt at it.
            if not endpoint.is_source and not staging.is_known(transfer_id):
                text = f"{endpoint}: a transfer ({transfer_id}) still runs there"
                self._context.warn(str(endpoint.location), text)

    def _look(self, source: BtrfsEndpoint) -> Holds:
        """Look at the source's snapshots and holds."""
        self._here, recorded = source.listing(HOLDS)
        log.info("%s has %d snapshots", source, len(self._here.snapshots))
        time_of = self._job.naming.time_of
        if source.directory.startswith(f"{source.state}/"):
            time_of = time_in  # of any prefix: nothing else writes there
        ours = [s for s in self._here.snapshots if time_of(s.name)]
        needing = self._job.destinations if self._job.transfer else ()
        locations = [str(location) for location in needing]
        name = str(source.location)
        return open_holds(
            source,
            recorded,
            ours,
            locations,
            now=self._context.now,
            dry_run=self._job.dry_run,
            warn=self._context.warn,
            last_arrived=lambda: last_arrived_from(self._context.recall(), name),
        )

    def _follow(self, source: BtrfsEndpoint, targets: Sequence[Target]) -> Course:
        """Find out what time it may be, by all clocks and all that was made."""
        now, naming = self._context.now, self._job.naming
        keepers = [target.keeper for target in targets if target.keeper]
        found = (place.facts.clock_ahead_s for place in (source, *keepers))
        others = tuple(later(now, ahead) for ahead in found if ahead is not None)
        clock = Clock(now, self._context.is_synchronised, others)
        listings = [self._here, *(target.listing for target in targets)]
        return find_course(
            clock,
            [
                [s for s in seen.snapshots if naming.time_of(s.name) is not None]
                for seen in listings
            ],
        )

    def _plan_snapshot(
        self, source: BtrfsEndpoint, targets: Sequence[Target]
    ) -> Snapshot:
        """Add to what is there the snapshot that is going to be made.

        Its name is free at every place.
        """
        naming, now = self._job.naming, self._context.now
        taken = self._here.names.union(*(target.listing.names for target in targets))
        planned = next_snapshot(source, naming, now, taken)
        self._add_here(planned)
        return planned

    def _add_here(self, snapshot: Snapshot) -> None:
        others = [s for s in self._here.snapshots if s.name != snapshot.name]
        names = self._here.names | {snapshot.name}
        self._here = replace(self._here, snapshots=(*others, snapshot), names=names)

    def _take_snapshot(
        self, source: BtrfsEndpoint, planned: Snapshot, targets: Sequence[Target]
    ) -> None:
        """Make it, and plan again with what it really is."""
        job = self._job
        if not job.dry_run:
            self._holder.tell(f"making {planned.name}", source)
            self._add_here(source.take_snapshot(planned.name, self._context.now))
            for target in targets:
                target.plan(self._here, self._course)
        event = Snapshotted(str(source.location), planned.name, job.dry_run)
        self._context.emit(event)

    def _transfer(self, target: Target, holds: Holds, standin: Snapshot | None) -> None:
        if self._job.dry_run:
            target.rehearse(holds, standin)
        else:
            target.deliver(holds, self._holder)

    def _prune(
        self, source: BtrfsEndpoint, done: Sequence[Target], holds: Holds
    ) -> None:
        """Delete what no rule keeps, never where something failed."""
        job, context = self._job, self._context

        doing = "deleting old snapshots"

        def prune_target(target: Target) -> None:
            if target.keeper and job.keep_destination and not target.withheld:
                self._holder.tell(doing, target.keeper)
                target.check_alone()
                prune.prune_destination(
                    *(target.keeper, target.known, target.base),
                    *(job, context, self._course),
                )

        self._each(done, prune_target)
        self._holder.tell(doing, source)
        if not holds.withheld:
            needed = holds.reasons()
            prune.prune_source(source, self._here, needed, job, context, self._course)

    def _remove_locks(self, source: BtrfsEndpoint, stack: ExitStack) -> None:
        """Forget what is held for the given destinations, and do nothing else."""
        job = self._job
        if not job.dry_run:
            self._lock_place(stack, source)
        locations = [str(location) for location in job.destinations]
        for location, hold in self._look(source).forget(locations):
            event = Released(str(source.location), location, hold.name, job.dry_run)
            self._context.emit(event)
        self.tally.add(Tally(done=1))
