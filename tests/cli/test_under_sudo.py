"""What sudo must not change: who logs in, with which keys, agent and files."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.accounts import SUDO_ALL, SUDO_PASSWORD, Account
from tests.support.command_line import (
    Done,
    as_user,
    complaint,
    covers,
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


@pytest.fixture
def caller(account: Accounts) -> Account:
    """Make the user who calls sudo."""
    return account(sudoers=SUDO_ALL)


def _own(user: Account, name: str, content: bytes | str) -> Path:
    """Put a file into somebody's ``.ssh``."""
    folder = user.home / ".ssh"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(0o600)
    for mine in (folder, path):
        os.chown(mine, user.uid, user.gid)
    return path


def _host(name: str, server: Sshd, *lines: str) -> str:
    """Write a host of ssh_config(5)."""
    fixed = (f"HostName {server.host}", f"Port {server.port}", "User root")
    return "\n  ".join((f"Host {name}", *fixed, *lines)) + "\n"


def _sudo(
    user: Account, *words: Argument, env: Mapping[str, str | None] | None = None
) -> Done:
    """Run the program as root, as sudo does it for a user."""
    said = {
        "SUDO_USER": user.name,
        "SUDO_UID": str(user.uid),
        "SUDO_GID": str(user.gid),
        **(env or {}),
    }
    return run_program("-p", "x-", *words, env=said)


def _words(scene: Scene, server: Sshd, *options: Argument) -> list[Argument]:
    """Return the words of a run that finds no key by itself, not even root's."""
    words = ssh_words(server, without=["IdentityFile", "IdentitiesOnly"])
    to = ssh_place(server, scene.destination)
    return [*words, *options, scene.source, to]


NO_KEY = "--ssh-opt=IdentityFile=none"


def test_the_callers_alias_key_and_known_hosts_are_used(
    scene: Scene, sshd: Sshd, caller: Account
):
    _own(caller, "config", "Include more\n")
    _own(caller, "more", _host("nas", sshd, 'IdentityFile "~/.ssh/own key"'))
    _own(caller, "own key", sshd.identity.read_bytes())
    place = f"ssh://nas{scene.destination}"
    must(_sudo(caller, scene.source, place))
    known = caller.home / ".ssh" / "known_hosts"
    assert known.read_text().count("ssh-ed25519") == 1  # the name may be hashed
    assert (known.stat().st_uid, known.stat().st_gid) == (caller.uid, caller.gid)
    must(_sudo(caller, "--ssh-host-key-policy=strict", scene.source, place))
    assert len(scene.backup_names) == sshd.connections() == 2
    known.unlink()
    done = _sudo(caller, "--ssh-host-key-policy=strict", scene.source, place)
    complaint(done, 10, "the host key of nas is unknown")


@pytest.mark.parametrize("by", ["file", "option"])
def test_the_callers_way_over_another_host_is_used(
    scene: Scene, sshd: Sshd, new_sshd: Callable[..., Sshd], caller: Account, by: str
):
    near = new_sshd()
    near.mark()
    with open(near.identity.parent / "authorized_keys", "ab") as keys:
        keys.write(sshd.identity.with_suffix(".pub").read_bytes())
    jump = ["ProxyJump near"] if by == "file" else []
    _own(caller, "config", _host("near", near) + _host("far", sshd, *jump))
    _own(caller, "id_ed25519", sshd.identity.read_bytes())
    known = near.known_hosts.read_text() + sshd.known_hosts.read_text()
    _own(caller, "known_hosts", known)
    words = ["--ssh-opt=ProxyJump=near"] if by == "option" else []
    must(_sudo(caller, *words, scene.source, f"ssh://far{scene.destination}"))
    assert len(scene.backup_names) == 1
    assert (near.connections(), sshd.connections()) == (1, 1)
    assert near.sessions() == 0


def test_a_key_that_only_root_can_read_logs_in_where_it_is_named(
    scene: Scene, sshd: Sshd, caller: Account
):
    assert sshd.identity.stat().st_uid == 0
    assert sshd.identity.stat().st_mode & 0o077 == 0
    key = ("--ssh-identity-file", sshd.identity)
    must(_sudo(caller, *_words(scene, sshd, *key)))
    assert len(scene.backup_names) == 1


def test_roots_key_logs_in_where_the_callers_is_refused(
    scene: Scene, sshd: Sshd, caller: Account, tmp_path: Path
):
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other])
    own = _own(caller, "own", other.read_bytes())
    keys = [f"--ssh-opt=IdentityFile={path}" for path in (own, sshd.identity)]
    must(_sudo(caller, *_words(scene, sshd, *keys)))
    assert len(scene.backup_names) == sshd.connections() == 1
    sshd.mark()
    shutil.copy(other, tmp_path / "copy")
    keys = [f"--ssh-opt=IdentityFile={path}" for path in (own, tmp_path / "copy")]
    done = _sudo(caller, *_words(scene, sshd, *keys))
    complaint(done, 10, "refused the login", f"as {caller.name}: {own}")
    assert sshd.connections() == 0


# The agent, which sudo hides.


@contextlib.contextmanager
def _agent(server: Sshd, user: Account) -> Iterator[Path]:
    """Run an agent of a user's that has the key of a server."""
    path = user.home / "agent"
    who = ["setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--init-groups"]
    argv = [*who, "ssh-agent", "-D", "-a", str(path)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as process:
        try:
            wait_until(path.exists)
            subprocess.run(
                [*who, "ssh-add", "-q", "-"],
                input=server.identity.read_bytes(),
                env={**os.environ, "SSH_AUTH_SOCK": str(path)},
                check=True,
            )
            yield path
        finally:
            process.terminate()


def test_a_key_in_the_callers_agent_logs_in_or_the_message_says_how(
    scene: Scene, sshd: Sshd, caller: Account
):
    with _agent(sshd, caller) as agent:
        before = scene.fingerprint()
        complaint(
            _sudo(caller, *_words(scene, sshd, NO_KEY)),
            1,
            "refused the login",
            f"sudo hides the ssh agent of {caller.name}",
            "sudo --preserve-env=SSH_AUTH_SOCK btrfs-backup-ng ...",
            '--ssh-auth-sock "$SSH_AUTH_SOCK"',
        )
        assert scene.fingerprint() == before
        env = {"SSH_AUTH_SOCK": str(agent)}
        must(_sudo(caller, *_words(scene, sshd, NO_KEY), env=env))
        option = ("--ssh-auth-sock", agent)
        must(_sudo(caller, *_words(scene, sshd, NO_KEY, *option)))
        assert len(scene.backup_names) == 2


def test_the_callers_password_file_is_read(
    scene: Scene, new_sshd: Callable[..., Sshd], account: Accounts
):
    caller = account(password="secret", sudoers=SUDO_PASSWORD)
    server = new_sshd(config=("PasswordAuthentication yes",))
    path = _own(caller, "password", "secret\n")
    options = [f"--ssh-password-file={path}", f"--sudo-password-file={path}", NO_KEY]
    options += ["--ssh-username", caller.name]
    must(_sudo(caller, *_words(scene, server, *options)))
    assert len(scene.backup_names) == 1


def test_a_password_file_of_somebody_else_is_refused(
    scene: Scene, sshd: Sshd, caller: Account, account: Accounts, tmp_path: Path
):
    path, other = password_file(tmp_path, "secret"), account()
    os.chown(path, other.uid, other.gid)
    done = _sudo(caller, *_words(scene, sshd, "--ssh-password-file", path))
    complaint(done, 2, str(path), "another user", "chown")


# sudo itself.


@covers("--sudo")
def test_sudo_runs_the_whole_backup_as_root(scene: Scene, caller: Account):
    words: list[Argument] = ["-p", "x-", scene.source, scene.destination]
    done = as_user(caller, *words)
    assert done.returncode != 0 and "sudo" in done.stderr, done
    assert scene.snapshot_names == []
    must(as_user(caller, "--sudo", *words))
    (name,) = scene.backup_names
    path = scene.destination / name / "first"
    assert path.stat().st_uid == 0
    assert path.read_bytes() == (scene.source / "first").read_bytes()


@covers("--sudo")
def test_sudo_leaves_the_callers_ssh_and_agent_as_they_are(
    scene: Scene, sshd: Sshd, caller: Account
):
    _own(caller, "config", _host("nas", sshd))
    place = f"ssh://nas{scene.destination}"
    with _agent(sshd, caller) as agent:
        env = {"SSH_AUTH_SOCK": str(agent)}
        must(as_user(caller, "-p", "x-", "--sudo", scene.source, place, env=env))
    known = caller.home / ".ssh" / "known_hosts"
    assert known.stat().st_uid == caller.uid
    assert len(scene.backup_names) == sshd.connections() == 1


@covers("--sudo")
def test_sudo_says_it_where_its_rules_let_no_agent_through(
    scene: Scene, sshd: Sshd, account: Accounts
):
    caller = account(sudoers="{name} ALL=(root) NOPASSWD: NOSETENV: ALL")
    words: list[Argument] = ["-p", "x-", "--sudo", scene.source]
    with _agent(sshd, caller) as agent:
        env = {"SSH_AUTH_SOCK": str(agent)}
        done = as_user(caller, *words, scene.destination, env=env)
    assert done.returncode == 1 and "SSH_AUTH_SOCK" in done.stderr, done
    assert scene.snapshot_names == []
    plain = {"BTRFS_BACKUP_NG_STATE": None}
    done = as_user(caller, "--dry-run", *words, scene.destination, env=plain)
    assert "would send" in must(done).stdout


@covers("--sudo")
def test_sudo_is_nothing_to_root(scene: Scene):
    scene.back_up("--sudo", env={"PATH": "/usr/bin:/usr/sbin"})
    assert len(scene.backup_names) == 1


@covers("--sudo")
def test_every_verb_runs_as_root_with_sudo(scene: Scene, caller: Account):
    scene.back_up()
    place, name = scene.destination, scene.backup_names[0]
    listed = must(as_user(caller, "--sudo", "list", "--json", place))
    assert json.loads(listed.stdout)["places"][0]["snapshots"][0]["name"] == name
    every: list[list[Argument]] = [
        ["status", place],
        ["verify", place],
        ["prune", "-n", "--keep-at=latest=9", place],
        ["restore", "-n", place, "--to", place.parent / "back"],
        ["diff", scene.snapshot_folder / name, scene.snapshot_folder / name],
        ["versions", scene.source / "first"],
        ["doctor", place],
    ]
    for words in every:
        must(as_user(caller, *words), 4)
        must(as_user(caller, *words, "--sudo"))
