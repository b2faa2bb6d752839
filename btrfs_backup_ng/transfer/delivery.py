"""The transfers from a source to one destination, with retries."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta

from btrfs_backup_ng.__util__ import BackupError, Busy, format_age, visible
from btrfs_backup_ng.btrfs.parse import is_garbled, is_permanent, is_unsendable
from btrfs_backup_ng.core.events import Sent
from btrfs_backup_ng.core.model import Role
from btrfs_backup_ng.core.plan import Transfer
from btrfs_backup_ng.core.value import replace
from btrfs_backup_ng.endpoint.common import Place
from btrfs_backup_ng.host.clock import slept_s
from btrfs_backup_ng.place.locks import Holder
from btrfs_backup_ng.process.command import ContactLost, TimedOut
from btrfs_backup_ng.process.fan_out import CameTooLate, Seat
from btrfs_backup_ng.process.interruption import sleep
from btrfs_backup_ng.process.pipeline import Meter, Moved, PipelineFailed, TooLarge
from btrfs_backup_ng.session.history import Record
from btrfs_backup_ng.session.session import Session
from btrfs_backup_ng.sshutil.refusal import ConnectionFailed
from btrfs_backup_ng.transfer.attempt import (
    Attempt,
    StreamChanged,
    expecting,
    prepare,
    refusing_hosts,
)
from btrfs_backup_ng.transfer.full_disk import spare_full_disk
from btrfs_backup_ng.transfer.route import Route

log = logging.getLogger(__name__)

#: Pause before the first retry, doubled before each further one, up to the longest.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 300.0
#: A lock that was lost with its connection is free after at most 30 s (``LOCK``).
_RELOCK_S = 60.0
#: So often a transfer is begun again because a server refused it a session.
_REFUSALS = 10
#: ``status`` shows the percent of a transfer that is not watched after this time: the
#: estimate for it takes as much as 2 % of the transfer (60,000 small files).
_UNWATCHED_S = 60.0
#: A shorter time is no sleep: the two clocks are not read at once.
_SLEPT_AT_LEAST_S = 0.5


class GoesAlone(BackupError):
    """A transfer that shared its sender is to be tried again with one of its own."""


class Delivery:
    """The transfers from a source to one destination.

    :ivar route: of the streams; the first transfer may decide the codec.
    :ivar turn: the number of the next transfer among how many; for the display.
    """

    def __init__(self, route: Route, session: Session) -> None:
        self.route = route
        self.turn = (0, 0)
        self._session = session
        self._name = str(route.sink.place.location)

    def send(
        self,
        transfer: Transfer,
        size_bytes: int | None,
        holder: Holder,
        before_publishing: Callable[[], None] = lambda: None,
        when_regained: Callable[[Place], None] = lambda place: None,
        seat: Seat | None = None,
    ) -> Sent:
        """Send a snapshot to the destination; retry as often as the options say.

        Once more if the sender was stopped meanwhile: the kernel then begins the stream
        again in its middle (``sendstream/look``), and that is not the network's fault.
        Also if a server refused a session because other tasks had too many; then those
        wait for each other.

        :param size_bytes: of the stream, if it is known.
        :param when_regained: called with a place that is locked again after its lock
            was lost: another run may have changed it.
        :param seat: at a sender that other deliveries share; for one attempt.
        :raises GoesAlone: if that one failed, and there may be another one.
        :raises BackupError: if it failed.
        """
        retries, pause_s = self.route.options.retries, 0.0
        refusals, was_alone = _REFUSALS, False
        may_restart = self.route.sink.lists
        while True:
            awake_until = slept_s()
            try:
                sleep(pause_s)
                if pause_s:
                    self._reach_again(holder, when_regained)
                if pause_s and self._has_arrived(transfer):
                    sent = self.sent(transfer, Moved(0, 0.0, b""))
                else:
                    sent = self._attempt(
                        transfer, size_bytes, holder, before_publishing, seat
                    )
            except BackupError as error:
                if refusing := refusing_hosts(error, self.route):
                    waits = all([host.waits_after_refusal() for host in refusing])
                    if seat:
                        raise self._goes_alone(transfer, error, seat) from error
                    if refusals and (waits or not was_alone):
                        refusals, was_alone = refusals - 1, not waits
                        log.info("%s", error.message)
                        continue
                spare_full_disk(transfer, self.route, size_bytes, error)
                stopped = _why_stopped(error, slept_s() - awake_until)
                error.message = f"{stopped}{error.message}"
                if seat and _may_go_alone(error, seat, retries or stopped):
                    raise self._goes_alone(transfer, error, seat) from error
                if may_restart and stopped and _is_transient(error):
                    may_restart = False
                elif not retries or not _is_transient(error):
                    self._remember(transfer, error=error.message)
                    raise
                else:
                    retries -= 1
                pause_s = min(2 * pause_s or _FIRST_PAUSE_S, _LONGEST_PAUSE_S)
                name = visible(transfer.snapshot.name)
                text = f"sending {name} to {visible(self._name)} was interrupted: "
                why = error.message.split("\n")[0]
                why = why.removeprefix(f"{visible(self._name)}: ")
                self._warn(f"{text}{why}. Trying again in {pause_s:g} s")
            else:
                self._remember(transfer, sent)
                return sent

    def _goes_alone(
        self, transfer: Transfer, error: BackupError, seat: Seat
    ) -> GoesAlone:
        """Say that a transfer no longer shares its sender, and return the error."""
        name, to = visible(transfer.snapshot.name), visible(self._name)
        why = error.message.split("\n")[0].removeprefix(f"{to}: ")
        if isinstance(error, CameTooLate) or refusing_hosts(error, self.route):
            log.info("%s gets %s on its own: %s", to, name, why)
        elif seat.is_left_behind:
            text = f"{to} held up the other destinations of {name}"
            self._warn(f"{text}. It is sent there when they are done")
        else:
            text = f"sending {name} to {to} was interrupted: {why}"
            self._warn(f"{text}. It is tried again when the others are done")
        return GoesAlone(error.message)

    def _warn(self, text: str) -> None:
        self._session.warn(self._name, text)

    def _reach_again(
        self, holder: Holder, when_regained: Callable[[Place], None]
    ) -> None:
        """Look at the places again, and lock them again if their locks are lost."""
        source, sink = self.route.source.place, self.route.sink.place
        for place, role in ((source, Role.SNAPSHOT), (sink, Role.BACKUP)):
            place.look()
            if holder.regain(place, _RELOCK_S, role):
                when_regained(place)

    def _has_arrived(self, transfer: Transfer) -> bool:
        """Return whether the last attempt succeeded, and only its answer was lost."""
        listing, _ = self.route.sink.listing()
        there = [s for s in listing.snapshots if s.name == transfer.target]
        return any(s.received_uuid == transfer.snapshot.origin for s in there)

    def _attempt(
        self,
        transfer: Transfer,
        size_bytes: int | None,
        holder: Holder,
        before_publishing: Callable[[], None],
        seat: Seat | None,
    ) -> Sent:
        attempt = prepare(transfer, self.route, size_bytes, self._warn)
        self.route = attempt.route
        if seat and attempt.checkpoint and not self.route.source.place.location.is_here:
            raise CameTooLate(
                "it is resumed, and the part that it has need not be sent"
            )
        try:
            return self._run(attempt, size_bytes, holder, before_publishing, seat)
        except StreamChanged as error:
            if seat:
                raise
            self._warn(f"{error.message}; it is sent again from the start")
        attempt = replace(attempt, checkpoint=None)
        return self._run(attempt, size_bytes, holder, before_publishing)

    def _run(
        self,
        attempt: Attempt,
        size_bytes: int | None,
        holder: Holder,
        before_publishing: Callable[[], None],
        seat: Seat | None = None,
    ) -> Sent:
        """Run an attempt, and show its progress here and in the locks' notes."""
        session, transfer = self._session, attempt.transfer
        name, packed = transfer.snapshot.name, attempt.route.packed_codec
        meter = Meter()
        if not packed:  # else the size on the wire is not known in advance
            meter.expected_bytes, meter.is_estimate = size_bytes, True
        is_watched = session.watched
        is_first = seat is None or seat.is_first  # of those that share a sender
        if attempt.checkpoint:
            log.info("resuming at byte %d of %s", attempt.checkpoint.offset, name)
        size = expecting(
            meter,
            transfer,
            attempt.route,
            after_s=0.0 if is_watched else _UNWATCHED_S,
            exactly=is_watched and is_first,
        )
        shown = session.progress.add(meter, f"{name} -> {self._name}", *self.turn)
        source, sink = self.route.source.place, self.route.sink.place
        with (
            shown as figures,
            holder.showing(figures, source, sink),
            nullcontext() if packed else size,
        ):
            moved = attempt.run(meter, session.now, before_publishing, seat)
        return self.sent(transfer, moved, packed, meter.resumed_bytes)

    def sent(
        self,
        transfer: Transfer,
        moved: Moved,
        codec: str = "",
        resumed_bytes: int = 0,
        *,
        dry: bool = False,
    ) -> Sent:
        """Return the event of a transfer, or of one in a dry run."""
        return Sent(
            source=str(self.route.source.place.location),
            destination=self._name,
            name=transfer.snapshot.name,
            target=transfer.target,
            parent=transfer.parent.name if transfer.parent else None,
            why_full=transfer.why_full,
            size_bytes=moved.size_bytes,
            elapsed_s=moved.elapsed_s,
            dry=dry,
            codec=codec,
            resumed_bytes=resumed_bytes,
        )

    def _remember(
        self, transfer: Transfer, sent: Sent | None = None, error: str = ""
    ) -> None:
        """Record the outcome of a transfer; no command, as it may hold a secret."""
        name = self.route.sink.place.public_name
        resumed = sent.resumed_bytes if sent else 0
        record = Record(
            time=self._session.now,
            source=str(self.route.source.place.location),
            folder=self._session.folder,
            destination=name,
            name=transfer.snapshot.name,
            target=transfer.target,
            origin=transfer.snapshot.origin,
            parent=transfer.parent.name if transfer.parent else "",
            size_bytes=((sent.size_bytes or 0) + resumed or None) if sent else None,
            resumed_bytes=resumed,
            elapsed_s=sent.elapsed_s if sent else 0.0,
            error=error.replace(visible(self._name), visible(name)),
        )
        self._session.remember(record)


def is_about_snapshot(error: BackupError) -> bool:
    """Return whether another snapshot may be sent where this one failed."""
    return isinstance(error, PipelineFailed) and any(
        is_unsendable(end.stderr) for end in (error.blamed, *error.others)
    )


def _may_go_alone(error: BackupError, seat: Seat, may_try: object) -> bool:
    """Return whether a transfer that shared its sender may be tried on its own."""
    if seat.is_left_behind or isinstance(error, CameTooLate | StreamChanged):
        return True
    return bool(may_try) and _is_transient(error)


def _is_transient(error: BackupError) -> bool:
    """Return whether a retry may succeed."""
    if isinstance(error, TooLarge):
        return False
    if isinstance(error, PipelineFailed):
        return not (is_permanent(error.blamed.stderr) or is_about_snapshot(error))
    return isinstance(error, ConnectionFailed | ContactLost | TimedOut | Busy)


def _why_stopped(error: BackupError, slept: float) -> str:
    """Return the beginning of a message if the sender was stopped, else ""."""
    if slept >= _SLEPT_AT_LEAST_S:
        return (
            f"this machine slept for {format_age(timedelta(seconds=slept))} meanwhile: "
        )
    if isinstance(error, PipelineFailed) and any(
        is_garbled(end.stderr) for end in (error.blamed, *error.others)
    ):
        return "the stream began again in its middle, as if its sender was stopped: "
    return ""
