"""A receiver freezes at the very end, a cable is pulled, a connection is reset."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.faults.conftest import Disks
from tests.faults.scene import (
    MIB,
    Scene,
    assert_fails,
    command,
    faulty_btrfs,
    finish,
    was_faulty,
)
from tests.support import ours, processes
from tests.support.program import PROGRAM, environment
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs

Servers = Callable[..., Sshd]


# The receiver stops before it has read anything: all of the stream is in the pipe.


def test_a_receiver_that_freezes_at_the_end_is_a_stall(
    scene: Scene, tmp_path: Path
) -> None:
    env = faulty_btrfs(tmp_path, "receive*", "kill -STOP $$; real")
    done = scene.run("--stall-timeout", "2", env=env, timeout=60)
    assert was_faulty(tmp_path)
    assert_fails(done, 1, "nothing moved for 2 s (--stall-timeout)")
    assert "btrfs receive took nothing more" in done.stderr
    scene.wait_for_quiet()
    assert scene.backups == []
    scene.check_converges()


def test_a_receiver_that_freezes_at_the_end_behind_ssh_is_a_stall(
    disks: Disks, new_sshd: Servers, tmp_path: Path
) -> None:
    os.chmod(tmp_path, 0o755)
    env = faulty_btrfs(tmp_path, "receive*", "kill -STOP $$; real")
    scene = Scene(*disks, new_sshd(config=(f"SetEnv PATH={env['PATH']}",)))
    try:
        done = scene.run("--stall-timeout", "2", timeout=60)
        assert was_faulty(tmp_path)
        assert_fails(done, 1, "nothing moved for 2 s (--stall-timeout)")
        assert "btrfs receive on root@127.0.0.1 took nothing more" in done.stderr
        assert scene.backups == []
    finally:
        wrapper = str(tmp_path / "faulty" / "btrfs")
        frozen = [p for p in processes.everything() if wrapper in p.argv]
        processes.kill(frozen, signal.SIGCONT)
    scene.wait_for_quiet()
    scene.check_converges()


# Two machines, as far as the network knows.


class Cable(NamedTuple):
    """A network of its own, tied to ours by a cable, with a server at our end.

    :ivar space: name of the network namespace.
    :ivar plug: the interface at the server's end.
    """

    space: str
    plug: str
    address: str
    server: Sshd

    def scene(self, disks: Disks) -> Scene:
        """Give places with the destination at the other end."""
        scene = Scene(*disks)
        scene.place = f"ssh://root@{self.address}:{self.server.port}{scene.target}"
        alive = ("ServerAliveInterval=1", "ServerAliveCountMax=2")
        for option in (*alive, *self.server.ssh_options):
            scene.options += ("--ssh-opt", option)
        return scene

    def start(self, scene: Scene, *more: str) -> subprocess.Popen[str]:
        """Start the program at the far end."""
        words = [*scene.options, *more, str(scene.source), scene.place]
        return subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{self.space}", *PROGRAM, *words],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, scene: Scene, *more: str) -> subprocess.CompletedProcess[str]:
        """Run it there."""
        with self.start(scene, *more) as program:
            return finish(program)

    def inside(self, *words: str) -> bool:
        """Run a command there, and tell whether it succeeds."""
        argv = ["ip", "netns", "exec", self.space, *words]
        return subprocess.run(argv, capture_output=True).returncode == 0

    def repair(self) -> None:
        """Plug it in again, and wait until the other end is seen from there."""
        command("ip", "link", "set", self.plug, "up")
        probe = f"exec 3<>/dev/tcp/{self.address}/{self.server.port}"
        processes.wait_until(lambda: self.inside("timeout", "1", "bash", "-c", probe))


@pytest.fixture
def cable(new_sshd: Servers) -> Iterator[Cable]:
    """Lay one."""
    space, number = ours.mark(), os.getpid()
    plug, far = f"bb{number}a", f"bb{number}b"
    net = f"198.18.{number // 64 % 256}"  # RFC 2544: for tests
    here, there = (f"{net}.{number % 64 * 4 + k}" for k in (1, 2))
    with contextlib.ExitStack() as stack:
        command("ip", "netns", "add", space)
        stack.callback(command, "ip", "netns", "del", space)
        inside = ("ip", "-netns", space)
        command("ip", "link", "add", plug, "type", "veth", "peer", far, "netns", space)
        stack.callback(command, "ip", "link", "del", plug)
        command("ip", "address", "add", f"{here}/30", "dev", plug)
        command("ip", "link", "set", plug, "up")
        command(*inside, "address", "add", f"{there}/30", "dev", far)
        command(*inside, "link", "set", "lo", "up")
        command(*inside, "link", "set", far, "up")
        with socket.create_server((here, 0)) as listener:
            port = listener.getsockname()[1]
        server = new_sshd(config=(f"ListenAddress {here}:{port}",))
        known = server.known_hosts.read_text().splitlines()[0].partition(" ")[2]
        server.known_hosts.write_text(f"[{here}]:{port} {known}\n")
        server.port, local = port, server.port
        try:
            yield Cable(space, plug, here, server)
        finally:
            server.port = local


@contextlib.contextmanager
def _transfer(cable: Cable, scene: Scene) -> Iterator[subprocess.Popen[str]]:
    """Have a second backup under way in the body."""
    done = cable.run(scene)
    assert done.returncode == 0, done.stderr
    scene.write(12 * MIB)
    with cable.start(scene, "--rate", "4M", "-N1", "-n1") as program:
        scene.wait_for_data(100)
        yield program


def _converges(cable: Cable, scene: Scene) -> None:
    """Check that a plain run, started right away, makes all good."""
    done = cable.run(scene)
    assert done.returncode == 0, done.stderr
    scene.check_laws()
    assert {s.uuid for s in scene.snapshots} == {b.received_uuid for b in scene.backups}
    assert scene.staging == []


def test_a_pulled_cable_is_a_lost_connection(cable: Cable, disks: Disks) -> None:
    scene = cable.scene(disks)
    with _transfer(cable, scene) as program:
        command("ip", "link", "set", cable.plug, "down")
        done = finish(program)
    first = done.stderr.splitlines()[0]
    assert_fails(done, 1, "connection")
    assert f"btrfs receive on root@{cable.address}" in first, done.stderr
    assert len(scene.backups) == 1
    scene.check_laws()
    cable.repair()
    _converges(cable, scene)


def test_a_reset_connection_is_a_lost_connection(cable: Cable, disks: Disks) -> None:
    scene = cable.scene(disks)
    reset = ("-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset")
    with _transfer(cable, scene) as program:
        for chain in ("INPUT", "OUTPUT"):
            assert cable.inside("iptables", "-A", chain, *reset)
        done = finish(program)
    first = done.stderr.splitlines()[0]
    assert_fails(done, 1, "connection")
    assert f"btrfs receive on root@{cable.address}" in first, done.stderr
    assert len(scene.backups) == 1
    scene.check_laws()
    assert cable.inside("iptables", "-F")
    _converges(cable, scene)
