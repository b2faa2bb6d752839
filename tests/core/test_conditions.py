"""The conditions of a configuration, judged by the facts about a place."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btrfs_backup_ng.core.conditions import (
    CONDITION_KEYS,
    Conditions,
    find_lack,
    find_obstacle,
    is_away,
    read_conditions,
)
from btrfs_backup_ng.core.configuration import Setting
from btrfs_backup_ng.core.model import Facts, Privilege
from btrfs_backup_ng.core.value import replace

#: As ``stat -f -c %i`` prints it of a subvolume with the id 256 on this filesystem.
DISK = uuid.UUID("5a0d10bb-8b41-4b0d-90f5-1b7c1f7cbb31")
FACTS = Facts(
    privilege=Privilege.ROOT,
    btrfs_version=(6, 2),
    send_protocol=2,
    is_directory=True,
    exists=True,
    is_btrfs=True,
    filesystem="caf80bc7943df13c",
    mount_point="/mnt/usb",
    size_free=1000,
)


def setting(value: object) -> Setting:
    return Setting("", "", value, "", 1)


def test_each_key_fills_its_field_and_the_last_level_counts():
    assert [key.name for key in CONDITION_KEYS] == list(Conditions.NAMES)
    for name in Conditions.NAMES:
        found = read_conditions({name: setting("a")}, {name: setting("b")}, {})
        assert found == replace(Conditions(), **{name.replace("-", "_"): "b"})


@pytest.mark.parametrize(
    ("wanted", "point", "is_met"),
    [
        ("/mnt/usb", "/mnt/usb", True),
        ("/mnt/usb", "/mnt/usb/below", True),
        ("/mnt/usb", "/mnt/usb2", False),
        ("/mnt/usb", "/mnt", False),
        ("/mnt/usb", "/", False),
        ("/mnt/usb", "", False),
        ("/", "/mnt", True),
        ("", "/", True),
    ],
)
def test_something_is_mounted_where_it_must_be(wanted, point, is_met):
    conditions = Conditions(require_mount=wanted)
    found = find_obstacle(conditions, replace(FACTS, mount_point=point))
    assert found == ("" if is_met else f"nothing is mounted at {wanted}")


def test_a_filesystem_is_known_by_its_uuid():
    assert find_obstacle(Conditions(filesystem=DISK), FACTS) == ""
    for other in (
        replace(FACTS, is_btrfs=False),
        replace(FACTS, filesystem="0000000000000000"),
    ):
        text = find_obstacle(Conditions(filesystem=DISK), other)
        assert text == f"it is not on the filesystem {DISK}"


@given(st.integers(1, 2000), st.integers(0, 2000))
def test_a_place_lacks_space_if_less_is_free_than_asked_for(wanted, free):
    text = find_lack(Conditions(min_free=wanted), replace(FACTS, size_free=free))
    assert bool(text) == (free < wanted)


def test_a_place_is_away_without_its_directory_or_its_disk():
    assert not is_away(FACTS)
    assert is_away(replace(FACTS, is_directory=False))
    assert is_away(replace(FACTS, on_system_disk=True, is_empty=True))
    assert not is_away(replace(FACTS, on_system_disk=True))
