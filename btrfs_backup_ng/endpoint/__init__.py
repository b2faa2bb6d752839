"""The step from a location to the place that serves it."""

from btrfs_backup_ng.core.location import Location, Scheme
from btrfs_backup_ng.core.model import SshOptions
from btrfs_backup_ng.endpoint.common import Place
from btrfs_backup_ng.endpoint.local import local_place
from btrfs_backup_ng.endpoint.shell import CommandPlace
from btrfs_backup_ng.endpoint.ssh import Connections, ssh_place


def open_place(
    location: Location,
    folder: str | None,
    *,
    connections: Connections,
    ssh: SshOptions,
) -> Place:
    """Return the place at a location, without a look at it.

    :param folder: of its own snapshots, relative to it or absolute; ``None`` if only
        its backups are needed.
    :raises ConnectionFailed: if its host cannot be reached.
    """
    if location.scheme is Scheme.SHELL:
        return CommandPlace(location)
    if location.scheme is Scheme.LOCAL:
        return local_place(location, folder, ssh.silence_s)
    return ssh_place(location, folder, connections=connections, options=ssh)
