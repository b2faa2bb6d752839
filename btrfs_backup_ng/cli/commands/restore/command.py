"""The ``restore`` verb: a snapshot, or files of it, back at a new path."""

import argparse
import os
import sys
from collections.abc import Sequence

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__util__ import BackupError, Refused, UsageError, visible
from btrfs_backup_ng.actions.restore.files import FileRestoration, read_paths
from btrfs_backup_ng.actions.restore.find import find_snapshot
from btrfs_backup_ng.actions.restore.snapshot import RestoreRequest, plan_restore
from btrfs_backup_ng.actions.versions.find import (
    find_file,
    find_versions,
    number_of,
    pick,
    records_of,
)
from btrfs_backup_ng.cli import values
from btrfs_backup_ng.cli.call import Call, run_command
from btrfs_backup_ng.cli.commands.restore.report import Reporter, RestoreReport
from btrfs_backup_ng.cli.output import Output
from btrfs_backup_ng.cli.parser import (
    EPILOG_PLACES,
    OptionGroup,
    Parser,
    add_check_space,
    add_display,
    add_folder,
    add_sending,
    add_wait,
    new_parser,
)
from btrfs_backup_ng.cli.places import recorded_folder
from btrfs_backup_ng.cli.session import open_progress, open_session
from btrfs_backup_ng.cli.ssh_options import add_ssh, read_transfer
from btrfs_backup_ng.core import codecs
from btrfs_backup_ng.core.choose import LATEST, parse_version_id
from btrfs_backup_ng.core.location import Location, parse_location
from btrfs_backup_ng.core.model import Incremental, SshOptions, TransferOptions
from btrfs_backup_ng.core.value import Value, replace
from btrfs_backup_ng.session.history import remembered
from btrfs_backup_ng.session.session import Session

_EPILOG = f"""\
{EPILOG_PLACES}
snapshots:
  latest  the newest (the default)
  yesterday  the newest before midnight today
  2026-11-20, '2026-11-20 10:30'  the newest of that day or minute, or before it; local
    time
  NAME  a name, or the first 4 or more digits of a UUID

result:
  PATH is a directory  PATH/NAME, a read-only snapshot
  PATH does not exist  PATH itself
  with --writable  a writable subvolume instead, with its read-only snapshot where the
    next backup finds it, so that it is incremental; and the commands that put it in
    place of the old one
  with --file  the files under their paths in the snapshot, below PATH, with owners,
    modes, times, xattrs, ACLs and hard links
  with --id ID  version ID of FILE, as versions shows them

Nothing is ever overwritten, and nothing at PLACE is changed. Data that the filesystem
of PATH already has is not sent (but see -I). Run an interrupted restore again to resume
it.

exit status:
  0  restored
  1  failed
  2  usage error
  3  another run is at work there
  4  refused before any change: no such snapshot, PATH exists, no room ...
  10  restored in part: a file cannot be read, or is a socket on another machine
"""


class RestoreOptions(Value):
    """The options of ``restore``.

    :ivar place: ``None`` only with an id.
    :ivar snapshot: the word for it.
    :ivar files: as they were typed; empty to restore all of the snapshot.
    :ivar paths: of these files in the snapshot; empty with an id.
    :ivar version: id of the version of the only file; "" if none is asked for.
    :ivar prefix: of the names that words about time mean, ``None`` for any.
    :ivar source: whose backup it is; "" for any.
    :ivar force: a snapshot that was written to after it was made will do.
    """

    place: Location | None
    snapshot: str
    files: tuple[str, ...]
    paths: tuple[str, ...]
    version: str
    prefix: str | None
    source: str
    force: bool
    dry_run: bool
    request: RestoreRequest
    folder: str
    ssh: SshOptions


def main(words: Sequence[str]) -> int:
    """Restore a snapshot or files of it."""
    return run_command("restore", words, build_parser(), read, _run)


def build_parser() -> Parser:
    """Return the parser of the words."""
    parser = new_parser(
        "restore",
        usage=(
            "[options] PLACE [SNAPSHOT] --to PATH [--file FILE ...]",
            "[options] --file FILE --id ID --to PATH",
        ),
        description="Restore a snapshot, or files from it, to a new path.",
        epilog=_EPILOG,
    )
    _add_selection(parser)
    _add_caution(parser)
    group = parser.add_argument_group("transfer")
    group.add_argument(
        "-I",
        "--no-incremental",
        action="store_true",
        help="send all of the snapshot, so that it shares no data with what the"
        " filesystem of PATH has",
    )
    transfer = OptionGroup(group, TransferOptions)
    add_sending(transfer)
    add_check_space(transfer)
    add_folder(parser)
    add_ssh(parser)
    add_display(parser)
    return parser


def _add_selection(parser: Parser) -> None:
    """Add the options that choose the snapshot, the files and the target."""
    add = parser.add_argument
    add("--to", metavar="PATH", help="where to restore: a path here, or ssh://...")
    add(
        "--writable",
        action="store_true",
        help="make a writable subvolume, ready to be used and backed up",
    )
    add(
        "--replaces",
        metavar="DIR",
        default="",
        help="with --writable: print the commands that put it in place of DIR"
        " (default: where the source was, if known)",
    )
    add(
        "--file",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="restore only these files and folders, by their paths in the snapshot",
    )
    add(
        "--files-from",
        metavar="LIST",
        default="",
        help="the same, with the paths in the file LIST, one a line; -: stdin",
    )
    add(
        "--id",
        "--number",
        type=parse_version_id,
        metavar="ID",
        help="restore version ID (as shown by versions) of the live path FILE; PLACE"
        " may be omitted",
    )
    add(
        "--from",
        dest="source",
        metavar="SOURCE",
        default="",
        help="if PLACE has backups of several sources: latest, yesterday and dates"
        " mean those of SOURCE: a path, or as list shows it (host:/path)",
    )
    add(
        "-0",
        "--null",
        action="store_true",
        help="each path in LIST ends with a NUL byte",
    )
    add(
        "-p",
        "--snapshot-prefix",
        metavar="P",
        help="latest, yesterday and dates mean snapshots with this prefix",
    )


def _add_caution(parser: Parser) -> None:
    parser.add_argument(
        "--force",
        action="store_true",
        help="restore a snapshot that was changed after it was made, as it is now: a"
        " writable subvolume, the next backup of which is full",
    )
    parser.add_argument(
        "-n",
        "--dry-run",
        action="store_true",
        help="print what would be done, with sizes; change nothing",
    )
    add_wait(parser)


def read(options: argparse.Namespace) -> RestoreOptions:
    """Return the options.

    :raises UsageError: if one is missing, or they do not go together.
    """
    place, snapshot, to = _places(options)
    transfer, ssh = read_transfer(options)
    if options.replaces and not options.replaces.startswith("/"):
        raise UsageError("--replaces needs an absolute path, on the machine of --to")
    wants_files = options.file or options.files_from
    if options.writable and wants_files:
        raise UsageError("--writable makes a subvolume, and --file restores files")
    if transfer.compress != codecs.NONE and wants_files:
        raise UsageError("--compress is for whole snapshots, not for --file")
    if options.no_incremental and wants_files:
        raise UsageError("-I is for whole snapshots, not for --file")
    if options.no_incremental:
        transfer = replace(transfer, incremental=Incremental.NEVER)
    if options.replaces and not options.writable:
        raise UsageError("--replaces needs --writable")
    return RestoreOptions(
        place=place,
        snapshot=snapshot,
        files=tuple(options.file),
        paths=() if options.id else _paths(options),
        version=options.id or "",
        prefix=options.snapshot_prefix,
        source=options.source,
        force=options.force,
        dry_run=options.dry_run,
        request=RestoreRequest(
            to=to,
            writable=options.writable,
            replaces=options.replaces.rstrip("/") or options.replaces,
            options=transfer,
            wait_s=options.wait,
        ),
        folder=options.snapshot_folder,
        ssh=ssh,
    )


def _places(options: argparse.Namespace) -> tuple[Location | None, str, Location]:
    """Return the place, the word for the snapshot, and where to restore it."""
    if not options.to:
        raise UsageError(
            "restore needs a path to restore to; nothing is overwritten",
            hint=f"Write:  {PROGRAM} restore PLACE [SNAPSHOT] --to PATH",
        )
    if options.id and (len(options.file) != 1 or options.files_from):
        raise UsageError("--id needs one --file FILE, whose version it is")
    if options.id and len(options.places) > 1:
        raise UsageError("--id chooses the snapshot, so none can be named")
    if not options.places and not options.id:
        raise UsageError("no place given", hint=f"See:  {PROGRAM} restore --help")
    if len(options.places) > 2:
        raise UsageError(
            f"restore takes a place and a snapshot, and {len(options.places)} words are"
            " given"
        )
    place, *word = options.places or [None]
    location = values.location(place) if place else None
    to = values.location(options.to)
    if to.is_command or (location and location.is_command):
        raise UsageError("nothing can be restored from or to a command (shell://)")
    return location, word[0] if word else LATEST, to


def _paths(options: argparse.Namespace) -> tuple[str, ...]:
    """Return the paths of the files that are wanted."""
    if not options.files_from:
        if options.null:
            raise UsageError("-0 says how the paths in --files-from LIST end")
        return read_paths(options.file)
    try:
        if options.files_from == "-":
            raw = sys.stdin.buffer.read()
        else:
            with open(options.files_from, "rb") as file:
                raw = file.read()
    except OSError as error:
        raise UsageError(
            f"cannot read {visible(options.files_from)}: {error.strerror}"
        ) from error
    listed = [os.fsdecode(p) for p in raw.split(b"\0" if options.null else b"\n") if p]
    if not (listed or options.file):
        raise UsageError(f"{visible(options.files_from)} names no file")
    return read_paths([*options.file, *listed])


def _run(options: RestoreOptions, call: Call) -> int:
    finder = _VersionFinder(options, call) if options.version else None
    folder = finder.folder if finder else options.folder
    with (
        open_progress(call) as progress,
        open_session(call, options.ssh, folder, progress) as session,
    ):
        output = Output(call, progress)
        report = RestoreReport(options.dry_run)
        session = replace(session, emit=output.tell)
        status = 0
        try:
            if finder:
                options = finder.find(session)
            status = _restore(options, session, output, report)
        except BackupError as error:
            if not call.as_json:
                raise
            report.error = error
            status = output.fail(options.place or options.files[0], error)
        return output.finish(status, report)


def _restore(
    options: RestoreOptions, session: Session, output: Output, report: RestoreReport
) -> int:
    request, paths = options.request, options.paths
    assert options.place
    chosen = find_snapshot(
        options.place,
        options.snapshot,
        session,
        prefix=options.prefix,
        source=options.source,
        force=options.force,
        for_files=bool(paths),
    )
    reporter = Reporter(chosen, session.now, output, report)
    if paths:
        files = FileRestoration(chosen, paths, request.to, session, request.options)
        return reporter.restore_files(files)
    restoration = plan_restore(chosen, request, session)
    return reporter.restore_snapshot(restoration, folder=options.folder)


class _VersionFinder:
    """The search for a version of a file, by its id as ``versions`` has it.

    :ivar folder: where the snapshots of its subvolume are.
    """

    def __init__(self, options: RestoreOptions, call: Call) -> None:
        (text,) = options.files
        self._options = options
        try:
            self._file = find_file(text, call.sudo_line, working_directory=os.getcwd())
        except Refused as error:
            live = "With --id, FILE is the path that versions was asked for"
            error.hint = error.hint or f"{live}, not one in the snapshot."
            raise
        self._records = records_of(remembered(), self._file.subvolume)
        self.folder = recorded_folder(options.folder, self._records)

    def find(self, session: Session) -> RestoreOptions:
        """Return options with the place, snapshot and path that are best to take."""
        options = self._options
        places = [options.place] if options.place else []
        found = find_versions(self._file, places, session, self._records)
        taken = pick(found, number_of(found, options.version))
        return replace(
            options,
            place=parse_location(taken.place, working_directory="/"),
            snapshot=taken.snapshot,
            paths=read_paths([taken.path]),
        )
