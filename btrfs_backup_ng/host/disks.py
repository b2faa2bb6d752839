"""The disks under a place, so that streams which share one can take turns."""

import os

from btrfs_backup_ng.core.model import Facts
from btrfs_backup_ng.host.common import Host
from btrfs_backup_ng.host.facts import FILESYSTEMS, first_word, names_in

_BLOCK = "/sys/class/block"


def disks_of(host: Host, facts: Facts) -> frozenset[str]:
    """Return names of the disks of a place; places that share a disk share a name.

    On another machine, the filesystem stands for its disks. A command has none.
    """
    if not facts.is_btrfs:
        return frozenset()
    here = frozenset() if host.name else disks_under(facts.filesystem)
    return here | {filesystem_of(host, facts)}


def filesystem_of(host: Host, facts: Facts) -> str:
    """Return a name of the btrfs filesystem of a place, one for all its subvolumes."""
    return f"{host.name}:{facts.filesystem[:8]}"


def disks_under(filesystem: str) -> frozenset[str]:
    """Return the names of the whole disks that carry a btrfs filesystem here.

    Empty if the kernel does not say.

    :param filesystem: see :class:`Facts`.
    """
    found: set[str] = set()
    for uuid in names_in(FILESYSTEMS):
        if "-" in uuid and first_word(uuid) == filesystem[:8]:
            for device in names_in(f"{FILESYSTEMS}/{uuid}/devices"):
                found |= whole_disks(device)
    return frozenset(found)


def whole_disks(device: str, block: str = _BLOCK) -> set[str]:
    """Return the disks below a block device: a partition, LUKS, LVM, RAID.

    :param device: its name in ``/sys/class/block``.
    """
    path = os.path.realpath(f"{block}/{device}")
    if os.path.exists(f"{path}/partition"):
        return {os.path.basename(os.path.dirname(path))}
    below = [whole_disks(name, block) for name in names_in(f"{path}/slaves")]
    return set().union(*below) or {device}
