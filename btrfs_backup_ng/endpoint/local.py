"""A btrfs directory of this machine."""

from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import STALL_TIMEOUT_S
from btrfs_backup_ng.endpoint.btrfs import btrfs_place
from btrfs_backup_ng.endpoint.common import Place
from btrfs_backup_ng.host.local import LocalHost


def local_place(
    location: Location, folder: str | None, silence_s: float = STALL_TIMEOUT_S
) -> Place:
    """Return the place at a path of this machine, without a look at it.

    :param silence_s: the longest time in which a verb may print nothing; 0: no limit.
    """
    return btrfs_place(location, LocalHost(silence_s), folder)
