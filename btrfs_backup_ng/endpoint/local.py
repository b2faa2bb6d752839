"""Own the btrfs directory on this machine: the right host for the endpoint."""

from btrfs_backup_ng.endpoint.common import BtrfsEndpoint
from btrfs_backup_ng.host import LocalHost
from btrfs_backup_ng.location import Location
from btrfs_backup_ng.naming import Naming


def local_endpoint(
    location: Location, naming: Naming, folder: str | None
) -> BtrfsEndpoint:
    """Give the endpoint for a path of this machine."""
    return BtrfsEndpoint(location, LocalHost(), naming, folder)
