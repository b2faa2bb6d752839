"""How events look: lines on stdout, a JSON document, errors on stderr."""

import argparse
import contextlib
import dataclasses
import enum
import json
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

from btrfs_backup_ng.__logger__ import log_message
from btrfs_backup_ng.__util__ import format_size, format_span, visible
from btrfs_backup_ng.cli.table import wrapped
from btrfs_backup_ng.core.events import (
    Deleted,
    Event,
    Failed,
    Level,
    Noted,
    Released,
    Sent,
    Snapshotted,
    UpToDate,
)
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.session.progress import Progress


class Output:
    """Where the events of a run go, from any thread.

    A closed stdout does not end a backup; what is printed then is lost.
    """

    def __init__(
        self, *, progress: Progress, quiet: bool, notes: bool, as_json: bool
    ) -> None:
        """Prepare.

        :param quiet: no lines about success.
        :param notes: show warnings and notes.
        """
        self._progress = progress
        self._quiet = quiet
        self._notes = notes
        self._as_json = as_json
        self._events: list[Event] = []
        self._planned: list[int] = []  # sizes of what a rehearsal would send
        self._guard = threading.Lock()

    def tell(self, event: Event) -> None:
        """Show one event; with JSON, keep it for the document."""
        with self._guard:
            self._progress.clear()
            if isinstance(event, Failed):
                tell_failure(event)
            elif isinstance(event, Noted):
                if self._notes:
                    _tell_note(event)
            elif not self._quiet and not self._as_json:
                print_line(_line(event))
            if isinstance(event, Sent) and event.dry:
                self._planned.append(event.size_bytes or 0)
            if self._as_json:
                self._events.append(event)

    def finish(self, status: int) -> None:
        """Print the JSON document, if one is wanted; after a rehearsal, the total."""
        if len(self._planned) > 1 and not (self._quiet or self._as_json):
            total = format_size(sum(self._planned))
            print_line(f"in total: about {total} in {len(self._planned)} transfers")
        if self._as_json:
            events = [_as_json(event) for event in self._events]
            document = {"version": 1, "exit_status": status, "events": events}
            print_line(json.dumps(document, indent=1))


def print_about(place: Location, text: str, options: argparse.Namespace) -> None:
    """Print something about a place, unless that is not wanted, or as JSON."""
    if not options.json and not options.quiet:
        for line in wrapped(f"{visible(str(place))}: {text}", 2):
            print_line(line)


def print_line(text: str) -> None:
    """Write to stdout; if that is not possible, it is lost, and nothing else."""
    with _losing():
        print(text, flush=True)


def print_bytes(raw: bytes) -> None:
    """Write to stdout what is not ours, as it is, likewise."""
    with _losing():
        sys.stdout.flush()
        sys.stdout.buffer.write(raw)
        sys.stdout.buffer.flush()


@contextlib.contextmanager
def _losing() -> Iterator[None]:
    try:
        yield
    except OSError:  # closed, or a full disk: the backup goes on
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _line(event: Event) -> str:
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
        case Noted() | Failed():
            return visible(event.place)


def _way(event: Sent | UpToDate) -> str:
    return f"{visible(event.source)} -> {visible(event.destination)}"


def _count(present: int) -> str:
    if present == 1:
        return "the only snapshot is"
    return f"all {present} snapshots are" if present else "no snapshot here, none"


def _sent(event: Sent) -> str:
    name, target = visible(event.name), visible(event.target)
    what = name if name == target else f"{name} as {target}"
    size = "" if event.size_bytes is None else f", {format_size(event.size_bytes)}"
    size += f" as {event.codec}" if event.codec else ""
    about = size.replace(", ", ", about ") if event.dry else size
    if event.parent:
        how = f" since {visible(event.parent)}"
    else:
        why = event.why_full.value if event.why_full else ""
        how = f" in full ({why})"
    if event.resumed_bytes:
        how += f", resumed at {format_size(event.resumed_bytes)}"
    word = "would send" if event.dry else "sent"
    took = "" if event.dry else f" in {format_span(event.elapsed_s)}"
    return f"{_way(event)}: {word} {what}{about}{how}{took}"


def tell_failure(event: Failed) -> None:
    """Say on stderr what failed, where, and what to do."""
    place = visible(event.place)
    place = "" if place in event.message else f"{place}: "
    log_message(f"{place}{event.message}", event.hint)


def _tell_note(event: Noted) -> None:
    word = "warning" if event.level is Level.WARNING else "note"
    log_message(f"{word}: {event.text}", event.hint)


def _as_json(event: Event) -> dict[str, Any]:
    kind = {
        Snapshotted: "snapshot",
        Sent: "sent",
        UpToDate: "up-to-date",
        Deleted: "deleted",
        Released: "released",
        Noted: "note",
        Failed: "failed",
    }[type(event)]
    fields = dataclasses.asdict(event)
    plain = {
        key: value.value if isinstance(value, enum.Enum) else value
        for key, value in fields.items()
    }
    return {"event": kind, **plain}
