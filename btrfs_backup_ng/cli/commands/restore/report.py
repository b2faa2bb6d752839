"""What is said about a restore: before, after, and as a document."""

import argparse
import json
import shlex

from btrfs_backup_ng.__logger__ import PROGRAM
from btrfs_backup_ng.__util__ import (
    BackupError,
    attempt,
    format_size,
    format_span,
    visible,
)
from btrfs_backup_ng.actions.restore.after import find_swap, foresee_next
from btrfs_backup_ng.actions.restore.files import FileRestoration
from btrfs_backup_ng.actions.restore.find import Chosen
from btrfs_backup_ng.actions.restore.snapshot import Restoration
from btrfs_backup_ng.actions.restore.swap import Swap
from btrfs_backup_ng.cli import text as tell
from btrfs_backup_ng.cli.output import print_line, tell_failure
from btrfs_backup_ng.cli.places import FOLDER
from btrfs_backup_ng.cli.table import wrapped
from btrfs_backup_ng.core.events import Failed, Sent
from btrfs_backup_ng.core.model import Role
from btrfs_backup_ng.core.naming import split_name
from btrfs_backup_ng.place.contents import State
from btrfs_backup_ng.session.session import Session


class Desk:
    """What is said about one restore, before and after."""

    def __init__(self, options: argparse.Namespace, session: Session) -> None:
        self._options = options
        self._session = session
        self._status = 0
        self._fields: dict[str, object] = {}
        self.chosen: Chosen | None = None

    def snapshot(self, restoration: Restoration) -> None:
        """Say what is going to be restored, do that, and say how to go on."""
        dry = self._options.dry_run
        transfer = restoration.transfer
        size = restoration.exact_size() if dry else restoration.size_bytes
        self._introduce(str(restoration.place), self._kind())
        parent = transfer.parent.name if transfer.parent else None
        if transfer.parent == transfer.snapshot:
            how = "nothing to send: that filesystem has all of it"
        else:
            since = f", since {visible(parent)}" if parent else ", in full"
            how = f"about {format_size(size)}{since}"
        free = format_size(restoration.target.facts.size_free)
        self._say(f"size      {how}; {free} free there")
        self._fields |= {"parent": parent, "size_bytes": size}
        self._fields |= {"writable": self._options.writable}
        if not dry:
            self._done(restoration.run(), str(restoration.place))
            if self._options.writable:
                self._tell_next(restoration)
        self._tell_swap(restoration, find_swap(restoration))

    def _kind(self) -> str:
        return "writable" if self._options.writable else "a read-only snapshot"

    def _tell_next(self, restoration: Restoration) -> None:
        """Say what the next backup of what was made is, and how to name it."""
        assert self.chosen
        forecast = attempt(lambda: foresee_next(restoration))
        if isinstance(forecast, BackupError):
            self._fields["next_backup"] = None
            text = f"Its next backup may be full: {forecast.message}"
            self._say(visible(text))
            return
        self._fields["next_backup"] = tell.forecast_fields(forecast)
        told = f"to {forecast.place} is {forecast.describe()}"
        self._say(visible(f"The next backup of it {told}"))
        split = split_name(self.chosen.snapshot.name)
        if split and split[0] not in {one.prefix for one in forecast.outcomes}:
            option = visible(shlex.quote(split[0]))
            self._say(f"To go on with names of that series:  -p {option}")
        if self._options.snapshot_folder != FOLDER:
            self._say(
                "That is without -f: the first snapshot of it is in its own"
                f" {FOLDER}"
            )

    def _done(self, sent: Sent, place: str) -> None:
        size, took = format_size(sent.size_bytes or 0), format_span(sent.elapsed_s)
        resumed = sent.resumed_bytes
        again = f", resumed at {format_size(resumed)}" if resumed else ""
        self._say(f"restored  {visible(place)}: {size}{again} in {took}")
        self._fields |= {"sent_bytes": sent.size_bytes, "resumed_bytes": resumed}

    def _tell_swap(self, restoration: Restoration, swap: Swap | None) -> None:
        self._fields["swap"] = None
        if swap is None:
            if not (self._options.dry_run or self._options.writable):
                self._tell_writable(restoration)
            return
        self._fields["swap"] = {
            "way": swap.way.value,
            "commands": list(swap.commands),
            "notes": list(swap.notes),
        }
        host = restoration.target.host.name
        where = f" on {visible(host)}" if host else ""
        self._say("")
        self._say(f"To put it in place, in a root shell{where}:")
        for command in swap.commands:
            self._say_whole(f"  {visible(command)}")
        for note in swap.notes:
            self._say(f"# {visible(note)}")

    def _tell_writable(self, restoration: Restoration) -> None:
        """Tell how to get a writable one of it, for which no data moves any more."""
        assert self.chosen
        words = [PROGRAM, "restore", str(self.chosen.place.location)]
        words += [self.chosen.snapshot.name, "--writable", "--to"]
        line = shlex.join([*words, f"{restoration.place}.rw"])
        self._say_whole(f"To write to it:  {visible(line)}")

    def files(self, restoration: FileRestoration) -> None:
        """Say which files are going to be restored, do that, and say so."""
        count, size = len(restoration.paths), restoration.size_bytes
        what = "1 file or folder" if count == 1 else f"{count} files or folders"
        self._introduce(str(restoration.to), what)
        text = "not known" if size is None else f"about {format_size(size)}"
        self._say(f"size      {text}")
        self._fields |= {"size_bytes": size, "files": list(restoration.paths)}
        if self._options.dry_run:
            return
        elapsed_s = restoration.run()
        self._say(
            f"restored  {what} below {visible(str(restoration.to))}"
            f" in {format_span(elapsed_s)}"
        )

    def _introduce(self, place: str, what: str) -> None:
        assert self.chosen
        kept, now = self.chosen.kept, self._session.now
        created = kept.snapshot.created
        place_from = str(self.chosen.place.location)
        self._fields |= {
            "snapshot": tell.kept_fields(kept, now),
            "from": place_from,
            "to": place,
        }
        kind = "a backup" if kept.kind is Role.BACKUP else "a snapshot"
        if kept.state is not State.COMPLETE:
            kind = tell.state(kept)
        self._say(
            f"snapshot  {visible(kept.snapshot.name)}, {tell.exact(created)}"
            f" ({tell.ago(created, now)})"
        )
        self._say(f"from      {visible(place_from)}, {kind}")
        self._say(f"to        {visible(place)}, {what}")

    def _say(self, text: str) -> None:
        for line in wrapped(text, 10) or [""]:
            self._say_whole(line)

    def _say_whole(self, line: str) -> None:
        if not (self._options.json or self._options.quiet):
            self._session.progress.clear()
            print_line(line)

    def fail(self, place: str, error: BackupError) -> None:
        """Tell a failure, also in the document."""
        self._status = error.exit_status
        self._fields["error"] = tell.error_fields(error)
        tell_failure(Failed(place, error.message, error.hint, error.exit_status))

    def finish(self) -> int:
        """Print the document, if one is wanted, and give the exit status."""
        if self._options.json:
            document = {
                "version": 1,
                "exit_status": self._status,
                "dry_run": self._options.dry_run,
                "error": None,
                **self._fields,
            }
            print_line(json.dumps(document, indent=1))
        return self._status
