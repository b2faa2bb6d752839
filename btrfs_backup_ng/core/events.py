"""Events: the steps of a run, and the exit status that follows.

The first field of each, ``event``, is its name in a document.
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field

from btrfs_backup_ng.core.plan import WhyFull


class Level(enum.Enum):
    """How much a note matters."""

    INFO = "info"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Snapshotted:
    """A snapshot was made, or would be."""

    event: str = field(default="snapshot", init=False)
    source: str
    name: str
    dry: bool


@dataclass(frozen=True, slots=True)
class Sent:
    """A snapshot went to a destination, or would.

    :ivar target: its name at the destination.
    :ivar parent: name of the snapshot it is the difference from.
    :ivar size_bytes: of the stream; an estimate if dry, ``None`` if not known.
    :ivar codec: its compression where it was counted, or "".
    :ivar resumed_bytes: of the stream, received by an earlier attempt; the size does
        not include them.
    """

    event: str = field(default="sent", init=False)
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


@dataclass(frozen=True, slots=True)
class UpToDate:
    """A destination has everything already."""

    event: str = field(default="up-to-date", init=False)
    source: str
    destination: str
    present: int
    dry: bool


@dataclass(frozen=True, slots=True)
class Deleted:
    """A snapshot or backup was deleted, or would be."""

    event: str = field(default="deleted", init=False)
    place: str
    name: str
    dry: bool


@dataclass(frozen=True, slots=True)
class Released:
    """A hold was forgotten."""

    event: str = field(default="released", init=False)
    source: str
    destination: str
    name: str
    dry: bool


@dataclass(frozen=True, slots=True)
class Noted:
    """Something that a person should know."""

    event: str = field(default="note", init=False)
    place: str
    level: Level
    text: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """Something asked for was not done."""

    event: str = field(default="failed", init=False)
    place: str
    message: str
    hint: str
    exit_status: int


Event = Snapshotted | Sent | UpToDate | Deleted | Released | Noted | Failed


@dataclass(slots=True)
class Tally:
    """The results of the parts of a run that can fail alone."""

    done: int = 0
    failures: tuple[int, ...] = ()

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
