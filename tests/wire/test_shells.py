"""The wire form in every login shell, and what the verbs that only read answer."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from btrfs_backup_ng.__util__ import MIB, BackupError
from btrfs_backup_ng.actions.versions import answers as wire_versions
from btrfs_backup_ng.btrfs import ioctl
from btrfs_backup_ng.core.model import Integrity
from btrfs_backup_ng.core.record import DIRECTORY, LINK, SPECIAL, TOO_LARGE
from btrfs_backup_ng.core.value import replace
from btrfs_backup_ng.endpoint.btrfs import batches
from btrfs_backup_ng.host.common import ListingFailed
from btrfs_backup_ng.host.facts import is_same_filesystem
from btrfs_backup_ng.host.local import LocalHost
from btrfs_backup_ng.host.ssh import SshHost
from btrfs_backup_ng.sendstream.filter import filter_words, portable
from btrfs_backup_ng.sshutil.master import Sessions, SSHMasterManager
from btrfs_backup_ng.wire import grammar, verbs
from btrfs_backup_ng.wire.grammar import Verb
from btrfs_backup_ng.wire.verbs import VERBS
from tests.support import filesystems, ours
from tests.wire.hostile import HOSTILE, PRINT, Made

OUTER = ["dash", "bash", "ash", "fish", "tcsh", "zsh"]
NOBODY = 65534
INNER = ["dash", "bash", "busybox"]


@pytest.fixture(scope="module")
def shells(tmp_path_factory):
    """Make a directory for each kind of ``sh``, and a home without start files."""
    base = tmp_path_factory.mktemp("shells")
    for name in INNER:
        (base / name).mkdir()
        (base / name / "sh").symlink_to(shutil.which(name))
    (base / "busybox userland").mkdir()
    busybox = shutil.which("busybox") or "busybox"
    applets = base / "busybox userland"
    subprocess.run([busybox, "--install", "-s", applets], check=True)
    (base / "home").mkdir()
    return base


def outer_argv(shell, command):
    return (
        ["busybox", "ash", "-c", command] if shell == "ash" else [shell, "-c", command]
    )


def spoken(shells, outer, command, *, inner="", stdin=b""):
    """Let a login shell take a command, as sshd does."""
    path = f"{shells / inner}:{os.environ['PATH']}" if inner else os.environ["PATH"]
    return subprocess.run(
        outer_argv(outer, command),
        input=stdin,
        capture_output=True,
        env={"HOME": str(shells / "home"), "PATH": path, "USER": "root"},
        cwd=shells,
        timeout=60,
    )


def arrived(shells, outer, arguments, *, inner=""):
    words = [os.fsdecode(argument) for argument in arguments]
    command = PRINT.remote_command(("root", *words))
    assert command.isascii() and "\n" not in command
    done = spoken(shells, outer, command, inner=inner)
    assert (done.returncode, done.stderr) == (0, b"bbng2 0\n"), done
    return done.stdout.split(b"\0")[:-1]


@pytest.mark.parametrize("outer", OUTER)
def test_hostile_arguments_arrive_through_every_login_shell(shells, outer):
    assert arrived(shells, outer, HOSTILE) == HOSTILE
    for argument in (b"", b"\n", b"-n", b"+", b"!", b"'\"\\", b"x" * 255):
        assert arrived(shells, outer, [argument]) == [argument]
    assert arrived(shells, outer, []) == []


@pytest.mark.parametrize("inner", [*INNER, "busybox userland"])
def test_hostile_arguments_arrive_in_every_sh(shells, inner):
    assert arrived(shells, "dash", HOSTILE, inner=inner) == HOSTILE


@pytest.mark.parametrize("outer", OUTER)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.binary(max_size=255).map(lambda raw: raw.replace(b"\0", b"")), max_size=20
    )
)
def test_any_bytes_arrive_through_every_login_shell(shells, outer, arguments):
    assert arrived(shells, outer, arguments) == arguments


@pytest.mark.parametrize("inner", INNER)
def test_here_the_same_arguments_arrive_as_they_are(shells, inner):
    argv = PRINT.local_argv(("root", *map(os.fsdecode, HOSTILE)))
    path = f"{shells / inner}:{os.environ['PATH']}"
    done = subprocess.run(argv, capture_output=True, env={"PATH": path})
    assert done.stdout.split(b"\0")[:-1] == HOSTILE
    assert done.stderr == b"bbng2 0\n"


@pytest.mark.parametrize("outer", OUTER)
def test_a_stream_on_stdin_is_passed_on_byte_by_byte(shells, outer):
    """No shell on the way may read ahead."""
    stream = b"exit 7\n'" + bytes(range(256)) * 2000
    copy = Made("copy", "cat; finish 0")
    done = spoken(shells, outer, copy.remote_command(("root", "x")), stdin=stream)
    assert done.stdout == stream


@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("status", [0, 1, 66, 75, 255])
def test_the_status_comes_through_every_login_shell(shells, outer, status):
    fail = Made("fail", 'printf "words\\n" >&2; finish "$1"')
    done = spoken(shells, outer, fail.remote_command(("root", str(status))))
    assert done.returncode == status
    assert done.stderr == f"words\nbbng2 {status}\n".encode()


# The rules that make this so.


def bodies():
    return [pytest.param(verb, id=verb.name) for verb in VERBS]


@pytest.mark.parametrize("verb", bodies())
def test_a_command_holds_nothing_that_a_login_shell_gives_a_meaning(verb):
    words = r"( \+[A-Za-z0-9_./:,@+-]*)+"
    for token in ("", "0" * 16):
        command = verb.remote_command(("root", "a b"), token=token)
        name = "elevate" if token else verb.name
        form = rf"exec sh -c '([^']*)' bbng2 {name}{words} \+root \+a\+0040b"
        decoder = re.fullmatch(form, command)
        assert decoder
        assert decoder[1].isascii() and decoder[1].isprintable()
        for sign in ("'", "\n", "!", "\\\\", "\\'", '\\"'):
            assert sign not in decoder[1], sign


@pytest.mark.parametrize(
    "verb",
    [
        *bodies(),
        pytest.param(Verb("elevate")),
    ],
)
@pytest.mark.parametrize(
    "shell",
    [
        ["dash"],
        ["bash"],
        ["busybox", "sh"],
        ["zsh"],
    ],
)
def test_a_script_is_good_shell(verb, shell):
    argv = [*shell, "-n", "-c", verb.script]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_every_verb_has_a_name_of_its_own_and_a_file_and_the_list_is_complete():
    names = [verb.name for verb in VERBS]
    assert len(set(names)) == len(names)
    folder = Path(grammar.__file__).parent / "verbs"
    libraries = {
        "common",
        "elevate",
        *(lib for verb in VERBS for lib in verb.libraries),
    }
    assert {path.stem for path in folder.iterdir()} == {*names, *libraries}


LONG_PATH = "/srv/" + "Größe und Länge/" * 60  # 1,145 bytes
LONG_NAME = "пк-" * 20 + "20261123-101500+0200_1"
ID = "20261123T101500Z-0123abcd-0123456789abcdef-0123456789abcdef"
CHECKPOINT = f".seal-00000000001073741824-{LONG_NAME}"
FILTER = filter_words(2**40, "0123abcd", (2**60, bytes(16)))
LONGEST = {
    "hello": ["0" * 16, LONG_PATH, LONG_PATH],
    "keep": ["0" * 16],
    "loop": [grammar.DECODE, grammar.RUN_DECODED],
    "prepare": [LONG_PATH, "subvolume"],
    "lock": [LONG_PATH, "86400", "x" * 1000, "subvolume", LONG_PATH],
    "held": [LONG_PATH],
    "list": [LONG_PATH, LONG_PATH, "holds.json"],
    "times": [LONG_PATH, LONG_NAME],
    "space": [LONG_PATH, "10"],
    "items": [LONG_PATH, *["123456"] * 500],
    "put": [LONG_PATH, "holds.json"],
    "aside": [LONG_PATH, "holds.json", "holds.json.unreadable-20261123T101500Z"],
    "snapshot": [LONG_PATH, LONG_PATH, LONG_NAME, LONG_PATH, "fresh", ID],
    "send": [
        *("2", LONG_PATH + LONG_NAME, LONG_PATH + LONG_NAME, "zstd:19"),
        *(portable(), *FILTER),
    ],
    "receive": [LONG_PATH, ID, LONG_NAME, "zstd:19", *[CHECKPOINT] * 100],
    "publish": [*(LONG_PATH, ID, LONG_NAME, LONG_PATH, LONG_NAME, "1"), CHECKPOINT],
    "discard": [LONG_PATH, "unsealed", *[ID] * 500],
    "reap": [LONG_PATH, ID, LONG_NAME],
    "waiting": [LONG_PATH, *[ID] * 500],
    "preview": [LONG_PATH, LONG_PATH, ID, LONG_NAME],
    "delete": [LONG_PATH],
    "unseal": [LONG_PATH, *[LONG_NAME] * 100],
    "children": [LONG_PATH],
    "relatives": [LONG_PATH],
    "reach": [LONG_PATH, LONG_PATH, *["123456"] * 20],
    "remove": [LONG_PATH, str(2**63)],
    "sync": [LONG_PATH],
    "size": [LONG_PATH + LONG_NAME, str(2**63)],
    "sink": [],
    "wait": [],
    "versions": [],
    "digests": [],
    "links": [],
    "content": [LONG_PATH + LONG_NAME],
    "writable": [*(LONG_PATH, ID, LONG_NAME, LONG_PATH, LONG_NAME, "1"), CHECKPOINT],
    "tidy": [LONG_PATH],
    "around": [LONG_PATH, LONG_PATH],
    "stat": [LONG_PATH],
    "sizes": [LONG_PATH],
    "tar": [],
    "stage": [LONG_PATH, LONG_NAME],
    "copy": [LONG_PATH, LONG_PATH, *[LONG_NAME] * 100],
    "pack": [LONG_PATH, str(2**63)],
    "unpack": [LONG_PATH],
    "drop": [LONG_PATH, "directories"],
    "place": [LONG_PATH, LONG_PATH, LONG_PATH],
    "clear": [LONG_PATH, LONG_NAME],
    "hash": [LONG_PATH + LONG_NAME, "xattrs"],
}


@pytest.mark.parametrize("verb", bodies())
def test_a_command_stays_below_128_kib(verb):
    """What one argument may be long in Linux: MAX_ARG_STRLEN."""
    words = ("sudo", *LONGEST[verb.name])
    command = verb.remote_command(words, token="0" * 16)
    assert len(command) < 120 * 1024


def test_names_are_cut_into_commands_that_fit():
    names = [f"{'ü' * 115}20261123-101500+0200_{number}" for number in range(500)]
    lots = list(batches(names))
    assert [name for batch in lots for name in batch] == names
    for batch in lots:
        command = verbs.UNSEAL.remote_command(("sudo", "/backup", *batch))
        assert len(command) < 120 * 1024
    assert len(list(batches(["short"] * 500))) == 1


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("verb", bodies())
def test_the_status_line_is_the_last_on_stderr(shells, tmp_path, verb, inner):
    """Also where nothing is as the verb wants it."""
    arguments = {
        "hello": ["nonce", f"{tmp_path}/no", ""],
        "prepare": [f"{tmp_path}/no/no", "directory", ""],
        "lock": [f"{tmp_path}/no/no", "0", "me", "directory", ""],
        "items": [f"{tmp_path}/no", "5"],
        "snapshot": ["/no", f"{tmp_path}/f", "n", "/proc/no", "keep", ID],
        "send": ["2", "/no", "/no/no", "none", ""],
        "place": [f"{tmp_path}/no", "n", f"{tmp_path}/no"],
        "receive": [f"{tmp_path}/s", ID, "n", "zstd:3"],
        "publish": [f"{tmp_path}/no", ID, "n", f"{tmp_path}/no", "n", "1"],
        "discard": [f"{tmp_path}/no", "all", ID],
        "reap": [f"{tmp_path}/no", ID, "n"],
        "waiting": [f"{tmp_path}/no", ID],
        "preview": [f"{tmp_path}/no", f"{tmp_path}/no", ID, "n"],
        "writable": [f"{tmp_path}/no", ID, "n", f"{tmp_path}/no", "n", "1"],
        "put": [f"{tmp_path}/no", "f"],
        "aside": [f"{tmp_path}/no", "f", "g"],
    }.get(verb.name, [f"{tmp_path}/no", "n"])
    command = verb.remote_command(("root", *arguments))
    done = spoken(shells, "bash", command, inner=inner)
    *_, last = done.stderr.split(b"\n")[:-1]
    assert done.stderr.endswith(b"\n") and last == b"bbng2 %d" % done.returncode
    lenient = {"hello", "held", "discard", "reap", "waiting", "sink", "wait"}
    lenient |= {"versions", "digests", "links", "tidy", "around", "tar", "loop"}
    if verb.name not in lenient:
        assert done.returncode != 0


# What is read here without a process and there by text must be the same.


class Straight(SSHMasterManager):
    """A connection to a login shell of this machine, without ssh."""

    name = by_hand = "there"

    def __init__(self, outer: str, *, user: int = 0) -> None:
        self.sessions = Sessions()
        self._outer = outer
        self._before = ("setpriv", f"--reuid={user}", "--clear-groups") if user else ()

    def ensure(self) -> bool:
        """Do nothing: there is nothing to lose."""
        return False

    def command(self, remote: str) -> tuple[str, ...]:
        """Return the argv that runs one string in that login shell."""
        return (*self._before, *outer_argv(self._outer, remote))


HERE = LocalHost()
#: outer login shell, what ``sh`` is
THERE = [
    ("dash", "dash"),
    ("tcsh", "busybox"),
    ("zsh", "bash"),
    ("fish", "busybox userland"),
]


@pytest.fixture(params=THERE, ids=lambda pair: " ".join(pair).replace(" ", "-"))
def there(request, shells, monkeypatch):
    """Return a host that is reached through a login shell."""
    outer, inner = request.param
    monkeypatch.setenv("PATH", f"{shells / inner}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(shells / "home"))
    with closing(SshHost(Straight(outer), forced_sudo=False)) as host:
        yield host


NAMES = [
    b"plain",
    b"with space",
    b" ",
    b"new\nline",
    b"\n",
    b"ends\n",
    b"\nbegins",
    b"tab\t",
    b"quote'\"",
    b"back\\slash\\",
    b"$(id)`id`",
    b"-rf",
    b"--",
    b"*",
    b"?[a]*",
    b".hidden",
    b"..dots",
    b"...",
    b"\xff\xfe",
    b"gr\xc3\xb6\xc3\x9fe",
    b"\x1b[31m",
    b"x path y",
    b"path ",
    b"x\nID 999 gen 1 top level 5 path y",
    b"x\nID 999 gen 9 cgen 9 top level 5 parent_uuid - received_uuid - uuid"
    b" 11111111-1111-1111-1111-111111111111 path d",
    b"n" * 255,
]


def btrfs_command(*argv):
    done = subprocess.run(
        ["btrfs", "-q", *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, (argv, done.stdout)


def snapshot(source, target, *flags):
    btrfs_command("subvolume", "snapshot", *(flags or ["-r"]), source, target)


def break_seal(path):
    """Change one byte of a read-only subvolume, which breaks its seal."""
    btrfs_command("property", "set", "-f", "-ts", path, "ro", "false")
    Path(path, "tampered").write_text("x")
    btrfs_command("property", "set", "-f", "-ts", path, "ro", "true")


def received(source, directory):
    """Let btrfs receive a snapshot into a directory, as other tools do."""
    stream = subprocess.run(["btrfs", "send", "-q", source], stdout=subprocess.PIPE)
    argv = ["btrfs", "receive", "-q", directory]
    subprocess.run(argv, input=stream.stdout, check=True)


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """Return a filesystem with directories full of snapshots of all kinds."""
    base = tmp_path_factory.mktemp("disk")
    with filesystems.btrfs_filesystem(base, size="1G") as disk:
        home = disk.subvolume("home")
        (home / "file").write_text("content")
        disk.sync()
        for name in ("backups", "home/sub dir", "many", "empty", "outbox"):
            (disk.path / name).mkdir()
        snapshot(home, disk.path / "outbox" / "received")
        _fill(disk, disk.path / "backups")
        disk.subvolume("subvolume")
        _fill(disk, disk.path / "subvolume")
        for name in ("nested", "sub dir/ne sted", "sub dir/new\nline\n", ".cache"):
            disk.subvolume(f"home/{name}")
        disk.subvolume("hostile\nname\n")
        (disk.path / "hostile\nname\n" / "dir\n").mkdir()
        snapshot(home, disk.path / "hostile\nname\n" / "dir\n" / "s\n")
        disk.subvolume("hostile\nname\n/in\nner")
        disk.subvolume("hostile\nname\n/last\n")
        for number in range(300):
            snapshot(home, disk.path / "many" / f"home-20260101-{number:06}")
        disk.sync()
        yield disk


def _fill(disk, directory):
    for raw in NAMES:
        snapshot(disk.path / "home", os.path.join(os.fsencode(directory), raw))
    snapshot(disk.path / "home", directory / "writable", "--")
    received(disk.path / "outbox" / "received", directory)
    for name in ("published", "published twice", "tampered copy"):
        snapshot(directory / "received", directory / name)
    snapshot(disk.path / "home", directory / "tampered")
    disk.sync()
    break_seal(directory / "tampered")
    break_seal(directory / "tampered copy")
    snapshot(directory / "published", directory / "used as base", "--")
    (directory / "directory").mkdir()
    (directory / "file\n").write_text("x")
    (directory / "link").symlink_to("plain")
    (directory / "dangling").symlink_to("nowhere")
    os.mkfifo(directory / "fifo")


def same_listing(there, directory):
    """Compare what both hosts see; give what they agree on."""
    directory = os.fsdecode(os.fspath(directory))
    mine, my_holds = HERE.listing(directory, "/nowhere", "file")
    yours, your_holds = there.listing(directory, "/nowhere", "file")
    assert yours.names == mine.names and your_holds == my_holds
    assert {k: sorted(v) for k, v in yours.carriers.items()} == {
        k: sorted(v) for k, v in mine.carriers.items()
    }
    expected = {s.name: s for s in mine.snapshots}
    found = {s.name: s for s in yours.snapshots}
    assert set(found) == set(expected)
    for name, one in expected.items():
        other = found[name]
        for field in ("uuid", "parent_uuid", "received_uuid", "origin", "generation"):
            assert getattr(other, field) == getattr(one, field), (name, field)
        tree_id = subvolume_id(os.path.join(directory, name))
        assert HERE.look_closely(directory, [tree_id]) is one.integrity, name
        if other.integrity is Integrity.UNKNOWN:
            assert there.look_closely(directory, [tree_id]) is one.integrity, name
        else:
            assert other.integrity is one.integrity, name
    return expected


def subvolume_id(path):
    with ioctl.opened_directory(path) as descriptor:
        return ioctl.subvolume_info(descriptor).tree_id


#: the names in a directory that _fill filled which are read-only snapshots
SNAPSHOTS = {os.fsdecode(name) for name in NAMES} | {
    "received",
    "published",
    "published twice",
    "tampered",
    "tampered copy",
}


@pytest.mark.btrfs
@pytest.mark.parametrize("name", ["backups", "subvolume"])
def test_a_listing_is_the_same_there_as_here(disk, there, name):
    found = same_listing(there, disk.path / name)
    assert set(found) == SNAPSHOTS
    broken = {name for name, one in found.items() if one.integrity is Integrity.CHANGED}
    assert broken == {"tampered", "tampered copy"}
    assert found["published"].origin == found["received"].origin


@pytest.mark.btrfs
@pytest.mark.parametrize(
    "name", ["", "empty", "home", "home/sub dir", "hostile\nname\n/dir\n", "outbox"]
)
def test_a_listing_of_any_directory_is_the_same_there_as_here(disk, there, name):
    same_listing(there, disk.path / name)


@pytest.mark.btrfs
def test_three_hundred_snapshots_are_listed_the_same_there_as_here(disk, there):
    assert len(same_listing(there, disk.path / "many")) == 300


@pytest.fixture(scope="module")
def mounts(disk, tmp_path_factory):
    """Show parts of the filesystem elsewhere: by subvolume, and by binding."""
    base = tmp_path_factory.mktemp("mounts")
    hostile = subvolume_id(disk.path / "hostile\nname\n")
    shown = {
        "subvol": (["-o", "subvol=subvolume"], disk.device),
        "hostile subvol": (
            ["-o", f"subvolid={hostile}"],
            disk.device,
        ),
        "bound directory": (["--bind"], disk.path / "backups"),
        "bound\nsubvolume": (["--bind"], disk.path / "subvolume"),
    }
    try:
        for name, (options, what) in shown.items():
            (base / name).mkdir()
            subprocess.run(["mount", *options, what, base / name], check=True)
        yield base
    finally:
        for name in shown:
            subprocess.run(["umount", base / name], stderr=subprocess.DEVNULL)


@pytest.mark.btrfs
@pytest.mark.parametrize("name", ["subvol", "bound directory", "bound\nsubvolume"])
def test_a_listing_through_another_mount_is_the_same(mounts, there, name):
    found = same_listing(there, mounts / name)
    assert set(found) == SNAPSHOTS
    same_listing(there, mounts / name / "directory")


@pytest.mark.btrfs
def test_a_listing_through_a_mount_of_a_hostile_name_is_the_same(mounts, there):
    same_listing(there, mounts / "hostile subvol")
    assert set(same_listing(there, mounts / "hostile subvol" / "dir\n")) == {"s\n"}


@pytest.mark.btrfs
def test_another_filesystem_mounted_over_a_name_is_no_snapshot(disk, there):
    place = disk.path / "empty" / "mounted over"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    try:
        assert same_listing(there, disk.path / "empty") == {}
    finally:
        subprocess.run(["umount", place], check=True)
        place.rmdir()


@pytest.mark.btrfs
def test_a_forged_record_is_not_believed_there_either(disk, there):
    """A directory that any user may make imitates a line of the list."""
    forged = (
        "x\nID 999 gen 9 cgen 9 top level 5 parent_uuid - received_uuid"
        " 11111111-1111-1111-1111-111111111111 uuid"
        " 22222222-2222-2222-2222-222222222222 path outbox"
    )
    directory = disk.path / forged
    victim = disk.path / "outbox" / "victim"
    directory.mkdir()
    try:
        victim.write_text("a plain file")
        snapshot(disk.path / "home", directory / "victim")
        assert set(same_listing(there, disk.path / "outbox")) == {"received"}
    finally:
        btrfs_command("subvolume", "delete", directory / "victim")
        directory.rmdir()
        victim.unlink()


@pytest.mark.btrfs
@pytest.mark.parametrize("content", [b"", b"{}", b"\0\n\xff" * 100, b"x" * 99999])
def test_a_file_of_our_bookkeeping_comes_with_the_listing(
    disk, there, tmp_path, content
):
    (tmp_path / "a file").write_bytes(content)
    _, found = HERE.listing(f"{disk.path}/empty", str(tmp_path), "a file")
    assert found == (content,)
    _, found = there.listing(f"{disk.path}/empty", str(tmp_path), "a file")
    assert found == (content.replace(b"\0", b"\1"),), "NUL ends each"


@pytest.mark.btrfs
def test_several_files_come_with_the_listing(disk, there, tmp_path):
    (tmp_path / "a file").write_bytes(b"{}")
    (tmp_path / "empty").touch()
    for host in (HERE, there):
        names = ("a file", "none", "empty")
        _, found = host.listing(f"{disk.path}/empty", str(tmp_path), *names)
        assert found == (b"{}", None, b"")


@pytest.mark.btrfs
def test_what_is_no_file_is_not_taken_for_no_file(disk, there, tmp_path):
    (tmp_path / "a link").symlink_to("nowhere")
    (tmp_path / "a directory").mkdir()
    os.mkfifo(tmp_path / "a pipe")
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 1 << 40)
    (tmp_path / "after").write_bytes(b"{}")
    for host in (HERE, there):
        names = ("a link", "a directory", "a pipe", "large", "none", "after")
        _, found = host.listing(f"{disk.path}/empty", str(tmp_path), *names)
        assert found == (LINK, DIRECTORY, SPECIAL, TOO_LARGE, None, b"{}")


@pytest.mark.btrfs
def test_a_failed_listing_is_not_an_empty_one(disk, there, tmp_path):
    for host in (HERE, there):
        for path in (tmp_path, disk.path / "home" / "file", disk.path / "none"):
            with pytest.raises(ListingFailed):
                host.listing(str(path), "/nowhere", "file")


def same_facts(there, directory, folder=""):
    """Compare what both hosts find out; give what they agree on."""
    directory = os.fspath(directory)
    mine = HERE.look(directory, folder=os.fspath(folder))
    yours = there.look(directory, folder=os.fspath(folder))
    for field in ("size_used", "size_free"):
        assert abs(getattr(mine, field) - getattr(yours, field)) < 64 * MIB
    # the name of a filesystem is for people: "ext2/ext3" by statfs(2), ext4 by mount
    apart: Any = {"size_used": 0, "size_free": 0, "filesystem_type": ""}
    apart["clock_ahead_s"] = None  # of another machine only
    one, other = (
        # disks of tests beside this one come and go
        replace(
            facts,
            **apart,
            mounts=[m for m in facts.mounts if not ours.is_of_another(m)],
        )
        for facts in (yours, mine)
    )
    assert one == other
    return yours


@pytest.mark.btrfs
def test_facts_of_a_source_are_the_same_there_as_here(disk, there):
    facts = same_facts(there, disk.path / "home", disk.path / "home/.btrfs/none/yet")
    assert facts.is_subvolume and facts.uuid and facts.is_writable
    assert facts.nested == (
        ".cache",
        "nested",
        "sub dir/ne sted",
        "sub dir/new\nline\n",
    )
    assert is_same_filesystem(facts.folder_filesystem, facts.filesystem)
    assert facts.containing == str(disk.path / "home")


@pytest.mark.btrfs
@pytest.mark.parametrize(
    "name",
    ["", "backups", "empty", "subvolume", "home/sub dir", "many/home-20260101-000000"]
    + ["hostile\nname\n", "hostile\nname\n/dir\n", "subvolume/published", "home/file"]
    + ["none", "backups/link", "backups/dangling", "backups/fifo", "none/none"],
)
def test_facts_of_any_place_are_the_same_there_as_here(disk, there, name):
    same_facts(there, disk.path / name)


@pytest.mark.btrfs
def test_facts_of_a_hostile_source_are_the_same_there_as_here(disk, there):
    facts = same_facts(there, disk.path / "hostile\nname\n", disk.path / "empty")
    assert facts.nested == ("dir\n/s\n", "in\nner", "last\n")


@pytest.mark.btrfs
@pytest.mark.parametrize(
    "name", ["subvol", "hostile subvol", "bound directory", "bound\nsubvolume"]
)
def test_facts_through_another_mount_are_the_same(mounts, there, name):
    same_facts(there, mounts / name, mounts / name / "folder")


@pytest.mark.parametrize("path", ["/proc", "/sys", "/dev", "/", "/dev/null", "/tmp"])
def test_facts_of_what_is_not_btrfs_are_the_same_there_as_here(there, path):
    facts = same_facts(there, path)
    assert not facts.is_btrfs
    if facts.is_directory:  # as it is the object of a message
        assert facts.filesystem_type not in ("", "UNKNOWN")


@pytest.mark.btrfs
def test_our_bookkeeping_is_found_the_same_there_as_here(disk, there):
    state = disk.path / "home" / "sub dir" / ".btrfs-backup-ng"
    (state / "incoming" / ID).mkdir(parents=True)
    try:
        facts = same_facts(there, state.parent)
        assert facts.has_state and facts.leftovers == (ID,)
    finally:
        shutil.rmtree(state)


def test_a_lock_is_seen_the_same_there_as_here(there, tmp_path):
    state = tmp_path / "a state"
    for host in (HERE, there):
        assert host.held(str(state)) is None
    assert not state.exists(), "looking makes nothing"
    state.mkdir()
    for how, held in ((fcntl.LOCK_EX, True), (fcntl.LOCK_SH, False)):
        descriptor = os.open(state, os.O_RDONLY)
        fcntl.flock(descriptor, how)
        for words in ("", "who\n\n it is\n"):
            for host in (HERE, there):
                assert host.held(str(state)) == (words if held else None)
            (state / "holder").write_text("who\n\n it is\n")
        os.close(descriptor)
        (state / "holder").unlink()
    for host in (HERE, there):
        assert host.held(str(state)) is None
    assert os.listdir(state) == []


@pytest.mark.parametrize("does_end", [True, False])
@pytest.mark.parametrize("inner", INNER)
def test_the_end_of_a_holder_may_come_behind_its_last_sign(
    shells, tmp_path, inner, does_end
):
    beat, holder = tmp_path / "beat", os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    beat.write_text("1 1\n")
    (tmp_path / "holder").write_text("it")
    command = verbs.LOCK.remote_command(("root", str(tmp_path), "0", "me"))
    path = f"{shells / inner}:{os.environ['PATH']}"
    with subprocess.Popen(
        outer_argv("dash", command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": path},
    ) as process:
        assert process.stderr
        try:
            for _ in range(2):  # one before each look
                assert process.stderr.readline() == b"bbng2 working\n"
            with open(beat, "r+b") as file:  # in place
                file.write(b"1 2\n")
            for _ in range(2):
                assert process.stderr.readline() == b"bbng2 working\n"
            if does_end:
                os.close(holder)
            answer, _ = process.communicate(b"\n", timeout=60)
        finally:
            process.kill()
    if does_end:
        assert answer == b"locked\n"
    else:
        assert (answer, process.returncode) == (b"busy\nit", grammar.BUSY)
        os.close(holder)


def test_who_may_not_see_a_lock_does_not_take_it_for_free(shells):
    """Nor for held: nothing is known."""
    directory = ours.public_directory()
    try:
        state = directory / "state"
        state.mkdir()
        for outer in OUTER:
            host = SshHost(Straight(outer, user=65534), forced_sudo=False)
            with closing(host) as there:
                state.chmod(0o755)
                assert there.held(str(state)) is None
                state.chmod(0o700)
                with pytest.raises(BackupError):
                    there.held(str(state))
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def read_only_disk(btrfs):
    """Return a filesystem that nobody can write; made before PATH is changed."""
    disk = btrfs(size="256M")
    disk.remount("ro")
    return disk


def test_a_filesystem_that_is_mounted_read_only_is_not_writable(read_only_disk, there):
    assert not same_facts(there, read_only_disk.path).is_writable


@pytest.mark.btrfs
def test_a_directory_that_may_not_be_entered_is_not_an_empty_one(disk, shells):
    """The user there may run btrfs by sudo, and nothing else."""
    closed = disk.path / "closed"
    (closed / "snapshots").mkdir(parents=True)
    closed.chmod(0o700)
    try:
        for outer in OUTER:
            host = SshHost(Straight(outer, user=65534), forced_sudo=False)
            with closing(host) as there:
                for path in (closed, closed / "snapshots"):
                    with pytest.raises(ListingFailed):
                        there.listing(str(path), "/nowhere", "file")
    finally:
        shutil.rmtree(closed)


# One file in many snapshots.


def test_what_a_path_is_and_holds_is_told_whatever_its_name(there, tmp_path):
    folders = [tmp_path / os.fsdecode(name) for name in NAMES]
    for number, folder in enumerate(folders):
        folder.mkdir()
        if number % 3:
            os.symlink(b"a\nb" * number, folder / "link\n")
            (folder / "file\r\n").write_bytes(b"%d" % number)
            os.utime(folder / "file\r\n", ns=(0, 10**18 + number))
    (tmp_path / "loop").symlink_to("loop")
    paths = [
        f"{folder}/{name}" for folder in folders for name in ("file\r\n", "link\n")
    ]
    paths += [f"{paths[2]}/below a file", f"{tmp_path}/loop/x", str(tmp_path)]

    def ask(verb, wanted):
        return there.call(verb, stdin=wire_versions.listed(wanted)).stdout

    found = wire_versions.parse_stats(ask(verbs.STATS, paths), paths)
    there_are = [path for path in paths if os.path.lexists(path)]
    assert 0 < len(there_are) < len(paths) - 2
    for path, status in zip(paths, found, strict=True):
        assert (status is None) == (path not in there_are)
        if status:
            real = os.lstat(path)
            assert (status.mode, status.size) == (real.st_mode, real.st_size)
            assert status.modified == int(real.st_mtime)
    stamps = {status.stamps for status in found if status}
    assert len(stamps) == len(there_are)
    files = [path for path in there_are if path.endswith("\r\n")]
    asked = [*files[:3], f"{tmp_path}/gone", *files[3:]]
    digests = wire_versions.parse_digests(ask(verbs.DIGESTS, asked), asked)
    assert digests.pop(3) is None
    contents = [Path(path).read_bytes() for path in files]
    assert digests == [hashlib.sha256(content).hexdigest() for content in contents]
    links = [path for path in there_are if path.endswith("link\n")]
    sizes = [os.lstat(link).st_size for link in links]
    targets = wire_versions.parse_links(ask(verbs.LINKS, links), sizes)
    assert targets == [os.readlink(link) for link in links]
    assert there.call(verbs.CONTENT, files[1]).stdout == b"2"


def test_what_may_not_be_seen_is_not_taken_for_absent(shells, monkeypatch):
    monkeypatch.setenv("HOME", str(shells / "home"))
    folder = ours.public_directory()
    try:
        (folder / "closed").mkdir(mode=0o700)
        paths = [str(folder / "no"), str(folder / "closed" / "file")]
        stdin = wire_versions.listed(paths)
        with closing(SshHost(Straight("dash", user=NOBODY))) as host:
            answer = host.call(verbs.STATS, stdin=stdin).stdout
    finally:
        shutil.rmtree(folder)
    with pytest.raises(wire_versions.Unclear, match="Permission denied"):
        wire_versions.parse_stats(answer, paths)
    for cut in (b"", answer[:-1], b"x" + answer):
        with pytest.raises(wire_versions.Unclear):
            wire_versions.parse_stats(cut, paths)
