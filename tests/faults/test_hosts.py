"""Another machine lacks something, or does not do what is asked of it.

Each verb names the object and the cause in its first line, then what to run; nothing is
made, at either side.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import MakesFilesystems
from tests.faults.conftest import Disks
from tests.support import accounts
from tests.support.accounts import Account
from tests.support.command_line import (
    assert_fails,
    complaint,
    must,
    password_file,
    path_without,
)
from tests.support.places import ssh_place, ssh_words
from tests.support.program import Argument, run_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs

Config = tuple[str, ...]


def _without(*names: str) -> Callable[[Path], Config]:
    """Return the configuration of a server on which programs are missing."""
    return lambda directory: (f"SetEnv PATH={path_without(directory, *names)}",)


def _forced(command: str) -> Callable[[Path], Config]:
    return lambda directory: (f"ForceCommand {command}",)


_NOT_RUN = "did not run the command that it was given"
_FORCED = "no forced command (ForceCommand in sshd_config"
#: The kind -> configuration, first line of all verbs, the next step, check of doctor.
HOSTS: dict[str, tuple[Callable[[Path], Config], str, str, str]] = {
    "btrfs": (_without("btrfs"), "has no btrfs command", "btrfs-progs there", "btrfs"),
    "flock": (_without("flock"), "has no flock command", "util-linux", "flock"),
    "stat and head": (
        _without("stat", "head"),
        "lacks programs that every backup needs: head, stat",
        "Install coreutils and findutils, or busybox",
        "shell",
    ),
    "a forced command": (
        _forced("echo Only for backups of Ann."),
        f"{_NOT_RUN}, and answered 'Only for backups of Ann.'",
        _FORCED,
        "shell",
    ),
    "one that fails": (
        _forced("echo Not now >&2; exit 1"),
        f"{_NOT_RUN}, and answered 'Not now'",
        _FORCED,
        "shell",
    ),
    "sftp": (_forced("internal-sftp"), _NOT_RUN, _FORCED, "shell"),
}


@pytest.mark.parametrize("kind", HOSTS)
def test_a_machine_that_cannot_do_it_is_named_by_each_verb(
    disks: Disks, new_sshd: Callable[..., Sshd], public_path: Path, kind: str
) -> None:
    make, cause, step, check = HOSTS[kind]
    server = new_sshd(config=make(public_path))
    scene = Scene(*disks)
    scene.back_up()
    place = ssh_place(server, scene.destination)
    words: list[Argument] = [*ssh_words(server), place]
    to = scene.other_destination("to")
    before = scene.fingerprint()
    runs: list[tuple[int, list[Argument]]] = [
        (4, ["-p", "x-", scene.source, *words]),
        (1, ["list", *words]),
        (4, ["restore", *words, "--to", to]),
        (4, ["prune", "--yes", "--keep-at=latest=9", *words]),
    ]
    for status, run in runs:
        told = complaint(run_program(*run), status)
        first, *others = told.splitlines()
        assert "127.0.0.1" in first and cause in first, told
        assert step in "".join(others), told
    found = must(run_program("doctor", "-q", *words), 2).stdout
    assert f"FAIL     {check} " in found
    assert step in found
    assert scene.fingerprint() == before


def test_an_account_without_a_shell_is_named(
    scene: Scene, sshd: Sshd, account: Callable[..., Account]
) -> None:
    user = account(shell="/usr/sbin/nologin")
    words = [*ssh_words(sshd), ssh_place(sshd, scene.destination, user=user.name)]
    told = complaint(run_program("-p", "x-", scene.source, *words), 4, "login shell")
    assert f"{_NOT_RUN}, and answered 'This account is" in told.splitlines()[0]
    assert scene.snapshots == []


@contextmanager
def _full(path: Path) -> Iterator[Path]:
    """Mount a filesystem in which nothing can be made."""
    options = "size=4k,nr_inodes=1,mode=1777"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "full", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def test_a_full_tmp_is_in_the_way_of_a_password_only(
    disks: Disks,
    new_sshd: Callable[..., Sshd],
    account: Callable[..., Account],
    public_path: Path,
    tmp_path: Path,
) -> None:
    scene = Scene(*disks)
    user = account(sudoers=accounts.SUDO_PASSWORD, password="right")
    os.chown(scene.destination, user.uid, user.gid)
    file = password_file(tmp_path, "right\n")
    with _full(public_path) as full:
        server = new_sshd(config=(f"SetEnv TMPDIR={full}",))
        options = [*ssh_words(server), f"--sudo-password-file={file}"]
        place = ssh_place(server, scene.destination, user=user.name)
        words: list[Argument] = [*options, place]
        told = complaint(run_program("-p", "x-", scene.source, *words), 4, "df -hi")
        first = told.splitlines()[0]
        assert "the password for sudo cannot be kept on" in first
        assert first.endswith("No space left on device.")
        found = must(run_program("doctor", "-q", *words), 2).stdout
        assert "FAIL     privilege   the password for sudo" in found
        assert scene.snapshots == [] and os.listdir(scene.destination) == []
        # As root, all goes on without it: a dry run of a pull, and files of a backup.
        os.chown(scene.destination, 0, 0)
        scene.place = ssh_place(server, scene.destination)
        scene.options += ssh_words(server)
        scene.back_up()
        source = ssh_place(server, scene.source)
        must(run_program("--dry-run", *scene.options, source, scene.destination))
        to = scene.other_destination("to")
        files: list[Argument] = ["restore", *ssh_words(server), scene.place]
        must(run_program(*files, "--to", to, "--file", "data"))
        assert os.listdir(to) == ["data"]


def test_a_machine_with_busybox_and_gnu_tar_gives_files_if_it_can(
    disks: Disks, new_sshd: Callable[..., Sshd], public_path: Path
) -> None:
    """``head`` of busybox takes more of a list than it is told to."""
    for name in ("head", "dd"):
        (public_path / name).symlink_to("/bin/busybox")
    path = f"{public_path}:{os.environ['PATH']}"
    server = new_sshd(config=(f"SetEnv PATH={path}",))
    scene = Scene(*disks, server)
    (scene.source / "a/b").mkdir(parents=True)
    for name in ("a/b/c", "d"):
        (scene.source / name).write_text(name)
    scene.back_up()
    to = scene.other_destination("to")
    words: list[Argument] = [*ssh_words(server), scene.place, "--to", to]
    must(run_program("restore", *words, "--file", "a/b/c", "d"))
    assert (to / "a/b/c").read_text() == "a/b/c" and (to / "d").exists()
    (public_path / "stat").symlink_to("/bin/busybox")
    told = complaint(run_program("restore", *words, "--file", "small 1"), 4)
    assert "has no GNU coreutils, and others lose" in told.splitlines()[0]


@pytest.mark.parametrize("is_first", [True, False])
def test_a_full_disk_of_another_machine_is_named_before_anything_is_made(
    disks: Disks, btrfs: MakesFilesystems, sshd: Sshd, is_first: bool
) -> None:
    disk = btrfs(size="120M", mkfs_options=("--mixed",))
    scene = Scene(disks[0], disk, sshd)
    if not is_first:
        scene.back_up()
        scene.write()
    disk.sync()
    with pytest.raises(OSError), open(disk.path / "filler", "wb", buffering=0) as file:
        while True:
            file.write(os.urandom(1 << 16))
    disk.sync()
    before = scene.snapshots, scene.backups
    done = scene.run("--no-check-space")
    assert_fails(done, 1, "No space left on device", "See what takes the space:  ssh ")
    assert "btrfs filesystem usage" in done.stderr
    assert "must own the directory" not in done.stderr
    assert scene.backups == before[1] and (not is_first or scene.snapshots == before[0])
    (disk.path / "filler").unlink()
    disk.sync()
    scene.check_converges()


def test_one_session_is_too_few_and_nothing_is_made(
    disks: Disks, new_sshd: Callable[..., Sshd]
) -> None:
    scene = Scene(*disks, new_sshd(config=("MaxSessions 1",)))
    done = scene.run()
    assert_fails(done, 1, "Session open refused by peer", "allows too few sessions")
    assert "MaxSessions 10" in done.stderr
    assert scene.backups == [] and scene.staging == []


@pytest.mark.parametrize("allowed", [2, 4, 5])
def test_tasks_on_a_server_that_allows_few_sessions_wait_for_each_other(
    disks: Disks, new_sshd: Callable[..., Sshd], allowed: int
) -> None:
    """One after the other if there is room for one of them alone."""
    server = new_sshd(config=(f"MaxSessions {allowed}",))
    scene = Scene(*disks, server)
    words: list[Argument] = []
    for number in range(3):
        source = scene.subvolume(f"home {number}")
        (source / "file").write_bytes(os.urandom(1 << 20))
        place = ssh_place(server, scene.other_destination(f"{number}"), user="root")
        words += ["::", *scene.options, source, place]
    server.mark()
    done = must(run_program(*words[1:]))
    assert done.stderr == ""
    assert done.stdout.count("sent ") == 3, done.stdout
    assert server.connections() == 1


def test_a_home_that_is_missing_or_read_only_is_in_the_way_of_nothing(
    disks: Disks, sshd: Sshd, account: Callable[..., Account]
) -> None:
    for shell in ("bash", "fish"):
        scene = Scene(*disks)
        user = account(shell=shell, sudoers=accounts.SUDO_BTRFS)
        os.chown(scene.destination, user.uid, user.gid)
        scene.place = ssh_place(sshd, scene.destination, user=user.name)
        scene.options += ssh_words(sshd)
        user.home.rename(user.home.with_name("away"))
        try:
            scene.back_up()
            user.home.mkdir()
            with _full(user.home):
                assert scene.back_up().stderr == ""
        finally:
            subprocess.run(["rm", "-rf", user.home], check=True)
            user.home.with_name("away").rename(user.home)
        assert len(scene.backups) == 2
