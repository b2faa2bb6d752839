"""Clocks jump: nothing new looks old, and nothing needed looks superseded."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from tests.faults import cutting
from tests.faults.faulty import faulty_btrfs, was_faulty
from tests.support.command_line import assert_fails
from tests.support.many import make_named, write_records
from tests.support.places import MIB, command
from tests.support.program import run_program
from tests.support.scene import Scene

pytestmark = pytest.mark.btrfs

#: Zones, as tzset(3) reads them, more than a day apart: 25 hours.
AHEAD = {"TZ": "AAA-14"}
BEHIND = {"TZ": "BBB+11"}


def _name(moment: datetime) -> str:
    return f"x-{moment.astimezone():%Y%m%d-%H%M%S}"


@pytest.mark.parametrize(
    "ahead",
    [
        timedelta(days=1),
        timedelta(days=3652),
    ],
)
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
    scene.back_up("-S", "-N", keep, "-n", keep, "--force")
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


# A clock that is wrong, and a policy by time


DAY = timedelta(days=1)
SYNCHRONISED = {"BTRFS_BACKUP_NG_CLOCK": "0 synchronised"}
POLICY = ("--keep=24h 7d", "--keep-at=24h 7d")
#: What this policy keeps today and for some days, in hours before now.
HISTORY = (*range(24 * 6, 24, -24), *range(20, 2, -2))


def _ahead(span: timedelta) -> dict[str, str]:
    return {"BTRFS_BACKUP_NG_CLOCK": f"{span.total_seconds()}"}


def _names(ago: timedelta = timedelta()) -> set[str]:
    now = datetime.now(timezone.utc) - ago
    return {_name(now - timedelta(hours=hours)) for hours in HISTORY}


def _give_history(scene: Scene, names: set[str]) -> None:
    scene.snapshot_folder.mkdir(parents=True)
    make_named(scene.snapshot_folder, scene.destination, sorted(names))
    write_records(scene, policy="latest 24h 7d in UTC")


def _at_both(scene: Scene) -> set[str]:
    """Return the names of what is at the source and at the destination."""
    here = {snapshot.path.name for snapshot in scene.snapshots}
    return here & {backup.path.name for backup in scene.backups}


@pytest.fixture(params=["local", "ssh"])
def either_scene(request: pytest.FixtureRequest) -> Scene:
    """Return a scene whose destination is here, and one behind ssh."""
    name = "scene" if request.param == "local" else "ssh_scene"
    scene: Scene = request.getfixturevalue(name)
    return scene


@pytest.mark.parametrize(
    ("either_scene", "ahead"),
    [("local", 61 * DAY), ("local", 365 * DAY), ("local", 3652 * DAY)]
    + [("ssh", 3652 * DAY), ("ssh", 14610 * DAY)],
    indirect=["either_scene"],
)
def test_a_clock_far_ahead_deletes_nothing_at_either_place(
    either_scene: Scene, ahead: timedelta
) -> None:
    scene = either_scene
    _give_history(scene, _names())
    scene.back_up(*POLICY)
    before = _at_both(scene)
    assert len(before) >= len(HISTORY) - 2
    for more in (timedelta(), timedelta(hours=20)):
        done = scene.run(*POLICY, env=_ahead(ahead + more))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(" sent ") == 1, "sending waits for no clock"
        assert before <= _at_both(scene)
        assert "that the policy no longer keeps" in done.stderr
        assert " prune --keep" in done.stderr and "--force" in done.stderr
    wrong = _at_both(scene) - before
    done = scene.back_up(*POLICY)
    assert before <= _at_both(scene)
    if not scene.sshd:  # no clock but ours
        assert wrong <= _at_both(scene) and "deleted" not in done.stdout
        assert "dated later than the clock of this machine" in done.stderr
    for hours in (30, 31):
        clock = {"BTRFS_BACKUP_NG_CLOCK": f"{hours * 3600} synchronised"}
        done = scene.run(*POLICY, env=clock)
        assert (done.returncode, done.stderr) == (0, "")
    here = {snapshot.path.name for snapshot in scene.snapshots}
    there = {backup.path.name for backup in scene.backups}
    assert not wrong & (here | there), "the hours in which they were made are over"
    assert len(_at_both(scene) & before) >= 5, "daily ones"
    scene.check_base_is_kept()


@pytest.mark.parametrize("back", [DAY / 24, 365 * DAY, 20000 * DAY])
def test_a_clock_that_is_set_back_deletes_nothing_at_either_place(
    scene: Scene, back: timedelta
) -> None:
    _give_history(scene, _names())
    scene.back_up(*POLICY)
    before = _at_both(scene)
    for more in (timedelta(), DAY / 48):
        done = scene.run(*POLICY, env=_ahead(more - back))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(" sent ") == 1
        assert before <= _at_both(scene)
    scene.back_up(*POLICY)
    assert before <= {snapshot.path.name for snapshot in scene.snapshots}
    assert len(before - _at_both(scene)) <= (back < DAY), "one of one hour"
    scene.check_base_is_kept()


def test_after_two_months_off_history_is_thinned_once_the_clock_is_confirmed(
    either_scene: Scene,
) -> None:
    scene = either_scene
    _give_history(scene, names := _names(61 * DAY))
    done = scene.back_up(*POLICY)
    if not scene.sshd:  # no clock but ours
        assert _at_both(scene) > names
        assert done.stderr.count("warning") == 2
        assert (
            "the policy no longer keeps are kept for now: no snapshot was made from 20"
            in done.stderr
        )
        done = scene.run(*POLICY, env=SYNCHRONISED)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(names & _at_both(scene)) <= 1, "the base, perhaps"
    scene.check_base_is_kept()


def test_prune_waits_for_a_clock_as_a_run_does(scene: Scene) -> None:
    _give_history(scene, _names())
    words = ("prune", "-y", "-p", "x-", POLICY[0], scene.source)
    before = {snapshot.path.name for snapshot in scene.snapshots}
    done = run_program(*words, env=_ahead(3652 * DAY))
    assert done.returncode == 0, done.stderr
    assert "that the policy no longer keeps" in done.stderr and "--force" in done.stderr
    assert "until the clock is confirmed" in done.stdout
    assert {snapshot.path.name for snapshot in scene.snapshots} == before
    done = run_program(*words, "--force", env=_ahead(3652 * DAY))
    assert (done.returncode, done.stderr) == (0, "")
    assert len(scene.snapshots) == 1


@pytest.mark.parametrize(
    ("either_scene", "shift", "options"),
    [
        ("local", 3652 * DAY, ()),
        ("local", 3652 * DAY, ("--keep-at=24h 7d",)),
        ("local", -365 * DAY, ("--keep-at=24h 7d",)),
        ("local", -20000 * DAY, ("-n1",)),
        ("ssh", 3652 * DAY, ("-n1",)),
        ("ssh", -365 * DAY, ()),
    ],
    indirect=["either_scene"],
)
def test_what_was_begun_under_a_wrong_clock_is_resumed(
    either_scene: Scene,
    monkeypatch: pytest.MonkeyPatch,
    shift: timedelta,
    options: tuple[str, ...],
) -> None:
    scene = either_scene
    scene.options += ("--checkpoint-interval", "1M", "--staging-max-age", "1h")
    cutting.plant(scene.source)
    monkeypatch.setenv("BTRFS_BACKUP_NG_CLOCK", f"{shift.total_seconds()}")
    cut = cutting.LOCAL_CUTS["the program killed"]
    safe = cutting.cut_short(scene, 4 * MIB, cut)
    monkeypatch.delenv("BTRFS_BACKUP_NG_CLOCK")
    sent = cutting.sent(scene.run("--json", *options))
    assert sent[0].resumed >= safe, sent
    assert [one.parent for one in sent] == [None, sent[0].name]
    cutting.check_arrived(scene)


def test_what_another_source_began_survives_a_wrong_clock(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its age is told by the date in its name, and a wrong clock tells no age."""
    scene.options += ("--checkpoint-interval", "1M")
    cutting.plant(scene.source)
    safe = cutting.cut_short(scene, 4 * MIB, cutting.LOCAL_CUTS["the program killed"])
    (other,) = scene.staging
    second = scene.source.with_name(f"{scene.name}-second")
    command("btrfs", "subvolume", "create", second)
    for shift in (timedelta(), 3652 * DAY, -3652 * DAY):
        words = ("-p", "t-", second, scene.destination)
        done = run_program(*words, env=_ahead(shift))
        assert done.returncode == 0, done.stderr
        assert scene.staging == [other]
    cutting.check_resumed(scene, safe)


def test_a_run_believes_no_deletion_that_it_does_not_see(
    scene: Scene, tmp_path: Path
) -> None:
    for _ in range(2):
        scene.write()
        scene.back_up()
    lie = faulty_btrfs(tmp_path, '" delete -c "*" in "*/backups', "true")
    scene.write()
    done = scene.run("-n1", "-N1", "--force", env=lie)
    assert was_faulty(tmp_path)
    assert_fails(done, 10, "reappeared after the deletion", "dmesg")
    scene.check_converges("-n1", "-N1")
