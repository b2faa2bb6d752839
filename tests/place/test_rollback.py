"""A source that came out of a rollback, or is a clone, goes on with its backups."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import places
from tests.support.accounts import Account
from tests.support.places import FOLDER, STATE, Run
from tests.support.program import Argument
from tests.support.rooms import Room
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs

PREFIX = ("-p", "p-")
SUDO_BTRFS = "{name} ALL=(root) NOPASSWD: /usr/bin/btrfs"

Back = Callable[..., Run]


@pytest.fixture(params=["local", "pull", "pull with sudo for btrfs only"])
def back(
    request: pytest.FixtureRequest, sshd: Sshd, account: Callable[..., Account]
) -> Back:
    """Return what backs up a source: one here, and one behind ssh."""
    behind = request.param != "local"
    user = account(sudoers=SUDO_BTRFS) if "sudo" in request.param else None

    def run(source: Path, destination: Path, *options: Argument, status=0) -> Run:
        place: Argument = source
        if user:
            os.chown(source, user.uid, user.gid)
        if behind:
            place = places.ssh_place(sshd, source, user=user.name if user else "root")
        ssh = places.ssh_words(sshd) if behind else []
        words = (*ssh, *PREFIX, *options, place, destination)
        return places.back_up(*words, status=status)

    return run


here_and_pull = pytest.mark.parametrize("back", ["local", "pull"], indirect=True)
here_only = pytest.mark.parametrize("back", ["local"], indirect=True)


def snapshot(original: Path, path: Path) -> Path:
    """Make a writable snapshot, as a rollback does."""
    places.command("btrfs", "-q", "subvolume", "snapshot", original, path)
    return path


def roll_back(source: Path, chosen: Path) -> Path:
    """Put a snapshot in the place of a source; return where the old one is now."""
    old = source.with_name(f"{source.name}.old")
    chosen = old / chosen.relative_to(source)
    source.rename(old)
    snapshot(chosen, source)
    return old


def only_parent(run: Run) -> str:
    (sent,) = run.sent
    return sent["parent"] or "in full"


def assert_goes_on(
    back: Back, source: Path, destination: Path, *options: Argument
) -> None:
    """Check that a next run has a parent of its own, and all is there."""
    (source / "file").write_text("later still")
    assert only_parent(back(source, destination, *options)).startswith("p-")
    assert back(source, destination, "-S", *options).sent == []
    assert (places.subvolumes(destination)[-1] / "file").read_text() == "later still"


def test_after_a_rollback_a_backup_builds_on_what_was_left_behind(back, room: Room):
    source, destination = room.source(), room.destination()
    back(source, destination)
    (source / "file").write_text("second")
    back(source, destination)
    first, second = places.subvolumes(source / FOLDER)
    old = roll_back(source, first)
    assert os.stat(source / STATE).st_ino == 2
    (source / "file").write_text("another second")
    promised = back(source, destination, "--dry-run")
    assert os.listdir(source / STATE) == []
    assert only_parent(promised) == only_parent(back(source, destination))
    assert only_parent(promised) == str(old / second.relative_to(source))
    assert places.is_subvolume(source / STATE)
    assert len(places.subvolumes(old / FOLDER)) == 2
    assert_goes_on(back, source, destination)


@here_and_pull
@pytest.mark.parametrize("way", ["relative", "absolute", "below a stub"])
def test_after_a_rollback_a_folder_of_snapshots_is_made_again(back, room: Room, way):
    source, destination = room.source(), room.destination()
    places.command("btrfs", "-q", "subvolume", "create", source / "kept")
    folder = source / "kept"
    folder /= "in here" if way == "below a stub" else ""
    words = ("-f", folder.relative_to(source) if way == "relative" else folder)
    back(source, destination, *words)
    (made,) = places.subvolumes(folder)
    roll_back(source, made)
    (source / "file").write_text("second")
    assert os.path.basename(only_parent(back(source, destination, *words))) == made.name
    assert places.is_subvolume(source / "kept") and places.subvolumes(folder)
    assert_goes_on(back, source, destination, *words)


@here_and_pull
def test_a_snapshot_of_another_tool_may_be_rolled_back_to(back, room: Room):
    source, destination = room.source(), room.destination()
    (room.here / "tool").mkdir()
    of_a_tool = snapshot(source, room.here / "tool/source")
    (source / "file").write_text("second")
    back(source, destination)
    (made,) = places.subvolumes(source / FOLDER)
    old = source.rename(room.here / "tool/was")
    snapshot(of_a_tool, source)
    parent = only_parent(back(source, destination))
    assert parent == str(old / made.relative_to(source))
    assert_goes_on(back, source, destination)


@here_only
def test_a_clone_and_its_original_go_on_side_by_side(back, room: Room):
    source, destination = room.source(), room.destination()
    back(source, destination)
    (made,) = places.subvolumes(source / FOLDER)
    clone = snapshot(source, room.here / "clone")
    assert only_parent(back(clone, destination, "-p", "clone-")) == str(made)
    assert_goes_on(back, source, destination)
    assert places.subvolumes(clone / FOLDER)


@here_only
def test_what_the_mount_does_not_reach_is_no_parent(back, room: Room, tmp_path):
    source, destination = room.source(), room.destination()
    back(source, destination)
    (made,) = places.subvolumes(source / FOLDER)
    roll_back(source, made)
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    places.command("mount", "--bind", source, mounted)
    try:
        run = back(mounted, destination)
    finally:
        places.command("umount", mounted)
    assert only_parent(run) == "in full"
    assert_goes_on(back, source, destination)


@here_and_pull
@pytest.mark.parametrize(
    ("kind", "is_absolute"), [("file", False), ("link", False), ("dangling", True)]
)
def test_another_thing_in_place_of_the_folder_is_named(
    back, room: Room, kind, is_absolute
):
    source, destination = room.source(), room.destination()
    path = source / "the kept"
    if kind == "file":
        path.write_text("x")
    else:
        path.symlink_to("file" if kind == "link" else "nowhere")
    before = places.fingerprint(source)
    words = ("-f", path / "deep" if is_absolute else "the kept/deep")
    for dry in ([], ["--dry-run"]):
        run = back(source, destination, *words, *dry, status=4)
        is_link = kind != "file" and not is_absolute
        why = "is a symbolic link" if is_link else "is not a directory"
        assert f"{path}/deep can have no snapshots: the kept {why}." in run.messages
        assert "--snapshot-folder" in run.messages
    assert places.fingerprint(source) == before
