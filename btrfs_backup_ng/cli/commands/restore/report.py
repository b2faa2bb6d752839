"""The report of a restore: lines before and after it, and the document."""

import shlex
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__util__ import (
    BackupError,
    attempt,
    format_size,
    format_span,
    visible,
)
from btrfs_backup_ng.actions.restore.after import (
    find_originals,
    find_swap,
    foresee_next,
)
from btrfs_backup_ng.actions.restore.complaints import SOCKET
from btrfs_backup_ng.actions.restore.files import FileRestoration
from btrfs_backup_ng.actions.restore.find import Chosen
from btrfs_backup_ng.actions.restore.snapshot import Restoration
from btrfs_backup_ng.actions.restore.swap import Swap
from btrfs_backup_ng.cli import wording
from btrfs_backup_ng.cli.output import Output
from btrfs_backup_ng.cli.parser import FOLDER
from btrfs_backup_ng.cli.table import terminal_width, wrapped
from btrfs_backup_ng.cli.views import (
    ForecastView,
    SnapshotView,
    view_forecast,
    view_kept,
)
from btrfs_backup_ng.core.columns import folded
from btrfs_backup_ng.core.document import Named
from btrfs_backup_ng.core.events import Sent
from btrfs_backup_ng.core.model import Role
from btrfs_backup_ng.core.naming import split_name
from btrfs_backup_ng.place.contents import State

#: Most files of which the paths are printed.
_PATHS_SHOWN = 10


class RestoreReport:
    """The document of ``restore``, as far as the restore got.

    :ivar writable: of a snapshot: a writable subvolume is made of it.
    :ivar files: the paths of the files, if not all of the snapshot is restored.
    :ivar left_out: those of files that cannot be restored from there, also in folders.
    :ivar unreadable: those among these that hold data.
    :ivar restored: where the files are now.
    :ivar originals: those of the same names that still are where they were backed up.
    """

    dry_run: bool
    error: BackupError | None = None
    snapshot: SnapshotView | None = None
    from_: Annotated[str | None, Named("from")] = None
    to: str | None = None
    files: tuple[str, ...] | None = None
    left_out: tuple[str, ...] | None = None
    unreadable: tuple[str, ...] | None = None
    restored: tuple[str, ...] | None = None
    originals: tuple[str, ...] | None = None
    parent: str | None = None
    size_bytes: int | None = None
    writable: bool | None = None
    sent_bytes: int | None = None
    resumed_bytes: int | None = None
    next_backup: ForecastView | None = None
    swap: Swap | None = None

    def __init__(self, dry_run: bool) -> None:
        self.dry_run = dry_run


class Reporter:
    """The report of one restore, as it is carried out."""

    def __init__(
        self, chosen: Chosen, now: datetime, output: Output, report: RestoreReport
    ) -> None:
        self._chosen = chosen
        self._now = now
        self._output = output
        self._report = report

    def restore_snapshot(self, restoration: Restoration, *, folder: str) -> int:
        """Print the plan, carry it out, and print how to continue.

        :param folder: of the snapshots of the source, as it was asked for.
        :returns: the exit status.
        """
        report, dry_run = self._report, self._report.dry_run
        writable = restoration.request.writable
        form = "writable" if writable else "a read-only snapshot"
        self._introduce(str(restoration.place), form)
        transfer = restoration.transfer
        size = restoration.exact_size() if dry_run else restoration.size_bytes
        report.size_bytes = size
        report.parent = transfer.parent.name if transfer.parent else None
        report.writable = writable
        self._say(f"size      {_size(restoration, size, report.parent)}")
        if not dry_run:
            self._say_restored(restoration.run(), str(restoration.place))
            if writable:
                self._say_next(restoration, folder)
        report.swap = find_swap(restoration)
        if report.swap:
            self._say_swap(restoration, report.swap)
        elif not (dry_run or writable):
            self._say_writable(restoration)
        return 0

    def _say_next(self, restoration: Restoration, folder: str) -> None:
        """Print the kind of the next backup of the subvolume, and how to name it."""
        forecast = attempt(lambda: foresee_next(restoration))
        if isinstance(forecast, BackupError):
            text = f"Its next backup may be full: {forecast.message}"
            self._say(visible(text))
            return
        self._report.next_backup = view_forecast(forecast)
        text = f"to {forecast.place} is {forecast.describe()}"
        self._say(visible(f"Its next backup {text}"))
        split = split_name(self._chosen.snapshot.name)
        if split and split[0] not in {one.prefix for one in forecast.outcomes}:
            option = visible(shlex.quote(split[0]))
            self._say(f"To continue that series of names:  -p {option}")
        if folder != FOLDER:
            self._say(
                "That is without -f: its first snapshot is in a folder"
                f" {FOLDER} of its own"
            )

    def _say_restored(self, sent: Sent, place: str) -> None:
        size, took = format_size(sent.size_bytes or 0), format_span(sent.elapsed_s)
        self._report.parent = sent.parent
        resumed = sent.resumed_bytes
        again = f", resumed at {format_size(resumed)}" if resumed else ""
        self._say(f"restored  {visible(place)}: {size}{again} in {took}")
        self._report.sent_bytes = sent.size_bytes
        self._report.resumed_bytes = resumed

    def _say_swap(self, restoration: Restoration, swap: Swap) -> None:
        host = restoration.target.host.name
        where = f" on {visible(host)}" if host else ""
        self._say("")
        self._say(f"To put it in place, in a root shell{where}:")
        self._say_script(swap.commands)
        for note in swap.notes:
            for line in _as_comment(visible(note)):
                self._output.line(line)
        if swap.removal:
            self._say("To delete the old one later, with everything in it:")
            self._say_script(swap.removal)

    def _say_script(self, commands: Sequence[str]) -> None:
        """Print commands so that a shell runs none of them after a failure."""
        stops = len(commands) > 1
        for command in ("(set -e", *commands, ")") if stops else commands:
            for line in folded(f"  {visible(command)}", terminal_width(), 6):
                self._output.line(line)

    def _say_writable(self, restoration: Restoration) -> None:
        """Print how to make a writable copy of it, for which no data moves."""
        words = [PROGRAM, "restore", str(self._chosen.place.location)]
        words += [self._chosen.snapshot.name, "--writable", "--to"]
        line = shlex.join([*words, f"{restoration.place}.rw"])
        self._output.line(f"To write to it:  {visible(line)}")

    def restore_files(self, restoration: FileRestoration) -> int:
        """Print the files to restore, restore them, and print their new paths.

        :returns: the exit status.
        """
        report = self._report
        self._introduce(str(restoration.to), _files(restoration))
        size = restoration.size_bytes
        text = "not known" if size is None else f"about {format_size(size)}"
        self._say(f"size      {text}")
        report.size_bytes, report.files = size, restoration.paths
        if not report.dry_run:
            took = format_span(restoration.run())
            to = visible(str(restoration.to))
            self._say(f"restored  {_files(restoration)} below {to} in {took}")
            report.restored = tuple(
                str(restoration.to.join(path)) for path in restoration.paths
            )
            self._say_paths("now at", report.restored)
            report.originals = tuple(find_originals(restoration))
            self._say_paths("original", report.originals, " is still there")
        left = restoration.left_out
        if not left:
            return 0
        report.left_out = tuple(left)
        report.unreadable = tuple(path for path in left if left[path] != SOCKET)
        for path, reason in left.items():
            self._say(visible(f"left out  {path}: {reason}"))
        return 10

    def _say_paths(self, label: str, paths: Sequence[str], remark: str = "") -> None:
        """Print some paths below each other."""
        for path in paths[:_PATHS_SHOWN]:
            self._say(f"{label:10}{visible(path)}{remark}")
            label = ""
        if len(paths) > _PATHS_SHOWN:
            self._say(f"{'':10}and {len(paths) - _PATHS_SHOWN} more")

    def _introduce(self, place: str, form: str) -> None:
        kept, now, report = self._chosen.kept, self._now, self._report
        view = report.snapshot = view_kept(kept)
        report.from_, report.to = str(self._chosen.place.location), place
        kind = "a backup" if kept.kind is Role.BACKUP else "a snapshot"
        if kept.state is not State.COMPLETE:
            kind = wording.state(view)
        created = wording.exact(view.created)
        ago = wording.ago(view.created, now)
        self._say(f"snapshot  {visible(view.name)}, {created} ({ago})")
        self._say(f"from      {visible(report.from_)}, {kind}")
        self._say(f"to        {visible(place)}, {form}")

    def _say(self, text: str) -> None:
        self._output.line(text, 10)


def _files(restoration: FileRestoration) -> str:
    count = len(restoration.paths)
    return "1 file or folder" if count == 1 else f"{count} files or folders"


def _as_comment(note: str) -> list[str]:
    """Return the lines of a note, which a shell that they are pasted into passes."""
    first, *rest = wrapped(f"# {note}", 4)
    return [first, *(f"#{line[1:]}" for line in rest)]


def _size(restoration: Restoration, size_bytes: int | None, parent: str | None) -> str:
    """Return the size of the stream, and the free space."""
    free = format_size(restoration.target.facts.size_free)
    if restoration.transfer.parent == restoration.transfer.snapshot:
        how = "nothing to send: that filesystem has all of it"
    else:
        since = f", since {visible(parent)}" if parent else ", in full"
        size = "not known" if size_bytes is None else f"about {format_size(size_bytes)}"
        how = f"{size}{since}"
    return f"{how}; {free} free there"
