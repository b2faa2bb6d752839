"""The look at this machine for the draft of a configuration."""

import glob
import os
import re
from collections.abc import Iterator

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.btrfs.ioctl import is_subvolume
from btrfs_backup_ng.core.draft import Mounted
from btrfs_backup_ng.host.facts import FILESYSTEMS, read_text
from btrfs_backup_ng.host.mounts import MOUNTS, parse_mounts, unescaped
from btrfs_backup_ng.process.command import find_program

FSTAB = "/etc/fstab"
SNAPPER = "/etc/snapper/configs"
#: Where btrbk looks, in its order.
BTRBK = ("/etc/btrbk.conf", "/etc/btrbk/btrbk.conf")


def find_mounted() -> list[Mounted]:
    """Return the btrfs subvolumes that are mounted, or named in /etc/fstab."""
    identities = _identities()
    found = {
        mount.point: _mounted(mount.point, mount.source, identities)
        for mount in parse_mounts(read_text(MOUNTS))
        if mount.kind == "btrfs" and is_writable_subvolume(mount.point)
    }
    for line in read_text(FSTAB).splitlines():
        device, point, kind, *_ = [*line.split("#")[0].split(), "", "", ""]
        if kind == "btrfs" and point.startswith("/"):
            point = unescaped(point)
            uuid = device.removeprefix("UUID=") if device[:5] == "UUID=" else ""
            found.setdefault(point, Mounted(point, uuid))
    return list(found.values())


def can_mail() -> bool:
    """Return whether a program of this machine sends mail."""
    return find_program("sendmail") is not None


def find_remarks() -> Iterator[str]:
    """Yield what other programs for snapshots are set up to do."""
    for path in sorted(glob.glob(f"{SNAPPER}/*")):
        if match := re.search(r'^SUBVOLUME="(.*)"$', read_text(path), re.MULTILINE):
            name = os.path.basename(path)
            yield f"snapper makes snapshots of {_plain(match[1])} ({_plain(name)})."
    for path in BTRBK:
        if re.search(r"^\s*subvolume\s", read_text(path), re.MULTILINE):
            yield f"btrbk is set up: {PROGRAM} config import {path}"


def _mounted(point: str, device: str, identities: dict[str, str]) -> Mounted:
    uuid = identities.get(os.path.basename(os.path.realpath(device)), "")
    label = read_text(f"{FILESYSTEMS}/{uuid}/label").strip() if uuid else ""
    return Mounted(point, uuid, _plain(label))


def _identities() -> dict[str, str]:
    """Return the UUID of the filesystem on each device."""
    found = {}
    for path in glob.glob(f"{FILESYSTEMS}/*/devices/*"):
        *_, uuid, _, device = path.split("/")
        found[device] = uuid
    return found


def is_writable_subvolume(path: str) -> bool:
    """Return whether a path is a subvolume, and no read-only one."""
    try:
        return is_subvolume(os.stat(path)) and os.access(path, os.W_OK)
    except OSError:
        return False


def _plain(text: str) -> str:
    """Return a text that fits into a comment."""
    return "".join(each for each in text if each.isprintable())
