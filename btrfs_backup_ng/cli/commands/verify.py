"""The ``verify`` verb: a place -> a verdict on each snapshot -> lines or a document."""

import argparse
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING
from uuid import UUID

from btrfs_backup_ng.__util__ import BackupError, UsageError, attempt, visible
from btrfs_backup_ng.actions.verify.identity import Finding, worst
from btrfs_backup_ng.actions.verify.manifest import Difference
from btrfs_backup_ng.actions.verify.run import (
    PlaceResult,
    SnapshotResult,
    Verification,
    VerifyRequest,
)
from btrfs_backup_ng.cli.call import Call, run_command
from btrfs_backup_ng.cli.config.options import EPILOG_FILE, add_config
from btrfs_backup_ng.cli.job_files import PREFIX, JobFiles
from btrfs_backup_ng.cli.message import print_message
from btrfs_backup_ng.cli.output import Output
from btrfs_backup_ng.cli.parser import (
    EPILOG_PLACES,
    Parser,
    add_display,
    add_folder,
    new_parser,
)
from btrfs_backup_ng.cli.places import need_places, read_configured, read_place
from btrfs_backup_ng.cli.session import open_progress, open_session
from btrfs_backup_ng.cli.ssh_options import add_ssh, read_ssh
from btrfs_backup_ng.cli.views import ForecastView, PlacesReport, view_forecast
from btrfs_backup_ng.core.choose import LATEST
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import Job, Result, Role, SshOptions
from btrfs_backup_ng.core.value import EMPTY, Value, replace
from btrfs_backup_ng.host.clock import local_time
from btrfs_backup_ng.host.common import NeedsRoot
from btrfs_backup_ng.place.verified import Depth
from btrfs_backup_ng.session.session import Session

if TYPE_CHECKING:
    from btrfs_backup_ng.cli.config.places import ConfiguredPlace

_EPILOG = f"""\
{EPILOG_PLACES}
snapshots:
  all  the default
  latest, yesterday  the newest, or the newest before midnight today
  NAME  a name, a date, or the first 4 or more digits of a UUID

levels:
  identity, the default  read-only, received UUID, unchanged since it was made, the only
    one with its received UUID; with --source also: copies of snapshots there, and
    whether the next backup is incremental (made with the same -f). This needs one
    listing of each place and reads no file.
  --data  compares contents, type, mode, owner, times, symlinks, devices, hard links,
    xattrs and ACLs of all files with those of the source; each side computes its own
    hashes. The mtime of the top directory is only remarked on, as btrfs send itself may
    leave it wrong. Another machine needs GNU coreutils and findutils for this, and
    getfattr for xattrs.
  --restore-test  restores it in full to a scratch place, compares it with the source
    (with itself, without --source), and removes it; only the latest, unless you name
    others

results:
  good  no problem found
  BAD  not as it should be, with the reason
  unchecked  could not be checked, with the reason

exit status:
  0  all good
  1  at least one is bad
  2  usage error
  4  needs root
  10  some could not be checked

{EPILOG_FILE}"""
#: Differences of one snapshot that are shown without -v.
_SHOWN = 20
_WORDS = {Result.GOOD: "good", Result.BAD: "BAD", Result.UNCHECKED: "unchecked"}
_STATUS = {Result.GOOD: 0, Result.BAD: 1, Result.UNCHECKED: 10}
#: Where the text begins, behind the longest word.
_TEXT_AT = 11


class VerifyOptions(Value):
    """The options of ``verify``.

    :ivar now: aware; the part of the day is chosen by it.
    :ivar configured: the place of each request, if they are those of a configuration.
    """

    requests: tuple[VerifyRequest, ...]
    now: datetime
    folder: str
    ssh: SshOptions
    configured: tuple["ConfiguredPlace", ...] = ()


def main(words: Sequence[str]) -> int:
    """Verify snapshots of a place."""
    parser = build_parser()
    files = JobFiles(parser, (PREFIX,), roles=())

    def read_with_files(options: argparse.Namespace) -> VerifyOptions:
        if files.jobs:
            return read(options, files.jobs)
        every = read_configured(options, build_parser, files.expand(words))
        return read(options, configured=[one for one in every if one.destination])

    return run_command("verify", words, parser, read_with_files, _run, files.expand)


def build_parser() -> Parser:
    """Return the parser of the words."""
    parser = new_parser(
        "verify",
        usage=["[options] PLACE [SNAPSHOT ...]", "[options]"],
        description="Check that stored snapshots and backups are intact. Changes"
        " nothing there but the record of when they were verified. Without a place,"
        " check all targets of the configuration, each with its source.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add(
        "--source",
        "--from",
        metavar="PLACE",
        help="the source these backups were made from",
    )
    add(
        "-p",
        "--snapshot-prefix",
        metavar="P",
        help="with --source: the prefix of the next backup",
    )
    add(
        "--data", action="store_true", help="compare all files with those of the source"
    )
    add(
        "--restore-test",
        action="store_true",
        help="restore a snapshot, compare it, remove it; needs --scratch",
    )
    add(
        "--scratch",
        metavar="DIR",
        help="a directory on btrfs with room for a restored snapshot; backups to it"
        " wait meanwhile",
    )
    add(
        "--subset",
        type=_subset,
        metavar="K/N",
        help="check part K of N (a snapshot always belongs to the same part); auto/N:"
        " a different part each day",
    )
    add_config(parser)
    add_folder(parser)
    add_ssh(parser)
    add_display(parser)
    return parser


def _subset(text: str) -> tuple[int | None, int]:
    """Read which part of how many; ``None`` for the part of the day."""
    match = re.fullmatch(r"(auto|[0-9]{1,6})/([0-9]{1,6})", text)
    if match is None or not int(match[2]):
        raise UsageError(f"invalid part '{visible(text)}': write 1/30 or auto/30")
    number, parts = None if match[1] == "auto" else int(match[1]), int(match[2])
    if number is not None and not 1 <= number <= parts:
        raise UsageError(
            f"invalid part '{visible(text)}': choose 1/{parts} to {parts}/{parts}"
        )
    return number, parts


def read(
    options: argparse.Namespace,
    jobs: Sequence[Job] = (),
    configured: Sequence["ConfiguredPlace"] = (),
) -> VerifyOptions:
    """Return the options.

    :param jobs: the backups whose destinations are verified instead of a place.
    :param configured: targets of a configuration, which are verified then.
    :raises UsageError: if one is missing, or they do not go together.
    """
    now, words = local_time(), list(options.places)
    source = read_place(options.source) if options.source else None
    if jobs:
        pairs: list[tuple[Location, Location | None]] = [
            (place, source or job.source)
            for job in jobs
            for place in job.places[1:]
            if not place.is_command
        ]
    elif configured:
        pairs = [(one.location, source or one.source) for one in configured]
    else:
        need_places(words, "verify")
        pairs = [(read_place(words.pop(0)), source)]
    if not pairs:
        raise UsageError("the file names no destination that could be verified")
    requests = [_request(options, *pair, tuple(words), now) for pair in pairs]
    if configured:
        requests = [
            replace(request, prefix=one.plan.job.naming.prefix)
            for request, one in zip(requests, configured)
        ]
    return VerifyOptions(
        tuple(requests),
        now,
        options.snapshot_folder,
        read_ssh(options),
        tuple(configured),
    )


def _request(
    options: argparse.Namespace,
    location: Location,
    source: Location | None,
    words: tuple[str, ...],
    now: datetime,
) -> VerifyRequest:
    """Return the request for one place.

    :raises UsageError: if the options do not go together.
    """
    if source == location:
        raise UsageError("--source has to be another place than that of the backups")
    level = _level(options, source)
    part = None
    if options.subset:
        number, parts = options.subset
        day = now.astimezone(timezone.utc).toordinal()
        part = (day % parts + 1 if number is None else number), parts
    elif level is Depth.RESTORE and not words:
        words = (LATEST,)
    scratch = read_place(options.scratch) if options.scratch else None
    prefix = options.snapshot_prefix
    if prefix is not None and source is None:
        raise UsageError(
            "-p needs the source of the next backup",
            hint="Name it:  --source PLACE",
        )
    return VerifyRequest(location, source, words, level, part, scratch, prefix)


def _level(options: argparse.Namespace, source: Location | None) -> Depth:
    level = Depth.DATA if options.data else Depth.IDENTITY
    if options.restore_test:
        level = Depth.RESTORE
    if level is Depth.RESTORE and not options.scratch:
        raise UsageError(
            "--restore-test needs a directory on btrfs to restore to",
            hint="Name one:  --scratch DIR",
        )
    if options.scratch and level is not Depth.RESTORE:
        raise UsageError("--scratch needs --restore-test")
    if level is Depth.DATA and source is None:
        raise UsageError(
            "--data needs the source to compare with",
            hint="Name it:  --source PLACE",
        )
    return level


class VerifiedSnapshot(Value):
    """A snapshot in the document."""

    name: str
    kind: Role
    uuid: UUID | None
    received_uuid: UUID | None
    result: Result
    findings: tuple[Finding, ...]
    differences: tuple[Difference, ...]
    difference_count: int
    compared: int


class VerifiedPlace(Value):
    """A place in the document."""

    place: str
    source: Location | None
    level: Depth
    subset: tuple[int, int] | None
    result: Result
    findings: tuple[Finding, ...]
    snapshots: tuple[VerifiedSnapshot, ...]
    foreign: int
    notes: tuple[str, ...]
    next_backup: ForecastView | None
    time: datetime
    error: BackupError | None


def _run(options: VerifyOptions, call: Call) -> int:
    with (
        open_progress(call) as progress,
        open_session(call, options.ssh, options.folder, progress) as session,
    ):
        output = Output(call, progress)
        requests, refused = options.requests, dict[str, BackupError]()
        if options.configured:
            from btrfs_backup_ng.cli.config import places as of_file  # here: for these

            session = replace(session, ssh_at=of_file.ssh_at(options.configured))
            away, refused = of_file.find_absent(options.configured, session, output)
            requests = tuple(one for one in requests if one.location not in away)
        places = [
            _verify(request, options.now, session, call, output, refused)
            for request in requests
        ]
    status = _STATUS[worst(place.result for place in places)] if places else 0
    if places and all(isinstance(place.error, NeedsRoot) for place in places):
        status = NeedsRoot.exit_status
    return output.finish(status, PlacesReport(places))


def _verify(
    request: VerifyRequest,
    now: datetime,
    session: Session,
    call: Call,
    output: Output,
    refused: Mapping[str, BackupError] = EMPTY,
) -> VerifiedPlace:
    """Verify one place, and print the results.

    :param refused: places that must not be used, each with the reason.
    :raises UsageError: if words mean no snapshot.
    """

    def show(verdict: SnapshotResult) -> None:
        _show_verdict(verdict, call, output)

    outcome: PlaceResult | BackupError
    if reason := refused.get(str(request.location)):
        outcome = reason
    else:
        outcome = attempt(Verification(request, session, show).run)
    error = None
    if isinstance(outcome, UsageError):
        raise outcome
    if isinstance(outcome, BackupError):
        result, error = Result.UNCHECKED, outcome
        output.fail(request.location, error, _STATUS[result])
        outcome = PlaceResult((), ())
    else:
        result = outcome.result
        if result is Result.GOOD and _is_empty(request, outcome):
            result = Result.UNCHECKED
        if not call.as_json:
            _show_place(request, outcome, call, output)
    return _place(request, outcome, result, error, now)


def _is_empty(request: VerifyRequest, outcome: PlaceResult) -> bool:
    """Return whether nothing was verified, though all was asked for."""
    return not outcome.verdicts and request.part is None


def _place(
    request: VerifyRequest,
    outcome: PlaceResult,
    result: Result,
    error: BackupError | None,
    now: datetime,
) -> VerifiedPlace:
    return VerifiedPlace(
        place=str(request.location),
        source=request.source,
        level=request.level,
        subset=request.part,
        result=result,
        findings=outcome.findings,
        snapshots=tuple(map(_snapshot, outcome.verdicts)),
        foreign=outcome.foreign,
        notes=outcome.notes,
        next_backup=view_forecast(outcome.next_backup),
        time=now,
        error=error,
    )


def _snapshot(verdict: SnapshotResult) -> VerifiedSnapshot:
    snapshot = verdict.snapshot
    return VerifiedSnapshot(
        name=verdict.name,
        kind=verdict.kind,
        uuid=snapshot.uuid if snapshot else None,
        received_uuid=snapshot.received_uuid if snapshot else None,
        result=verdict.result,
        findings=verdict.findings,
        differences=verdict.differences,
        difference_count=verdict.count,
        compared=verdict.compared,
    )


def _show_verdict(verdict: SnapshotResult, call: Call, output: Output) -> None:
    if call.quiet and verdict.result is Result.GOOD:
        return
    texts = [_text(finding, verdict.result) for finding in verdict.findings]
    if verdict.compared and verdict.result is Result.GOOD:
        texts.insert(0, f"{verdict.compared} files and directories are the same")
    name, start = visible(verdict.name), " " * _TEXT_AT
    line = f"{name}: {'; '.join(texts)}" if texts else name
    output.result(_behind(verdict.result, line), _TEXT_AT)
    shown = verdict.differences
    shown = shown if call.verbose else shown[:_SHOWN]
    for difference in shown:
        output.result(start + _difference(difference), _TEXT_AT + 2)
    if verdict.count > len(shown):
        more = f"and {verdict.count - len(shown)} more"
        hint = "" if call.verbose else f" (-v shows {len(verdict.differences)})"
        output.result(start + more + hint)
    for finding in verdict.findings:
        if finding.result is not Result.GOOD:
            _show_hint(finding, output)


def _behind(result: Result, text: str) -> str:
    return f"{_WORDS[result]:<{_TEXT_AT - 2}}  {text}"


def _show_hint(finding: Finding, output: Output) -> None:
    for hint in finding.hint.splitlines():
        output.result(" " * _TEXT_AT + visible(hint))


def _text(finding: Finding, result: Result) -> str:
    """Return the text of a finding, with its word if the verdict has another."""
    text = visible(finding.text)
    agrees = finding.result in (result, Result.GOOD)
    return text if agrees else f"{_WORDS[finding.result]}: {text}"


def _difference(difference: Difference) -> str:
    path = visible(difference.path.decode("utf-8", "surrogateescape"))
    aspect = difference.aspect.value
    if difference.name:
        aspect += f" {visible(difference.name)}"
    values = visible(difference.original), visible(difference.copy)
    return f"{path}: {aspect}: {values[0]} -> {values[1]}"


def _show_place(
    request: VerifyRequest, outcome: PlaceResult, call: Call, output: Output
) -> None:
    place = visible(str(request.location))
    for finding in outcome.findings:
        if not (call.quiet and finding.result is Result.GOOD):
            line = f"{place}: {visible(finding.text)}"
            output.result(_behind(finding.result, line), _TEXT_AT)
            _show_hint(finding, output)
    forecast = outcome.next_backup
    if forecast and forecast.is_incremental:
        text = f"the next backup from {forecast.source} is {forecast.describe()}"
        output.line(f"{place}: {visible(text)}", 2)
    if not call.quiet:
        for note in outcome.notes:
            print_message(f"note: {note}")
    if not call.quiet or _is_empty(request, outcome):
        output.result(f"{place}: {_summary(request, outcome)}", 2)


def _summary(request: VerifyRequest, outcome: PlaceResult) -> str:
    counts = Counter(verdict.result for verdict in outcome.verdicts)
    parts = [f"{counts[r]} {_WORDS[r].lower()}" for r in Result if counts[r]]
    text = ", ".join(parts) or "nothing to verify"
    if request.part:
        text += f", part {request.part[0]} of {request.part[1]}"
    if outcome.foreign:
        text += f"; {outcome.foreign} foreign, which cannot be verified"
    about = Counter(finding.result for finding in outcome.findings)
    wrong = [f"{about[r]} {_WORDS[r].lower()}" for r in Result if about[r]]
    if about[Result.BAD] or about[Result.UNCHECKED]:
        text += f"; of the place itself: {', '.join(wrong)}"
    return f"{text} ({request.level.value})"
