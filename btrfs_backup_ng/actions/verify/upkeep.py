"""The upkeep of backups after a run: verify a part of them, restore one as a test."""

from datetime import datetime

from btrfs_backup_ng.__util__ import BackupError, attempt, visible
from btrfs_backup_ng.actions.verify.identity import Finding
from btrfs_backup_ng.actions.verify.run import (
    PlaceResult,
    Verification,
    VerifyRequest,
)
from btrfs_backup_ng.core.choose import LATEST
from btrfs_backup_ng.core.events import CheckedBackups, Failed, Tally
from btrfs_backup_ng.core.location import Location, parse_location
from btrfs_backup_ng.core.model import Destination, Job, Result
from btrfs_backup_ng.core.upkeep import Upkeep
from btrfs_backup_ng.core.value import replace
from btrfs_backup_ng.place.contents import see
from btrfs_backup_ng.place.preflight import READING, look_at
from btrfs_backup_ng.place.verified import Depth, last_restore, parse_verified
from btrfs_backup_ng.session.history import Record
from btrfs_backup_ng.session.session import Session


def look_after(job: Job, one: Destination, upkeep: Upkeep, session: Session) -> Tally:
    """Do what is due for the backups of a job at one of its destinations.

    A failure is reported, recorded and counted, and not raised.
    """
    ssh_at = {one.location: one.ssh}
    session = replace(session, folder=job.snapshot_folder, ssh=job.ssh, ssh_at=ssh_at)
    keeper = _Keeper(job.source, one.location, session)
    if upkeep.verify:
        keeper.verify(VerifyRequest(one.location, one_of=upkeep.verify))
    if upkeep.restore_test:
        last = attempt(keeper.find_last_restore)
        if isinstance(last, BackupError):
            keeper.fail("", last)
        elif last is None or session.now - last >= upkeep.restore_test:
            keeper.test_restore(upkeep.scratch)
    return keeper.tally


class _Keeper:
    """The upkeep at one destination."""

    def __init__(self, source: Location, location: Location, session: Session) -> None:
        self._source = source
        self._location = location
        self._session = session
        self.tally = Tally()

    def find_last_restore(self) -> datetime | None:
        """Return when a restore was last tested, as the place has it on record.

        :raises BackupError: if that cannot be read.
        """
        everything = see(look_at(self._location, self._session, READING))
        return last_restore(
            parse_verified(everything[-1].verified if everything else None)
        )

    def test_restore(self, scratch: str) -> None:
        """Restore the newest backup, and compare it with the source."""
        self.verify(
            VerifyRequest(
                self._location,
                self._source,
                words=(LATEST,),
                level=Depth.RESTORE,
                scratch=parse_location(scratch, working_directory="/"),
            )
        )

    def verify(self, request: VerifyRequest) -> None:
        """Verify backups, and report the result."""
        verification = Verification(request, self._session, lambda verdict: None)
        outcome = attempt(verification.run)
        if isinstance(outcome, BackupError):
            self.fail("", outcome)
            return
        for note in outcome.notes:
            self._session.warn(str(self._location), note)
        for name, finding in _problems(outcome):
            text = f"{visible(name)}: {finding.text}" if name else finding.text
            self.fail(name, BackupError(text, hint=finding.hint))
        good = [v for v in outcome.verdicts if v.result is Result.GOOD]
        if good:
            self.tally.add(Tally(done=1))
            level = request.level.value
            name = good[0].name if len(good) == 1 else ""
            event = CheckedBackups(str(self._location), level, len(good), name)
            self._session.emit(event)

    def fail(self, name: str, error: BackupError) -> None:
        """Report, count and record a failure.

        :param name: of the backup, or "".
        """
        place, status = str(self._location), 1
        self._session.emit(Failed(place, error.message, error.hint, status))
        self.tally.add(Tally(failures=(status,)))
        self._session.remember(
            Record(
                time=self._session.now,
                source=str(self._source),
                folder=self._session.folder,
                destination=place,
                target=name,
                error=error.message,
            )
        )


def _problems(outcome: PlaceResult) -> list[tuple[str, Finding]]:
    """Return what is not good: of a backup, with its name, or of the place.

    What could not be found out about the place as a whole is no problem of a backup.
    """
    of_place = [("", f) for f in outcome.findings if f.result is Result.BAD]
    of_backups = [
        (verdict.name, finding)
        for verdict in outcome.verdicts
        for finding in verdict.findings
        if finding.result is not Result.GOOD
    ]
    return [*of_place, *of_backups]
