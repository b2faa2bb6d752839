"""The options about which snapshots are made, where, and which stay."""

import os
import re
import shlex
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from btrfs_backup_ng.__util__ import UsageError
from btrfs_backup_ng.cli.backup_options import parse_task
from tests.support.command_line import complaint, covers, logging_path, must
from tests.support.filesystems import Filesystem
from tests.support.many import add_history, write_records
from tests.support.places import STATE, by_age, command, is_subvolume
from tests.support.program import Argument, run_program
from tests.support.scene import Scene

pytestmark = pytest.mark.btrfs


@covers("-N", "--num-snapshots")
def test_the_source_keeps_the_latest_so_many(scene: Scene):
    for _ in range(3):
        scene.back_up()
    scene.back_up("-N", "2")
    assert scene.snapshot_names == scene.backup_names[-2:]
    assert len(scene.backup_names) == 4


@covers("-n", "--num-backups")
def test_the_destination_keeps_the_latest_so_many(scene: Scene):
    for _ in range(3):
        scene.back_up()
    scene.back_up("-n", "2")
    assert scene.backup_names == scene.snapshot_names[-2:]
    assert len(scene.snapshot_names) == 4


@pytest.fixture(params=["local", "ssh"])
def any_scene(
    request: pytest.FixtureRequest, disks: tuple[Filesystem, Filesystem]
) -> Scene:
    """Return a scene whose destination is here, and one behind ssh."""
    sshd = request.getfixturevalue("sshd") if request.param == "ssh" else None
    return Scene(*disks, sshd)


@covers("-N", "-n", "--force")
def test_a_new_number_deletes_more_than_half_only_if_a_person_says_so(any_scene: Scene):
    scene, few = any_scene, ("-N3", "-n3")
    add_history(scene, range(20, 12, -1))
    write_records(scene)  # of an earlier version: they tell of no policy
    for more in (["--dry-run"], [], ["-S"]):
        done = scene.back_up(*few, *more)
        assert "delete" not in done.stdout
        for words in ("snapshots at ", "backups at "):
            assert f"the policy latest=3 is new for the {words}" in done.stderr
        assert (
            done.stderr.count(" 6 of 9 would be deleted, more than half; nothing is")
            == 2
        )
    assert len(scene.snapshots) == len(scene.backups) == 9
    lines = re.findall("at once:  btrfs-backup-ng (prune .*)", done.stderr)
    for line in lines:
        options = scene.options[2:]  # without the prefix
        must(run_program(*shlex.split(line), "--yes", *options))
    assert len(scene.snapshots) == len(scene.backups) == 3
    add_history(scene, range(20, 12, -1))  # while nothing could be deleted
    assert scene.back_up(*few).stderr == ""
    assert len(scene.snapshots) == len(scene.backups) == 3
    scene.back_up()  # it has no policy of its own, and leaves that on record
    add_history(scene, range(20, 12, -1))
    assert scene.back_up(*few).stderr == ""
    assert len(scene.snapshots) == len(scene.backups) == 3
    scene.back_up("--keep=all", "--keep-at=all")  # from here on all are wanted
    add_history(scene, range(20, 12, -1))
    assert "(until now: all)" in scene.back_up("-N3").stderr
    assert "is new for the backups" in scene.back_up("-n3").stderr
    assert scene.back_up(*few, "--force").stderr == ""
    assert len(scene.snapshots) == len(scene.backups) == 3


@covers("-N", "-n")
def test_a_number_from_the_first_run_on_is_never_asked_about(any_scene: Scene):
    scene = any_scene
    scene.back_up("-N1", "-n1")
    add_history(scene, range(20, 12, -1))
    assert "(until now: latest)" not in scene.back_up("-N1", "-n1").stderr
    assert len(scene.snapshots) == len(scene.backups) == 1
    scene.back_up("-N9", "-n9")
    add_history(scene, range(20, 12, -1))
    assert "(until now: latest=9)" in scene.back_up("-N4", "-n1").stderr
    assert len(scene.snapshots) == 11


@covers("-N", "-n")
def test_without_a_limit_everything_stays(scene: Scene):
    for _ in range(3):
        scene.back_up()
    assert scene.snapshot_names == scene.backup_names
    assert len(scene.backup_names) == 3


@covers("-N", "-n")
@pytest.mark.parametrize("option", ["-N", "-n"])
def test_a_limit_that_is_no_number_deletes_nothing(scene: Scene, option: str):
    scene.back_up()
    before = scene.fingerprint()
    complaint(scene.run(option, "0"), 2)
    assert scene.fingerprint() == before
    for number in ("-1", "1.5", "one", "", "\u0663"):
        with pytest.raises(UsageError):
            parse_task([f"{option}{number or '='}", "/a"])


@covers("-S", "--no-snapshot")
def test_no_new_snapshot_is_made_but_what_there_is_arrives(scene: Scene):
    scene.back_up("-T")
    done = scene.back_up("-S")
    assert len(scene.snapshot_names) == 1
    assert scene.backup_names == scene.snapshot_names
    assert "made" not in done.stdout


@covers("--backfill")
def test_older_gaps_are_filled_if_that_is_asked_for(scene: Scene):
    for _ in range(2):
        scene.back_up()
    oldest, newest = scene.backup_names
    command("btrfs", "-q", "subvolume", "delete", scene.destination / oldest)
    assert "would send" not in scene.back_up("-S", "-v", "--dry-run").stdout
    assert scene.backup_names == [newest]
    scene.back_up("-S", "--backfill")
    assert oldest in scene.backup_names


@covers("-T", "--no-transfer")
def test_nothing_is_transferred_but_a_snapshot_is_made(scene: Scene):
    done = scene.back_up("-T")
    assert len(scene.snapshot_names) == 1
    assert scene.backup_names == []
    assert "sent" not in done.stdout


@covers("-T", "-N")
def test_without_a_transfer_the_limit_still_counts(scene: Scene):
    for _ in range(3):
        must(run_program("-T", "-N", "2", scene.source))
    assert len(scene.snapshot_names) == 2


@covers("-f", "--snapshot-folder")
def test_a_relative_snapshot_folder_is_below_the_source(scene: Scene):
    scene.back_up("-f", "kept/here")
    assert by_age(scene.source / "kept/here") == scene.backup_names
    assert len(scene.backup_names) == 1
    assert scene.snapshot_names == []
    scene.back_up("-f", "kept/here", "-S")
    assert len(scene.backup_names) == 1


@covers("-f")
def test_an_absolute_snapshot_folder_is_where_it_says(scene: Scene):
    folder = scene.source.parent / "of its own"
    scene.back_up("-f", folder)
    assert by_age(folder) == scene.backup_names
    assert len(scene.backup_names) == 1
    assert scene.snapshot_names == []


@covers("-f", "-N")
def test_living_sources_share_a_snapshot_folder_and_lose_nothing(any_scene: Scene):
    scene, other = any_scene, any_scene.subvolume("other")
    folder = scene.source.parent / "shared"
    words = ("-N1", "-f", folder)
    scene.back_up(*words)
    (first,) = by_age(folder)
    there = scene.other_destination("of the other")
    for _ in range(2):
        done = must(run_program("-p", "x-", *words, other, there))
        assert done.stderr == "" and f"sent {first}," not in done.stdout
    assert first in by_age(folder) and len(by_age(folder)) == 2
    assert first not in by_age(there) and len(by_age(there)) == 2
    done = must(run_program("list", "-f", folder, scene.source, other))
    assert done.stdout.count(": 1 snapshot\n") == 2
    assert "incomplete" not in done.stdout
    prune = ("prune", "--keep", "latest=1", "--force", "--yes", "-f", folder)
    must(run_program(*prune, "-p", "x-", other))
    assert first in by_age(folder)
    # one that was made of the source and is backed up, too, is another source
    clone = other.with_name("clone")
    command("btrfs", "-q", "subvolume", "snapshot", scene.source, clone)
    scene.back_up(*words)
    kept = set(by_age(folder))
    for _ in range(2):
        must(run_program("-p", "x-", "-T", *words, clone))
    assert kept < set(by_age(folder))
    # on another disk no snapshot of the folder counts, even in a subvolume
    far = scene.destination_disk.subvolume(f"{scene.name}/far")
    assert "nothing yet" in must(run_program("list", "-f", folder, far)).stdout


@covers("-f", "-N")
@pytest.mark.parametrize("way", ["rolled back", "relative", "restored", "old one gone"])
def test_a_source_that_was_replaced_thins_out_its_older_snapshots(
    scene: Scene, way: str
):
    """What was replaced may still exist, and is no other source."""
    source, is_relative = scene.source, way == "relative"
    folder = source.parent / "mine"
    if is_relative:  # mounted there, as that of snapper is
        folder.mkdir()
        (source / "mine").mkdir()
    words = ("-N2", "-f", "mine" if is_relative else folder)
    with ExitStack() as stack:
        if is_relative:
            command("mount", "--bind", folder, source / "mine")
            stack.callback(command, "umount", source / "mine")
        scene.back_up(*words)
        for number in range(2):
            made = folder / by_age(folder)[-1]
            if is_relative:
                stack.pop_all().close()
            source.rename(old := source.with_name(f"old-{number}"))
            if way == "restored":
                there = scene.destination / made.name
                arrived = source.with_name(f"back-{number}")
                arrived.mkdir()
                sent = shlex.join(["btrfs", "-q", "send", str(there)])
                received = shlex.join(["btrfs", "-q", "receive", str(arrived)])
                command("sh", "-c", f"{sent} | {received}")
                made = arrived / made.name
            command("btrfs", "-q", "subvolume", "snapshot", made, source)
            if way == "old one gone":
                command("btrfs", "-q", "subvolume", "delete", old / STATE, old)
            if is_relative:
                command("mount", "--bind", folder, source / "mine")
                stack.callback(command, "umount", source / "mine")
            scene.add("new")
            scene.back_up(*words)
            done = scene.back_up(*words)
            assert done.stderr == "", done.stderr
            assert len(by_age(folder)) == 2, done.stdout
    assert len(by_age(scene.destination)) == 5


@covers("-f")
def test_a_snapshot_folder_on_another_filesystem_is_refused(scene: Scene):
    before = scene.fingerprint()
    folder = scene.destination.parent / "elsewhere"
    done = scene.run("-f", folder)
    complaint(done, 4, str(folder), "another filesystem", "--snapshot-folder")
    assert scene.fingerprint() == before


@covers("-f")
def test_bookkeeping_is_not_in_the_backups(scene: Scene):
    scene.back_up()
    scene.back_up()
    assert is_subvolume(scene.source / ".btrfs-backup-ng")
    for name in scene.backup_names:
        inside = scene.destination / name / ".btrfs-backup-ng"
        assert not inside.exists() or not os.listdir(inside)


@covers("-p", "--snapshot-prefix")
def test_names_begin_with_the_prefix(scene: Scene):
    must(run_program("-p", "of mine.", scene.source, scene.destination))
    (name,) = scene.snapshot_names
    assert re.fullmatch(r"of mine\.\d{8}-\d{6}", name)
    assert scene.backup_names == [name]


@covers("-p")
def test_the_usual_prefix_is_the_host_name(scene: Scene):
    must(run_program(scene.source, scene.destination))
    (name,) = scene.backup_names
    assert re.fullmatch(re.escape(socket.gethostname()) + r"-\d{8}-\d{6}", name)


@covers("-p")
def test_an_empty_prefix_is_allowed(scene: Scene):
    must(run_program("-p", "", scene.source, scene.destination))
    (name,) = scene.backup_names
    assert re.fullmatch(r"\d{8}-\d{6}", name)


@covers("-p")
def test_snapshots_of_another_prefix_are_left_alone(scene: Scene):
    for prefix in ("x-old-", "x", ""):
        must(run_program("-T", "-p", prefix, scene.source))
    others = set(scene.snapshot_names)
    scene.back_up()
    scene.back_up("-N", "1", "-n", "1")
    assert len(scene.backup_names) == 1
    assert others < set(scene.snapshot_names)
    assert len(scene.snapshot_names) == 4


def test_an_older_series_of_a_renamed_host_is_remarked_once(any_scene: Scene):
    scene = any_scene
    for _ in range(3):
        scene.back_up()
    words: list[Argument] = [*scene.options[2:], "-N2", "-n2"]
    words += [scene.source, scene.place]
    first = must(run_program("-p", "new-", *words))
    assert first.stderr.count("of this source that begin with 'x-'") == 2
    assert len(scene.backup_names) == len(scene.snapshot_names) == 4
    lines = re.findall("To thin them, too: +(.*)", first.stderr)
    for line in lines:
        more: list[Argument] = [*shlex.split(line)[1:], "--yes", *scene.options[2:]]
        must(run_program(*more))
    assert len(lines) == 2
    assert len(scene.backup_names) == len(scene.snapshot_names) == 3
    second = must(run_program("-p", "new-", *words))
    assert "begin with" not in second.stdout + second.stderr


@covers("-p")
@pytest.mark.parametrize("prefix", ["a/b", "n" * 250])
def test_a_prefix_that_no_name_can_have_is_refused(scene: Scene, prefix: str):
    before = scene.fingerprint()
    done = run_program("-p", prefix, scene.source, scene.destination)
    complaint(done, 2, "prefix" if len(prefix) > 3 else prefix)
    assert scene.fingerprint() == before


@covers("-s", "--sync")
def test_deleted_snapshots_are_waited_for(scene: Scene, tmp_path: Path):
    path, log = logging_path(tmp_path, "btrfs")
    scene.add("large", 1 << 20)
    scene.back_up()
    scene.back_up("-N1", "-n1", "-s", env={"PATH": path})
    lines = log.read_text().splitlines()
    for place in (scene.source, scene.destination):
        assert f"btrfs subvolume sync -- {place}" in lines
        left = subprocess.run(
            ["btrfs", "subvolume", "list", "-d", place], capture_output=True, text=True
        )
        assert left.stdout == ""


@covers("-s")
def test_deleted_snapshots_are_not_waited_for_unasked(scene: Scene, tmp_path: Path):
    path, log = logging_path(tmp_path, "btrfs")
    scene.back_up()
    scene.back_up("-N1", "-n1", env={"PATH": path})
    assert "subvolume delete" in log.read_text()
    assert "subvolume sync" not in log.read_text()


@covers("-w", "--convert-rw")
def test_snapshots_are_made_writable_before_they_are_deleted(
    scene: Scene, tmp_path: Path
):
    path, log = logging_path(tmp_path, "btrfs", where=True)
    scene.back_up()
    (old,) = scene.backup_names
    scene.back_up("-N1", "-n1", "-w", env={"PATH": path})
    lines = log.read_text().splitlines()
    for folder in (
        scene.destination,
        scene.source / ".btrfs-backup-ng/snapshots",
    ):
        converted = f"{folder}/{old}: btrfs property set -f -ts . ro false"
        assert converted in lines
        later = lines[lines.index(converted) :]
        assert f"{folder}: btrfs subvolume delete -c -- ./{old}" in later
    assert len(scene.backup_names) == len(scene.snapshot_names) == 1


@covers("-w")
def test_snapshots_stay_read_only_until_they_are_deleted(scene: Scene, tmp_path: Path):
    path, log = logging_path(tmp_path, "btrfs")
    scene.back_up()
    scene.back_up("-N1", "-n1", env={"PATH": path})
    assert "subvolume delete" in log.read_text()
    assert "property set" not in log.read_text()
