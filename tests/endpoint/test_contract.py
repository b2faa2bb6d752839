"""One contract for every way from a source to a destination.

Local, push, pull, relay, and a user there who needs sudo or doas for btrfs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import accounts, places, program, trees, variety
from tests.support.places import FOLDER, Run
from tests.support.rooms import Room
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs

#: Name of a way -> where the source is, where the destination is: ``None`` for here,
#: else how a user there comes to run btrfs as root, and behind a colon the login shell.
WAYS = {
    "local": (None, None),
    "push": (None, "root"),
    "pull": ("root", None),
    "relay": ("root", "root"),
    "push-sudo": (None, "sudo"),
    "push-sudo-btrfs": (None, "sudo-btrfs"),
    "push-doas": (None, "doas"),
    "pull-sudo": ("sudo", None),
    "pull-sudo-btrfs": ("sudo-btrfs", None),
    "push-sudo-fish": (None, "sudo:fish"),
    "pull-doas-tcsh": ("doas:tcsh", None),
    "relay-sudo-zsh-doas-ash": ("sudo:zsh", "doas:ash"),
}


class Way:
    """How a test gets from a source to a destination."""

    def __init__(
        self,
        room: Room,
        server: Sshd,
        source_user: str | None,
        destination_user: str | None,
        owners: dict[str, tuple[int, int]],
    ) -> None:
        self.room = room
        self.server = server
        self._users = source_user, destination_user
        self._owners = owners

    def source(self, name: str = "source") -> Path:
        """Make a subvolume to back up, of the user who logs in there."""
        return self._owned(self.room.source(name), self._users[0])

    def destination(self, name: str = "backups") -> Path:
        """Make a directory for backups, of the user who keeps them."""
        return self._owned(self.room.destination(name), self._users[1])

    def _owned(self, path: Path, user: str | None) -> Path:
        if user in self._owners:
            os.chown(path, *self._owners[user])
        return path

    def source_word(self, path: Path | str) -> str:
        """Return the word for a source."""
        return self._word(self._users[0], path)

    def destination_word(self, path: Path | str) -> str:
        """Return the word for a destination."""
        return self._word(self._users[1], path)

    def _word(self, user: str | None, path: Path | str) -> str:
        if user is None:
            return str(path)
        return places.ssh_place(self.server, path, user=user)

    def run(
        self, source: Path, *destinations: Path, options: tuple[str, ...] = ()
    ) -> Run:
        """Back up, and expect that all is well."""
        ssh = places.ssh_words(self.server)
        words = [self.source_word(source), *map(self.destination_word, destinations)]
        return places.back_up(*ssh, *options, "--", *words)


def privileged(kind: str, account: Callable[..., accounts.Account]) -> accounts.Account:
    """Make a user who may do some things as root."""
    privilege, _, shell = kind.partition(":")
    shell = shell or "/bin/sh"
    match privilege:
        case "sudo":
            return account(shell=shell, sudoers=accounts.SUDO_ALL)
        case "sudo-btrfs":
            return account(shell=shell, sudoers=accounts.SUDO_BTRFS)
        case _:
            return account(shell=shell, doas=accounts.DOAS)


@pytest.fixture
def way(
    request: pytest.FixtureRequest,
    room: Room,
    sshd: Sshd,
    account: Callable[..., accounts.Account],
) -> Way:
    """Return one of the ways; by default a test goes all of them."""
    users: list[str | None] = []
    owners = {}
    for kind in WAYS[request.param]:
        if kind in (None, "root"):
            users.append(kind)
        else:
            user = privileged(kind, account)
            users.append(user.name)
            if kind == "sudo-btrfs":  # nothing but btrfs may be run as root there
                owners[user.name] = (user.uid, user.gid)
    return Way(room, sshd, users[0], users[1], owners)


#: Left out unless ``BBNG_EVERY_PAIR`` is set: privileges that another way has, too, and
#: login shells that ``test_login_shells`` has.
COVERED = {"push-sudo", "pull-sudo", "push-doas", "push-sudo-fish", "pull-doas-tcsh"}
if "BBNG_EVERY_PAIR" in os.environ:
    COVERED = set()
all_ways = pytest.mark.parametrize("way", sorted({*WAYS} - COVERED), indirect=True)
#: Enough where it does not matter who is who: both ends here, both ends behind ssh.
both_ways = pytest.mark.parametrize("way", ["local", "relay"], indirect=True)
here_only = pytest.mark.parametrize("way", ["local"], indirect=True)


@all_ways
def test_first_full_then_incremental_then_nothing_to_send(way):
    source, destination = way.source(), way.destination()
    variety.fill(source, 1)

    first = way.run(source, destination)
    (full,) = first.sent
    assert full["parent"] is None and full["why_full"] == "first backup there"
    assert full["size_bytes"] > 4_000_000
    places.assert_backed_up(source, destination)
    (original,) = places.subvolumes(source / FOLDER)
    (copy,) = places.subvolumes(destination)
    holes = trees.describe(original), trees.describe(copy)
    assert trees.differences(*holes, ignore=("blocks",)) == []
    assert trees.shared_bytes(copy / "links/original", copy / "links/clone") >= 200_000

    variety.change(source, 2)
    (changed,) = way.run(source, destination).sent
    assert changed["parent"] == full["name"]
    places.assert_backed_up(source, destination)
    kept = [path / "sizes/compressible" for path in places.subvolumes(destination)]
    assert trees.shares_extents(*kept)

    (source / "file").write_text("second")
    third = way.run(source, destination, options=("-N", "2", "-n", "2"))
    (small,) = third.sent
    assert small["parent"] == changed["name"] and small["size_bytes"] < 20_000
    here, there = places.subvolumes(source / FOLDER), places.subvolumes(destination)
    assert [len(here), len(there)] == [2, 2]
    places.assert_copies(here, there)
    assert [(event["place"], event["name"]) for event in third.of("deleted")] == [
        (way.destination_word(destination), full["name"]),
        (way.source_word(source), full["name"]),
    ]

    last = way.run(source, destination, options=("-S",))
    assert last.sent == [] and last.of("snapshot") == []
    (said,) = last.of("up-to-date")
    assert said["present"] == 2
    assert places.staged(destination) == []


@both_ways
def test_what_earlier_runs_missed_is_sent_oldest_first(way):
    source, destination = way.source(), way.destination()
    for number in range(3):
        (source / "file").write_text(str(number))
        way.run(source, options=("-T",))
    done = way.run(source, destination)
    names = [path.name for path in places.subvolumes(source / FOLDER)]
    assert [sent["name"] for sent in done.sent] == names and len(names) == 4
    assert [sent["parent"] for sent in done.sent] == [None, *names[:3]]
    places.assert_backed_up(source, destination)
    kept = [(path / "file").read_text() for path in places.subvolumes(destination)]
    assert kept == ["0", "1", "2", "2"]


@both_ways
def test_what_was_deleted_at_the_destination_does_not_come_back(way):
    source, destination = way.source(), way.destination()
    way.run(source, options=("-T",))
    way.run(source, options=("-T",))
    way.run(source, destination)
    oldest, middle, newest = sorted(places.subvolumes(destination))
    places.command("btrfs", "-q", "subvolume", "delete", oldest, middle)
    (sent,) = way.run(source, destination).sent
    assert sent["parent"] == newest.name
    filled = way.run(source, destination, options=("-S", "--backfill")).sent
    assert [one["name"] for one in filled] == [oldest.name, middle.name]
    places.command(
        "btrfs", "-q", "subvolume", "delete", *places.subvolumes(destination)
    )
    again = way.run(source, destination, options=("-S",)).sent  # nothing is common
    assert len(again) == 4


@here_only
def test_an_old_snapshot_found_later_fills_the_gap(way):
    source, destination = way.source(), way.destination()
    folder = source / FOLDER
    way.run(source, options=("-T",))
    (oldest,) = places.subvolumes(folder)
    hidden = oldest.rename(folder / "hidden")
    newer = way.run(source, destination, options=("-p", "p-")).sent[0]["name"]
    found = hidden.rename(folder / "p-20200101-000000")
    assert way.run(source, destination, options=("-p", "p-", "-S")).sent == []
    backfill = ("-p", "p-", "-S", "--backfill")
    (sent,) = way.run(source, destination, options=backfill).sent
    assert (sent["name"], sent["parent"]) == (found.name, newer)
    copies = sorted(places.subvolumes(destination))
    places.assert_copies(sorted(places.subvolumes(folder)), copies)


def scatter(directory: Path, stranger: Path) -> dict[str, tuple[int, int]]:
    """Put foreign things into a directory; give what must be there afterwards."""
    (directory / "plain directory").mkdir()
    (directory / "plain directory/file").write_text("keep me")
    (directory / "host-20200101-000000").mkdir()
    (directory / "file").write_text("keep me")
    (directory / "host-20200101-000001").write_text("keep me")
    (directory / "dangling").symlink_to("nowhere")
    (directory / "host-20200101-000002").symlink_to("nowhere")
    (directory / "loop").symlink_to("loop")
    os.mkfifo(directory / "fifo")
    snapshot = ("btrfs", "-q", "subvolume", "snapshot")
    places.command(*snapshot, stranger, directory / "writable")
    places.command(*snapshot, stranger, directory / "host-20200101-000003")
    places.command(*snapshot, "-r", stranger, directory / "read-only stranger")
    (directory / "host-20200101-000004").symlink_to("read-only stranger")
    return whole(directory)


SCATTERED = (
    "plain directory",
    "file",
    "fifo",
    "dangling",
    "loop",
    "writable",
    "read-only stranger",
    *(f"host-20200101-00000{number}" for number in range(5)),
)


def whole(directory: Path) -> dict[str, tuple[int, int]]:
    """Tell a directory's entries apart: by name, type and device."""
    return {
        name: (os.lstat(directory / name).st_mode, os.lstat(directory / name).st_dev)
        for name in os.listdir(directory)
        if name != ".btrfs-backup-ng"
    }


@both_ways
def test_foreign_things_around_are_neither_touched_nor_taken_for_ours(way):
    source, destination = way.source(), way.destination()
    options = ("-p", "host-", "-N", "1", "-n", "1")
    way.run(source, destination, options=options)
    stranger_here = way.room.source("stranger")
    stranger_there = way.room.there / "stranger"
    places.command("btrfs", "-q", "subvolume", "create", stranger_there)
    here = scatter(source / FOLDER, stranger_here)
    there = scatter(destination, stranger_there)
    for number in range(2):
        (source / "file").write_text(f"again {number}")
        (sent,) = way.run(source, destination, options=options).sent
        assert sent["parent"]
    for directory, before in (source / FOLDER, here), (destination, there):
        after = whole(directory)
        foreign = {name for name in before if name in SCATTERED}
        assert len(foreign) == len(SCATTERED)
        assert {name: after.get(name) for name in foreign} == {
            name: before[name] for name in foreign
        }
        assert after.keys() - foreign == {sent["name"]}
    assert (destination / sent["name"] / "file").read_text() == "again 1"
    assert (destination / "plain directory/file").read_text() == "keep me"


@here_only
def test_what_is_named_like_the_next_backup_is_left_alone(way):
    source, destination = way.source(), way.destination()
    name = way.run(source, options=("-T",)).of("snapshot")[0]["name"]
    (destination / name).mkdir()
    (destination / name / "file").write_text("keep me")
    done = way.run(source, destination, options=("-S",))
    assert (done.sent[0]["name"], done.sent[0]["target"]) == (name, f"{name}_1")
    assert "another" in done.messages and name in done.messages
    assert os.listdir(destination / name) == ["file"]
    (copy,) = places.subvolumes(destination)
    assert (copy / "file").read_text() == "first"
    assert way.run(source, destination, options=("-S",)).sent == []


HOSTILE = {
    "spaces": b"  in front  and behind  ",
    "quotes": b'it\'s "so" `date`',
    "newline": b"new\nline\n",
    "command": b"$(touch pwned);touch pwned;$HOME|&<>",
    "dash": b"-rf",
    "backslash": b"back\\slash\\n\\0101\\",
    "plus": b"+0101+%s%n%00!!",
    "globs": b"*?[a-z]{b,c}~#",
    "not-utf8": b"\xff\xfe caf\xe9 \x80",
    "long": b"l" * 230,
    "like-a-list": b"x\nID 5 gen 5 cgen 5 top level 5 path x",
    "like-a-show": b"x\n\tUUID: \t\t\t-\n\tFlags: \t\t\treadonly",
}


#: Behind ssh the same, fewer at a time: each run takes longer.
HOSTILE_THERE = {
    "printable": b' it\'s "so" $(touch pwned)&|<> *?[a] {b,c} ~#!! +0101+%s\\n\\ ',
    "bytes": b"new\nline \t\x1b[31m \xff\xfe caf\xe9 \n",
    "like-a-list": HOSTILE["like-a-list"],
}


@pytest.mark.parametrize(
    ("way", "word"),
    [
        *(pytest.param("local", word, id=name) for name, word in HOSTILE.items()),
        *(
            pytest.param("relay", word, id=f"{name}-relay")
            for name, word in HOSTILE_THERE.items()
        ),
    ],
    indirect=["way"],
)
def test_hostile_names_are_just_names(way, word, tmp_path):
    word = os.fsdecode(word)
    source, destination = way.source(word), way.destination(word)
    folder = way.room.here / "folder" / word
    (source / word).write_text("first")
    options = [f"--snapshot-prefix={word}", f"--snapshot-folder={folder}"]
    options += places.ssh_words(way.server)
    words = [way.source_word(source), way.destination_word(destination)]

    (first,) = places.back_up(*options, "--", *words, cwd=tmp_path).sent
    assert first["name"].startswith(word)
    places.assert_copies(places.subvolumes(folder), places.subvolumes(destination))
    (source / word).write_text("second")
    (sent,) = places.back_up(
        *options, "-N", "1", "-n", "1", "--", *words, cwd=tmp_path
    ).sent
    assert sent["parent"] == first["name"]
    (snapshot,), (copy,) = places.subvolumes(folder), places.subvolumes(destination)
    places.assert_copies([snapshot], [copy])
    assert (copy / word).read_text() == "second"
    assert os.listdir(tmp_path) == [] and places.staged(destination) == []


def test_hostile_names_do_not_reach_the_terminal(room):
    word = "red\x1b[31m\nbtrfs-backup-ng: all is well\r\udcff"
    source, destination = room.source(word), room.destination(word)
    missing = room.there / f"missing {word}"
    for words, status in (
        ((source, destination), 0),
        ((missing, destination), 4),
        ((source, missing), 4),
        ((source, missing, destination), 10),
    ):
        done = program.run_program(f"--snapshot-prefix={word}", *words)
        assert done.returncode == status, done
        printed = done.stdout + done.stderr
        assert "red\\x1b[31m\\nbtrfs" in printed
        assert not any(bad in printed for bad in ("\x1b", "\r", "\udcff"))
        assert "\nbtrfs-backup-ng: all is well" not in printed


@pytest.mark.parametrize("way", ["push-sudo", "push-sudo-btrfs"], indirect=True)
def test_hostile_names_survive_sudo(way):
    word = os.fsdecode(b' it\'s $(id) "a+b" \\ \n%s \xff ')
    source, destination = way.source(word), way.destination(word)
    (source / word).write_text("first")
    way.run(source, destination, options=("-p", word))
    places.assert_backed_up(source, destination)


def test_each_destination_fails_alone(room, sshd):
    source = room.source()
    good, also_good = room.destination("good"), room.destination("also good")
    file, missing = room.there / "file", room.there / "missing"
    file.write_text("no directory")
    words = [
        *places.ssh_words(sshd),
        source,
        missing,
        good,
        places.ssh_place(sshd, missing, user="root"),
        file,
        places.ssh_place(sshd, also_good, user="root"),
        "shell://cat >/dev/null; exit 3",
    ]
    done = places.back_up(*words, status=10)
    assert [event["place"] for event in done.of("failed")] == [
        str(missing),
        places.ssh_place(sshd, missing, user="root"),
        str(file),
        "shell://cat >/dev/null; exit 3",
    ]
    for destination in good, also_good:
        places.assert_backed_up(source, destination)
    assert len(places.subvolumes(source / FOLDER)) == 1
    assert not missing.exists() and file.read_text() == "no directory"


@pytest.mark.parametrize(
    "way", ["push-sudo", "push-sudo-btrfs", "push-doas"], indirect=True
)
def test_two_destinations_of_one_user_are_looked_at_alike(way):
    source = way.source()
    destinations = [way.destination(name) for name in ("one", "two")]
    assert len(way.run(source, *destinations).sent) == 2
    for destination in destinations:
        places.assert_backed_up(source, destination)


def test_where_all_destinations_fail_no_snapshot_is_made(room, sshd):
    source = room.source()
    words = [
        source,
        room.there / "a",
        places.ssh_place(sshd, room.there / "b", user="root"),
    ]
    done = places.back_up(*places.ssh_words(sshd), *words, status=4)
    assert len(done.of("failed")) == 2
    assert os.listdir(source) == ["file"]


@pytest.fixture
def mounted(room: Room, tmp_path: Path) -> Iterator[Callable[[Path, Path], Path]]:
    """Mount a subvolume of its own accord, as ``subvol=`` does."""
    with ExitStack() as stack:

        def mount(subvolume: Path, top: Path) -> Path:
            point = tmp_path / f"mounted {subvolume.name}"
            point.mkdir()
            device = places.command("df", "--output=source", top).splitlines()[1]
            name = f"subvol={subvolume.relative_to(top)}"
            places.command("mount", "-o", name, device, point)
            stack.callback(places.command, "umount", point)
            return point

        yield mount


@both_ways
def test_subvolumes_mounted_by_subvol_are_source_and_destination(way, mounted, disks):
    source_itself = way.source()
    place_itself = way.room.there / "place"
    places.command("btrfs", "-q", "subvolume", "create", place_itself)
    source = mounted(source_itself, disks[0].path)
    destination = mounted(place_itself, disks[1].path)
    for number in range(2):
        (source / "file").write_text(str(number))
        way.run(source, destination)
    places.assert_backed_up(source, destination)
    (destination / "below").mkdir()
    done = way.run(source, destination / "below", options=("-S",))
    assert [sent["parent"] is None for sent in done.sent] == [True, False]
    places.assert_backed_up(source, destination / "below")
    assert way.run(source, destination, options=("-S",)).sent == []


@both_ways
def test_whole_filesystems_are_source_and_destination(way, two_filesystems):
    here, there = (filesystem.path for filesystem in two_filesystems)
    (here / "nested").mkdir()
    places.command("btrfs", "-q", "subvolume", "create", here / "nested/sub")
    for number in range(2):
        (here / "file").write_text(str(number))
        done = way.run(here, there)
        assert f"not in this snapshot: {here}/nested/sub" in done.messages
        assert ".btrfs-backup-ng" not in done.messages
    (sent,) = done.sent
    assert sent["parent"] and way.run(here, there, options=("-S",)).sent == []
    snapshot, copy = places.subvolumes(here / FOLDER)[1], places.subvolumes(there)[1]
    found = trees.differences(trees.describe(snapshot), trees.describe(copy))
    assert found == ["only in the first: b'nested/sub'"]  # where the other one was
    assert (copy / "file").read_text() == "1" and places.staged(there) == []


@both_ways
def test_symlinks_to_source_and_destination_lead_there(way):
    source, destination = way.source(), way.destination()
    link_here, link_there = way.room.here / "link", way.room.there / "link"
    link_here.symlink_to("source")
    link_there.symlink_to(destination)
    way.run(link_here, link_there)
    (sent,) = way.run(source, destination).sent
    assert sent["parent"]
    assert way.run(link_here, link_there, options=("-S",)).sent == []
    places.assert_backed_up(source, destination)


@both_ways
def test_a_snapshot_folder_may_be_anywhere_on_the_filesystem(way):
    source, destination = way.source(), way.destination()
    folder = way.room.here / "far away/snapshots"
    for _ in range(2):
        done = way.run(source, destination, options=("-f", str(folder)))
    assert done.sent[0]["parent"]
    places.assert_copies(places.subvolumes(folder), places.subvolumes(destination))
