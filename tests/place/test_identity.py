"""Snapshots are told apart by what they are, not by their names, and trusted warily."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import places
from tests.support.places import FOLDER, Run
from tests.support.program import Argument
from tests.support.rooms import Room
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs

PREFIX = ("-p", "p-")
OLD_NAME = "p-20200101-000000"

Back = Callable[..., Run]


@pytest.fixture(params=["local", "push", "relay"])
def back(request: pytest.FixtureRequest, sshd: Sshd) -> Back:
    """Return what backs up a source to destinations: here, and behind ssh."""

    def place(path: Path, *, remote: bool) -> Argument:
        return places.ssh_place(sshd, path, user="root") if remote else path

    def run(source: Path, *destinations: Path, options: tuple[str, ...] = ()) -> Run:
        behind = request.param != "local"
        ssh = places.ssh_words(sshd) if behind else []
        return places.back_up(
            *ssh,
            *PREFIX,
            *options,
            place(source, remote=request.param == "relay"),
            *(place(path, remote=behind) for path in destinations),
        )

    return run


here_only = pytest.mark.parametrize("back", ["local"], indirect=True)
here_and_relay = pytest.mark.parametrize("back", ["local", "relay"], indirect=True)
here_and_push = pytest.mark.parametrize("back", ["local", "push"], indirect=True)


def write(source: Path, content: str) -> None:
    """Change a source."""
    (source / "file").write_text(content)


def content(snapshot: Path) -> str:
    """Read what a source held when a snapshot of it was made."""
    return (snapshot / "file").read_text()


def only_sent(run: Run) -> tuple[str, str | None]:
    """Return name and parent of the one snapshot that a run sent."""
    (sent,) = run.sent
    return sent["name"], sent["parent"]


def assert_up_to_date(back: Back, source: Path, *destinations: Path) -> None:
    """Check that a next run has nothing to send."""
    again = back(source, *destinations, options=("-S",))
    assert again.sent == [] and len(again.of("up-to-date")) == len(destinations)


def refusals(run: Run) -> list[str]:
    """Return the lines about snapshots that are not used as parents."""
    return [line for line in run.messages.splitlines() if "as parent" in line]


@here_and_relay
def test_a_restored_snapshot_is_the_parent_of_the_next_backup(back, room):
    source, destination = room.source(), room.destination()
    first, _ = only_sent(back(source, destination))
    (backup,) = places.subvolumes(destination)
    # All is lost here; the backup comes back, and the source is made of it.
    new = room.here / "new source"
    places.command("btrfs", "-q", "subvolume", "create", room.here / "tray")
    restored = places.send_and_receive(backup, room.here / "tray")
    places.command("btrfs", "-q", "subvolume", "snapshot", restored, new)
    places.command("btrfs", "-q", "subvolume", "create", new / ".btrfs-backup-ng")
    (new / FOLDER).mkdir()
    restored = places.send_and_receive(backup, new / FOLDER)
    write(new, "second")
    second = back(new, destination)
    assert only_sent(second)[1] == first and refusals(second) == []
    places.assert_backed_up(new, destination)
    assert_up_to_date(back, new, destination)


@here_only
def test_a_snapshot_that_came_back_to_its_own_source_is_a_parent(back, room):
    source, destination = room.source(), room.destination()
    first, _ = only_sent(back(source, destination))
    (snapshot,), (backup,) = map(places.subvolumes, (source / FOLDER, destination))
    places.command("btrfs", "-q", "subvolume", "delete", snapshot)
    places.send_and_receive(backup, source / FOLDER)
    write(source, "second")
    assert only_sent(back(source, destination))[1] == first
    places.assert_backed_up(source, destination)
    assert_up_to_date(back, source, destination)


@pytest.mark.parametrize(
    ("back", "name"),
    [
        ("local", OLD_NAME),
        ("local", "daily 3"),
        ("relay", "daily 3"),
    ],
    indirect=["back"],
)
def test_what_other_tools_copied_in_place_is_a_parent(back, room, name):
    source, destination = room.source(), room.destination()
    places.command("btrfs", "-q", "subvolume", "create", source / ".btrfs-backup-ng")
    (source / FOLDER).mkdir()
    snapshot = source / FOLDER / name
    places.command("btrfs", "-q", "subvolume", "snapshot", "-r", source, snapshot)
    copy = places.send_and_receive(snapshot, destination)
    copy.rename(destination / "named by somebody else")
    write(source, "second")
    run = back(source, destination)
    assert only_sent(run)[1] == name and refusals(run) == []
    write(source, "third")
    assert only_sent(back(source, destination))[1] == only_sent(run)[0]
    kept = [content(path) for path in places.subvolumes(destination)]
    assert kept == ["first", "second", "third"]
    assert_up_to_date(back, source, destination)


@here_only
def test_a_snapshot_made_anew_under_an_old_name_is_a_new_one(back, room):
    source, destination = room.source(), room.destination()
    name, _ = only_sent(back(source, destination))
    (snapshot,), (old,) = map(places.subvolumes, (source / FOLDER, destination))
    identity = places.show(old).uuid
    places.command("btrfs", "-q", "subvolume", "delete", snapshot)
    write(source, "second")
    places.command("btrfs", "-q", "subvolume", "snapshot", "-r", source, snapshot)
    run = back(source, destination, options=("-S",))
    (sent,) = run.sent
    assert (sent["name"], sent["target"]) == (name, f"{name}_1")
    assert sent["parent"] is None and name in run.messages
    assert places.show(old).uuid == identity and content(old) == "first"
    new = destination / f"{name}_1"
    assert places.show(new).received_uuid == places.show(snapshot).uuid
    assert content(new) == "second"
    assert_up_to_date(back, source, destination)
    write(source, "third")
    assert only_sent(back(source, destination))[1] == name
    assert [content(path) for path in places.subvolumes(destination)] == [
        "first",
        "second",
        "third",
    ]


def with_received_uuid(room: Room) -> Path:
    """Make a source as a careless restore does: flipped, its received UUID kept."""
    original = room.source("original")
    snapshot = room.here / "source"
    places.command("btrfs", "-q", "subvolume", "snapshot", "-r", original, snapshot)
    source = places.send_and_receive(snapshot, room.there)
    places.command("btrfs", "-q", "subvolume", "delete", snapshot)
    snapshot = source.rename(room.there / "sent back")
    source = places.send_and_receive(snapshot, room.here)
    places.set_read_only(source, False)
    source = source.rename(room.here / "source")
    assert places.show(source).received_uuid != "-"
    return source


@here_and_relay
def test_snapshots_of_a_source_with_a_received_uuid_have_identities_of_their_own(
    back, room
):
    source, destination = with_received_uuid(room), room.destination()
    names: list[str] = []
    for number in range(3):
        write(source, str(number))
        name, parent = only_sent(back(source, destination))
        assert parent == (names[-1] if names else None)
        names.append(name)
    shown = [places.show(path) for path in places.subvolumes(source / FOLDER)]
    assert [one.received_uuid for one in shown] == ["-"] * 3
    places.assert_backed_up(source, destination)
    assert_up_to_date(back, source, destination)
    assert places.staged(source) == []


@here_only
def test_snapshots_that_share_a_received_uuid_are_all_backed_up_once(back, room):
    source, destination = with_received_uuid(room), room.destination()
    (source / ".btrfs-backup-ng").mkdir()
    (source / FOLDER).mkdir()
    for number in range(3):
        write(source, str(number))
        name = f"p-2020010{number + 1}-000000"
        path = source / FOLDER / name
        places.command("btrfs", "-q", "subvolume", "snapshot", "-r", source, path)
    shared = {places.show(path).received_uuid for path in (source / FOLDER).iterdir()}
    assert len(shared) == 1 and "-" not in shared
    run = back(source, destination, options=("-S",))
    assert [sent["parent"] for sent in run.sent] == [None] * 3
    for path in places.subvolumes(source / FOLDER):
        assert content(destination / path.name) == content(path)
    assert_up_to_date(back, source, destination)
    write(source, "new")
    name, _ = only_sent(back(source, destination))
    assert content(destination / name) == "new"
    assert len(places.subvolumes(destination)) == 4
    assert_up_to_date(back, source, destination)


@pytest.mark.parametrize(
    ("back", "nested"),
    [
        ("local", False),
        ("local", True),
        ("push", True),
        ("relay", False),
    ],
    ids=["local", "local-nested", "push-nested", "relay"],
    indirect=["back"],
)
def test_a_changed_copy_is_no_parent(back, room, nested):
    source, destination = room.source(), room.there / "backups"
    kind = ("btrfs", "-q", "subvolume", "create") if nested else ("mkdir",)
    places.command(*kind, destination)
    first, _ = only_sent(back(source, destination))
    (copy,) = places.subvolumes(destination)
    places.tamper(copy)
    write(source, "second")
    run = back(source, destination)
    name, parent = only_sent(run)
    assert parent is None
    (line,) = refusals(run)
    assert first in line and "changed" in line and str(destination) in line
    assert sorted(path.name for path in (destination / name).iterdir()) == ["file"]
    assert content(destination / name) == "second"
    assert (copy / "tampered").exists()
    write(source, "third")
    assert only_sent(back(source, destination))[1] == name


@here_only
def test_the_newest_unchanged_copy_is_the_parent_instead(back, room):
    source, destination = room.source(), room.destination()
    older, _ = only_sent(back(source, destination))
    newer, _ = only_sent(back(source, destination))
    places.tamper(places.subvolumes(destination)[1])
    write(source, "third")
    run = back(source, destination)
    name, parent = only_sent(run)
    assert parent == older and len(refusals(run)) == 1
    assert sorted(path.name for path in (destination / name).iterdir()) == ["file"]


@here_and_push
def test_a_copy_flipped_back_and_forth_unchanged_is_a_parent(back, room):
    source, destination = room.source(), room.destination()
    first, _ = only_sent(back(source, destination))
    (copy,) = places.subvolumes(destination)
    places.set_read_only(copy, False)
    places.set_read_only(copy, True)
    write(source, "second")
    run = back(source, destination)
    assert only_sent(run)[1] == first and refusals(run) == []
    places.assert_backed_up(source, destination)


@here_only
def test_a_copy_that_is_still_writable_is_neither_parent_nor_backup(back, room):
    source, destination = room.source(), room.destination()
    first, _ = only_sent(back(source, destination))
    (copy,) = places.subvolumes(destination)
    places.set_read_only(copy, False)
    (copy / "mine").write_text("at work")
    write(source, "second")
    run = back(source, destination)
    assert [(sent["name"], sent["parent"]) for sent in run.sent][0] == (first, None)
    assert [sent["target"] for sent in run.sent][0] == f"{first}_1"
    assert content(destination / f"{first}_1") == "first"
    assert not (destination / f"{first}_1" / "mine").exists()
    newest = run.sent[1]["target"]
    assert content(destination / newest) == "second"
    assert not (destination / newest / "mine").exists()
    assert (copy / "mine").exists() and not places.show(copy).read_only


@here_and_push
def test_a_changed_copy_elsewhere_on_the_filesystem_is_never_built_upon(back, room):
    source, destination = room.source(), room.destination()
    first, _ = only_sent(back(source, destination))
    (snapshot,) = places.subvolumes(source / FOLDER)
    elsewhere = room.destination("elsewhere")
    places.send_and_receive(snapshot, elsewhere)
    write(source, "second")
    run = back(source, destination, elsewhere)
    assert [sent["parent"] for sent in run.sent] == [first, first]  # both unchanged
    assert refusals(run) == []
    second = run.sent[0]["name"]
    assert content(destination / second) == content(elsewhere / second) == "second"
    places.tamper(elsewhere / second)
    write(source, "third")
    run = back(source, destination)
    name, parent = only_sent(run)
    assert parent == first
    (line,) = refusals(run)
    assert second in line and "one of 2 copies" in line
    assert sorted(path.name for path in (destination / name).iterdir()) == ["file"]
    assert content(destination / name) == "third"


@here_only
def test_a_backup_that_was_deleted_is_sent_again(back, room):
    source, destination = room.source(), room.destination()
    names = [only_sent(back(source, destination))[0] for _ in range(3)]
    places.command("btrfs", "-q", "subvolume", "delete", destination / names[1])
    assert_up_to_date(back, source, destination)  # it is older than the newest
    again = back(source, destination, options=("-S", "--backfill"))
    assert only_sent(again) == (names[1], names[0])
    places.command("btrfs", "-q", "subvolume", "delete", destination / names[2])
    again = back(source, destination, options=("-S",))
    assert only_sent(again) == (names[2], names[1])
    assert_up_to_date(back, source, destination)


@here_only
def test_without_a_common_snapshot_a_full_one_says_why(back, room):
    source, destination = room.source(), room.destination()
    back(source, destination)
    (snapshot,) = places.subvolumes(source / FOLDER)
    places.command("btrfs", "-q", "subvolume", "delete", snapshot)
    write(source, "second")
    run = back(source, destination)
    assert run.sent[0]["why_full"] == "no common snapshot"
    assert "no longer shares a" in run.messages and "Sending in full" in run.messages
    kept = [content(path) for path in places.subvolumes(destination)]
    assert kept == ["first", "second"]


@here_and_relay
def test_a_snapshot_changed_at_the_source_is_no_parent(back, room):
    source, destination = room.source(), room.destination()
    first, _ = only_sent(back(source, destination))
    (snapshot,) = places.subvolumes(source / FOLDER)
    places.set_read_only(snapshot, False)
    (snapshot / "file").write_text("evil")
    places.set_read_only(snapshot, True)
    run = back(source, destination)
    name, parent = only_sent(run)
    assert parent is None
    (line,) = refusals(run)
    assert first in line and "changed at the source" in line
    assert content(destination / name) == "first"


@here_only
def test_two_directories_on_one_filesystem_are_two_destinations(back, room):
    source = room.source()
    one, other = room.destination("one"), room.destination("other")
    parent = None
    for number in range(3):
        write(source, str(number))
        run = back(source, one, other)
        assert [sent["parent"] for sent in run.sent] == [parent, parent]
        assert refusals(run) == []
        parent = run.sent[0]["name"]
    for destination in one, other:
        places.assert_backed_up(source, destination)
    assert_up_to_date(back, source, one, other)


@here_only
def test_a_backup_on_the_same_filesystem_works_with_a_warning(back, room):
    source, destination = room.source(), room.here / "backups"
    destination.mkdir()
    parent = None
    for number in range(3):
        write(source, str(number))
        run = back(source, destination)
        assert run.sent[0]["parent"] == parent
        parent = run.sent[0]["name"]
    places.assert_backed_up(source, destination)
    assert_up_to_date(back, source, destination)
    places.tamper(places.subvolumes(source / FOLDER)[2])
    write(source, "last")
    name, _ = only_sent(back(source, destination))
    copy = destination / name
    assert sorted(path.name for path in copy.iterdir()) == ["file"]
    assert content(copy) == "last"


@here_only
def test_the_same_filesystem_is_named_as_a_risk(back, room):
    source, destination = room.source(), room.here / "backups"
    destination.mkdir()
    assert "on the same filesystem" in back(source, destination).messages
