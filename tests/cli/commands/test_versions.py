"""The ``versions`` verb: what a file was is told, wherever that is kept."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.accounts import DOAS, SUDO_BTRFS, Account
from tests.support.command_line import (
    Done,
    as_nobody,
    complaint,
    covers,
    must,
    on_terminal,
    sudo_line,
)
from tests.support.filesystems import Filesystem, btrfs_filesystem
from tests.support.places import (
    STATE,
    moved_away,
    show,
    ssh_place,
    ssh_words,
    subvolumes,
)
from tests.support.processes import trace
from tests.support.program import PROGRAM, Argument, environment, run_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd
from tests.support.staged import read_only

#: One worker makes the scene that these tests share.
pytestmark = [pytest.mark.btrfs, pytest.mark.xdist_group("versions")]

THESIS = "me/deep/thesis.txt"
#: Of a directory and of a file in it.
HOSTILE = (b"d\n it's\xff", b"-f\n\\n \x1b[31m \xe2\x80\xae\xff\r")


def versions(*words: Argument, **changes: Any) -> Done:
    """Run it."""
    return run_program("versions", *words, **changes)


def read(done: Done, status: int = 0) -> dict[str, Any]:
    """Read its JSON."""
    found = json.loads(must(done, status).stdout)
    assert (found["version"], found["exit_status"]) == (1, status)
    assert isinstance(found, dict)
    return found


def timeline(found: dict[str, Any]) -> list[tuple[int | None, list[int], bool]]:
    """Return of each run: number, how many snapshots at each place, whether now."""
    return [
        (run["number"], [len(p["snapshots"]) for p in run["places"]], run["now"])
        for run in found["timeline"]
    ]


def rows(done: Done) -> list[list[str]]:
    """Return the cells of each line below the heading."""
    lines = [line for line in must(done).stdout.splitlines() if line[0] == " "]
    return [re.split("  +", line.strip()) for line in lines]


class Story(NamedTuple):
    """A file that changed, was deleted and came back, with backups here and over ssh.

    :ivar words: lead to the server.
    :ivar place: the backups there.
    """

    scene: Scene
    file: Path
    words: list[str]
    place: str

    @property
    def here(self) -> list[str]:
        """Return the three places with snapshots."""
        return [str(self.scene.source), str(self.scene.destination), self.place]

    def versions(self, *words: Argument) -> Done:
        """Ask for the versions of the file."""
        return versions(*self.words, self.file, *words)

    @property
    def ids(self) -> list[str]:
        """Return the ids of the versions: two in snapshots, and the present one.

        The source has no snapshot any more with the first one in its first period.
        """
        paths = subvolumes(self.scene.destination)[:2]
        return [show(path).received_uuid[:8] for path in paths] + ["now"]


@pytest.fixture(scope="module")
def story(disks: tuple[Filesystem, Filesystem], session_sshd: Sshd) -> Story:
    scene = Scene(*disks, is_small=True)
    scene.destination.chmod(0o755)
    there = scene.other_destination("there")
    words, place = ssh_words(session_sshd), ssh_place(session_sshd, there)
    file = scene.source / THESIS
    file.parent.mkdir(parents=True)

    def back_up(*options: str) -> None:
        scene.back_up(*words, *options, place)

    file.write_text("a\nb\n")
    back_up()
    file.write_text("a\nc\n")
    os.utime(file, (0, 0))  # as large as before, and with any time
    back_up()
    file.unlink()
    (file.parent / "other").touch()
    back_up()
    file.write_text("a\nb\n")
    back_up("-N", "3")
    file.write_text("a\nb\nnow\n")
    return Story(scene, file, words, place)


def test_a_files_timeline_is_over_all_its_places(story: Story, sshd: Sshd):
    found = read(story.versions("--json"))
    assert (sshd.connections(), sshd.sessions()) == (1, 1)
    assert (found["subvolume"], found["path"]) == (story.here[0], THESIS)
    assert found["failures"] == []
    assert timeline(found) == [
        (1, [1, 1], False),
        (2, [1, 1, 1], False),
        (None, [1, 1, 1], False),
        (1, [1, 1, 1], False),
        (3, [], True),
    ]
    assert [p["place"] for p in found["timeline"][1]["places"]] == story.here


def test_each_version_is_described_and_where_to_get_it(story: Story):
    one, two, three = read(story.versions("--json"))["versions"]
    assert [version["id"] for version in (one, two, three)] == story.ids
    for version, content in ((one, b"a\nb\n"), (two, b"a\nc\n")):
        assert version["sha256"] == hashlib.sha256(content).hexdigest()
        assert version["size_bytes"] == 4
        back = version["restore"]
        assert (back["place"], back["path"]) == (story.here[0], THESIS)
        kept = story.scene.snapshot_folder / back["snapshot"] / THESIS
        assert kept.read_bytes() == content
    assert two["modified"] == "1970-01-01T00:00:00+00:00"
    assert (three["sha256"], three["size_bytes"]) == (None, 8)  # as no other is
    assert (three["now"], three["restore"]) == (True, None)


def test_the_timeline_is_shown_with_the_command_that_brings_a_version_back(
    story: Story,
):
    done = story.versions()
    heading, *_, last = done.stdout.splitlines()
    assert heading == f"{story.file}: 3 versions in 11 snapshots"
    cells, here, ids = rows(done), story.here, story.ids
    assert [(row[0], row[3]) for row in cells] == [
        (ids[0], "4 B"),
        (ids[1], "4 B"),
        ("-", "deleted"),
        (ids[0], "4 B"),
        ("now", "8 B"),
    ]
    assert cells[1][4] == f"1 at {here[0]}, 1 at {here[1]}, 1 at {here[2]}"
    assert cells[4][1::3] == ["now", "now"]
    newest = story.scene.snapshot_names[-1]
    assert last == (
        f"Bring version {ids[0]} back:  btrfs-backup-ng restore {here[0]} {newest}"
        f" --file {THESIS} --to DIR"
    )


@covers("--id", "--number")
def test_a_version_comes_back_by_its_id(story: Story):
    """From the nearest place, and from another machine."""
    one, two, _ = story.ids
    for version, text, at in ((one, "a\nb\n", ()), (two, "a\nc\n", (story.place,))):
        back = story.scene.other_destination(f"back {version}")
        words: list[Argument] = [*story.words, "--file", story.file, "--to", back]
        must(run_program("restore", *at, *words, "--id", version))
        assert (back / THESIS).read_text() == text
    complaint(
        run_program("restore", *words, "--number", two), 4, "already exists below"
    )
    done = run_program("restore", *words, "--id", "00000000")
    complaint(done, 2, f"no version 00000000 of {THESIS}, only {one}, {two}, now")
    complaint(run_program("restore", *words, "--id", "2"), 2, "is not the id")
    complaint(run_program("restore", *words, "--id", "now"), 4, "is in no snapshot")
    words = ["--to", back, "--file", f"/proc/{THESIS}", "--id", one]
    complaint(
        run_program("restore", *words),
        4,
        "only btrfs has snapshots",
        "FILE is the path that versions was asked for, not one in the snapshot",
    )


def test_an_id_means_the_same_version_whichever_place_is_away(story: Story):
    one, two, _ = story.ids
    newer = show(story.scene.snapshot_folder / story.scene.snapshot_names[-1]).uuid
    for number, (away, version, text) in enumerate(
        (
            (story.scene.destination, one, "a\nb\n"),
            (story.scene.destination, two, "a\nc\n"),
            (story.scene.snapshot_folder, newer, "a\nb\n"),  # of any that has it
        )
    ):
        back = story.scene.other_destination(f"away {number}")
        words: list[Argument] = [*story.words, "--file", story.file, "--to", back]
        with moved_away(away):
            must(run_program("restore", *words, "--id", version))
        assert (back / THESIS).read_text() == text
    with moved_away(story.scene.destination):  # there alone it may be
        done = run_program("restore", *words, "--id", "00000000")
    complaint(done, 4, "could not be searched", story.here[1])


@covers("--diff")
def test_the_difference_of_two_versions(story: Story):
    one, two, _ = story.ids
    heading, _, *lines = must(story.versions("--diff", one, two)).stdout.splitlines()
    assert lines == ["@@ -1,2 +1,2 @@", " a", "-b", "+c"]
    assert f"{THESIS} (version {one}, {story.scene.snapshot_names[-1]}, " in heading
    # A version from another machine; the one that is there now.
    text = must(versions(story.file, *story.words, "--diff", "now", one)).stdout
    assert text.splitlines()[2:] == ["@@ -1,3 +1,2 @@", " a", " b", "-now"]


@covers("--at")
def test_one_place_is_asked_though_the_files_directory_is_gone(story: Story):
    with moved_away(story.file.parent):
        found = timeline(read(story.versions("--json", "--at", story.place)))
        shown = on_terminal("versions", story.file, *story.words, env={"COLUMNS": "40"})
    assert (found[0], found[-1]) == ((1, [1], False), (None, [], True))
    lines = shown.stdout.replace("\r\n", "\n").splitlines()[:-1]
    assert all(len(line) <= 40 or len(line.split()) < 4 for line in lines), lines


def test_the_other_places_are_read_where_one_is_away(story: Story):
    mistyped = story.scene.source.parent / "mistyped"
    words: list[Argument] = ["-p", "x-", story.scene.source, mistyped]
    complaint(run_program(*words), 4, "does not exist")
    with moved_away(story.scene.destination):
        done = story.versions("--json")
    found = read(done, 10)
    assert [one["place"] for one in found["failures"]] == [story.here[1]]
    assert f"{story.here[1]} does not exist" in done.stderr
    assert timeline(found)[0] == (1, [1], False)


def test_a_version_that_is_only_behind_ssh_is_fetched_for_the_difference(story: Story):
    story_ids = story.ids[:2]
    with moved_away(story.scene.destination), moved_away(story.scene.snapshot_folder):
        text = must(story.versions("--diff", *story_ids), 10).stdout
    assert text.splitlines()[2:] == ["@@ -1,2 +1,2 @@", " a", "-b", "+c"]


def test_whatever_its_name_and_whatever_it_is(scene: Scene, sshd: Sshd):
    folder, name = map(os.fsdecode, HOSTILE)
    file = scene.source / folder / name
    file.parent.mkdir()
    words, there = ssh_words(sshd), ssh_place(sshd, scene.destination)
    outside = scene.source.parent / "outside"
    outside.mkdir()
    (outside / name).write_text("not in any snapshot")

    def back_up() -> None:
        must(run_program("-p", "x-", *words, scene.source, there))

    file.write_bytes(b"\0binary" * 1000)
    back_up()
    file.unlink()
    file.symlink_to(b"to\n\xff where" + HOSTILE[1])
    back_up()
    file.unlink()
    file.mkdir()
    back_up()
    file.rmdir()
    os.mkfifo(file)
    back_up()
    shutil.rmtree(file.parent)
    file.parent.symlink_to(outside)  # what is behind is nobody's version
    back_up()
    file.parent.unlink()
    file.parent.mkdir()
    file.write_bytes(b"\1binary" * 1000)
    found = read(versions("--json", *words, file))
    kinds = [(v["number"], v["kind"], v["size_bytes"]) for v in found["versions"]]
    assert kinds == [
        (1, "file", 7000),
        (2, "link", None),
        (3, "directory", None),
        (4, "pipe", None),
        (5, "file", 7000),
    ]
    assert timeline(found)[4:] == [(None, [1, 1], False), (5, [], True)]
    assert os.fsencode(found["path"]) == b"/".join(HOSTILE)
    assert (
        os.fsencode(found["versions"][1]["link_to"]) == b"to\n\xff where" + HOSTILE[1]
    )
    digests = [found["versions"][index]["sha256"] for index in (0, 4)]
    assert digests[0] == hashlib.sha256(b"\0binary" * 1000).hexdigest() != digests[1]
    done = must(versions(*words, file))
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e\udcff]", done.stdout)
    assert len(done.stdout.splitlines()) == 8
    # A path with a slash at its end, or one that starts elsewhere, is the same.
    same = versions("--json", *words, f"./{name}/", cwd=file.parent)
    assert read(same)["path"] == found["path"]
    ids = [version["id"] for version in found["versions"]]
    done = must(versions("--diff", ids[0], "now", *words, file))
    assert done.stdout == (
        f"versions {ids[0]} (6.8 KiB) and now (6.8 KiB) differ, and are not text\n"
    )
    for version in ids[2:4]:
        done = versions("--diff", ids[0], version, *words, file)
        complaint(done, 4, f"version {version} is a ")
    link = must(versions("--diff", ids[1], ids[1], *words, file), 2)
    assert f"both are {ids[1]}" in link.stderr


def test_backups_of_others_are_left_out(scene: Scene):
    other = scene.subvolume("other")
    for subvolume, prefix in ((scene.source, "x-"), (other, "y-")):
        (subvolume / "file").write_text(f"of {prefix}")
        must(run_program("-p", prefix, subvolume, scene.destination))
    read_only(scene.destination / "x-20200101-000000", content="received by nobody")
    found = read(versions("--json", scene.source / "file"))
    assert timeline(found) == [(1, [1, 1], True)]
    # Snapshots in one folder elsewhere: by the subvolume that they are of.
    folder = scene.source.parent / "folder"
    folder.mkdir()
    for subvolume in (scene.source, other):
        (subvolume / "file").write_text("now")
        must(run_program("-T", "-f", folder, "-p", "x-", subvolume))
    for option in ("-f", "--snapshot-folder"):
        found = read(versions("--json", option, folder, scene.source / "file"))
        own = [p for run in found["timeline"] for p in run["places"]]
        assert [
            len(p["snapshots"]) for p in own if p["place"] == str(scene.source)
        ] == [1]


def test_a_file_may_be_named_by_any_mount_of_its_subvolume(
    scene: Scene, tmp_path: Path
):
    folder = scene.source / "folder"
    folder.mkdir()
    (folder / "file").write_text("x")
    link = tmp_path / "link"
    link.symlink_to(scene.source)
    must(
        run_program(
            "-p", "x-", "-f", scene.source.parent / "f", link, scene.destination
        )
    )
    (scene.source / STATE / "holds.json").unlink()  # the history knows by itself
    bound = tmp_path / "bound"
    bound.mkdir()
    try:
        subprocess.run(["mount", "--bind", scene.source, bound], check=True)
        found = read(versions("--json", bound / "folder" / "file"))
        assert (found["subvolume"], found["path"]) == (str(bound), "folder/file")
        assert timeline(found) == [(1, [1, 1], True)]
        subprocess.run(["umount", bound], check=True)
        subprocess.run(["mount", "--bind", folder, bound], check=True)
        complaint(versions(bound / "file"), 4, "mounted by itself")
    finally:
        subprocess.run(["umount", bound], check=True)
    for path in (link / "folder" / "file", folder / "file"):
        found = read(versions("--json", path))
        assert timeline(found) == [(1, [1, 1], True)]
    found = read(versions("--json", "--at", scene.source, folder / "file"))
    assert timeline(found) == [(1, [1], True)]


def test_what_cannot_be_read_is_its_own_version_and_told(scene: Scene, tmp_path: Path):
    (scene.source / "file").write_text("first")
    scene.back_up()
    (scene.source / "file").write_text("secnd")
    scene.back_up()
    log = "case $* in *x-*file*) exit 1;; esac; exec /usr/bin/sha256sum"
    fake = tmp_path / "bin" / "sha256sum"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\n{log} "$@"\n')
    fake.chmod(0o755)
    env = {"PATH": f"{fake.parent}:{os.environ['PATH']}"}
    found = read(versions("--json", scene.source / "file", env=env), 10)
    assert [v["readable"] for v in found["versions"]] == [False, False]
    done = must(versions(scene.source / "file", env=env), 10)
    assert done.stdout.count("5 B, cannot be read") == 2


def test_who_may_only_run_btrfs_there_is_told_and_nothing_taken_for_absent(
    scene: Scene, sshd: Sshd, account: Callable[..., Account]
):
    closed = scene.source / "closed"
    closed.mkdir(mode=0o700)
    (closed / "file").write_text("x")
    (scene.source / "open").write_text("x")
    scene.back_up()
    words = ssh_words(sshd)
    for rights, works in (({"doas": DOAS}, True), ({"sudoers": SUDO_BTRFS}, False)):
        user = account(**rights)
        place = ssh_place(sshd, scene.destination, user=user.name)
        at = [*words, "--at", place]
        assert timeline(read(versions("--json", *at, scene.source / "open"))) == [
            (1, [1, 1], True)
        ]
        done = versions("--json", *at, closed / "file")
        found = read(done, 0 if works else 10)
        assert timeline(found) == [(1, [1, 1] if works else [1], True)]
        if not works:
            assert "Permission denied" in found["failures"][0]["message"]
            assert "let sudo run stat, sha256sum, readlink and cat" in done.stderr


def test_300_snapshots_cost_what_few_do(
    tmp_path_factory: pytest.TempPathFactory, scene: Scene
):
    """One look at all of them, however many there are."""
    directory = tmp_path_factory.mktemp("versions")
    with btrfs_filesystem(directory, mount_options=("nobarrier", "noatime")) as disk:
        home = disk.subvolume("home")
        folder = home / STATE / "snapshots"
        folder.mkdir(parents=True)
        for number in range(300):
            if number % 100 == 0:
                (home / "file").write_text(f"{number:03}")
            name = f"x-20200202-00{number // 60:02}{number % 60:02}"
            disk.snapshot("home", os.path.relpath(folder / name, disk.path))
        traced = trace(*PROGRAM, "versions", home / "file", env=environment())
        assert traced.returncode == 0, traced.stderr
        first = traced.stdout.splitlines()[1:4]
        assert [f"100 at {home}" in line for line in first] == [True] * 3
        # One version of btrfs-progs; a shell and xargs for each of two questions, and
        # for the second one a process for its three files.
        assert traced.count("sha256sum") == traced.count("stat") == 1
        assert traced.processes <= 12, traced.execs


def test_what_makes_no_sense_is_told(scene: Scene, tmp_path: Path):
    file = scene.source / "first"
    for words, status, part in (
        ([], 2, "no place given"),
        ([file, file], 2, "takes one file, and 2 are given"),
        (["ssh://nas/x"], 2, "on this machine"),
        (["--at", "shell://cat", file], 2, "shell://"),
        (["--diff", "now", "x", file], 2, "not the id of a version"),
        ([""], 2, "path of a file"),
        ([scene.source], 4, "a whole subvolume"),
        ([tmp_path / "x" / "y"], 4, "only btrfs has snapshots"),
        ([file], 4, "no snapshots or backups"),
    ):
        done = versions(*words)
        complaint(done, status, part)
    done = versions("--diff", "now", "1234", "--json", file)
    assert done.returncode == 2 and "not JSON" in done.stderr
    scene.back_up()
    origin = show(scene.snapshot_folder / scene.snapshot_names[0]).uuid
    words = ["--diff", "now", "1234-5678"]
    complaint(
        versions(*words, file), 2, f"no version 12345678 of first, only {origin[:8]}"
    )
    complaint(versions(scene.source / "no"), 1, "no is in none of the 2 snapshots")
    (scene.source / "folder").mkdir()
    complaint(versions(scene.source / "folder"), 4, "is a directory", "diff A B")
    assert must(versions("-q", file)).stdout == ""
    done = as_nobody("versions", file)
    complaint(done, 4, f"Run:  {sudo_line('versions', file)}")
    shown = must(versions("--help")).stdout
    assert "--diff" in shown
