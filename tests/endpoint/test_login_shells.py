"""The whole contract of a place behind ssh, in every login shell, by every privilege.

And of one on this machine: by its own code, and by the scripts that others run.

One account and one connection for each combination. The steps come one after the
other, and each goes on from what the earlier ones left.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from btrfs_backup_ng.__util__ import KIB, MIB, BackupError, Refused
from btrfs_backup_ng.core import codecs
from btrfs_backup_ng.core.location import Location, Scheme
from btrfs_backup_ng.core.model import (
    Facts,
    Integrity,
    Listing,
    Privilege,
    Snapshot,
    SshOptions,
    TransferOptions,
)
from btrfs_backup_ng.core.plan import Transfer, WhyFull
from btrfs_backup_ng.core.value import replace
from btrfs_backup_ng.endpoint import staging
from btrfs_backup_ng.endpoint.btrfs import btrfs_place
from btrfs_backup_ng.endpoint.common import (
    Endpoint,
    NameTaken,
    WrongArrival,
    new_transfer_id,
)
from btrfs_backup_ng.endpoint.local import local_place
from btrfs_backup_ng.endpoint.ssh import Connections, ssh_place
from btrfs_backup_ng.host.common import LockHeld
from btrfs_backup_ng.host.local import LocalHost
from btrfs_backup_ng.process.child import PIPE, Child, run
from btrfs_backup_ng.process.command import Command, CommandFailed, Completed
from btrfs_backup_ng.process.pipeline import run_pipeline
from btrfs_backup_ng.process.relay import Meter
from btrfs_backup_ng.sendstream.filter import filter_argv, filter_words
from btrfs_backup_ng.transfer.attempt import Attempt
from btrfs_backup_ng.transfer.route import Route
from btrfs_backup_ng.transfer.size import (
    quick_stream_size,
    stream_size,
    temporary_snapshot,
    written_since,
)
from btrfs_backup_ng.wire.grammar import Verb
from tests.support import accounts, filesystems, ours, places, processes, trees
from tests.support.places import FOLDER
from tests.support.sshd import Sshd
from tests.wire.hostile import HOSTILE, PRINT, Made

SHELLS = ["dash", "bash", "ash", "fish", "tcsh", "zsh"]
PASSWORD = " it's: $(id) \\"
#: How a user there comes to run btrfs as root -> what the account needs for it.
ACCOUNTS: dict[str, dict[str, Any]] = {
    "root": {"superuser": True},
    "sudo": {"sudoers": accounts.SUDO_ALL},
    "sudo-btrfs": {"sudoers": accounts.SUDO_BTRFS},
    "sudo-password": {"sudoers": accounts.SUDO_PASSWORD, "password": PASSWORD},
    "doas": {"doas": accounts.DOAS},
}
#: The same -> what the first look finds.
FOUND = {
    "root": Privilege.ROOT,
    "sudo": Privilege.SUDO,
    "sudo-btrfs": Privilege.SUDO,
    "sudo-password": Privilege.ROOT,  # the whole of a verb runs as root
    "doas": Privilege.DOAS,
}
#: Unlike shells, and unlike ways to run btrfs as root; every shell with every way if
#: ``BBNG_EVERY_PAIR`` is set. All ways come to a shell in one form, by one decoder:
#: that is tried in each shell, whole backups in more (test_contract).
PAIRS = [
    ("dash", "root"),
    ("bash", "sudo-btrfs"),
    ("fish", "sudo-password"),
    ("tcsh", "doas"),
]
if "BBNG_EVERY_PAIR" in os.environ:
    PAIRS = list(itertools.product(SHELLS, FOUND))


def assert_login_shell(sshd: Sshd, user: accounts.Account) -> None:
    """Make sure that the shell there is the one that is meant."""
    done = sshd.ssh("sh -c 'readlink /proc/$PPID/exe'; true", user=user.name)
    expected = os.path.realpath(pwd.getpwnam(user.name).pw_shell)
    assert done.stdout.splitlines() == [expected], done


def options_for(sshd: Sshd, **more: Any) -> SshOptions:
    """Return the options that lead to the server of the tests."""
    return SshOptions(options=tuple(sshd.ssh_options), **more)


def at(sshd: Sshd, user: accounts.Account, path: Path | str) -> Location:
    """Name a directory there."""
    return Location(Scheme.SSH, os.fspath(path), host=sshd.host, user=user.name)


# Arguments, byte by byte.

#: Like :data:`PRINT`, but by a program that has the privilege.
PRINT_AS_ROOT = Made("print", '$root printf "%s\\0" "$@"; finish 0')

#: Tells in which sessions the script runs: whose child its parent is.
PARENT = Made(
    "parent",
    'read -r _ _ _ parent _ <"/proc/$PPID/stat"; cat "/proc/$parent/comm"; finish 0',
)

MANY = [
    *(bytes((byte,)) for byte in range(1, 256)),
    *HOSTILE,
    *(b"\\" * length for length in range(2, 9)),
    *(b"x\\" * length + b"'" for length in range(1, 5)),
    *(before + b"\n" for before in (b"\\", b"!", b"'", b"x\r", b"\xff", b"-n")),
    *(b"+0101", b"+0", b"+01", b"\\0101", b"!x", b"$(id)`id`", b"%00", b"~/x", b"*/*"),
    *(
        unit * 200
        for unit in (b"a", b"'", b"\n", b"\\", b"!", b"\x80", b"$(id)", b"* ")
    ),
]


@pytest.mark.parametrize("shell", SHELLS)
def test_hostile_arguments_come_back_byte_by_byte(sshd, account, shell):
    user = account(shell=shell)
    assert_login_shell(sshd, user)
    sshd.mark()
    with Connections() as connections:
        host = connections.host(at(sshd, user, "/"), options_for(sshd))
        assert come_back(host, PRINT, MANY) == MANY
        for argument in (b"", b" ", b"\n", b"!", b"\\", b"'", b"-n", b"\xff"):
            assert come_back(host, PRINT, [argument]) == [argument]
        assert come_back(host, PRINT, []) == []
        assert host.call(PARENT).stdout.startswith(b"sshd")  # no shell stays between
    assert sshd.connections() == 1


def come_back(host: Any, verb: Verb, arguments: list[bytes]) -> list[bytes]:
    """Let a verb tell what its arguments are there."""
    answer: bytes = host.call(verb, *map(os.fsdecode, arguments)).stdout
    return answer.split(b"\0")[:-1]


# The contract.

NOW = datetime(2026, 11, 23, 10, 15, tzinfo=timezone.utc)
NESTED = "nested '\n"
NOTE, OTHER_NOTE = "note '\n.json", "-note!\\"
#: In the path of each place.
WORD = os.fsdecode(b" it's \"$(id)` \\!~* +0101%s\\n\n \xff\\")
#: Of the snapshots, first and second.
NAMES = [os.fsdecode(b"-rf %s\n\\!'\"$(id)`\xff\\" % number) for number in (b"1", b"2")]
TO_DELETE = [
    *(" ", "\n", "ends\n", "'", '"', "\\", "\\\\", "!", "!!", "$(id)", "`id`", "$HOME"),
    *(
        "*",
        "?",
        "[a-z]",
        "~",
        "~root",
        "-",
        "--",
        "-rf",
        "--help",
        "%s%n",
        "+",
        "+0101",
    ),
    *("#", ";id", "&", "|", "<", ">", "=ls", "^", "{a,b}", "...", "x" * 255, "\udcff"),
]


@dataclass(frozen=True)
class Ends:
    """Both places there, each as seen through ssh and from here; and two places here.

    :ivar kept: what a step keeps for the later ones: snapshots, in their order.
    """

    kind: str
    user: accounts.Account
    source: Endpoint
    source_seen: Endpoint
    backups: Endpoint
    backups_seen: Endpoint
    own_source: Endpoint
    own_backups: Endpoint
    kept: dict[str, list[Snapshot]]

    @property
    def pairs(self) -> tuple[tuple[Endpoint, Endpoint], ...]:
        """Return the places there, each as seen from there and from here."""
        return (self.source, self.source_seen), (self.backups, self.backups_seen)


def path_of(place: Endpoint, name: str = "") -> Path:
    """Return the path of a place, or of a snapshot there."""
    return Path(place.directory, name) if name else Path(place.place.location.path)


def hand_over(path: Path, user: accounts.Account) -> None:
    """Make a file the user's, as it is where the user may run nothing but btrfs."""
    os.chown(path, user.uid, user.gid, follow_symlinks=False)


def seen_alike(seen: Endpoint, mine: Endpoint, privilege: Privilege) -> Facts:
    """Let both look, and compare what they find."""
    found, expected = seen.place.look(), mine.place.look()
    assert found.privilege is privilege
    for field in ("size_used", "size_free"):
        assert abs(getattr(found, field) - getattr(expected, field)) < 64 * MIB
    assert not found.trouble
    apart: Any = {"size_used": 0, "size_free": 0, "privilege": privilege}
    # Root here does not trust a state directory of the user there.
    apart |= {"trouble": "", "leftovers": found.leftovers}
    assert found.clock_ahead_s is not None and abs(found.clock_ahead_s) < 10
    apart["clock_ahead_s"] = None
    assert replace(found, **apart) == replace(expected, **apart)
    return found


def pass_arguments(scene: Ends) -> None:
    """Let them come back from what has the privilege, where it may be anything."""
    verb = PRINT if scene.kind == "sudo-btrfs" else PRINT_AS_ROOT
    assert come_back(scene.source.place.host, verb, HOSTILE) == HOSTILE


def look(scene: Ends) -> None:
    for seen, mine in scene.pairs:
        facts = seen_alike(seen, mine, FOUND[scene.kind])
        assert facts.is_btrfs and facts.is_writable and not facts.has_state
    assert scene.source.place.facts.nested == (NESTED,)
    assert scene.source.place.facts.uuid and not scene.source.place.facts.has_folder
    places.command("btrfs", "subvolume", "delete", path_of(scene.source) / NESTED)
    missing = scene.backups.place.location.join("no")
    nowhere = btrfs_place(missing, scene.backups.place.host, None).backups
    assert not nowhere.place.look().exists
    for own in (scene.own_source, scene.own_backups):
        own.place.look()
        with own.place.lock(0, "prepare", own.role):
            pass


def prepare(scene: Ends) -> None:
    for seen, mine in scene.pairs:
        for _ in range(2):
            with seen.place.lock(0, "prepare", seen.role):
                pass
        facts = seen_alike(seen, mine, FOUND[scene.kind])
        assert facts.has_state and facts.leftovers == ()
        status = os.stat(seen.place.state)
        owner = 0 if scene.kind == "sudo-password" else scene.user.uid
        assert (status.st_uid, status.st_mode & 0o7777) == (owner, 0o700)
    assert scene.source.place.facts.has_folder
    assert os.stat(scene.source.place.state).st_ino == 256  # a subvolume of its own
    assert os.stat(scene.backups.place.state).st_ino != 256


def is_roots(place: Endpoint) -> bool:
    """Tell whether root here may enter a state directory: it trusts no other user."""
    return os.stat(place.place.state).st_uid == 0


def lock(scene: Ends) -> None:
    for seen, mine in scene.pairs:
        line = WORD.replace("\n", " ")
        with seen.place.lock(0, line, seen.role) as say:
            processes.wait_until(lambda: held_by(seen) == line)
            if is_roots(seen):
                processes.wait_until(lambda: held_by(mine) == line)
            say(f"goes on {line}")
            processes.wait_until(lambda: held_by(seen) == f"goes on {line}")
        if is_roots(seen):
            with mine.place.lock(0, "this machine", mine.role):
                assert held_by(seen) == "this machine"
            assert held_by(mine) == ""
        else:  # root does not work in the state directory of another user
            with pytest.raises(Refused, match="belongs to the user"):
                held_by(mine)
        assert held_by(seen) == ""


def held_by(place: Endpoint) -> str:
    """Try to lock a place; tell who has it locked, or nothing if it was free."""
    try:
        with place.place.lock(0, "somebody else", place.role):
            return ""
    except LockHeld as error:
        return error.message


def note(scene: Ends) -> None:
    for seen, mine in scene.pairs:
        assert seen.listing(NOTE)[1][0] is None
        for content in (b"", b"{}", bytes(range(256)) * 300 + b"\n\n"):
            seen.place.write_record(NOTE, content)
            # A record has no NUL; one of a damaged record comes as another byte.
            assert seen.listing(NOTE)[1][0] == content.replace(b"\0", b"\1")
        seen.place.set_aside(NOTE, OTHER_NOTE)
        assert seen.listing(NOTE)[1][0] is None
        assert Path(seen.place.state, OTHER_NOTE).read_bytes() == content
        with pytest.raises(CommandFailed):
            seen.place.set_aside(NOTE, OTHER_NOTE)


def take_snapshot(scene: Ends) -> None:
    for source in (scene.source, scene.own_source):
        for name in NAMES:
            made = source.take_snapshot(name, NOW)
            shown = places.show(path_of(source, name))
            assert (str(made.uuid), made.generation) == (shown.uuid, shown.made)
            assert made.received_uuid is None and shown.received_uuid == "-"
            assert made.parent_uuid == source.place.facts.uuid and shown.read_only
            scene.kept[source.directory].append(made)
            (path_of(source) / WORD).write_text("second")
    before = os.listdir(scene.source.directory)
    with pytest.raises(NameTaken):
        scene.source.take_snapshot(NAMES[0], NOW)
    assert os.listdir(scene.source.directory) == before
    assert os.listdir(path_of(scene.source, NAMES[0])) != []


def tell_sizes(scene: Ends) -> None:
    first, second = scene.kept[scene.source.directory]
    for snapshot, since in ((None, first), (second, first), (second, None)):
        size = written_since(scene.source, snapshot, since)
        if is_roots(scene.source):
            assert size == written_since(scene.source_seen, snapshot, since)
    assert size >= 200_000  # all of it
    with pytest.raises(BackupError):
        written_since(scene.source, replace(first, name="no"), None)
    exact = stream_size(scene.source, second, first, "1")
    for beside in (False, True):
        ends = scene.source, second, first
        assert quick_stream_size(*ends, "1", is_beside=beside) == exact
    if is_roots(scene.source):
        assert exact == stream_size(scene.source_seen, second, first, "1")
    with temporary_snapshot(scene.source.place, "dry-run", NOW) as planned:
        assert planned and stream_size(scene.source, planned, second, "1") > 100
    assert not os.path.lexists(planned.name)


def transfer(scene: Ends, source: Endpoint, sink: Endpoint) -> None:
    """Move both snapshots of a source, and compare what arrived."""
    full, incremental = scene.kept[source.directory]
    work = [
        Transfer(full, None, full.name, WhyFull.FIRST),
        Transfer(incremental, full, incremental.name, None),
    ]
    options = TransferOptions(mbuffer=False)
    sizes = []
    interval = 64 * KIB
    for one, codec in zip(work, (codecs.NONE, "zstd:1"), strict=True):
        route = Route(source, sink, options, "1", codec)
        moved = Attempt(one, route, interval).run(Meter(), NOW)
        sizes.append(moved.size_bytes)
    assert sizes[0] > 200_000 > 50_000 > sizes[1]
    places.assert_copies(
        [path_of(source, name) for name in NAMES],
        [path_of(sink, name) for name in NAMES],
    )
    assert (path_of(sink, NAMES[1]) / WORD).read_text() == "second"
    assert places.staged(path_of(sink)) == []


def send_out(scene: Ends) -> None:
    transfer(scene, scene.source, scene.own_backups)


def receive_into(scene: Ends) -> None:
    transfer(scene, scene.own_source, scene.backups)


def pass_on_little(scene: Ends) -> None:
    """Move both snapshots by streams that are known to be short, and delete them."""
    full, incremental = scene.kept[scene.own_source.directory]
    route = Route(scene.own_source, scene.backups, TransferOptions(), "1", codecs.NONE)
    copies = ["short '1", "short\n2"]
    for one, parent, name in zip((full, incremental), (None, full), copies):
        transfer = Transfer(one, parent, name, None if parent else WhyFull.FIRST)
        Attempt(transfer, route, is_short=True).run(Meter(), NOW)
    for one, name in zip((full, incremental), copies):
        copy = path_of(scene.backups, name)
        here, there = map(trees.describe, (path_of(scene.own_source, one.name), copy))
        assert not trees.differences(here, there)
        shown = places.show(copy)
        assert shown.read_only and shown.received_uuid == str(one.uuid)
    assert places.staged(path_of(scene.backups)) == []
    found, _ = scene.backups.listing()
    short = [one for one in found.snapshots if one.name in copies]
    scene.backups.delete(short, convert_rw=False)


def end_a_receiver(scene: Ends) -> None:
    """Find a receiver whose program is gone, let it work, and end it."""
    first, backups = scene.kept[scene.own_source.directory][0], scene.backups
    stream = run(scene.own_source.send(first, None, "1", codecs.NONE)).stdout
    transfer_id = staging.full_id(new_transfer_id(NOW), first, None, "1")
    command = backups.receive(transfer_id, first, codecs.NONE, is_short=True)
    partial = Path(backups.place.state, "incoming", transfer_id, first.name)
    with Child(command, stdin=PIPE) as receiver:
        assert receiver.stdin
        receiver.stdin.write(stream[: len(stream) // 2])
        processes.wait_until(partial.exists)
        assert [one.running for one in backups.place.waiting([transfer_id])] == [True]
        assert backups.place.discard([transfer_id]) == (transfer_id,)
        assert backups.checkpoint(transfer_id, first) is None
        assert receiver.wait(30) == -signal.SIGKILL
    assert backups.place.discard([transfer_id]) == ()


def listing(scene: Ends) -> None:
    there = path_of(scene.backups)
    subvolume = ("btrfs", "-q", "subvolume")
    for name in TO_DELETE:
        places.command(
            *subvolume, "snapshot", "-r", path_of(scene.source), there / name
        )
    places.command(*subvolume, "snapshot", path_of(scene.source), there / "writable")
    places.command(*subvolume, "snapshot", "-r", there / NAMES[0], there / "tampered")
    places.tamper(there / "tampered")
    (there / "directory\n").mkdir()
    (there / "file\n").write_text("x")
    (there / "link").symlink_to(NAMES[0])
    places.command("btrfs", "filesystem", "sync", there)
    for seen, mine in scene.pairs:
        found = seen.listing(NOTE)[0]
        if not is_roots(seen):
            continue
        expected = mine.listing(NOTE)[0]
        assert found.names == expected.names
        assert carriers(found) == carriers(expected)
        assert facts_of(found) == facts_of(expected)
    names = [*NAMES, *TO_DELETE, "tampered"]
    assert sorted(s.name for s in found.snapshots) == sorted(names)
    ids = {s.name: s.tree_id for s in found.snapshots}
    intact = [ids[name] for name in (*NAMES, "\n")]
    assert scene.backups.look_closely(intact) is Integrity.INTACT
    assert scene.backups.look_closely([*intact, ids["tampered"]]) is Integrity.CHANGED


def carriers(seen: Listing) -> dict[str, list[int]]:
    """Tell who carries which received UUID."""
    return {str(uuid): sorted(ids) for uuid, ids in seen.carriers.items()}


def facts_of(seen: Listing) -> dict[str, Snapshot]:
    """Tell all of each snapshot that a listing tells here and there."""
    apart: Any = {"integrity": Integrity.UNKNOWN, "created": None, "otime": None}
    return {s.name: replace(s, **apart) for s in seen.snapshots}


def refuse_what_is_wrong(scene: Ends) -> None:
    first, second = scene.kept[scene.own_source.directory]
    backups, before = scene.backups, set(os.listdir(scene.backups.directory))
    ids = [new_transfer_id(NOW) for _ in range(3)]

    def receive(transfer_id: str, named: Snapshot) -> bytes:
        send = scene.own_source.send(first, None, "1", codecs.NONE)
        stages = (send, backups.receive(transfer_id, named, codecs.NONE))
        return run_pipeline(stages, meter=Meter(), stall_timeout_s=60).output

    def accept(transfer_id: str, snapshot: Snapshot, output: bytes, name: str) -> None:
        backups.publish(transfer_id, snapshot, name, output=output, verify=True)

    output = receive(ids[0], second)
    with pytest.raises(WrongArrival, match="the stream created "):  # another name
        accept(ids[0], second, output, "new")
    output = receive(ids[1], first)
    with pytest.raises(WrongArrival):  # it has another identity
        accept(ids[1], replace(first, uuid=uuid4()), output, "new")
    output = receive(ids[2], first)
    with pytest.raises(WrongArrival):  # it did not come alone
        accept(ids[2], first, output.replace(b"\0\0", b"\0more\0\0", 1), "new")
    for taken in (NAMES[0], "file\n", "link", "directory\n"):
        with pytest.raises(NameTaken):
            accept(ids[2], first, output, taken)
    assert set(os.listdir(backups.directory)) == before
    assert sorted(backups.place.look().leftovers) == sorted(ids)
    accept(ids[2], first, output, "new '\n")
    copy = path_of(backups, "new '\n")
    assert places.show(copy).read_only
    assert places.show(copy).received_uuid == str(first.uuid)
    assert sorted(backups.place.look().leftovers) == sorted(ids[:2])


def discard(scene: Ends) -> None:
    backups = scene.backups
    wrong = list(backups.place.look().leftovers)
    assert len(wrong) == 2
    incoming = Path(backups.place.state, "incoming")
    for transfer_id in wrong:
        # read-only, as it arrived; and what else may lie around
        (inside,) = places.subvolumes(incoming / transfer_id)
        assert places.show(inside).read_only
        places.command(
            *("btrfs", "-q", "subvolume", "snapshot", "-r", inside),
            incoming / transfer_id / ".-rf\n'",
        )
        for path in (inside.parent / "-d '\n", inside.parent / "-d '\n" / "*"):
            path.mkdir()
            hand_over(path, scene.user)
        (inside.parent / "link").symlink_to(path_of(backups, "directory\n"))
        (inside.parent / "dangling").symlink_to("nowhere")
    with unfinished(scene) as (running, partial):
        assert sorted(backups.place.look().leftovers) == sorted([*wrong, running])
        assert backups.place.discard([*wrong, running]) == (running,)
        assert partial.exists() and os.listdir(incoming) == [running]
        assert backups.place.discard([running, "../../nothing of ours"]) == (running,)
    assert backups.place.discard([running]) == () and os.listdir(incoming) == []
    assert backups.place.discard([running]) == ()
    assert path_of(backups, "directory\n").is_dir()


@contextlib.contextmanager
def unfinished(scene: Ends) -> Iterator[tuple[str, Path]]:
    """Begin to receive; give the id and the half of a snapshot; then break off."""
    first, _ = scene.kept[scene.own_source.directory]
    sender = scene.own_source.send(first, None, "1", codecs.NONE)
    stream = run(sender).stdout
    transfer_id = new_transfer_id(NOW)
    partial = Path(scene.backups.place.state, "incoming", transfer_id, first.name)
    command = scene.backups.receive(transfer_id, first, codecs.NONE)
    with subprocess.Popen(
        command.argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as receiver:
        assert receiver.stdin and receiver.stderr
        receiver.stdin.write(stream[: len(stream) // 2])
        receiver.stdin.flush()
        processes.wait_until(partial.exists)
        yield transfer_id, partial
        receiver.stdin.close()
        words = receiver.stderr.read()
    assert receiver.returncode == 1 and words.endswith(b"bbng2 1\n"), words


def go_on(scene: Ends) -> None:
    """Cut a transfer whose receiver stays, end that, and go on at the last seal."""
    source, backups = scene.own_source, scene.backups
    first, _ = scene.kept[source.directory]
    assert not backups.place.look().leftovers and backups.place.waiting([]) == ()
    interval = 16 * KIB
    cut_id = staging.full_id(new_transfer_id(NOW), first, None, "1")
    words = filter_words(interval, staging.chance_in(cut_id), None)
    packing = Command(filter_argv(words), label="the filter")
    stream = run(source.send(first, None, "1", codecs.NONE)).stdout
    stream = run(packing, stdin=stream).stdout
    command = backups.receive(cut_id, first, codecs.NONE)
    with subprocess.Popen(
        command.argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # its group is killed
    ) as receiver:
        assert receiver.stdin
        receiver.stdin.write(stream[: len(stream) * 2 // 3])
        receiver.stdin.flush()
        processes.wait_until(
            lambda: any(w.size_bytes for w in backups.place.waiting([cut_id]))
        )
        (waiting,) = backups.place.waiting([cut_id, "20000101T000000Z-00000000"])
        assert (waiting.name, waiting.running) == (first.name, True)
        assert backups.place.discard([cut_id], keep_sealed=True) == ()
        checkpoint = backups.checkpoint(cut_id, first)
        assert receiver.wait(30) != 0
        receiver.stdin.close()
    assert checkpoint and checkpoint.offset >= waiting.size_bytes > interval
    assert [w.running for w in backups.place.waiting([cut_id])] == [False]
    assert backups.place.look().leftovers == (cut_id,)
    name = "again '\n"
    options = TransferOptions(mbuffer=False)
    route = Route(source, backups, options, "1", codecs.NONE)
    again = Transfer(first, None, name, WhyFull.FIRST)
    moved = Attempt(again, route, interval, checkpoint).run(Meter(), NOW)
    assert moved.size_bytes < len(stream) - checkpoint.offset + interval
    copy = path_of(backups, name)
    assert places.show(copy).read_only
    assert places.show(copy).received_uuid == str(first.uuid)
    here, there = map(trees.describe, (path_of(source, first.name), copy))
    assert not trees.differences(here, there)
    assert not backups.place.look().leftovers
    assert backups.checkpoint(cut_id, first) is None
    backups.delete([named(backups, name)], convert_rw=False)


def named(place: Any, name: str) -> Snapshot:
    """Find a snapshot by its name."""
    listing: Listing = place.listing("none")[0]
    return next(one for one in listing.snapshots if one.name == name)


def delete(scene: Ends) -> None:
    backups = scene.backups
    kept = set(os.listdir(backups.directory)) - {*TO_DELETE}
    half = len(TO_DELETE) // 2
    found = {one.name: one for one in backups.listing("none")[0].snapshots}
    to_delete = [found[name] for name in TO_DELETE]
    backups.delete(to_delete[:half], convert_rw=False)
    assert set(os.listdir(backups.directory)) == kept | {*TO_DELETE[half:]}
    backups.delete(to_delete[half:], convert_rw=True)
    assert set(os.listdir(backups.directory)) == kept
    for convert_rw in (False, True):
        with pytest.raises(CommandFailed):
            backups.delete(to_delete[:1], convert_rw=convert_rw)
    assert set(os.listdir(backups.directory)) == kept


def sync(scene: Ends) -> None:
    for place in (scene.backups, scene.source):
        place.place.sync()
    deleted = ("btrfs", "subvolume", "list", "-d", path_of(scene.backups))
    assert places.command(*deleted) == ""


def take_a_snapshot_of_what_was_received(scene: Ends) -> None:
    """Make a backup writable, as it is done wrongly, and begin again from there."""
    restored = path_of(scene.backups, "restored '\n\\")
    copy = path_of(scene.backups, NAMES[0])
    places.command("btrfs", "-q", "subvolume", "snapshot", "-r", copy, restored)
    places.set_read_only(restored, False)
    hand_over(restored, scene.user)
    location = replace(scene.backups.place.location, path=str(restored))
    source = btrfs_place(location, scene.backups.place.host, FOLDER).snapshots
    assert source.place.look().received_uuid
    with source.place.lock(0, "prepare", source.role):
        pass
    made = source.take_snapshot(NAMES[0], NOW)
    shown = places.show(path_of(source, NAMES[0]))
    assert (shown.uuid, shown.received_uuid) == (str(made.uuid), "-")
    assert shown.read_only and made.received_uuid is None
    assert os.listdir(Path(source.place.state, "incoming")) == []
    (listed,) = source.listing(NOTE)[0].snapshots
    assert listed.origin == made.origin
    with pytest.raises(NameTaken):
        source.take_snapshot(NAMES[0], NOW)


_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def disks() -> Iterator[tuple[Path, Path]]:
    """Make two filesystems, where any user may look in: here and there."""
    directory = ours.public_directory()
    try:
        with contextlib.ExitStack() as stack:
            here, there = (
                stack.enter_context(filesystems.btrfs_filesystem(directory, size="1G"))
                for _ in range(2)
            )
            yield here.path, there.path
    finally:
        shutil.rmtree(directory)


def make_paths(disks: tuple[Path, Path]) -> list[Path]:
    """Make a source and a directory for backups on each disk."""
    paths = []
    for disk in disks:
        room = disk / f"room-{next(_numbers)}"
        room.mkdir()
        source, backups = room / f"source {WORD}", room / f"backups {WORD}"
        places.command("btrfs", "-q", "subvolume", "create", source)
        backups.mkdir()
        (source / "large").write_bytes(os.urandom(200_000))
        (source / WORD).write_text("first")
        (source / "link").symlink_to(WORD)
        paths += [source, backups]
    return paths


@pytest.fixture
def scene(
    disks: tuple[Path, Path],
    sshd: Sshd,
    account: Callable[..., accounts.Account],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shell: str,
    privilege: str,
) -> Iterator[Ends]:
    """Log in, and make the places: on both sides one source and one for backups."""
    # A lock is known to be held once it beats; here nobody wants to wait for that.
    monkeypatch.setattr("btrfs_backup_ng.host.ssh.BEAT_S", 0.1)
    user = account(shell=shell, **ACCOUNTS[privilege])
    assert_login_shell(sshd, user)
    more = {}
    if privilege == "sudo-password":
        file = tmp_path / "password"
        file.write_text(f"{PASSWORD}\n")
        file.chmod(0o600)
        more["sudo_password_file"] = str(file)
    options = options_for(sshd, **more)
    paths = make_paths(disks)
    places.command("btrfs", "-q", "subvolume", "create", paths[2] / NESTED)
    for path in paths[2:]:
        if privilege == "sudo-btrfs":  # nothing else may be done as root there
            hand_over(path, user)
    sshd.mark()
    with Connections() as connections:
        mine, seen = [], []
        for number, path in enumerate(paths):
            folder = None if number % 2 else FOLDER
            here = local_place(Location(Scheme.LOCAL, str(path)), folder)
            mine.append(here.backups if folder is None else here.snapshots)
            if number >= 2:
                location = at(sshd, user, path)
                there = ssh_place(
                    location, folder, connections=connections, options=options
                )
                seen.append(there.backups if folder is None else there.snapshots)
        yield Ends(
            kind=privilege,
            user=user,
            source=seen[0],
            source_seen=mine[2],
            backups=seen[1],
            backups_seen=mine[3],
            own_source=mine[0],
            own_backups=mine[1],
            kept={place.directory: [] for place in (seen[0], mine[0])},
        )


STEPS: tuple[Callable[[Ends], None], ...] = (
    look,
    pass_arguments,
    prepare,
    lock,
    note,
    take_snapshot,
    tell_sizes,
    send_out,
    receive_into,
    listing,
    refuse_what_is_wrong,
    discard,
    go_on,
    delete,
    sync,
    take_a_snapshot_of_what_was_received,
)


@pytest.mark.parametrize(("shell", "privilege"), PAIRS)
def test_the_contract_of_a_place_holds(scene, sshd, shell, privilege):
    for step in STEPS:
        try:
            step(scene)
        except BaseException as error:
            error.add_note(
                f"login shell {shell}, as root by {privilege}: {step.__name__}"
            )
            raise
    assert sshd.connections() == 1


class ScriptHost(LocalHost):
    """This machine, where every verb is a script, as on another one."""

    def command(
        self, verb: Verb, *arguments: str, label: str, is_short: bool = False
    ) -> Command:
        """Return the script of a verb."""
        return self.script(verb, *arguments, label=label)

    def call(self, verb: Verb, *arguments: str, stdin: bytes = b"") -> Completed:
        """Run the script of a verb."""
        return run(self.command(verb, *arguments, label=verb.name), stdin=stdin)


def look_here(scene: Ends) -> None:
    """Look at the places, and make their directories."""
    for one in (scene.source, scene.backups, scene.own_source, scene.own_backups):
        assert one.place.look().is_btrfs
        with one.place.lock(0, "prepare", one.role):
            pass


@pytest.mark.parametrize("host", [LocalHost, ScriptHost])
def test_the_contract_of_a_place_here_holds_in_process_and_by_scripts(
    disks: tuple[Path, Path], host: type[LocalHost]
) -> None:
    ends: list[Endpoint] = []
    for number, path in enumerate(make_paths(disks)):
        folder = None if number % 2 else FOLDER
        place = btrfs_place(Location(Scheme.LOCAL, str(path)), host(), folder)
        ends.append(place.backups if folder is None else place.snapshots)
    own_source, own_backups, source, backups = ends
    root = accounts.Account("root", 0, 0, Path("/root"))
    scene = Ends(
        *("root", root, source, source, backups, backups, own_source, own_backups),
        kept={place.directory: [] for place in (source, own_source)},
    )
    first, last = STEPS.index(take_snapshot), STEPS.index(listing)
    steps = (*STEPS[first:last], pass_on_little, end_a_receiver, *STEPS[last:])
    for step in (look_here, *steps):
        try:
            step(scene)
        except BaseException as error:
            error.add_note(step.__name__)
            raise
