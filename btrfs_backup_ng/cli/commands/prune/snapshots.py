"""What ``prune`` shows and asks about one place before its old snapshots go."""

import argparse
from collections.abc import Iterator, Sequence
from uuid import UUID

from btrfs_backup_ng.__logger__ import PROGRAM, log_message
from btrfs_backup_ng.__util__ import (
    BackupError,
    Refused,
    attempt,
    format_size,
    visible,
)
from btrfs_backup_ng.actions.prune.place import (
    OWNER_UNKNOWN,
    Judged,
    Needs,
    PruneRequest,
    carry_out,
    judge_seen,
    look,
    weigh,
)
from btrfs_backup_ng.actions.prune.staging import check_free
from btrfs_backup_ng.cli import text as tell
from btrfs_backup_ng.cli.output import print_about, print_line
from btrfs_backup_ng.cli.prompt import Declined, confirmed
from btrfs_backup_ng.cli.table import table
from btrfs_backup_ng.core.events import Tally
from btrfs_backup_ng.core.judgement import Course
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import Snapshot
from btrfs_backup_ng.core.retention import BY_ARRIVAL
from btrfs_backup_ng.place.contents import Seen
from btrfs_backup_ng.session.session import Session

#: ``du`` reads all metadata of a snapshot: for more of them than this, or longer than
#: so many seconds, only if somebody wants to know more (-v).
_WEIGHED_AT_MOST, _WEIGHING_S = 100, "10"


class Thinner:
    """One place, from the look to the last word about it.

    :ivar everything: the looks at its snapshots and backups.
    :ivar needs: what is known when all places were seen.
    """

    def __init__(
        self,
        location: Location,
        way: Session,
        options: argparse.Namespace,
        request: PruneRequest,
    ) -> None:
        self.location = location
        self._way = way
        self._options = options
        self._request = request
        self.everything: list[Seen] = []
        self.needs = Needs({}, Course(request.now))
        self.tally = Tally()
        self._unseen: BackupError | None = None
        self._judged: list[Judged] = []
        self._space: dict[UUID, int | None] = {}
        self._gone: frozenset[UUID] = frozenset()

    def look(self) -> None:
        """See what is there; if that fails, :meth:`run` says so."""
        seen = attempt(lambda: look(self.location, self._way, self._request))
        if isinstance(seen, BackupError):
            self._unseen = seen
        else:
            self.everything = seen

    def run(self) -> None:
        """Judge, show, ask, and delete.

        :raises Refused: if the plan looks dangerous, and is not forced.
        :raises Busy: if another run works there.
        :raises Declined: if the answer was no.
        """
        if self._unseen:
            raise self._unseen
        options = self._options
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
            self.tally.add(Tally(done=1))
            return
        if not options.wait:
            check_free(self.everything[0].place)
        them = "it" if len(to_delete) == 1 else f"these {len(to_delete)}"
        if not (options.yes or confirmed(f"Delete {them}? [y/N]: ")):
            raise Declined(f"nothing was deleted at {self.everything[0].place}")
        outcome = carry_out(self._judged, self._request, self.needs, options.wait)
        self._gone = frozenset(snapshot.uuid for snapshot in outcome.gone)
        if self._gone:
            self.tally.add(Tally(done=1))
            freed = self._freed([s for s in to_delete if s.uuid in self._gone])
            self._say(f"deleted {len(self._gone)} of {len(to_delete)}, {freed}")
        if outcome.error:
            raise outcome.error

    def _tell_waiting(self) -> None:
        """Warn of what stays for now, because of a clock."""
        for judged in self._judged:
            for why in judged.waiting:
                hint = "If the clock of this machine is right:  --force"
                log_message(f"warning: {visible(why)}", hint)

    def _check_refusals(self) -> None:
        """Go on only if nothing looks dangerous.

        :raises Refused: if something does, and is not forced.
        """
        refusals = [why for judged in self._judged for why in judged.refusals]
        if refusals and not self._options.force:
            raise Refused(
                ".\n  ".join(map(visible, refusals)) + ". Nothing was deleted",
                hint="If that is right:  --force",
            )

    def _weigh(self) -> None:
        """Ask for the space that is each one's alone, if it is going to be shown."""
        options = self._options
        for judged in self._judged:
            to_delete = judged.to_delete
            if options.verbose:
                limit = "all"
            elif options.yes or len(to_delete) > _WEIGHED_AT_MOST:
                limit = "0"
            else:
                limit = _WEIGHING_S
            if not options.quiet or options.json:
                sizes = weigh(judged.seen, to_delete, limit)
                uuids = (snapshot.uuid for snapshot in to_delete)
                self._space.update(zip(uuids, sizes, strict=True))

    def _show(self, judged: Judged) -> None:
        seen, to_delete = judged.seen, judged.to_delete
        if self._options.json or self._options.quiet:
            return
        counts = tell.count(seen.role, len(judged.verdicts))
        policy = self._request.policy(seen.role)
        told = f"{policy}, {policy.zone}"
        self._say(f"{counts}, {len(to_delete)} to delete, by {told}")
        rows = []
        for verdict in judged.verdicts:
            snapshot = verdict.snapshot
            word = "keep" if verdict.kept else "delete"
            age = tell.age(snapshot.created, self._request.now)
            why = _in_short(verdict.reasons) or self._size(snapshot)
            rows.append((word, visible(snapshot.name), age, visible(why)))
        if rows:
            print_line("\n".join(table(rows, 2)))
        if judged.passed_over and self._request.prefix is None:
            prefixes = ", ".join(f"'{visible(p)}'" for p in judged.passed_over)
            self._say(
                f"nothing here tells that names that begin with {prefixes} are ours; to"
                " include them, give each:  -p PREFIX"
            )
        if any(v.reasons == (OWNER_UNKNOWN,) for v in judged.verdicts):
            self._say(
                "of some backups it is not known whose they are; if they are all of one"
                f" source:  {PROGRAM} prune --one-source -p PREFIX PLACE"
            )
        if to_delete:
            self._say(f"to delete: {len(to_delete)}, {self._freed(to_delete)}")

    def _size(self, snapshot: Snapshot) -> str:
        size = self._space.get(snapshot.uuid)
        return "space unknown" if size is None else f"{format_size(size)} its own"

    def _freed(self, snapshots: Sequence[Snapshot]) -> str:
        """Say what their deletion frees: what they share with one another is more."""
        sizes = [self._space.get(snapshot.uuid) for snapshot in snapshots]
        known = [size for size in sizes if size is not None]
        if not known:
            return "which frees an unknown space"
        return f"which frees at least {format_size(sum(known))}"

    def _say(self, text: str) -> None:
        print_about(self.location, text, self._options)

    def fields(self, error: BackupError | None) -> dict[str, object]:
        """Return the place for the document."""
        return {
            "place": str(self.location),
            "dry_run": self._options.dry_run,
            "policies": [
                {
                    "kind": seen.role.value,
                    "policy": str(policy),
                    "zone": str(policy.zone),
                }
                for seen in self.everything
                for policy in [self._request.policy(seen.role)]
            ],
            "snapshots": list(self._snapshot_fields()),
            "error": tell.error_fields(error) if error else None,
        }

    def _snapshot_fields(self) -> Iterator[dict[str, object]]:
        for judged in self._judged:
            for verdict in judged.verdicts:
                snapshot = verdict.snapshot
                yield {
                    "name": snapshot.name,
                    "kind": judged.seen.role.value,
                    **tell.time_fields("created", snapshot.created, self._request.now),
                    "uuid": str(snapshot.uuid),
                    "verdict": "keep" if verdict.kept else "delete",
                    "reasons": list(verdict.reasons),
                    "space_bytes": self._space.get(snapshot.uuid),
                    "outcome": self._outcome(verdict.kept, snapshot.uuid),
                }

    def _outcome(self, kept: bool, uuid: UUID) -> str:
        if kept:
            return "kept"
        if self._options.dry_run:
            return "would delete"
        return "deleted" if uuid in self._gone else "stays"


def _in_short(reasons: Sequence[str]) -> str:
    """Write reasons; one that both times of a backup give is there once."""
    return ", ".join(
        reason
        for reason in reasons
        if not reason.endswith(BY_ARRIVAL)
        or reason.removesuffix(BY_ARRIVAL) not in reasons
    )
