"""The logins of one call to several hosts."""

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from btrfs_backup_ng.core.location import Location, parse_location
from btrfs_backup_ng.core.model import SshOptions
from btrfs_backup_ng.endpoint.ssh import Connections
from btrfs_backup_ng.sshutil.refusal import ConnectionFailed
from tests.support.places import ssh_place
from tests.support.sshd import Sshd

pytestmark = pytest.mark.ssh


def place(text: str) -> Location:
    return parse_location(text, working_directory="/")


def test_a_host_that_hangs_delays_no_other_and_is_asked_once(sshd: Sshd):
    options = SshOptions(options=tuple(sshd.ssh_options[1:]))
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        ThreadPoolExecutor() as pool,
        Connections() as connections,
    ):
        where = f"ssh://127.0.0.1:{silent.getsockname()[1]}"
        looks = [
            pool.submit(connections.host, place(f"{where}/{name}"), options)
            for name in ("one", "other")
        ]
        asked, _ = silent.accept()
        there = place(ssh_place(sshd, "/", user="root"))
        host = connections.host(there, options)
        assert connections.host(place(f"{there}tmp"), options) is host
        assert not any(look.done() for look in looks)
        asked.close()
        for look in looks:
            assert isinstance(look.exception(), ConnectionFailed)
        silent.setblocking(False)
        with pytest.raises(BlockingIOError):
            silent.accept()
    assert sshd.connections() == 1
