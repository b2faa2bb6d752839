"""Own one destination during a run: look, plan, check, deliver."""

import logging
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from btrfs_backup_ng import preflight, prune
from btrfs_backup_ng.__util__ import Refused, format_size, visible
from btrfs_backup_ng.context import Context
from btrfs_backup_ng.endpoint import Destination
from btrfs_backup_ng.endpoint.common import BtrfsEndpoint
from btrfs_backup_ng.holds import Hold, Holds, Place, base_hold, sending_hold
from btrfs_backup_ng.locks import Holder
from btrfs_backup_ng.model import Incremental, Job, Listing, Seal, Snapshot
from btrfs_backup_ng.origins import (
    ORIGINS,
    Origins,
    format_origins,
    origin_of,
    others,
    parse_origins,
    signed_in,
)
from btrfs_backup_ng.pipeline import Meter
from btrfs_backup_ng.plan import (
    Transfer,
    TransferPlan,
    WhyFull,
    plan_transfers,
    plan_whole_stream,
)
from btrfs_backup_ng.report import Level, Noted, Sent, UpToDate
from btrfs_backup_ng.retention import in_order
from btrfs_backup_ng.route import choose_route, packed_codec
from btrfs_backup_ng.transfer import decided, expecting, run_transfer

log = logging.getLogger(__name__)

#: Generation of a snapshot that is planned and not made yet: later than all.
NOT_MADE_YET = 2**63


class Target:
    """One destination of a task, from the first look to the last transfer.

    :ivar name: the destination as events name it.
    :ivar listing: what is there; after :meth:`deliver` with what came since.
    :ivar base: newest snapshot that both places have, kept up to date likewise.
    """

    def __init__(
        self,
        destination: Destination,
        source: BtrfsEndpoint,
        job: Job,
        context: Context,
    ) -> None:
        self.destination = destination
        self.keeper = destination.keeper
        self.listing = Listing()
        self._source = source
        self._job = job
        self._context = context
        self.name = str(destination.sink.location)
        self._plan: TransferPlan
        self._sizes: dict[tuple[str, str], int] = {}
        self._seals: dict[UUID, Seal] = {}
        self._own = origin_of(source)
        self._origins: Origins = {}
        self._others: list[str] = []
        self.base: Snapshot | None = None
        self._route = choose_route(source, destination.sink, job.options)

    def __str__(self) -> str:
        return visible(self.name)

    @property
    def place(self) -> Place:
        """What holds call it."""
        sink = self.destination.sink
        return Place(self.name, sink.facts.filesystem)

    def look(self) -> None:
        """See what is there.

        :raises ListingFailed: if that is not possible.
        """
        if self.keeper:
            self.listing, content = self.keeper.listing(ORIGINS)
            self._origins = parse_origins(content)
            self._others = others(self._origins, self._job.naming.prefix, self._own)
            log.info("%s has %d snapshots", self, len(self.listing.snapshots))

    def plan(self, here: Listing) -> None:
        """Decide what to send, with a close look at a parent that needs one.

        :param here: what the source has.
        """
        job, naming = self._job, self._job.naming
        ours = [s for s in here.snapshots if naming.time_of(s.name) is not None]
        if self.keeper is None:
            self._plan = plan_whole_stream(ours if job.transfer else [])
            return
        limit = None if self._others else job.keep_destination
        worth_sending = prune.worth_sending(
            ours, self.listing, limit, naming, self._context.now
        )
        wanted = {s.uuid for s in worth_sending} if job.transfer else set()
        own_uuid = self._source.facts.uuid
        related = {s.uuid for s in here.snapshots if s.parent_uuid == own_uuid}
        related |= {s.uuid for s in ours}
        while True:
            plan = plan_transfers(
                [s for s in here.snapshots if s.uuid in wanted],
                here,
                self.listing,
                related=related,
                seals=self._seals,
                incremental=job.options.incremental,
            )
            self._plan, self.base = plan, plan.base
            if plan.doubtful_here:
                here = self._settled(here, plan.doubtful_here)
            elif plan.doubtful:
                carriers = self.listing.carriers.get(plan.doubtful, ())
                self._seals[plan.doubtful] = self.keeper.look_closely(carriers)
            else:
                return

    def _settled(self, here: Listing, doubtful: Snapshot) -> Listing:
        """Look closely at a snapshot of the source; what is not sure is broken."""
        found = self._source.look_closely([doubtful.tree_id])
        seal = Seal.INTACT if found is Seal.INTACT else Seal.BROKEN
        seen = replace(doubtful, seal=seal)
        return replace(
            here, snapshots=tuple(seen if s == doubtful else s for s in here.snapshots)
        )

    def check_alone(self) -> None:
        """Refuse to delete where backups of other sources look like ours.

        :raises Refused: if there are any.
        """
        if self._others:
            prefix = visible(self._job.naming.prefix)
            raise Refused(
                f"{self} also keeps backups of {visible(', '.join(self._others))} that"
                f" begin with {prefix!r}, so nothing is deleted there",
                hint="Give each source a directory of its own, or a prefix:  -p PREFIX",
            )

    def check(self, here: Listing) -> None:
        """Say what is odd about the plan; refuse what must not or cannot be done.

        :raises Refused: if a transfer would be full that must not be, or too large.
        """
        for text in self._plan.refusals:
            self._context.warn(self.name, f"{self}: {visible(text)}")
        for transfer in self._plan.transfers:
            if transfer.target != transfer.snapshot.name:
                name, target = visible(transfer.snapshot.name), visible(transfer.target)
                text = f"{self} has another {name} already; this one becomes {target}"
                self._context.warn(self.name, text)
        full = [t for t in self._plan.transfers if t.parent is None]
        if full and self.keeper and self._job.transfer:
            self._check_full(full[0], here)
        if self.keeper and self._job.options.check_space:
            self._check_space(self.keeper)

    def _check_full(self, transfer: Transfer, here: Listing) -> None:
        required = self._job.options.incremental is Incremental.REQUIRED
        if required:
            assert transfer.why_full
            raise Refused(
                f"{self} would need {visible(transfer.snapshot.name)} in full"
                f" ({transfer.why_full.value}), and --incremental=required forbids that"
            )
        if transfer.why_full is WhyFull.NOTHING_COMMON:
            newest = in_order([s for s in self.listing.snapshots if s.received_uuid])[
                -1
            ]
            oldest = in_order(here.snapshots)[0]
            size = format_size(self._size(transfer))
            self._context.tell(
                Noted(
                    self.name,
                    Level.INFO,
                    f"{self} shares no usable snapshot with {self._source} any more"
                    f" (newest there: {_day(newest)}, oldest here: {_day(oldest)})",
                    f"Sending in full: {size}. The old backups there stay valid."
                    " Stop here with --incremental=required.",
                )
            )

    def _check_space(self, keeper: BtrfsEndpoint) -> None:
        options, free = self._job.options, keeper.facts.size_free
        if preflight.certainly_fits(self._source.facts, free, options):
            return
        for transfer in self._plan.transfers:
            needed = self._size(transfer)
            name = transfer.snapshot.name
            for note in preflight.check_space(self.name, name, needed, free, options):
                self._context.tell(note)
            free -= needed

    def _size(self, transfer: Transfer) -> int:
        """Estimate a transfer in bytes; one that is not made yet is the source now."""
        key = _key(transfer)
        if key not in self._sizes:
            made = transfer.snapshot.generation < NOT_MADE_YET
            snapshot = transfer.snapshot if made else None
            parent = transfer.parent
            if parent and parent.generation == NOT_MADE_YET:  # a backfill: from below
                parent = None
            self._sizes[key] = self._source.size_since(snapshot, parent)
        return self._sizes[key]

    def rehearse(self, holds: Holds) -> None:
        """Tell what :meth:`deliver` would do, with sizes."""
        for transfer in self._plan.transfers:
            self._tell_sent(transfer, self._size(transfer), 0.0)
            self._arrived(transfer)
        self._settle(holds)

    def deliver(self, holds: Holds, holder: Holder) -> None:
        """Send everything that is planned, oldest first.

        What the place needs is recorded before each step, so that whatever happens
        then, nothing that it needs is deleted.

        :raises BackupError: at the first transfer that fails.
        """
        with ThreadPoolExecutor(1) as pool:
            signed_in = pool.submit(self._sign_in)  # beside the first transfer
            for transfer in self._plan.transfers:
                if self.keeper:
                    sending = sending_hold(transfer.snapshot)
                    holds.set(self.place, [sending, *self._bases()])
                doing = f"sending {transfer.snapshot.name} to {self.name}"
                holder.tell(doing, self._source, self.keeper)
                self._send(transfer, signed_in.result)
            signed_in.result()
        self._settle(holds)

    def _sign_in(self) -> None:
        """Record at the destination whose backups it gets."""
        if self.keeper and self._plan.transfers:
            origins = signed_in(self._origins, self._job.naming.prefix, self._own)
            if origins != self._origins:
                self.keeper.write_note(ORIGINS, format_origins(origins))
                self._origins = origins

    def _bases(self) -> list[Hold]:
        return [base_hold(self.base)] if self.base else []

    def _settle(self, holds: Holds) -> None:
        """Say if there was nothing to do, and hold what the next run builds upon."""
        if not self._job.transfer:
            return
        if not self._plan.transfers:
            source, dry = str(self._source.location), self._job.dry_run
            event = UpToDate(source, self.name, self._plan.present, dry)
            self._context.tell(event)
        if self.keeper:
            holds.set(self.place, self._bases())

    def _send(self, transfer: Transfer, before_publishing: Callable[[], None]) -> None:
        context, name = self._context, transfer.snapshot.name
        log.info("sending %s to %s", name, self)
        if self.keeper:
            self._route = decided(self._route, transfer, self._source, self.keeper)
        packed = packed_codec(self._route, self.destination.sink.location)
        meter = Meter()
        if not packed:  # else the size on the wire is not known in advance
            meter.expected_bytes = self._sizes.get(_key(transfer))
        wanted = context.watched and not packed
        with (
            context.progress.add(meter, f"{name} -> {self.name}"),
            expecting(meter, self._source, transfer, wanted=wanted),
        ):
            moved = run_transfer(
                transfer,
                self._source,
                self.destination.sink,
                route=self._route,
                options=self._job.options,
                meter=meter,
                now=context.now,
                before_publishing=before_publishing,
            )
        self._tell_sent(transfer, moved.size_bytes, moved.elapsed_s, packed)
        self._arrived(transfer)

    def _tell_sent(
        self, transfer: Transfer, size: int, elapsed_s: float, codec: str = ""
    ) -> None:
        self._context.tell(
            Sent(
                source=str(self._source.location),
                destination=self.name,
                name=transfer.snapshot.name,
                target=transfer.target,
                parent=transfer.parent.name if transfer.parent else None,
                why_full=transfer.why_full,
                size_bytes=size,
                elapsed_s=elapsed_s,
                dry=self._job.dry_run,
                codec=codec,
            )
        )

    def _arrived(self, transfer: Transfer) -> None:
        """Note in the listing what is there now."""
        snapshot = transfer.snapshot
        copy = replace(
            snapshot,
            name=transfer.target,
            created=self._job.naming.time_of(transfer.target) or snapshot.created,
            uuid=uuid.uuid4(),
            received_uuid=snapshot.origin,
        )
        self.listing = replace(
            self.listing,
            snapshots=(*self.listing.snapshots, copy),
            names=self.listing.names | {copy.name},
        )
        if self.base is None or snapshot.generation >= self.base.generation:
            self.base = snapshot


def _key(transfer: Transfer) -> tuple[str, str]:
    """Name a transfer so that it is the same before and after its snapshot is made."""
    return transfer.snapshot.name, transfer.parent.name if transfer.parent else ""


def _day(snapshot: Snapshot) -> str:
    created: datetime | None = snapshot.created
    return f"{created.astimezone():%Y-%m-%d}" if created else "unknown"
