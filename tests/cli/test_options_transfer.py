"""The options about how data is moved."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from btrfs_backup_ng.__util__ import UsageError
from btrfs_backup_ng.cli.backup_options import parse_task
from btrfs_backup_ng.core.model import TransferOptions
from btrfs_backup_ng.transfer.route import middle_stages
from tests.support.command_line import (
    complaint,
    covers,
    logging_path,
    must,
    path_without,
    script,
)
from tests.support.filesystems import Filesystem
from tests.support.places import MIB, ssh_place, ssh_words
from tests.support.program import Argument, run_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs

Disks = tuple[Filesystem, Filesystem]
NewSshd = Callable[..., Sshd]


@covers("-I", "--no-incremental")
def test_every_backup_is_full_if_so_wished(scene: Scene, tmp_path: Path):
    path, log = logging_path(tmp_path, "btrfs")
    scene.back_up()
    done = scene.back_up("-I", env={"PATH": path})
    assert "in full (full was asked for)" in done.stdout
    (send,) = [line for line in log.read_text().splitlines() if "btrfs send" in line]
    assert " -p " not in send
    assert len(scene.backup_names) == 2


@covers("-I")
def test_a_backup_is_incremental_unless_otherwise_wished(scene: Scene, tmp_path: Path):
    path, log = logging_path(tmp_path, "btrfs")
    scene.back_up()
    done = scene.back_up(env={"PATH": path})
    assert f"since {scene.backup_names[0]}" in done.stdout
    (send,) = [line for line in log.read_text().splitlines() if "btrfs send" in line]
    assert " -p " in send


@covers("--incremental")
def test_a_full_transfer_is_refused_if_an_incremental_one_is_required(scene: Scene):
    done = scene.run("--incremental=required")
    complaint(done, 4, str(scene.destination), "in full", "first backup there")
    assert scene.snapshot_names == scene.backup_names == []


@covers("--incremental")
def test_required_lets_incremental_transfers_pass(scene: Scene):
    scene.back_up("--incremental", "auto")
    scene.back_up("--incremental=required")
    assert len(scene.backup_names) == 2


@covers("--incremental", "-I")
def test_incremental_options_that_contradict_each_other_are_refused(scene: Scene):
    complaint(scene.run("-I", "--incremental=required"), 2, "-I", "required")


@covers("--rate")
def test_the_rate_is_limited_by_pv(scene: Scene, tmp_path: Path):
    path, log = logging_path(tmp_path, "pv", "mbuffer")
    scene.back_up("--rate", "10M", env={"PATH": path})
    assert log.read_text() == f"pv -q -L {10 * MIB}\n"
    assert len(scene.backup_names) == 1


@covers("--rate")
def test_the_rate_is_limited_by_mbuffer_where_there_is_no_pv(
    scene: Scene, tmp_path: Path
):
    path, log = logging_path(tmp_path, "mbuffer", path=path_without(tmp_path, "pv"))
    scene.back_up("--rate", "512K", env={"PATH": path})
    (line,) = log.read_text().splitlines()
    assert line.endswith(f"-R {512 << 10}")
    assert len(scene.backup_names) == 1


@covers("--rate")
def test_the_rate_is_really_kept(scene: Scene):
    scene.add("large", 2 * MIB)
    done = scene.back_up("--rate", "1M", "--json")
    (sent,) = [e for e in json.loads(done.stdout)["events"] if e["event"] == "sent"]
    assert sent["size_bytes"] / sent["elapsed_s"] < 2 * MIB


@covers("--rate")
def test_a_rate_that_nothing_can_keep_is_an_error(scene: Scene, tmp_path: Path):
    before = scene.fingerprint()
    path = path_without(tmp_path, "pv", "mbuffer")
    done = scene.run("--rate", "10M", env={"PATH": path})
    complaint(done, 2, "--rate", "pv", "mbuffer", "Install")
    assert scene.fingerprint() == before


@covers("--rate", "--no-mbuffer")
def test_a_rate_does_not_bring_back_an_unwanted_mbuffer(scene: Scene, tmp_path: Path):
    path = path_without(tmp_path, "pv")
    done = scene.run("--rate", "10M", "--no-mbuffer", env={"PATH": path})
    complaint(done, 2, "--rate", "pv")


@covers("--rate")
def test_a_rate_that_is_none_is_refused(scene: Scene):
    complaint(scene.run("--rate=0"), 2, "--rate")
    assert scene.snapshot_names == []
    for rate in ("fast", "-1M", "", "1 2", "10Q"):
        with pytest.raises(UsageError, match="--rate"):
            parse_task([f"--rate={rate}", "/a"])


@covers("--use-mbuffer")
def test_mbuffer_is_used_on_request(scene: Scene, tmp_path: Path):
    path, log = logging_path(tmp_path, "mbuffer")
    scene.back_up(env={"PATH": path})
    assert log.read_text() == ""
    scene.back_up("--use-mbuffer", env={"PATH": path})
    assert log.read_text().startswith("mbuffer ")
    assert len(scene.backup_names) == 2


@covers("--use-mbuffer")
def test_mbuffer_on_request_must_be_installed(scene: Scene, tmp_path: Path):
    before = scene.fingerprint()
    path = path_without(tmp_path, "mbuffer")
    done = scene.run("--use-mbuffer", env={"PATH": path})
    complaint(done, 2, "--use-mbuffer", "not installed", "Install")
    assert scene.fingerprint() == before


@covers("--no-mbuffer")
def test_over_ssh_mbuffer_is_used_unless_forbidden(
    scene: Scene, tmp_path: Path, sshd: Sshd
):
    """It is where it has a core of its own, see ``middle_stages``."""
    path, log = logging_path(tmp_path, "mbuffer")
    has_room = len(os.sched_getaffinity(0)) >= 4
    words: list[Argument] = [*ssh_words(sshd), "-p", "x-", scene.source]
    to = ssh_place(sshd, scene.destination)
    must(run_program("--no-mbuffer", *words, to, env={"PATH": path}))
    assert log.read_text() == ""
    must(run_program(*words, to, env={"PATH": path}))
    assert log.read_text().startswith("mbuffer ") == has_room
    assert len(scene.backup_names) == 2


@pytest.mark.parametrize(
    ("is_remote", "cores", "labels"),
    [
        (True, 4, ["mbuffer"]),
        (True, 64, ["mbuffer"]),
        (True, 3, []),
        (False, 64, []),
    ],
)
def test_a_buffer_stands_where_it_helps(is_remote, cores, labels):
    stages = middle_stages(TransferOptions(), is_remote=is_remote, cores=cores)
    assert [stage.label for stage in stages] == labels


@covers("--no-mbuffer")
def test_over_ssh_mbuffer_is_not_needed(scene: Scene, tmp_path: Path, sshd: Sshd):
    path = path_without(tmp_path, "mbuffer", "pv")
    to = ssh_place(sshd, scene.destination)
    words: list[Argument] = [*ssh_words(sshd), "-p", "x-", scene.source, to]
    must(run_program(*words, env={"PATH": path}))
    assert len(scene.backup_names) == 1


@covers("--verify-transfer", "--no-verify-transfer")
@pytest.mark.parametrize(
    ("option", "looks"),
    [
        ("--verify-transfer", 1),
        ("--no-verify-transfer", 0),
    ],
)
def test_a_backup_is_looked_at_under_its_final_name(
    disks: Disks, new_sshd: NewSshd, public_path: Path, option: str, looks: int
):
    path, log = logging_path(public_path, "btrfs", where=True)
    scene = Scene(*disks, new_sshd(config=(f"SetEnv PATH={path}",)))
    scene.back_up(option)
    (name,) = scene.backup_names
    look = f"{scene.destination}: btrfs subvolume show -- ./{name}"
    assert log.read_text().splitlines().count(look) == looks


@covers("--verify-transfer")
def test_a_backup_is_looked_at_without_being_told(
    disks: Disks, new_sshd: NewSshd, public_path: Path
):
    path, log = logging_path(public_path, "btrfs", where=True)
    scene = Scene(*disks, new_sshd(config=(f"SetEnv PATH={path}",)))
    scene.back_up()
    (name,) = scene.backup_names
    look = f"{scene.destination}: btrfs subvolume show -- ./{name}"
    assert look in log.read_text().splitlines()


@covers("--verify-transfer")
def test_a_backup_that_is_not_what_was_sent_is_a_failure(
    disks: Disks, new_sshd: NewSshd, public_path: Path
):
    path, _ = logging_path(public_path, "btrfs")
    scene = Scene(*disks, new_sshd(config=(f"SetEnv PATH={path}",)))
    final = f'"$1 $2" = "subvolume show" ] && [ "$(pwd -P)" = "{scene.destination}"'
    real = (public_path / "wrappers/btrfs").read_text().splitlines()[-1]
    script(
        public_path / "wrappers/btrfs",
        f"if [ {final} ]; then\n"
        f"{real.removeprefix('exec ')} | sed 's/^.*Received UUID:.*/"
        "\tReceived UUID: \t\t12345678-1234-1234-1234-123456789abc/'\n"
        f"else\n{real}\nfi",
    )
    done = scene.run()
    complaint(done, 1, str(scene.destination), "is not the snapshot that was sent")


@covers("--stall-timeout")
def test_a_transfer_in_which_nothing_moves_is_ended(scene: Scene):
    scene.add("large", 4 * MIB)
    sink = "shell://exec sleep 60"
    words: list[Argument] = ["-p", "x-", "--stall-timeout", "1", scene.source, sink]
    done = run_program(*words, timeout=50)
    complaint(done, 1, "1 s", sink, "took no more data")


@covers("--stall-timeout")
def test_no_stall_limit_is_no_limit(scene: Scene):
    scene.add("large", 4 * MIB)
    sink = "shell://sleep 2; exec cat >/dev/null"
    must(run_program("-p", "x-", "--stall-timeout", "0", scene.source, sink))


@covers("--stall-timeout")
def test_a_stall_limit_that_is_no_number_is_refused(scene: Scene):
    complaint(scene.run("--stall-timeout=soon"), 2, "seconds")
    assert scene.snapshot_names == []
    for number in ("-1", "nan", "inf", ""):
        with pytest.raises(UsageError, match="seconds"):
            parse_task([f"--stall-timeout={number}", "/a"])


def test_the_command_of_a_shell_destination_gets_the_stream_and_the_name(
    scene: Scene, tmp_path: Path
):
    sink = f"shell://cat >{tmp_path}/$1"
    must(run_program("-p", "x-", scene.source, sink))
    (name,) = scene.snapshot_names
    assert (tmp_path / name).read_bytes().startswith(b"btrfs-stream\0")
    assert os.listdir(tmp_path) == [name]
