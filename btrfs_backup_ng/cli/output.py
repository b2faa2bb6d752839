"""The output of a command: lines or a document on stdout, errors on stderr."""

import json
import threading

from btrfs_backup_ng.__util__ import BackupError, format_size, format_span, visible
from btrfs_backup_ng.cli.call import Call
from btrfs_backup_ng.cli.message import print_message
from btrfs_backup_ng.cli.stdout import print_line
from btrfs_backup_ng.cli.table import wrapped
from btrfs_backup_ng.core.document import to_document
from btrfs_backup_ng.core.events import (
    CheckedBackups,
    Deleted,
    Event,
    Failed,
    Hooked,
    Level,
    Noted,
    Released,
    Sent,
    Snapshotted,
    UpToDate,
)
from btrfs_backup_ng.session.progress import Progress


class Output:
    """The results of one call, from any thread.

    A closed stdout does not end a backup; the rest of the output is lost then.
    """

    def __init__(self, call: Call, progress: Progress | None = None) -> None:
        """Prepare.

        :param progress: whose line makes room for others.
        """
        self._call = call
        self._progress = progress
        self._guard = threading.Lock()
        self.has_lines = not (call.quiet or call.as_json)

    def line(self, text: str, indent: int | None = None) -> None:
        """Print a line, unless the call is quiet or asks for a document.

        :param indent: of its further lines, if it may be broken on a terminal.
        """
        if self.has_lines:
            self.result(text, indent)

    def result(self, text: str, indent: int | None = None) -> None:
        """Print a line also of a quiet call, unless it asks for a document."""
        if not self._call.as_json:
            self._make_room()
            for part in [text] if indent is None else wrapped(text, indent) or [""]:
                print_line(part)

    def about(self, place: object, text: str) -> None:
        """Print a line about a place."""
        self.line(f"{visible(str(place))}: {text}", 2)

    def fail(self, place: object, error: BackupError, status: int | None = None) -> int:
        """Print an error on stderr, and return its exit status or the given one."""
        status = error.exit_status if status is None else status
        self.tell(Failed(str(place), error.message, error.hint, status))
        return status

    def tell(self, event: Event) -> None:
        """Show an event."""
        with self._guard:
            self._make_room()
            if isinstance(event, Failed):
                place = visible(event.place)
                place = "" if place in event.message else f"{place}: "
                print_message(f"{place}{event.message}", event.hint)
            elif isinstance(event, Noted):
                if self._call.level != "error":
                    word = "warning" if event.level is Level.WARNING else "note"
                    print_message(f"{word}: {event.text}", event.hint)
            else:
                self.line(describe(event), 2)

    def entry(self, value: object) -> None:
        """Print a value as a document of one line, if the call asks for documents."""
        if self._call.as_json:
            self._make_room()
            print_line(json.dumps(to_document(value, self._call.now)))

    def finish(self, exit_status: int, data: object, indent: int | None = 1) -> int:
        """Print the document, if the call asks for one, and return the exit status.

        :param data: a value, the fields of which follow the exit status.
        """
        if self._call.as_json:
            start = {"version": 1, "exit_status": exit_status}
            document = {**start, **to_document(data, self._call.now)}
            print_line(json.dumps(document, indent=indent))
        return exit_status

    def _make_room(self) -> None:
        if self._progress:
            self._progress.clear()


def describe(event: Event) -> str:
    """Write an event as a line."""
    match event:
        case Snapshotted():
            word = "would make" if event.dry else "made"
            return f"{visible(event.source)}: {word} snapshot {visible(event.name)}"
        case Sent():
            return _sent(event)
        case UpToDate():
            return (
                f"{_way(event)}: nothing to send, {_count(event.present)} there already"
            )
        case Deleted():
            word = "would delete" if event.dry else "deleted"
            return f"{visible(event.place)}: {word} {visible(event.name)}"
        case Released():
            word = "would release" if event.dry else "released"
            return (
                f"{visible(event.source)}: {word} {visible(event.name)}, held for"
                f" {visible(event.destination)}"
            )
        case Hooked():
            start = f"{visible(event.place)}: " if event.place else ""
            if event.dry:
                return f"{start}would run {event.hook}: {visible(event.command)}"
            took = format_span(event.elapsed_s)
            return f"{start}ran {event.hook}: {visible(event.command)} in {took}"
        case CheckedBackups():
            return _checked(event)
        case Noted() | Failed():
            return visible(event.place)


def _checked(event: CheckedBackups) -> str:
    what = visible(event.name) or f"{event.count} backups"
    how = "restored as a test" if event.level == "restore-test" else "verified"
    return f"{visible(event.place)}: {how} {what}: good"


def _way(event: Sent | UpToDate) -> str:
    return f"{visible(event.source)} -> {visible(event.destination)}"


def _count(present: int) -> str:
    if present == 1:
        return "the only snapshot is"
    return f"all {present} snapshots are" if present else "no snapshot here, none"


def _sent(event: Sent) -> str:
    name, target = visible(event.name), visible(event.target)
    names = name if name == target else f"{name} as {target}"
    size = "" if event.size_bytes is None else f", {format_size(event.size_bytes)}"
    size += f" as {event.codec}" if event.codec else ""
    about = size.replace(", ", ", about ") if event.dry else size
    if event.parent:
        how = f" since {visible(event.parent)}"
    else:
        how = f" in full ({event.why_full.value if event.why_full else ''})"
    if event.resumed_bytes:
        how += f", resumed at {format_size(event.resumed_bytes)}"
    word = "would send" if event.dry else "sent"
    took = "" if event.dry else f" in {format_span(event.elapsed_s)}"
    return f"{_way(event)}: {word} {names}{about}{how}{took}"
