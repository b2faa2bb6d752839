"""The one ssh connection of a run, against a real server."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest

from btrfs_backup_ng.core.location import Location, Scheme
from btrfs_backup_ng.core.model import SshOptions
from btrfs_backup_ng.process.child import run
from btrfs_backup_ng.process.command import Command
from btrfs_backup_ng.sshutil.login import Login
from btrfs_backup_ng.sshutil.master import (
    ConnectionFailed,
    LoginRefused,
    SSHMasterManager,
)
from tests.support.processes import children, kill, nothing_left_behind, wait_until

#: Longest path of a socket with which ssh works, and what we put behind a directory:
#: "/bbng-", eight characters of chance, "/s".
SOCKET_MAX, OURS = 90, 16


@pytest.fixture
def runtime(monkeypatch):
    """Return the directory in which sockets are made; its path is short."""
    path = Path(tempfile.mkdtemp(prefix="m-", dir="/tmp"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    yield path
    shutil.rmtree(path)


def options(server, *more, **changes):
    """Return options that lead to the test's server, whatever root's own files say."""
    files = (
        f"UserKnownHostsFile={server.known_hosts}",
        "GlobalKnownHostsFile=/dev/null",
        "IdentitiesOnly=yes",
    )
    wanted = {"identity_file": str(server.identity), "username": "root", **changes}
    return SshOptions(options=(*more, *files), **wanted)


def place(server, **changes):
    found = {"host": server.host, "port": server.port, **changes}
    return Location(Scheme.SSH, "/x", **found)


def connected(server, *more, **changes):
    return SSHMasterManager(place(server), options(server, *more, **changes))


def said(master, remote):
    """Run a command there, and give what it prints."""
    return run(Command(master.command(remote), label="test")).stdout.decode().strip()


def refused(manager, kind=ConnectionFailed):
    """Return the error of a connection that must not open, and that leaves nothing."""
    with nothing_left_behind(), pytest.raises(kind) as caught, manager:
        pytest.fail("it opened")
    assert caught.value.message.isprintable()
    return caught.value


def masters():
    return [child for child in children(os.getpid()) if "-M" in child.argv]


def test_all_commands_share_one_connection(sshd, runtime):
    with nothing_left_behind(), connected(sshd) as master:
        results = []
        threads = [
            threading.Thread(
                target=lambda n=n: results.append(said(master, f"echo {n}"))
            )
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == sorted(map(str, range(8)))
        assert said(master, "exit 0; echo no") == ""
    assert (sshd.connections(), sshd.commands()) == (1, 9)


def test_the_socket_lies_in_a_private_directory_that_is_removed(sshd, runtime):
    with connected(sshd):
        (directory,) = runtime.iterdir()
        assert directory.stat().st_mode & 0o777 == 0o700
        assert sorted(os.listdir(directory)) == ["lock", "s"]
        assert re.fullmatch(r"bbng-.{8}", directory.name)
    assert list(runtime.iterdir()) == [] and masters() == []


def test_two_connections_do_not_share_a_directory(sshd, runtime):
    with connected(sshd) as one, connected(sshd) as two:
        assert len(list(runtime.iterdir())) == 2
        assert said(one, "echo 1") + said(two, "echo 2") == "12"
    assert sshd.connections() == 2


def test_an_exception_ends_the_connection_too(sshd, runtime):
    with nothing_left_behind(), pytest.raises(KeyError):
        with connected(sshd):
            raise KeyError("something else")
    assert list(runtime.iterdir()) == []


def test_closing_twice_does_nothing(sshd, runtime):
    with connected(sshd) as master:
        master.close()
        master.close()
        assert list(runtime.iterdir()) == [] and masters() == []


def test_a_dead_master_is_a_failure_and_not_a_second_login(sshd, runtime):
    with connected(sshd) as master:
        assert said(master, "echo 1") == "1"
        victims = masters()
        kill(victims)
        wait_until(lambda: not any(victim.alive() for victim in victims))
        done = run(Command(master.command("echo 2"), label="test"), check=False)
        assert done.status == 255 and done.stdout == b""
    assert (sshd.connections(), sshd.commands()) == (1, 1)
    assert list(runtime.iterdir()) == []


def test_a_server_that_goes_away_is_a_failure_and_not_a_second_login(new_sshd, runtime):
    server = new_sshd()
    with connected(server) as master:
        server.restart()
        done = run(Command(master.command("echo 2"), label="test"), check=False)
        assert done.status == 255 and done.stdout == b""
    assert server.connections() == 1


def test_more_sessions_than_the_server_allows_are_no_second_login(new_sshd, runtime):
    server = new_sshd(config=("MaxSessions 2",))
    with connected(server) as master:
        argv = master.command("echo here; cat")
        sessions = [
            subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for _ in range(2)
        ]
        for session in sessions:
            assert session.stdout and session.stdout.readline() == b"here\n"
        done = run(Command(master.command("echo 3"), label="test"), check=False)
        assert done.status == 255 and done.stdout == b""
        for session in sessions:
            session.communicate()
    assert server.connections() == 1


# Where the socket goes.


def test_the_longest_path_that_works_is_used(sshd, runtime, monkeypatch):
    directory = runtime / ("d" * (SOCKET_MAX - OURS - len(str(runtime)) - 1))
    directory.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    with connected(sshd) as master:
        (made,) = directory.iterdir()
        assert len(str(made)) + 2 == SOCKET_MAX
        assert said(master, "echo here") == "here"


def test_a_path_that_is_too_long_for_a_socket_is_left_for_another(
    sshd, runtime, monkeypatch
):
    long = runtime / ("d" * (SOCKET_MAX - OURS - len(str(runtime))))
    longer = runtime / ("e" * 200)
    for directory in (long, longer):
        directory.mkdir()
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
        monkeypatch.setenv("TMPDIR", str(runtime))
        monkeypatch.setattr(tempfile, "tempdir", None)
        with connected(sshd) as master:
            assert list(runtime.glob("bbng-*"))
            assert said(master, "echo here") == "here"
        assert list(directory.iterdir()) == list(runtime.glob("bbng-*")) == []


@pytest.mark.parametrize("value", ["/nowhere", "relative", "", None])
def test_without_a_runtime_directory_the_temporary_one_does(
    sshd, runtime, monkeypatch, value
):
    if value is None:
        monkeypatch.delenv("XDG_RUNTIME_DIR")
    else:
        monkeypatch.setenv("XDG_RUNTIME_DIR", value)
    monkeypatch.setenv("TMPDIR", str(runtime))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with connected(sshd) as master:
        assert len(list(runtime.iterdir())) == 1
        assert said(master, "echo here") == "here"


@pytest.mark.parametrize("name", ["100%", "%h", "%%", "a b", "$HOME", "~", "'\"", "ü"])
def test_the_path_of_a_socket_may_hold_anything(sshd, runtime, monkeypatch, name):
    directory = runtime / name
    directory.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    with connected(sshd) as master:
        assert len(list(directory.iterdir())) == 1
        assert said(master, "echo here") == "here"
    assert list(directory.iterdir()) == [] and sshd.connections() == 1


# What goes wrong has a message of its own.


@pytest.fixture
def other_key(tmp_path):
    path = tmp_path / "other key"
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path]
    subprocess.run(argv, check=True)
    return path


def test_a_refused_login_says_who_and_with_what(sshd, runtime, other_key):
    manager = connected(sshd, identity_file=str(other_key))
    error = refused(manager, LoginRefused)
    assert f"root@{sshd.host} refused the login" in error.message
    assert f"(tried: {other_key})" in error.message
    assert f"ssh -p {sshd.port}" in error.hint
    assert sshd.connections() == 0 and list(runtime.iterdir()) == []


def test_a_refused_login_without_a_key_says_how_to_name_one(sshd, runtime):
    manager = connected(sshd, "IdentityFile=/none", identity_file="")
    error = refused(manager, LoginRefused)
    assert "--ssh-identity-file" in error.hint and "No ssh agent" in error.hint


def test_a_changed_host_key_is_named_and_nobody_logs_in(new_sshd, runtime):
    server = new_sshd()
    server.new_host_key()
    server.restart()
    error = refused(connected(server))
    assert f"the host key of {server.host} has changed" in error.message
    assert "ssh-keygen -R" in error.hint and str(server.port) in error.hint
    assert server.connections() == 0 and list(runtime.iterdir()) == []


def test_the_hint_about_a_host_key_can_be_pasted_into_a_shell(new_sshd, runtime):
    """``[host]:port`` is a pattern for zsh and fish."""
    server = new_sshd()
    server.new_host_key()
    server.restart()
    hint = refused(connected(server)).hint
    command = hint[hint.index("ssh-keygen") :]
    file = f"-f {server.known_hosts}"
    for shell in ("bash", "zsh", "fish", "tcsh"):
        done = subprocess.run(
            [shell, "-c", f"{command} {file}"], capture_output=True, text=True
        )
        assert done.returncode == 0, (shell, done.stderr)


def test_an_unknown_host_is_accepted_once_and_remembered(sshd, runtime, tmp_path):
    known = f"UserKnownHostsFile={tmp_path}/known"
    for _ in range(2):
        with connected(sshd, known) as master:
            assert said(master, "echo here") == "here"
        assert len((tmp_path / "known").read_text().splitlines()) == 1


def test_an_unknown_host_is_not_a_changed_one(sshd, runtime, tmp_path):
    """Who asked for strict checking is told that the key is missing."""
    known = f"UserKnownHostsFile={tmp_path}/known"
    error = refused(connected(sshd, known, "StrictHostKeyChecking=yes"))
    assert "has changed" not in error.message
    assert "the host key of 127.0.0.1 is unknown" in error.message
    assert sshd.connections() == 0


def test_a_refused_connection_is_not_a_refused_login(sshd, runtime):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, and nobody listens
        location = place(sshd, port=closed.getsockname()[1])
        error = refused(SSHMasterManager(location, options(sshd)))
    assert not isinstance(error, LoginRefused)
    assert f"no connection to {sshd.host}" in error.message
    assert "Connection refused" in error.message
    assert f"ssh -p {location.port} root@{sshd.host} true" in error.hint
    assert list(runtime.iterdir()) == []


def test_a_host_that_has_no_address_is_named(sshd, runtime):
    host = "x" * 70  # longer than a label may be, so that nobody is asked
    error = refused(SSHMasterManager(place(sshd, host=host), options(sshd)))
    assert host in error.message and "resolve" in error.message


def test_a_server_that_speaks_something_else_is_named(sshd, runtime):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def answer():
            connection, _ = listener.accept()
            connection.sendall(b"220 mail.example ESMTP\r\n" * 2000)
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        error = refused(SSHMasterManager(place(sshd, port=port), options(sshd)))
        thread.join()
    assert f"no connection to {sshd.host}" in error.message


@pytest.mark.parametrize("said", [b"", b"SSH-2.0-silent\r\n"])
def test_a_server_that_says_nothing_more_is_given_up(sshd, runtime, monkeypatch, said):
    """ssh gives up one without a banner (ConnectTimeout); behind that it waits."""
    monkeypatch.setattr("btrfs_backup_ng.sshutil.master.LOGIN_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            with listener.accept()[0] as connection, contextlib.suppress(OSError):
                connection.sendall(said)
                while connection.recv(4096):
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        port = listener.getsockname()[1]
        wanted = options(sshd, silence_s=0.5)
        error = refused(SSHMasterManager(place(sshd, port=port), wanted))
        thread.join()
    assert error.message == f"the login to {sshd.host} did not finish within 1 s"
    assert f"ssh -p {port} root@{sshd.host} true" in error.hint


def test_a_wrong_option_is_named(sshd, runtime):
    error = refused(connected(sshd, "NoSuchOption=1"))
    assert "nosuchoption" in error.message.lower()


# Whose words count.


def test_the_users_options_win_over_ours(sshd, runtime, tmp_path, other_key):
    """ssh takes the first value of each."""
    wrong = Location(Scheme.SSH, "/x", host=sshd.host, port=1, user="nobody")
    right = (f"Port={sshd.port}", "User=root")
    with SSHMasterManager(wrong, options(sshd, *right)) as master:
        assert said(master, "id -un") == "root"
    known = f"UserKnownHostsFile={tmp_path}/none"
    refused(connected(sshd, known, "StrictHostKeyChecking=yes"))
    with connected(sshd, "SetEnv=LC_TEST=mine") as master:
        assert said(master, "echo $LC_TEST") == "mine"


def test_the_identity_file_is_what_logs_in(sshd, runtime, other_key):
    with connected(sshd) as master:
        assert said(master, "echo in") == "in"
    refused(connected(sshd, identity_file=str(other_key)), LoginRefused)
    refused(connected(sshd, identity_file=""), LoginRefused)


def test_the_username_counts_where_the_place_names_none(sshd, runtime, account):
    user = account()
    with connected(sshd, username=user.name) as master:
        assert said(master, "id -un") == user.name
        assert master.name == f"{user.name}@{sshd.host}"
    location = place(sshd, user="root")
    wanted = options(sshd, username=user.name)
    with SSHMasterManager(location, wanted) as master:
        assert said(master, "id -un") == "root"
        assert master.name == f"root@{sshd.host}"


def test_the_port_of_the_place_is_used_by_every_command(new_sshd, runtime):
    one, two = new_sshd(), new_sshd()
    for server, other in ((one, two), (two, one)):
        before = other.connections()
        with connected(server) as master:
            assert said(master, "echo here") == "here"
        assert other.connections() == before
    assert one.connections() == two.connections() == 1


def test_an_ipv6_address_needs_no_brackets_by_then(new_sshd, runtime):
    server = new_sshd(ipv6=True)
    with SSHMasterManager(place(server, host="::1"), options(server)) as master:
        assert said(master, "echo $SSH_CONNECTION").startswith("::1 ")


def test_without_passwords_none_is_tried(new_sshd, runtime, other_key):
    server = new_sshd(config=("PasswordAuthentication yes",))
    refused(
        connected(server, identity_file=str(other_key), password_login=False),
        LoginRefused,
    )
    with connected(server, password_login=False) as master:
        argv = master.command("true")
    assert "PasswordAuthentication=no" in argv


def test_nothing_is_forwarded_and_no_terminal_is_made(sshd, runtime, monkeypatch):
    monkeypatch.setenv("SSH_AUTH_SOCK", "/nowhere/agent")
    with connected(sshd) as master:
        assert said(master, "echo $SSH_AUTH_SOCK $SSH_TTY; tty || true") == "not a tty"


def test_a_command_that_looks_like_an_option_is_none(sshd, runtime):
    with connected(sshd) as master:
        done = run(Command(master.command("-V"), label="test"), check=False)
        assert done.status != 0 and "OpenSSH" not in done.stderr


def ciphers(*arguments):
    """Return what ssh says it would offer, best first."""
    argv = ["ssh", "-G", *arguments, "some-host"]
    text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    (found,) = re.findall(r"^ciphers (\S+)$", text, re.MULTILINE)
    return found.split(",")


def login_to(server, *more):
    return Login(place(server), options(server, *more))


def offered(login):
    """Return what a login offers, best first."""
    argv = [*login.ciphers(""), *login.arguments()]
    return ciphers(*argv[: argv.index("--")])


def test_aes_comes_first_where_the_cpu_has_it_and_nobody_chose(sshd, monkeypatch):
    default = ciphers("-F", "none")
    assert sorted(offered(login_to(sshd))) == sorted(default)
    monkeypatch.setattr("btrfs_backup_ng.sshutil.login.has_aes", lambda: True)
    assert "-gcm@" in offered(login_to(sshd))[0]
    monkeypatch.setattr("btrfs_backup_ng.sshutil.login.has_aes", lambda: False)
    assert offered(login_to(sshd)) == default


def test_a_chosen_cipher_stays(sshd, tmp_path, monkeypatch):
    monkeypatch.setattr("btrfs_backup_ng.sshutil.login.has_aes", lambda: True)
    chosen = "aes256-ctr,aes128-gcm@openssh.com"
    assert offered(login_to(sshd, f"ciphers={chosen}")) == chosen.split(",")
    wrapper = tmp_path / "ssh"  # stands for a choice in a file of ssh's
    real = shutil.which("ssh")
    wrapper.write_text(
        f'#!/bin/sh\ncase "$*" in *"-F none"*) exec {real} "$@";; esac\n'
        f'exec {real} -o Ciphers={chosen} "$@"\n'
    )
    wrapper.chmod(0o755)
    login = login_to(sshd)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert login.ciphers("") == []


# A lost connection is opened again, where nothing depends on it.


def lose(master):
    """Kill a master, and wait until that is known."""
    victims = masters()
    assert master.is_alive and victims
    kill(victims)
    wait_until(lambda: not master.is_alive)


@pytest.fixture
def locked_key(sshd, tmp_path):
    """Make a key with a passphrase, and the options that open it."""
    key, file = tmp_path / "locked", tmp_path / "passphrase"
    shutil.copy(sshd.identity, key)
    argv = ["ssh-keygen", "-q", "-p", "-P", "", "-N", "a passphrase", "-f", key]
    subprocess.run(argv, check=True)
    file.touch(0o600)
    file.write_text("a passphrase\n")
    return {"identity_file": str(key), "password_file": str(file)}


@pytest.mark.parametrize("by", ["key", "passphrase"])
def test_a_lost_connection_is_opened_again_once(
    sshd, runtime, locked_key, by, caplog, monkeypatch
):
    monkeypatch.setattr("btrfs_backup_ng.sshutil.login.has_terminal", lambda: True)
    changes = locked_key if by == "passphrase" else {}
    with nothing_left_behind(), connected(sshd, **changes) as master:
        master.ensure()
        assert sshd.connections() == 1 and masters()[0].parent == os.getpid()
        lose(master)
        master.ensure()
        assert master.is_alive and sshd.connections() == 2
        assert "was lost; reconnecting" in caplog.text
        (again,) = masters()
        assert "SSH_ASKPASS" not in again.argv  # and it cannot ask a person:
        assert f"BatchMode={'no' if by == 'passphrase' else 'yes'}" in again.argv
        assert os.getpgid(again.pid) != os.getpgid(0)
        assert said(master, "echo here") == "here"
        assert len(list(runtime.iterdir())) == 1
        lose(master)
        with pytest.raises(ConnectionFailed, match="was lost again"):
            master.ensure()
    assert sshd.connections() == 2
    assert list(runtime.iterdir()) == [] and masters() == []


def test_a_connection_is_opened_again_after_the_server_came_back(new_sshd, runtime):
    server = new_sshd()
    with connected(server) as master:
        server.restart()
        wait_until(lambda: not master.is_alive)
        threads = [threading.Thread(target=master.ensure) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert said(master, "echo here") == "here"
    assert server.connections() == 2


def test_a_connection_that_cannot_be_opened_again_says_so(new_sshd, runtime):
    server = new_sshd()
    with nothing_left_behind(), connected(server) as master:
        server.stop()
        wait_until(lambda: not master.is_alive)
        with pytest.raises(ConnectionFailed, match="onnection refused"):
            master.ensure()
        with pytest.raises(ConnectionFailed):
            master.ensure()
    assert list(runtime.iterdir()) == []


def test_what_was_never_open_is_not_alive_and_stays_closed(sshd, runtime):
    master = connected(sshd)
    master.ensure()
    assert not master.is_alive and sshd.connections() == 0
    with master:
        assert master.is_alive
    assert not master.is_alive


def test_never_more_sessions_at_once_than_servers_allow(new_sshd, runtime, tmp_path):
    server = new_sshd(config=("MaxSessions 8",))
    results = []
    with connected(server) as master:

        def work(number):
            # Nothing ends before eight have begun.
            remote = (
                f"touch {tmp_path}/{number}; n=0;"
                f" while [ $(ls {tmp_path} | wc -l) -lt 8 ] && [ $n -lt 600 ];"
                f" do n=$((n+1)); sleep 0.1; done; echo {number}"
            )
            room = master.sessions
            command = Command(master.command(remote), label="test", room=room)
            results.append(int(run(command).stdout))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(results) == list(range(16))
    assert server.connections() == 1 and server.commands() == 16
    running = most = 0
    for event in re.findall(r"^(Starting|Close) session", server.log_text(), re.M):
        running += 1 if event == "Starting" else -1
        most = max(most, running)
    assert most == 8


# What a login with a password leaves.


def test_what_answers_ssh_is_private_and_removed(
    sshd, runtime, locked_key, monkeypatch
):
    with connected(sshd, **locked_key) as master:
        (directory,) = runtime.iterdir()
        assert directory.stat().st_mode & 0o777 == 0o700
        modes = {p.name: p.stat().st_mode & 0o777 for p in directory.iterdir()}
        assert modes.pop("askpass") == 0o700 and modes.pop("answer") == 0o600
        assert set(modes) == {"lock", "s"}
        assert said(master, "echo here") == "here"
    assert list(runtime.iterdir()) == []
    file = Path(locked_key["password_file"])
    file.write_text("another one\n")
    refused(connected(sshd, **locked_key), LoginRefused)
    assert list(runtime.iterdir()) == []


def test_where_nothing_may_be_run_nothing_is_that_answers_ssh(
    sshd, runtime, locked_key, monkeypatch
):
    closed, temporary = runtime / "closed", runtime / "temporary"
    for directory in (closed, temporary):
        directory.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(closed))
    monkeypatch.setenv("TMPDIR", str(temporary))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec", "x", closed], check=True)
    try:
        with connected(sshd, **locked_key) as master:
            assert list(closed.iterdir()) == []
            assert len(list(temporary.iterdir())) == 1
            assert said(master, "echo here") == "here"
        with connected(sshd):  # a socket may well be there
            assert len(list(closed.iterdir())) == 1
    finally:
        subprocess.run(["umount", closed], check=True)
    assert list(temporary.iterdir()) == []
