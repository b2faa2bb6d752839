"""Owns the ``list`` verb: what is at a place is told, and nothing else happens."""

import os
import re
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from btrfs_backup_ng.__util__ import format_age
from tests.cli.scenes import (
    Done,
    Scene,
    as_nobody,
    complaint,
    must,
    on_terminal,
    sudo_line,
)
from tests.cli.staged import (
    ID,
    NAME,
    OLD_ID,
    SEALED,
    STATE,
    Way,
    cut_transfer,
    document,
    local_way,
    locked,
    read_only,
    ssh_way,
)
from tests.faults.many import make_pairs
from tests.support.processes import trace
from tests.support.program import PROGRAM, Argument, environment, run_program
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs

#: Line breaks, what steers a terminal, what turns text around, what is not UTF-8.
HOSTILE = "x\n\x1b[31m\t\u202e".encode() + b"\xff-20260102-030000"


def listed(*words: Argument, **changes: Any) -> Done:
    """Run it."""
    return run_program("list", *words, **changes)


@pytest.fixture(params=["local", "ssh"])
def way(request: pytest.FixtureRequest) -> Way:
    """Name places of this machine, or the same behind ssh."""
    if request.param == "local":
        return local_way
    return ssh_way(request.getfixturevalue("sshd"))


def rows(done: Done) -> list[list[str]]:
    """Give the cells of each line below the heading."""
    _, *lines = must(done).stdout.splitlines()
    return [re.split("  +", line.strip()) for line in lines]


def states(place: dict[str, Any]) -> dict[str, str]:
    """Give the state of each, by name and in order."""
    return {one["name"]: one["state"] for one in place["snapshots"]}


# What is there.


def test_backups_and_snapshots_come_oldest_first(scene: Scene, way: Way):
    for _ in range(3):
        must(scene.back_up())  # three in one or two seconds: _1 and _2 are among them
    (there,) = document(listed("--json", *way(scene.destination)))
    (here,) = document(listed("--json", *way(scene.source)))
    assert there["place"].endswith(str(scene.destination))
    assert [one["name"] for one in there["snapshots"]] == scene.backups
    assert [one["name"] for one in here["snapshots"]] == scene.snapshots
    assert {one["kind"] for one in there["snapshots"]} == {"backup"}
    assert {one["kind"] for one in here["snapshots"]} == {"snapshot"}
    for one, other in zip(here["snapshots"], there["snapshots"], strict=True):
        assert one["uuid"] == other["received_uuid"] != other["uuid"]
        assert (one["complete"], other["complete"]) == (True, True)
        assert one["created"] == other["created"]
        assert 0 <= one["age_s"] < 600
        assert datetime.fromisoformat(one["created"]).utcoffset() == timedelta()
    assert (there["waiting"], there["error"]) == ([], None)


def test_a_line_has_name_age_time_and_state(scene: Scene, way: Way):
    env = {"TZ": "UTC-2"}
    must(scene.back_up(env=env))
    (name,) = scene.backups
    done = listed(*way(scene.destination), env=env)
    heading = done.stdout.splitlines()[0]
    assert heading == f"{way(scene.destination)[-1]}: 1 backup"
    ((shown, age, time, state),) = rows(done)
    assert (shown, state) == (name, "complete")
    assert re.fullmatch(r"\d+ s|\d min", age)
    day, clock = name.removeprefix("x-").split("-")
    assert re.sub("[-: ]", "", time.removesuffix(" +0200")) == day + clock


def test_nothing_is_changed_and_no_lock_waited_for(scene: Scene, way: Way):
    must(scene.back_up())
    cut_transfer(scene)
    before = scene.fingerprint()
    state = scene.destination / STATE
    with locked(state), locked(scene.source / STATE):
        words = [*way(scene.source), way(scene.destination)[-1]]
        assert len(document(listed("--json", *words))) == 2
        must(listed(*words))
    assert scene.fingerprint() == before


def test_a_place_without_bookkeeping_gets_none(scene: Scene, way: Way):
    done = must(listed(*way(scene.source), way(scene.destination)[-1]))
    assert [line.split()[-2:] for line in done.stdout.splitlines()] == [
        ["nothing", "yet"]
    ] * 2
    assert os.listdir(scene.source) == ["first"]
    assert os.listdir(scene.destination) == []


def test_what_is_not_ours_is_foreign(scene: Scene, way: Way):
    must(scene.back_up())
    (ours,) = scene.backups
    read_only(scene.destination / "x-20200101-000000")
    stream = subprocess.run(
        ["btrfs", "send", "-q", scene.source / STATE / "snapshots" / ours],
        stdout=subprocess.PIPE,
    )
    (scene.destination / "other").mkdir()
    subprocess.run(
        ["btrfs", "receive", "-q", scene.destination / "other"], input=stream.stdout
    )
    os.rename(scene.destination / "other" / ours, scene.destination / "other" / "by-me")
    for name in ("writable", "x-20210101-000000"):
        subprocess.run(["btrfs", "-q", "subvolume", "create", scene.destination / name])
    words = [*way(scene.destination), way(scene.destination / "other")[-1]]
    place, other = document(listed("--json", *words))
    assert states(place) == {"x-20200101-000000": "foreign", ours: "complete"}
    assert place["snapshots"][0]["why"] == "not received"
    (one,) = other["snapshots"]
    assert (one["name"], one["state"]) == ("by-me", "foreign")
    assert one["why"] == "not named by us"
    shown = must(listed(*way(scene.destination / "other"))).stdout
    assert "foreign (not named by us)" in shown
    if way is not local_way:  # btrfs subvolume list does not tell when it was made
        assert (one["created"], one["age_s"]) == (None, None)
        assert "time unknown" in shown
    else:
        assert one["age_s"] < 600


def test_a_snapshot_that_somebody_wrote_to_is_no_complete_one(scene: Scene):
    must(scene.back_up())
    (name,) = scene.backups
    path = scene.destination / name
    setting = ("btrfs", "property", "set", "-f", "-ts", path, "ro")
    subprocess.run([*setting, "false"], check=True)
    (path / "first").write_text("no more")
    subprocess.run([*setting, "true"], check=True)
    ((*_, state),) = rows(listed(scene.destination))
    assert state == "foreign (not received)"  # so does btrfs drop the received UUID
    (here,) = scene.snapshots
    path = scene.source / STATE / "snapshots" / here
    subprocess.run(["btrfs", "property", "set", "-ts", path, "ro", "false"])
    (path / "first").write_text("no more")
    subprocess.run(["btrfs", "property", "set", "-ts", path, "ro", "true"])
    ((*_, state),) = rows(listed(scene.source))
    assert state == "changed (written to after it was made)"


def test_a_place_that_is_source_and_destination_shows_both(scene: Scene, way: Way):
    middle = scene.from_filesystem.subvolume(f"{scene.source.parent.name}/middle")
    must(run_program("-p", "x-", scene.source, middle))
    must(run_program("-p", "m-", "-T", middle))
    done = listed(*way(middle))
    assert "1 snapshot, 1 backup" in done.stdout
    assert sorted(row[-1] for row in rows(done)) == [
        "backup, complete",
        "snapshot, complete",
    ]


def test_snapshots_may_be_in_another_folder(scene: Scene, sshd: Sshd):
    must(scene.back_up("-f", "kept here", "-T"))
    (name,) = os.listdir(scene.source / "kept here")
    assert "nothing yet" in must(listed(scene.source)).stdout
    for option, way in (("-f", local_way), ("--snapshot-folder", ssh_way(sshd))):
        (place,) = document(listed("--json", option, "kept here", *way(scene.source)))
        assert states(place) == {name: "complete"}
        assert place["snapshots"][0]["kind"] == "snapshot"


# What waits.


def test_a_transfer_that_waits_is_told(scene: Scene, way: Way):
    cut_transfer(scene)
    incoming = scene.destination / STATE / "incoming"
    (incoming / "not-ours").mkdir()
    (incoming / f"{ID}.old").mkdir()
    (place,) = document(listed("--json", *way(scene.destination)))
    (one,) = place["waiting"]
    began = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    assert abs(datetime.now(timezone.utc) - began).total_seconds() - 60 < one["age_s"]
    del one["age_s"]
    assert one == {
        "id": ID,
        "name": NAME,
        "started": "2026-01-02T03:04:05+00:00",
        "size_bytes": SEALED,
        "running": False,
    }
    assert place["snapshots"] == []
    done = listed(*way(scene.destination), env={"TZ": "UTC"})
    assert done.stdout.splitlines()[0].endswith(": 1 waiting to go on")
    ((name, _, time, state),) = rows(done)
    assert (name, time) == (NAME, "2026-01-02 03:04:05 +0000")
    assert state == f"waiting, 1.2 GiB safe there, id {ID}"


def test_one_that_runs_and_one_without_a_checkpoint(scene: Scene, way: Way):
    cut_transfer(scene, OLD_ID, name="x-20260203-040506", sealed_bytes=0)
    with locked(cut_transfer(scene)):
        done = listed(*way(scene.destination))
        (place,) = document(listed("--json", *way(scene.destination)))
    assert done.stdout.splitlines()[0].endswith(": 1 waiting to go on, 1 running")
    (first, *_, running), (second, *_, waiting) = rows(done)
    assert (first, second) == (NAME, "x-20260203-040506")
    assert running == f"running, 1.2 GiB safe there, id {ID}"
    assert waiting == f"waiting, nothing safe there yet, id {OLD_ID}"
    assert [one["running"] for one in place["waiting"]] == [True, False]
    assert [one["size_bytes"] for one in place["waiting"]] == [SEALED, 0]


# How it looks.


def test_names_that_could_do_harm_are_shown_safely(scene: Scene, way: Way):
    read_only(scene.destination / os.fsdecode(HOSTILE))
    cut_transfer(scene, name=HOSTILE)
    done = must(listed(*way(scene.destination)))
    assert len(done.stdout.splitlines()) == 3
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e\udcff]", done.stdout)
    assert done.stdout.count("x\\n\\x1b[31m\\t\\u202e\\xff-20260102-030000") == 2
    done = listed("--json", *way(scene.destination))
    assert done.stdout.isascii()
    (place,) = document(done)
    names = [place["snapshots"][0]["name"], place["waiting"][0]["name"]]
    assert list(map(os.fsencode, names)) == [HOSTILE] * 2


def test_40_columns_are_enough(scene: Scene):
    must(scene.back_up())
    read_only(scene.destination / "f")
    cut_transfer(scene)
    shown = on_terminal("list", scene.destination, env={"COLUMNS": "40"}).stdout
    lines = shown.replace("\r\n", "\n").splitlines()
    too_long = [line for line in lines if len(line) > 40]
    assert all(len(line.split()) == 1 for line in too_long), shown
    words = " ".join(shown.split())
    assert f" {scene.backups[-1]} " in words
    assert f"waiting, 1.2 GiB safe there, id {ID}" in words
    wide = on_terminal("list", scene.destination, env={"COLUMNS": "200"}).stdout
    assert len(wide.splitlines()) == 4
    # Where nobody looks, a line is a line, however long.
    done = listed(scene.destination, env={"COLUMNS": "40"})
    lines = [re.sub(r"\b\d+ (s|min) ", "", line) for line in done.stdout.splitlines()]
    wide_lines = wide.replace("\r\n", "\n").splitlines()
    assert lines == [re.sub(r"\b\d+ (s|min) ", "", line) for line in wide_lines]


def test_quiet_says_nothing_and_verbose_shows_commands(scene: Scene, sshd: Sshd):
    must(scene.back_up())
    done = must(listed("-q", scene.destination))
    assert (done.stdout, done.stderr) == ("", "")
    done = must(listed("-vv", *ssh_way(sshd)(scene.destination)))
    assert " bbng1 list " in done.stderr


@pytest.mark.parametrize(
    ("age", "words"),
    [
        (timedelta(seconds=5), "5 s"),
        (timedelta(seconds=89), "89 s"),
        (timedelta(seconds=90), "2 min"),
        (timedelta(minutes=89), "89 min"),
        (timedelta(hours=26), "26 h"),
        (timedelta(hours=47), "47 h"),
        (timedelta(days=2), "2 days"),
        (timedelta(days=400), "400 days"),
    ],
)
def test_an_age_is_told_in_one_unit(age: timedelta, words: str):
    assert format_age(age) == words


def test_what_is_dated_in_the_future_is_said_to_be(scene: Scene):
    read_only(scene.destination / "x-20990101-000000")
    ((_, age, *_),) = rows(listed(scene.destination))
    assert age == "future"


# What it costs.


def test_500_snapshots_cost_what_few_do(scene: Scene, sshd: Sshd):
    few = scene.other_destination("few")
    here, there = [], []
    for folder, numbers in ((few, range(3)), (scene.destination, range(500))):
        make_pairs(scene.source.parent, folder, f"{folder.name}-", numbers)
        traced = trace(*PROGRAM, "list", folder, env=environment())
        assert len(traced.stdout.splitlines()) == 1 + len(numbers)
        here.append(traced.processes)
        sshd.mark()
        (place,) = document(listed("--json", *ssh_way(sshd)(folder)))
        assert len(place["snapshots"]) == len(numbers)
        there.append((sshd.connections(), sshd.sessions()))
    assert here == [1, 1]  # the version of btrfs-progs
    assert there == [(1, 2), (1, 2)]  # what is there, and the list
    cut_transfer(scene)
    cut_transfer(scene, OLD_ID)
    sshd.mark()
    must(listed(*ssh_way(sshd)(scene.destination)))
    assert (sshd.connections(), sshd.sessions()) == (1, 3)


# What cannot be listed.


def test_a_place_that_cannot_be_listed_is_not_an_empty_one(
    scene: Scene, tmp_path: Path, way: Way
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for path, part in (
        (scene.destination / "no", "does not exist"),
        (tmp_path / "empty", "is the backup disk mounted?"),
        (tmp_path / "full", "snapshots are only on btrfs"),
    ):
        done = listed("--json", *way(path))
        assert done.stderr.startswith("btrfs-backup-ng: ")
        assert str(path) in done.stderr and part in done.stderr
        (place,) = document(done, 1)
        assert part in place["error"]["message"]
        assert place["snapshots"] == []


def test_one_that_fails_does_not_keep_the_others(scene: Scene):
    must(scene.back_up())
    no = scene.destination / "no"
    done = listed(no, scene.destination, scene.source)
    complaint(done, 10, "does not exist")
    assert done.stdout.count("complete") == 2


def test_only_root_sees_snapshots(scene: Scene):
    must(scene.back_up())
    done = as_nobody("list", scene.destination)
    complaint(done, 1, "needs root", f"Run:  {sudo_line('list', scene.destination)}")


def test_what_makes_no_sense_is_a_usage_error(scene: Scene):
    for words, part in (
        ([], "a place is missing"),
        (["shell://cat"], "shell://"),
        (["nas:/x"], "could be a path or a host"),
        (["--no-such", scene.source], "--no-such"),
        (["-n", scene.source], "-n"),
    ):
        done = listed(*words)
        complaint(done, 2, part)
        assert done.stdout == ""


def test_the_help_tells_states_and_statuses():
    shown = must(listed("--help")).stdout
    for word in ("complete", "foreign", "changed", "waiting", "running", "10"):
        assert word in shown
    assert "list PLACE" in must(run_program("--help")).stdout
