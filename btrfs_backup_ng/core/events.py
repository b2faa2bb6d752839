"""Events: the steps of a run, and the exit status that follows.

The first key of each in a document, ``event``, is its name.
"""

import enum
from collections.abc import Iterable
from typing import ClassVar

from btrfs_backup_ng.core.plan import WhyFull
from btrfs_backup_ng.core.value import Value


class Level(enum.Enum):
    """How much a note matters."""

    INFO = "info"
    WARNING = "warning"


class Snapshotted(Value):
    """A snapshot was made, or would be."""

    event: ClassVar = "snapshot"
    source: str
    name: str
    dry: bool


class Sent(Value):
    """A snapshot went to a destination, or would.

    :ivar target: its name at the destination.
    :ivar parent: name of the snapshot it is the difference from.
    :ivar size_bytes: of the stream; an estimate if dry, ``None`` if not known.
    :ivar codec: its compression where it was counted, or "".
    :ivar resumed_bytes: of the stream, received by an earlier attempt; the size does
        not include them.
    """

    event: ClassVar = "sent"
    source: str
    destination: str
    name: str
    target: str
    parent: str | None
    why_full: WhyFull | None
    size_bytes: int | None
    elapsed_s: float
    dry: bool
    codec: str = ""
    resumed_bytes: int = 0


class UpToDate(Value):
    """A destination has everything already."""

    event: ClassVar = "up-to-date"
    source: str
    destination: str
    present: int
    dry: bool


class Deleted(Value):
    """A snapshot or backup was deleted, or would be."""

    event: ClassVar = "deleted"
    place: str
    name: str
    dry: bool


class Released(Value):
    """A hold was forgotten."""

    event: ClassVar = "released"
    source: str
    destination: str
    name: str
    dry: bool


class Hooked(Value):
    """A hook ran, or would.

    :ivar place: the source whose snapshot it surrounds; "" for the whole run.
    :ivar hook: its key in the configuration.
    :ivar command: a line for a shell.
    """

    event: ClassVar = "hook"
    place: str
    hook: str
    command: str
    elapsed_s: float
    dry: bool


class Noted(Value):
    """Something that a person should know."""

    event: ClassVar = "note"
    place: str
    level: Level
    text: str
    hint: str = ""


class CheckedBackups(Value):
    """Backups were verified by a run, and are good.

    :ivar level: ``identity``, or ``restore-test``: it was restored and compared.
    :ivar name: of the only one, or "".
    """

    event: ClassVar = "verified"
    place: str
    level: str
    count: int
    name: str


class Failed(Value):
    """Something asked for was not done."""

    event: ClassVar = "failed"
    place: str
    message: str
    hint: str
    exit_status: int


Event = (
    Snapshotted
    | Sent
    | UpToDate
    | Deleted
    | Released
    | CheckedBackups
    | Hooked
    | Noted
    | Failed
)


class Tally:
    """The results of the parts of a run that can fail alone."""

    def __init__(self, done: int = 0, failures: tuple[int, ...] = ()) -> None:
        self.done = done
        self.failures = failures

    def add(self, other: "Tally") -> None:
        """Add the result of another part."""
        self.done += other.done
        self.failures += other.failures


def exit_status(tallies: Iterable[Tally]) -> int:
    """Return 0 if all is done, 10 if a part is, else the status of the failures."""
    total = Tally()
    for tally in tallies:
        total.add(tally)
    if not total.failures:
        return 0
    if total.done:
        return 10
    return total.failures[0] if len(set(total.failures)) == 1 else 1
