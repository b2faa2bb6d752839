"""The btrfs directory on this machine: the right host for the endpoint."""

from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import STALL_TIMEOUT_S
from btrfs_backup_ng.core.naming import Naming
from btrfs_backup_ng.endpoint.common import BtrfsEndpoint
from btrfs_backup_ng.host.local import LocalHost


def local_endpoint(
    location: Location,
    naming: Naming,
    folder: str | None,
    silence_s: float = STALL_TIMEOUT_S,
) -> BtrfsEndpoint:
    """Return the endpoint for a path of this machine.

    :param silence_s: how long a verb may say nothing; 0 for no limit.
    """
    return BtrfsEndpoint(location, LocalHost(silence_s), naming, folder)
