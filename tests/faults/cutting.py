"""Cut transfers: trees worth cutting, the ways to cut, what must hold after."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.support import ours, processes, trees, variety
from tests.support.places import MIB, STATE, assert_equal, command, show
from tests.support.program import PROGRAM, environment, finish
from tests.support.scene import Scene
from tests.support.sshd import Sshd

#: Between two checkpoints. A cut comes after some of them.
INTERVAL = 2 * MIB
#: Fast enough for a test, slow enough to be cut where it is meant to be.
RATE = ("--rate", "8M")
_BODY, _SEAL = ".body-", ".seal-"


# Trees


class Piece(NamedTuple):
    """A range of a file that another one shares."""

    start: int
    length: int
    target: int


def reflink_range(source: Path, target: Path, piece: Piece) -> None:
    """Let a file share a range of another one (FICLONERANGE of linux/fs.h)."""
    with open(source, "rb") as old, open(target, "r+b") as new:
        words = (old.fileno(), piece.start, piece.length, piece.target)
        fcntl.ioctl(new, 0x4020940D, struct.pack("=qQQQ", *words))


def write_random(path: Path, size: int, seed: object) -> None:
    """Write what no compression makes smaller, in pieces of a MiB."""
    dice = random.Random(f"{path.name} {seed}")
    with open(path, "wb") as file:
        for start in range(0, size, MIB):
            file.write(dice.randbytes(min(MIB, size - start)))


def plant(
    source: Path, *, seed: int = 1, unit: int = MIB, is_varied: bool = False
) -> None:
    """Fill a subvolume so that its stream clones what it brought long before.

    Inodes are sent in the order in which they were made; the stream is of some
    22 units.

    :param unit: what everything else is a multiple of, itself of 4096 bytes.
    :param is_varied: with one of everything, which not all filesystems can have.
    """
    write_random(source / "first", 4 * unit, seed)
    (source / "pieces").touch()
    for number in range(4):  # the last one in front
        piece = Piece(number * unit, unit, (3 - number) * unit)
        reflink_range(source / "first", source / "pieces", piece)
    if is_varied:
        (source / "variety").mkdir()
        variety.fill(source / "variety", seed)
    write_random(source / "second", 5 * unit, seed)
    trees.reflink(os.fsencode(source / "first"), os.fsencode(source / "copy of first"))
    (source / "crowd").mkdir()
    for number in range(100):
        (source / "crowd" / f"{number}").write_bytes(b"%d " % number * number)
    write_random(source / "third", 5 * unit, seed)
    write_random(source / "mosaic", unit, seed)
    for number, name in enumerate(("first", "second", "third")):
        piece = Piece(unit, unit, (number + 1) * unit)
        reflink_range(source / name, source / "mosaic", piece)


def alter(source: Path, *, seed: int = 1, unit: int = MIB) -> None:
    """Change a planted subvolume by some 14 units, with clones of old and new."""
    if (source / "variety").exists():
        variety.change(source / "variety", seed)
    with open(source / "first", "r+b") as file:
        file.seek(unit)
        file.write(random.Random(f"over {seed}").randbytes(2 * unit))
    write_random(source / f"new {seed}", 6 * unit, seed)
    for name in ("third", f"new {seed}"):
        copy = source / f"copy of {name} {seed}"
        trees.reflink(os.fsencode(source / name), os.fsencode(copy))
    os.rename(source / "crowd", source / f"crowd {seed}")
    (source / f"crowd {seed}").rename(source / "crowd")
    for number in range(0, 100, 5):
        (source / "crowd" / f"{number}").rename(source / "crowd" / f"{number} {seed}")
        (source / "crowd" / f"{number}").write_text(f"{number} {seed}")
    trees.punch_hole(os.fsencode(source / "second"), unit, unit)
    write_random(source / f"newer {seed}", 3 * unit, seed)
    (source / f"mix {seed}").touch()
    for number, name in enumerate(("third", f"new {seed}", "first")):
        piece = Piece(unit, unit, number * unit)
        reflink_range(source / name, source / f"mix {seed}", piece)


#: Files of :func:`plant` that share all their data, far apart in the stream.
TWINS = ("first", "copy of first")


def assert_clones_are_kept(source: Path, backup: Path) -> None:
    """Check that what shared data still does."""
    names = [path.name for path in source.iterdir() if path.is_file()]
    copies = [name for name in names if name.startswith("copy of new")]
    pairs = [
        (name.removeprefix("copy of ").rpartition(" ")[0], name) for name in copies
    ]
    if trees.shares_extents(*(source / name for name in TWINS)):
        pairs.append(TWINS)
    for pair in pairs:
        there = trees.shared_bytes(*(backup / name for name in pair))
        here = trees.shared_bytes(*(source / name for name in pair))
        assert here > 0
        # Not to the byte: of compressed data FIEMAP tells the place, but not the size.
        assert there > 0.99 * here, f"{pair}: {there} bytes are shared, not {here}"


# What lies in staging


class Staged(NamedTuple):
    """A body or a seal, by its name alone."""

    transfer: str
    mark: str
    offset: int
    path: Path


def staged(scene: Scene) -> list[Staged]:
    """List all bodies and seals of unfinished transfers, by offset."""
    found = []
    for path in (scene.destination / STATE / "incoming").glob("*/.*-*"):
        mark, offset = path.name[: len(_BODY)], path.name[len(_BODY) :].partition("-")
        if mark in (_BODY, _SEAL):
            found.append(Staged(path.parent.name, mark, int(offset[0]), path))
    return sorted(found, key=lambda one: (one.offset, one.mark))


def bodies(scene: Scene) -> list[Staged]:
    """List the bodies; the seal below a body is finished."""
    return [one for one in staged(scene) if one.mark == _BODY]


def seals(scene: Scene) -> list[Staged]:
    """List the seals; the last one may be unfinished."""
    return [one for one in staged(scene) if one.mark == _SEAL]


def wait_for_checkpoint(
    scene: Scene, offset: int, program: subprocess.Popen[str] | None = None
) -> int:
    """Wait until at least so much of a stream is safe, and give how much is.

    :param program: what works on it, and must not end meanwhile.
    """

    def safe() -> int:
        if program and program.poll() is not None:
            raise AssertionError(f"it ended before its cut: {finish(program)}")
        return max((body.offset for body in bodies(scene)), default=0)

    processes.wait_until(lambda: safe() >= offset, 60, interval_s=0.005)
    return safe()


# The ways to cut


Cut = Callable[[Scene, "subprocess.Popen[str]"], None]


def _of_program(pid: int, *words: str) -> processes.Process:
    """Find a process below the program that has all of these words in its command."""
    found, *_ = [
        process
        for process in processes.descendants(pid)
        if all(any(word in part for part in process.argv) for word in words)
    ]
    return found


def _kill_master(scene: Scene, program: subprocess.Popen[str]) -> None:
    master = [p for p in processes.descendants(program.pid) if "-M" in p.argv]
    assert len(master) == 1, master
    processes.kill(master)


def _kill_client(scene: Scene, program: subprocess.Popen[str]) -> None:
    receiving = [
        process
        for process in processes.descendants(program.pid)
        if process.argv[:1] == ("ssh",) and " receive " in process.argv[-1]
    ]
    assert len(receiving) == 1, receiving
    processes.kill(receiving)


def _kill_connection(scene: Scene, program: subprocess.Popen[str]) -> None:
    assert scene.sshd
    # OpenSSH 10 has several processes for a connection, all of them called so.
    connections = [
        process
        for process in processes.descendants(scene.sshd.pid)
        if "".join(process.argv[:1]).startswith("sshd")
    ]
    assert connections
    processes.kill(connections)


def _kill_receive(scene: Scene, program: subprocess.Popen[str]) -> None:
    processes.kill([scene.wait_for_worker("btrfs", "receive")])


def _kill_shells(scene: Scene, program: subprocess.Popen[str]) -> None:
    shells = [w for w in scene.workers() if {"sh", "receive"} <= set(w.argv)]
    assert shells
    processes.kill(shells)


def _kill_send(scene: Scene, program: subprocess.Popen[str]) -> None:
    processes.kill([scene.wait_for_worker("btrfs", "send")])


def _kill_filter(scene: Scene, program: subprocess.Popen[str]) -> None:
    filters = filters_of(program)
    assert len(filters) == 1, filters
    processes.kill(filters)


def _kill_program(scene: Scene, program: subprocess.Popen[str]) -> None:
    program.kill()


def _end_program(scene: Scene, program: subprocess.Popen[str]) -> None:
    program.terminate()


def filters_of(program: subprocess.Popen[str]) -> list[processes.Process]:
    """List the processes that make checkpoints."""
    return [
        process
        for process in processes.descendants(program.pid)
        if any("btrfs_backup_ng.sendstream.filter" in word for word in process.argv)
    ]


LOCAL_CUTS: dict[str, Cut] = {
    "btrfs receive killed": _kill_receive,
    "the program killed": _kill_program,
    "btrfs send killed": _kill_send,
    "the program told to end": _end_program,
    "the filter killed": _kill_filter,
    "the receiving shells killed": _kill_shells,
}
SSH_CUTS: dict[str, Cut] = {
    "the ssh master killed": _kill_master,
    "the ssh client killed": _kill_client,
    "the server's connections killed": _kill_connection,
    **LOCAL_CUTS,
}


def cut_short(scene: Scene, offset: int, cut: Cut, *more: str) -> int:
    """Begin to back up, cut that after a checkpoint, and give what was safe by then.

    What is in the pipes at an earlier cut may still be received after that.
    """
    there = max((body.offset for body in bodies(scene)), default=0)
    offset = max(offset, there + 1)
    with scene.start(*RATE, *more) as program:
        try:
            safe = wait_for_checkpoint(scene, offset, program)
            cut(scene, program)
            done = finish(program)
        finally:
            program.kill()
    assert done.returncode != 0, f"it was over before the cut: {done.stdout}"
    assert "Traceback" not in done.stderr, done.stderr
    return safe


# What must hold afterwards


class Sent(NamedTuple):
    """One transfer as the program tells of it."""

    name: str
    parent: str | None
    size: int
    resumed: int


def sent(done: subprocess.CompletedProcess[str]) -> list[Sent]:
    """Read from ``--json`` what was sent, in order."""
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    events: list[dict[str, Any]] = json.loads(done.stdout)["events"]
    return [
        Sent(
            event["name"], event["parent"], event["size_bytes"], event["resumed_bytes"]
        )
        for event in events
        if event["event"] == "sent"
    ]


def stream_size(scene: Scene, transfer: Sent) -> int:
    """Return how long the plain stream of a transfer is."""
    return sum(map(len, plain_stream(scene, transfer)))


def plain_stream(scene: Scene, transfer: Sent) -> Iterator[bytes]:
    """Return the stream as btrfs makes it."""
    words = ["btrfs", "send", "-q", "--proto", "2", "--compressed-data"]
    if transfer.parent:
        words += ["-p", str(scene.snapshot_folder / transfer.parent)]
    words.append(str(scene.snapshot_folder / transfer.name))
    with subprocess.Popen(words, stdout=subprocess.PIPE) as send:
        assert send.stdout
        while block := send.stdout.read(MIB):
            yield block
    assert send.returncode == 0


def check_resumed(scene: Scene, safe: int, *more: str) -> Sent:
    """Check that a plain run goes on from what was safe, and that all is well then.

    :param more: options for the program.
    :returns: the transfer that had been cut.
    """
    assert len(scene.staging) == 1, scene.staging
    done = scene.run("--json", *more)
    transfer, *_ = sent(done)
    assert transfer.resumed >= safe > 0, f"{transfer}: {safe} bytes were safe"
    whole = stream_size(scene, transfer)
    # Each checkpoint adds a few commands of some 100 bytes.
    added = transfer.resumed + transfer.size - whole
    assert 0 <= added <= 1000 * (2 + whole // MIB), (transfer, whole)
    check_arrived(scene)
    return transfer


def check_arrived(scene: Scene) -> None:
    """Check that the backups are right in every way, and that nothing else is left."""
    scene.wait_for_quiet()
    scene.check_laws()
    newest = max(scene.snapshots, key=lambda snapshot: snapshot.made)
    (backup,) = [b for b in scene.backups if b.received_uuid == newest.origin]
    if (newest.path / TWINS[0]).exists():
        assert_clones_are_kept(newest.path, backup.path)
    assert scene.staging == []
    check_nothing_is_left(scene)


def check_nothing_is_left(scene: Scene) -> None:
    """Check that no subvolume of this scene is a body, a seal or staged."""
    listed = command("btrfs", "subvolume", "list", scene.destination).splitlines()
    assert listed
    left = [
        line
        for line in listed
        if scene.name in line
        and (_BODY in line or _SEAL in line or "/incoming/" in line)
    ]
    assert left == []


def check_plain_send_goes_on(scene: Scene) -> None:
    """Check that btrfs alone builds upon the newest backup, as by hand."""
    newest = max(scene.snapshots, key=lambda snapshot: snapshot.made)
    (scene.source / "by hand").write_text(newest.uuid)
    by_hand = scene.source / STATE / "by-hand"
    there = scene.destination / "by hand"
    there.mkdir()
    command("btrfs", "subvolume", "snapshot", "-r", scene.source, by_hand)
    pipe = 'btrfs send -q -p "$1" "$2" | btrfs receive -q "$3"'
    words = ("bash", "-o", "pipefail", "-c", pipe, "bash")
    command(*words, newest.path, by_hand, there)
    assert_equal(by_hand, there / "by-hand")
    assert show(there / "by-hand").received_uuid == show(by_hand).uuid
    for path in (there / "by-hand", by_hand):
        command("btrfs", "subvolume", "delete", path)
    there.rmdir()


# Two machines, as far as the network knows


class Line(NamedTuple):
    """A network of its own, tied to ours by a cable, with a server at our end.

    :ivar space: name of the network namespace.
    :ivar plug: the interface at the server's end.
    """

    space: str
    plug: str
    address: str
    server: Sshd

    def connect(self, scene: Scene) -> None:
        """Let a scene have its destination at the other end."""
        scene.place = f"ssh://root@{self.address}:{self.server.port}{scene.destination}"
        scene.sshd = self.server
        alive = ("ServerAliveInterval=1", "ServerAliveCountMax=2", "ConnectTimeout=5")
        for option in (*alive, *self.server.ssh_options):
            scene.options += ("--ssh-opt", option)

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

    def arrived(self) -> int:
        """Count the bytes that came to the server's end so far, all headers too."""
        counter = Path(f"/sys/class/net/{self.plug}/statistics/rx_bytes")
        return int(counter.read_text())

    def pull(self) -> None:
        """Pull the cable."""
        command("ip", "link", "set", self.plug, "down")

    def repair(self) -> None:
        """Plug it in again, and wait until the other end is seen from there."""
        command("ip", "link", "set", self.plug, "up")
        probe = f"exec 3<>/dev/tcp/{self.address}/{self.server.port}"
        processes.wait_until(lambda: self.inside("timeout", "1", "bash", "-c", probe))


@contextlib.contextmanager
def laid_line(new_sshd: Callable[[Sequence[str]], Sshd]) -> Iterator[Line]:
    """Lay a cable and run a server at its end.

    :param new_sshd: runs one with these lines of configuration.
    """
    space, number = ours.mark(), os.getpid()
    plug, far = f"bc{number}a", f"bc{number}b"
    net = f"198.19.{number // 64 % 256}"  # RFC 2544: for tests
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
        server = new_sshd([f"ListenAddress {here}:{port}"])
        known = server.known_hosts.read_text().splitlines()[0].partition(" ")[2]
        server.known_hosts.write_text(f"[{here}]:{port} {known}\n")
        server.port, local = port, server.port
        try:
            yield Line(space, plug, here, server)
        finally:
            server.port = local


def kill_orphans(scene: Scene) -> None:
    """Let go on, and end, whatever still works here: a test has stopped it."""
    left = scene.workers()
    processes.kill(left, signal.SIGKILL)
    processes.kill(left, signal.SIGCONT)
