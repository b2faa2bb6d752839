"""Who has backups at a destination: the identity of a source."""

from __future__ import annotations

import pytest

from btrfs_backup_ng.__util__ import Refused
from btrfs_backup_ng.core.location import parse_location
from btrfs_backup_ng.core.model import Facts, Privilege, Snapshot
from btrfs_backup_ng.core.value import replace
from btrfs_backup_ng.endpoint.local import local_place
from btrfs_backup_ng.place.sources import identity_of, of_others
from tests.core.making import uid


def test_a_source_that_was_replaced_by_something_else_has_no_identity():
    """A racer did that between a restore and the forecast of the next backup."""
    source = local_place(parse_location("/a", working_directory="/"), "f")
    source.facts = Facts(Privilege.ROOT, (6, 2), send_protocol=2, is_directory=True)
    with pytest.raises(Refused, match="/a is not a subvolume, or no longer one"):
        identity_of(source)
    source.facts = replace(source.facts, uuid=uid(1))
    assert identity_of(source).uuid == uid(1)


def test_only_a_writable_subvolume_that_exists_is_another_source():
    def one(number: int, parent: int, made: int, received: int = 0) -> Snapshot:
        return Snapshot(
            f"x-{number}",
            None,
            uid(number),
            uid(parent) if parent else None,
            uid(received) if received else None,
            generation=made,
        )

    source, other, old, copy = one(1, 4, 50), one(2, 0, 5), one(3, 0, 5), one(4, 0, 45)
    snapshots = [one(10, 2, 6), one(11, 3, 7), one(12, 99, 8), one(13, 10, 9)]
    snapshots.append(one(14, 1, 60))
    copy = replace(copy, received_uuid=uid(11))  # of which the source was made
    everything = [source, other, old, copy, *snapshots]
    writable = {uid(1), uid(2), uid(3)}
    assert of_others(snapshots, everything, writable, uid(1)) == {uid(10), uid(13)}
    later = [*snapshots, one(15, 3, 51)]  # so the old one is backed up still
    found = of_others(later, [*everything, later[-1]], writable, uid(1))
    assert found == {uid(n) for n in (10, 11, 13, 15)}
    assert of_others(later, [], set(), uid(1)) == set()
