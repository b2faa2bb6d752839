"""A server that pulls from many hosts by one file; some of the hosts hang."""

import contextlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command_line import complaint, covers, must
from tests.support.filesystems import Filesystem
from tests.support.processes import wait_until
from tests.support.program import Argument, finish, run_program, start_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd

pytestmark = [pytest.mark.btrfs, pytest.mark.ssh]

HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
HANG = ("127.0.0.4", "127.0.0.5", "127.0.0.6")


@covers("--jobs")
def test_hosts_that_hang_cost_the_others_of_a_fleet_nothing(
    disks: tuple[Filesystem, Filesystem],
    new_sshd: Callable[..., Sshd],
    tmp_path: Path,
):
    scene, server = Scene(*disks, is_small=True), new_sshd(hosts=HOSTS[1:])
    file, here = tmp_path / "config.toml", scene.destination
    sources = scene.source.parent
    for host in (*HOSTS, *HANG):
        source = scene.subvolume(f"of-{host}")
        (source / "file").write_text(host)
        (here / host).mkdir()
    file.write_text(f"""\
snapshot-prefix = "x-"
ssh-opt = {json.dumps(server.ssh_options[1:])}
max-age = "1d"

[volumes.srv]
each = {json.dumps([*HANG, *HOSTS])}
source = "ssh://root@{{each}}:{server.port}{sources}/of-{{each}}"
to = "{here}/{{each}}"

[volumes.other]
on = ["not-{os.uname().nodename}"]
source = "/nowhere/*"
before-snapshot = "/nowhere/program"
to = "{here}"
""")
    config: list[Argument] = ["-c", file]
    checked = must(run_program("config", "check", *config)).stdout
    assert f"srv/{HANG[0]}: ssh://root@{HANG[0]}:" in checked
    assert f"other: on other machines only (not-{os.uname().nodename})" in checked
    assert "/nowhere" not in checked
    complaint(run_program("run", *config, "other"), 2, "on other machines, not on")

    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_server((host, server.port)))
            for host in HANG
        ]
        server.mark()
        with start_program("run", *config, "--jobs", "2", "srv") as run:
            wait_until(lambda: len([*here.glob("*/x-*")]) == len(HOSTS))
            assert run.poll() is None
            for one in silent:
                one.accept()[0].close()
            done = finish(run)
    assert done.returncode == 10, done
    assert all(f"root@{host}" in done.stderr for host in HANG), done
    assert not any(f"root@{host}:" in done.stderr for host in HOSTS)
    assert server.connections() == len(HOSTS)
    for host in HOSTS:
        (backup,) = here.glob(f"{host}/x-*")
        assert (backup / "file").read_text() == host

    states = json.loads(run_program("status", *config, "--json").stdout)
    words = {each["volume"]: each["status"] for each in states["places"]}
    expected = {f"srv/{host}": "ok" for host in HOSTS}
    assert words == expected | {f"srv/{host}": "failed" for host in HANG}
