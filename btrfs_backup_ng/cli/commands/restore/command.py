"""The ``restore`` verb: words -> a snapshot or files of it, back at a new path."""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from btrfs_backup_ng.__logger__ import PROGRAM
from btrfs_backup_ng.__util__ import (
    GIB,
    BackupError,
    UsageError,
    visible,
)
from btrfs_backup_ng.actions.restore.files import FileRestoration, read_paths
from btrfs_backup_ng.actions.restore.find import find_snapshot
from btrfs_backup_ng.actions.restore.snapshot import RestoreRequest, plan_restore
from btrfs_backup_ng.actions.versions.find import (
    find_file,
    find_versions,
    pick,
    records_of,
)
from btrfs_backup_ng.cli import types as values
from btrfs_backup_ng.cli.commands.restore.report import Desk
from btrfs_backup_ng.cli.output import Output
from btrfs_backup_ng.cli.parser import (
    Parser,
    add_display,
    add_max_size,
    display_level,
)
from btrfs_backup_ng.cli.places import (
    EPILOG_PLACES,
    add_folder,
    new_parser,
    open_session,
    read_words,
    recorded_folder,
    remembered,
)
from btrfs_backup_ng.cli.ssh_options import add_ssh
from btrfs_backup_ng.cli.sudo import sudo_line
from btrfs_backup_ng.core import codecs
from btrfs_backup_ng.core.choose import LATEST
from btrfs_backup_ng.core.location import Location, Scheme, parse_location
from btrfs_backup_ng.core.model import TransferOptions
from btrfs_backup_ng.session.progress import Progress
from btrfs_backup_ng.session.session import Session

_EPILOG = f"""\
{EPILOG_PLACES}
SNAPSHOT is one of
  latest                       the newest (the default)
  yesterday                    the newest before today's midnight
  2026-11-20, '2026-11-20 10:30'  the newest of that day (minute) or before, local time
  a name, or the first digits of a UUID (4 or more)

what is made:
  PATH is a directory      PATH/NAME, a read-only snapshot
  PATH does not exist      PATH itself
  with --writable          the same as a writable subvolume, which has the read-only
                           snapshot where a backup looks for it, so that the next
                           backup is incremental; with the commands that put it in
                           place of the old one
  with --file FILE --number N  version N of FILE, as the verb versions numbers them
  with --file              the files under their paths in the snapshot, below PATH,
                           with owners, modes, times, xattrs, ACLs and hard links
Nothing is ever overwritten, and nothing at PLACE is changed. Of what the filesystem
of PATH has already, nothing is sent. A cut restore goes on when it is run again.

exit status:
  0 restored   1 failed   2 usage   3 another run is at work there
  4 refused before any change: no such snapshot, something exists at PATH, no room ...
"""


def main(words: Sequence[str]) -> int:
    """Bring a snapshot or files of it back.

    :raises UsageError: if the words do not make sense.
    """
    options = read_words(_parser(), words, needs_place=False)
    if options is None:
        return 0
    location, word, to = _places(options)
    paths = _paths(options)
    versioned = _Versioned(options, location, words) if options.number else None
    with ExitStack() as stack:
        folder = versioned.folder if versioned else options.snapshot_folder
        session = stack.enter_context(open_session(options, folder, "restore", words))
        watched = options.progress
        if watched is None:
            watched = sys.stderr.isatty() and not options.quiet
        progress = stack.enter_context(Progress(watched, silent=options.quiet))
        session = _shown(session, options, progress, watched)
        desk = Desk(options, session)
        try:
            if versioned:
                location, word, paths = versioned.find(session)
            assert location
            chosen = find_snapshot(
                location, word, session, prefix=options.snapshot_prefix
            )
            desk.chosen = chosen
            if paths:
                desk.files(
                    FileRestoration(chosen, paths, to, session, _transfer(options))
                )
            else:
                desk.snapshot(plan_restore(chosen, _request(options, to), session))
        except BackupError as error:
            if not options.json:
                raise
            desk.fail(str(location or options.file[0]), error)
        return desk.finish()


def _parser() -> Parser:
    parser = new_parser(
        "restore",
        usage="[options] PLACE [SNAPSHOT] --to PATH [--file FILE ...]\n"
        "       %(prog)s [options] --file FILE --number N --to PATH",
        description="Bring a snapshot, or files of it, back from where it is kept.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("--to", metavar="PATH", help="where to, here or ssh://...; see below")
    add(
        "--writable",
        action="store_true",
        help="make a writable subvolume, ready to be used and to be backed up",
    )
    add(
        "--replaces",
        metavar="DIR",
        default="",
        help="with --writable: tell the commands that put it in place of DIR (default:"
        " where the source was, if that is known)",
    )
    add(
        "--file",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="only these files and folders, by their paths in the snapshot",
    )
    add(
        "--files-from",
        metavar="LIST",
        default="",
        help="the same, with the paths in the file LIST, one a line; - for stdin",
    )
    add(
        "--number",
        type=values.version_number,
        metavar="N",
        help="with --file FILE, as it is called in use: its version N, as versions"
        " numbers them; then PLACE may be left out",
    )
    add("-0", "--null", action="store_true", help="a NUL ends each path in LIST")
    add(
        "-p",
        "--snapshot-prefix",
        metavar="P",
        help="latest, yesterday and dates mean snapshots whose name is P and a time",
    )
    add(
        "-n",
        "--dry-run",
        action="store_true",
        help="say what would be done, and how large it is; change nothing",
    )
    add(
        "--wait",
        type=values.seconds,
        metavar="S",
        default=0.0,
        help="wait up to S seconds for another run to end (default: 0)",
    )
    add(
        "--compress",
        type=values.codec,
        metavar="HOW",
        default="none",
        help="compress a snapshot on the way through ssh: zstd, zstd:LEVEL, lz4, none,"
        " or auto (default: none)",
    )
    add(
        "--rate",
        type=values.size,
        metavar="SIZE",
        help="at most SIZE bytes a second, like 10M; needs pv or mbuffer",
    )
    add(
        "--retries",
        type=values.retries,
        metavar="N",
        default=0,
        help="after a cut, wait and go on with a snapshot, up to N times (default: 0)",
    )
    add(
        "--checkpoint-interval",
        type=values.interval,
        metavar="SIZE",
        default=GIB,
        help="how much of a snapshot a cut may cost: what has arrived is sealed each"
        " SIZE bytes, and not sent again (default: 1G)",
    )
    add_max_size(parser)
    add(
        "--no-check-space",
        action="store_false",
        dest="check_space",
        help="do not compare what is needed with what is free",
    )
    add_folder(parser)
    add_ssh(parser)
    add_display(parser)
    return parser


class _Versioned:
    """A file of which one version is wanted, as ``versions`` tells them.

    :ivar folder: where the snapshots of its subvolume are.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        place: Location | None,
        words: Sequence[str],
    ) -> None:
        line = sudo_line(["restore", *words])
        (text,) = options.file
        self._file = find_file(text, line, working_directory=os.getcwd())
        self._records = records_of(remembered(), self._file.subvolume)
        self._places = [place] if place else []
        self._number = options.number
        self.folder = recorded_folder(options, self._records)

    def find(self, session: Session) -> tuple[Location, str, tuple[str, ...]]:
        """Return place, snapshot and path from which the version is best taken."""
        found = find_versions(self._file, self._places, session, self._records)
        taken = pick(found, self._number)
        place = parse_location(taken.place, working_directory="/")
        return place, taken.snapshot, read_paths([taken.path])


def _places(
    options: argparse.Namespace,
) -> tuple[Location | None, str, Location]:
    """Return the place, the word for the snapshot, and where to."""
    if not options.to:
        raise UsageError(
            "restore needs a path to restore to; nothing is overwritten",
            hint=f"Write:  {PROGRAM} restore PLACE [SNAPSHOT] --to PATH",
        )
    if options.number and (len(options.file) != 1 or options.files_from):
        raise UsageError("--number needs one --file FILE, whose version it is")
    if options.number and len(options.places) > 1:
        raise UsageError("--number chooses the snapshot, so none can be named")
    if not options.places and not options.number:
        raise UsageError("a place is missing", hint=f"See:  {PROGRAM} restore --help")
    if len(options.places) > 2:
        raise UsageError(
            f"restore takes a place and a snapshot, and {len(options.places)} words are"
            " given"
        )
    directory = os.getcwd()
    place, *word = options.places or [None]
    location = parse_location(place, working_directory=directory) if place else None
    to = parse_location(options.to, working_directory=directory)
    if Scheme.SHELL in (to.scheme, location and location.scheme):
        raise UsageError("nothing can be restored from or to a command (shell://)")
    if options.replaces and not options.replaces.startswith("/"):
        raise UsageError("--replaces needs an absolute path, on the machine of --to")
    wants_files = options.file or options.files_from
    if options.writable and wants_files:
        raise UsageError("--writable makes a subvolume, and --file brings files")
    if options.compress != codecs.NONE and wants_files:
        raise UsageError("--compress is for whole snapshots, not for --file")
    if options.replaces and not options.writable:
        raise UsageError("--replaces needs --writable")
    return location, word[0] if word else LATEST, to


def _paths(options: argparse.Namespace) -> tuple[str, ...]:
    """Return the paths of the files that are wanted."""
    if options.number:
        return ()
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


def _request(options: argparse.Namespace, to: Location) -> RestoreRequest:
    replaces = options.replaces.rstrip("/") or options.replaces
    return RestoreRequest(
        to, options.writable, replaces, _transfer(options), options.wait
    )


def _transfer(options: argparse.Namespace) -> TransferOptions:
    return TransferOptions(
        compress=options.compress,
        rate=options.rate,
        check_space=options.check_space,
        checkpoint_interval=options.checkpoint_interval,
        retries=options.retries,
        stall_timeout_s=options.stall_timeout,
        max_size=options.max_size,
    )


def _shown(
    session: Session, options: argparse.Namespace, progress: Progress, watched: bool
) -> Session:
    """Return the session with its events shown."""
    notes = display_level([options]) != "error"
    output = Output(
        progress=progress, quiet=options.quiet, notes=notes, as_json=options.json
    )
    return replace(session, progress=progress, emit=output.tell, watched=watched)
