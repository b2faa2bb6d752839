"""The ``diff`` verb: what it tells is what a comparison of the trees finds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakesFilesystems
from tests.support.changes import describe, disagreements
from tests.support.changing import Changing
from tests.support.command_line import (
    Done,
    as_nobody,
    complaint,
    covers,
    logging_path,
    must,
    on_terminal,
    script,
    sudo_line,
)
from tests.support.places import set_read_only, ssh_place, ssh_words
from tests.support.program import PROGRAM, Argument, environment, run_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs

#: Each is a walk of two steps, seen forwards and, as a whole, backwards.
WALKS = range(9)


def diff(*words: Argument, **changes: Any) -> Done:
    return run_program("diff", *words, **changes)


def lines(*words: Argument, status: int = 0, **changes: Any) -> list[str]:
    done = must(diff(*words, **changes), status)
    assert done.stderr == ""
    return done.stdout.splitlines()


def told(*words: Argument) -> list[Mapping[str, Any]]:
    """Return the changes of the JSON lines, whose summary has to fit."""
    *changes, last = map(json.loads, lines("--json", *words))
    assert (last["version"], last["exit_status"]) == (1, 0)
    counts = {
        sort: 0 for sort in ("added", "changed", "renamed", "deleted", "metadata")
    }
    for change in changes:
        counts[change["change"]] += 1
    sums = {key: sum(c[key] for c in changes) for key in ("written", "shared")}
    sizes = (c["size"] or 0 for c in changes if c["change"] == "added")
    assert last["summary"] == {**counts, **sums, "size_added": sum(sizes)}
    return changes


@pytest.mark.parametrize("seed", WALKS)
def test_what_is_told_is_what_a_comparison_finds(scene: Scene, seed: int):
    tree = Changing(scene.source, seed)
    tree.change(60 if seed % 3 else 250)
    places, trees = [], []
    for step in range(3):
        places.append(scene.snapshot(f"{step}"))
        trees.append(describe(places[-1]))
        tree.change((3, 15, 60)[(seed + step) % 3])
    for one, other in (0, 1), (1, 2), (2, 0):
        changes = told(places[one], places[other])
        assert disagreements(trees[one], trees[other], changes) == []


def test_the_same_is_told_over_ssh(scene: Scene, sshd: Sshd):
    tree = Changing(scene.source, 1)
    tree.change(100)
    one = scene.snapshot("one")
    tree.change(30)
    other = scene.snapshot("other")
    places = [ssh_place(sshd, place) for place in (one, other)]
    here = told(one, other)
    assert here
    sshd.mark()
    assert told(*ssh_words(sshd), *places) == here
    assert sshd.connections() == 1
    assert told(*ssh_words(sshd), places[0], "other") == here
    above = f"../{one.parent.name}/other"
    assert told(*ssh_words(sshd), places[0], above) == here


@pytest.fixture
def pair(scene: Scene) -> tuple[Path, Path]:
    """Return two snapshots with a change of each kind between them."""
    top = scene.source
    (top / "kept").write_bytes(bytes(range(256)) * 64)
    for name in ("d", "d/e", "gone"):
        (top / name).mkdir()
    for name in ("mode", "touched", "old", "saved", "d/e/f", "gone/x"):
        (top / name).write_bytes(b"12345")
    one = scene.snapshot("one")
    with open(top / "kept", "r+b") as file:
        file.write(b"x")
    (top / "d" / "e").rename(top / "moved")
    (top / "moved" / "f").write_bytes(b"123")
    (top / "mode").chmod(0o600)
    os.utime(top / "touched", (1, 1))
    (top / "old").rename(top / "new")
    (top / "saved~").write_bytes(b"123456")
    (top / "saved~").rename(top / "saved")
    shutil.rmtree(top / "gone")
    os.mkfifo(top / "d" / "fifo")
    (top / "d" / "link").symlink_to("fifo")
    os.link(top / "kept", top / "also")
    os.mkdir(os.fsencode(top) + b"/\x1b[31m\n \xff")
    return one, scene.snapshot("other")


LINES = r"""
+ \x1b[31m\n \xff  (directory)
+ also  (another name of kept)
+ d/fifo  (fifo)
+ d/link  (symlink)
- gone  (directory)
- gone/x
M kept  (4.0 KiB written)
m mode  (mode)
R d/e -> moved
M moved/f  (3 B written, now 3 B)
R old -> new
M saved  (6 B, replaced)
m touched  (times)
""".strip().splitlines()
SUMMARY = (
    "4 added (0 B), 3 changed, 2 renamed, 2 deleted, 2 only in metadata,"
    " 4.0 KiB written"
)


def test_people_get_a_line_for_each_path(pair: tuple[Path, Path]):
    assert lines(*pair) == [*sorted(LINES, key=_path), SUMMARY]
    assert lines(pair[0], "other", cwd="/") == lines(*pair)
    assert lines("one", "other", cwd=pair[0].parent) == lines(*pair)
    assert lines("./one", "./other", cwd=pair[0].parent) == lines(*pair)


def _path(line: str) -> str:
    path = line[2:].split("  (")[0].split(" -> ")[-1]
    return path.replace(r"\x1b", "\x1b").replace("/", "\0")


def test_any_byte_of_a_path_comes_through_json(pair: tuple[Path, Path]):
    first, *others = told(*pair)
    assert os.fsencode(first["path"]) == b"\x1b[31m\n \xff"
    assert first["path_base64"] == "G1szMW0KIP8="
    assert first["type"] == "directory"
    assert not any("path_base64" in change for change in others)


@covers("--no-times")
def test_what_only_has_other_times_can_be_left_out(pair: tuple[Path, Path]):
    *shown, summary = lines("--no-times", *pair)
    assert shown == [line for line in lines(*pair)[:-1] if "(times)" not in line]
    assert summary == SUMMARY.replace("2 only", "1 only")


def test_quiet_leaves_the_summary_out(pair: tuple[Path, Path]):
    one, other = pair
    shown = lines(*pair)[:-1]
    assert lines("-q", *pair) == shown
    assert lines("-q", one, one) == []
    set_read_only(other, False)
    os.utime(other, (1, 1))  # those of the top are noise
    set_read_only(other, True)
    assert lines("-q", *pair) == shown
    assert lines(one, one) == ["no difference"]
    assert told(one, one) == []


def test_a_terminal_gets_the_same_lines(pair: tuple[Path, Path]):
    wide, narrow = {"COLUMNS": "200"}, {"COLUMNS": "20"}
    shown = on_terminal("diff", "--progress", *pair, env=wide).stdout
    shown = shown.replace("\r\n", "\n").rpartition("\r")[2]
    assert shown == "\n".join([*lines(*pair), ""])
    shown = on_terminal("diff", *pair, env=narrow).stdout
    assert shown.split() == " ".join(lines(*pair)).split()
    details = [line for line in shown.splitlines() if line.startswith("    (")]
    assert details and max(map(len, details)) <= 20


def test_a_reader_that_goes_away_is_no_failure(pair: tuple[Path, Path]):
    words = ["diff", *map(str, pair)]
    command = ["sh", "-c", '"$@" | head -n 1', "sh", *PROGRAM, *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert (done.stdout.splitlines(), done.stderr) == (lines(*pair)[:1], "")


def test_two_snapshots_that_are_not_related_can_be_compared(scene: Scene):
    other = scene.subvolume("other")
    (other / "second").write_bytes(b"2")
    one = scene.snapshot("one")
    relative = other.relative_to(scene.source_disk.path)
    two = scene.source_disk.snapshot(relative, f"{relative}-snapshot")
    changes = told(one, two)
    assert disagreements_by_path(one, two, changes) == []


def disagreements_by_path(
    one: Path, two: Path, changes: list[Mapping[str, Any]]
) -> list[str]:
    """Compare names alone: inode numbers of two subvolumes mean nothing together."""
    before, after = set(os.listdir(one)), set(os.listdir(two))
    gone = {c["path"] for c in changes if c["change"] == "deleted"}
    gone |= {c["old_path"] for c in changes if c["change"] == "renamed"}
    came = {c["path"] for c in changes if c["change"] in ("added", "renamed")}
    return [*(gone ^ (before - after)), *(came ^ (after - before))]


# What is no pair of snapshots.


def test_what_can_be_written_to_is_refused_with_what_to_do(scene: Scene):
    one = scene.snapshot("one")
    for pair in (one, scene.source), (scene.source, one):
        text = complaint(diff(*pair), 4, str(scene.source), "can be written to")
        command = text.splitlines()[1].partition(":  ")[2]
    subprocess.run(command, shell=True, check=True, stdout=subprocess.DEVNULL)
    assert lines("--no-times", one, f"{scene.source}-now") == ["no difference"]


def test_what_can_be_written_to_is_refused_over_ssh(scene: Scene, sshd: Sshd):
    one = ssh_place(sshd, scene.snapshot("one"))
    words = [*ssh_words(sshd), one, scene.source.name]
    complaint(diff(*words), 4, "can be written to", "ssh ", "snapshot -r")
    complaint(diff(*ssh_words(sshd), one, "no"), 4, "/no does not exist")


def test_a_writable_one_on_a_mount_for_reading_is_no_snapshot(
    btrfs: MakesFilesystems,
):
    disk = btrfs()
    disk.subvolume("tree")
    disk.snapshot("tree", "one")
    disk.remount("ro")
    complaint(diff(disk.path / "one", "tree"), 1, "is not read-only", "Only read-only")


def test_what_is_no_snapshot_is_refused(scene: Scene, tmp_path: Path):
    one = scene.snapshot("one")
    (scene.source / "folder").mkdir()
    two = scene.snapshot("two")
    complaint(diff(one, "no"), 4, f"{one.parent}/no does not exist")
    complaint(diff(one, one / "first"), 4, "not a directory")
    complaint(diff(one, two / "folder"), 4, "inside the subvolume", str(two))
    complaint(diff(one, tmp_path), 4, str(tmp_path), "only btrfs snapshots")


def test_two_filesystems_are_refused(scene: Scene):
    disk = scene.destination_disk
    name = scene.destination.parent.name
    disk.subvolume(f"{name}/tree")
    other = disk.snapshot(f"{name}/tree", f"{name}/other")
    one = scene.snapshot("one")
    complaint(diff(one, other), 4, "two filesystems", f"diff -rq {one} {other}")


def test_two_mounts_of_one_filesystem_are_named(
    btrfs: MakesFilesystems, tmp_path: Path
):
    disk = btrfs()
    disk.subvolume("tree")
    one, other = disk.snapshot("tree", "one"), disk.snapshot("tree", "other")
    again = tmp_path / "again"
    again.mkdir()
    subprocess.run(["mount", disk.device, again], check=True)
    try:
        complaint(diff(one, again / "other"), 1, "not on mount point", "one mount")
    finally:
        subprocess.run(["umount", again], check=True)
    assert lines(one, other) == ["no difference"]


def test_two_machines_are_a_usage_error(scene: Scene, sshd: Sshd):
    one = scene.snapshot("one")
    there = ssh_place(sshd, one)
    complaint(diff(one, there), 2, "not on one machine", "A NAME")
    complaint(diff(there, one), 2, "not on one machine")
    complaint(diff(one, "shell://cat"), 2, "shell://")


def test_it_takes_two_places():
    complaint(diff(), 2, "none are given", "diff --help")
    complaint(diff("/a"), 2, "1 is given")
    complaint(diff("/a", "/b", "/c"), 2, "3 are given")
    complaint(diff("/a", ""), 2, "must not be empty")


def test_only_root_can_compare(scene: Scene):
    one, other = scene.snapshot("one"), scene.snapshot("other")
    done = as_nobody("diff", one, other)
    complaint(done, 4, "needs root", f"Run:  {sudo_line('diff', one, other)}")


# What fails on the way.


@pytest.mark.parametrize(
    ("ending", "parts"),
    [
        ("| head -c 300", ["is not understood", "damaged at byte", "ends"]),
        ("| head -c 300; echo ERROR: broken >&2; exit 3", ["status 3", "broken"]),
        ("; echo ERROR: late >&2; exit 4", ["btrfs send", "status 4", "late"]),
        ("| tr b x", ["is not understood", "damaged at byte"]),
    ],
)
def test_nothing_is_told_of_a_stream_that_did_not_end_well(
    pair: tuple[Path, Path], tmp_path: Path, ending: str, parts: list[str]
):
    real = shutil.which("btrfs")
    script(
        tmp_path / "btrfs",
        f'case $1 in send) {real} "$@" {ending};; *) exec {real} "$@";; esac',
    )
    done = diff(*pair, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    complaint(done, 1, *parts)
    assert done.stdout == ""


def test_no_data_is_read_and_one_send_is_enough(
    pair: tuple[Path, Path], tmp_path: Path
):
    path, log = logging_path(tmp_path, "btrfs")
    lines(*pair, env={"PATH": path})
    (sent,) = [line for line in log.read_text().splitlines() if " send " in line]
    assert " --no-data " in sent


def test_it_changes_nothing(pair: tuple[Path, Path], scene: Scene):
    seen = scene.fingerprint()
    lines(*pair)
    assert scene.fingerprint() == seen
