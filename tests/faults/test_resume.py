"""A transfer is cut, in every way: the next run goes on where it was sealed last."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from btrfs_backup_ng.place.holds import parse_holds
from tests.conftest import MakesFilesystems
from tests.faults import cutting
from tests.faults.conftest import Disks
from tests.faults.cutting import INTERVAL, RATE, cut_short
from tests.faults.faulty import faulty_btrfs, was_faulty
from tests.support import ours, processes
from tests.support.accounts import SUDO_BTRFS, Account
from tests.support.command_line import assert_fails, covers
from tests.support.filesystems import Filesystem, PowerCut, btrfs_filesystem
from tests.support.places import (
    MIB,
    STATE,
    assert_equal,
    command,
    list_subvolumes,
    set_read_only,
    show,
    ssh_place,
)
from tests.support.program import finish, run_program, start_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs

Servers = Callable[..., Sshd]
POINTS = ("--checkpoint-interval", str(INTERVAL))
#: What a cut comes after; some 22 MiB are sent in all.
SAFE = 4 * MIB
#: How the shell pattern of a faulty btrfs sees the sending of a whole stream.
SENDS = '" send -q --proto "*'


def planted(scene: Scene, *, unit: int = MIB, is_varied: bool = False) -> Scene:
    """Return a scene worth cutting, with checkpoints close together."""
    scene.options += POINTS
    cutting.plant(scene.source, unit=unit, is_varied=is_varied)
    return scene


# Cuts of every kind


def _check_every_cut(scene: Scene, cuts: dict[str, cutting.Cut]) -> None:
    """Cut one transfer in many ways, one after the other; then let it complete.

    It is so long that it does not end before the last cut on a busy machine either.
    """
    scene.options += ("--checkpoint-interval", "1M")
    safe, transfer = 0, None
    for name, cut in cuts.items():
        more = ("-S",) if transfer else ()
        before, safe = safe, cut_short(scene, max(MIB, safe + 1), cut, *more)
        assert scene.backups == [], name
        left = cutting.seals(scene)
        assert {seal.transfer for seal in left} == {transfer or left[0].transfer}, name
        transfer = left[0].transfer
        assert safe > before and left[-1].offset >= safe, name
    resumed = cutting.check_resumed(scene, safe)
    assert resumed.parent is None
    cutting.check_plain_send_goes_on(scene)


def test_a_transfer_over_ssh_survives_cuts_of_every_kind(ssh_scene: Scene) -> None:
    _check_every_cut(planted(ssh_scene, unit=4 * MIB, is_varied=True), cutting.SSH_CUTS)


def test_a_local_transfer_survives_cuts_of_every_kind(scene: Scene) -> None:
    _check_every_cut(planted(scene, unit=4 * MIB, is_varied=True), cutting.LOCAL_CUTS)


def test_an_incremental_transfer_goes_on_with_its_reflinks(ssh_scene: Scene) -> None:
    scene = planted(ssh_scene, is_varied=True)
    scene.back_up()
    cutting.alter(scene.source)
    safe = cut_short(scene, SAFE, cutting.SSH_CUTS["the ssh master killed"])
    assert len(scene.backups) == 1
    resumed = cutting.check_resumed(scene, safe)
    assert resumed.parent == scene.snapshots[0].path.name
    cutting.check_plain_send_goes_on(scene)


def test_two_transfers_that_wait_each_go_on_in_their_turn(scene: Scene) -> None:
    """The second one was not even begun when the first was cut, and comes after it."""
    planted(scene)
    cut_short(scene, SAFE, cutting.LOCAL_CUTS["the program killed"])
    (first,) = scene.staging
    cutting.alter(scene.source)
    with scene.start("--rate", "16M") as program:
        processes.wait_until(lambda: first not in scene.staging)
        safe = cutting.wait_for_checkpoint(scene, SAFE, program)
        cutting.LOCAL_CUTS["btrfs receive killed"](scene, program)
        assert_fails(finish(program), 1, "the next run resumes")
    assert len(scene.backups) == 1
    resumed = cutting.check_resumed(scene, safe)
    assert resumed.parent is not None
    assert len(scene.backups) == 3


def test_after_a_pulled_cable_only_the_rest_goes_over_the_wire(
    cable: cutting.Line, scene: Scene
) -> None:
    planted(scene)
    cable.connect(scene)
    with cable.start(scene, *RATE) as program:
        safe = cutting.wait_for_checkpoint(scene, 10 * MIB, program)
        cable.pull()
        done = finish(program)
    assert_fails(done, 1, "connection", "The next run resumes")
    # The other side does not know of the cut: all that worked there still does.
    assert scene.worker("btrfs", "receive")
    cable.repair()
    before = cable.arrived()
    done = cable.run(scene, "--json", "-S")
    wire = cable.arrived() - before
    (transfer,) = cutting.sent(done)
    assert transfer.resumed >= safe
    rest = cutting.stream_size(scene, transfer) - transfer.resumed
    # When the cable is in again, the kernel sends what ssh had given it before.
    old = int(Path("/proc/sys/net/ipv4/tcp_wmem").read_text().split()[2])
    assert rest < wire < 1.02 * rest + old, (transfer, rest, wire)
    assert wire < transfer.resumed + rest
    cutting.check_arrived(scene)


def test_a_stream_of_compressed_data_goes_on(
    btrfs: MakesFilesystems, disks: Disks
) -> None:
    source = btrfs(mount_options=("compress-force=zstd",))
    scene = planted(Scene(source, disks[1]))
    for number in range(8):  # 5 MiB that shrink to some 3
        text = os.urandom(640 * 1024).hex()
        (scene.source / f"text {number}").write_text(text)
    safe = cut_short(scene, SAFE, cutting.LOCAL_CUTS["btrfs receive killed"])
    resumed = cutting.check_resumed(scene, safe)
    dump = ("bash", "-c", '"$@" | btrfs receive --dump | grep -c ^encoded_write', "-")
    send = ("btrfs", "send", "-q", "--proto", "2", "--compressed-data")
    assert int(command(*dump, *send, scene.snapshot_folder / resumed.name)) > 10
    cutting.check_plain_send_goes_on(scene)


def test_a_transfer_that_is_compressed_on_the_wire_goes_on(ssh_scene: Scene) -> None:
    scene = planted(ssh_scene)
    scene.options += ("--compress", "zstd")
    safe = cut_short(scene, SAFE, cutting.SSH_CUTS["the ssh client killed"])
    transfer, *_ = cutting.sent(scene.run("--json"))
    assert transfer.resumed >= safe
    cutting.check_arrived(scene)


def test_what_came_in_another_form_is_told_and_sent_anew(ssh_scene: Scene) -> None:
    scene = planted(ssh_scene)
    cut_short(scene, SAFE, cutting.SSH_CUTS["the program killed"])
    done = scene.run("--json", "--compress", "zstd")
    assert "came in another form" in done.stderr, done
    assert cutting.sent(done)[0].resumed == 0
    cutting.check_arrived(scene)


@covers("--checkpoint-interval")
def test_an_interrupted_transfer_goes_on_with_checkpoints_at_other_places(
    scene: Scene,
) -> None:
    planted(scene)
    safe = cut_short(scene, SAFE, cutting.LOCAL_CUTS["the program killed"])
    resumed = cutting.check_resumed(scene, safe, "--checkpoint-interval", "3M")
    assert resumed.resumed % (3 * MIB) > 64 * 1024


@pytest.mark.parametrize("prefix", ["$(x) 'q\" \n \udcff-", "l" * 230])
def test_a_transfer_goes_on_whatever_its_snapshot_is_called(
    ssh_scene: Scene, prefix: str
) -> None:
    """The second name leaves no room for what the names of checkpoints add."""
    scene = planted(ssh_scene)
    scene.options[scene.options.index("x-")] = prefix
    safe = cut_short(scene, SAFE, cutting.SSH_CUTS["btrfs receive killed"])
    assert cutting.check_resumed(scene, safe).name.startswith(prefix)


# What happened to the source meanwhile


def test_a_transfer_goes_on_after_all_that_leaves_a_source_as_it_is(
    btrfs: MakesFilesystems, disks: Disks
) -> None:
    disk = btrfs(size="2G")
    scene = planted(Scene(disk, disks[1]))
    scene.back_up()
    cutting.alter(scene.source)
    safe = cut_short(scene, SAFE, cutting.LOCAL_CUTS["the program killed"])
    disk.snapshot(scene.source, "another", writable=True)
    (disk.path / "another" / "new").write_bytes(os.urandom(MIB))
    for name in ("first", "third", "new 1"):
        command("cp", "--reflink=always", scene.source / name, disk.path / name)
    (scene.source / "second").write_bytes(os.urandom(MIB))
    command("btrfs", "balance", "start", "--full-balance", disk.path)
    scene.wait_for_quiet()
    disk.unmount()
    disk.mount()
    cutting.check_resumed(scene, safe)


# The stream is another one


def _check_sent_anew(scene: Scene, done: subprocess.CompletedProcess[str]) -> None:
    transfer, *_ = cutting.sent(done)
    assert "sent again from the start" in done.stderr
    assert transfer.resumed == 0
    assert transfer.size >= cutting.stream_size(scene, transfer)
    cutting.check_arrived(scene)
    cutting.check_plain_send_goes_on(scene)


def test_a_stream_that_is_another_one_is_sent_from_the_start(
    any_scene: Scene, tmp_path: Path
) -> None:
    scene = planted(any_scene)
    safe = cut_short(scene, SAFE, cutting.LOCAL_CUTS["the program killed"])
    assert safe
    other = scene.source / STATE / "other"
    with open(scene.source / "first", "r+b") as file:
        file.seek(MIB // 2)
        file.write(b"x")  # of the same size, and its header with another checksum
    command("btrfs", "subvolume", "snapshot", "-r", scene.source, other)
    send = f"real send -q --proto 2 --compressed-data {other}"
    send = send.replace("real", shutil.which("btrfs") or "btrfs")
    env = faulty_btrfs(tmp_path, SENDS, send)
    done = scene.run("--json", env=env)
    assert was_faulty(tmp_path)
    _check_sent_anew(scene, done)


def test_a_stream_that_ends_before_its_checkpoint_is_sent_from_the_start(
    scene: Scene, tmp_path: Path
) -> None:
    planted(scene)
    cut_short(scene, SAFE, cutting.LOCAL_CUTS["the program killed"])
    other = scene.source / STATE / "other"
    command("btrfs", "subvolume", "create", other)
    command("btrfs", "property", "set", other, "ro", "true")
    btrfs = shutil.which("btrfs")
    send = f"{btrfs} send -q --proto 2 --compressed-data {other}"
    done = scene.run("--json", env=faulty_btrfs(tmp_path, SENDS, send))
    assert was_faulty(tmp_path)
    _check_sent_anew(scene, done)


@pytest.mark.parametrize("shift", [-4096, 1, 100 * MIB])
def test_a_seal_that_lies_about_its_place_is_not_believed(
    scene: Scene, shift: int
) -> None:
    planted(scene)
    cut_short(scene, SAFE, cutting.LOCAL_CUTS["the program killed"])
    scene.wait_for_quiet()
    newest = cutting.seals(scene)[-1]
    honest, lie = f"{newest.offset:020}", f"{newest.offset + shift:020}"
    newest.path.rename(newest.path.with_name(newest.path.name.replace(honest, lie)))
    _check_sent_anew(scene, scene.run("--json"))


@pytest.mark.parametrize("kind", ["local", "ssh"])
@pytest.mark.parametrize("is_marked", [True, False], ids=["marked", "unmarked"])
def test_a_seal_that_was_opened_is_not_built_upon(
    request: pytest.FixtureRequest, kind: str, is_marked: bool
) -> None:
    """Older btrfs-progs leave its received UUID as it is, which marks nothing."""
    scene = planted(
        request.getfixturevalue("scene" if kind == "local" else "ssh_scene")
    )
    cuts = cutting.LOCAL_CUTS if kind == "local" else cutting.SSH_CUTS
    cut_short(scene, SAFE, cuts["the program killed"])
    scene.wait_for_quiet()
    for seal in cutting.seals(scene):
        if is_marked:
            opening = (
                "btrfs",
                "property",
                "set",
                "-f",
                "-ts",
                seal.path,
                "ro",
                "false",
            )
            command(*opening)
        else:
            set_read_only(seal.path, False)
        (seal.path / "first").write_bytes(b"tampered with")
        command("btrfs", "property", "set", "-ts", seal.path, "ro", "true")
    done = scene.run("--json")
    assert cutting.sent(done)[0].resumed == 0
    assert ("written to" in done.stderr) != is_marked
    cutting.check_arrived(scene)


def test_a_transfer_whose_parent_is_gone_is_planned_anew(scene: Scene) -> None:
    planted(scene)
    scene.back_up()
    cutting.alter(scene.source)
    cut_short(scene, SAFE, cutting.LOCAL_CUTS["the program killed"])
    scene.wait_for_quiet()
    (parent,) = scene.backups
    command("btrfs", "subvolume", "delete", parent.path)
    done = scene.run("--json")
    assert [(one.parent, one.resumed) for one in cutting.sent(done)][0] == (None, 0)
    cutting.check_arrived(scene)


# The end, and what is left


@pytest.mark.parametrize(
    ("calls", "action"),
    [
        ('" receive "*', 'real "$@"; kill_program'),
        ('" subvolume snapshot -r -- "*/fd/9/*', "kill_program"),
        ('" subvolume snapshot -r -- "*/fd/9/*', 'real "$@"; kill_program'),
        ('" subvolume delete "*" in "*/incoming/*', "kill_program"),
    ],
    ids=["received", "before publishing", "published", "before deleting"],
)
def test_a_run_that_is_killed_at_the_end_of_a_transfer_is_made_good(
    scene: Scene, tmp_path: Path, calls: str, action: str
) -> None:
    planted(scene)
    killed = scene.run(env=faulty_btrfs(tmp_path, calls, action))
    assert was_faulty(tmp_path), killed.stderr
    assert killed.returncode == -signal.SIGKILL
    scene.wait_for_quiet()
    scene.check_laws()
    assert scene.staging, "all of it was cleared away before"
    is_published = len(scene.backups) == 1
    done = scene.run("--json")
    transfer, *_ = cutting.sent(done)
    if not is_published:
        whole = cutting.stream_size(scene, transfer)
        assert whole - transfer.resumed <= 2 * INTERVAL, "not much was left to send"
    cutting.check_arrived(scene)
    cutting.check_plain_send_goes_on(scene)


@pytest.mark.parametrize("stopped", ["btrfs receive", "all of it"])
def test_a_frozen_receiver_from_before_is_ended_or_left_alone(
    any_scene: Scene, stopped: str
) -> None:
    scene = planted(any_scene)
    frozen: list[processes.Process] = []

    def freeze(scene: Scene, program: subprocess.Popen[str]) -> None:
        receivers = [scene.wait_for_worker("btrfs", "receive")]
        if stopped == "all of it":
            words = {"sh", "receive"}
            receivers += [w for w in scene.workers() if words <= set(w.argv)]
        processes.kill(receivers, signal.SIGSTOP)
        frozen.extend(receivers)
        program.kill()

    try:
        safe = cut_short(scene, SAFE, freeze)
        transfer, *_ = cutting.sent(scene.run("--json", timeout=60))
        is_ended = not any(process.alive() for process in frozen)
        assert is_ended, "who is root can end it"
        assert transfer.resumed >= safe
    finally:
        cutting.kill_orphans(scene)
    cutting.check_arrived(scene)


@pytest.fixture
def open_disk() -> Iterator[Filesystem]:
    """Return a disk that other users find their way to."""
    directory = ours.public_directory()
    try:
        with btrfs_filesystem(directory) as disk:
            yield disk
    finally:
        shutil.rmtree(directory)


def test_a_frozen_receiver_of_root_does_not_write_into_what_comes_after(
    disks: Disks, open_disk: Filesystem, sshd: Sshd, account: Callable[..., Account]
) -> None:
    """Whoever may do nothing but btrfs as root cannot end it."""
    user = account(sudoers=SUDO_BTRFS)
    scene = Scene(disks[0], open_disk, sshd)
    scene.options += (*POINTS, "--rate", "1M")
    os.chown(scene.destination, user.uid, user.gid)
    scene.place = scene.place.replace("root@", f"{user.name}@")
    cutting.write_random(scene.source / "data", INTERVAL + 300_000, 1)
    for number in range(600):
        (scene.source / f"file {number}").write_bytes(os.urandom(5000))

    def files() -> int:
        count = 0
        for body in cutting.bodies(scene):
            with contextlib.suppress(FileNotFoundError):  # replaced meanwhile
                names = os.listdir(body.path) if body.offset else []
                count += sum(name.startswith("file ") for name in names)
        return count

    with scene.start() as program:
        cutting.wait_for_checkpoint(scene, INTERVAL, program)
        processes.wait_until(lambda: files() > 20)
        frozen = scene.wait_for_worker("btrfs", "receive")
        processes.kill([frozen], signal.SIGSTOP)
        time.sleep(0.3)  # its pipe fills
        there = files()
        program.kill()
    try:
        with scene.start("--json", "-S") as program:
            processes.wait_until(
                lambda: files() > there + 60 or program.poll() is not None
            )
            processes.kill([frozen], signal.SIGCONT)
            done = finish(program)
    finally:
        cutting.kill_orphans(scene)
    assert len(cutting.sent(done)) == 1
    scene.check_laws()


@covers("--no-checkpoints")
def test_without_checkpoints_there_is_no_body_and_a_cut_leaves_nothing(
    any_scene: Scene,
) -> None:
    scene = planted(any_scene)
    with scene.start(*RATE, "--no-checkpoints") as program:
        scene.wait_for_data(5 * MIB)
        assert cutting.filters_of(program) == []
        assert cutting.staged(scene) == []
        cutting.LOCAL_CUTS["btrfs receive killed"](scene, program)
        done = finish(program)
    assert_fails(done, 1, "btrfs receive", "SIGKILL")
    assert "resumes from" not in done.stderr
    assert scene.staging == []
    done = scene.run("--json", "--no-checkpoints")
    transfer, *_ = cutting.sent(done)
    assert transfer.size == cutting.stream_size(scene, transfer)
    cutting.check_arrived(scene)


def test_a_run_without_checkpoints_sends_an_interrupted_transfer_from_the_start(
    scene: Scene,
) -> None:
    planted(scene)
    cut_short(scene, SAFE, cutting.LOCAL_CUTS["the program killed"])
    done = scene.run("--json", "--no-checkpoints")
    transfer, *_ = cutting.sent(done)
    assert transfer.resumed == 0
    assert transfer.size == cutting.stream_size(scene, transfer)
    cutting.check_arrived(scene)


def test_a_small_local_transfer_has_no_checkpoints(scene: Scene) -> None:
    scene.options += POINTS
    scene.write(INTERVAL // 2)
    (transfer,) = cutting.sent(scene.run("--json"))
    assert transfer.size == cutting.stream_size(scene, transfer)
    cutting.check_arrived(scene)


def test_what_another_source_left_at_the_destination_is_not_touched(
    disks: Disks,
) -> None:
    cut, other = planted(Scene(*disks)), planted(Scene(*disks))
    other.destination.rmdir()
    other.destination, other.place = cut.destination, cut.place
    other.options[other.options.index("x-")] = "other-"
    safe = cut_short(cut, SAFE, cutting.LOCAL_CUTS["the program killed"])
    cut.wait_for_quiet()
    left = cutting.seals(cut)[-1]
    for _ in range(2):
        other.back_up()
        assert cutting.seals(cut)[-1] == left
        assert cut.staging == [left.transfer]
        other.write()
    done = cut.run("--json")
    assert cutting.sent(done)[0].resumed >= safe
    assert cut.staging == []
    for scene in (cut, other):
        origins = {snapshot.uuid for snapshot in scene.snapshots}
        assert origins <= {backup.received_uuid for backup in cut.backups}
        scene.check_complete()
    cutting.check_nothing_is_left(cut)


@pytest.mark.parametrize(
    "words",
    [
        ("-p", "other-"),
        ("-T", "-n", "5", "-S"),
    ],
)
def test_what_waits_stays_if_a_run_does_not_bring_it(
    scene: Scene, words: tuple[str, ...]
) -> None:
    planted(scene)
    safe = cut_short(scene, SAFE, cutting.LOCAL_CUTS["the program killed"])
    scene.wait_for_quiet()
    left = scene.staging
    done = scene.run(*words)
    assert done.returncode == 0, done.stderr
    assert scene.staging == left
    if scene.backups:  # a nearer parent than none
        scene.back_up()
        assert scene.staging == []
    else:
        cutting.check_resumed(scene, safe)


def test_something_else_in_staging_is_in_nobodys_way(scene: Scene) -> None:
    planted(scene)
    cut_short(scene, SAFE, cutting.LOCAL_CUTS["the program killed"])
    scene.wait_for_quiet()
    (left,) = scene.staging
    directory = scene.destination / STATE / "incoming" / left
    (directory / ".seal-00000000009999999999-x").mkdir()
    (directory / ".seal-00000000009999999998-x").symlink_to("/")
    (directory / "file").write_text("x")
    done = scene.run("--json")
    assert cutting.sent(done)[0].resumed == 0
    cutting.check_arrived(scene)


def test_two_destinations_on_one_disk_each_go_on_from_their_own(disks: Disks) -> None:
    """Their seals have the same UUIDs: those of the same stream."""
    one = planted(Scene(*disks))
    other = one.destination.with_name(one.destination.name + "-other")
    other.mkdir()
    two = Scene(*disks)
    shutil.rmtree(two.destination)
    two.source, two.name = one.source, one.name
    two.snapshot_folder, two.options = one.snapshot_folder, one.options
    two.destination, two.place = other, str(other)
    killed = cutting.LOCAL_CUTS["the program killed"]
    safe = [cut_short(one, SAFE, killed)]
    one.wait_for_quiet()
    safe.append(cut_short(two, SAFE, killed, "-S"))
    one.wait_for_quiet()
    for scene, at_least in zip((two, one), safe[::-1], strict=True):
        transfer, *_ = cutting.sent(scene.run("--json"))
        assert transfer.resumed >= at_least
        scene.check_complete()
        assert scene.staging == []
    cutting.check_nothing_is_left(one)


def test_an_interrupted_transfer_to_one_subvolume_of_a_disk_does_not_hinder_another(
    disks: Disks, btrfs: MakesFilesystems, tmp_path: Path
) -> None:
    """What is mounted is a subvolume, out of which the other one is not to be seen."""
    disk = btrfs()
    scene = planted(Scene(*disks))
    places = [tmp_path / "one", tmp_path / "other"]
    for place in places:
        disk.subvolume(place.name)
        place.mkdir()
        command("mount", "-o", f"subvol={place.name}", disk.device, place)
    scene.destination, scene.place = places[0], str(places[0])
    safe = cut_short(scene, SAFE, cutting.LOCAL_CUTS["the program killed"])
    scene.wait_for_quiet()
    scene.destination, scene.place = places[1], str(places[1])
    assert len(cutting.sent(scene.run("--json", "-S"))) == 1
    scene.check_complete()
    scene.destination, scene.place = places[0], str(places[0])
    (sent,) = cutting.sent(scene.run("--json", "-S"))
    assert sent.resumed >= safe
    scene.check_complete()


@covers("--staging-max-age")
@pytest.mark.parametrize(
    ("hours", "more", "is_kept"),
    [
        (24 * 13, (), True),
        (24 * 15, (), False),
        (-24 * 15, (), False),
        (3, ("--staging-max-age", "2h"), False),
    ],
    ids=["13 days", "15 days", "ahead", "3 hours of 2"],
)
def test_what_a_cut_left_expires_if_nothing_goes_on_with_it(
    scene: Scene, hours: int, more: tuple[str, ...], is_kept: bool
) -> None:
    planted(scene)
    cut_short(scene, SAFE, cutting.LOCAL_CUTS["the program killed"])
    scene.wait_for_quiet()
    _age(scene, timedelta(hours=hours))
    left = scene.staging
    command("btrfs", "subvolume", "delete", scene.snapshots[0].path)
    # A date in the future is believed to be wrong where the clock is confirmed.
    done = scene.run(*more, env={"BTRFS_BACKUP_NG_CLOCK": "0 synchronised"})
    assert done.returncode == 0, done.stderr
    assert scene.staging == (left if is_kept else [])


def test_what_a_cut_left_goes_on_however_old_it_is(scene: Scene) -> None:
    planted(scene)
    safe = cut_short(scene, SAFE, cutting.LOCAL_CUTS["the program killed"])
    scene.wait_for_quiet()
    _age(scene, timedelta(days=100))
    cutting.check_resumed(scene, safe)


def _age(scene: Scene, age: timedelta) -> None:
    """Let it look as if what is in staging had begun earlier."""
    (transfer,) = scene.staging
    then = f"{datetime.now(timezone.utc) - age:%Y%m%dT%H%M%SZ}"
    aged = re.sub(r"^\d{8}T\d{6}Z", then, transfer)
    incoming = scene.destination / STATE / "incoming"
    (incoming / transfer).rename(incoming / aged)


# Disks


def test_a_power_cut_costs_no_sealed_interval(
    disks: Disks, power_cut: PowerCut
) -> None:
    scene = planted(Scene(disks[0], power_cut.filesystem))
    with scene.start(*RATE) as program:
        safe = cutting.wait_for_checkpoint(scene, SAFE, program)
        cut = power_cut.cut()  # without a word to the filesystem
        program.kill()
    scene.wait_for_quiet()
    scene.destination = cut.path / scene.destination.relative_to(power_cut.path)
    scene.place = str(scene.destination)
    assert scene.backups == []
    cutting.check_resumed(scene, safe)


@pytest.mark.parametrize("kind", ["local", "ssh"])
def test_a_transfer_that_filled_its_destination_leaves_it_usable(
    disks: Disks, btrfs: MakesFilesystems, request: pytest.FixtureRequest, kind: str
) -> None:
    disk = btrfs(size="110M", mkfs_options=("--mixed",))
    sshd = request.getfixturevalue("sshd") if kind == "ssh" else None
    scene = planted(Scene(disks[0], disk, sshd))
    disk.fill_up(leave_bytes=14 * MIB)
    done = scene.run("--no-check-space")
    assert_fails(done, 1, "btrfs receive", "No space left on device", "is full")
    assert "is discarded, as the rest" in done.stderr, done.stderr
    assert scene.backups == [] and scene.staging == []
    (disk.path / "filler").unlink()
    disk.sync()
    scene.back_up("--no-check-space", "-S")
    cutting.check_arrived(scene)


def test_checkpoints_do_not_pile_up(ssh_scene: Scene) -> None:
    scene = ssh_scene
    scene.options += ("--checkpoint-interval", "1M")
    cutting.write_random(scene.source / "data", 32 * MIB, 1)
    most, seen = 0, set()
    with scene.start("--rate", "8M") as program:
        while program.poll() is None:
            there = cutting.staged(scene)
            seen |= {one.path.name for one in there}
            most = max(most, len(there))
            time.sleep(0.02)
    assert program.returncode == 0
    assert len(seen) > 45, "there were no checkpoints"
    # Each second all are deleted but three: 8 bodies and as many seals may have come,
    # and some more before a busy disk has deleted them; else all would be there.
    assert most <= 2 / 3 * len(seen)
    cutting.check_arrived(scene)


# Time


def test_reading_again_what_is_there_is_not_a_stall(
    ssh_scene: Scene, tmp_path: Path
) -> None:
    scene = planted(ssh_scene)
    safe = cut_short(scene, 10 * MIB, cutting.LOCAL_CUTS["the program killed"])
    slow = 'real "$@" | pv -q -L 4M'
    env = faulty_btrfs(tmp_path, SENDS, slow)
    began = time.monotonic()
    done = scene.run("--json", "--stall-timeout", "2", "-S", env=env)
    assert time.monotonic() - began > 4, "it was not slow"
    assert was_faulty(tmp_path)
    (transfer,) = cutting.sent(done)
    assert transfer.resumed >= safe
    cutting.check_arrived(scene)


def test_a_source_that_gives_nothing_any_more_is_a_stall_while_it_is_read_again(
    scene: Scene, tmp_path: Path
) -> None:
    planted(scene)
    safe = cut_short(scene, 8 * MIB, cutting.LOCAL_CUTS["the program killed"])
    stuck = 'real "$@" | { head -c 3000000; exec sleep 30; }'
    env = faulty_btrfs(tmp_path, SENDS, stuck)
    done = scene.run("--stall-timeout", "2", "-S", env=env)
    assert was_faulty(tmp_path)
    assert_fails(done, 1, "no data moved for 2 s (--stall-timeout)")
    cutting.check_resumed(scene, safe)


def test_a_run_that_may_retry_goes_on_by_itself(ssh_scene: Scene) -> None:
    scene = planted(ssh_scene)
    with scene.start(*RATE, "--retries", "2", "--json") as program:
        safe = cutting.wait_for_checkpoint(scene, SAFE, program)
        cutting.SSH_CUTS["the ssh master killed"](scene, program)
        done = finish(program)
    (transfer,) = cutting.sent(done)
    assert transfer.resumed >= safe
    assert "was interrupted" in done.stderr and "Trying again" in done.stderr
    cutting.check_arrived(scene)


@covers("--retries")
def test_a_run_that_may_retry_gives_up_after_that(scene: Scene) -> None:
    planted(scene)
    with scene.start(*RATE, "--retries", "1") as program:
        for _ in range(2):
            receive = scene.wait_for_worker("btrfs", "receive")
            cutting.wait_for_checkpoint(scene, INTERVAL, program)
            processes.kill([receive])
            processes.wait_until(lambda: not receive.alive())
        done = finish(program)
    assert_fails(done, 1, "btrfs receive", "SIGKILL", "the next run resumes")
    cutting.check_resumed(scene, INTERVAL)


def test_a_second_run_does_not_end_the_receiver_of_the_first(ssh_scene: Scene) -> None:
    scene = planted(ssh_scene)
    with scene.start(*RATE, "--json") as program:
        cutting.wait_for_checkpoint(scene, SAFE, program)
        assert_fails(scene.run(), 3)
        done = finish(program)
    (transfer,) = cutting.sent(done)
    assert transfer.resumed == 0
    cutting.check_arrived(scene)


def test_it_is_said_from_where_a_transfer_goes_on(scene: Scene) -> None:
    planted(scene)
    safe = cut_short(scene, SAFE, cutting.LOCAL_CUTS["the program killed"])
    done = scene.back_up()
    (said,) = re.findall(r"resumed at ([0-9.]+) MiB", done.stdout)
    assert float(said) >= round(safe / MIB, 1)
    assert_equal(scene.snapshots[0].path, scene.backups[0].path)
    assert show(scene.backups[0].path).read_only
    with contextlib.suppress(FileNotFoundError):
        assert os.listdir(scene.destination / STATE / "incoming") == []


def test_a_retry_sees_that_only_the_answer_was_lost(
    disks: Disks, new_sshd: Servers, tmp_path: Path
) -> None:
    os.chmod(tmp_path, 0o755)
    action = 'real "$@"; kill -KILL $PPID'
    env = faulty_btrfs(tmp_path, '" subvolume snapshot -r -- "*/fd/9/*', action)
    scene = planted(Scene(*disks, new_sshd(config=(f"SetEnv PATH={env['PATH']}",))))
    done = scene.run("--json", "--retries", "1")
    assert was_faulty(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "was interrupted" in done.stderr
    (sent,) = cutting.sent(done)
    assert sent.size == 0
    scene.check_complete()
    assert len(scene.backups) == 1 and scene.staging == []


def test_a_retry_keeps_what_another_run_held_meanwhile(ssh_scene: Scene) -> None:
    """Its lock on the source is lost with the connection, so another run gets it."""
    scene = planted(ssh_scene)
    assert scene.sshd
    pulled: tuple[str | Path, ...] = (
        *scene.options,
        ssh_place(scene.sshd, scene.source, user="root"),
        scene.destination,
    )
    other = scene.destination.with_name(f"{scene.destination.name}-other")
    other.mkdir()
    with start_program(*pulled, *RATE, "--retries", "1", "--json") as program:
        safe = cutting.wait_for_checkpoint(scene, SAFE, program)
        cutting.SSH_CUTS["the ssh master killed"](scene, program)
        beside = run_program("-p", "x-", "--wait", "20", scene.source, other)
        assert beside.returncode == 0, beside.stderr
        done = finish(program)
    assert cutting.sent(done)[0].resumed >= safe
    records = parse_holds(scene.holds.read_bytes())
    assert {place.location for place in records} == {str(other), str(scene.destination)}
    for backup in (*list_subvolumes(other), *scene.backups):
        assert backup.read_only
