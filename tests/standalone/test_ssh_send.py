"""Btrfs-ssh-send: one file, copied alone, between real filesystems over ssh."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from btrfs_backup_ng import __version__
from btrfs_backup_ng.endpoint import staging
from btrfs_backup_ng.wire import grammar
from tests.support import filesystems, ours, processes, trees
from tests.support.accounts import Account
from tests.support.embedded import load
from tests.support.filesystems import Filesystem
from tests.support.places import show
from tests.support.program import CHECKOUT, run_program
from tests.support.sshd import Sshd

SCRIPT = CHECKOUT / "btrfs-ssh-send"
_numbers = itertools.count(1)
Done = subprocess.CompletedProcess[str]


class Sender:
    """A source, a destination, a copy of the script, and a PATH whose ssh gets in."""

    def __init__(self, disks: tuple[Filesystem, Filesystem], sshd: Sshd, base: Path):
        one, other = disks
        number = f"scene-{os.getpid()}-{next(_numbers)}"
        self.home = one.subvolume(f"{number}-home")
        self.folder = one.path / f"{number}-snapshots"
        self.target = other.path / f"{number}-target"
        self.folder.mkdir()
        self.target.mkdir()
        self.sshd, self.base = sshd, base
        self.copy = Path(shutil.copy(SCRIPT, base))
        self.bin, self.sockets, self.empty = (base / n for n in ("bin", "run", "empty"))
        for path in (self.bin, self.sockets, self.empty):
            path.mkdir()
        self.path = f"{self.bin}:{os.environ['PATH']}"
        self.wrap("ssh", f'exec "$real" -F {sshd.ssh_config} "$@"')

    def wrap(self, name: str, script: str) -> None:
        """Put a program in front of the real one, which is ``$real``."""
        real = shutil.which(name)
        (self.bin / name).write_text(f"#!/bin/sh\nreal={real}\n{script}\n")
        (self.bin / name).chmod(0o755)

    def snapshot(self, name: str | bytes = "s1", size: int = 1000) -> str:
        """Change the source and take a snapshot of it."""
        (self.home / f"file {size}").write_bytes(os.urandom(size))
        path = os.path.join(self.folder, os.fsdecode(name))
        subprocess.run(
            ["btrfs", "-q", "sub", "snap", "-r", self.home, path], check=True
        )
        return path

    def place(self, user: str = "", path: Path | None = None) -> str:
        return f"{user and user + '@'}test-server:{path or self.target}"

    def words(self, *words: str | Path) -> dict[str, object]:
        environment = {**os.environ, "PATH": self.path, "TMPDIR": str(self.sockets)}
        environment.pop("XDG_RUNTIME_DIR", None)
        argv = [sys.executable, "-I", self.copy, *words]
        return {"args": argv, "env": environment, "cwd": self.empty, "text": True}

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
            **self.words(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def send(self, *words: str | Path, status: int = 0, said: str = "") -> Done:
        """Run the script; nothing may be left of it, here and there."""
        done: Done = subprocess.run(  # type: ignore[call-overload]
            **self.words(*words), capture_output=True, stdin=subprocess.DEVNULL
        )
        assert done.returncode == status, done
        assert (
            "Traceback" not in done.stderr and said in done.stdout + done.stderr
        ), done
        assert status == 0 or done.stderr.startswith("btrfs-ssh-send: ")
        self.check_nothing_left()
        return done

    def check_nothing_left(self) -> None:
        processes.wait_until(lambda: not self.workers())
        assert list(self.sockets.iterdir()) == []
        incoming = self.target / ".btrfs-backup-ng" / "incoming"
        assert not incoming.exists() or list(incoming.iterdir()) == []

    def workers(self) -> list[processes.Process]:
        marks = (str(self.sockets), str(self.target), str(self.folder))
        return [
            process
            for process in processes.everything()
            if process.state not in "ZX" and process.pid != os.getpid()
            if any(map(process.works_at, marks))
        ]

    @property
    def backups(self) -> list[str]:
        return sorted(n for n in os.listdir(self.target) if n != ".btrfs-backup-ng")


@pytest.fixture(scope="module")
def disks() -> Iterator[tuple[Filesystem, Filesystem]]:
    """Make two filesystems that any user may look into."""
    directory = ours.public_directory()
    try:
        with contextlib.ExitStack() as stack:
            made = [filesystems.btrfs_filesystem(directory) for _ in range(2)]
            one, other = (stack.enter_context(each) for each in made)
            yield one, other
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def scene(
    disks: tuple[Filesystem, Filesystem], sshd: Sshd, tmp_path: Path
) -> Iterator[Sender]:
    scene = Sender(disks, sshd, tmp_path)
    yield scene
    processes.kill(scene.workers())


def assert_same(source: str, backup: Path) -> None:
    assert show(backup).read_only
    assert show(backup).received_uuid == show(Path(source)).origin
    assert not trees.differences(trees.describe(source), trees.describe(backup))


def test_the_script_is_executable_and_imports_nothing_of_ours():
    text = SCRIPT.read_text()
    assert os.access(SCRIPT, os.X_OK)
    assert "import btrfs" not in text and "from btrfs" not in text
    assert load().VERSION == __version__


@pytest.mark.parametrize("verb", load().VERBS)
def test_a_script_is_good_shell(verb):
    module = load()
    script = module.COMMON + module.VERBS[verb]
    for shell in ["dash"], ["bash"], ["busybox", "sh"]:
        subprocess.run([*shell, "-n", "-c", script], check=True)


def test_a_script_is_decoded_as_by_the_program():
    assert load().DECODER == grammar.DECODER


def test_full_then_incremental_then_the_program_continues(scene: Sender):
    words = ["-p", "x-"]
    for option in scene.sshd.ssh_options:
        words += ["--ssh-opt", option]
    assert run_program("-T", *words, scene.home).returncode == 0
    folder = scene.home / ".btrfs-backup-ng" / "snapshots"
    (first,) = folder.iterdir()
    done = scene.send(str(first), scene.place())
    pattern = r"(\S+) -> (\S+): sent (\S+), [\d.]+ K?i?B in full in [\d.]+ s\n"
    assert re.fullmatch(pattern, done.stdout)
    assert_same(str(first), scene.target / first.name)
    (scene.home / "more").write_text("more")
    second = scene.snapshot("second")
    done = scene.send("-P", first, second, scene.place(), said=f"since {first.name}")
    assert_same(second, scene.target / "second")
    (scene.home / "most").write_text("most")
    place = f"ssh://root@127.0.0.1{scene.target}"
    told = run_program(*words, scene.home, place)
    assert told.returncode == 0, told
    assert f"since {first.name}" in told.stdout
    assert scene.sshd.connections() == 3


def test_what_is_there_already_is_said_and_another_of_that_name_refused(scene: Sender):
    one = scene.snapshot()
    scene.send(one, scene.place())
    scene.send(one, scene.place(), said="s1 already exists there")
    subprocess.run(["btrfs", "-q", "sub", "delete", one], check=True)
    another = scene.snapshot()
    before = show(scene.target / "s1")
    scene.send(another, scene.place(), status=1, said="another has that name there")
    assert show(scene.target / "s1") == before


def test_a_test_changes_nothing(scene: Sender):
    scene.send("--test", scene.snapshot(), scene.place(), said="can be sent in full")
    assert os.listdir(scene.target) == []


def test_quiet_says_nothing_and_verbose_every_command(scene: Sender):
    one = scene.snapshot()
    done = scene.send("-v", "-t", one, scene.place())
    assert "+ ssh -S " in done.stderr
    done = scene.send("-q", one, scene.place())
    assert done.stdout == done.stderr == ""


def test_the_buffer_size_is_passed_on_and_the_buffer_can_be_left_out(scene: Sender):
    log = scene.base / "log"
    scene.wrap("mbuffer", f'echo "$*" >>{log}; exec "$real" "$@"')
    scene.send("-s", "24 MiB", scene.snapshot("s1"), scene.place())
    scene.send(scene.snapshot("s2"), scene.place())
    scene.send("-b", scene.snapshot("s3"), scene.place())
    sizes = re.findall(r"-m (\S+)", log.read_text())
    assert sizes == ["24M", "128M"]


def test_a_size_is_read_in_all_spellings_and_told_apart_from_a_place():
    read_size = load().read_size
    for text, size in {
        "24M": "24M",
        "1.5g": "1536M",
        "10 MiB": "10M",
        "64KB": "64k",
        "4096": "4k",
        "1000": "1000",
        "2T": "2048G",
    }.items():
        assert read_size(text) == size
    for words in (["--rate", "fast"], ["-s", "0"], ["-s", "1Q"]):
        argv = [sys.executable, str(SCRIPT), *words, "/s", "h:/x"]
        done = subprocess.run(argv, capture_output=True, text=True)
        said = done.stderr.splitlines()[-1]
        assert done.returncode == 2 and "is not a size; write it like 10M" in said
        assert "place" not in said


def test_ctrl_c_has_a_line_of_its_own(scene: Sender):
    scene.path = only(scene, "pv script")
    words = scene.words("--rate", "1M", scene.snapshot(size=8 << 20), scene.place())
    line = shlex.join(str(word) for word in words["args"])  # type: ignore[attr-defined]
    words["args"] = ["script", "-qec", line, "/dev/null"]
    words["env"]["SHELL"] = "/bin/sh"  # type: ignore[index]
    with subprocess.Popen(  # type: ignore[call-overload]
        **words, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as program:
        glob = ".btrfs-backup-ng/incoming/*/*"
        processes.wait_until(lambda: any(scene.target.glob(glob)))
        program.stdin.write("\x03")
        program.stdin.flush()
        shown = program.stdout.read()
    assert program.returncode == 130
    lines = shown.replace("\r\n", "\n").splitlines()
    assert "btrfs-ssh-send: ended by SIGINT" in lines, shown
    scene.check_nothing_left()


@pytest.mark.parametrize("tool", ["pv", "mbuffer"])
def test_a_rate_is_kept(scene: Sender, tool: str):
    other = {"pv": "mbuffer", "mbuffer": "pv"}[tool]
    scene.path = only(scene, "pv mbuffer ssh".replace(other, ""))
    one = scene.snapshot(size=3 << 20)
    done = scene.send("--rate", "2M", one, scene.place())
    assert float(done.stdout.split()[-2]) > 0.9


def only(scene: Sender, names: str) -> str:
    """Return a PATH with these programs and what else is needed."""
    links = scene.base / "links"
    links.mkdir()
    for name in {*names.split(), "ssh", "btrfs", "sh"}:
        (links / name).symlink_to(shutil.which(name, path=scene.path) or "")
    return str(links)


def test_without_pv_and_mbuffer_it_sends_but_keeps_no_rate(scene: Sender):
    scene.path = only(scene, "")
    one = scene.snapshot()
    scene.send("--rate", "2M", one, scene.place(), status=1, said="needs pv or mbuffer")
    scene.send("-s", "2M", one, scene.place(), status=1, said="needs mbuffer")
    scene.send(one, scene.place())
    assert scene.backups == ["s1"]


def test_port_identity_and_user_are_used_in_both_forms(scene: Sender, sshd: Sshd):
    scene.wrap("ssh", f'exec "$real" -F /dev/null {known(sshd)} "$@"')
    key = ["-i", str(sshd.identity)]
    one, port = scene.snapshot(), str(sshd.port)
    scene.send(*key, "-p", port, one, f"root@127.0.0.1:{scene.target}")
    place = f"ssh://root@127.0.0.1:{port}{scene.target}"
    scene.send(*key, one, place, said="already exists there")
    scene.send(
        "-p", port, one, f"127.0.0.1:{scene.target}", status=1, said="--identity"
    )


def own(user: Account, name: str, text: str) -> Path:
    """Put a file into the ``.ssh`` of a user."""
    folder = user.home / ".ssh"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / name
    path.write_text(text)
    path.chmod(0o600)
    for mine in (folder, path):
        os.chown(mine, user.uid, user.gid)
    return path


def test_under_sudo_the_callers_alias_and_key_count_and_nothing_of_theirs_is_root(
    scene: Sender, sshd: Sshd, account: Callable[..., Account], monkeypatch
):
    caller, one = account(), scene.snapshot()
    monkeypatch.setenv("SUDO_USER", caller.name)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    scene.send(one, scene.place())  # without a key of theirs, root's is taken
    who = caller.home / "who"
    key = own(caller, "key", sshd.identity.read_text())
    config = f"Host nas\n HostName {sshd.host}\n Port {sshd.port}\n User root\n"
    own(caller, "config", f'{config} IdentityFile {key}\nMatch exec "id -u >>{who}"\n')
    two = scene.snapshot("s2")
    scene.send("-P", one, two, f"nas:{scene.target}")
    assert scene.backups == ["s1", "s2"]
    assert set(who.read_text().split()) == {str(caller.uid)}
    known = caller.home / ".ssh/known_hosts"
    assert known.stat().st_uid == caller.uid
    three, nas = scene.snapshot("s3"), f"nas:{scene.target}"
    another = sshd.identity.with_suffix(".pub").read_text()
    known.write_text(f"[{sshd.host}]:{sshd.port} {another}")
    scene.send(three, nas, status=1, said="Host key for")  # root's is not asked then
    assert scene.backups == ["s1", "s2"]


def test_under_sudo_root_logs_in_where_the_caller_may_not(
    scene: Sender, sshd: Sshd, account: Callable[..., Account], monkeypatch
):
    caller, one = account(), scene.snapshot()
    monkeypatch.setenv("SUDO_USER", caller.name)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    key = own(caller, "key", "")
    key.unlink()
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-f", key], check=True)
    os.chown(key, caller.uid, caller.gid)
    lines = [f"HostName {sshd.host}", f"Port {sshd.port}", f"IdentityFile {key}"]
    own(caller, "config", "\n ".join(["Host test-server", *lines, "User root"]) + "\n")
    scene.send(one, scene.place(user="nobody1"), status=1, said="--identity FILE")
    scene.send(one, scene.place())
    before = sshd.connections()
    scene.send("-i", key, one, scene.place(), status=1, said="Permission denied")
    assert sshd.connections() == before


def known(sshd: Sshd) -> str:
    return f"-oUserKnownHostsFile={sshd.known_hosts} -oIdentityAgent=none"


@pytest.mark.parametrize("place", ["x", "-oP=1:/x", "a b:/x", "u:pass@h:/x", "h:x"])
def test_a_bad_place_is_wrong_usage_and_a_password_not_repeated(tmp_path, place):
    argv = [sys.executable, "-I", SCRIPT, "/x", "--", place]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and "pass@" not in done.stderr
    assert done.stderr.endswith("a place is [user@]host:/path, without a password\n")


def test_places_are_read():
    place = load().PLACE.fullmatch
    for text, user, host, port, path in (
        ("h:/p", None, "h", None, "/p"),
        ("u@h:/p:q", "u", "h", None, "/p:q"),
        ("ssh://u@h:22/p", "u", "h", "22", "/p"),
        ("[::1]:/p", None, "[::1]", None, "/p"),
        ("ssh://[fe80::1%eth0]:22/p\n", None, "[fe80::1%eth0]", "22", "/p\n"),
    ):
        found = place(text)
        assert [found[n] for n in ("user", "host", "port", "path")] == [
            user, host, port, path,
        ]  # fmt: skip


def test_a_source_that_cannot_be_sent_is_named(scene: Sender):
    home, place = str(scene.home), scene.place()
    scene.send(home, place, status=1, said="is writable, and may change")
    scene.send(str(scene.folder), place, status=1, said="plain directory")
    scene.send("/proc", place, status=1, said="not on btrfs")
    scene.send("/no\x1bwhere", place, status=1, said="/no\\x1bwhere cannot be sent")
    scene.send("/no/where", place, status=1, said="See what there is:  ls /no\n")
    assert scene.sshd.connections() == 0


def test_an_edited_snapshot_is_refused(scene: Sender):
    one = scene.snapshot()
    for value in ("false", "true"):
        argv = ["btrfs", "property", "set", "-f", "-ts", one, "ro", value]
        subprocess.run(argv, check=True)
        if value == "false":
            Path(one, "evil").write_text("x")
    scene.send(one, scene.place(), status=1, said="was changed after it was made")


def test_a_parent_must_be_at_the_destination_and_sealed(scene: Sender):
    one, two = scene.snapshot("s1"), scene.snapshot("s2")
    parent = ["-P", one]
    scene.send(*parent, two, scene.place(), status=1, said="the parent is not there")
    scene.send("-P", two, two, scene.place(), status=1, said="cannot be the parent")
    scene.send(one, scene.place())
    other = scene.target.parent / f"{scene.target.name}-other"
    other.mkdir()
    scene.send(*parent, two, scene.place(path=other))  # anywhere on the filesystem


def test_a_place_that_is_not_fit_is_named(scene: Sender):
    one, path = scene.snapshot(), scene.target / "no where"
    scene.send(one, scene.place(path=path), status=1, said="mkdir -p ")
    scene.send(one, "test-server:/proc", status=1, said="not on btrfs")


def test_a_machine_without_btrfs_or_flock_is_named(
    scene: Sender, new_sshd: Callable[..., Sshd]
):
    one, links = scene.snapshot(), scene.sockets.parent / "there"
    links.mkdir()
    for name in ("sh", "tr", "id", "flock"):
        (links / name).symlink_to(shutil.which(name) or "")
    server = new_sshd(config=(f"SetEnv PATH={links}",))
    scene.wrap("ssh", f'exec "$real" -F {server.ssh_config} "$@"')
    scene.send(one, scene.place(), status=1, said="it has no btrfs command (looked in")
    (links / "btrfs").symlink_to(shutil.which("btrfs") or "")
    (links / "flock").unlink()
    scene.send(one, scene.place(), status=1, said="it has no flock command")


def test_a_destination_mounted_read_only_is_named(scene: Sender, btrfs):
    disk = btrfs(size="256M")
    disk.remount("ro")
    place = scene.place(path=disk.path)
    scene.send(scene.snapshot(), place, status=1, said="mounted read-only")


@pytest.mark.parametrize("tools", ["", "pv", "mbuffer"])
def test_progress_is_shown_on_a_terminal_only(scene: Sender, tools: str):
    scene.path = only(scene, f"{tools} script")
    words = scene.words(scene.snapshot(), scene.place())
    line = shlex.join(str(word) for word in words["args"])  # type: ignore[attr-defined]
    words["args"] = ["script", "-qec", line, "/dev/null"]
    words["env"]["SHELL"] = "/bin/sh"  # type: ignore[index]
    done = subprocess.run(  # type: ignore[call-overload]
        **words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert done.returncode == 0, done
    shown = done.stdout.partition(" -> ")[0]
    assert re.search(r"\d ?([KM]i)?B", shown) and "\x1b" not in shown


def test_refused_login_wrong_host_key_and_no_server_are_named(
    scene: Sender, new_sshd: Callable[..., Sshd]
):
    one, server = scene.snapshot(), new_sshd()
    scene.wrap("ssh", f'exec "$real" -F {server.ssh_config} "$@"')
    server.new_host_key()
    server.restart()
    gone = f"ssh-keygen -R '[{server.host}]:{server.port}'"
    scene.send(one, scene.place(), status=1, said=gone)
    server.known_hosts.write_text("")
    scene.send(one, scene.place())  # a host that is not known is accepted once
    assert len(server.known_hosts.read_text().splitlines()) == 1
    scene.send(one, scene.place(user="nobody1"), status=1, said="--identity FILE")
    server.stop()
    scene.send(one, scene.place(), status=1, said="Connection refused")


SUDO = "{name} ALL=(root) NOPASSWD: ALL"
SHELLS = ["dash", "bash", "ash", "fish", "tcsh", "zsh"]


@pytest.mark.parametrize("shell", SHELLS)
def test_hostile_names_survive_every_login_shell(scene: Sender, account, shell: str):
    user: Account = account(shell=shell, sudoers=SUDO)
    target = scene.target / "it's $(id) `id`! \\ \n\"x"
    target.mkdir()
    os.chown(target, user.uid, user.gid)
    name = b"-s 'q\" $(id)!\\ \n\xff#+"
    one = scene.snapshot(name)
    place = scene.place(user.name, target)
    done = scene.send(one, place, said=" in full in ")
    assert "\\xff" in done.stdout
    assert_same(one, target / os.fsdecode(name))
    scene.send(one, place, said="already exists there")


def test_privilege_there_is_needed(scene: Sender, account: Callable[..., Account]):
    one = scene.snapshot()
    user = account()
    os.chown(scene.target, user.uid, user.gid)
    scene.send(
        one,
        scene.place(user.name),
        status=1,
        said=f"{user.name} ALL=(root) NOPASSWD: /",
    )
    said = "btrfs needs root"
    scene.send("--no-sudo", one, scene.place(user.name), status=1, said=said)
    only_btrfs = account(sudoers="{name} ALL=(root) NOPASSWD: /usr/bin/btrfs")
    os.chown(scene.target, only_btrfs.uid, only_btrfs.gid)
    scene.send(one, scene.place(only_btrfs.name))
    assert scene.backups == ["s1"]


def test_doas_will_do(scene: Sender, account: Callable[..., Account]):
    user = account(doas="permit nopass {name} as root cmd btrfs")
    os.chown(scene.target, user.uid, user.gid)
    scene.send(scene.snapshot(), scene.place(user.name))


def test_a_noisy_login_shell_is_named(scene: Sender, account: Callable[..., Account]):
    user = account(shell="bash", sudoers=SUDO)
    (user.home / ".bashrc").write_text("echo wel\x1bcome\n")
    said = "prints 'wel\\\\x1bcome"
    scene.send(scene.snapshot(), scene.place(user.name), status=1, said=said)


def test_the_unprivileged_get_the_line_to_run(tmp_path: Path):
    python = "/usr/bin/python3"
    argv = [
        "setpriv",
        "--reuid=65534",
        "--clear-groups",
        python,
        "-I",
        "-",
        "/a b",
        "h:/x",
    ]
    done = subprocess.run(argv, stdin=SCRIPT.open(), capture_output=True, text=True)
    assert done.returncode == 1
    assert "Run:  sudo btrfs-ssh-send '/a b' h:/x\n" in done.stderr


def test_a_full_disk_there_leaves_nothing(scene: Sender, btrfs):
    small = btrfs(size="128M")
    scene.target = small.path / "target"
    scene.target.mkdir()
    one = scene.snapshot(size=150 << 20)
    scene.send(one, scene.place(), status=1, said="The filesystem is full")
    assert scene.backups == []


@pytest.mark.parametrize("victim", ["send", "receive"])
def test_a_killed_end_is_blamed_and_leaves_nothing(scene: Sender, victim: str):
    one = scene.snapshot(size=8 << 20)
    scene.path = only(scene, "pv")
    with scene.start("--rate", "1M", one, scene.place()) as program:
        wait = processes.wait_until
        found = wait(lambda: [w for w in scene.workers() if w.argv[1:2] == (victim,)])
        wait(lambda: any(scene.target.glob(".btrfs-backup-ng/incoming/*/*")))
        processes.kill(found)
        _, said = program.communicate(timeout=60)
    assert program.returncode == 1
    blamed = {
        "send": "btrfs send failed with status -9",
        "receive": "receive-checked failed",
    }
    assert blamed[victim] in said, said
    assert scene.backups == []
    scene.check_nothing_left()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_a_signal_ends_everything(scene: Sender, name: str):
    one, number = scene.snapshot(size=8 << 20), signal.Signals[name]
    with scene.start("--rate", "1M", one, scene.place()) as program:
        glob = ".btrfs-backup-ng/incoming/*/*"
        processes.wait_until(lambda: any(scene.target.glob(glob)))
        family = processes.children(program.pid)
        assert len(family) > 3
        program.send_signal(number)
        _, said = program.communicate(timeout=60)
    assert "Traceback" not in said
    if name != "SIGKILL":
        first, kept = said.splitlines()
        assert first == f"btrfs-ssh-send: ended by {name}"
        assert kept.startswith("  The partial copy is deleted: run it again")
    processes.wait_until(lambda: not any(c.alive() for c in family), 3)
    assert scene.backups == []
    if name == "SIGKILL":
        processes.wait_until(lambda: not scene.workers())
        return
    assert program.returncode == 128 + number
    scene.check_nothing_left()


def test_a_killed_stage_in_between_is_blamed(scene: Sender):
    one = scene.snapshot(size=8 << 20)
    with scene.start("--rate", "1M", one, scene.place()) as program:
        glob = ".btrfs-backup-ng/incoming/*/*"
        processes.wait_until(lambda: any(scene.target.glob(glob)))
        family = processes.children(program.pid)
        processes.kill(child for child in family if child.argv[:1] == ("pv",))
        _, said = program.communicate(timeout=60)
    assert program.returncode == 1 and "pv failed with status -9" in said, said
    scene.check_nothing_left()


def test_much_on_stderr_does_not_hang(scene: Sender):
    scene.wrap(
        "btrfs", 'head -c 200000 /dev/zero | tr "\\0" "x" >&2; exec "$real" "$@"'
    )
    scene.send(scene.snapshot(), scene.place())


def test_a_connection_that_breaks_has_an_unknown_outcome(
    scene: Sender, new_sshd: Callable[..., Sshd]
):
    server = new_sshd()
    scene.wrap("ssh", f'exec "$real" -F {server.ssh_config} "$@"')
    one = scene.snapshot(size=8 << 20)
    with scene.start("--rate", "1M", one, scene.place()) as program:
        glob = ".btrfs-backup-ng/incoming/*/*"
        processes.wait_until(lambda: any(scene.target.glob(glob)))
        server.stop()
        _, said = program.communicate(timeout=60)
    assert program.returncode == 1
    assert "unknown" in said and "left on the other machine: " in said
    assert scene.backups == []


def test_it_finds_btrfs_outside_the_path_of_cron(scene: Sender, tmp_path: Path):
    one, place = tmp_path / "one", tmp_path / "sbin"
    place.mkdir()
    one.mkdir()
    for name in ("ssh", "sh"):
        (one / name).symlink_to(shutil.which(name, path=scene.path) or "")
    (place / "btrfs").symlink_to(shutil.which("btrfs") or "")
    words = scene.words("-b", scene.snapshot(), scene.place())
    mount = 'mount --bind "$0" /usr/local/sbin; shift 0; PATH=$1; shift; exec "$@"'
    argv = ["unshare", "-m", "sh", "-ec", mount, place, str(one)]
    argv += words["args"]  # type: ignore[arg-type]
    words["args"] = argv
    done = subprocess.run(**words, capture_output=True)  # type: ignore[call-overload]
    assert done.returncode == 0, done
    assert scene.backups == ["s1"]


def test_the_transfer_id_and_the_wire_are_those_of_the_program(scene: Sender):
    log = scene.base / "log"
    config = scene.sshd.ssh_config
    scene.wrap("ssh", f'printf "%s\\n" "$*" >>{log}; exec "$real" -F {config} "$@"')
    scene.send(scene.snapshot(), scene.place())
    said = re.findall(
        r"exec sh -c '[^']*' bbng2 ([a-z-]+)((?: \+\S*)+)$", log.read_text(), re.M
    )
    assert [verb for verb, _ in said] == ["check", "receive-checked"]
    _, _, place, transfer_id, name, *_ = (w[1:] for w in said[1][1].split())
    assert staging.ids_in([transfer_id])
    assert grammar.encode(str(scene.target))[1:] == place


def test_endless_complaints_do_not_fill_the_memory(scene: Sender):
    scene.wrap("mbuffer", "head -c 99999999 /dev/zero >&2; exit 3")
    done = scene.send(scene.snapshot(), scene.place(), status=1, said="mbuffer failed")
    assert len(done.stderr) < 2000
    assert load().MIB == 1 << 20
