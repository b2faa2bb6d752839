"""The ``verify`` verb: a place -> a verdict on each snapshot -> lines."""

import argparse
import base64
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone

from btrfs_backup_ng.__logger__ import log_message
from btrfs_backup_ng.__util__ import BackupError, UsageError, attempt, visible
from btrfs_backup_ng.actions.verify.identity import Finding
from btrfs_backup_ng.actions.verify.manifest import Difference
from btrfs_backup_ng.actions.verify.run import (
    PlaceResult,
    SnapshotResult,
    Verification,
    VerifyRequest,
)
from btrfs_backup_ng.cli import text as tell
from btrfs_backup_ng.cli.output import print_line, tell_failure
from btrfs_backup_ng.cli.parser import Parser, add_display
from btrfs_backup_ng.cli.places import (
    EPILOG_PLACES,
    add_folder,
    new_parser,
    open_session,
    print_document,
    read_words,
)
from btrfs_backup_ng.cli.ssh_options import add_ssh
from btrfs_backup_ng.cli.table import wrapped
from btrfs_backup_ng.core.choose import LATEST
from btrfs_backup_ng.core.events import Failed
from btrfs_backup_ng.core.location import Location, parse_location
from btrfs_backup_ng.core.model import Result
from btrfs_backup_ng.place.forecast import Forecast
from btrfs_backup_ng.place.verified import Depth
from btrfs_backup_ng.session.progress import Progress

_EPILOG = f"""\
{EPILOG_PLACES}
snapshots:
  all (the default), latest, yesterday, a date, a name, or the first digits of a UUID

levels:
  identity (the default): read-only, received UUID, unchanged since it was made, alone
    with its received UUID, and with --source: copies of what is there, and whether the
    next backup is incremental (made with the same -f). A look at each place, no file
    is read.
  --data: contents, type, mode, owner, times, symlinks, devices, hard links, xattrs and
    ACLs of all files are compared with those of the source, hashed where they lie.
    Another machine needs GNU coreutils and findutils for that, and getfattr for xattrs.
  --restore-test: it is restored in full to a scratch place, compared with the source
    (or itself, without --source), and removed. Of the latest, if none is named.

each line:
  good       nothing is wrong with it
  BAD        it is not what it should be, and why
  unchecked  could not be checked, and why

exit status:
  0 all good   1 one is bad   10 some could not be checked   2 usage
"""
#: Differences of one snapshot that are shown without -v.
_SHOWN = 20
_WORDS = {Result.GOOD: "good", Result.BAD: "BAD", Result.UNCHECKED: "unchecked"}
_STATUS = {Result.GOOD: 0, Result.BAD: 1, Result.UNCHECKED: 10}
#: Where the text begins, behind the longest word.
_TEXT_AT = 11


def main(words: Sequence[str]) -> int:
    """Verify what a place keeps.

    :raises UsageError: if the words do not make sense.
    """
    options = read_words(_parser(), words)
    if options is None:
        return 0
    now = datetime.now().astimezone()
    request = _request(options, now)
    line = options.progress
    if line is None:
        line = sys.stderr.isatty() and not options.quiet
    with (
        open_session(options, options.snapshot_folder, "verify", words) as way,
        Progress(line, silent=options.quiet) as progress,
    ):

        def show(verdict: SnapshotResult) -> None:
            progress.clear()
            if not options.json:
                _show_verdict(verdict, options)

        work = Verification(request, replace(way, progress=progress), show)
        outcome = attempt(work.run)
    return _finish(request, outcome, options, now)


def _parser() -> Parser:
    parser = new_parser(
        "verify",
        usage="[options] PLACE [SNAPSHOT ...]",
        description="Find out whether what a place keeps is good. Nothing is changed"
        " there, except for\nthe record of when it was verified.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add(
        "--source",
        "--from",
        metavar="PLACE",
        help="what the snapshots are copies of: the source of the backups",
    )
    add(
        "-p",
        "--snapshot-prefix",
        metavar="P",
        help="with --source: the next backup is made with -p P",
    )
    add("--data", action="store_true", help="compare all files with the source's")
    add(
        "--restore-test",
        action="store_true",
        help="restore, compare and remove it; needs --scratch",
    )
    add(
        "--scratch",
        metavar="DIR",
        help="a directory on btrfs with room for a restored snapshot; backups to it"
        " have to wait meanwhile",
    )
    add(
        "--subset",
        type=_subset,
        metavar="K/N",
        help="only the K-th of N parts, to which snapshots belong for ever; auto/N"
        " takes the next part each day",
    )
    add_folder(parser)
    add_ssh(parser)
    add_display(parser)
    return parser


def _subset(text: str) -> tuple[int | None, int]:
    """Read which part of how many; ``None`` for the part of the day."""
    match = re.fullmatch(r"(auto|[0-9]{1,6})/([0-9]{1,6})", text)
    if match is None or not int(match[2]):
        raise UsageError(f"'{visible(text)}' is no part; write it like 1/30 or auto/30")
    number, parts = None if match[1] == "auto" else int(match[1]), int(match[2])
    if number is not None and not 1 <= number <= parts:
        raise UsageError(f"'{visible(text)}' is no part: there are 1 to {parts}")
    return number, parts


def _request(options: argparse.Namespace, now: datetime) -> VerifyRequest:
    """Read what is to be verified, and how.

    :raises UsageError: if something is missing, or does not go together.
    """
    place, *words = options.places
    location = _location(place)
    source = _location(options.source) if options.source else None
    if source == location:
        raise UsageError("the source of backups is another place than the backups")
    level = Depth.DATA if options.data else Depth.IDENTITY
    if options.restore_test:
        level = Depth.RESTORE
    if level is Depth.RESTORE and not options.scratch:
        raise UsageError(
            "--restore-test needs a directory on btrfs to restore to",
            hint="Name one:  --scratch DIR",
        )
    if options.scratch and level is not Depth.RESTORE:
        raise UsageError("--scratch is for --restore-test, which is not asked for")
    if level is Depth.DATA and source is None:
        raise UsageError(
            "--data compares with the source of the backups, which is not named",
            hint="Name it:  --source PLACE",
        )
    part = None
    if options.subset:
        number, parts = options.subset
        day = now.astimezone(timezone.utc).toordinal()
        part = (day % parts + 1 if number is None else number), parts
    elif level is Depth.RESTORE and not words:
        words = [LATEST]
    scratch = _location(options.scratch) if options.scratch else None
    prefix = options.snapshot_prefix
    if prefix is not None and source is None:
        raise UsageError(
            "-p is about the next backup from a source, which is not named",
            hint="Name it:  --source PLACE",
        )
    return VerifyRequest(location, source, tuple(words), level, part, scratch, prefix)


def _location(word: str) -> Location:
    location = parse_location(word, working_directory=os.getcwd())
    if location.is_command:
        raise UsageError("a command (shell://) tells nobody what it keeps")
    return location


def _finish(
    request: VerifyRequest,
    outcome: PlaceResult | BackupError,
    options: argparse.Namespace,
    now: datetime,
) -> int:
    """Say what all of it comes to, and give the exit status."""
    place = str(request.location)
    if isinstance(outcome, UsageError):
        raise outcome
    if isinstance(outcome, BackupError):
        status = _STATUS[Result.UNCHECKED]
        tell_failure(Failed(place, outcome.message, outcome.hint, status))
    else:
        status = _STATUS[outcome.result]
        if not outcome.verdicts and request.part is None:
            status = status or _STATUS[Result.UNCHECKED]
        if not options.json:
            _show_outcome(request, outcome, options)
    if options.json:
        print_document(status, [_fields(request, outcome, status, now)])
    return status


def _show_verdict(verdict: SnapshotResult, options: argparse.Namespace) -> None:
    if options.quiet and verdict.result is Result.GOOD:
        return
    word, name = _WORDS[verdict.result], visible(verdict.name)
    texts = [_text(finding, verdict.result) for finding in verdict.findings]
    if not texts and verdict.compared:
        texts = [f"{verdict.compared} files and directories are the same"]
    line = f"{word:<{_TEXT_AT - 2}}  {name}" + (
        f": {'; '.join(texts)}" if texts else ""
    )
    for part in wrapped(line, _TEXT_AT):
        print_line(part)
    shown = verdict.differences
    shown = shown if options.verbose else shown[:_SHOWN]
    for difference in shown:
        for part in wrapped(" " * _TEXT_AT + _difference(difference), _TEXT_AT + 2):
            print_line(part)
    if verdict.count > len(shown):
        more = f"and {verdict.count - len(shown)} more"
        hint = "" if options.verbose else f" (-v tells {len(verdict.differences)})"
        print_line(" " * _TEXT_AT + more + hint)
    for finding in verdict.findings:
        if finding.result is not Result.GOOD:
            for hint in finding.hint.splitlines():
                print_line(" " * _TEXT_AT + visible(hint))


def _text(finding: Finding, result: Result) -> str:
    """Write a finding; where it does not agree with the verdict, with its own word."""
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


def _show_outcome(
    request: VerifyRequest, outcome: PlaceResult, options: argparse.Namespace
) -> None:
    place = visible(str(request.location))
    for finding in outcome.findings:
        if options.quiet and finding.result is Result.GOOD:
            continue
        line = f"{_WORDS[finding.result]:<{_TEXT_AT - 2}}  {place}: "
        for part in wrapped(line + visible(finding.text), _TEXT_AT):
            print_line(part)
        for hint in finding.hint.splitlines():
            print_line(" " * _TEXT_AT + visible(hint))
    if not options.quiet:
        if outcome.next_backup and outcome.next_backup.is_incremental:
            _show_next(place, outcome.next_backup)
        for note in outcome.notes:
            log_message(f"note: {note}", "")
        for part in wrapped(f"{place}: {_summary(request, outcome)}", 2):
            print_line(part)
    elif not outcome.verdicts and request.part is None:
        print_line(f"{place}: {_summary(request, outcome)}")


def _show_next(place: str, forecast: Forecast) -> None:
    text = f"the next backup from {forecast.source} is {forecast.describe()}"
    for part in wrapped(f"{place}: {visible(text)}", 2):
        print_line(part)


def _summary(request: VerifyRequest, outcome: PlaceResult) -> str:
    counts = Counter(verdict.result for verdict in outcome.verdicts)
    parts = [f"{counts[r]} {_WORDS[r].lower()}" for r in Result if counts[r]]
    text = ", ".join(parts) or "nothing to verify"
    if request.part:
        text += f", part {request.part[0]} of {request.part[1]}"
    if outcome.foreign:
        text += f"; {outcome.foreign} foreign, which nobody can verify"
    return f"{text} ({request.level.value})"


def _fields(
    request: VerifyRequest,
    outcome: PlaceResult | BackupError,
    status: int,
    now: datetime,
) -> dict[str, object]:
    """Return the place for the document."""
    error = None
    if isinstance(outcome, BackupError):
        error, outcome = tell.error_fields(outcome), PlaceResult((), ())
    return {
        "place": str(request.location),
        "source": None if request.source is None else str(request.source),
        "level": request.level.value,
        "subset": request.part,
        "result": next(r.value for r, code in _STATUS.items() if code == status),
        "findings": list(map(_finding_fields, outcome.findings)),
        "snapshots": list(map(_verdict_fields, outcome.verdicts)),
        "foreign": outcome.foreign,
        "notes": list(outcome.notes),
        "next_backup": tell.forecast_fields(outcome.next_backup),
        "time": now.astimezone(timezone.utc).isoformat(timespec="seconds"),
        "error": error,
    }


def _verdict_fields(verdict: SnapshotResult) -> dict[str, object]:
    snapshot = verdict.snapshot
    received = snapshot.received_uuid if snapshot else None
    return {
        "name": verdict.name,
        "kind": verdict.kind.value,
        "uuid": str(snapshot.uuid) if snapshot else None,
        "received_uuid": str(received) if received else None,
        "result": verdict.result.value,
        "findings": list(map(_finding_fields, verdict.findings)),
        "differences": list(map(_difference_fields, verdict.differences)),
        "difference_count": verdict.count,
        "compared": verdict.compared,
    }


def _finding_fields(finding: Finding) -> dict[str, object]:
    return {
        "result": finding.result.value,
        "check": finding.check.value,
        "text": finding.text,
        "hint": finding.hint.splitlines(),
    }


def _difference_fields(difference: Difference) -> dict[str, object]:
    path = difference.path.decode("utf-8", "surrogateescape")
    fields: dict[str, object] = {"path": path}
    if not path.isascii() and any("\udc80" <= sign <= "\udcff" for sign in path):
        fields["path_base64"] = base64.b64encode(difference.path).decode()
    return fields | {
        "aspect": difference.aspect.value,
        "name": difference.name,
        "original": difference.original,
        "copy": difference.copy,
    }
