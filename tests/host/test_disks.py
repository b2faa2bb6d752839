"""The disks under a place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from btrfs_backup_ng.host.disks import disks_of, whole_disks
from btrfs_backup_ng.host.local import LocalHost
from tests.conftest import MakesFilesystems


@pytest.mark.btrfs
def test_the_disks_of_a_place_are_those_of_its_filesystem(
    btrfs: MakesFilesystems,
) -> None:
    one, other = btrfs(), btrfs()
    host = LocalHost()
    inner = one.subvolume("inner")
    found = disks_of(host, host.look(str(inner)))
    assert os.path.basename(one.device) in found
    assert found == disks_of(host, host.look(str(one.path)))
    assert not found & disks_of(host, host.look(str(other.path)))
    assert disks_of(host, host.look("/proc")) == frozenset()


def test_partitions_and_layers_lead_to_whole_disks(tmp_path: Path) -> None:
    """As in sysfs: a partition lies in its disk, a layer names what it lies on."""
    real, block = tmp_path / "devices", tmp_path / "block"
    block.mkdir()
    for name in ("sda", "sda/sda1", "sda/sda2", "sdb", "dm-0", "dm-1"):
        (real / name).mkdir(parents=True)
        (block / os.path.basename(name)).symlink_to(real / name)
        if "/" in name:
            (real / name / "partition").touch()
    for layer, *below in (("dm-0", "sda2"), ("dm-1", "dm-0", "sdb")):
        for name in below:
            (real / layer / "slaves" / name).mkdir(parents=True)
    found = {name: whole_disks(name, str(block)) for name in os.listdir(block)}
    assert found == {
        "sda": {"sda"},
        "sda1": {"sda"},
        "sda2": {"sda"},
        "sdb": {"sdb"},
        "dm-0": {"sda"},
        "dm-1": {"sda", "sdb"},
    }
