"""The ``list`` verb: what is at a place is told, and nothing else happens."""

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from btrfs_backup_ng.__util__ import UsageError, format_age, format_size
from btrfs_backup_ng.cli.commands import run_words
from btrfs_backup_ng.host.common import NeedsRoot
from btrfs_backup_ng.session import history
from tests.support.command_line import (
    NOBODY,
    Done,
    as_nobody,
    complaint,
    covers,
    must,
    on_terminal,
    script,
    sudo_line,
)
from tests.support.filesystems import Filesystem
from tests.support.many import make_pairs, make_snapshots
from tests.support.places import MIB, STATE, by_age, moved_away, ssh_place, ssh_words
from tests.support.processes import cpu_seconds, trace
from tests.support.program import PROGRAM, Argument, environment, run_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd
from tests.support.staged import (
    ID,
    NAME,
    OLD_ID,
    SEALED,
    both_ways,
    document,
    fill,
    interrupted_transfer,
    local_way,
    locked,
    read_only,
    ssh_way,
)

pytestmark = pytest.mark.btrfs

#: Line breaks, what steers a terminal, what turns text around, what is not UTF-8.
HOSTILE = "x\n\x1b[31m\t\u202e".encode() + b"\xff-20260102-030000"


def listed(*words: Argument, **changes: Any) -> Done:
    """Run it."""
    return run_program("list", *words, **changes)


def rows(done: Done) -> list[list[str]]:
    """Return the cells of each line below the headings."""
    _, headings, *lines = must(done).stdout.splitlines()
    assert "NAME" in headings.split()[:2]
    return [re.split("  +", line.strip()) for line in lines]


def states(place: dict[str, Any]) -> dict[str, str]:
    """Return the state of each, by name and in order."""
    return {one["name"]: one["state"] for one in place["snapshots"]}


# What is there.


def test_backups_and_snapshots_come_oldest_first(scene: Scene, sshd: Sshd):
    for _ in range(3):
        scene.back_up()  # three in two seconds: _1 is among them
    for way in both_ways(sshd):
        words = [*way(scene.destination), way(scene.source)[-1]]
        there, here = document(listed("--json", *words))
        assert there["place"].endswith(str(scene.destination))
        assert [one["name"] for one in there["snapshots"]] == scene.backup_names
        assert [one["name"] for one in here["snapshots"]] == scene.snapshot_names
        assert {one["kind"] for one in there["snapshots"]} == {"backup"}
        assert {one["kind"] for one in here["snapshots"]} == {"snapshot"}
        for one, other in zip(here["snapshots"], there["snapshots"], strict=True):
            assert one["uuid"] == other["received_uuid"] != other["uuid"]
            assert (one["complete"], other["complete"]) == (True, True)
            assert one["created"] == other["created"]
            assert 0 <= one["age_s"] < 600
            assert datetime.fromisoformat(one["created"]).utcoffset() == timedelta()
        assert (there["waiting"], there["error"]) == ([], None)


def test_a_line_has_name_age_time_and_state(scene: Scene):
    (name,) = fill(scene)
    done = listed(scene.destination, env={"TZ": "UTC-2"})
    assert done.stdout.splitlines()[0] == f"{scene.destination}: 1 backup"
    assert done.stdout.splitlines()[1].split() == ["AGE", "NAME", "TIME", "STATE"]
    ((age, shown, time, state),) = rows(done)
    assert (shown, state) == (name, "complete")
    assert time == "2020-02-02 00:00:00 +0200"
    assert 2000 < int(age.removesuffix(" days")) < 200_000


def test_nothing_is_changed_and_no_lock_waited_for(scene: Scene, sshd: Sshd):
    fill(scene)
    interrupted_transfer(scene)
    before = scene.fingerprint()
    with locked(scene.destination / STATE), locked(scene.source / STATE):
        for way in both_ways(sshd):
            must(listed(*way(scene.source), way(scene.destination)[-1]))
    assert scene.fingerprint() == before


def test_a_place_without_bookkeeping_gets_none(scene: Scene, sshd: Sshd):
    for way in both_ways(sshd):
        done = must(listed(*way(scene.source), way(scene.destination)[-1]))
        endings = [line.split()[-2:] for line in done.stdout.splitlines()]
        assert endings == [["nothing", "yet"]] * 2
        assert os.listdir(scene.source) == ["first"]
        assert os.listdir(scene.destination) == []


def test_what_is_not_ours_is_foreign(scene: Scene, sshd: Sshd):
    (ours,) = fill(scene)
    read_only(scene.destination / "x-20200101-000000")
    other = scene.other_destination("other")
    make_pairs(scene.source / STATE, other, "", range(1))
    os.rename(other / "20200202-000000", other / "by-me")
    for name in ("writable", "x-20210101-000000"):
        subprocess.run(["btrfs", "-q", "subvolume", "create", scene.destination / name])
    for way in both_ways(sshd):
        words = [*way(scene.destination), way(other)[-1]]
        place, others = document(listed("--json", *words))
        assert states(place) == {"x-20200101-000000": "foreign", ours: "complete"}
        assert place["snapshots"][0]["why"] == "not received"
        (one,) = others["snapshots"]
        assert (one["name"], one["state"]) == ("by-me", "foreign")
        assert one["why"] == "not named by this program"
        if way is local_way:
            assert one["age_s"] < 600
        else:  # btrfs subvolume list does not tell when it was made
            assert (one["created"], one["age_s"]) == (None, None)
    ((name, time, state),) = rows(listed(*way(other)))
    assert (name, time, state) == (
        "by-me",
        "time unknown",
        "foreign (not named by this program)",
    )


def test_a_snapshot_that_somebody_wrote_to_is_no_complete_one(scene: Scene):
    (name,) = fill(scene)
    for folder in (scene.destination, scene.source / STATE / "snapshots"):
        setting = ("btrfs", "property", "set", "-f", "-ts", folder / name, "ro")
        subprocess.run([*setting, "false"], check=True)
        (folder / name / "more").touch()
        subprocess.run([*setting, "true"], check=True)
    here, there = document(listed("--json", scene.source, scene.destination))
    assert here["snapshots"][0]["state"] == "changed"
    assert here["snapshots"][0]["complete"] is False
    # btrfs drops the received UUID when it becomes writable.
    assert there["snapshots"][0]["why"] == "not received"


def test_a_place_that_is_source_and_destination_shows_both(scene: Scene, sshd: Sshd):
    middle = scene.source
    folder = middle / STATE / "snapshots"
    folder.mkdir(parents=True)
    make_pairs(folder, scene.destination, "m-", range(1))
    make_pairs(scene.destination, middle, "x-", range(1, 2))
    for way in both_ways(sshd):
        done = listed(*way(middle))
        assert done.stdout.splitlines()[0].endswith(": 1 snapshot, 1 backup")
        assert done.stdout.splitlines()[1].split()[2] == "KIND"
        shown = [(name, kind, state) for _, name, kind, _, state in rows(done)]
        assert shown == [
            ("m-20200202-000000", "snapshot", "complete"),
            ("x-20200202-000001", "backup", "complete"),
        ]


def test_snapshots_may_be_in_another_folder(scene: Scene, sshd: Sshd):
    (scene.source / "kept here").mkdir()
    make_pairs(scene.source / "kept here", scene.destination, "x-", range(1))
    assert "nothing yet" in must(listed(scene.source)).stdout
    for option, way in (("-f", local_way), ("--snapshot-folder", ssh_way(sshd))):
        (place,) = document(listed("--json", option, "kept here", *way(scene.source)))
        assert states(place) == {"x-20200202-000000": "complete"}
        assert place["snapshots"][0]["kind"] == "snapshot"


# What waits.


def test_what_waits_and_what_runs_is_told(scene: Scene, sshd: Sshd):
    interrupted_transfer(scene, OLD_ID, name="x-20260203-040506", sealed_bytes=0)
    directory = interrupted_transfer(scene)
    (directory.parent / "not-ours").mkdir()
    (directory.parent / f"{ID}.old").mkdir()
    began = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    expected = {
        "id": ID,
        "name": NAME,
        "started": "2026-01-02T03:04:05+00:00",
        "size_bytes": SEALED,
    }
    for way in both_ways(sshd):
        with locked(directory):
            (place,) = document(listed("--json", *way(scene.destination)))
        one, other = place["waiting"]
        past = datetime.now(timezone.utc) - began
        assert -600 < past.total_seconds() - one.pop("age_s") < 600
        assert one == {**expected, "running": True}
        assert (other["id"], other["name"]) == (OLD_ID, "x-20260203-040506")
        assert (other["size_bytes"], other["running"]) == (0, False)
        assert place["snapshots"] == []


@covers("-v")
def test_how_it_looks_what_waits_and_what_runs_with_ids_if_asked_for(scene: Scene):
    with locked(interrupted_transfer(scene, OLD_ID, sealed_bytes=0)):
        interrupted_transfer(scene)
        done = listed(scene.destination, env={"TZ": "UTC"})
        more = listed("-v", scene.destination)
    assert done.stdout.splitlines()[0].endswith(": 1 waiting to resume, 1 running")
    (_, name, time, waiting), (*_, running) = rows(done)
    assert (name, time) == (NAME, "2026-01-02 03:04:05 +0000")
    assert waiting == "waiting, 1.2 GiB safe there"
    assert running == "running, nothing safe there yet"
    assert [row[3] for row in rows(more)] == [ID, OLD_ID]


# What it is to other places, and what is on record.


class Known(NamedTuple):
    """A source that has sent to three places, one of them behind ssh.

    :ivar folder: of its snapshots.
    :ivar away: has the first snapshot; ``over_ssh`` the first two, the other all three.
    :ivar sent: of each run, destination -> the size of the transfer.
    :ivar env: leads to the record of it.
    """

    scene: Scene
    folder: Path
    away: Path
    over_ssh: str
    words: list[str]
    sent: list[dict[str, int]]
    env: dict[str, str]

    @property
    def places(self) -> list[str]:
        """Return all places, first the source."""
        scene = self.scene
        here = [str(scene.source), str(scene.destination)]
        return [*here, self.over_ssh, str(self.away)]

    def listed(self, *words: Argument) -> Done:
        """List with the record."""
        return listed(*words, env=self.env)

    def listed_source(self) -> Done:
        """List the source alone."""
        return self.listed("-f", self.folder, self.scene.source)


@pytest.fixture(scope="module")
def known(
    disks: tuple[Filesystem, Filesystem],
    session_sshd: Sshd,
    tmp_path_factory: pytest.TempPathFactory,
) -> Known:
    scene = Scene(*disks, is_small=True)
    env = {"BTRFS_BACKUP_NG_STATE": str(tmp_path_factory.mktemp("state"))}
    folder, away = scene.source.parent / "kept", scene.other_destination("away")
    there = scene.other_destination("there")
    words, over_ssh = ssh_words(session_sshd), ssh_place(session_sshd, there)
    sent = []
    others: list[list[Argument]] = [[over_ssh, away], [over_ssh], []]
    for also in others:
        done = scene.back_up(*words, "-f", folder, "--json", *also, env=env)
        events = json.loads(done.stdout)["events"]
        moved = [event for event in events if "codec" in event]
        sent.append({one["destination"]: one["size_bytes"] for one in moved})
    return Known(scene, folder, away, over_ssh, words, sent, env)


def test_without_a_place_on_record_one_is_missing(tmp_path: Path):
    env = {"BTRFS_BACKUP_NG_STATE": str(tmp_path)}
    complaint(listed(env=env), 2, "no place given", "on record")


def test_all_places_on_record_are_listed(known: Known):
    """The source is, with the folder of its snapshots and how they relate to others."""
    places = document(known.listed("--json", *known.words))
    assert places[0]["place"] == known.places[0]
    # Destinations come in the order in which they got the first snapshot.
    assert {place["place"] for place in places} == set(known.places)
    _, usb, over_ssh, away = known.places
    snapshots = places[0]["snapshots"]
    assert [one["name"] for one in snapshots] == by_age(known.folder)
    assert [set(one["common_with"]) for one in snapshots] == [
        {usb, over_ssh, away},
        {usb, over_ssh},
        {usb},
    ]
    assert [one["next_parent"] for one in snapshots] == [[away], [over_ssh], [usb]]
    assert [one["size_bytes"] for one in snapshots] == [None] * 3


@pytest.mark.parametrize(
    ("number", "count"),
    [
        (1, 3),
        (2, 2),
        (3, 1),
    ],
)
def test_backups_are_listed_with_their_sizes_and_relations(
    known: Known, number: int, count: int
):
    places = document(known.listed("--json", *known.words))
    (place,) = (one for one in places if one["place"] == known.places[number])
    here, sizes = known.places[0], [one["size_bytes"] for one in place["snapshots"]]
    assert sizes == [run[place["place"]] for run in known.sent[:count]] and all(sizes)
    parents = [one["next_parent"] for one in place["snapshots"]]
    assert parents == [[]] * (count - 1) + [[here]]
    assert here in place["snapshots"][0]["common_with"]
    for one in place["snapshots"]:
        assert one["being_sent_to"] == one["perhaps_needed_by"] == []


def test_a_source_alone_knows_by_its_holds_where_its_snapshots_are(known: Known):
    lines = must(known.listed_source()).stdout.splitlines()
    on_record = "on record as parent of the next transfer to"
    assert lines[2].endswith(f"complete, {on_record} {known.away}")
    assert lines[4].endswith(f"complete, {on_record} {known.scene.destination}")


def test_two_destinations_are_listed_with_what_they_share(known: Known):
    away, usb = known.away, known.scene.destination
    head, _, first, *lines = must(known.listed(away, usb)).stdout.splitlines()
    size = format_size(known.sent[0][str(away)])
    shared = "complete (2 more copies on this filesystem)"  # all on one disk
    assert head == f"{away}: 1 backup"
    assert first.endswith(f"  {size}  {shared}, also at {usb}")
    assert lines[0] == f"{usb}: 3 backups"
    assert lines[2].endswith(f"  {size}  {shared}, also at {away}")
    total = sum(run[str(usb)] for run in known.sent)
    assert lines[5] == f"  sum: {format_size(total)} sent"
    complete = [line.index("complete") for line in (*lines[2:5], first)]
    assert complete == [lines[1].index("STATE")] * 3 + [complete[3]]


@covers("--latest")
def test_only_the_newest_complete_one_is_listed_if_asked_for(known: Known):
    source, usb, *_, away = known.places
    newest = by_age(known.folder)[-1]
    read_only(Path(usb) / "y-20990101-000000")  # not received
    try:
        places = document(known.listed("--json", "--latest", "-f", known.folder,
                                       source, usb, away))  # fmt: skip
        assert [list(states(place)) for place in places] == [
            [newest],
            [newest],
            by_age(Path(away)),
        ]
        done = must(known.listed("--latest", usb))
        assert done.stdout.startswith(f"{usb}: latest: 1 backup\n")
        assert [row[1] for row in rows(done)] == [newest]
    finally:
        subprocess.run(["btrfs", "-q", "sub", "delete", f"{usb}/y-20990101-000000"])


@covers("--size", "-v")
def test_what_each_holds_and_frees_is_measured_as_prune_does(
    scene: Scene, sshd: Sshd, tmp_path: Path
):
    scene.add("first file", MIB)
    scene.back_up()
    (scene.source / "first file").unlink()
    scene.add("second file", 2 * MIB)
    scene.back_up()
    scene.destination_disk.sync()
    for way in both_ways(sshd):
        (place,) = document(listed("--json", *way(scene.destination)))
        assert {(s["held_bytes"], s["space_bytes"]) for s in place["snapshots"]} == {
            (None, None)
        }
        (place,) = document(listed("--size", "--json", *way(scene.destination)))
        found = [(s["held_bytes"] // MIB, s["space_bytes"]) for s in place["snapshots"]]
        assert found == [(1, MIB), (2, 2 * MIB)]
    done = listed("--size", scene.destination)
    headings = done.stdout.splitlines()[1].split()
    assert headings == ["AGE", "NAME", "TIME", "SENT", "HOLDS", "FREES", "STATE"]
    *_, newer, (total,) = rows(done)
    assert newer[4:6] == ["2.0 MiB", "2.0 MiB"]
    assert total.endswith(" sent, deleting all frees 3.0 MiB or more")
    (tmp_path / "bin").mkdir()
    slow = script(tmp_path / "bin" / "timeout", "exit 124")
    env = {"PATH": f"{slow.parent}:{os.environ['PATH']}"}
    done = listed("--size", scene.destination, env=env)
    assert "HOLDS" not in done.stdout and "complete" in done.stdout
    assert "3.0 MiB" in must(listed("--size", "-v", scene.destination, env=env)).stdout


def test_of_places_that_the_history_has_forgotten_the_holds_know(
    known: Known, tmp_path: Path
):
    history = Path(known.env["BTRFS_BACKUP_NG_STATE"], "history.jsonl").read_text()
    (tmp_path / "history.jsonl").write_text(history.splitlines(keepends=True)[-1])
    env = {"BTRFS_BACKUP_NG_STATE": str(tmp_path)}
    found = document(listed("--json", *known.words, env=env))
    here, usb, *others = known.places
    assert [place["place"] for place in found] == [here, usb, *sorted(others)]


def test_a_place_out_of_reach_is_told_and_the_others_are_listed(known: Known):
    with moved_away(known.away):
        done = known.listed(*known.words)
    complaint(done, 10, f"{known.away} does not exist")
    assert done.stdout.count(": 3 ") == 2


@contextlib.contextmanager
def holds_with(known: Known, change: Callable[[str], str]) -> Iterator[None]:
    """Change the record of the holds for a while."""
    record = known.scene.holds
    before = record.read_text()
    record.write_text(change(before))
    try:
        yield
    finally:
        record.write_text(before)


def test_snapshots_being_sent_or_perhaps_needed_are_listed_as_such(known: Known):
    def changed(holds: str) -> str:
        sending = holds.replace("last common", "being sent", 1)
        return sending.replace("last common", "perhaps needed", 1)

    with holds_with(known, changed):
        text = must(known.listed_source()).stdout
    assert text.count("being sent to /") == text.count("perhaps needed by ") == 1


def test_a_damaged_record_says_nothing_and_is_named(known: Known):
    with holds_with(known, lambda _: "{"):
        done = must(known.listed_source())
    assert "holds.json cannot be read" in done.stderr
    assert done.stdout.count("complete\n") == 3


def test_a_command_is_not_on_record_as_there_may_be_a_secret_in_it(
    scene: Scene, tmp_path: Path
):
    env = {"BTRFS_BACKUP_NG_STATE": str(tmp_path)}
    for command in ("cat >/dev/null; : secret", "cat >/dev/null; exit 3 # secret"):
        run_program("-p", "y-", scene.source, f"shell://{command}", env=env)
    history = tmp_path / "history.jsonl"
    assert "secret" not in history.read_text()
    found = map(json.loads, history.read_text().splitlines())
    good, bad = (one for one in found if one["destination"])
    assert [one["destination"] for one in (good, bad)] == ["shell://"] * 2
    assert good["error"] == "" and "status 3" in bad["error"]


def test_a_history_that_cannot_be_read_matters_only_where_it_is_needed(
    scene: Scene, tmp_path: Path
):
    env = {"BTRFS_BACKUP_NG_STATE": str(tmp_path)}
    (tmp_path / "history.jsonl").mkdir()
    must(listed(scene.destination, env=env))
    complaint(listed(env=env), 1, "history.jsonl cannot be read")


def test_what_is_damaged_is_told_with_the_reason(scene: Scene, sshd: Sshd):
    for _ in range(3):
        scene.back_up()
    writable, cleared, good = (scene.destination / name for name in scene.backup_names)
    setting = ("btrfs", "property", "set", "-f", "-ts")
    for path in (writable, cleared):
        subprocess.run([*setting, path, "ro", "false"], check=True)
    subprocess.run([*setting, cleared, "ro", "true"], check=True)
    copy = ("btrfs", "-q", "subvolume", "snapshot", "-r", good)
    subprocess.run([*copy, scene.destination / "copy"], check=True)
    (scene.destination / "notes-20200101-000000").touch()  # not of our prefix
    broken = scene.source / STATE / "snapshots" / "x-20200101-000000"
    subprocess.run(["btrfs", "-q", "subvolume", "create", broken], check=True)
    for way in both_ways(sshd):
        words = [*way(scene.destination), way(scene.source)[-1]]
        there, here = document(listed("--json", *words))
        told = {one["name"]: one for one in there["snapshots"]}
        assert told.keys() == {writable.name, cleared.name, good.name, "copy"}
        for path, why in (
            (writable, "not a read-only"),
            (cleared, "drops the received UUID"),
        ):
            one = told[path.name]
            assert (one["state"], one["complete"]) == ("damaged", False)
            assert why in one["why"]
        assert told[writable.name]["uuid"] is None
        assert told[good.name]["complete"] is True
        why = "another copy on this filesystem"
        assert told[good.name]["why"] == why
        assert told["copy"]["state"] == "foreign"
        states = {one["name"]: one["state"] for one in here["snapshots"]}
        assert states[broken.name] == "damaged"
        assert list(states.values()).count("complete") == 3
    done = must(listed(scene.destination, scene.source))
    assert f"{scene.destination}: 3 backups, 2 damaged" in done.stdout
    assert f"{scene.source}: 3 snapshots, 1 damaged" in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if writable.name in line][:1]
    assert line.endswith(
        "damaged (not a read-only subvolume: incomplete or made writable)"
    )
    # Words that mean trouble are red on a terminal with colours, and nowhere else.
    terminal = {"TERM": "xterm", "COLUMNS": "140", "NO_COLOR": None}
    for change, is_red in (({}, 4), ({"TERM": "dumb"}, 0), ({"NO_COLOR": "1"}, 0)):
        env = {**terminal, **change}
        shown = on_terminal("list", scene.destination, env=env).stdout
        assert shown.count("\x1b") == is_red and shown.count("damaged") == 3
    assert (
        "  \x1b[31mdamaged\x1b[0m (not"
        in on_terminal("list", scene.destination, env=terminal).stdout
    )


# How it looks.


def test_names_that_could_do_harm_are_shown_safely(scene: Scene, sshd: Sshd):
    read_only(scene.destination / os.fsdecode(HOSTILE))
    interrupted_transfer(scene, name=HOSTILE)
    done = must(listed(scene.destination))
    assert len(done.stdout.splitlines()) == 4
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e\udcff]", done.stdout)
    assert done.stdout.count("x\\n\\x1b[31m\\t\\u202e\\xff-20260102-030000") == 2
    for way in both_ways(sshd):
        done = listed("--json", *way(scene.destination))
        assert done.stdout.isascii()
        (place,) = document(done)
        names = [place["snapshots"][0]["name"], place["waiting"][0]["name"]]
        assert list(map(os.fsencode, names)) == [HOSTILE] * 2
    # A terminal of another encoding is no reason to fail.
    read_only(scene.destination / "\u96ea")
    done = must(listed(scene.destination, env={"PYTHONIOENCODING": "latin-1"}))
    assert "  \\u96ea  " in done.stdout


def test_40_columns_are_enough(scene: Scene):
    (name,) = fill(scene)
    read_only(scene.destination / "f")
    interrupted_transfer(scene)
    shown = on_terminal("list", scene.destination, env={"COLUMNS": "40"}).stdout
    lines = shown.replace("\r\n", "\n").splitlines()
    too_long = [line for line in lines if len(line) > 40]
    assert all(len(line.split()) == 1 for line in too_long), shown
    words = " ".join(shown.split())
    assert f" {name} " in words
    assert "waiting, 1.2 GiB safe there" in words
    wide = on_terminal("list", scene.destination, env={"COLUMNS": "200"}).stdout
    assert len(wide.splitlines()) == 5
    # Where nobody looks, a line is a line, however long.
    done = listed(scene.destination, env={"COLUMNS": "40"})
    lines = [re.sub(r"\b\d+ (s|min) ", "", line) for line in done.stdout.splitlines()]
    wide_lines = wide.replace("\r\n", "\n").splitlines()
    assert lines == [re.sub(r"\b\d+ (s|min) ", "", line) for line in wide_lines]


def test_quiet_says_nothing_and_verbose_shows_commands(scene: Scene, sshd: Sshd):
    fill(scene)
    done = must(listed("-q", scene.destination))
    assert (done.stdout, done.stderr) == ("", "")
    done = must(listed("-vv", *ssh_way(sshd)(scene.destination)))
    assert "+ list on 127.0.0.1: list " in done.stderr


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
    ((age, *_),) = rows(listed(scene.destination))
    assert age == "future"


# What it costs.


def test_1000_snapshots_cost_what_few_do(scene: Scene, sshd: Sshd):
    few = scene.other_destination("few")
    here, there = [], []
    for folder, numbers in ((few, range(3)), (scene.destination, range(1000))):
        make_snapshots(folder, "x-", numbers)
        traced = trace(*PROGRAM, "list", folder, env=environment())
        assert len(traced.stdout.splitlines()) == 2 + len(numbers)
        here.append(traced.processes)
        sshd.mark()
        (place,) = document(listed("--json", *ssh_way(sshd)(folder)))
        assert len(place["snapshots"]) == len(numbers)
        there.append((sshd.connections(), sshd.sessions()))
    words = [*PROGRAM, "list", "--json"]
    cost, least = (
        min(cpu_seconds(*words, folder, env=environment()) for _ in range(2))
        for folder in (scene.destination, few)
    )
    assert cost < 3 * least  # in seconds: benchmarks/list.py
    assert here == [1, 1]  # the version of btrfs-progs
    assert there == [(1, 1), (1, 1)]
    interrupted_transfer(scene)
    interrupted_transfer(scene, OLD_ID)
    sshd.mark()
    must(listed(*ssh_way(sshd)(scene.destination)))
    assert (sshd.connections(), sshd.sessions()) == (1, 1)


# What cannot be listed.


def test_a_place_that_cannot_be_listed_is_not_an_empty_one(
    scene: Scene, tmp_path: Path, sshd: Sshd
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    expected = {
        scene.destination / "no": "does not exist",
        tmp_path / "empty": "is the backup disk mounted?",
        tmp_path / "full": "snapshots are only on btrfs",
    }
    for way in both_ways(sshd):
        words = [*way(scene.source)[:-1], *(way(path)[-1] for path in expected)]
        done = listed("--json", *words)
        for place, part in zip(document(done, 1), expected.values(), strict=True):
            assert part in place["error"]["message"]
            assert place["snapshots"] == []
        for path, part in expected.items():
            assert str(path) in done.stderr and part in done.stderr
        assert done.stderr.count("btrfs-backup-ng: ") == 3


def test_one_that_fails_does_not_keep_the_others(scene: Scene):
    fill(scene)
    no = scene.destination / "no"
    done = listed(no, scene.destination, scene.source)
    complaint(done, 10, "does not exist")
    assert done.stdout.count("complete") == 2


def test_only_root_sees_snapshots(scene: Scene):
    fill(scene)
    done = as_nobody("list", scene.destination)
    complaint(done, 4, "needs root", f"Run:  {sudo_line('list', scene.destination)}")


def test_what_makes_no_sense_is_a_usage_error(scene: Scene):
    for words, part in (
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
    for word in ("complete", "foreign", "changed", "waiting", "running", "FREES"):
        assert word in shown


@pytest.mark.parametrize("verb", ["list", "status"])
def test_the_record_of_root_is_named_where_it_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
):
    monkeypatch.setattr(history, "ROOTS_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    monkeypatch.delenv(history.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "own"))
    with pytest.raises(
        NeedsRoot, match=f"record in {tmp_path} cannot be read"
    ) as error:
        run_words([verb])
    assert "sudo " in error.value.hint and error.value.exit_status == 4
    monkeypatch.setattr(history, "ROOTS_DIRECTORY", str(tmp_path / "none"))
    with pytest.raises(UsageError, match="no place given"):
        run_words([verb])
