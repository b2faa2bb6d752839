"""A btrfs directory of another machine, and the connections to other machines."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING

from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import SshOptions
from btrfs_backup_ng.core.value import replace
from btrfs_backup_ng.endpoint.btrfs import btrfs_place
from btrfs_backup_ng.endpoint.common import Place

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from btrfs_backup_ng.host.ssh import SshHost


#: For so long a failed login is not tried again: a host that does not answer takes half
#: a minute each time, and may have many places.
FAILED_FOR_S = 60.0
#: Limit on the hosts that are looked at, of which some may not answer.
HOSTS_AT_ONCE = 16
#: A host that has not let us in after this time may not answer at all.
_SLOW_LOGIN_S = 3.0


class _Login:
    """The login to one host, by one thread at a time.

    :ivar host: once it is done.
    :ivar message: of the error of the last attempt; and its hint.
    :ivar failed_at: when that was, as monotonic time.
    :ivar began_at: the same of an attempt that goes on; None without one.
    """

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.host: SshHost | None = None
        self.message = self.hint = ""
        self.failed_at = -FAILED_FOR_S
        self.began_at: float | None = None


class Connections(ExitStack):
    """The connections of a run: one for each host, closed with the context.

    Logins to several hosts take place at once, so that one that hangs delays no other.
    """

    def __init__(self) -> None:
        super().__init__()
        self._logins: dict[tuple[Location, SshOptions], _Login] = {}
        self._guard = threading.Lock()

    @cached_property
    def threads(self) -> ThreadPoolExecutor:
        """Return threads that may log in.

        They stay as long as the connections: a child ends with the thread that started
        it.
        """
        from concurrent.futures import ThreadPoolExecutor  # here: for several hosts

        return self.enter_context(ThreadPoolExecutor(HOSTS_AT_ONCE))

    def host(self, location: Location, options: SshOptions) -> SshHost:
        """Return the host of a location; the first call logs in.

        :raises ConnectionFailed: if that fails, or failed a moment ago.
        """
        from btrfs_backup_ng.sshutil.refusal import (  # here: as below
            ConnectionFailed,
            LoginRefused,
        )

        user = location.user or options.username
        key = (replace(location, path="", user=user), options)
        with self._guard:
            login = self._logins.setdefault(key, _Login())
        with login.guard:
            if login.host is None:
                if time.monotonic() < login.failed_at + FAILED_FOR_S:
                    raise ConnectionFailed(login.message, hint=login.hint)
                login.began_at = time.monotonic()
                try:
                    login.host = self._log_in(location, options)
                except LoginRefused:
                    raise  # that takes no time
                except ConnectionFailed as error:
                    login.message, login.hint = error.message, error.hint
                    login.failed_at = time.monotonic()
                    raise
                finally:
                    login.began_at = None
            return login.host

    def _log_in(self, location: Location, options: SshOptions) -> SshHost:
        from btrfs_backup_ng.host.ssh import SshHost  # here: for other machines alone
        from btrfs_backup_ng.sshutil.master import SSHMasterManager  # here: as above

        master = self.enter_context(SSHMasterManager(location, options))
        host = SshHost(
            master,
            forced_sudo=options.sudo,
            sudo_password_file=options.sudo_password_file,
            silence_s=options.silence_s,
        )
        self.callback(host.close)
        return host

    def allow(self, machine: Location, sessions: int) -> bool:
        """Return whether a machine is known to allow so many sessions at once.

        It is not before the first look at a place there.
        """
        hosts = [login.host for login in self._logins_to(machine) if login.host]
        return bool(hosts) and all(host.allows(sessions) for host in hosts)

    def awaits(self, machine: Location) -> bool:
        """Return whether a login to a machine takes long, and is not over."""
        slow = time.monotonic() - _SLOW_LOGIN_S
        begun = [login.began_at for login in self._logins_to(machine)]
        return any(began is not None and began < slow for began in begun)

    def _logins_to(self, machine: Location) -> list[_Login]:
        return [
            login
            for (one, _), login in self._logins.copy().items()
            if replace(one, user="") == replace(machine, user="")
        ]


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
