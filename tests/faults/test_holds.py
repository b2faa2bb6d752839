"""What a destination still needs is kept, whatever becomes of the records."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.conftest import MakesFilesystems
from tests.faults.conftest import Disks
from tests.support.command_line import assert_fails, must
from tests.support.places import command, mounted, ssh_place, ssh_words
from tests.support.program import run_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd

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


@pytest.mark.parametrize("kind", ["local", "ssh"])
def test_a_clone_of_a_disk_beside_it_has_holds_of_its_own(
    disks: Disks, btrfs: MakesFilesystems, tmp_path: Path, sshd: Sshd, kind: str
) -> None:
    """The kernel gives the second one another id with each mount (Linux 6.7)."""
    if not Path("/sys/fs/btrfs/features/temp_fsid").exists():
        return  # then it mounts no second one, so there is nothing to mix up
    disk = btrfs(size="300M")
    scene = Scene(disks[0], disk, sshd if kind == "ssh" else None, is_small=True)
    scene.back_up()
    disk.sync()
    image, point = tmp_path / "clone", tmp_path / "mounted"
    command("cp", "--sparse=always", disk.image, image)
    point.mkdir()
    clone = point / scene.destination.relative_to(disk.path)
    place = ssh_place(sshd, clone, user="root") if kind == "ssh" else str(clone)
    for number in range(3):
        command("mount", "-o", "loop", image, point)
        try:
            scene.add(f"new {number}")
            must(run_program(*scene.options, "-N1", scene.source, place))
            assert len(scene.snapshots) == 2  # the base of each
        finally:
            command("umount", point)
        if number == 0:
            scene.add("other")
            scene.back_up("-N1")
            assert len(scene.snapshots) == 2
    assert "in full" not in scene.check_converges("-N1").stdout
    held = json.loads(scene.holds.read_text())["destinations"]
    assert sorted(one["location"] for one in held) == sorted([scene.place, place])


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


def test_a_known_destination_away_fails_alone(pair: Pair) -> None:
    """The snapshot is made, and the source is thinned, as if it were there."""
    scene, away = pair.scene, str(pair.second)
    scene.place = away
    assert_fails(scene.run(f"{away}-never"), 10, f"{away}-never does not exist")
    (base,) = scene.snapshots
    pair.hide()
    for _ in range(2):
        assert_fails(scene.run("-N", "1"), 10, f"{away} does not exist")
    assert len(scene.snapshots) == 2 and base in scene.snapshots
    before = scene.fingerprint()
    done = scene.run("-N", "1", "--dry-run")
    assert_fails(done, 10, f"{away} does not exist")
    assert "would make" in done.stdout and scene.fingerprint() == before
    pair.bring_back()
    done = scene.back_up("-N", "1")
    assert f"since {base.path.name}" in done.stdout and len(scene.snapshots) == 1


def test_a_place_that_was_never_there_gets_nothing_made(any_scene: Scene) -> None:
    any_scene.back_up()
    before = any_scene.fingerprint()
    any_scene.place += "-never"
    assert_fails(any_scene.run("-N", "1"), 4, "-never does not exist")
    assert any_scene.fingerprint() == before


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
        scene.back_up("-N1")
    damage(scene.holds)
    scene.write()
    done = scene.back_up("-N1", "-n5")
    assert "holds.json cannot be read" in done.stderr
    assert "Nothing is deleted" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(scene.snapshots) == 2, "deleted, without knowing what is needed"
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


def _held(holds: Path) -> list[tuple[str, str]]:
    document = json.loads(holds.read_text())
    return [
        (entry["location"], hold["name"])
        for entry in document["destinations"]
        for hold in entry["holds"]
    ]


@pytest.mark.parametrize("is_absolute", [False, True])
def test_a_job_with_another_folder_does_not_drop_the_base_of_the_first(
    any_scene: Scene, is_absolute: bool
) -> None:
    scene = any_scene
    folder = scene.source.parent / "weekly" if is_absolute else scene.source / "weekly"
    folder.mkdir()
    weekly = ("-f", folder if is_absolute else "weekly", "-p", "w-")
    scene.back_up()
    (first,) = scene.snapshot_names
    scene.back_up(*weekly)
    for _ in range(2):  # while the destination is away
        must(run_program("-T", "-p", "x-", "-N", "1", scene.source))
    assert first in scene.snapshot_names
    done = scene.back_up("-N", "1")
    assert f"since {first}" in done.stdout and "in full" not in done.stdout
    assert len(scene.snapshot_names) == 1
    scene.back_up(*weekly)
    assert len(_held(scene.holds)) == 2  # each has replaced its own


def test_a_destination_under_another_path_or_behind_ssh_is_the_same_one(
    disks: Disks, sshd: Sshd
) -> None:
    scene = Scene(*disks)
    other = scene.source.parent / "elsewhere"
    other.mkdir()
    with mounted(scene.destination_disk, other):
        scene.back_up("-N", "1")
        (first,) = scene.snapshot_names
        inner = scene.destination.relative_to(scene.destination_disk.path)
        by_ssh = ssh_place(sshd, scene.destination, user="root")
        for place in (str(other / inner), by_ssh):
            scene.place = place
            done = scene.back_up("-N", "1", *ssh_words(sshd))
            assert f"since {first}" in done.stdout
            (first,) = scene.snapshot_names
            assert _held(scene.holds) == [(place, first)]
    # Another directory of the same disk is another destination.
    scene.place = str(scene.other_destination("second"))
    scene.back_up("-N", "1")
    assert len(_held(scene.holds)) == 2


def test_a_record_without_folders_is_understood(scene: Scene) -> None:
    scene.back_up()
    document = json.loads(scene.holds.read_text())
    (entry,) = document["destinations"]
    assert entry.pop("inside")
    scene.holds.write_text(json.dumps(document))
    weekly = scene.source / "weekly"
    weekly.mkdir()
    scene.back_up("-f", "weekly", "-p", "w-")
    assert len(_held(scene.holds)) == 2
    scene.back_up("-N", "1")
    assert len(_held(scene.holds)) == 2
    assert len(scene.snapshots) == 1


def test_an_absolute_folder_is_listed_for_its_source_alone(scene: Scene) -> None:
    folder = scene.source.parent / "folder"
    folder.mkdir()
    scene.back_up("-f", folder)
    places = (scene.source, scene.destination, scene.other_destination("other"))
    listed = run_program("list", "--json", "-f", folder, *places)
    (name,) = os.listdir(folder)
    named = [place["place"] for place in json.loads(must(listed).stdout)["places"]]
    assert named == [str(place) for place in places]
    # One is the snapshot, one the backup.
    assert listed.stdout.count(f'"name": "{name}"') == 2, listed.stdout


def test_a_dry_run_with_damaged_holds_changes_nothing(scene: Scene) -> None:
    scene.back_up()
    _corrupt(scene.holds)
    before = scene.holds.read_bytes()
    assert scene.run("--dry-run", "-N1").returncode == 0
    assert scene.holds.read_bytes() == before
    assert len(scene.snapshots) == 1
