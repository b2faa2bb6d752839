"""The ``verify`` verb: every damage is found, said, and nothing else happens."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from btrfs_backup_ng.__util__ import UsageError
from btrfs_backup_ng.cli.commands import verify as command
from btrfs_backup_ng.cli.parser import parse_places
from tests.conftest import MakesFilesystems
from tests.support.accounts import SUDO_ALL, SUDO_BTRFS, Account
from tests.support.command_line import (
    Done,
    as_nobody,
    complaint,
    covers,
    must,
    script,
    sudo_line,
)
from tests.support.filesystems import Filesystem
from tests.support.places import (
    STATE,
    deduplicate,
    send_and_receive,
    set_read_only,
    show,
    ssh_place,
    ssh_words,
    staged,
    tamper,
)
from tests.support.processes import everything, wait_until
from tests.support.program import Argument, run_program, start_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd
from tests.support.staged import (
    Way,
    both_ways,
    document,
    fill,
    interrupted_transfer,
    local_way,
    locked,
    read_only,
    ssh_way,
)

#: One worker makes the scene that these tests share.
pytestmark = [pytest.mark.btrfs, pytest.mark.xdist_group("verify")]

RECORD = f"{STATE}/verified.json"


def verify(*words: Argument, **changes: Any) -> Done:
    return run_program("verify", *words, **changes)


def looked(*words: Argument, status: int = 0) -> dict[str, Any]:
    """Run it, and give the place of its document."""
    (place,) = document(verify("--json", *words), status)
    return place


def results(place: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["result"] for one in place["snapshots"]}


def found(place: dict[str, Any], name: str = "") -> set[tuple[str, str]]:
    """Return the checks of a snapshot, or the place, that were not good."""
    told = place
    if name:
        (told,) = (one for one in place["snapshots"] if one["name"] == name)
    checks = ((finding["check"], finding["result"]) for finding in told["findings"])
    return {check for check in checks if check[1] != "good"}


def with_source(scene: Scene, way: Way) -> list[str]:
    """Name destination and source by the same way, and how its backups are named."""
    return [*way(scene.destination), f"--source={way(scene.source)[-1]}", "-px-"]


def snapshots_of(scene: Scene) -> Path:
    return scene.source / STATE / "snapshots"


def places_of(scene: Scene) -> tuple[Path, Path]:
    """Return the directories of the snapshots and of their backups."""
    return snapshots_of(scene), scene.destination


def btrfs(*words: Argument) -> None:
    subprocess.run(["btrfs", "-q", *words], check=True)


# What is good.


@covers("--source", "--from")
def test_what_is_good_is_said_to_be_and_only_the_record_is_written(
    scene: Scene, sshd: Sshd
):
    for _ in range(2):
        scene.back_up()
    before = scene.fingerprint()
    with locked(scene.destination / STATE), locked(scene.source / STATE):
        for way in both_ways(sshd):
            place = looked(*with_source(scene, way))
            assert results(place) == dict.fromkeys(scene.backup_names, "good")
            assert (place["result"], place["level"]) == ("good", "identity")
            assert place["findings"] == place["notes"] == []
        words = [str(scene.destination), f"--from={scene.source}", "latest"]
        assert looked(*words)["snapshots"] == place["snapshots"][-1:]
    changed = scene.fingerprint() ^ before
    state = str(scene.destination / STATE)
    own = {state, f"{state}/.", f"{state}/verified.json"}
    assert {entry[0] for entry in changed if isinstance(entry, tuple)} <= own
    assert all(isinstance(entry, tuple) for entry in changed)
    done = must(verify(scene.destination))
    *lines, last = done.stdout.splitlines()
    assert [line.split() for line in lines] == [["good", n] for n in scene.backup_names]
    assert last == f"{scene.destination}: 2 good (identity)"
    assert must(verify("-q", scene.destination)).stdout == done.stderr == ""


def test_identity_takes_as_many_sessions_for_many_as_for_one(scene: Scene, sshd: Sshd):
    fill(scene, 40)
    words = with_source(scene, ssh_way(sshd))
    sshd.mark()
    must(verify(*words))
    many = sshd.sessions()
    btrfs(
        "subvolume", "delete", *(scene.destination / n for n in scene.backup_names[1:])
    )
    sshd.mark()
    verify(*words)
    assert many == sshd.sessions() == 1


# Damages of identity.


def test_a_parent_that_is_missing(scene: Scene, sshd: Sshd):
    scene.back_up()
    scene.back_up()
    (base,) = scene.backup_names[-1:]
    btrfs("subvolume", "delete", scene.destination / base)
    for way in both_ways(sshd):
        place = looked(*with_source(scene, way), status=1)
        assert found(place) == {("parent", "bad")}
        assert base in place["findings"][0]["text"]
    btrfs("subvolume", "delete", scene.destination / scene.backup_names[0])
    other = read_only(scene.source.parent / "x-20200101-000000")
    send_and_receive(other, scene.destination)
    place = looked(*with_source(scene, local_way), status=1)
    last = must(verify(*with_source(scene, local_way)), 1).stdout.splitlines()[-1]
    assert last.endswith("good; of the place itself: 2 bad (identity)")
    text = place["findings"][-1]["text"]
    assert text == (f"the next backup from {scene.source} is full (no common snapshot)")
    elsewhere = scene.other_destination("another disk")  # from which no backup is made
    read_only(elsewhere / "x-20200202-000000")
    (finding,) = looked(scene.destination, "--source", elsewhere, status=1)["findings"]
    assert finding["text"] == f"no snapshot is common with {elsewhere}"


def test_what_another_tool_made_and_copied_is_a_copy_of_what_is_there(
    scene: Scene, sshd: Sshd
):
    folder = scene.source.parent / "taken"
    folder.mkdir()
    btrfs("subvolume", "snapshot", "-r", scene.source, folder / "monday")
    copy = send_and_receive(folder / "monday", scene.destination)
    for way in both_ways(sshd):
        words: list[Argument] = [*with_source(scene, way), "-f", folder, "--data"]
        (one,) = looked(*words)["snapshots"]
        assert (one["name"], one["findings"]) == ("monday", [])
        assert one["compared"] > 1
    set_read_only(copy, False)
    (copy / "more").touch()
    set_read_only(copy, True)
    (one,) = looked(*words, status=1)["snapshots"]
    assert "difference" in one["findings"][0]["text"]


def test_a_snapshot_made_anew_under_an_old_name(scene: Scene, sshd: Sshd):
    name, other = fill(scene, 2)
    btrfs("subvolume", "delete", snapshots_of(scene) / name)
    place = looked(*with_source(scene, local_way))
    assert results(place)[name] == "good"  # the source may forget
    read_only(snapshots_of(scene) / name)
    for way in both_ways(sshd):
        place = looked(*with_source(scene, way), status=1)
        assert found(place, name) == {("source", "bad")}
        assert found(place, other) == found(place) == set()


def test_copies_that_were_made_writable_or_never_were_complete(
    scene: Scene, sshd: Sshd
):
    kept, lost, back, edited, one, good = fill(scene, 6)
    set_read_only(scene.destination / kept, False)
    for name in (lost, back):
        path = scene.destination / name
        btrfs("property", "set", "-f", "-ts", path, "ro", "false")
    btrfs("property", "set", "-ts", scene.destination / back, "ro", "true")
    published = scene.destination / f"{edited}_1"  # as we make them: sealed
    btrfs("subvolume", "snapshot", "-r", scene.destination / edited, published)
    btrfs("subvolume", "delete", scene.destination / edited)
    tamper(published)
    twin = scene.destination / "x-20200101-000000"
    btrfs("subvolume", "snapshot", "-r", scene.destination / one, twin)
    cut = scene.destination / "x-20260301-000000"
    btrfs("subvolume", "create", cut)
    interrupted_transfer(scene)
    read_only(scene.destination / "their own")
    (scene.destination / "x-20260401-000000").write_text("a file")
    damages = {
        kept: "read-only",
        lost: "read-only",
        cut.name: "read-only",
        back: "received-uuid",
        published.name: "seal",
        one: "duplicate",
        twin.name: "duplicate",
    }
    for way in both_ways(sshd):
        place = looked(*way(scene.destination), status=1)
        assert results(place) == {good: "good", **dict.fromkeys(damages, "bad")}
        for name, check in damages.items():
            assert found(place, name) == {(check, "bad")}, name
        assert (place["foreign"], place["findings"]) == (1, [])
        (note,) = place["notes"]
        assert "was interrupted, and can be resumed" in note
        text = {s["name"]: s["findings"][0]["text"] for s in place["snapshots"][:3]}
        assert "carries a received UUID" in text[kept]
        assert (
            "a receive was interrupted" in text[lost] and text[lost] == text[cut.name]
        )
    done = must(verify("-q", scene.destination, published.name), 1)
    line, hint, again = done.stdout.splitlines()
    assert line == f"BAD        {published.name}: it was written to after it was made"
    assert "deduplication" in hint
    words = f"verify {scene.destination} {published.name} --data --source SOURCE"
    assert again.endswith(words)
    record = json.loads((scene.destination / RECORD).read_text())["snapshots"]
    assert record[show(published).uuid]["identity"]["result"] == "bad"
    assert record[show(scene.destination / good).uuid]["identity"]["result"] == "good"


def test_a_source_whose_snapshots_share_one_received_uuid(scene: Scene, sshd: Sshd):
    """As after a restore that was made writable without clearing it."""
    names = ["x-20260101-000000", "x-20260102-000000"]
    snapshots_of(scene).mkdir(parents=True)
    other = scene.source.parent / "other"
    other.mkdir()
    first = read_only(scene.source.parent / "origin")
    restored = send_and_receive(first, other)
    set_read_only(restored, False)
    for name in names:
        (restored / "file").write_text(name)
        btrfs("subvolume", "snapshot", "-r", restored, snapshots_of(scene) / name)
    scene.back_up("-S")
    assert len({show(snapshots_of(scene) / name).received_uuid for name in names}) == 1
    for way in both_ways(sshd):
        place = looked(*with_source(scene, way), "--data", status=1)
        assert found(place) == {("duplicate", "bad"), ("parent", "bad")}
        assert "has the same received UUID" in place["findings"][-1]["text"]
        for name in names:
            assert found(place, name) == {("duplicate", "bad")}
        assert {one["difference_count"] for one in place["snapshots"]} == {0}


def test_copies_elsewhere_that_receive_may_take_as_parent(scene: Scene, sshd: Sshd):
    one, other = fill(scene, 2)
    elsewhere = scene.other_destination("elsewhere") / "copy"
    btrfs("subvolume", "snapshot", "-r", scene.destination / one, elsewhere)
    place = looked(scene.destination)  # unchanged: either will do
    assert "same received UUID" in place["snapshots"][0]["findings"][0]["text"]
    tamper(elsewhere)
    for way in both_ways(sshd):
        place = looked(*way(scene.destination), status=1)
        assert found(place, one) == {("duplicate", "bad")}
        assert found(place, other) == set()
    with locked(scene.destination / STATE):  # it may be what is being received
        place = looked(scene.destination, status=10)
        assert found(place, one) == {("duplicate", "unchecked")}


def test_records_that_cannot_be_read(scene: Scene, sshd: Sshd):
    fill(scene)
    for path in (scene.source / STATE / "holds.json", scene.destination / RECORD):
        path.write_text('{"version": 1, "dest')
    place = looked(*with_source(scene, local_way), status=1)
    assert found(place) == {("records", "bad")}
    assert "holds.json" in place["findings"][0]["text"]
    (note,) = place["notes"]
    assert "verified.json cannot be read" in note and "moved to" in note
    aside = re.search(r"verified\.json\.unreadable-\w+", note)
    assert aside and (scene.destination / STATE / aside[0]).exists()
    assert json.loads((scene.destination / RECORD).read_text())["snapshots"]
    (scene.destination / STATE / "sources.json").write_text("nonsense")
    place = looked(*with_source(scene, ssh_way(sshd)), status=1)
    texts = " ".join(finding["text"] for finding in place["findings"])
    assert "holds.json" in texts and "sources.json" in texts


# Contents.

FILES = 2000
#: With their other names, the directories, what a scene has, and the symlink.
ENTRIES = FILES + FILES // 50 + 23


def plant(source: Path, count: int = FILES) -> None:
    """Fill a source with files in directories, some with xattrs and other names."""
    for number in range(count):
        path = source / f"{number % 20}" / f"file {number}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"%d " % number * (number % 300 + 1))
        if number % 7 == 0:
            os.setxattr(path, "user.number", b"%d" % number)
        if number % 50 == 0:
            os.link(path, path.with_name(f"another {number}"))
    (source / "link").symlink_to("nowhere")


def quietly(path: Path, change: Any) -> None:
    """Change something in a directory and leave no trace in its times."""
    before = path.parent.stat()
    times = (path.stat().st_mtime_ns,) * 2 if path.exists() else (0, 0)
    change(path)
    if path.exists():
        os.utime(path, ns=times)
    os.utime(path.parent, ns=(before.st_atime_ns, before.st_mtime_ns))


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    with open(path, "r+b") as file:
        file.write(raw)


DAMAGES = {
    "1/file 21": ("contents", flip),
    "2/file 22": ("mode", lambda path: path.chmod(0o600)),
    "7/file 7": ("xattr", lambda path: os.removexattr(path, "user.number")),
    "9/extra": ("presence", lambda path: path.touch()),
}


@covers("--data")
def test_four_small_damages_among_many_files_are_found(scene: Scene, sshd: Sshd):
    plant(scene.source)
    scene.back_up()
    scene.back_up()
    good, damaged = scene.backup_names
    there = ssh_way(sshd)
    mixed = [*there(scene.destination), f"--source={scene.source}"]
    set_read_only(scene.destination / damaged, False)
    for name, (_, change) in DAMAGES.items():
        quietly(scene.destination / damaged / name, change)
    set_read_only(scene.destination / damaged, True)
    for words in (
        with_source(scene, local_way),
        [*mixed, "all"],
        [*with_source(scene, there), damaged],
    ):
        place = looked("--data", *words, status=1)
        *ones, other = place["snapshots"]
        for one in ones:
            assert (one["name"], one["result"]) == (good, "good")
            assert (one["differences"], one["compared"]) == ([], ENTRIES)
        assert other["compared"] == ENTRIES
        assert found(place, damaged) == {("seal", "bad"), ("contents", "bad")}
        told = [(each["path"], each["aspect"]) for each in other["differences"]]
        assert told == [(name, aspect) for name, (aspect, _) in DAMAGES.items()]
        assert other["difference_count"] == len(told)
    values = {each["aspect"]: each for each in other["differences"]}
    assert (values["mode"]["original"], values["mode"]["copy"]) == ("0644", "0600")
    assert values["xattr"]["name"] == "user.number"
    assert values["xattr"]["copy"] == values["presence"]["original"] == "missing"
    contents = values["contents"]
    assert re.fullmatch("sha256 [0-9a-f]{64}", contents["original"])
    assert contents["original"] != contents["copy"]


def test_many_differences_are_counted_and_the_first_are_told(scene: Scene):
    scene.back_up()
    (name,) = scene.backup_names
    top = os.fsencode(scene.destination / name)
    set_read_only(scene.destination / name, False)
    for number in range(1100):
        Path(os.fsdecode(top), f"\x1b[31m{number:04}").touch()
    os.mkdir(os.path.join(top, b"\nline \xff"))
    set_read_only(scene.destination / name, True)
    words = ["--data", *with_source(scene, local_way)]
    (one,) = looked(*words, status=1)["snapshots"]
    assert one["difference_count"] == 1101 and len(one["differences"]) == 1000
    assert one["differences"][0]["path_base64"] == "CmxpbmUg/w=="
    shown = must(verify(*words), 1).stdout
    assert "and 1081 more (-v shows 1000)" in shown and "\x1b" not in shown
    assert "  \\nline \\xff: presence: missing -> directory\n" in shown
    assert shown.count("presence: missing -> file") == 19
    assert (
        must(verify("-v", *words), 1).stdout.count("presence: missing -> file") == 999
    )


def test_a_time_that_btrfs_send_leaves_wrong_is_a_remark(scene: Scene, sshd: Sshd):
    """That of the top directory, once a file below was replaced, as editors do."""
    docs = scene.source / "docs"
    docs.mkdir()
    for number in range(3):
        (docs / "new").write_text(f"{number}")
        (docs / "new").rename(docs / "letter")
        scene.back_up()
    *_, name = scene.backup_names
    times = [(d / name).stat().st_mtime_ns for d in places_of(scene)]
    assert times[0] != times[1]
    scratch = scene.other_destination("scratch")
    for way in both_ways(sshd):
        words = with_source(scene, way)
        place = looked("--data", *words)
        assert set(results(place).values()) == {"good"}
        (finding,) = place["snapshots"][-1]["findings"]
        assert (finding["check"], finding["result"]) == ("top-time", "good")
        assert place["snapshots"][-1]["difference_count"] == 0
        test = ["--restore-test", f"--scratch={way(scratch)[-1]}"]
        assert looked(*words, *test)["result"] == "good"
    record = json.loads((scene.destination / RECORD).read_text())["snapshots"]
    assert set(record[show(scene.destination / name).uuid]) == {
        *("identity", "data", "restore-test")
    }
    shown = must(verify(*with_source(scene, local_way), name, "--data")).stdout
    assert re.search(rf"^good +{name}: \d+ files .* the same; the mtime of", shown)
    set_read_only(scene.destination / name, False)
    os.utime(scene.destination / name / "docs", ns=(0, 0))
    set_read_only(scene.destination / name, True)
    for way in both_ways(sshd):
        place = looked("--data", *with_source(scene, way), status=1)
        (told,) = place["snapshots"][-1]["differences"]
        assert (told["path"], told["aspect"]) == ("docs", "mtime")


def test_what_lost_its_received_uuid_is_compared_with_its_namesake(scene: Scene):
    scene.back_up()
    (name,) = scene.backup_names
    path = scene.destination / name
    btrfs("property", "set", "-f", "-ts", path, "ro", "false")
    quietly(path / "first", flip)
    btrfs("property", "set", "-ts", path, "ro", "true")
    place = looked("--data", *with_source(scene, local_way), status=1)
    (one,) = place["snapshots"]
    assert [each["path"] for each in one["differences"]] == ["first"]


def test_a_changed_original_proves_nothing(scene: Scene, sshd: Sshd):
    scene.back_up()
    (name,) = scene.snapshot_names
    tamper(snapshots_of(scene) / name)
    for way in both_ways(sshd):
        place = looked("--data", *with_source(scene, way), status=1)
        assert found(place) == {
            ("parent", "bad")
        }  # the next one does not start from it
        assert found(place, name) == {("contents", "unchecked")}
        assert place["snapshots"][0]["difference_count"] == 1
    here = looked(*way(scene.source), status=1)  # a source is verified, too
    assert here["snapshots"][0]["kind"] == "snapshot"
    assert found(here, name) == {("seal", "bad")}


def test_what_the_disk_has_lost_is_found(scene: Scene, btrfs: MakesFilesystems, sshd):
    disk = btrfs(size="200M", mkfs_options=("-d", "single", "-m", "single"))
    destination = disk.path / "backups"
    destination.mkdir()
    content = os.urandom(1 << 16)
    (scene.source / "rotten").write_bytes(content)
    must(run_program("-p", "x-", scene.source, destination))
    disk.unmount()
    with open(disk.image, "r+b") as image, mmap.mmap(image.fileno(), 0) as raw:
        at = raw.find(content[:4096])
        raw[at + 100 : at + 101] = bytes((content[100] ^ 1,))
    disk.mount()
    for way in both_ways(sshd):
        words = [*way(destination), f"--source={way(scene.source)[-1]}", "--data"]
        place = looked(*words, status=1)
        (one,) = place["snapshots"]
        (difference,) = one["differences"]
        assert (difference["path"], difference["aspect"]) == ("rotten", "contents")
        assert difference["copy"].startswith("cannot be read: ")
    assert looked(destination)["result"] == "good"  # it reads no file


def test_nothing_is_read_any_more_once_nobody_listens(scene: Scene, sshd: Sshd):
    """Not even on the other machine, and not even if we were killed."""
    with open(scene.source / "large", "wb") as file:
        file.truncate(1 << 40)  # one hole, which takes long to hash
    scene.back_up()
    words = [*ssh_way(sshd)(scene.destination), f"--source={scene.source}"]
    for number in (signal.SIGTERM, signal.SIGKILL):
        with start_program("verify", "--data", *words) as program:
            wait_until(lambda: readers(scene.destination))
            program.send_signal(number)
            program.communicate()
        assert program.returncode == (143 if number == signal.SIGTERM else -9)
        wait_until(lambda: not readers(scene.destination))


def readers(below: Path) -> list[int]:
    """Return the processes that hash files in a directory."""
    found = []
    for process in everything():
        if process.argv[:1] == ("sha256sum",):
            with contextlib.suppress(OSError):
                where = os.readlink(f"/proc/{process.pid}/cwd")
                found += [process.pid] if where.startswith(str(below)) else []
    return found


@pytest.mark.parametrize("changed", ["backup", "snapshot"])
def test_a_deduplicated_snapshot_counts_as_unchanged_once_its_contents_are_compared(
    scene: Scene, sshd: Sshd, changed: str
):
    for name in ("one", "other"):
        (scene.source / name).write_bytes(b"the same" * 4096)
    for _ in range(2):
        scene.back_up()
    at = places_of(scene)[changed == "backup"]
    where = scene.destination if changed == "backup" else scene.source
    names = scene.backup_names
    for (name, way), there in zip(
        zip(names, both_ways(sshd), strict=True), ("", "ssh"), strict=True
    ):
        deduplicate(at / name / "one", at / name / "other")
        words = with_source(scene, way)
        place = looked(*way(where), status=1)
        assert found(place, name) == {("seal", "bad")}
        shown = must(run_program("list", scene.source, scene.destination)).stdout
        (line,) = (line for line in shown.splitlines() if "changed" in line)
        assert "or by deduplication" in line and "parent of the next" not in line
        place = looked("--data", *words)
        assert results(place)[name] == "good", there
        assert place["next_backup"]["parent"] == names[1]
        texts = str(place["snapshots"])
        assert "deduplication" in texts and "counts as unchanged again" in texts
        assert looked(*words)["result"] == "good"
        restored = scene.source.parent / f"restored{there}"
        must(run_program("restore", *way(where), name, "--to", restored))
    (scene.source / "more").touch()
    done = scene.back_up()
    assert f"since {names[1]}" in done.stdout and not done.stderr
    scene.check_laws()
    tamper(at / names[1])  # a later change shows as any other
    status, result = (1, "bad") if changed == "backup" else (10, "unchecked")
    for way in both_ways(sshd):
        place = looked("--data", *with_source(scene, way), status=status)
        assert (results(place)[names[1]], place["notes"]) == (result, [])


# A test of restoring.


class Trial(NamedTuple):
    """Two backups whose restore was tested: the latest here, then both through ssh.

    :ivar latest: the place as the first of these runs describes it.
    :ivar all: the same of the second.
    """

    scene: Scene
    scratch: Path
    damaged: str
    good: str
    latest: dict[str, Any]
    all: dict[str, Any]


@pytest.fixture(scope="module")
def tested(disks: tuple[Filesystem, Filesystem], session_sshd: Sshd) -> Trial:
    scene = Scene(*disks, is_small=True)
    plant(scene.source, 50)
    scene.back_up()
    scene.back_up()
    scratch = scene.other_destination("scratch")
    damaged, good = scene.backup_names
    set_read_only(scene.destination / damaged, False)
    quietly(scene.destination / damaged / "1/file 21", flip)
    set_read_only(scene.destination / damaged, True)
    words = [*with_source(scene, local_way), "--restore-test"]
    latest = looked(*words, f"--scratch={scratch}")
    there = ssh_way(session_sshd)
    words = [*with_source(scene, there), "--restore-test", "all"]
    both = looked(*words, f"--scratch={there(scratch)[-1]}", status=1)
    return Trial(scene, scratch, damaged, good, latest, both)


@covers("--restore-test", "--scratch")
def test_the_restore_of_the_latest_is_tested_if_none_is_named(tested: Trial):
    assert results(tested.latest) == {tested.good: "good"}
    assert tested.latest["snapshots"][0]["compared"] == 50 + 1 + 23


def test_a_damage_is_found_by_restoring(tested: Trial):
    assert results(tested.all) == {tested.damaged: "bad", tested.good: "good"}
    assert ("restore", "bad") in found(tested.all, tested.damaged)
    (difference,) = tested.all["snapshots"][0]["differences"]
    assert (difference["path"], difference["aspect"]) == ("1/file 21", "contents")


def test_what_was_restored_for_a_test_is_removed(tested: Trial):
    assert staged(tested.scratch) == []
    assert set(os.listdir(tested.scratch)) == {STATE}


def test_without_a_source_what_is_restored_is_compared_with_the_backup(tested: Trial):
    words = ("--restore-test", "--scratch", tested.scratch)
    done = must(verify(tested.scene.destination, *words))
    assert "compared with itself, as no source was given" in done.stdout


def test_where_another_run_works_no_restore_is_tested(tested: Trial):
    with locked(tested.scratch / STATE):
        words = ("--restore-test", f"--scratch={tested.scratch}")
        place = looked(tested.scene.destination, *words, status=10)
    assert "another run is working" in place["snapshots"][0]["findings"][0]["text"]


def test_what_was_found_by_restoring_is_listed(tested: Trial, sshd: Sshd):
    destination = tested.scene.destination
    told = must(run_program("list", destination)).stdout.splitlines()
    bad = rf"{tested.damaged} .*, found BAD \d+ s ago \(restore-test\)$"
    assert re.search(bad, told[2])
    assert re.search(
        rf"{tested.good} .*, verified \d+ s ago \(restore-test\)$", told[3]
    )
    words = ("list", "--json", *ssh_way(sshd)(destination))
    (listed,) = document(run_program(*words))
    one, other = (snapshot["verified"] for snapshot in listed["snapshots"])
    assert (one["level"], one["result"]) == ("restore-test", "bad")
    assert (other["level"], other["result"]) == ("restore-test", "good")
    assert 0 <= other["age_s"] < 600


def test_a_restore_that_was_tested_is_on_record_for_all_levels(tested: Trial):
    destination = tested.scene.destination
    record = json.loads((destination / RECORD).read_text())["snapshots"]
    levels = record[show(destination / tested.good).uuid]
    assert {seen["result"] for seen in levels.values()} == {"good"}
    assert set(levels) == {"identity", "data", "restore-test"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_test_that_is_ended_leaves_nothing_for_long(
    scene: Scene, tmp_path: Path, number: int
):
    """It is held up while the restored snapshot is there."""
    scene.back_up()
    scratch, marker = scene.other_destination("scratch"), tmp_path / "began"
    real = shutil.which("btrfs")
    script(
        tmp_path / "btrfs",
        f'case "$1" in receive) {real} "$@"; touch {marker};'
        f" while [ -e {marker} ]; do sleep 0.05; done;; esac\n"
        f'exec {real} "$@"',
    )
    words = ["verify", f"{scene.destination}", "--restore-test", f"--scratch={scratch}"]
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with start_program(*words, env=path) as program:
        wait_until(marker.exists)
        (transfer,) = staged(scratch)
        assert os.listdir(scratch / STATE / "incoming" / transfer)
        program.send_signal(number)
        program.communicate()
    marker.unlink()
    assert program.returncode == (143 if number == signal.SIGTERM else -9)
    assert staged(scratch) == ([] if number == signal.SIGTERM else [transfer])
    wait_until(lambda: not run_program(*words).returncode and not staged(scratch))


def test_a_restore_that_fails_could_not_be_checked(scene: Scene, tmp_path: Path):
    scene.back_up()
    scratch = scene.other_destination("scratch")
    real = shutil.which("btrfs")
    script(
        tmp_path / "btrfs",
        f'case "$1" in receive) head -c 100 >/dev/null; echo "ERROR: no" >&2; exit 1;;'
        f' esac\nexec {real} "$@"',
    )
    done = verify(
        *("--json", scene.destination, "--restore-test", "--scratch", scratch),
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    (place,) = document(done, 10)
    assert found(place, scene.backup_names[0]) == {("restore", "unchecked")}
    assert staged(scratch) == []


def test_a_restore_that_does_not_fit_is_not_begun(
    scene: Scene, btrfs: MakesFilesystems
):
    scene.add("large", 60 << 20)
    scene.back_up()
    scratch = btrfs(size="120M", mkfs_options=("--mixed",)).path
    words = [str(scene.destination), "--restore-test", f"--scratch={scratch}"]
    place = looked(*words, status=10)
    (finding,) = place["snapshots"][0]["findings"]
    assert "free; restoring" in finding["text"]
    assert staged(scratch) == []


# Which, when, and what cannot be checked.


@covers("--subset")
def test_parts_roll_through_all(scene: Scene):
    names = fill(scene, 12)
    seen: list[str] = []
    for number in range(1, 4):
        place = looked(scene.destination, f"--subset={number}/3")
        assert place["subset"] == [number, 3]
        seen += results(place)
    assert sorted(seen) == names
    today = datetime.now(timezone.utc).toordinal() % 3 + 1
    automatic = looked(scene.destination, "--subset", "auto/3")
    assert automatic["subset"] in ([today, 3], [today % 3 + 1, 3])
    empty = must(verify(scene.destination, names[0], "--subset=999999/999999"))
    assert "nothing to verify, part 999999 of 999999" in empty.stdout


def test_words_that_make_no_sense_are_refused(scene: Scene):
    (name,) = fill(scene)
    place = str(scene.destination)
    for words, part in (
        ([place, "--data"], "--source PLACE"),
        ([place, "--restore-test"], "--scratch DIR"),
        ([place, f"--scratch={place}"], "--restore-test"),
        ([place, f"--source={place}"], "another place"),
        ([place, "--subset=0/4"], "1/4 to 4/4"),
        ([place, "--subset=4"], "1/30"),
        ([place, "--subset=1/0"], "1/30"),
        (["shell://cat"], "shell://"),
    ):
        with pytest.raises(UsageError) as raised:
            options = parse_places(command.build_parser(), words)
            command.read(options)
        assert part in f"{raised.value.message} {raised.value.hint}"
    complaint(verify(), 2, "no place given")
    complaint(verify(place, "x-1"), 2, "no snapshot 'x-1'", "Available: x-2")
    assert results(looked(place, show(scene.destination / name).uuid[:8]))


def test_what_cannot_be_looked_at_could_not_be_checked(scene: Scene, sshd: Sshd):
    scene.back_up()
    gone = scene.source.parent / "gone"
    place = looked(gone, status=10)
    assert (place["result"], place["snapshots"]) == ("unchecked", [])
    assert "does not exist" in place["error"]["message"]
    words = [str(scene.destination), f"--source={gone}"]
    place = looked(*words, "--data", status=10)
    assert found(place) == {("source", "unchecked")}
    assert found(place, scene.backup_names[0]) == {("contents", "unchecked")}
    btrfs(
        "subvolume", "delete", *(snapshots_of(scene) / n for n in scene.snapshot_names)
    )
    place = looked("--data", *with_source(scene, local_way), status=1)
    assert found(place, scene.backup_names[0]) == {("contents", "unchecked")}
    assert found(place) == {("parent", "bad")}
    hint = sudo_line("verify", scene.destination)
    complaint(as_nobody("verify", scene.destination), 4, hint)
    empty = scene.other_destination("empty")
    (empty / "something").touch()
    for options in ([], ["-q"]):
        done = must(verify(*options, empty), 10)
        assert done.stdout == f"{empty}: nothing to verify (identity)\n"


def test_what_the_user_there_may_do_decides_what_can_be_checked(
    scene: Scene, sshd: Sshd, account: Callable[..., Account]
):
    secret = scene.source / "secret"
    secret.mkdir(mode=0o700)
    (secret / "file").write_text("of root")
    secret.chmod(0o700)
    scene.back_up()
    (name,) = scene.backup_names
    may_all, may_btrfs = account(sudoers=SUDO_ALL), account(sudoers=SUDO_BTRFS)
    for user, status in ((may_all, 0), (may_btrfs, 10)):
        place = ssh_place(sshd, scene.destination, user=user.name)
        words = [*ssh_words(sshd), place, f"--source={scene.source}", "--data"]
        (told,) = document(verify("--json", *words), status)
        if status:
            assert found(told, name) == {("contents", "unchecked")}
            (finding,) = told["findings"]
            assert finding["result"] == "unchecked"
            assert "sources.json cannot be read (reading failed)" in finding["text"]
            (finding,) = told["snapshots"][0]["findings"]
            assert "sudo" in finding["text"] and "root there" in finding["hint"][0]
            (note,) = told["notes"]
            assert "are not recorded there" in note
        else:
            assert told["snapshots"][0]["compared"] == 4


def test_a_place_that_cannot_be_written_keeps_no_record_and_is_no_failure(
    btrfs: MakesFilesystems, scene: Scene, sshd: Sshd
):
    disk = btrfs(size="200M")
    must(run_program("-p", "x-", scene.source, disk.path))
    disk.remount("ro")
    for way in both_ways(sshd):
        done = must(verify(*way(disk.path)))
        assert "1 good" in done.stdout
        assert "cannot record the verifications" in done.stderr
        assert must(verify("-q", *way(disk.path))).stderr == ""
    assert not (disk.path / RECORD).exists()
