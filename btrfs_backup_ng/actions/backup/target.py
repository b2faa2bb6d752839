"""One destination during a run: look, plan, check, record."""

import logging
import shlex
import uuid
from collections.abc import Collection, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING
from uuid import UUID

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__util__ import (
    Refused,
    format_size,
    visible,
)
from btrfs_backup_ng.actions.prune.rules import (
    note_older_series,
    older_gaps,
    prune_line,
    worth_sending,
)
from btrfs_backup_ng.core.events import Level, Noted, UpToDate
from btrfs_backup_ng.core.judgement import Course, keep_by_policy
from btrfs_backup_ng.core.model import (
    Destination,
    Incremental,
    Integrity,
    Job,
    Listing,
    Snapshot,
    Waiting,
)
from btrfs_backup_ng.core.naming import are_of_btrbk
from btrfs_backup_ng.core.plan import (
    Transfer,
    TransferPlan,
    WhyFull,
    plan_whole_stream,
)
from btrfs_backup_ng.core.record import Content
from btrfs_backup_ng.core.retention import in_order, judge
from btrfs_backup_ng.core.value import replace
from btrfs_backup_ng.endpoint import staging
from btrfs_backup_ng.endpoint.common import Place
from btrfs_backup_ng.host.entry import SOURCES
from btrfs_backup_ng.place import preflight, room
from btrfs_backup_ng.place.holds import Hold, Holds, base_hold
from btrfs_backup_ng.place.planner import Planner
from btrfs_backup_ng.place.sources import (
    Ownership,
    backups_of,
    identity_of,
    is_snapshot_of,
)
from btrfs_backup_ng.session.history import origins_of
from btrfs_backup_ng.session.session import Session
from btrfs_backup_ng.transfer.route import choose_route

if TYPE_CHECKING:
    from btrfs_backup_ng.actions.backup.sizes import Sizes

log = logging.getLogger(__name__)


class Target:
    """One destination of a job, from the first look to the last record.

    A ``Shipment`` sends what is planned here; there may be nothing to send.

    :ivar name: the destination as events name it.
    :ivar keep: which backups stay there, ``None`` for all.
    :ivar listing: of the backups there, with those that were sent.
    :ivar base: newest snapshot that both places have.
    :ivar ownership: of the backups there.
    :ivar route: of the streams.
    :ivar left_out: snapshots that cannot be sent, with their names and the reasons.
    """

    def __init__(
        self,
        destination: Destination,
        place: Place,
        source: Place,
        job: Job,
        session: Session,
    ) -> None:
        """Choose the route.

        :raises Refused: if an end lacks a program that the options need.
        """
        self.place = place
        self.name = str(place.location)
        self.keep = destination.keep
        self.listing = Listing()
        self.base: Snapshot | None = None
        self.options = destination.options
        self.source = source
        self._job = job
        self.session = session
        self._plan = TransferPlan((), 0, None, (), None, None)
        self._here = Listing()
        self._course = Course(session.now)
        self.left_out: dict[Snapshot, str] = {}
        self._planner = Planner(source.snapshots, place.backups)
        self.ownership = Ownership(
            place, identity_of(source), job.naming.prefix, self.keep
        )
        self._begun: list[str] | None = None
        self.route = choose_route(source.snapshots, place.backups, self.options)

    def __str__(self) -> str:
        return visible(self.name)

    @property
    def known(self) -> Listing:
        """Return the listing without the backups whose owner is unknown."""
        return self.ownership.known_in(self.listing)

    @property
    def origins(self) -> set[UUID]:
        """Return the origins of the backups that are there and were not changed."""
        backups = (s for s in self.known.snapshots if s.received_uuid)
        return {s.origin for s in backups if s.integrity is not Integrity.CHANGED}

    @property
    def transfers(self) -> Sequence[Transfer]:
        """Return the planned transfers, the oldest snapshot first."""
        return self._plan.transfers

    @cached_property
    def sizes(self) -> "Sizes":
        """Return the sizes of the transfers."""
        from btrfs_backup_ng.actions.backup.sizes import Sizes  # here: to send

        return Sizes(self.source, str(self), self.route.protocol)

    def look(self, here: Listing) -> None:
        """List the backups there, and find their owners.

        :param here: the snapshots of the source.
        :raises ListingFailed: if they cannot be listed.
        """
        if not self.place.backups.lists:
            return
        self.listing, (content,) = self.place.backups.listing(SOURCES)
        log.info("%s has %d snapshots", self, len(self.listing.snapshots))
        self._find_owner(content, here)

    def _find_owner(self, content: Content, here: Listing) -> None:
        source, session = self.source, self.session
        ownership = self.ownership
        done = ownership.read(
            content,
            self.listing,
            {s.origin for s in here.snapshots if is_snapshot_of(source, s)},
            lambda: origins_of(session.recall(), str(source.location)),
            now=session.now,
            dry_run=self._job.dry_run,
        )
        if ownership.others and ownership.is_new and self._job.transfer:
            self._warn_of_mixing()
        if self.keep and ownership.older_prefixes:
            older = ownership.older_prefixes
            session.emit(note_older_series(self.name, self.keep, older))
        if done:
            session.emit(self._note_owners(done))

    def _note_owners(self, done: str) -> Noted:
        """Return a remark that the record does not say whose the backups are.

        :param done: what is done about it.
        """
        ownership, prefix = self.ownership, self._job.naming.prefix
        level, hint = Level.WARNING, ""
        text = f"{ownership.withheld[-1]}; {done}. Nothing is deleted at {self} now"
        backups = backups_of(self.listing, self._job.naming)
        if not ownership.is_damaged and are_of_btrbk([one.name for one in backups]):
            level = Level.INFO
            text = f"{self}: all backups are btrbk's, so this is the first run: it"
            text += " records whose they are, and deletes none"
        if ownership.unknown:
            text += (
                f". The source of {len(ownership.unknown)} backups that begin with"
                f" {visible(prefix)!r} is not known, so they are kept"
            )
            words = [PROGRAM, "prune", "--one-source", "-p", prefix, self.name]
            line = visible(shlex.join(words))
            hint = f"If they are all of one source:  {line}"
        return Noted(self.name, level, text, hint)

    def _warn_of_mixing(self) -> None:
        others = ", ".join(self.ownership.others)
        prefix, source = self._job.naming.prefix, self.source.location
        text = f"{self} keeps backups of {visible(others)} that begin with"
        text += f" {visible(prefix)!r}; those of {visible(str(source))} will be mixed"
        text += " with them, and then no policy can delete any"
        hint = "Give each source a directory of its own, or a prefix:  -p PREFIX"
        self.session.emit(Noted(self.name, Level.WARNING, text, hint))

    def plan(self, here: Listing, course: Course) -> None:
        """Plan the transfers, and inspect each parent that may have been changed.

        :param here: the snapshots of the source.
        :param course: the possible times.
        """
        job, naming = self._job, self._job.naming
        self._here, self._course = here, course
        named = [s for s in here.snapshots if naming.time_of(s.name) is not None]
        if not self.place.backups.takes_parents:
            self._plan = plan_whole_stream(named if job.transfer else [])
            return
        limit = None if self.ownership.others else self.keep
        is_chosen = limit or not self.options.backfill
        begun = self._begun_of(named) if is_chosen else set()
        worth_it = worth_sending(named, self.known, limit, naming, course, begun)
        wanted = {s.uuid for s in worth_it} if job.transfer else set()
        gaps = older_gaps(named, self.listing, begun)
        if gaps and not self.options.backfill:
            text = "%s lacks %d older snapshots; to send them, too: --backfill"
            log.info(text, self, len(gaps))
            wanted -= gaps
        wanted -= {snapshot.uuid for snapshot in self.left_out}
        self._plan = self._planner.plan(
            here, self.listing, wanted, naming, self.options.incremental
        )
        self.base = self._plan.base

    def _begun_of(self, snapshots: Collection[Snapshot]) -> set[UUID]:
        """Return the UUIDs of snapshots of which a part has arrived there."""
        if self._begun is None:
            ids = staging.of_snapshots(self.place.facts.leftovers, snapshots)
            waiting = self.place.waiting(ids)
            self._begun = [one.transfer_id for one in waiting if one.size_bytes]
        begun = self._begun
        return {s.uuid for s in snapshots if staging.of_snapshots(begun, [s])}

    def check_alone(self) -> None:
        """Check that no other source has backups with the same prefix there.

        :raises Refused: if one has.
        """
        if self.ownership.others:
            prefix = visible(self._job.naming.prefix)
            others = visible(", ".join(self.ownership.others))
            raise Refused(
                f"{self} also keeps backups of {others} that begin with {prefix!r}, so"
                " nothing is deleted there",
                hint="Give each source a directory of its own, or a prefix:  -p PREFIX",
            )

    def drop_expired(self, course: Course) -> None:
        """Delete interrupted transfers that are too old and not resumed by this run."""
        if not self._job.dry_run:
            room.drop_expired(
                self.place,
                self._resumed(),
                course.earliest,
                self.options.staging_max_age,
                is_sure=course.is_confirmed,
            )

    def _resumed(self) -> set[str]:
        """Return the ids of interrupted transfers that this run may resume."""
        return {name for t in self.transfers for name in self.route.resumable(t)}

    def check(self, here: Listing) -> None:
        """Warn about the plan, and refuse it if it is not allowed or not possible.

        :raises Refused: if a transfer is full against the options, or too large.
        """
        for text in self._plan.refusals:
            self.session.warn(self.name, f"{self}: {visible(text)}")
        for transfer in self.transfers:
            if transfer.target != transfer.snapshot.name:
                name, target = visible(transfer.snapshot.name), visible(transfer.target)
                text = f"{self} has another {name} already; this one becomes {target}"
                self.session.warn(self.name, text)
        full = [t for t in self.transfers if t.parent is None]
        backups = self.place.backups
        if full and backups.takes_parents and self._job.transfer:
            self._check_full(full[0], here)
        if backups.lists and self.options.check_space:
            self._check_space()

    def _check_full(self, transfer: Transfer, here: Listing) -> None:
        if self.options.incremental is Incremental.REQUIRED:
            assert transfer.why_full
            raise Refused(
                f"{self} would need {visible(transfer.snapshot.name)} in full"
                f" ({transfer.why_full.value}), and --incremental=required forbids that"
            )
        if transfer.why_full in (WhyFull.NOTHING_COMMON, WhyFull.CHANGED):
            received = [s for s in self.listing.snapshots if s.received_uuid]
            newest = in_order(received)[-1]
            oldest = in_order(here.snapshots)[0]
            size_bytes = self.sizes.shared(transfer)
            size = f", about {format_size(size_bytes)}" if size_bytes else ""
            self.session.emit(
                Noted(
                    self.name,
                    Level.INFO,
                    f"{self} no longer shares a usable snapshot with {self.source}"
                    f" (newest there: {_day(newest)}, oldest here: {_day(oldest)})",
                    f"Sending in full{size}. The old backups there stay valid."
                    " Stop here with --incremental=required.",
                )
            )

    def _check_space(self) -> None:
        options, free = self.options, self.place.facts.size_free
        if preflight.certainly_fits(self.source.facts, free, options):
            return
        taken = 0  # by the transfers before
        for transfer in self.transfers:
            there = self.safe_bytes(transfer)
            needed = max(0, (self.sizes.estimate(transfer) or 0) - there)
            name = transfer.snapshot.name
            if not preflight.fits(needed, free - taken, options):
                # the estimate counts clones twice
                measured = self.sizes.measured(transfer, self.session.now)
                needed = max(0, min(needed, measured - there))
            if not preflight.fits(needed, free - taken, options):
                free = self._make_room(name, taken, needed)
            for note in preflight.check_space(
                self.name, name, needed, free - taken, options, ways_out=self._ways_out
            ):
                self.session.emit(note)
            taken += needed

    def _ways_out(self) -> str:
        """Return the hint for a destination without room.

        The policy of this run deletes only after sending. Where it would delete some of
        the backups that are there, the command that does so now is named.
        """
        ways = "Make room, or:  --safety-margin PCT, --no-check-space, --force"
        keep, naming = self.keep, self._job.naming
        if keep is None or self.ownership.withheld or self.ownership.others:
            return ways
        backups = [s for s in self.listing.snapshots if s.received_uuid]
        named = [s for s in backups if naming.time_of(s.name) is not None]
        rule = keep_by_policy(keep, naming, self._course)
        base = self.base.origin if self.base else None
        gone = [
            verdict
            for verdict in judge(named, [rule])
            if not verdict.kept and verdict.snapshot.origin != base
        ]
        if not gone:
            return ways
        is_much = 2 * len(gone) > len(named) or keep.keeps_only_newest
        # Without --force, prune would refuse that.
        line = prune_line(keep, naming.prefix, self.name, is_forced=is_much)
        text = f"{len(gone)} of its {len(named)} backups are not kept by the policy of"
        text += " this run, which deletes only after sending. To delete them now"
        return f"{text}:  {line}\n{ways}"

    def _make_room(self, name: str, taken: int, needed: int) -> int:
        """Find room for a transfer that lacks it.

        What was deleted a moment ago may still take room, so a run waits until it is
        gone. Then delete interrupted transfers. Those that this run resumes stay; all
        stay, if that would not free enough.

        :param taken: bytes needed by the transfers before it.
        :returns: the free bytes after that, also in a dry run.
        """
        place, options = self.place, self.options

        def fits(free: int) -> bool:
            return preflight.fits(needed, free - taken, options)

        def report(one: Waiting) -> None:
            word = "would discard" if self._job.dry_run else "discarded"
            text = f"{self}: {word} {room.about(one)}: {visible(name)} needs its space"
            self.session.warn(self.name, text)

        if not self._job.dry_run:
            place.sync()
            place.look()
        if fits(place.facts.size_free):
            return place.facts.size_free
        interval = options.checkpoint_interval
        found = room.find_expendable(place, self._resumed(), fits, interval)
        if not self._job.dry_run:
            room.make_room(place, found, fits, report)
            return place.facts.size_free
        discarded, free = room.first_needed(found, place.facts.size_free, fits)
        for one in discarded:
            report(one)
        return free

    def size_up_to(self, limit: int) -> int:
        """Estimate all that is planned, up to a limit: any more means that it is more.

        What another machine sends is not estimated for this, which takes a session.
        """
        total = 0
        for transfer in self._plan.transfers:
            if self.source.location.is_here:
                size_bytes = self.sizes.estimate(transfer, limit)
            else:
                size_bytes = self.sizes.known(transfer)
            total += limit + 1 if size_bytes is None else size_bytes
            if total > limit:
                break
        return total

    def safe_bytes(self, transfer: Transfer) -> int:
        """Return the bytes of a stream that have arrived in an earlier attempt."""
        return self.place.safe_bytes(self.route.resumable(transfer))

    def look_again(self) -> None:
        """List the backups there again."""
        self.look(self._here)

    def leave_out(self, snapshot: Snapshot, reason: str) -> None:
        """Plan without a snapshot that cannot be sent, and what was to follow it."""
        self.left_out[snapshot] = f"{visible(snapshot.name)} cannot be sent: {reason}"
        self.plan(self._here, self._course)

    def take_in(self, transfer: Transfer) -> None:
        """Add the snapshot of a transfer that arrived to the listing."""
        snapshot, there = transfer.snapshot, self.listing.snapshots
        copy = replace(
            snapshot,
            name=transfer.target,
            created=self._job.naming.time_of(transfer.target) or snapshot.created,
            uuid=uuid.uuid4(),
            received_uuid=snapshot.origin,
            # Later than all snapshots there, by the generations of that filesystem.
            generation=1 + max((one.generation for one in there), default=0),
            tree_id=0,
            otime=self.session.now,
        )
        self.listing = replace(
            self.listing,
            snapshots=(*self.listing.snapshots, copy),
            names=self.listing.names | {copy.name},
        )
        if self.base is None or snapshot.generation >= self.base.generation:
            self.base = snapshot

    def clear_staging(self) -> None:
        """Delete the staging of snapshots that have arrived now."""
        received = {copy.received_uuid for copy in self.listing.snapshots}
        there = [s for s in self._here.snapshots if s.origin in received]
        left = staging.of_snapshots(self.place.facts.leftovers, there)
        for transfer_id in self.place.discard(left):
            text = f"{self}: an earlier transfer ({transfer_id}) is still running there"
            self.session.warn(self.name, text)

    def register(self) -> None:
        """Record the source at the destination."""
        self.ownership.register([t.snapshot.origin for t in self.transfers])

    def hold(self, holds: Holds, *needed: Hold) -> None:
        """Record at the source the needs of the destination, if it takes parents.

        :param needed: beside the newest snapshot that both places have.
        """
        if self.place.backups.takes_parents:
            bases = [base_hold(self.base)] if self.base else []
            holds.set(self.place, [*needed, *bases])

    def finish(self, holds: Holds) -> None:
        """Complete the records of a destination to which nothing was sent.

        A dry run only reports.
        """
        if not self._job.dry_run:
            self.register()
            self.clear_staging()
        self.settle(holds)

    def settle(self, holds: Holds) -> None:
        """Report if nothing was to be sent, and hold the parent of the next backup."""
        if not self._job.transfer:
            return
        if not self.transfers:
            source, dry = str(self.source.location), self._job.dry_run
            event = UpToDate(source, self.name, self._plan.present, dry)
            self.session.emit(event)
        self.hold(holds)


def _day(snapshot: Snapshot) -> str:
    created: datetime | None = snapshot.created
    return f"{created.astimezone():%Y-%m-%d}" if created else "unknown"
