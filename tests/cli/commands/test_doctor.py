"""The ``doctor`` verb: each finding in its good and its bad form, for real."""

import json
import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from btrfs_backup_ng.actions.doctor.diagnosis import HERE, OF_A_PLACE, THERE
from btrfs_backup_ng.host.ssh import sudoers_rule
from tests.conftest import MakesFilesystems
from tests.support import accounts, ours, places
from tests.support.accounts import Account
from tests.support.command_line import (
    NOBODY,
    Done,
    as_nobody,
    complaint,
    covers,
    must,
    on_terminal,
    path_without,
    script,
)
from tests.support.places import MIB, ssh_place, ssh_words
from tests.support.program import Argument, run_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs

Findings = dict[str, dict[str, Any]]


def doctor(*words: Argument, **changes: Any) -> Done:
    """Run the doctor."""
    done = run_program("doctor", *words, **changes)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def findings(*words: Argument, status: int, **changes: Any) -> Findings:
    """Run the doctor on one place, and give what it found by check."""
    (found,) = _read(must(doctor("--json", *words, **changes), status)).values()
    return found


def _read(done: Done) -> dict[str, Findings]:
    assert done.stderr == ""
    document = json.loads(done.stdout)
    assert document["version"] == 1
    assert document["exit_status"] == done.returncode
    read = {}
    for place in document["places"]:
        found = {finding["check"]: finding for finding in place["findings"]}
        assert tuple(found) == (THERE if "://" in place["place"] else HERE)
        assert len(found) == len(place["findings"])
        read[place["place"]] = found
    return read


def bad(found: Findings) -> dict[str, str]:
    """Return the grades that are not good."""
    grades = {check: finding["status"] for check, finding in found.items()}
    return {check: grade for check, grade in grades.items() if grade != "ok"}


def check(finding: dict[str, Any], status: str, part: str, *mend: str) -> None:
    """Compare one finding: its grade, a part of it, and parts of what mends it."""
    assert finding["status"] == status, finding
    assert part in finding["found"], finding
    for line in mend:
        assert line in "\n".join(finding["mend"]), finding


def there(server: Sshd, path: Path, *, user: str = "") -> list[Argument]:
    """Return the words that lead to a place behind the test's ssh server."""
    return [*ssh_words(server), ssh_place(server, path, user=user)]


@pytest.fixture
def owned(scene: Scene, account: Callable[..., Account]) -> Callable[..., Account]:
    """Make accounts, the last of which owns the destination."""

    def make(**rights: Any) -> Account:
        user = account(**rights)
        os.chown(scene.destination, user.uid, user.gid)
        return user

    return make


# All is well.


def test_these_are_the_checks_of_a_place_here_and_of_one_behind_ssh():
    """The only list of all: other tests name the check that they are about."""
    here = "btrfs version stream privilege".split()
    of_a_place = "directory mounted filesystem writable state use space".split()
    assert [*HERE] == [*here, *of_a_place, "programs"]
    behind = "connect login shell btrfs version stream flock privilege".split()
    assert [*THERE] == [*behind, *of_a_place, "clock", "sessions", "programs"]


def test_a_machine_on_which_all_is_well(scene: Scene, sshd: Sshd):
    done = must(doctor(*there(sshd, scene.destination)))
    place, *lines = done.stdout.splitlines()
    assert place == ssh_place(sshd, scene.destination)
    assert [line.split()[:2] for line in lines] == [["OK", check] for check in THERE]
    assert done.stderr == ""
    assert sshd.connections() == 1
    assert sshd.sessions() == 1 + 8


def test_this_machine_if_all_is_well(scene: Scene):
    done = must(doctor(scene.source))
    _, *lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["OK", check] for check in HERE]
    assert "a subvolume: source or destination" in done.stdout


@covers("--quiet", "-q")
def test_quiet_says_nothing_if_all_is_well(scene: Scene, sshd: Sshd):
    done = must(doctor("-q", scene.source, *there(sshd, scene.destination)))
    assert (done.stdout, done.stderr) == ("", "")
    done = must(doctor("-q", scene.source, scene.destination / "no"), 2)
    place, first, *_ = done.stdout.splitlines()
    assert place == str(scene.destination / "no")
    assert first.split()[:2] == ["FAIL", "directory"]
    assert "OK" not in done.stdout


def test_it_changes_nothing(scene: Scene, sshd: Sshd, owned: Callable[..., Account]):
    user = owned(sudoers="{name} ALL=(root) NOPASSWD: /usr/bin/btrfs")
    words = there(sshd, scene.destination, user=user.name)

    def all_there_is() -> list[object]:
        rules = os.listdir("/etc/sudoers.d")
        rules = [rule for rule in rules if not ours.is_of_another(rule)]
        homes = [str(user.home), "/root/.ssh"]
        trees = [sorted(os.walk(home)) for home in homes]
        return [scene.fingerprint(), *trees, sorted(rules)]

    for gone in (False, True):
        if gone:
            scene.destination.rmdir()
        before = all_there_is()
        assert doctor(scene.source, *words).returncode == (2 if gone else 0)
        assert all_there_is() == before


# Nobody there, or nobody let in.


def _nothing_behind(found: Findings, *checks: str) -> None:
    """What is behind the one that failed was not looked at, and is told so."""
    others = {check: grade for check, grade in bad(found).items() if check in checks}
    assert "fail" in others.values()
    rest = THERE[THERE.index(checks[-1]) + 1 :]
    for name in rest:
        check(found[name], "unknown", "not checked: there is no ")


def test_nobody_listens(scene: Scene):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        place = f"ssh://127.0.0.1:{taken.getsockname()[1]}{scene.destination}"
        found = findings(place, status=2)
        shown = must(doctor(place), 2).stdout
    check(found["connect"], "fail", "Connection refused", "ssh -p ")
    _nothing_behind(found, "connect")
    assert "OK" not in shown
    # What was not checked for one reason is one line.
    assert f"  UNKNOWN  {', '.join(THERE[1:])}: not checked: " in shown


def test_a_refused_login(scene: Scene, sshd: Sshd):
    words = ssh_words(sshd, without=["IdentityFile"])
    found = findings(*words, ssh_place(sshd, scene.destination), status=2)
    check(found["connect"], "ok", "answers")
    check(found["login"], "fail", "refused the login", "--ssh-identity-file")
    _nothing_behind(found, "login")
    words += ["--ssh-identity-file", str(sshd.identity)]
    assert findings(*words, ssh_place(sshd, scene.destination), status=0)


def test_a_changed_host_key(scene: Scene, new_sshd: Callable[..., Sshd]):
    server = new_sshd()
    server.new_host_key()
    server.restart()
    found = findings(*there(server, scene.destination), status=2)
    check(found["connect"], "fail", "has changed", "ssh-keygen -R ")
    _nothing_behind(found, "connect")


@pytest.mark.parametrize(
    ("shell", "rc", "part", "mend"),
    [
        ("bash", "printf 'Welcome \\033[1mback\\n'", "prints text of its own", ".bash"),
        ("bash", "exit 3", "", "See:  ssh -p "),
    ],
)
def test_a_shell_that_cannot_be_used(
    scene: Scene,
    sshd: Sshd,
    account: Callable[..., Account],
    shell: str,
    rc: str,
    part: str,
    mend: str,
):
    user = account(shell=shell)
    (user.home / ".bashrc").write_text(f"{rc}\n")
    words = there(sshd, scene.destination, user=user.name)
    found = findings(*words, status=2)
    check(found["login"], "ok", user.name)
    check(found["shell"], "fail", part, mend)
    for name in THERE[3:]:
        check(found[name], "unknown", "not checked: no command can be run there")
    assert "\x1b" not in doctor(*words).stdout


# What is missing there.


@pytest.mark.parametrize(
    ("missing", "status", "expected"),
    [
        (
            "btrfs",
            2,
            {"btrfs": "fail", "version": "unknown", "stream": "unknown"},
        ),
        ("flock", 2, {"flock": "fail"}),
        ("zstd lz4", 1, {"programs": "warn"}),
    ],
)
def test_programs_that_are_missing_there(
    scene: Scene,
    new_sshd: Callable[..., Sshd],
    public_path: Path,
    missing: str,
    status: int,
    expected: dict[str, str],
):
    path = path_without(public_path, *missing.split())
    server = new_sshd(config=(f"SetEnv PATH={path}",))
    found = findings(*there(server, scene.destination), status=status)
    assert bad(found) == expected
    for check, grade in expected.items():
        if grade != "unknown":
            assert "Install" in found[check]["mend"][0]


def test_programs_that_are_missing_here(scene: Scene, tmp_path: Path):
    env = {"PATH": path_without(tmp_path, "pv", "mbuffer", "btrfs")}
    found = findings(scene.destination, status=2, env=env)
    assert bad(found) == {
        **{"btrfs": "fail", "version": "unknown", "stream": "unknown"},
        "programs": "warn",
    }
    check(found["btrfs"], "fail", "no btrfs command", "btrfs-progs here")
    check(found["programs"], "warn", "--rate", "Install here:  pv")


def test_an_old_btrfs(scene: Scene, new_sshd: Callable[..., Sshd], public_path: Path):
    script(public_path / "btrfs", f'{_WHEN_ASKED}\nexec /usr/bin/btrfs "$@"')
    server = new_sshd(config=(f"SetEnv PATH={public_path}:{os.environ['PATH']}",))
    found = findings(*there(server, scene.destination), status=1)
    check(found["version"], "warn", "btrfs-progs 4.15 is older than", "Update")
    check(found["stream"], "ok", "protocol 1")
    check(found["btrfs"], "ok", f"{public_path}/btrfs")


_WHEN_ASKED = 'case "$*" in --version) echo "btrfs-progs v4.15.1"; exit;; esac'


@pytest.mark.parametrize(
    ("seconds", "status", "grade", "said"),
    [
        (3600, 1, "warn", r"(1:00:00|59:5\d) ahead of this machine"),
        (-3 * 86400, 2, "fail", r"71:59:5\d behind this machine, and names sort .*"),
    ],
)
def test_a_clock_that_is_wrong(
    scene: Scene,
    new_sshd: Callable[..., Sshd],
    public_path: Path,
    seconds: int,
    status: int,
    grade: str,
    said: str,
):
    date = f'exec /bin/date -d "@$(($(/bin/date +%s) + {seconds}))" +%s'
    script(public_path / "date", date)
    server = new_sshd(config=(f"SetEnv PATH={public_path}:{os.environ['PATH']}",))
    found = findings(*there(server, scene.destination), status=status)
    assert bad(found) == {"clock": grade}
    # What the time on the way explains is taken off.
    assert re.fullmatch(said, found["clock"]["found"]), found["clock"]
    check(found["clock"], grade, "", "timedatectl set-ntp true")


def test_a_slow_answer_is_no_wrong_clock(
    scene: Scene, new_sshd: Callable[..., Sshd], public_path: Path
):
    script(public_path / "date", 'sleep 6.5; exec /bin/date "$@"')
    server = new_sshd(config=(f"SetEnv PATH={public_path}:{os.environ['PATH']}",))
    found = findings(*there(server, scene.destination), status=0)
    check(found["clock"], "ok", "the same as here")


@pytest.mark.parametrize(
    ("allowed", "grade", "status"),
    [
        (2, "fail", 2),
        (5, "warn", 1),
    ],
)
def test_few_sessions(
    scene: Scene,
    new_sshd: Callable[..., Sshd],
    allowed: int,
    grade: str,
    status: int,
):
    server = new_sshd(config=(f"MaxSessions {allowed}",))
    found = findings(*there(server, scene.destination), status=status)
    assert bad(found) == {"sessions": grade}
    check(found["sessions"], grade, f"{allowed} of 8 side by side", "MaxSessions 10")


# Privilege, and the rule that gives it.


def test_a_sudo_that_wants_a_password(
    scene: Scene, sshd: Sshd, owned: Callable[..., Account]
):
    user = owned()
    words = there(sshd, scene.destination, user=user.name)
    found = findings(*words, status=2)
    assert bad(found) == {"privilege": "fail"}
    rule = f"{user.name} ALL=(root) NOPASSWD: /usr/bin/btrfs"
    check(found["privilege"], "fail", "sudo asks for a password", rule)
    check(found["privilege"], "fail", "cannot enter", "--sudo-password-file")
    lines = must(doctor(*words), 2).stdout.splitlines()
    (index,) = [n for n, line in enumerate(lines) if "  FAIL     privilege" in line]
    assert lines[index + 1].endswith("in /etc/sudoers.d/btrfs-backup-ng:")
    assert lines[index + 2].strip() == rule


@covers("--sudo-password-file")
def test_a_password_for_sudo_from_a_file(
    scene: Scene, sshd: Sshd, owned: Callable[..., Account], tmp_path: Path
):
    user = owned(sudoers="{name} ALL=(root) ALL")
    _set_password(user, "right")
    words = there(sshd, scene.destination, user=user.name)
    for password, status in (("right", 0), ("wrong", 2)):
        file = tmp_path / password
        file.write_text(f"{password}\n")
        file.chmod(0o600)
        found = findings("--sudo-password-file", file, *words, status=status)
        if status:
            check(found["privilege"], "fail", "rejected the password")
        else:
            check(found["privilege"], "ok", str(file))
            check(found["login"], "ok", f"as {user.name} ")
            check(found["sessions"], "ok", "8 side by side")


def _set_password(user: Account, password: str) -> None:
    with ours.only_one():
        text = f"{user.name}:{password}\n"
        subprocess.run(["/usr/sbin/chpasswd"], input=text, text=True, check=True)


def test_nobody_is_asked_for_a_password(
    scene: Scene, sshd: Sshd, owned: Callable[..., Account]
):
    user = owned(sudoers="{name} ALL=(root) ALL")
    words = there(sshd, scene.destination, user=user.name)
    done = on_terminal("doctor", *words)
    assert done.returncode == 2, done.stdout
    assert "password on" not in done.stdout
    assert "sudo asks for a password" in done.stdout


def test_no_login_asks_for_a_password_either(
    scene: Scene, new_sshd: Callable[..., Sshd], owned: Callable[..., Account]
):
    server, user = new_sshd(config=("PasswordAuthentication yes",)), owned()
    words = ssh_words(server, without=["IdentityFile", "BatchMode"])
    key = server.identity.with_name("host_key")  # a key, but not one that opens
    words += ["--ssh-identity-file", str(key)]
    places = (scene.destination, scene.destination.parent)
    named = [ssh_place(server, place, user=user.name) for place in places]
    done = on_terminal("doctor", *words, *named, env={"COLUMNS": "400"})
    assert done.returncode == 2, done.stdout
    assert "password:" not in done.stdout
    copy = f"ssh-copy-id -i {key} -p {server.port} {user.name}@{server.host}"
    assert done.stdout.count(f"If the host does not have the key yet:  {copy}") == 2
    must(run_program("doctor", *words, *named, "-q"), 2)
    assert server.connections() == 0


def test_neither_sudo_nor_doas(
    scene: Scene,
    new_sshd: Callable[..., Sshd],
    owned: Callable[..., Account],
    public_path: Path,
):
    user = owned()
    path = path_without(public_path, "sudo", "doas")
    server = new_sshd(config=(f"SetEnv PATH={path}",))
    found = findings(*there(server, scene.destination, user=user.name), status=2)
    assert bad(found) == {"privilege": "fail"}
    check(found["privilege"], "fail", "neither sudo nor doas", "Log in as root")


def test_a_rule_that_allows_too_little(
    scene: Scene, sshd: Sshd, account: Callable[..., Account]
):
    user = account(sudoers="{name} ALL=(root) NOPASSWD: /usr/bin/btrfs --version")
    os.chown(scene.source, user.uid, user.gid)
    found = findings(*there(sshd, scene.source, user=user.name), status=2)
    assert bad(found) == {"privilege": "fail"}
    rule = f"{user.name} ALL=(root) NOPASSWD: /usr/bin/btrfs"
    check(found["privilege"], "fail", "but not btrfs subvolume show", rule)


def _rule(*words: Argument) -> str:
    """Return the rule, which is all that is printed."""
    done = must(doctor("--sudoers", *words))
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    return done.stdout


def _put_to_work(user: Account, rule: str) -> None:
    """Do what the doctor says; the account takes it along when it goes."""
    subprocess.run(["/usr/sbin/visudo", "-c", "-f", "-"], input=rule, text=True,
                   check=True, capture_output=True)  # fmt: skip
    mark = pwd.getpwnam(user.name).pw_gecos
    accounts.allow_sudo(mark, rule)


@covers("--sudoers")
@pytest.mark.parametrize("way", ["push", "pull"])
def test_the_rule_that_is_printed_is_enough_for_a_backup(
    scene: Scene, sshd: Sshd, account: Callable[..., Account], way: str
):
    user = account()
    path = scene.destination if way == "push" else scene.source
    os.chown(path, user.uid, user.gid)
    words = there(sshd, path, user=user.name)
    rule = _rule(*words)
    assert bad(findings(*words, status=2)) == {"privilege": "fail"}
    _put_to_work(user, rule)
    assert bad(findings(*words, status=0)) == {}
    assert _rule(*words) == rule  # also where it is not missing
    *options, place = words
    ends = [scene.source, place] if way == "push" else [place, scene.destination]
    for number in range(2):  # the second one increments, and prunes at both ends
        scene.add(f"file {number}")
        must(run_program("-p", "x-", "-N1", "-n1", *options, *ends))
    assert len(scene.backup_names) == 1


def test_the_rule_names_the_btrfs_that_sudo_finds(
    scene: Scene,
    new_sshd: Callable[..., Sshd],
    account: Callable[..., Account],
    public_path: Path,
):
    """Also where PATH begins with another directory, or with a link to the same."""
    user = account()
    os.chown(scene.destination, user.uid, user.gid)
    script(public_path / "btrfs", 'exec /usr/bin/btrfs "$@"')
    path = f"{public_path}:/bin:/usr/bin"
    server = new_sshd(config=(f"SetEnv PATH={path}",))
    words = there(server, scene.destination, user=user.name)
    rule = _rule(*words)
    assert rule == f"{user.name} ALL=(root) NOPASSWD: /usr/bin/btrfs\n"
    _put_to_work(user, rule)
    assert bad(findings(*words, status=0)) == {}
    *options, place = words
    must(run_program("-p", "x-", *options, scene.source, place))
    assert len(scene.backup_names) == 1


@pytest.mark.parametrize("user", ["DOM\\user", "a@b", "x=y:z,(w) v", "#7", "%g", ""])
def test_the_rule_for_any_user_is_good_sudoers(user: str):
    said = {"user": user, "uid": "7", "program": "/opt/a b,c:d=e/btrfs"}
    command = ["/usr/sbin/visudo", "-c", "-f", "-"]
    rule = f"{sudoers_rule(said)}\n"
    done = subprocess.run(command, input=rule, text=True, capture_output=True)
    assert done.returncode == 0, (rule, done.stderr)


def test_where_there_is_only_doas_the_rule_is_for_doas(
    scene: Scene,
    new_sshd: Callable[..., Sshd],
    account: Callable[..., Account],
    public_path: Path,
):
    user = account(doas="deny {name}")  # so that there is a file to add to
    os.chown(scene.destination, user.uid, user.gid)
    path = path_without(public_path, "sudo")
    server = new_sshd(config=(f"SetEnv PATH={path}",))
    words = there(server, scene.destination, user=user.name)
    found = findings(*words, status=2)
    assert bad(found) == {"privilege": "fail"}
    rule = _rule(*words)
    check(found["privilege"], "fail", "doas", "in /etc/doas.conf:", rule.strip())
    mark = pwd.getpwnam(user.name).pw_gecos
    accounts.forbid_doas(mark)
    accounts.allow_doas(mark, rule)
    found = findings(*words, status=0)
    check(found["privilege"], "ok", "doas -n")
    *options, place = words
    must(run_program("-p", "x-", *options, scene.source, place))
    assert len(scene.backup_names) == 1


@covers("--sudoers")
def test_there_is_no_rule_where_none_can_be(
    scene: Scene,
    new_sshd: Callable[..., Sshd],
    account: Callable[..., Account],
    public_path: Path,
):
    user = account()
    path = path_without(public_path, "btrfs", sbin=["btrfs"])
    server = new_sshd(config=(f"SetEnv PATH={path}",))
    root = there(server, scene.destination)
    for words, status, part in (
        (root, 4, "is root there"),
        ([scene.source], 2, "sudo btrfs-backup-ng"),
        ([*root, root[-1]], 2, "one place"),
        ([*ssh_words(server, without=["IdentityFile"]), root[-1]], 1, "refused"),
    ):
        done = doctor("--sudoers", *words)
        complaint(done, status, part)
        assert done.stdout == ""
    assert user.name


# What is at the place.


@pytest.fixture
def system_disk() -> Iterator[Path]:
    """Make an empty directory on the system disk, where /tmp need not be."""
    path = Path(tempfile.mkdtemp(prefix=f"{ours.mark()}-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize("remote", [False, True])
def test_an_empty_directory_on_the_system_disk(
    sshd: Sshd, system_disk: Path, remote: bool
):
    words = there(sshd, system_disk) if remote else [system_disk]
    (found,) = _read(doctor("--json", *words)).values()
    check(found["mounted"], "fail", "is the backup disk mounted?", "mount ", "skip")


def test_a_directory_on_the_system_disk_that_is_not_empty(system_disk: Path):
    (system_disk / "file").touch()
    (found,) = _read(doctor("--json", system_disk)).values()
    check(found["mounted"], "ok", "not empty")


@pytest.mark.parametrize("remote", [False, True])
def test_what_is_not_btrfs(sshd: Sshd, tmp_path: Path, remote: bool):
    point = tmp_path / "it's a disk"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", point], check=True)
    try:
        words = there(sshd, point) if remote else [point]
        found = findings(*words, status=2)
    finally:
        subprocess.run(["umount", point], check=True)
    # A tmpfs is half as large as the memory, whatever that is.
    assert {**bad(found), "space": "ok"} == {
        **{"filesystem": "fail", "use": "unknown", "space": "ok"}
    }
    check(found["filesystem"], "fail", "tmpfs", "btrfs")


def test_what_is_missing_or_no_directory(scene: Scene, sshd: Sshd):
    missing, file = scene.destination / "no where", scene.source / "first"
    for words, part in (
        ([missing], "does not exist"),
        (there(sshd, missing), "does not exist"),
        ([file], "is not a directory"),
        (there(sshd, file), "is not a directory"),
    ):
        found = findings(*words, status=2)
        expected = {name: "unknown" for name in OF_A_PLACE}
        assert bad(found) == {**expected, "directory": "fail"}
        check(found["directory"], "fail", part)
    assert not missing.exists()


def test_the_command_that_makes_a_directory_can_be_typed(scene: Scene):
    path = scene.destination / "no where" / "it's"
    (line,) = findings(path, status=2)["directory"]["mend"]
    subprocess.run(["sh", "-ec", line.partition("Run:  ")[2]], check=True)
    assert findings(path, status=0)


def test_a_disk_mounted_read_only_and_nearly_full(btrfs: MakesFilesystems, sshd: Sshd):
    disk = btrfs(size="300M")
    places = ([disk.path], there(sshd, disk.path))
    for words in places:
        found = findings(*words, status=1)
        assert bad(found) == {"space": "warn"}
        check(found["space"], "warn", "MiB free of", "btrfs filesystem usage")
    with open(disk.path / "filler", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, disk_free(disk.path) - 60 * MIB)
    disk.remount("ro")
    for words in places:
        found = findings(*words, status=2)
        assert bad(found) == {"space": "fail", "writable": "fail"}
        check(found["writable"], "fail", "read-only", "mount -o remount,rw ")
        check(found["space"], "fail", "too little")


@pytest.mark.parametrize("is_here", [True, False], ids=["here", "over ssh"])
def test_the_command_that_makes_a_disk_writable_can_be_typed_for_a_directory_on_it(
    btrfs: MakesFilesystems, sshd: Sshd, is_here: bool
):
    disk = btrfs(size="300M")
    place = disk.path / "below" / "it's"
    place.mkdir(parents=True)
    disk.remount("ro")
    words: list[Argument] = [place] if is_here else there(sshd, place)
    (line,) = findings(*words, status=2)["writable"]["mend"]
    who, command = line.split(":  ", 1)
    assert (who, command.split()[0]) == ("Run" if is_here else "As root there", "mount")
    subprocess.run(["sh", "-ec", command], check=True)
    assert findings(*words, status=1)["writable"]["status"] == "ok"


def disk_free(path: Path) -> int:
    """Count the bytes that are free."""
    return shutil.disk_usage(path).free


def test_a_directory_that_the_user_there_does_not_own(
    scene: Scene, sshd: Sshd, account: Callable[..., Account]
):
    user = account(sudoers="{name} ALL=(root) NOPASSWD: /usr/bin/btrfs")
    words = there(sshd, scene.destination, user=user.name)
    found = findings(*words, status=2)
    assert bad(found) == {"writable": "fail"}
    (line,) = found["writable"]["mend"]
    command = line.partition("As root there:  ")[2]
    subprocess.run(["sh", "-ec", command], check=True)
    assert findings(*words, status=0)


@pytest.mark.parametrize("remote", [False, True])
def test_a_read_only_snapshot_is_no_place(scene: Scene, sshd: Sshd, remote: bool):
    sealed = scene.snapshot("sealed")
    words = there(sshd, sealed) if remote else [sealed]
    found = findings(*words, status=2)
    assert bad(found) == {"writable": "fail"}
    check(found["writable"], "fail", "even root may not write")
    check(found["use"], "ok", "a subvolume")


@pytest.mark.parametrize("remote", [False, True])
def test_what_is_in_place_of_our_directory_is_named(
    scene: Scene, sshd: Sshd, remote: bool
):
    words = there(sshd, scene.source) if remote else [scene.source]
    state = scene.source / ".btrfs-backup-ng"

    def state_found(status: int) -> dict[str, Any]:
        return findings(*words, status=status)["state"]

    check(state_found(0), "ok", "none yet")
    state.mkdir(mode=0o700)
    check(state_found(0), "ok", str(state))
    state.rmdir()
    for make, why in (
        (state.touch, "is not a directory"),
        (partial(state.symlink_to, "."), "is a symbolic link"),
    ):
        make()
        aside = f"mv -T {state} {state}.not-ours"
        check(state_found(2), "fail", f"{state} {why}", aside)
        state.unlink()
    clone = scene.source.with_name("clone")
    places.command("btrfs", "-q", "subvolume", "create", state)
    places.command("btrfs", "-q", "subvolume", "snapshot", scene.source, clone)
    words = there(sshd, clone) if remote else [clone]
    check(state_found(0), "ok", "is an empty stub, as after a rollback or in a clone")


def test_a_directory_is_a_destination_only(scene: Scene, sshd: Sshd):
    inside = scene.source / "docs"
    inside.mkdir()
    for words in ([inside], there(sshd, inside)):
        found = findings(*words, status=0)
        check(found["use"], "ok", f"only all of {scene.source} could be a source")


def test_here_only_root_can_see_all(scene: Scene):
    words: list[Argument] = ["doctor", "--json", scene.source]
    (found,) = _read(must(as_nobody(*words), 4)).values()
    unknown = {"writable": "unknown", "state": "unknown"}
    assert bad(found) == {"privilege": "fail", **unknown}
    check(found["privilege"], "fail", "needs root")
    command = f"Run:  sudo btrfs-backup-ng doctor --json {scene.source}"
    assert found["privilege"]["mend"] == [command]
    closed = scene.source / "closed"
    closed.mkdir(mode=0o700)
    (found,) = _read(must(as_nobody("doctor", "--json", closed), 4)).values()
    expected = {name: "unknown" for name in OF_A_PLACE}
    assert bad(found) == {**expected, "privilege": "fail"}
    check(found["privilege"], "fail", f"reading {closed} needs root", "sudo ")
    assert os.stat(closed).st_uid != NOBODY


# The words, and what is printed.


def test_each_place_stands_for_itself(scene: Scene, sshd: Sshd):
    no = scene.destination / "no"
    words = [scene.source, *there(sshd, scene.destination), no]
    read = _read(must(doctor("--json", *words), 2))
    assert list(read) == [str(scene.source), str(words[-2]), str(no)]
    assert [bool(bad(found)) for found in read.values()] == [False, False, True]


def test_what_makes_no_sense_is_a_usage_error(scene: Scene):
    for words, part in (
        ([], "no place given"),
        (["shell://cat"], "shell://"),
        (["nas:/x"], "could be a path or a host"),
        (["--no-such", scene.source], "--no-such"),
    ):
        done = doctor(*words)
        complaint(done, 2, part)
        assert done.stdout == ""


@covers("--version")
def test_the_version_and_the_help():
    assert must(doctor("--version")).stdout.startswith("btrfs-backup-ng ")
    shown = must(doctor("--help")).stdout
    for name in {*HERE, *THERE}:
        assert name in shown


def test_a_terminal_of_80_columns_is_enough(scene: Scene, sshd: Sshd):
    words: Sequence[Argument] = ssh_words(sshd, without=["IdentityFile"])
    command = ["doctor", *words, f"ssh://nobody@{sshd.host}:{sshd.port}/x"]
    shown = on_terminal(*command, env={"COLUMNS": "80"}).stdout
    lines = shown.replace("\r\n", "\n").splitlines()
    assert len(lines) > 5
    assert max(map(len, lines)) <= 80, shown
    for name in THERE:
        assert name in shown
    assert len(must(doctor(scene.source)).stdout.splitlines()) == 1 + len(HERE)


def test_no_control_character_gets_through(scene: Scene):
    bad_name = os.fsdecode("\x1b[31m\r\n\u202e".encode() + b"\xff")
    path = scene.source / bad_name
    for words in ([path], ["--json", path]):
        done = must(doctor(*words), 2)
        assert not re.search("[\x00-\x09\x0b-\x1f\u202e\udcff]", done.stdout)
    path.mkdir()
    assert "\\x1b[31m" in must(doctor(path)).stdout
