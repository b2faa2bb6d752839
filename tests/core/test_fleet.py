"""One configuration for many machines: which of them run a volume."""

import pytest

from btrfs_backup_ng.core.configuration import VolumeSection, parse_configuration
from btrfs_backup_ng.core.fleet import FLEET_KEYS, is_for, machines_of
from btrfs_backup_ng.core.value import replace
from tests.core.test_configuration import KEYS


def section(text: str) -> VolumeSection:
    keys = KEYS | {key.name: key for key in FLEET_KEYS}
    text = f"[volumes.v]\nsource = '/v'\n{text}"
    return parse_configuration(text, "/c", keys).volumes["v"]


@pytest.mark.parametrize(
    ("on", "here", "elsewhere"),
    [
        (
            "'laptop'",
            "laptop Laptop laptop.lan LAPTOP.example.org",
            "laptop2 my.laptop",
        ),
        ("['a', 'web*']", "a web web1 Web2.lan", "b aweb"),
        ("'web[12].LAN'", "web1.lan WEB2.Lan", "web1 web3.lan web1.lan.org"),
        ("'*'", "x x.y", ""),
    ],
)
def test_a_volume_is_for_machines_by_their_whole_or_short_name(on, here, elsewhere):
    found = section(f"on = {on}")
    assert all(is_for(found, name) for name in here.split())
    assert not any(is_for(found, name) for name in elsewhere.split())


def test_a_volume_that_names_no_machine_is_for_all():
    found = section("")
    assert is_for(found, "any") and machines_of(found) == ""
    only = section("on = ['Web1', 'web2']")
    assert machines_of(only) == "Web1, web2"
    assert not is_for(replace(found, settings=only.settings), "any")
