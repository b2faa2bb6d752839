"""A stream is too long, a disk fills up, and what was interrupted gives way."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from tests.conftest import MakesFilesystems
from tests.faults.conftest import Disks
from tests.faults.cutting import (
    LOCAL_CUTS,
    check_resumed,
    cut_short,
    plant,
    seals,
    sent,
    staged,
)
from tests.faults.faulty import faulty_btrfs
from tests.support import processes
from tests.support.command_line import assert_fails, covers, must
from tests.support.filesystems import Filesystem
from tests.support.places import (
    MIB,
    STATE,
    assert_equal,
    command,
    ssh_place,
    ssh_words,
    tamper,
)
from tests.support.program import run_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs

#: What each interrupted transfer takes, and what is free beside them.
LEFT, FREE = 150 * MIB, 110 * MIB


def _interrupted(scene: Scene, hours: float, size: int = LEFT) -> str:
    """Leave at the destination what a transfer of another source left; give its id."""
    began = datetime.now(timezone.utc) + timedelta(hours=hours)
    transfer_id = f"{began:%Y%m%dT%H%M%SZ}-1a2b3c4d-00112233445566ff-ffeeddccbbaa9988"
    directory = scene.destination / STATE / "incoming" / transfer_id
    directory.mkdir(mode=0o700, parents=True)
    seal = directory / f".seal-{size:020}-old-20260101-000000"
    command("btrfs", "subvolume", "create", seal)
    (seal / "data").write_bytes(os.urandom(size))
    command("btrfs", "property", "set", "-ts", seal, "ro", "true")
    return transfer_id


def _fill(disk: Filesystem, leave: int = FREE) -> None:
    disk.sync()
    disk.fill_up(leave_bytes=leave)


@pytest.fixture
def crowded(disks: Disks, btrfs: MakesFilesystems) -> tuple[Scene, list[str]]:
    """Return a destination with two interrupted transfers and little room beside."""
    disk = btrfs(size="700M", mkfs_options=("--mixed",))
    scene = Scene(disks[0], disk)
    left = [_interrupted(scene, hours) for hours in (-48, -24)]
    _fill(disk)
    scene.write(100 * MIB)
    return scene, left


def test_the_oldest_interrupted_transfer_gives_way(
    crowded: tuple[Scene, list[str]],
) -> None:
    scene, (older, newer) = crowded
    done = scene.back_up()
    assert "discarded the interrupted transfer of old-20260101-000000" in done.stderr
    assert "150.0 MiB" in done.stderr and done.stderr.count("discarded") == 1
    assert scene.staging == [newer]
    assert len(scene.backups) == 1
    scene.check_laws()


def test_a_dry_run_says_what_would_give_way(
    crowded: tuple[Scene, list[str]],
) -> None:
    scene, left = crowded
    done = scene.back_up("--dry-run")
    assert done.stderr.count("would discard the interrupted transfer") == 1
    assert "would send" in done.stdout
    assert scene.staging == left and scene.snapshots == []


def test_nothing_gives_way_where_that_would_not_do(
    crowded: tuple[Scene, list[str]],
) -> None:
    scene, left = crowded
    for number in range(3):
        (scene.source / f"more {number}").write_bytes(os.urandom(150 * MIB))
    words = ("--checkpoint-interval", "16M")
    assert_fails(scene.run(*words), 4, "needs about", "Nothing was sent")
    assert scene.staging == left and scene.snapshots == []


def test_what_gives_way_to_a_restore_is_the_oldest(
    disks: Disks, crowded: tuple[Scene, list[str]]
) -> None:
    scene, (older, newer) = crowded
    kept = Scene(*disks)
    kept.write(100 * MIB)
    kept.back_up()
    words = ["restore", kept.place, "--to", str(scene.destination)]
    told = run_program(*words, "--dry-run")
    assert told.returncode == 0, told.stderr
    assert scene.staging == [older, newer]
    done = run_program(*words)
    assert done.returncode == 0, done.stderr
    for said in (told.stderr, done.stderr):
        assert said.count("is discarded: its space is needed") == 1
    assert scene.staging == [newer]
    assert len(scene.backups) == 1


def test_what_the_run_goes_on_with_does_not_give_way(
    disks: Disks, btrfs: MakesFilesystems
) -> None:
    disk = btrfs(size="700M", mkfs_options=("--mixed",))
    scene = Scene(disks[0], disk)
    plant(scene.source)
    (scene.source / "large").write_bytes(os.urandom(80 * MIB))
    options = ("--checkpoint-interval", "2M")
    safe = cut_short(scene, 6 * MIB, LOCAL_CUTS["btrfs send killed"], *options)
    other = _interrupted(scene, +1)
    _fill(disk)
    done = scene.run("-S", "--json", *options)
    assert "discarded the interrupted transfer of old-" in done.stderr
    (transfer,) = sent(done)
    assert transfer.resumed >= safe > 0
    assert other not in scene.staging and len(scene.backups) == 1


def test_what_was_deleted_a_moment_ago_makes_room(
    disks: Disks, btrfs: MakesFilesystems
) -> None:
    disk = btrfs(size="700M", mkfs_options=("--mixed",))
    scene = Scene(disks[0], disk)
    scene.add("large", LEFT)
    scene.back_up()
    (old,) = scene.backups
    (scene.source / "large").unlink()
    scene.back_up()
    _fill(disk)
    scene.add("other", LEFT // 2)
    assert_fails(scene.run(), 4, "needs about")
    command("btrfs", "subvolume", "delete", old.path)
    scene.back_up()


# A transfer that has to be full after all


def test_an_incremental_backup_that_must_be_full_needs_room_for_that(
    disks: Disks, btrfs: MakesFilesystems
) -> None:
    disk = btrfs(size="400M", mkfs_options=("--mixed",))
    scene = Scene(disks[0], disk)
    scene.add("large", 100 * MIB)
    scene.back_up()
    _fill(disk, leave=60 * MIB)
    scene.add("small")
    scene.back_up("--dry-run")  # incremental
    tamper(scene.backups[0].path)
    before = scene.snapshot_names, scene.backup_names
    refused = "needs about 101.0 MiB", "Nothing was sent", "--no-check-space"
    for more in (["--dry-run"], []):
        done = scene.run(*more)
        assert_fails(done, 4, "no longer shares a usable snapshot", *refused)
        assert (scene.snapshot_names, scene.backup_names) == before


def test_a_restore_that_must_be_full_after_all_needs_room_for_that(
    disks: Disks, btrfs: MakesFilesystems, tmp_path: Path
) -> None:
    disk = btrfs(size="400M", mkfs_options=("--mixed",))
    scene = Scene(disk, disks[1])
    scene.add("large", 100 * MIB)
    scene.back_up()
    scene.add("small")
    scene.back_up()
    command("btrfs", "subvolume", "delete", scene.snapshots[-1].path)
    to = scene.source.parent / "to"
    to.mkdir()
    _fill(disk, leave=60 * MIB)
    error = 'cat >/dev/null; echo "ERROR: cannot find parent subvolume" >&2; exit 1'
    env = faulty_btrfs(tmp_path, "receive*", error)
    words = ("restore", scene.place, "--to", to)
    done = run_program(*words, env=env)
    assert_fails(done, 4, "cannot be the parent there", "; sending in full")
    assert_fails(done, 4, "needs about 101.0 MiB", "Nothing was sent", "Make room")
    assert os.listdir(to) == []
    (disk.path / "filler").unlink()
    disk.sync()
    faulty = tmp_path / "again"
    faulty.mkdir()
    done = must(run_program(*words, env=faulty_btrfs(faulty, "receive*", error)))
    assert "; sending in full" in done.stderr
    assert_equal(scene.backups[-1].path, to / scene.backup_names[-1])


# Reflinks


@pytest.mark.parametrize("kind", ["local", "ssh"])
def test_reflinks_that_an_estimate_counts_ten_times_need_no_room(
    btrfs: MakesFilesystems, get_sshd: Callable[[], Sshd], kind: str
) -> None:
    source, small = btrfs(size="300M"), btrfs(size="250M", mkfs_options=("--mixed",))
    scene = Scene(source, small, get_sshd() if kind == "ssh" else None, is_small=True)
    for number in range(2):  # full before the first snapshot, then incremental
        scene.add(f"large{number}", 12 * MIB)
        for copy in range(20):
            names = f"large{number}", f"copy{number}-{copy}"
            ends = [scene.source / name for name in names]
            command("cp", "--reflink=always", *ends)
        source.sync()
        dry = must(scene.run("--dry-run", "--json"))
        done = must(scene.run("--json"))
        told, real = (sent(one)[0].size for one in (dry, done))
        assert 0.9 * real <= told <= 1.2 * real < 15 * MIB
    scratch = btrfs(size="250M", mkfs_options=("--mixed",))
    words = ("verify", scene.destination, "--restore-test", "--scratch", scratch.path)
    must(run_program(*words))


# A disk that is full


def test_what_filled_the_disk_is_discarded_where_the_rest_does_not_fit(
    disks: Disks, btrfs: MakesFilesystems
) -> None:
    disk = btrfs(size="200M", mkfs_options=("--mixed",))
    scene = Scene(disks[0], disk)
    scene.write(200 * MIB)
    (scene.source / "more").write_bytes(os.urandom(60 * MIB))
    done = scene.run("--no-check-space", "--checkpoint-interval", "8M")
    assert_fails(done, 1, "No space left on device", "is full", "is discarded", "rest")
    assert scene.staging == []
    command("btrfs", "subvolume", "sync", scene.destination)
    disk.sync()
    free = os.statvfs(scene.destination)
    assert free.f_bavail * free.f_bsize > 120 * MIB
    (scene.source / "data").unlink()
    for snapshot in scene.snapshots:
        command("btrfs", "subvolume", "delete", snapshot.path)
    scene.back_up("--no-check-space")


def test_what_is_safe_is_kept_where_the_rest_fits(scene: Scene, tmp_path: Path) -> None:
    plant(scene.source)
    error = 'echo "ERROR: writing to data failed: No space left on device" >&2; exit 1'
    env = faulty_btrfs(tmp_path, "receive*", f'head -c 15000000 | "$@"; {error}')
    words = ("--checkpoint-interval", "2M")
    done = scene.run(*words, env=env)
    assert_fails(done, 1, "No space left on device", "is kept there; the next run")
    assert "discarded" not in done.stderr
    safe = max(seal.offset for seal in seals(scene))
    assert safe >= 8 * MIB
    check_resumed(scene, safe - 2 * MIB, *words, "-S")


# A stream that is too long


def _assert_ended(scene: Scene, done: object) -> None:
    assert_fails(done, 1, "longer than 8.0 MiB (--max-size)")  # type: ignore[arg-type]
    said = done.stderr  # type: ignore[attr-defined]
    assert "Nothing of it is kept." in said and "Trying again" not in said
    scene.wait_for_quiet()
    assert scene.backups == [] and scene.staging == []


@covers("--max-size")
@pytest.mark.parametrize("kind", ["local", "push", "pull"])
def test_a_stream_that_is_too_long_leaves_nothing(
    scene: Scene, get_sshd: Callable[[], Sshd], kind: str
) -> None:
    source, place = str(scene.source), scene.place
    if kind != "local":
        sshd = get_sshd()
        scene.options += ssh_words(sshd)
        source = (
            ssh_place(sshd, scene.source, user="root") if kind == "pull" else source
        )
        place = (
            ssh_place(sshd, scene.destination, user="root") if kind == "push" else place
        )
    scene.write(24 * MIB)
    words = [*scene.options, source, place, "--checkpoint-interval", "1M"]
    ahead = run_program(*words, "--max-size", "8M", "--dry-run")
    assert "would be stopped" in ahead.stderr, ahead
    done = run_program(*words, "--max-size", "8M", "--retries", "2")
    _assert_ended(scene, done)
    done = run_program(*words, "--max-size", "64M", "-S")
    assert done.returncode == 0, done.stderr
    scene.check_laws()


def test_what_an_earlier_attempt_brought_counts_as_well(scene: Scene) -> None:
    plant(scene.source)
    words = ("--checkpoint-interval", "2M")
    cut_short(scene, 10 * MIB, LOCAL_CUTS["btrfs send killed"], *words)
    assert staged(scene)
    _assert_ended(scene, scene.run(*words, "-S", "--max-size", "8M"))


@covers("--max-size")
@pytest.mark.parametrize("what", ["snapshot", "files"])
def test_a_restore_that_is_too_long_leaves_nothing(
    scene: Scene, disks: Disks, sshd: Sshd, what: str
) -> None:
    scene.write(24 * MIB)
    scene.back_up()
    command("btrfs", "subvolume", "delete", scene.snapshots[0].path)
    to = Scene(disks[0], disks[0]).destination
    words = [
        "restore",
        *ssh_words(sshd),
        ssh_place(sshd, scene.destination, user="root"),
        "--to",
        str(to),
    ]
    words += ["--file", "data"] if what == "files" else []
    done = run_program(*words, "--max-size", "8M")
    assert_fails(done, 1, "longer than 8.0 MiB (--max-size)")
    processes.wait_until(lambda: not os.listdir(to))
    done = run_program(*words, "--max-size", "64M")
    assert done.returncode == 0, done.stderr
    assert len(os.listdir(to)) == 1
