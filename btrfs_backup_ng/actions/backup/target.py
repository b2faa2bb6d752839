"""One destination during a run: look, plan, check, deliver."""

import logging
import shlex
import uuid
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Self
from uuid import UUID

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__util__ import (
    BackupError,
    Refused,
    attempt,
    format_size,
    visible,
)
from btrfs_backup_ng.actions.prune.rules import (
    note_older_series,
    older_gaps,
    prune_line,
    worth_sending,
)
from btrfs_backup_ng.core import codecs
from btrfs_backup_ng.core.events import Level, Noted, Sent, UpToDate
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
from btrfs_backup_ng.host.entry import SOURCES, plain
from btrfs_backup_ng.place import preflight, room
from btrfs_backup_ng.place.forecast import NOT_MADE_YET, Planner
from btrfs_backup_ng.place.holds import Hold, Holds, base_hold, sending_hold
from btrfs_backup_ng.place.locks import Holder
from btrfs_backup_ng.place.sources import (
    Ownership,
    identity_of,
    is_snapshot_of,
)
from btrfs_backup_ng.process.fan_out import Seat
from btrfs_backup_ng.process.pipeline import Moved
from btrfs_backup_ng.session.history import origins_of
from btrfs_backup_ng.session.session import Session
from btrfs_backup_ng.transfer import size
from btrfs_backup_ng.transfer.delivery import Delivery, GoesAlone, is_about_snapshot

log = logging.getLogger(__name__)


class Unsendable(BackupError):
    """Snapshots cannot be sent because of what they hold; the others were sent.

    :ivar exit_status: of a run that did a part, if any other one arrived.
    """

    def __init__(self, message: str, *, hint: str, exit_status: int) -> None:
        super().__init__(message, hint=hint)
        self.exit_status = exit_status


class Target:
    """One destination of a job, from the first look to the last transfer.

    :ivar name: the destination as events name it.
    :ivar keep: which backups stay there, ``None`` for all.
    :ivar listing: of the backups there; :meth:`deliver` adds those that it sent.
    :ivar base: newest snapshot that both places have; :meth:`deliver` updates it.
    :ivar ownership: of the backups there.
    """

    def __init__(
        self,
        destination: Destination,
        place: Place,
        source: Place,
        job: Job,
        session: Session,
    ) -> None:
        self.place = place
        self.name = str(place.location)
        self.keep = destination.keep
        self.listing = Listing()
        self.base: Snapshot | None = None
        self._options = destination.options
        self._source = source
        self._job = job
        self._session = session
        self._plan = TransferPlan((), 0, None, (), None, None)
        self._sizes: dict[tuple[str, str], int | None] = {}
        self._here = Listing()
        self._course = Course(session.now)
        self._unsendable: dict[UUID, str] = {}  # UUID -> name and reason
        self._tried: set[UUID] = set()
        self._planner = Planner(source.snapshots, place.backups)
        self.ownership = Ownership(
            place, identity_of(source), job.naming.prefix, self.keep
        )
        self._begun: list[str] | None = None
        self._delivery = Delivery(
            source.snapshots, place.backups, destination.options, session
        )

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
    def stall_timeout_s(self) -> float:
        return self._options.stall_timeout_s

    @property
    def has_plan(self) -> bool:
        """Return whether there is anything to send."""
        return bool(self._plan.transfers)

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
        source, session, prefix = self._source, self._session, self._job.naming.prefix
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
        if not done:
            return
        text = f"{ownership.withheld[-1]}; {done}. Nothing is deleted at {self} now"
        hint = ""
        if ownership.unknown:
            text += (
                f". The source of {len(ownership.unknown)} backups that begin with"
                f" {visible(prefix)!r} is not known, so they are kept"
            )
            words = [PROGRAM, "prune", "--one-source", "-p", prefix, self.name]
            line = visible(shlex.join(words))
            hint = f"If they are all of one source:  {line}"
        session.emit(Noted(self.name, Level.WARNING, text, hint))

    def _warn_of_mixing(self) -> None:
        others = ", ".join(self.ownership.others)
        prefix, source = self._job.naming.prefix, self._source.location
        text = f"{self} keeps backups of {visible(others)} that begin with"
        text += f" {visible(prefix)!r}; those of {visible(str(source))} will be mixed"
        text += " with them, and then no policy can delete any"
        hint = "Give each source a directory of its own, or a prefix:  -p PREFIX"
        self._session.emit(Noted(self.name, Level.WARNING, text, hint))

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
        is_chosen = limit or not self._options.backfill
        begun = self._begun_of(named) if is_chosen else set()
        worth_it = worth_sending(named, self.known, limit, naming, course, begun)
        wanted = {s.uuid for s in worth_it} if job.transfer else set()
        gaps = older_gaps(named, self.listing, begun)
        if gaps and not self._options.backfill:
            text = "%s lacks %d older snapshots; to send them, too: --backfill"
            log.info(text, self, len(gaps))
            wanted -= gaps
        wanted -= set(self._unsendable)
        self._plan = self._planner.plan(
            here, self.listing, wanted, naming, self._options.incremental
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
                self._options.staging_max_age,
                is_sure=course.is_confirmed,
            )

    def _resumed(self) -> set[str]:
        """Return the ids of interrupted transfers that this run may resume."""
        resumable = self._delivery.route.resumable
        return {name for t in self._plan.transfers for name in resumable(t)}

    def check(self, here: Listing) -> None:
        """Warn about the plan, and refuse it if it is not allowed or not possible.

        :raises Refused: if a transfer is full against the options, or too large.
        """
        for text in self._plan.refusals:
            self._session.warn(self.name, f"{self}: {visible(text)}")
        for transfer in self._plan.transfers:
            if transfer.target != transfer.snapshot.name:
                name, target = visible(transfer.snapshot.name), visible(transfer.target)
                text = f"{self} has another {name} already; this one becomes {target}"
                self._session.warn(self.name, text)
        full = [t for t in self._plan.transfers if t.parent is None]
        backups = self.place.backups
        if full and backups.takes_parents and self._job.transfer:
            self._check_full(full[0], here)
        if backups.lists and self._options.check_space:
            self._check_space()

    def _check_full(self, transfer: Transfer, here: Listing) -> None:
        if self._options.incremental is Incremental.REQUIRED:
            assert transfer.why_full
            raise Refused(
                f"{self} would need {visible(transfer.snapshot.name)} in full"
                f" ({transfer.why_full.value}), and --incremental=required forbids that"
            )
        if transfer.why_full in (WhyFull.NOTHING_COMMON, WhyFull.CHANGED):
            received = [s for s in self.listing.snapshots if s.received_uuid]
            newest = in_order(received)[-1]
            oldest = in_order(here.snapshots)[0]
            size_bytes = self._shared_size(transfer)
            size = f", about {format_size(size_bytes)}" if size_bytes else ""
            self._session.emit(
                Noted(
                    self.name,
                    Level.INFO,
                    f"{self} no longer shares a usable snapshot with {self._source}"
                    f" (newest there: {_day(newest)}, oldest here: {_day(oldest)})",
                    f"Sending in full{size}. The old backups there stay valid."
                    " Stop here with --incremental=required.",
                )
            )

    def _check_space(self) -> None:
        options, free = self._options, self.place.facts.size_free
        if preflight.certainly_fits(self._source.facts, free, options):
            return
        taken = 0  # by the transfers before
        for transfer in self._plan.transfers:
            there = self._waiting(transfer)
            needed = max(0, (self._size(transfer) or 0) - there)
            name = transfer.snapshot.name
            if not preflight.fits(needed, free - taken, options):
                # the estimate counts clones twice
                needed = max(0, min(needed, self._measured(transfer) - there))
            if not preflight.fits(needed, free - taken, options):
                free = self._make_room(name, taken, needed)
            for note in preflight.check_space(
                self.name, name, needed, free - taken, options, ways_out=self._ways_out
            ):
                self._session.emit(note)
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
        place, options = self.place, self._options

        def fits(free: int) -> bool:
            return preflight.fits(needed, free - taken, options)

        def report(one: Waiting) -> None:
            word = "would discard" if self._job.dry_run else "discarded"
            text = f"{self}: {word} {room.about(one)}: {visible(name)} needs its space"
            self._session.warn(self.name, text)

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

    def _measured(self, transfer: Transfer) -> int:
        """Measure a stream; for a planned snapshot, on a temporary one."""
        snapshot, now = transfer.snapshot, self._session.now
        if snapshot.generation < NOT_MADE_YET:
            return self._exact_size(transfer, None)
        with size.temporary_snapshot(self._source, snapshot.name, now) as temporary:
            return self._exact_size(transfer, temporary)

    def _size(self, transfer: Transfer) -> int | None:
        """Estimate a transfer in bytes; of a planned snapshot, from the source now.

        :returns: ``None`` if that fails, which never fails the transfer itself.
        """
        key = _key(transfer)
        if key not in self._sizes:
            made = transfer.snapshot.generation < NOT_MADE_YET
            snapshot = transfer.snapshot if made else None
            parent = transfer.parent
            if parent and parent.generation == NOT_MADE_YET:  # a parent sent before it
                parent = None
            found = attempt(
                lambda: size.written_since(self._source.snapshots, snapshot, parent)
            )
            if isinstance(found, BackupError):
                text = "%s: the size of %s is not known: %s"
                log.warning(text, self, transfer.snapshot.name, found.message)
            self._sizes[key] = found if isinstance(found, int) else None
        return self._sizes[key]

    def report_plan(self, holds: Holds, temporary: Snapshot | None) -> None:
        """Report the transfers of :meth:`deliver` as a dry run, with sizes.

        :param temporary: measured in place of the planned snapshot.
        """
        for transfer in self._plan.transfers:
            whole = self._exact_size(transfer, temporary)
            self._warn_of_size(transfer, whole)
            there = self._waiting(transfer)
            moved = Moved(max(0, whole - there), 0.0, b"")
            event = self._delivery.sent(transfer, moved, "", there, dry=True)
            self._session.emit(event)
            self._arrived(transfer)
        self._finish(holds)

    def _warn_of_size(self, transfer: Transfer, size_bytes: int) -> None:
        most = self._options.max_size
        if most is not None and size_bytes > most:
            name = visible(transfer.snapshot.name)
            text = f"sending {name} to {self} would be stopped: it is longer than"
            text += f" {format_size(most)} (--max-size)"
            self._session.warn(self.name, text)

    def _waiting(self, transfer: Transfer) -> int:
        """Return the bytes of a stream that have arrived in an earlier attempt."""
        return self.place.safe_bytes(self._delivery.route.resumable(transfer))

    def _exact_size(self, transfer: Transfer, temporary: Snapshot | None) -> int:
        """Return the exact size of a stream; an estimate without a snapshot."""

        def made(snapshot: Snapshot | None) -> Snapshot | None:
            planned = snapshot and snapshot.generation == NOT_MADE_YET
            return temporary if planned else snapshot

        snapshot, parent = made(transfer.snapshot), made(transfer.parent)
        if snapshot is None or (transfer.parent and not parent):
            return self._shared_size(transfer)
        protocol = self._delivery.route.protocol
        return size.stream_size(self._source.snapshots, snapshot, parent, protocol)

    def _shared_size(self, transfer: Transfer) -> int:
        """Estimate a transfer; if it is full, what files share counts once."""
        estimate = self._size(transfer)
        if transfer.parent or estimate is None:
            return estimate or 0
        made = transfer.snapshot.generation < NOT_MADE_YET
        snapshot = transfer.snapshot if made else None
        return size.written_since(self._source.snapshots, snapshot, None, once=True)

    def deliver(self, holds: Holds, holder: Holder) -> None:
        """Send everything that is planned; see :class:`Shipment`."""
        with Shipment(self, holds, holder) as shipment:
            while shipment.begin():
                shipment.send()
                shipment.end()
            shipment.finish()

    def _next(self) -> Transfer | None:
        """Return the first planned transfer that was not tried yet."""
        planned = self._plan.transfers
        left = (t for t in planned if t.snapshot.uuid not in self._tried)
        return next(left, None)

    def next_stream(self) -> "Stream | None":
        """Return the stream that is sent next; None if nothing is left."""
        transfer, route = self._next(), self._delivery.route
        if not transfer:
            return None
        # Checkpoints and compression at another machine are those of one destination.
        is_plain = self._source.location.is_here or route.codec == codecs.NONE
        parent = transfer.parent.uuid if transfer.parent else None
        alone = "" if is_plain else self.name
        return transfer.snapshot.uuid, parent, route.protocol, alone

    def begin(self, holds: Holds, holder: Holder) -> Transfer | None:
        """Return the next transfer, and record what it needs; None if none is left."""
        transfer = self._next()
        if transfer:
            self._tried.add(transfer.snapshot.uuid)
            self._hold(holds, sending_hold(transfer.snapshot), *self._bases())
            doing = f"sending {transfer.snapshot.name} to {self.name}"
            holder.note(doing, self._source, self.place)
            log.info("sending %s to %s", transfer.snapshot.name, self)
            self._delivery.turn = self._turn()
        return transfer

    def send(
        self,
        transfer: Transfer,
        holder: Holder,
        before_publishing: Callable[[], None],
        when_regained: Callable[[Place], None],
        seat: Seat | None,
    ) -> Sent:
        """Send a snapshot: see :meth:`Delivery.send`."""
        estimate = self._sizes.get(_key(transfer))
        return self._delivery.send(
            transfer, estimate, holder, before_publishing, when_regained, seat
        )

    def look_again(self) -> None:
        """List the backups there again."""
        self.look(self._here)

    def take_in(self, transfer: Transfer, sent: Sent) -> None:
        """Report a transfer that succeeded."""
        self._session.emit(sent)
        self._arrived(transfer)

    def try_again(self, transfer: Transfer) -> None:
        """Let a transfer be the next one once more."""
        self._tried.discard(transfer.snapshot.uuid)

    def _turn(self) -> tuple[int, int]:
        """Return the number of the current transfer, and how many there are."""
        planned = {transfer.snapshot.uuid for transfer in self._plan.transfers}
        return len(self._tried), len(planned | self._tried)

    def set_aside(self, transfer: Transfer, error: BackupError) -> None:
        """Plan without a snapshot that cannot be sent, and what was to follow it.

        :raises BackupError: that error, if it is not about this snapshot.
        """
        if not (is_about_snapshot(error) and self.place.backups.takes_parents):
            raise error
        snapshot = transfer.snapshot
        name = visible(snapshot.name)
        self._unsendable[snapshot.uuid] = f"{name} cannot be sent: {error.message}"
        self.plan(self._here, self._course)

    def finish(self, holds: Holds, arrived: int) -> None:
        """Clear staging, hold the parent of the next backup, report.

        :param arrived: number of transfers that succeeded.
        :raises Unsendable: if there were snapshots that cannot be sent.
        """
        self._clear_staging()
        if self._unsendable:
            self._hold(holds, *self._bases())
            self._refuse_unsendable(arrived)
        self._finish(holds)

    def _refuse_unsendable(self, arrived: int) -> None:
        """Name the snapshots that cannot be sent.

        :raises Unsendable: always.
        """
        here = self._here.snapshots
        names = [s.name for s in here if s.uuid in self._unsendable]
        folder = plain(self._source.snapshots.directory)
        scrub, gone = (
            visible(shlex.join(["btrfs", *words]))
            for words in (
                ("scrub", "start", "-B", folder),
                ("subvolume", "delete", *(f"{folder}/{name}" for name in names)),
            )
        )
        raise Unsendable(
            "; ".join(self._unsendable.values()),
            hint=f"{'All others were sent' if arrived else 'No other was missing'}."
            f" If a block cannot be read, dmesg names the file after:  {scrub}"
            f"\nTo stop trying to send it:  {gone}",
            exit_status=10 if arrived else 1,
        )

    def _clear_staging(self) -> None:
        """Delete the staging of snapshots that have arrived now."""
        received = {copy.received_uuid for copy in self.listing.snapshots}
        there = [s for s in self._here.snapshots if s.origin in received]
        left = staging.of_snapshots(self.place.facts.leftovers, there)
        for transfer_id in self.place.discard(left):
            text = f"{self}: an earlier transfer ({transfer_id}) is still running there"
            self._session.warn(self.name, text)

    def register(self) -> None:
        """Record the source at the destination."""
        self.ownership.register([t.snapshot.origin for t in self._plan.transfers])

    def _hold(self, holds: Holds, *needed: Hold) -> None:
        """Record at the source the needs of the destination, if it takes parents."""
        if self.place.backups.takes_parents:
            holds.set(self.place, needed)

    def _bases(self) -> list[Hold]:
        return [base_hold(self.base)] if self.base else []

    def _finish(self, holds: Holds) -> None:
        """Report if nothing was to be sent, and hold the parent of the next backup."""
        if not self._job.transfer:
            return
        if not self._plan.transfers:
            source, dry = str(self._source.location), self._job.dry_run
            event = UpToDate(source, self.name, self._plan.present, dry)
            self._session.emit(event)
        self._hold(holds, *self._bases())

    def _arrived(self, transfer: Transfer) -> None:
        """Add an arrived snapshot to the listing."""
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
            otime=self._session.now,
        )
        self.listing = replace(
            self.listing,
            snapshots=(*self.listing.snapshots, copy),
            names=self.listing.names | {copy.name},
        )
        if self.base is None or snapshot.generation >= self.base.generation:
            self.base = snapshot


#: Streams that are equal can be sent to several destinations at once: the UUIDs of
#: snapshot and parent, the protocol, and a name if it is for this destination only.
Stream = tuple[UUID, UUID | None, str, str]


class Shipment:
    """The transfers to one destination, one after the other, the oldest first.

    The needs of the destination are recorded before each step: so nothing that it needs
    is deleted, even if the step fails. A snapshot that cannot be sent because of what
    it holds stops no newer one: these are sent from the last common parent.

    Only :meth:`send` may run in another thread than the rest.

    :ivar must_go_alone: it no longer shares a sender.
    """

    def __init__(self, target: Target, holds: Holds, holder: Holder) -> None:
        self.target = target
        self.must_go_alone = False
        self._holds = holds
        self._holder = holder
        self._arrived = 0
        self._transfer: Transfer | None = None
        self._outcome: Sent | BackupError | None = None
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        # beside the first transfer
        self._registration = self._pool.submit(self.target.register)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    @property
    def has_failed(self) -> bool:
        """Return whether the transfer that was sent last failed."""
        return isinstance(self._outcome, BackupError)

    def stream(self) -> Stream | None:
        """Return the next stream; None if nothing is left."""
        return self.target.next_stream()

    def begin(self) -> bool:
        """Prepare the next transfer; return whether there is one.

        :raises BackupError: if the needs of the destination cannot be recorded.
        """
        self._transfer = self.target.begin(self._holds, self._holder)
        return self._transfer is not None

    def send(self, seat: Seat | None = None) -> None:
        """Send it, and keep the outcome for :meth:`end`.

        :param seat: at a sender that other destinations share.
        """
        assert self._transfer
        transfer = self._transfer
        self._outcome = attempt(
            lambda: self.target.send(
                transfer, self._holder, self._registered, self._look_again, seat
            )
        )

    def end(self) -> None:
        """Take down the outcome of the transfer.

        :raises BackupError: if it failed, and no other one may be sent.
        """
        assert self._transfer and self._outcome
        if isinstance(self._outcome, GoesAlone):
            self.must_go_alone = True
            self.target.try_again(self._transfer)
        elif isinstance(self._outcome, BackupError):
            self.target.set_aside(self._transfer, self._outcome)
        else:
            self.target.take_in(self._transfer, self._outcome)
            self._arrived += 1

    def finish(self) -> None:
        """Complete the records, and clear staging that is of no use now.

        :raises Unsendable: if there were snapshots that cannot be sent.
        """
        self._registered()
        self.target.finish(self._holds, self._arrived)

    def _look_again(self, place: Place) -> None:
        """Look at a place again after its lock was lost."""
        if place is self.target.place:
            attempt(self._registration.result)
            self.target.look_again()
        else:
            self._holds.read_again()

    def _registered(self) -> None:
        if isinstance(attempt(self._registration.result), BackupError):
            self.target.register()  # the connection was interrupted


def _key(transfer: Transfer) -> tuple[str, str]:
    """Return a key of a transfer that stays the same when its snapshot is made."""
    return transfer.snapshot.name, transfer.parent.name if transfer.parent else ""


def _day(snapshot: Snapshot) -> str:
    created: datetime | None = snapshot.created
    return f"{created.astimezone():%Y-%m-%d}" if created else "unknown"
