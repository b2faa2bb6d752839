"""Disks are full, read-only, not there, or other ones than yesterday."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import MakesFilesystems
from tests.faults.conftest import Disks
from tests.support import ours, places
from tests.support.command_line import assert_fails
from tests.support.filesystems import Filesystem
from tests.support.places import MIB, command, ssh_place, ssh_words
from tests.support.program import ASKING, finish, run_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs


class Socket:
    """A directory of the system disk into which backup disks are plugged."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def plug(self, disk: Filesystem) -> None:
        """Mount a disk here instead of the one before."""
        self.unplug()
        command("mount", disk.device, self.path)

    def unplug(self) -> None:
        """Leave an empty directory."""
        if self.path.is_mount():
            command("umount", self.path)


@pytest.fixture
def socket() -> Iterator[Socket]:
    """Return a place for a removable disk."""
    # Not below /tmp, which need not be on the system disk.
    path = Path(tempfile.mkdtemp(prefix=f"{ours.mark()}-", dir="/var/tmp"))
    plugged = Socket(path)
    yield plugged
    plugged.unplug()
    path.rmdir()


def _plugged_scene(source_disk: Filesystem, socket: Socket) -> Scene:
    scene = Scene(source_disk, source_disk)
    scene.destination.rmdir()
    scene.destination, scene.place = socket.path, str(socket.path)
    return scene


@pytest.mark.parametrize("kind", ["local", "ssh"])
def test_a_destination_that_fills_up_in_a_transfer(
    disks: Disks,
    btrfs: MakesFilesystems,
    request: pytest.FixtureRequest,
    kind: str,
) -> None:
    disk = btrfs(size="110M", mkfs_options=("--mixed",))
    sshd = request.getfixturevalue("sshd") if kind == "ssh" else None
    scene = Scene(disks[0], disk, sshd)
    scene.back_up("--force")
    scene.write(24 * MIB)
    disk.fill_up(leave_bytes=8 * MIB)
    done = scene.run("--no-check-space", "-N1", "-n1")
    assert_fails(done, 1, "btrfs receive", "No space left on device", "is full")
    first, second, *_ = done.stderr.splitlines()
    assert first == f"btrfs-backup-ng: {scene.place}: the filesystem is full"
    assert second.startswith("  btrfs receive") and "SIGPIPE" not in done.stderr
    assert len(scene.backups) == 1
    assert len(scene.snapshots) == 2, "the base, and the one to send again"
    scene.check_laws()
    (disk.path / "filler").unlink()
    disk.sync()
    scene.check_converges("--no-check-space")


def test_a_destination_without_space_is_refused_before_anything_is_changed(
    disks: Disks, btrfs: MakesFilesystems
) -> None:
    disk = btrfs(size="256M")
    scene = Scene(disks[0], disk)
    scene.write(200 * MIB)
    assert_fails(scene.run(), 4, "free", "needs about", "Nothing was sent")
    assert scene.snapshots == scene.backups == []


@pytest.mark.parametrize("leave", [0, 256 * 1024])
def test_a_full_source_is_told_and_nothing_is_lost(
    disks: Disks, btrfs: MakesFilesystems, leave: int
) -> None:
    disk = btrfs(size="64M", mkfs_options=("--mixed",))
    scene = Scene(disk, disks[1])
    scene.back_up()
    scene.write()
    _fill(disk, leave_bytes=leave)
    done = scene.run("-N1", "-n1")
    scene.check_laws()
    if done.returncode:
        # 10: what existed was there already, or was sent.
        assert_fails(done, 1 if done.returncode == 1 else 10, "No space left on device")
    else:  # btrfs keeps a reserve, which may have sufficed
        backups = {backup.received_uuid for backup in scene.backups}
        assert backups >= {snapshot.uuid for snapshot in scene.snapshots}
    (disk.path / "filler").unlink()
    for path in disk.path.glob("[0-9]*"):
        path.unlink()
    disk.sync()
    scene.check_converges()


def _fill(disk: Filesystem, *, leave_bytes: int) -> None:
    disk.fill_up(leave_bytes=leave_bytes)
    for number in range(2000):  # what is left for metadata, too
        try:
            (disk.path / f"{number}").write_bytes(os.urandom(2000))
        except OSError:
            break
    with contextlib.suppress(OSError):
        disk.sync()


@pytest.mark.parametrize("kind", ["local", "ssh"])
def test_a_full_source_sends_what_it_has_before_its_holds_can_be_written(
    disks: Disks, btrfs: MakesFilesystems, sshd: Sshd, kind: str
) -> None:
    disk = btrfs(size="64M", mkfs_options=("--mixed",))
    scene = Scene(disk, disks[1])
    scene.back_up()
    for _ in range(3):
        scene.write(4 * MIB)
        assert scene.run("-T").returncode == 0
    source = (
        ssh_place(sshd, scene.source, user="root") if kind == "ssh" else scene.source
    )
    ssh = ssh_words(sshd) if kind == "ssh" else []
    _fill(disk, leave_bytes=0)
    with pytest.raises(OSError, match="No space left"):
        (scene.holds.parent / "probe").write_bytes(bytes(3000))
    done = run_program(*scene.options, *ssh, "-S", "-N1", source, scene.place)
    assert done.returncode == 0, done.stderr
    assert len(scene.backups) == 4 and len(scene.snapshots) == 1
    assert scene.snapshot_names[0] in scene.holds.read_text()
    scene.check_laws()


@pytest.mark.parametrize("dry", [False, True])
def test_a_snapshot_that_cannot_be_made_does_not_keep_others_from_their_way(
    scene: Scene, tmp_path: Path, dry: bool
) -> None:
    """As on a full source, which thins itself out by this."""
    scene.back_up()
    scene.back_up()
    scene.write()
    assert scene.run("-T").returncode == 0
    *_, newest = names = scene.snapshot_names
    # Not publish, which makes its snapshot of another path.
    directory = places.wrapper(
        tmp_path / "bin",
        """case "$*" in "subvolume snapshot"*"/fd/5 ./x-"*)
            echo "No space left on device" >&2
            exit 1 ;;
        esac""",
    )
    path = f"{directory}:{os.environ['PATH']}"
    words = ["-N1", "-n1", "--force", *(["--dry-run"] if dry else [])]
    done = scene.run(*words, env={**ASKING, "PATH": path})
    assert_fails(done, 10, "No space left on device")
    assert "made snapshot" not in done.stdout and "would make" not in done.stdout
    assert newest in done.stdout
    assert scene.snapshot_names == (names if dry else [newest])
    assert scene.run("-N1").returncode == 0
    scene.check_laws()


_NO_ROOM = "No space left on device"


@pytest.mark.parametrize("kind", ["local", "ssh"])
@pytest.mark.parametrize(
    ("why", "there", "left"),
    [(_NO_ROOM, (), 1), ("No luck", (), 4), (_NO_ROOM, ("-n1",), 4)],
    ids=["full", "not full", "full, and without backups"],
)
def test_a_full_source_thins_what_its_destination_has_by_a_new_policy(
    disks: Disks,
    sshd: Sshd,
    tmp_path: Path,
    kind: str,
    why: str,
    there: tuple[str, ...],
    left: int,
) -> None:
    """The policy is new, and would delete more than half: it waits otherwise."""
    scene = Scene(*disks, sshd if kind == "ssh" else None)
    for _ in range(4):
        scene.write()
        scene.back_up(*there)
    wrapper = f"""case "$*" in "subvolume snapshot"*"/fd/5 ./x-"*)
        echo "{why}" >&2
        exit 1 ;;
    esac"""
    path = f"{places.wrapper(tmp_path / 'bin', wrapper)}:{os.environ['PATH']}"
    done = scene.run("-N1", *there, env={**ASKING, "PATH": path})
    assert_fails(done, 10, why)
    assert len(scene.snapshots) == left
    assert ("nothing is deleted there" in done.stderr) == (left > 1)
    assert ("is new for the snapshots" in done.stderr) == (left > 1)
    assert len(scene.backups) == (1 if there else 4)
    scene.check_laws()
    scene.back_up("-N1", *there)
    assert len(scene.snapshots) == (1 if left == 1 else 5)


def test_a_destination_remounted_read_only_is_refused(
    disks: Disks, btrfs: MakesFilesystems
) -> None:
    disk = btrfs(size="512M")
    scene = Scene(disks[0], disk)
    scene.back_up()
    scene.write()
    disk.remount("ro")
    # It has been there before, so it fails alone.
    assert_fails(scene.run("-N1", "-n1"), 10, scene.place, "read-only")
    assert len(scene.snapshots) == 2, "the source did not go on, or its base is gone"
    scene.check_laws()
    disk.remount("rw")
    scene.check_converges()


def test_a_source_remounted_read_only_is_refused(
    disks: Disks, btrfs: MakesFilesystems
) -> None:
    disk = btrfs(size="512M")
    scene = Scene(disk, disks[1])
    scene.back_up()
    disk.remount("ro")
    assert_fails(scene.run(), 4, str(scene.source), "is mounted read-only", "-S")
    scene.check_laws()
    disk.remount("rw")
    scene.check_converges()


@pytest.mark.parametrize("kind", ["local", "ssh"])
def test_a_source_that_turned_read_only_saves_its_snapshots(
    disks: Disks, btrfs: MakesFilesystems, sshd: Sshd, kind: str
) -> None:
    disk = btrfs(size="512M")
    scene = Scene(disk, disks[1])
    scene.back_up()
    for _ in range(2):
        scene.write()
        assert scene.run("-T").returncode == 0
    holds = scene.holds.read_bytes()
    source = (
        ssh_place(sshd, scene.source, user="root") if kind == "ssh" else scene.source
    )
    ssh = ssh_words(sshd) if kind == "ssh" else []
    words = [*scene.options, *ssh, "-S", "-N1", "-n9", source, scene.place]
    disk.remount("ro")
    promised, done = run_program("--dry-run", *words), run_program(*words)
    for run in (promised, done):
        assert run.returncode == 0, run.stderr
        assert "is mounted read-only" in run.stderr and "deleted" not in run.stdout
    assert promised.stdout.count("would send") == done.stdout.count(": sent ") == 2
    assert len(scene.snapshots) == len(scene.backups) == 3
    assert scene.holds.read_bytes() == holds
    disk.remount("rw")
    scene.check_converges()


def test_a_read_only_source_without_snapshots_has_nothing_to_save(
    disks: Disks, btrfs: MakesFilesystems
) -> None:
    disk = btrfs(size="512M")
    scene = Scene(disk, disks[1])
    disk.remount("ro")
    for dry in ([], ["--dry-run"]):
        said = "so there is no snapshot to send"
        assert_fails(scene.run("-S", *dry), 4, str(scene.source), said)


@pytest.mark.parametrize("kind", ["local", "ssh"])
def test_what_is_not_writable_though_its_mount_is_gets_its_own_reason(
    scene: Scene, sshd: Sshd, kind: str
) -> None:
    source = (
        ssh_place(sshd, scene.source, user="root") if kind == "ssh" else scene.source
    )
    ssh = ssh_words(sshd) if kind == "ssh" else []
    command("btrfs", "property", "set", "-ts", scene.source, "ro", "true")
    done = run_program(*scene.options, *ssh, source, scene.place)
    mend = f"btrfs property set -ts {scene.source} ro false"
    assert_fails(done, 4, "is a read-only subvolume", mend)
    command(*mend.split())
    command("chattr", "+i", scene.source)
    try:
        done = run_program(*scene.options, *ssh, source, scene.place)
    finally:
        command("chattr", "-i", scene.source)
    assert_fails(done, 4, "is marked immutable", f"lsattr -d {scene.source}")


def test_a_destination_that_is_not_mounted_gets_nothing(
    disks: Disks, socket: Socket
) -> None:
    scene = _plugged_scene(disks[0], socket)
    assert_fails(scene.run(), 4, scene.place, "is the backup disk mounted?")
    assert os.listdir(socket.path) == []
    assert scene.snapshots == []


def test_a_destination_that_is_unplugged_later_keeps_its_base(
    disks: Disks, btrfs: MakesFilesystems, socket: Socket
) -> None:
    disk = btrfs(size="512M")
    scene = _plugged_scene(disks[0], socket)
    elsewhere = disks[1].path / scene.name
    elsewhere.mkdir()
    socket.plug(disk)
    scene.back_up(elsewhere)
    socket.unplug()
    for _ in range(3):
        scene.write()
        done = scene.run(elsewhere, "-N1")
        assert_fails(done, 10, "is the backup disk mounted?")
        assert os.listdir(socket.path) == []
    assert len(scene.snapshots) == 2, "its base, and the newest"
    socket.plug(disk)
    scene.check_laws()
    assert "in full" not in scene.check_converges("-N1").stdout


def test_two_disks_that_take_turns_at_one_path_keep_both_bases(
    disks: Disks, btrfs: MakesFilesystems, socket: Socket
) -> None:
    scene = _plugged_scene(disks[0], socket)
    both = btrfs(size="512M"), btrfs(size="512M")
    for turn in range(4):
        for disk in both:
            socket.plug(disk)
            scene.write()
            done = scene.back_up("-N1", "-n2")
            scene.check_laws()
            assert ("in full" in done.stdout) == (turn == 0), done.stdout
            count = len(scene.snapshots)
            assert count == (1 if turn == 0 and disk is both[0] else 2)


def test_a_used_up_quota_is_told_and_nothing_is_lost(
    disks: Disks, btrfs: MakesFilesystems
) -> None:
    disk = btrfs(size="512M")
    scene = Scene(disks[0], disk)
    scene.back_up()
    command("btrfs", "quota", "enable", disk.path)
    command("btrfs", "quota", "rescan", "-w", disk.path)
    scene.write(12 * MIB)
    with scene.start("--rate", "4M", "-N1", "-n1") as program:
        scene.wait_for_data(1000)
        (staged,) = (scene.destination / ".btrfs-backup-ng" / "incoming").glob("*/*")
        command("btrfs", "qgroup", "limit", "2M", staged)
        done = finish(program)
    assert_fails(done, 1, "btrfs receive", "Disk quota exceeded", "quota")
    assert len(scene.backups) == 1
    scene.check_laws()
    command("btrfs", "quota", "disable", disk.path)
    scene.check_converges()


def test_a_subvolume_at_the_source_that_cannot_be_read_fails_and_is_told(
    disks: Disks, btrfs: MakesFilesystems
) -> None:
    disk = btrfs(size="256M", mkfs_options=("--data", "single"))
    scene = Scene(disk, disks[1])
    scene.back_up()
    scene.write(4 * MIB, "damaged")
    disk.sync()
    pattern = (scene.source / "damaged").read_bytes()[: 64 * 1024]
    image = disk.image.read_bytes()
    place = image.index(pattern)
    disk.unmount()
    with open(disk.image, "r+b") as file:
        file.seek(place + 8192)
        file.write(b"damage" * 2000)
    disk.mount()
    done = scene.run("-N1", "-n1")
    assert_fails(done, 1, "btrfs send", "Input/output error")
    first, second, *_ = done.stderr.splitlines()
    assert f"cannot be sent: {scene.source}: a disk cannot be read" in first
    assert "btrfs send" in second
    assert len(scene.backups) == 1
    scene.check_base_is_kept()
    (scene.source / "damaged").unlink()
    for snapshot in scene.snapshots[1:]:
        command("btrfs", "subvolume", "delete", snapshot.path)
    scene.check_converges()
