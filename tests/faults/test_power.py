"""The power is cut: what was reported is on the disk, what is written is not torn."""

from __future__ import annotations

import json
import subprocess
import threading
import time

import pytest

from tests.faults.conftest import Disks
from tests.support import variety
from tests.support.filesystems import PowerCut
from tests.support.places import assert_equal, list_subvolumes, show
from tests.support.program import PROGRAM, environment
from tests.support.scene import Scene
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs


def _after_cut(scene: Scene, power: PowerCut) -> list[str]:
    """Return the names that the destination has after a cut, having compared them."""
    cut = power.cut()
    directory = cut.path / scene.destination.relative_to(power.path)
    sources = {snapshot.origin: snapshot.path for snapshot in scene.snapshots}
    backups = list_subvolumes(directory)
    for backup in backups:
        assert backup.read_only
        assert_equal(sources[backup.received_uuid], backup.path)
    staging = directory / ".btrfs-backup-ng" / "incoming"
    assert list(staging.glob("*/*")) == [], "what was cleared away came back"
    return [backup.path.name for backup in backups]


@pytest.mark.parametrize("kind", ["local", "ssh"])
def test_a_power_cut_right_after_exit_0_loses_nothing(
    disks: Disks, power_cut: PowerCut, sshd: Sshd, kind: str
) -> None:
    scene = Scene(disks[0], power_cut.filesystem, sshd if kind == "ssh" else None)
    variety.fill(scene.source, seed=1)
    scene.back_up()
    assert len(_after_cut(scene, power_cut)) == 1
    variety.change(scene.source, seed=1)
    scene.back_up()
    assert len(_after_cut(scene, power_cut)) == 2


def test_what_was_pruned_does_not_come_back_after_a_power_cut(
    disks: Disks, power_cut: PowerCut
) -> None:
    scene = Scene(disks[0], power_cut.filesystem)
    for _ in range(3):
        scene.write()
        scene.back_up()
    scene.back_up("-S", "-n2")
    kept = [backup.path.name for backup in scene.backups]
    assert len(kept) == 2
    assert _after_cut(scene, power_cut) == kept


def test_after_a_power_cut_at_the_source_it_has_what_the_destination_builds_on(
    disks: Disks, power_cut: PowerCut
) -> None:
    scene = Scene(power_cut.filesystem, disks[1])
    scene.back_up()
    scene.write()
    scene.back_up("-N1")
    cut = power_cut.cut()
    folder = scene.snapshot_folder.relative_to(power_cut.path)
    left = {snapshot.uuid for snapshot in list_subvolumes(cut.path / folder)}
    assert left & {backup.received_uuid for backup in scene.backups}
    holds = json.loads((cut.path / scene.holds.relative_to(power_cut.path)).read_text())
    (destination,) = holds["destinations"]
    assert {hold["origin"] for hold in destination["holds"]} <= left


def test_holds_are_old_or_new_after_a_power_cut_at_any_moment(
    disks: Disks, power_cut: PowerCut
) -> None:
    scene = Scene(power_cut.filesystem, disks[1])
    scene.back_up()
    states = {scene.holds.read_bytes()}
    slow = "inject=openat,write,fsync,renameat:delay_exit=150000"
    traced = [
        *("strace", "-f", "-o", "/dev/null", "-e", "trace=openat,write,fsync,renameat"),
        *("-P", f"{scene.holds}.new", "-P", str(scene.holds), "-e", slow),
    ]
    words = [*traced, *PROGRAM, *scene.options, str(scene.source), scene.place]
    cuts: list[bytes] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.01):  # each content stays for several delays
            states.add(scene.holds.read_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        while len(cuts) <= 5:  # a cut takes long on a busy machine
            scene.write()
            with subprocess.Popen(words, env=environment()) as program:
                while program.poll() is None:
                    power_cut.filesystem.sync()  # a commit may come at any moment
                    cut = power_cut.cut()
                    holds = cut.path / scene.holds.relative_to(power_cut.path)
                    cuts.append(holds.read_bytes())
                    cut.unmount()
                    time.sleep(0.05)
            assert program.returncode == 0
    finally:
        over.set()
        watcher.join()
    states.add(scene.holds.read_bytes())
    assert len(states) > 1, "nothing was written"
    assert set(cuts) <= states
    for content in (*cuts, *states):
        assert json.loads(content)["destinations"], "torn, also without a cut"


def test_a_run_after_a_power_cut_in_a_transfer_completes(
    disks: Disks, power_cut: PowerCut
) -> None:
    scene = Scene(disks[0], power_cut.filesystem)
    scene.back_up()
    scene.write(6 << 20)
    with scene.start("--rate", "4M") as program:
        scene.wait_for_data(100)
        power_cut.filesystem.sync()
        cut = power_cut.cut()
        program.kill()
    scene.wait_for_quiet()
    scene.destination = cut.path / scene.destination.relative_to(power_cut.path)
    scene.place = str(scene.destination)
    assert scene.staging, "the cut shows no transfer"
    assert [b.received_uuid for b in scene.backups] == [scene.snapshots[0].uuid]
    scene.check_converges()
    assert "since" in scene.back_up().stdout
    assert show(scene.backups[-1].path).read_only
