"""The conditions of a configured volume: what of its job is done now.

All of them are checked before anything is changed. Each that is not met is reported
once. A target that is away, or refused here, costs the others nothing.
"""

import logging
from collections.abc import Sequence

from btrfs_backup_ng.__util__ import BackupError, Refused, attempt, visible
from btrfs_backup_ng.core.conditions import (
    Conditions,
    find_lack,
    find_obstacle,
    is_away,
)
from btrfs_backup_ng.core.events import Failed, Level, Noted, Tally
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import Checks, Destination, Facts, Job, SshOptions
from btrfs_backup_ng.core.value import replace
from btrfs_backup_ng.host.power import is_on_battery
from btrfs_backup_ng.place.preflight import (
    PATH,
    look_at,
    source_purpose,
)
from btrfs_backup_ng.session.deed import Act, deed
from btrfs_backup_ng.session.history import Record
from btrfs_backup_ng.session.session import Session
from btrfs_backup_ng.sshutil.refusal import ConnectionFailed, LoginRefused

log = logging.getLogger(__name__)

_NONE = Conditions()


class Unmet(Exception):
    """A condition is not met, which is no failure. The message says which."""


def admit(
    job: Job,
    at_source: Conditions,
    at_targets: Sequence[Conditions],
    session: Session,
) -> tuple[Job | None, Tally]:
    """Return what is left of a job, and the count of what was refused.

    :param at_targets: for each destination of the job.
    :returns: None for the job if nothing of it is to be done.
    """
    tally = Tally()
    if job.remove_locks:
        return job, tally
    session = replace(session, folder=job.snapshot_folder, ssh=job.ssh)
    try:
        job = _check_source(job, at_source, session)
    except Unmet as unmet:
        _skip(job, job.source, str(unmet), session)
        return None, tally
    except Refused as error:
        _refuse(job, job.source, error, tally, session)
        return None, tally
    kept: list[Destination] = []
    for one, conditions in zip(job.destinations, at_targets):
        try:
            if job.transfer:
                check_place(one.location, conditions, one.ssh, session, one.checks)
            kept.append(one)
        except Unmet as unmet:
            _skip(job, one.location, str(unmet), session)
        except Refused as error:
            _refuse(job, one.location, error, tally, session)
    return replace(job, destinations=tuple(kept)), tally


def _check_source(job: Job, conditions: Conditions, session: Session) -> Job:
    """Return the job, without a snapshot if the source did not change.

    :raises Unmet: if nothing is to be done.
    :raises Refused: if nothing may be done.
    """
    if conditions.only_on_ac and is_on_battery():
        raise Unmet("this machine runs on its battery; skipped (only-on-ac)")
    check_place(job.source, conditions, job.ssh, session)
    if conditions.only_if_changed and job.take_snapshot:
        name = attempt(lambda: find_unchanged(job, session))
        if isinstance(name, str) and name:
            text = f"not changed since {visible(name)}, so no snapshot is made"
            _skip(job, job.source, text, session)
            return replace(job, take_snapshot=False)
    return job


def check_place(
    location: Location,
    conditions: Conditions,
    ssh: SshOptions,
    session: Session,
    checks: Checks = Checks.AUTO,
) -> None:
    """Check that a place meets its conditions.

    A failure that is no condition's is left to the use of the place.

    :raises Unmet: if it is away, and need not be there.
    :raises Refused: if it must not be used.
    """
    if replace(conditions, only_on_ac=False, only_if_changed=False) == _NONE:
        return
    try:
        place = look_at(location, session, PATH, with_snapshots=False, ssh=ssh)
    except LoginRefused:
        return
    except ConnectionFailed as error:
        if conditions.optional or conditions.when_reachable:
            key = "optional" if conditions.optional else "when-reachable"
            raise Unmet(f"away: {error.message}; skipped ({key})") from error
        return
    except BackupError:
        return
    facts = place.facts
    is_empty = checks is not Checks.SKIP and is_away(facts)
    away = not facts.is_directory or is_empty
    is_known = facts.is_directory or conditions.require_mount
    obstacle = find_obstacle(conditions, facts) if is_known else ""
    if conditions.optional and (away or obstacle):
        reason = obstacle or _why_away(facts)
        raise Unmet(f"away: {reason}; skipped (optional)")
    if away and not obstacle:
        return
    lack = find_lack(conditions, facts)
    if obstacle or lack:
        raise Refused(f"{visible(str(location))}: {obstacle or lack}")


def _why_away(facts: Facts) -> str:
    if not facts.exists:
        return "it does not exist"
    if not facts.is_directory:
        return "it is not a directory"
    return "it is an empty directory on the system disk"


def _skip(job: Job, place: Location, why: str, session: Session) -> None:
    """Report what is not done, and record it."""
    name = visible(str(place))
    session.emit(Noted(str(place), Level.INFO, f"{name}: {why}"))
    if not (job.dry_run or place.is_command):
        session.remember(deed(session.now, place, Act.SKIPPED, (), how=why))


def _refuse(
    job: Job, place: Location, error: Refused, tally: Tally, session: Session
) -> None:
    """Report a refusal, and record it for the commands that show it later."""
    status = error.exit_status
    session.emit(Failed(str(place), error.message, error.hint, status))
    tally.add(Tally(failures=(status,)))
    if not job.dry_run:
        session.remember(
            Record(
                time=session.now,
                source=str(job.source),
                folder=session.folder,
                destination="" if place == job.source else str(place),
                error=error.message,
            )
        )


def find_unchanged(job: Job, session: Session) -> str:
    """Return the name of the snapshot since which a source did not change, or "".

    A source changed if its last transaction is newer than the snapshot's, or is not
    known.

    :raises BackupError: if it cannot be looked at.
    """
    place = look_at(job.source, session, source_purpose(job))
    listing, _ = place.snapshots.listing()
    made = [
        snapshot
        for snapshot in listing.snapshots
        if snapshot.parent_uuid == place.facts.uuid
        and job.naming.time_of(snapshot.name) is not None
    ]
    newest = max(made, key=lambda each: each.generation, default=None)
    if newest is None:
        return ""
    changed = place.snapshots.last_change(place.facts.tree_id)
    if not changed:
        log.info("%s: whether it changed is not known, so a snapshot is made", place)
        return ""
    return newest.name if changed <= newest.generation else ""
