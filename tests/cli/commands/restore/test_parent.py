"""A restore sends nothing that the target's filesystem has already, wherever it is."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import places, trees
from tests.support.accounts import SUDO_BTRFS, Account
from tests.support.command_line import must
from tests.support.places import FOLDER, STATE
from tests.support.program import Argument, run_program
from tests.support.rooms import Room
from tests.support.sshd import Sshd
from tests.support.staged import local_way, ssh_way

pytestmark = pytest.mark.btrfs

LARGE = 2 << 20


def restored(*words: Argument, **changes: Any) -> dict[str, Any]:
    """Restore, and return the document."""
    done = must(run_program("restore", "--json", *words, **changes))
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return {**document, "messages": done.stderr}


@pytest.fixture
def backed_up(room: Room) -> tuple[Path, Path]:
    """Return a source and its destination, with two generations.

    The stream between them takes data of a file from the parent.
    """
    source, destination = room.source(), room.destination()
    (source / "large").write_bytes(os.urandom(LARGE))
    places.back_up("-p", "p-", source, destination)
    subprocess.run(
        ["cp", "--reflink=always", source / "large", source / "copy"], check=True
    )
    (source / "large").write_bytes(b"new")
    places.back_up("-p", "p-", source, destination)
    return source, destination


def assert_same(backup: Path, copy: Path) -> None:
    assert trees.differences(trees.describe(backup), trees.describe(copy)) == []


@pytest.mark.parametrize("way", ["here", "from ssh", "to ssh"])
def test_snapshots_of_the_source_serve_where_it_comes_back(
    backed_up: tuple[Path, Path], sshd: Sshd, way: str
):
    source, destination = backed_up
    first, second = places.subvolumes(source / FOLDER)
    target = source.parent / "target"
    target.mkdir()
    ways = [ssh_way(sshd) if end in way else local_way for end in ("from", "to")]
    words = [*ways[0](destination), *ways[1](target)]
    *words, to = [*words[:-1], "--to", words[-1]]

    document = restored(*words, to)  # the very snapshot is there
    assert document["parent"] == second.name and document["sent_bytes"] < 999
    copy = target / second.name
    assert trees.shares_extents(copy / "copy", second / "copy")
    assert_same(destination / second.name, copy)

    places.command("btrfs", "-q", "subvolume", "delete", copy, second)
    planned = restored(*words, to, "--dry-run")
    document = restored(*words, to)  # the one before it is
    assert planned["parent"] == document["parent"] == first.name
    assert document["sent_bytes"] <= planned["size_bytes"] < LARGE / 2
    assert document["messages"] == ""
    assert trees.shares_extents(copy / "copy", first / "large")
    assert_same(destination / second.name, copy)
    assert os.listdir(target) == [copy.name]
    assert (
        places.show(copy).received_uuid
        == places.show(destination / second.name).received_uuid
    )

    places.command("btrfs", "-q", "subvolume", "delete", copy)
    places.tamper(first)
    document = restored(*words, to)  # none that is unchanged
    assert document["parent"] is None and document["sent_bytes"] > LARGE
    assert f"{first.name} is not used as parent: it was changed" in document["messages"]
    assert_same(destination / second.name, copy)


@contextmanager
def mounted_alone(path: Path, at: Path) -> Iterator[Path]:
    """Mount a subvolume somewhere else."""
    at.mkdir()
    places.command("mount", "--bind", path, at)
    try:
        yield at
    finally:
        places.command("umount", at)


def test_a_parent_outside_the_mount_serves_or_is_found_out_at_once(
    backed_up: tuple[Path, Path],
    sshd: Sshd,
    account: Callable[..., Account],
):
    source, destination = backed_up
    first, second = places.subvolumes(source / FOLDER)
    places.command("btrfs", "-q", "subvolume", "delete", second)
    target = source.parent / "target"
    places.command("btrfs", "-q", "subvolume", "create", target)
    user = account(sudoers=SUDO_BTRFS)
    os.chown(target, user.uid, user.gid)
    with mounted_alone(target, source.parent / "mount") as mount:
        document = restored(destination, "--to", mount)
        assert (document["parent"], document["messages"]) == (first.name, "")
        assert_same(destination / second.name, target / second.name)
        places.command("btrfs", "-q", "subvolume", "delete", target / second.name)
        *login, place = ssh_way(sshd)(mount)
        place = place.replace("ssh://", f"ssh://{user.name}@")
        document = restored(*login, destination, "--to", place)
    assert f"{first.name} cannot be the parent there: " in document["messages"]
    assert "; sending in full" in document["messages"]
    assert document["parent"] is None and document["sent_bytes"] > LARGE
    assert_same(destination / second.name, target / second.name)
    assert not (target / STATE).exists()
