"""Who has backups at a destination: the identity of a source."""

from __future__ import annotations

from dataclasses import replace

import pytest

from btrfs_backup_ng.__util__ import Refused
from btrfs_backup_ng.core.location import parse_location
from btrfs_backup_ng.core.model import Facts, Privilege
from btrfs_backup_ng.endpoint.local import local_place
from btrfs_backup_ng.place.sources import identity_of
from tests.core.making import uid


def test_a_source_that_was_replaced_by_something_else_has_no_identity():
    """A racer did that between a restore and the forecast of the next backup."""
    source = local_place(parse_location("/a", working_directory="/"), "f")
    source.facts = Facts(Privilege.ROOT, (6, 2), send_protocol=2, is_directory=True)
    with pytest.raises(Refused, match="/a is not a subvolume, or no longer one"):
        identity_of(source)
    source.facts = replace(source.facts, uuid=uid(1))
    assert identity_of(source).uuid == uid(1)
