"""What a destination still needs is kept, whatever becomes of the records."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.faults.conftest import Disks
from tests.support.command_line import assert_fails
from tests.support.program import run_program
from tests.support.scene import Scene

pytestmark = pytest.mark.btrfs


class Pair:
    """A source with two destinations, of which the second may be away."""

    def __init__(self, disks: Disks) -> None:
        self.scene = Scene(*disks)
        self.second = self.scene.destination.with_name(self.scene.name + "-second")
        self.second.mkdir()
        self._hidden = self.second.with_name(self.second.name + "-hidden")

    def hide(self) -> None:
        """Take the second destination away."""
        self.second.rename(self._hidden)

    def bring_back(self) -> None:
        """Bring it back."""
        self._hidden.rename(self.second)


@pytest.fixture
def pair(disks: Disks) -> Pair:
    """Return a source with two destinations."""
    return Pair(disks)


def test_a_destination_away_for_30_runs_costs_one_snapshot(pair: Pair) -> None:
    scene, away = pair.scene, str(pair.second)
    scene.back_up(away, "-N2")
    (base,) = scene.snapshots
    pair.hide()
    for number in range(30):
        (scene.source / "data").write_text(f"{number}")
        assert_fails(scene.run(away, "-N2"), 10, away)
    left = scene.snapshots
    assert len(left) == 3
    assert base in left, "the base of the absent destination is gone"
    pair.bring_back()
    done = scene.back_up(away, "-N2")
    to_away = [line for line in done.stdout.splitlines() if f"-> {away}: " in line]
    assert to_away and all("since" in line for line in to_away), done.stdout
    assert f"since {base.path.name}" in to_away[0]
    assert len(scene.snapshots) == 2
    scene.check_laws()
    scene.destination = pair.second
    scene.check_laws()


def test_a_destination_away_from_the_command_line_keeps_its_base(pair: Pair) -> None:
    scene = pair.scene
    scene.back_up(pair.second, "-N1")
    (base,) = scene.snapshots
    for _ in range(3):
        scene.write()
        scene.back_up("-N1")
    assert base in scene.snapshots
    assert len(scene.snapshots) == 2
    assert "in full" not in scene.back_up(pair.second, "-N1").stdout
    assert len(scene.snapshots) == 1


def _corrupt(holds: Path) -> None:
    holds.write_bytes(b'{"version": 1, "destinations": [{"loc')


def _empty(holds: Path) -> None:
    holds.write_bytes(b"")


def _newer(holds: Path) -> None:
    document = json.loads(holds.read_bytes())
    holds.write_text(json.dumps({**document, "version": 2}))


def _unreadable(holds: Path) -> None:
    holds.unlink()
    holds.mkdir()
    (holds / "what").write_text("is this")


@pytest.mark.parametrize("damage", [_corrupt, _empty, _newer, _unreadable])
def test_damaged_holds_are_moved_aside_and_nothing_is_deleted_in_that_run(
    scene: Scene, damage
) -> None:
    for _ in range(2):
        scene.write()
        scene.back_up()
    damage(scene.holds)
    scene.write()
    done = scene.back_up("-N1", "-n5")
    assert "holds.json cannot be read" in done.stderr
    assert "Nothing is deleted" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(scene.snapshots) == 3, "deleted, without knowing what is needed"
    assert len(list(scene.holds.parent.glob("holds.json.[uv]*-*"))) == 1
    scene.check_laws()
    done = scene.check_converges("-N1")
    assert done.stderr == ""
    assert len(scene.snapshots) == 1


def test_damaged_holds_of_a_remote_source_are_moved_aside(ssh_scene: Scene) -> None:
    scene = ssh_scene
    remote_source = scene.place.replace(str(scene.destination), str(scene.source))
    pull = [*scene.options, remote_source, str(scene.destination)]
    done = run_program(*pull)
    assert done.returncode == 0, done.stderr
    _unreadable(scene.holds)
    done = run_program(*pull, "-N1")
    assert done.returncode == 0, done.stderr
    assert "holds.json cannot be read" in done.stderr
    assert len(scene.snapshots) == 2, "deleted, without knowing what is needed"
    scene.check_laws()
    done = run_program(*pull, "-N1")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(scene.snapshots) == 1


def test_deleted_holds_are_made_anew_from_what_is_there(pair: Pair) -> None:
    scene = pair.scene
    scene.back_up(pair.second)
    (base,) = scene.snapshots
    scene.write()
    scene.back_up()
    scene.holds.unlink()
    pair.hide()
    scene.write()
    assert_fails(scene.run(pair.second, "-N1"), 10, str(pair.second))
    assert base in scene.snapshots, "an absent destination may need it"
    scene.check_laws()
    pair.bring_back()
    done = scene.back_up(pair.second, "-N1")
    assert "in full" not in done.stdout
    assert len(scene.snapshots) == 1


def test_a_lost_bookkeeping_directory_of_the_destination_costs_nothing(
    scene: Scene,
) -> None:
    scene.back_up("-N1")
    shutil.rmtree(scene.destination / ".btrfs-backup-ng")
    scene.write()
    done = scene.check_converges("-N1")
    assert "in full" not in done.stdout


def test_forgotten_holds_let_the_snapshots_go(pair: Pair) -> None:
    scene, away = pair.scene, str(pair.second)
    scene.back_up(away)
    pair.hide()
    for _ in range(2):
        scene.write()
        scene.back_up("-N1")
    assert len(scene.snapshots) == 2
    done = scene.run("--remove-locks", away)
    assert done.returncode == 0, done.stderr
    scene.back_up("-N1")
    assert len(scene.snapshots) == 1


def test_a_dry_run_with_damaged_holds_changes_nothing(scene: Scene) -> None:
    scene.back_up()
    _corrupt(scene.holds)
    before = scene.holds.read_bytes()
    assert scene.run("--dry-run", "-N1").returncode == 0
    assert scene.holds.read_bytes() == before
    assert len(scene.snapshots) == 1
