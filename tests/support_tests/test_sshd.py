"""The ssh servers and accounts that tests are given work, and go away."""

import pwd
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support import accounts, ours, processes, program


def test_root_is_let_in_and_connections_and_sessions_are_counted(sshd):
    done = sshd.ssh("echo hello; exit 3")
    assert (done.stdout, done.returncode) == ("hello\n", 3), done.stderr
    assert (sshd.connections(), sshd.sessions(), sshd.commands()) == (1, 1, 1)
    sshd.ssh("true")
    assert (sshd.connections(), sshd.sessions()) == (2, 2)
    sshd.mark()
    assert (sshd.connections(), sshd.sessions()) == (0, 0)


def test_one_connection_can_have_many_sessions(sshd, tmp_path):
    sharing = [f"ControlPath={tmp_path}/c", "ControlMaster=auto", "ControlPersist=30"]
    for _ in range(3):
        assert sshd.ssh("true", options=sharing).returncode == 0
    subprocess.run(["ssh", "-O", "exit", f"-oControlPath={tmp_path}/c", "x"])
    assert (sshd.connections(), sshd.sessions()) == (1, 3)


def test_a_config_file_leads_to_the_server(sshd):
    argv = ["ssh", "-F", sshd.ssh_config, "test-server", "echo hello"]
    assert subprocess.check_output(argv, text=True) == "hello\n"


def test_a_server_of_ones_own_is_stopped_and_started_and_changes_its_key(new_sshd):
    server = new_sshd(config=("MaxSessions 1",))
    assert server.ssh("true").returncode == 0
    words = ["ssh", "-F", server.ssh_config, "test-server", "sleep 987"]
    with processes.killed(subprocess.Popen(words, text=True)) as client:
        processes.wait_until(lambda: server.sessions() == 2)
        port = server.port
        server.stop()
        assert client.wait(timeout=20) == 255
    assert "refused" in server.ssh("true").stderr
    server.start()
    assert server.port == port and server.ssh("true").returncode == 0
    server.new_host_key()
    server.restart()
    assert "Host key verification failed" in server.ssh("true").stderr


def test_a_server_listens_on_ipv6_too(new_sshd):
    server = new_sshd(ipv6=True)
    server.host = "::1"
    assert server.ssh("true").returncode == 0


def test_servers_end_with_the_tests_that_run_them():
    script = """
        import time
        from tests.support.sshd import running_sshd
        with running_sshd() as server:
            print(server.pid, server.log.parent, flush=True)
            time.sleep(987)
    """
    python = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=program.environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    with processes.killed(python) as process:
        assert process.stdout
        pid, directory = process.stdout.readline().split()
        (server,) = [p for p in processes.everything() if p.pid == int(pid)]
        assert server.alive()
    processes.wait_until(lambda: not server.alive())
    assert directory in ours.sweep() and not Path(directory).exists()


@pytest.mark.parametrize(
    "shell", ["sh", "dash", "bash", "ash", "fish", "tcsh", "zsh", "/bin/false"]
)
def test_an_account_has_its_shell(sshd, account, shell):
    user = account(shell=shell)
    done = sshd.ssh("id -un", user=user.name)
    if shell == "/bin/false":
        assert done.returncode == 1
    else:
        assert done.stdout.splitlines()[:1] == [user.name], done.stderr
    assert sshd.commands(user.name) == 1


def test_an_account_may_do_what_sudoers_and_doas_grant(sshd, account):
    plain = account()
    granted = account(
        sudoers="{name} ALL=(root) NOPASSWD: /usr/bin/id",
        doas="permit nopass {name} as root cmd id",
    )
    for command in "sudo -n id -u", "doas -n id -u":
        assert sshd.ssh(command, user=plain.name).returncode != 0
        done = sshd.ssh(command, user=granted.name)
        assert done.stdout == "0\n", done.stderr
    assert sshd.ssh("sudo -n true", user=granted.name).returncode != 0


def test_an_account_leaves_nothing_behind(sshd):
    doas = Path("/etc/doas.conf")
    before = doas.read_text() if doas.exists() else ""
    block = r"# bbng-\S+ begin\n.*?# bbng-\S+ end\n"  # of a test beside this one
    foreign = re.sub(block, "", before, flags=re.DOTALL)
    with accounts.account(sudoers="{name} ALL=ALL", doas="deny {name}") as user:
        sshd.ssh("nohup sleep 987 >/dev/null 2>&1 &", user=user.name)
        assert list(Path("/etc/sudoers.d").glob(f"{user.name}*"))
    with pytest.raises(KeyError):
        pwd.getpwnam(user.name)
    assert not user.home.exists()
    assert not list(Path("/etc/sudoers.d").glob(f"{user.name}*"))
    after = doas.read_text() if doas.exists() else ""
    assert user.name not in after
    assert re.sub(block, "", after, flags=re.DOTALL) == foreign


def test_an_account_can_have_a_password_of_its_own(sshd, account):
    word = " it's: $(id) \\"
    user = account(sudoers=accounts.SUDO_PASSWORD, password=word)
    for answer, status in ((word, 0), ("wrong", 1)):
        ask = f"sudo -K; printf '%s\\n' {shlex.quote(answer)} | sudo -S id -u"
        done = sshd.ssh(ask, user=user.name)
        assert (done.returncode, done.stdout) == (status, "" if status else "0\n")
    assert sshd.ssh("sudo -n true", user=user.name).returncode != 0


def test_a_second_name_of_root_has_its_own_shell_and_takes_nobody_along(sshd):
    with processes.killed(subprocess.Popen(["sleep", "987"], text=True)) as bystander:
        with accounts.account(shell="zsh", superuser=True) as user:
            done = sshd.ssh("id -u; echo $ZSH_VERSION", user=user.name)
            uid, version = done.stdout.split()
            assert uid == "0" and version
            sshd.ssh("nohup sleep 986 >/dev/null 2>&1 &", user=user.name)
            processes.wait_until(lambda: processes_named("sleep", "986"))
        assert not processes_named("sleep", "986")
        with pytest.raises(KeyError):
            pwd.getpwnam(user.name)
        assert sshd.is_running() and bystander.poll() is None
    assert pwd.getpwuid(0).pw_name == "root"


def processes_named(*argv):
    return [p for p in processes.everything() if p.argv == argv and p.alive()]


def test_sudoers_that_sudo_refuses_are_not_installed():
    with pytest.raises(AssertionError, match="visudo"):
        with accounts.account(sudoers="{name} ALL=(("):
            pass


@pytest.mark.parametrize("more", ["", "superuser=True"])
def test_a_sweep_removes_the_accounts_of_a_killed_run_and_no_others(account, more):
    mine = account(superuser=bool(more))
    script = f"""
        import time
        from tests.support.accounts import account
        rules = {{"sudoers": "{{name}} ALL=ALL", "doas": "deny {{name}}"}}
        with account(**rules, {more}) as user:
            print(user.name, flush=True)
            time.sleep(987)
    """
    python = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=program.environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    with processes.killed(python) as process:
        assert process.stdout
        name = process.stdout.readline().strip()
        assert accounts.sweep() == []
    assert accounts.sweep() == [name]
    assert not list(Path("/etc/sudoers.d").glob(f"{name}*"))
    assert pwd.getpwnam(mine.name)
