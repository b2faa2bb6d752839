"""States of places that no disk has, for the forms in which ``status`` shows them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

from btrfs_backup_ng.actions.status import Standing, Word
from btrfs_backup_ng.cli.commands.status.view import StatusEntry
from btrfs_backup_ng.core.location import parse_location
from btrfs_backup_ng.core.model import Snapshot, SshOptions
from btrfs_backup_ng.endpoint import open_place
from btrfs_backup_ng.endpoint.ssh import Connections
from btrfs_backup_ng.place.contents import Kept, State

NOW = datetime(2026, 11, 29, 12, tzinfo=timezone.utc)
#: What may be in a name, and would be the end of a label, a line or an element.
HOSTILE = "a\"b'c\\d\ne|f=g<script>&\x1b[31m\udcff"


def kept(age: timedelta, number: int = 1, place: str = "/mnt/usb") -> Kept:
    """Return a complete backup of an age."""
    made = NOW - age
    name = f"x-{made:%Y%m%d-%H%M%S}"
    origin = UUID(int=number)
    snapshot = Snapshot(name, made, UUID(int=number << 64), None, origin, number)
    location = parse_location(place, working_directory="/")
    opened = open_place(location, None, connections=Connections(), ssh=SshOptions())
    return Kept(snapshot, opened.backups, State.COMPLETE)


def entry(
    word: Word, age: timedelta | None = None, *, place: str = "/mnt/usb", **others: Any
) -> StatusEntry:
    """Return a place with a state.

    :param age: of its newest backup, None without one.
    :param others: further fields of the entry.
    """
    newest = None if age is None else kept(age)
    standing = Standing(
        word,
        newest,
        complete=int(age is not None),
        size_free=3 << 30,
        size_used=1 << 30,
    )
    return StatusEntry(place, **{"standing": standing, **others})
