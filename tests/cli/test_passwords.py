"""The options about passwords, agents and host keys, and whoever is asked."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.accounts import SUDO_BTRFS, SUDO_PASSWORD, Account
from tests.support.command_line import (
    complaint,
    covers,
    in_conversation,
    must,
    password_file,
)
from tests.support.places import ssh_place, ssh_words
from tests.support.processes import wait_until
from tests.support.program import Argument, run_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs

Accounts = Callable[..., Account]
Servers = Callable[..., Sshd]
#: A password that no shell and no format leaves as it is.
PASSWORD = "Ge heim$'\"%s\\n\u00fc"


@pytest.fixture
def password_sshd(new_sshd: Servers) -> Sshd:
    """Run a server that takes passwords."""
    server = new_sshd(config=("PasswordAuthentication yes",))
    server.mark()
    return server


def _keyless(server: Sshd) -> list[str]:
    """Return the options for a login without any key."""
    return [*ssh_words(server, without=["IdentityFile"]), "--ssh-opt=IdentityFile=none"]


def _user(account: Accounts, scene: Scene, sudoers: str = SUDO_BTRFS) -> Account:
    user = account(password=PASSWORD, sudoers=sudoers)
    os.chown(scene.destination, user.uid, user.gid)
    return user


def _push(
    scene: Scene, server: Sshd, user: Account, *options: Argument
) -> list[Argument]:
    to = ssh_place(server, scene.destination, user=user.name)
    return ["-p", "x-", *_keyless(server), *options, scene.source, to]


@covers("--ssh-password-file")
def test_a_password_file_answers_what_ssh_asks(
    scene: Scene, password_sshd: Sshd, account: Accounts, tmp_path: Path
):
    user = _user(account, scene)
    file = password_file(tmp_path, f"{PASSWORD}\nmore\n")
    words = _push(scene, password_sshd, user, "--ssh-password-file", file)
    must(run_program(*words))
    assert len(scene.backup_names) == 1
    assert password_sshd.log_text().count(f"Accepted password for {user.name} ") == 1
    assert "Failed" not in password_sshd.log_text()


@covers("--ssh-password-file")
def test_a_password_file_opens_a_key_that_has_a_passphrase(
    scene: Scene, sshd: Sshd, tmp_path: Path
):
    key = tmp_path / "a key"
    shutil.copy(sshd.identity, key)
    argv = ["ssh-keygen", "-q", "-p", "-P", "", "-N", PASSWORD, "-f", str(key)]
    subprocess.run(argv, check=True)
    words = ssh_words(sshd, without=["IdentityFile"])
    words.append(f"--ssh-identity-file={key}")
    place: list[Argument] = [scene.source, ssh_place(sshd, scene.destination)]
    done = run_program("-p", "x-", *words, *place)
    complaint(done, 1, "refused the login", str(key))
    file = password_file(tmp_path, PASSWORD)
    must(run_program("-p", "x-", *words, "--ssh-password-file", file, *place))
    assert len(scene.backup_names) == sshd.connections() == 1


@covers("--ssh-password-file")
def test_a_wrong_password_is_one_attempt_and_is_named(
    scene: Scene, password_sshd: Sshd, account: Accounts, tmp_path: Path
):
    user, file = _user(account, scene), password_file(tmp_path, "wrong\n")
    before = scene.fingerprint()
    done = run_program(*_push(scene, password_sshd, user, "--ssh-password-file", file))
    who = f"{user.name}@{password_sshd.host}"
    complaint(done, 1, f"{who} refused the login", f"the password in {file}")
    assert password_sshd.log_text().count("Failed password") == 1
    assert password_sshd.log_text().count("Connection from") == 1
    assert scene.fingerprint() == before


#: Content, mode -> what is said.
BAD = {
    "mode": (PASSWORD, 0o644, "chmod 600"),
    "group": (PASSWORD, 0o640, "chmod 600"),
    "missing": (None, 0, "No such file"),
    "empty": ("", 0o600, "is not a password"),
    "blank": (f"\n{PASSWORD}", 0o600, "is not a password"),
    "long": ("x" * 5000, 0o600, "is not a password"),
    "nul": ("a\0b", 0o600, "is not a password"),
}


def _bad_file(tmp_path: Path, kind: str) -> tuple[Path, str]:
    content, mode, words = BAD[kind]
    if content is None:
        return tmp_path / "nowhere", words
    return password_file(tmp_path, content, mode=mode), words


@covers("--ssh-password-file")
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_password_file_is_refused_before_anything_changes(
    scene: Scene, sshd: Sshd, tmp_path: Path, kind: str
):
    file, words = _bad_file(tmp_path, kind)
    before = scene.fingerprint()
    to = ssh_place(sshd, scene.destination)
    options: list[Argument] = [*ssh_words(sshd), "--ssh-password-file", file]
    done = run_program("-p", "x-", *options, scene.source, to)
    complaint(done, 2, str(file), words)
    assert PASSWORD not in done.stderr
    assert sshd.connections() == 0
    assert scene.fingerprint() == before


def test_a_password_file_that_is_a_directory_or_a_pipe_is_refused(
    scene: Scene, sshd: Sshd, tmp_path: Path
):
    os.mkfifo(tmp_path / "pipe", 0o600)
    to = ssh_place(sshd, scene.destination)
    for file in (tmp_path, tmp_path / "pipe"):
        options: list[Argument] = [*ssh_words(sshd), "--ssh-password-file", file]
        done = run_program("-p", "x-", *options, scene.source, to, timeout=30)
        complaint(done, 2, str(file))
    assert scene.snapshot_names == [] and sshd.connections() == 0


@covers("--no-password-auth")
def test_without_password_logins_a_password_file_is_not_used(
    scene: Scene, password_sshd: Sshd, account: Accounts, tmp_path: Path
):
    user, file = _user(account, scene), password_file(tmp_path, PASSWORD)
    options = ("--no-password-auth", "--ssh-password-file", file)
    done = run_program(*_push(scene, password_sshd, user, *options))
    complaint(done, 1, "refused the login")
    assert str(file) not in done.stderr
    assert "password for" not in password_sshd.log_text()


# What sudo there asks.


def _with_sudo_password(
    scene: Scene, server: Sshd, user: Account, *options: Argument
) -> list[Argument]:
    to = ssh_place(server, scene.destination, user=user.name)
    return ["-p", "x-", *ssh_words(server), *options, scene.source, to]


@covers("--sudo-password-file")
def test_a_sudo_password_file_serves_a_whole_backup_there_and_back(
    scene: Scene, sshd: Sshd, account: Accounts, tmp_path: Path
):
    user = account(password=PASSWORD, sudoers=SUDO_PASSWORD)
    words = _with_sudo_password(scene, sshd, user)
    refused = run_program(*words)
    complaint(refused, 4, "sudo asks for a password", "--sudo-password-file")
    assert scene.snapshot_names == []
    sshd.mark()
    option = ("--sudo-password-file", password_file(tmp_path, PASSWORD))
    for number in (1, 2):  # the second builds upon the first
        done = must(run_program(*_with_sudo_password(scene, sshd, user, *option)))
        assert len(scene.backup_names) == number
        scene.add(f"file {number}")
    assert "since" in done.stdout and sshd.connections() == 2
    pulled = scene.other_destination("pulled")
    source = ssh_place(sshd, scene.source, user=user.name)
    must(run_program("-p", "y-", *ssh_words(sshd), *option, source, pulled))
    (one,) = (name for name in os.listdir(pulled) if name.startswith("y-"))
    assert (pulled / one / "file 2").exists()


@covers("--sudo-password-file")
def test_a_wrong_sudo_password_is_named_and_nothing_changes(
    scene: Scene, sshd: Sshd, account: Accounts, tmp_path: Path
):
    user = account(password=PASSWORD, sudoers=SUDO_PASSWORD)
    file, before = password_file(tmp_path, "wrong"), scene.fingerprint()
    words = _with_sudo_password(scene, sshd, user, "--sudo-password-file", file)
    who = f"{user.name}@{sshd.host}"
    complaint(run_program(*words), 4, f"sudo on {who} rejected the password")
    assert scene.fingerprint() == before


@covers("--sudo-password-file")
@pytest.mark.parametrize("kind", ["mode", "missing", "empty"])
def test_a_bad_sudo_password_file_is_refused_before_anything_changes(
    scene: Scene, sshd: Sshd, account: Accounts, tmp_path: Path, kind: str
):
    user = account(password=PASSWORD, sudoers=SUDO_PASSWORD)
    file, words = _bad_file(tmp_path, kind)
    before = scene.fingerprint()
    argv = _with_sudo_password(scene, sshd, user, "--sudo-password-file", file)
    complaint(run_program(*argv), 2, str(file), words)
    assert scene.fingerprint() == before


def test_credentials_of_systemd_are_used_where_no_file_is_named(
    scene: Scene, password_sshd: Sshd, account: Accounts, tmp_path: Path
):
    user = account(password=PASSWORD, sudoers=SUDO_PASSWORD)
    for name in ("ssh-password", "sudo-password"):
        password_file(tmp_path, PASSWORD).rename(tmp_path / name)
    env = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    words = _push(scene, password_sshd, user)
    complaint(run_program(*words), 1, "refused the login")
    must(run_program(*words, env=env))
    assert len(scene.backup_names) == 1
    assert password_sshd.log_text().count("Accepted password") == 1
    wrong = ("--ssh-password-file", password_file(tmp_path, "wrong"))  # it wins
    words = _push(scene, password_sshd, user, *wrong)
    complaint(run_program(*words, env=env), 10, "refused the login")


# Somebody sits at a terminal.


def test_somebody_is_asked_once_for_the_password_of_sudo(
    scene: Scene, sshd: Sshd, account: Accounts
):
    user = account(password=PASSWORD, sudoers=SUDO_PASSWORD)
    other = scene.other_destination("other")
    words = _with_sudo_password(scene, sshd, user)
    question = f"sudo password on {user.name}@{sshd.host}: "
    done = must(
        in_conversation(
            *words,
            ssh_place(sshd, other, user=user.name),
            answers={question: PASSWORD},
        )
    )
    assert done.stdout.count(question) == 1
    assert PASSWORD not in done.stdout, "it is shown while it is typed"
    assert len(scene.backup_names) == 1 and len(os.listdir(other)) == 2
    assert sshd.connections() == 1


def test_somebody_is_asked_once_for_the_password_of_a_login(
    scene: Scene, password_sshd: Sshd, account: Accounts
):
    user = _user(account, scene)
    question = f"{user.name}@{password_sshd.host}'s password: "
    words = _push(scene, password_sshd, user)
    done = must(in_conversation(*words, answers={question: PASSWORD}))
    assert done.stdout.count(question) == 1
    assert PASSWORD not in done.stdout
    assert len(scene.backup_names) == 1


def test_nobody_is_asked_who_has_no_terminal(
    scene: Scene, password_sshd: Sshd, account: Accounts
):
    done = run_program(
        *_push(scene, password_sshd, _user(account, scene)), input=f"{PASSWORD}\n"
    )
    complaint(done, 1, "refused the login")
    assert "password for" not in password_sshd.log_text()


# Agents and host keys.


@pytest.fixture
def agent(sshd: Sshd, tmp_path: Path) -> Iterator[Path]:
    """Run an agent that has the key for the test's server."""
    path = tmp_path / "agent"
    argv = ["setpriv", "--pdeathsig", "TERM", "ssh-agent", "-D", "-a", str(path)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as process:
        try:
            add_key(sshd, path)
            yield path
        finally:
            process.terminate()


def add_key(server: Sshd, path: Path, *prefix: str) -> None:
    """Return a starting agent the key of a server."""
    wait_until(path.exists)
    subprocess.run(
        [*prefix, "ssh-add", "-q", "-"],
        input=server.identity.read_bytes(),
        env={**os.environ, "SSH_AUTH_SOCK": str(path)},
        check=True,
    )


def _agent_words(scene: Scene, server: Sshd, *options: Argument) -> list[Argument]:
    words = ssh_words(server, without=["IdentityFile", "IdentitiesOnly"])
    words.append("--ssh-opt=IdentityFile=none")
    to = ssh_place(server, scene.destination)
    return ["-p", "x-", *words, *options, scene.source, to]


@covers("--ssh-auth-sock")
def test_the_agent_that_is_named_logs_in(scene: Scene, sshd: Sshd, agent: Path):
    done = run_program(*_agent_words(scene, sshd))
    complaint(done, 1, "refused the login")
    assert "agent" not in done.stderr.partition("\n")[0]
    must(run_program(*_agent_words(scene, sshd, "--ssh-auth-sock", agent)))
    assert len(scene.backup_names) == 1
    env = {"SSH_AUTH_SOCK": "/nowhere/agent"}  # the named one wins
    words = _agent_words(scene, sshd, "--ssh-auth-sock", agent)
    must(run_program(*words, env=env))


@covers("--ssh-auth-sock")
@pytest.mark.parametrize("kind", ["missing", "file", "directory"])
def test_what_is_no_agent_is_refused_before_anything_changes(
    scene: Scene, sshd: Sshd, tmp_path: Path, kind: str
):
    path = tmp_path / "agent" if kind != "directory" else tmp_path
    if kind == "file":
        path.touch()
    before = scene.fingerprint()
    words: list[Argument] = [*ssh_words(sshd), "--ssh-auth-sock", path]
    to = ssh_place(sshd, scene.destination)
    done = run_program("-p", "x-", *words, scene.source, to)
    complaint(done, 2, f"no ssh agent at {path}")
    assert scene.fingerprint() == before and sshd.connections() == 0


@covers("--ssh-auth-sock")
def test_behind_a_dead_agent_the_key_logs_in(scene: Scene, sshd: Sshd, tmp_path: Path):
    path = tmp_path / "dead"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    option = ("--ssh-auth-sock", path)
    done = run_program(*_agent_words(scene, sshd, *option))
    complaint(done, 1, "refused the login", "ssh agent (not running)")
    key = ("--ssh-identity-file", sshd.identity)
    must(run_program(*_agent_words(scene, sshd, *option, *key)))
    assert len(scene.backup_names) == sshd.connections() == 1


@covers("--ssh-host-key-policy")
def test_an_unknown_host_is_remembered_or_refused(
    scene: Scene, sshd: Sshd, tmp_path: Path
):
    known = tmp_path / "known"
    words = ssh_words(sshd, without=["StrictHostKeyChecking", "UserKnownHostsFile"])
    words.append(f"--ssh-opt=UserKnownHostsFile={known}")
    places: list[Argument] = [scene.source, ssh_place(sshd, scene.destination)]

    def back_up(*policy: str) -> subprocess.CompletedProcess[str]:
        options = [f"--ssh-host-key-policy={word}" for word in policy]
        return run_program("-p", "x-", *words, *options, *places)

    complaint(back_up("strict"), 1, f"the host key of {sshd.host} is unknown")
    assert not known.exists() and scene.snapshot_names == [] and sshd.connections() == 0
    must(back_up("accept-new"))
    assert len(known.read_text().splitlines()) == 1
    must(back_up("strict"))
    known.unlink()
    must(back_up())  # that is what happens by itself
    assert len(scene.backup_names) == 3


@covers("--ssh-host-key-policy")
@pytest.mark.parametrize(
    "policy",
    [
        (),
        ("accept-new",),
        ("strict",),
    ],
)
def test_a_changed_host_is_refused_whatever_the_policy(
    scene: Scene, sshd: Sshd, tmp_path: Path, policy: tuple[str, ...]
):
    known, other = tmp_path / "known", tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other])
    key = " ".join((tmp_path / "other.pub").read_text().split()[:2])
    known.write_text(f"[{sshd.host}]:{sshd.port} {key}\n")
    words = ssh_words(sshd, without=["StrictHostKeyChecking", "UserKnownHostsFile"])
    words.append(f"--ssh-opt=UserKnownHostsFile={known}")
    words += [f"--ssh-host-key-policy={word}" for word in policy]
    to = ssh_place(sshd, scene.destination)
    done = run_program("-p", "x-", *words, scene.source, to)
    complaint(done, 1, "has changed", "ssh-keygen -R")
    assert scene.snapshot_names == [] and sshd.connections() == 0
