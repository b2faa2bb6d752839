"""The options about how other machines are reached."""

import os
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest

from btrfs_backup_ng.__util__ import UsageError
from btrfs_backup_ng.cli.backup_options import parse_task
from tests.support.accounts import Account
from tests.support.command_line import (
    complaint,
    covers,
    logging_path,
    must,
    on_terminal,
)
from tests.support.places import MIB, ssh_place, ssh_words
from tests.support.processes import children, kill, wait_until
from tests.support.program import Argument, run_program, start_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs

#: Lets an account do what the program needs of sudo.
SUDO = "{name} ALL=(root) NOPASSWD: ALL"


def _words(scene: Scene, server: Sshd, *options: Argument) -> list[Argument]:
    return ["-p", "x-", *options, scene.source, ssh_place(server, scene.destination)]


@covers("--ssh-opt")
def test_ssh_options_may_be_repeated(scene: Scene, sshd: Sshd):
    words = ssh_words(sshd)
    place = f"ssh://{sshd.host}{scene.destination}"
    done = run_program(
        "-p", "x-", *ssh_words(sshd, without=["Port"]), scene.source, place
    )
    must(done, 1)
    assert len(words) > 5
    must(run_program("-p", "x-", *words, scene.source, place))
    assert len(scene.backup_names) == 1
    assert sshd.connections() == 1


@covers("--ssh-opt")
def test_ssh_options_win_over_ours(scene: Scene, sshd: Sshd, tmp_path: Path):
    words = ssh_words(sshd, without=["StrictHostKeyChecking", "UserKnownHostsFile"])
    known = tmp_path / "known_hosts"
    words.append(f"--ssh-opt=UserKnownHostsFile={known}")
    strict = "--ssh-opt=StrictHostKeyChecking=yes"
    done = run_program(*_words(scene, sshd, *words, strict))
    complaint(done, 1, sshd.host)
    assert scene.snapshot_names == []
    must(run_program(*_words(scene, sshd, *words)))
    assert known.read_text().count("ssh-ed25519") == 1


@covers("--ssh-opt")
@pytest.mark.parametrize("option", ["Port", "", "=2222", "Po rt=1", "-oPort=1"])
def test_what_is_no_ssh_option_is_refused(option: str):
    with pytest.raises(UsageError, match="not an ssh option"):
        parse_task([f"--ssh-opt={option}", "/a"])


@covers("--ssh-identity-file")
def test_the_key_of_the_identity_file_is_used(scene: Scene, sshd: Sshd):
    words = ssh_words(sshd, without=["IdentityFile"])
    done = run_program(*_words(scene, sshd, *words))
    complaint(done, 1, "refused the login", "--ssh-identity-file")
    assert scene.snapshot_names == []
    key = ["--ssh-identity-file", str(sshd.identity)]
    must(run_program(*_words(scene, sshd, *words, *key)))
    assert len(scene.backup_names) == 1


@covers("--ssh-identity-file")
def test_an_identity_file_that_is_not_there_is_named(scene: Scene, sshd: Sshd):
    words = ssh_words(sshd, without=["IdentityFile"])
    missing = "/nowhere/a key"
    done = run_program(*_words(scene, sshd, *words, "--ssh-identity-file", missing))
    complaint(done, 1 if done.returncode == 1 else 2, missing)
    assert scene.snapshot_names == []


@covers("--ssh-username")
def test_the_user_name_counts_where_the_place_names_none(
    scene: Scene, sshd: Sshd, account: Callable[..., Account]
):
    user = account(sudoers=SUDO)
    os.chown(scene.destination, user.uid, user.gid)
    words: list[Argument] = [*ssh_words(sshd), "--ssh-username", user.name]
    must(run_program(*_words(scene, sshd, *words)))
    assert f"Accepted publickey for {user.name} " in sshd.log_text()
    sshd.mark()
    place = ssh_place(sshd, scene.other_destination("of root"), user="root")
    must(run_program("-p", "x-", *words, scene.source, place))
    assert "Accepted publickey for root " in sshd.log_text()
    assert user.name not in sshd.log_text()


@covers("--ssh-sudo")
def test_sudo_is_used_there_if_told_to(
    scene: Scene, new_sshd: Callable[..., Sshd], public_path: Path
):
    path, log = logging_path(public_path, "sudo")
    server = new_sshd(config=(f"SetEnv PATH={path}",))
    must(run_program(*_words(scene, server, *ssh_words(server))))
    assert log.read_text() == ""  # root needs none
    words = _words(scene, server, *ssh_words(server), "--ssh-sudo")
    must(run_program(*words))
    assert "sudo -n btrfs receive" in log.read_text()
    assert len(scene.backup_names) == 2


@covers("--no-password-auth")
def test_no_password_is_asked_for_if_so_wished(
    scene: Scene, new_sshd: Callable[..., Sshd], account: Callable[..., Account]
):
    server = new_sshd(config=("PasswordAuthentication yes",))
    user = account()
    place = ssh_place(server, scene.destination, user=user.name)
    words = ssh_words(server, without=["IdentityFile", "BatchMode"])
    words += ["--ssh-opt=IdentityFile=none", "--ssh-opt=NumberOfPasswordPrompts=1"]
    asked = on_terminal("-p", "x-", *words, scene.source, place, input="wrong\n")
    assert "password:" in asked.stdout
    assert asked.returncode == 1, asked.stdout
    assert f"{user.name}@{server.host} refused the login" in asked.stdout
    silent = on_terminal(
        "-p", "x-", "--no-password-auth", *words, scene.source, place, input="wrong\n"
    )
    assert "password:" not in silent.stdout
    assert silent.returncode == 1, silent.stdout
    assert "refused the login" in silent.stdout
    assert scene.snapshot_names == []


def test_a_user_without_root_rights_there_gets_them_by_sudo(
    scene: Scene, sshd: Sshd, account: Callable[..., Account]
):
    user = account(sudoers="{name} ALL=(root) NOPASSWD: /usr/bin/btrfs")
    os.chown(scene.destination, user.uid, user.gid)
    place = ssh_place(sshd, scene.destination, user=user.name)
    must(run_program("-p", "x-", *ssh_words(sshd), scene.source, place))
    assert len(scene.backup_names) == 1
    assert pwd.getpwnam(user.name).pw_uid != 0


def test_one_connection_serves_a_whole_run(scene: Scene, sshd: Sshd):
    must(run_program(*_words(scene, sshd, *ssh_words(sshd))))
    assert sshd.connections() == 1


@pytest.mark.parametrize("refused", ["lock", "list", "send"])
def test_too_few_sessions_are_no_second_login_and_are_named(
    scene: Scene, new_sshd: Callable[..., Sshd], refused: str
):
    allowed = {"list": 1, "lock": 1, "send": 3}[refused]
    server = new_sshd(config=(f"MaxSessions {allowed}",))
    server.mark()
    source, to = str(scene.source), [ssh_place(server, scene.destination)]
    if refused == "lock":
        to.append(ssh_place(server, scene.other_destination("other")))
    if refused == "send":
        source = ssh_place(server, scene.source)
    done = run_program("-p", "x-", *ssh_words(server), source, *to)
    complaint(done, 1, "MaxSessions 10", "sshd_config")
    assert server.connections() == 1
    assert server.log_text().count("Connection from") == 1
    assert scene.backup_names == []


def test_a_dead_connection_is_no_second_login(scene: Scene, sshd: Sshd):
    scene.add("large", 6 * MIB)
    words = _words(scene, sshd, "--rate", "2M", *ssh_words(sshd))
    with start_program(*words) as program:
        incoming = scene.destination / ".btrfs-backup-ng" / "incoming"
        wait_until(lambda: incoming.exists() and list(incoming.glob("*/*")))
        kill(child for child in children(program.pid) if "-M" in child.argv)
        _, told = program.communicate(timeout=60)
    assert program.returncode == 1 and "connection" in told, told
    assert sshd.connections() == 1
    assert sshd.log_text().count("Connection from") == 1
