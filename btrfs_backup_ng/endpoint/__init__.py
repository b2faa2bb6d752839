"""The step from a location to the endpoint that serves it."""

from dataclasses import dataclass

from btrfs_backup_ng.__util__ import UsageError
from btrfs_backup_ng.core.location import Location, Scheme
from btrfs_backup_ng.core.model import SshOptions
from btrfs_backup_ng.core.naming import Naming
from btrfs_backup_ng.endpoint.common import BtrfsEndpoint, Sink
from btrfs_backup_ng.endpoint.local import local_endpoint
from btrfs_backup_ng.endpoint.shell import ShellEndpoint
from btrfs_backup_ng.endpoint.ssh import Connections, ssh_endpoint


@dataclass(frozen=True, slots=True)
class Destination:
    """Where backups go.

    :ivar sink: takes the streams.
    :ivar keeper: the same place, if it keeps backups that can be listed, deleted and
        built upon; ``None`` if all that is known of it is that it takes streams.
    """

    sink: Sink
    keeper: BtrfsEndpoint | None

    def __str__(self) -> str:
        return str(self.sink)


def open_source(
    location: Location,
    naming: Naming,
    folder: str,
    *,
    connections: Connections,
    ssh: SshOptions,
) -> BtrfsEndpoint:
    """Return the endpoint that a source's snapshots are kept at.

    :raises UsageError: if it can only be a destination.
    """
    if location.scheme is Scheme.SHELL:
        raise UsageError("a command (shell://) cannot be a source")
    return _open_btrfs(location, naming, folder, connections, ssh)


def open_destination(
    location: Location, naming: Naming, *, connections: Connections, ssh: SshOptions
) -> Destination:
    """Return the endpoint that backups go to.

    :raises ConnectionFailed: if its host cannot be reached.
    """
    if location.scheme is Scheme.SHELL:
        return Destination(ShellEndpoint(location), None)
    keeper = _open_btrfs(location, naming, None, connections, ssh)
    return Destination(keeper, keeper)


def _open_btrfs(
    location: Location,
    naming: Naming,
    folder: str | None,
    connections: Connections,
    ssh: SshOptions,
) -> BtrfsEndpoint:
    if location.scheme is Scheme.LOCAL:
        return local_endpoint(location, naming, folder, ssh.silence_s)
    return ssh_endpoint(location, naming, folder, connections=connections, options=ssh)
