"""Clocks jump: nothing new looks old, and nothing needed looks superseded."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from tests.faults.scene import Scene, command

pytestmark = pytest.mark.btrfs

#: Zones, as tzset(3) reads them, more than a day apart: 25 hours.
AHEAD = {"TZ": "AAA-14"}
BEHIND = {"TZ": "BBB+11"}


def _name(moment: datetime) -> str:
    return f"s-{moment.astimezone():%Y%m%d-%H%M%S}"


@pytest.mark.parametrize("ahead", [timedelta(days=1), timedelta(days=3652)])
def test_a_name_from_the_future_does_not_make_the_newest_look_old(
    scene: Scene, ahead: timedelta
) -> None:
    scene.back_up()
    (first,) = scene.snapshots
    future = scene.snapshot_folder / _name(datetime.now(timezone.utc) + ahead)
    first.path.rename(future)  # as if the clock had been wrong when it was made
    for _ in range(3):
        scene.write()
        done = scene.check_converges("-N1", "-n1")
        assert "in full" not in done.stdout
    left = {snapshot.path.name for snapshot in scene.snapshots}
    assert future.name in left, "what is dated in the future is kept"
    newest = max(scene.backups, key=lambda backup: backup.made)
    content = (scene.source / "data").read_bytes()
    assert (newest.path / "data").read_bytes() == content


def test_backups_made_under_a_clock_a_day_ahead_do_not_replace_later_ones(
    scene: Scene,
) -> None:
    for _ in range(2):
        scene.write()
        done = scene.run("-N1", "-n1", env=AHEAD)
        assert done.returncode == 0, done.stderr
    for _ in range(3):
        scene.write()
        done = scene.run("-N1", "-n1", env=BEHIND)
        assert done.returncode == 0, done.stderr
        assert "in full" not in done.stdout
        content = (scene.source / "data").read_bytes()
        for places in (scene.snapshots, scene.backups):
            contents = [(place.path / "data").read_bytes() for place in places]
            assert content in contents, "the newest was deleted"
        scene.check_laws()
    assert "nothing to send" in scene.back_up("-S", "-N1", "-n1").stdout


def test_a_clock_that_goes_back_sends_each_snapshot_once(scene: Scene) -> None:
    for env in (AHEAD, BEHIND, AHEAD, BEHIND):
        scene.write()
        done = scene.run(env=env)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(" sent ") == 1
    assert len(scene.snapshots) == len(scene.backups) == 4
    scene.check_laws()


def test_runs_in_one_second_lose_nothing_and_keep_the_newest(scene: Scene) -> None:
    for _ in range(4):  # some of them fall into one second
        scene.write()
        done = scene.back_up("-N2", "-n2")
        content = (scene.source / "data").read_bytes()
        for places in (scene.snapshots, scene.backups):
            contents = [(place.path / "data").read_bytes() for place in places]
            assert content in contents, done.stdout
        scene.check_laws()
    assert len(scene.snapshots) == 2
    assert len(scene.backups) == 2


@pytest.mark.parametrize("keep", ["1", "2"])
def test_snapshots_of_one_second_are_kept_in_the_order_of_their_making(
    scene: Scene, keep: str
) -> None:
    scene.back_up()
    second = scene.snapshots[0].path.name
    for number in range(1, 12):  # _10 and _11 come after _9
        scene.write()
        name = f"{second}_{number}"
        _snapshot(scene, name)
    scene.back_up("-S")
    assert len(scene.backups) == 12
    scene.back_up("-S", "-N", keep, "-n", keep)
    expected = {f"{second}_{number}" for number in range(12 - int(keep), 12)}
    assert {snapshot.path.name for snapshot in scene.snapshots} == expected
    assert {backup.path.name for backup in scene.backups} == expected


def _snapshot(scene: Scene, name: str) -> None:
    path = scene.snapshot_folder / name
    command("btrfs", "subvolume", "snapshot", "-r", scene.source, path)


def test_a_clock_set_back_by_minutes_does_not_hold_up_the_newest(scene: Scene) -> None:
    for env in ({"TZ": "AAA-0:05"}, {"TZ": "AAA0"}, {"TZ": "AAA0:03"}):
        scene.write()
        done = scene.run("-N1", "-n1", env=env)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(" sent ") == 1, done.stdout
        scene.check_laws()
    content = (scene.source / "data").read_bytes()
    for places in (scene.snapshots, scene.backups):
        contents = [(place.path / "data").read_bytes() for place in places]
        assert content in contents


def test_what_a_run_made_is_sent_though_its_name_was_used_before(scene: Scene) -> None:
    for _ in range(4):  # -N1 makes names of this second free again
        scene.write()
        done = scene.back_up("-N1", "-n1")
        assert done.stdout.count(" sent ") == 1, done.stdout
        content = (scene.source / "data").read_bytes()
        contents = [(place.path / "data").read_bytes() for place in scene.backups]
        assert content in contents, done.stdout
