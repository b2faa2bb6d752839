"""Own the comparing of two trees where they lie, each of them read once."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from btrfs_backup_ng.hop import Meter
from btrfs_backup_ng.host import Host
from btrfs_backup_ng.manifest import Difference, Entry, Garbled, compare
from btrfs_backup_ng.trees import reading
from btrfs_backup_ng.walk import CannotRead

#: Of the differences so many are kept; all are counted.
KEPT = 1000


@dataclass(slots=True)
class Compared:
    """What a comparison found so far.

    :ivar differences: the first :data:`KEPT`.
    :ivar count: of all differences.
    :ivar unclear: of those where it is the original that cannot be read.
    :ivar entries: of the original that were compared.
    :ivar no_xattrs: why extended attributes could not be compared, or "".
    """

    differences: list[Difference]
    count: int = 0
    unclear: int = 0
    entries: int = 0
    no_xattrs: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tree is."""

    host: Host
    path: str


def compare_trees(
    original: Place, copy: Place, meter: Meter, compared: Compared
) -> None:
    """Compare all of two trees.

    :param meter: counts what is read of files, on both sides.
    :param compared: takes what is found, also before a failure.
    :raises CannotRead: if one of them cannot be read.
    :raises Interrupted: if a signal told us to end.
    """
    meter.started = time.monotonic()

    def count(entry: Entry) -> None:
        compared.entries += 1

    with (
        reading(original.host, original.path, meter.add) as one,
        reading(copy.host, copy.path, meter.add) as other,
    ):
        compared.no_xattrs = one.no_xattrs or other.no_xattrs
        differences = compare(one.entries, other.entries, count)
        for difference in _in_order(differences):
            compared.count += 1
            compared.unclear += difference.unclear
            if compared.count <= KEPT:
                compared.differences.append(difference)


def _in_order(differences: Iterator[Difference]) -> Iterator[Difference]:
    try:
        yield from differences
    except Garbled as error:
        raise CannotRead(f"the files do not come in order: {error}") from error
