"""A btrfs directory of another machine, and the connections to other machines."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import SshOptions
from btrfs_backup_ng.core.value import replace
from btrfs_backup_ng.endpoint.btrfs import btrfs_place
from btrfs_backup_ng.endpoint.common import Place

if TYPE_CHECKING:
    from btrfs_backup_ng.host.ssh import SshHost


class Connections(ExitStack):
    """The connections of a run: one for each host, closed with the context."""

    def __init__(self) -> None:
        super().__init__()
        self._hosts: dict[tuple[Location, SshOptions], SshHost] = {}
        self._guard = threading.Lock()

    def host(self, location: Location, options: SshOptions) -> SshHost:
        """Return the host of a location; the first call logs in.

        :raises ConnectionFailed: if that fails.
        """
        from btrfs_backup_ng.host.ssh import SshHost  # here: for other machines alone
        from btrfs_backup_ng.sshutil.master import SSHMasterManager  # here: as above

        user = location.user or options.username
        key = (replace(location, path="", user=user), options)
        with self._guard:
            if key not in self._hosts:
                master = self.enter_context(SSHMasterManager(location, options))
                self._hosts[key] = SshHost(
                    master,
                    forced_sudo=options.sudo,
                    sudo_password_file=options.sudo_password_file,
                    silence_s=options.silence_s,
                )
                self.callback(self._hosts[key].close)
            return self._hosts[key]

    def allow(self, machine: Location, sessions: int) -> bool:
        """Return whether a machine is known to allow so many sessions at once.

        It is not before the first look at a place there.
        """
        hosts = [
            host
            for (one, _), host in self._hosts.copy().items()
            if replace(one, user="") == replace(machine, user="")
        ]
        return bool(hosts) and all(host.allows(sessions) for host in hosts)


def ssh_place(
    location: Location,
    folder: str | None,
    *,
    connections: Connections,
    options: SshOptions,
) -> Place:
    """Return the place at a path of another machine, without a look at it.

    :raises ConnectionFailed: if no connection can be opened.
    """
    return btrfs_place(location, connections.host(location, options), folder)
