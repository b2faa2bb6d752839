"""The state of each configured volume at each of its targets."""

import shlex
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__util__ import BackupError, Refused, visible
from btrfs_backup_ng.actions.conditions import Unmet, check_place
from btrfs_backup_ng.actions.status import Demand, Sight, examine, look_at_each, see
from btrfs_backup_ng.cli.commands.status.view import Looked, StatusEntry
from btrfs_backup_ng.cli.config.places import ConfiguredPlace, ssh_at
from btrfs_backup_ng.core.model import Checks, SshOptions
from btrfs_backup_ng.core.value import replace
from btrfs_backup_ng.session.history import (
    Last,
    Record,
    last_at,
    last_run_at,
    origins_of,
    runs_of,
)
from btrfs_backup_ng.session.session import Session


def look(
    places: Sequence[ConfiguredPlace],
    session: Session,
    records: Sequence[Record],
    max_age: timedelta | None,
    *,
    config: str = "",
    with_sources: bool = False,
) -> Looked:
    """Look at the targets of volumes, and at sources that have none.

    :param max_age: instead of those that are configured.
    :param config: the file, if the call names it.
    :param with_sources: look at all sources.
    """
    session = replace(session, ssh_at=ssh_at(places))
    wanted = [one for one in places if with_sources or not _is_sent_source(one)]
    once: dict[tuple[str, str], ConfiguredPlace] = {}
    for one in wanted:
        once.setdefault(_key(one), one)
    looks = [(one.location, partial(_see, one, session)) for one in once.values()]
    sights = dict(zip(once, look_at_each(looks, session)))
    entries: list[StatusEntry] = []
    sources: list[StatusEntry] = []
    for one in wanted:
        entry = _entry(one, sights[_key(one)], session, records, max_age, config)
        (sources if _is_sent_source(one) else entries).append(entry)
    return Looked(entries, sources)


def _key(place: ConfiguredPlace) -> tuple[str, str]:
    return str(place.location), place.folder


def _is_sent_source(place: ConfiguredPlace) -> bool:
    """Return whether it is the source of a volume that has targets."""
    return not place.destination and bool(place.plan.targets)


def _see(place: ConfiguredPlace, session: Session) -> Sight:
    """Look at a place that meets its conditions.

    :raises BackupError: if it cannot be looked at, or does not meet them.
    """
    conditions = replace(place.conditions, min_free=None)
    checks = place.destination.checks if place.destination else Checks.AUTO
    try:
        check_place(place.location, conditions, place.ssh, session, checks)
    except Unmet as unmet:
        reason = str(unmet).removeprefix("away: ").partition("; skipped")[0]
        raise Refused(f"{visible(str(place.location))}: {reason}") from unmet
    return see(place.location, session, place.folder)


def _entry(
    place: ConfiguredPlace,
    sight: Sight | BackupError,
    session: Session,
    records: Sequence[Record],
    max_age: timedelta | None,
    config: str,
) -> StatusEntry:
    plan, source, where = place.plan, place.plan.job.source, str(place.location)
    own = [record for record in records if record.source == str(source)]
    last = _last(own, str(source), where)
    limit = place.max_age if max_age is None else max_age
    if place.destination and not isinstance(sight, BackupError):
        sent = origins_of(own, str(source))
        contents = sight.contents.of_source(source, plan.job.naming.prefix, sent)
        sight = replace(sight, contents=contents)
    words = [PROGRAM, "run", *(["-c", config] if config else []), plan.name]
    words += ["--only", place.target] if place.target else []
    return StatusEntry(
        place=where,
        standing=examine(sight, session.now, Demand(limit, bool(last.failed))),
        last=last,
        last_run=last_run_at(runs_of(own), where),
        volume=plan.name,
        target=place.target,
        max_age=limit,
        is_optional=place.conditions.optional or place.conditions.when_reachable,
        is_known=bool(own),
        run_line=visible(shlex.join(words)),
        keep=place.keep,
        ssh_words=tuple(_ssh_words(place)),
        sight=None if isinstance(sight, BackupError) else sight,
    )


def _ssh_words(place: ConfiguredPlace) -> Iterator[str]:
    """Yield the options by which a command without the configuration reaches it."""
    for dest, setting in place.options.items():
        kind, _, _ = dest.partition(".")
        if kind != SshOptions.__name__ and dest != "ssh_host_key_policy":
            continue
        value = setting.value.value
        if isinstance(value, bool):
            yield from [f"--{setting.key}"] if value else []
        else:
            for each in value if isinstance(value, list) else [value]:
                yield f"--{setting.key}={each}"


def _last(own: Sequence[Record], source: str, place: str) -> Last:
    """Return the last outcomes for a volume at a target.

    What failed at the source itself failed for the target, too.

    :param own: the records of the source.
    """
    last = last_at(own, place)
    if place == source:
        return last
    failed = (*last_at(own, source).failed, *last.failed)
    return replace(last, failed=failed)
