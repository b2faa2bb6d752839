"""The deletion of old snapshots and backups at one place: look, show, ask, delete."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from uuid import UUID

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__util__ import BackupError, Refused, attempt, format_size, visible
from btrfs_backup_ng.actions.prune.place import (
    OWNER_UNKNOWN,
    Judged,
    Needs,
    PruneRequest,
    carry_out,
    common,
    course_of,
    judge_seen,
    look,
)
from btrfs_backup_ng.actions.prune.staging import check_free
from btrfs_backup_ng.cli import wording
from btrfs_backup_ng.cli.commands.prune.site import Site
from btrfs_backup_ng.cli.message import print_message
from btrfs_backup_ng.cli.table import Column, table
from btrfs_backup_ng.core.document import Aged
from btrfs_backup_ng.core.events import Tally
from btrfs_backup_ng.core.judgement import Course
from btrfs_backup_ng.core.model import Role, Snapshot
from btrfs_backup_ng.core.retention import BY_ARRIVAL
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.place.contents import Seen
from btrfs_backup_ng.place.space import Space, weigh
from btrfs_backup_ng.session.deed import Act, deed

#: ``du`` reads all metadata of a snapshot: for more of them than this, or longer than
#: so many seconds, only if more is asked for (-v).
_WEIGHED_AT_MOST, _WEIGHING_S = 100, "10"
#: The last one has the reasons to keep a snapshot, or the space that is freed.
_COLUMNS = (
    Column("ACTION"),
    Column("NAME", is_name=True),
    Column("AGE", leaves=24),
    Column("REASON OR SPACE"),
)


class AppliedPolicy(Value):
    """A policy in the document."""

    kind: Role
    policy: str
    zone: str


class PrunedSnapshot(Value):
    """A snapshot or backup in the document.

    :ivar verdict: keep or delete.
    """

    name: str
    kind: Role
    created: Aged[datetime | None]
    uuid: UUID
    verdict: str
    reasons: tuple[str, ...]
    space_bytes: int | None
    outcome: str


class PrunedPlace(Value):
    """A place in the document."""

    place: str
    dry_run: bool
    policies: tuple[AppliedPolicy, ...]
    snapshots: tuple[PrunedSnapshot, ...]
    error: BackupError | None


class Thinning:
    """The work at one place.

    :ivar everything: the looks at its snapshots and backups.
    :ivar needs: the needs of all places, once each was looked at.
    :ivar unseen: the reason not to work there.
    """

    def __init__(
        self, site: Site, request: PruneRequest, unseen: BackupError | None = None
    ) -> None:
        self.site = site
        self._request = request
        self.everything: list[Seen] = []
        self.needs = Needs({}, Course(request.now))
        self.unseen = unseen
        self._judged: list[Judged] = []
        self._space: dict[UUID, Space | None] = {}
        self._gone: frozenset[UUID] = frozenset()

    def look(self) -> None:
        """Look at the place; an error is kept for :meth:`run`."""
        if self.unseen:
            return
        site = self.site
        seen = attempt(lambda: look(site.location, site.session, self._request))
        if isinstance(seen, BackupError):
            self.unseen = seen
        else:
            self.everything = seen

    def run(self) -> None:
        """Judge, show, ask, and delete.

        :raises Refused: if the plan looks dangerous, and is not forced.
        :raises Busy: if another run works there.
        :raises Declined: if the answer was no.
        """
        if self.unseen:
            raise self.unseen
        site, options = self.site, self.site.options
        self._judged = [
            judge_seen(seen, self._request, self.needs) for seen in self.everything
        ]
        to_delete = [s for judged in self._judged for s in judged.to_delete]
        self._weigh()
        for judged in self._judged:
            self._show(judged)
        self._tell_waiting()
        self._check_refusals()
        if not to_delete or options.dry_run:
            site.tally.add(Tally(done=1))
            return
        if not options.wait_s:
            check_free(self.everything[0].place)
        site.confirm("Delete", len(to_delete), "deleted")
        outcome = carry_out(self._judged, self._request, self.needs, options.wait_s)
        self._gone = frozenset(snapshot.uuid for snapshot in outcome.gone)
        if self._gone:
            names = [snapshot.name for snapshot in outcome.gone]
            session = site.session
            session.remember(deed(session.now, site.location, Act.DELETED, names))
            site.tally.add(Tally(done=1))
            freed = self._freed([s for s in to_delete if s.uuid in self._gone])
            self.site.say(f"deleted {len(self._gone)} of {len(to_delete)}, {freed}")
        if outcome.error:
            raise outcome.error

    def _tell_waiting(self) -> None:
        """Warn of snapshots that are kept for now, because of a clock."""
        for judged in self._judged:
            for why in judged.waiting:
                hint = "If the clock of this machine is right:  --force"
                print_message(f"warning: {visible(why)}", hint)

    def _check_refusals(self) -> None:
        """Check that nothing looks dangerous.

        :raises Refused: if something does, and is not forced.
        """
        refusals = [why for judged in self._judged for why in judged.refusals]
        if refusals and not self.site.options.force:
            raise Refused(
                ".\n  ".join(map(visible, refusals)) + ". Nothing was deleted",
                hint="To proceed:  --force",
            )

    def _weigh(self) -> None:
        """Measure the space that each deletion frees, if that will be shown."""
        call = self.site.call
        for judged in self._judged:
            to_delete = judged.to_delete
            if call.verbose:
                limit = "all"
            elif self.site.options.yes or len(to_delete) > _WEIGHED_AT_MOST:
                limit = "0"
            else:
                limit = _WEIGHING_S
            if call.as_json or not call.quiet:
                sizes = weigh(judged.seen, to_delete, limit)
                uuids = (snapshot.uuid for snapshot in to_delete)
                self._space.update(zip(uuids, sizes, strict=True))

    def _show(self, judged: Judged) -> None:
        seen, to_delete = judged.seen, judged.to_delete
        if not self.site.output.has_lines:
            return
        counts = wording.count(seen.role, len(judged.verdicts))
        policy = self._request.policy(seen.role)
        self.site.say(
            f"{counts}, {len(to_delete)} to delete (policy: {policy}; {policy.zone})"
        )
        rows = []
        for verdict in judged.verdicts:
            snapshot = verdict.snapshot
            word = "keep" if verdict.kept else "delete"
            age = wording.age(snapshot.created, self._request.now)
            why = _in_short(verdict.reasons) or self._size(snapshot)
            rows.append((word, visible(snapshot.name), age, visible(why)))
        for line in table(rows, 2, _COLUMNS):
            self.site.output.line(line)
        if judged.passed_over and self._request.prefix is None:
            prefixes = ", ".join(f"'{visible(p)}'" for p in judged.passed_over)
            self.site.say(
                f"names that begin with {prefixes} are not on record as made by"
                " this program; to include them, give each:  -p PREFIX"
            )
        if any(v.reasons == (OWNER_UNKNOWN,) for v in judged.verdicts):
            self.site.say(
                "the source of some backups is not known; if they are all of one"
                f" source:  {PROGRAM} prune --one-source -p PREFIX PLACE"
            )
        if to_delete:
            self.site.say(f"to delete: {len(to_delete)}, {self._freed(to_delete)}")

    def _size(self, snapshot: Snapshot) -> str:
        size = self._own_bytes(snapshot)
        return "space unknown" if size is None else f"frees {format_size(size)}"

    def _own_bytes(self, snapshot: Snapshot) -> int | None:
        space = self._space.get(snapshot.uuid)
        return space.own_bytes if space else None

    def _freed(self, snapshots: Sequence[Snapshot]) -> str:
        """Return the space that their deletion frees, without shared space."""
        sizes = map(self._own_bytes, snapshots)
        known = [size for size in sizes if size is not None]
        if not known:
            return "which frees an unknown amount of space"
        return f"which frees at least {format_size(sum(known))}"

    def report(self, error: BackupError | None) -> PrunedPlace:
        """Return the place for the document."""
        policies = tuple(
            AppliedPolicy(seen.role, str(policy), str(policy.zone))
            for seen in self.everything
            for policy in [self._request.policy(seen.role)]
        )
        return PrunedPlace(
            place=str(self.site.location),
            dry_run=self.site.options.dry_run,
            policies=policies,
            snapshots=tuple(self._snapshots()),
            error=error,
        )

    def _snapshots(self) -> Iterator[PrunedSnapshot]:
        for judged in self._judged:
            for verdict in judged.verdicts:
                snapshot = verdict.snapshot
                yield PrunedSnapshot(
                    name=snapshot.name,
                    kind=judged.seen.role,
                    created=snapshot.created,
                    uuid=snapshot.uuid,
                    verdict="keep" if verdict.kept else "delete",
                    reasons=tuple(verdict.reasons),
                    space_bytes=self._own_bytes(snapshot),
                    outcome=self._outcome(verdict.kept, snapshot.uuid),
                )

    def _outcome(self, kept: bool, uuid: UUID) -> str:
        if kept:
            return "kept"
        if self.site.options.dry_run:
            return "would delete"
        return "deleted" if uuid in self._gone else "stays"


def look_at_all(works: Sequence[Thinning], request: PruneRequest) -> None:
    """Look at all places before the work at the first one: it may need another.

    :param request: with the clock that counts for all.
    """
    for work in works:
        work.look()
    everything = [seen for work in works for seen in work.everything]
    needs = Needs(common(everything, request.now), course_of(everything, request))
    for work in works:
        work.needs = needs


def _in_short(reasons: Sequence[str]) -> str:
    """Write reasons; one that both times of a backup have is written once."""
    return ", ".join(
        reason
        for reason in reasons
        if not reason.endswith(BY_ARRIVAL)
        or reason.removesuffix(BY_ARRIVAL) not in reasons
    )
