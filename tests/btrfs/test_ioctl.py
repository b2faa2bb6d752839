"""What is read by ioctl is what btrfs-progs say, and so is what is read as text."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from uuid import UUID

import pytest

from btrfs_backup_ng.btrfs import ioctl
from btrfs_backup_ng.btrfs.extents import written_since
from btrfs_backup_ng.btrfs.listing import look_closely, read_listing
from btrfs_backup_ng.btrfs.parse import parse_extent
from btrfs_backup_ng.core.location import parse_location
from btrfs_backup_ng.core.model import Integrity, SshOptions
from btrfs_backup_ng.host.local import LocalHost
from btrfs_backup_ng.host.ssh import SshHost
from btrfs_backup_ng.sshutil.master import SSHMasterManager
from tests.support import places, variety
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs

COUNT = 300


def none_or(text: str) -> UUID | None:
    """Read a UUID as btrfs prints it."""
    return None if text == "-" else UUID(text)


def test_what_was_written_is_what_find_new_tells(room):
    source = room.source()
    variety.fill(source, 1)
    large = source / "a directory of which a search passes over most names"
    large.mkdir()
    for number in range(3000):
        (large / f"{number}").write_bytes(bytes(number % 2))
    first = room.here / "first"
    places.command("btrfs", "-q", "subvolume", "snapshot", "-r", source, first)
    variety.change(source, 2)
    second = room.here / "second"
    places.command("btrfs", "-q", "subvolume", "snapshot", "-r", source, second)
    since = places.show(first).made + 1
    # It does not fit into the buffer of btrfs-progs, which tell nothing of it.
    too_long = b" links/long"
    link = os.lstat(second / "links/long").st_ino
    for path, generation in ((first, 0), (second, 0), (second, since)):
        told = places.command(
            "btrfs", "subvolume", "find-new", path, str(generation)
        ).encode(errors="surrogateescape")
        lines = [line for line in told.split(b"\n") if not line.endswith(too_long)]
        expected = list(filter(None, map(parse_extent, lines)))
        with ioctl.opened_directory(str(path)) as descriptor:
            found = list(written_since(descriptor, generation))
        alike = [one[:2] for one in found if one.inode != link]
        assert alike == [one[:2] for one in expected] and len(alike) > 1
        assert [bool(one.place) for one in found if one.inode != link] == [
            bool(one.place) for one in expected
        ]


def test_no_link_at_a_name_is_followed(room):
    source = room.source()
    (room.here / "outside").mkdir()
    (room.here / "inside").mkdir()
    link = room.here / "inside" / "link"
    with (
        ioctl.opened_directory(str(source)) as origin,
        ioctl.opened_directory(str(link.parent)) as directory,
    ):
        for target in ("../outside", "../nowhere"):
            link.symlink_to(target)
            with pytest.raises(FileExistsError):
                ioctl.make_snapshot(origin, directory, "link", read_only=True)
            link.unlink()
        ioctl.make_snapshot(origin, directory, "snapshot", read_only=False)
        link.symlink_to("snapshot")
        with pytest.raises(NotADirectoryError):
            ioctl.delete_subvolume(directory, "link")
        ioctl.delete_subvolume(directory, "snapshot")
        ioctl.commit(directory)
    assert os.listdir(room.here / "outside") == []
    assert os.listdir(link.parent) == ["link"]


def make_snapshots(source: Path, directory: Path, count: int) -> None:
    """Make many snapshots, two files changing meanwhile."""
    script = (
        'for i in $(seq "$3"); do echo $i >"$1/file";'
        ' btrfs -q subvolume snapshot -r "$1" "$2/p-$i" || exit 1; done'
    )
    places.command("sh", "-c", script, "sh", source, directory, count)


def test_a_subvolume_is_what_btrfs_shows(room):
    source, destination = room.source(), room.destination()
    snapshot = room.here / "snapshot"
    places.command("btrfs", "-q", "subvolume", "snapshot", "-r", source, snapshot)
    copy = places.send_and_receive(snapshot, destination)
    for path in source, snapshot, copy:
        with ioctl.opened_directory(str(path)) as descriptor:
            info = ioctl.subvolume_info(descriptor)
        text = places.command("btrfs", "subvolume", "show", "--", path)
        shown = places.show(path)
        assert info.uuid == UUID(shown.uuid)
        assert info.parent_uuid == none_or(shown.parent_uuid)
        assert info.received_uuid == none_or(shown.received_uuid)
        assert info.tree_id == shown.tree_id
        assert info.otransid == shown.made
        found = re.search(r"Generation: \t+(\d+)", text)
        assert found and info.generation == int(found[1])
        assert info.read_only == shown.read_only
        found = re.search(r"Creation time: \t+(.+)", text)
        assert found
        created = datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S %z")
        assert info.created.replace(microsecond=0) == created
        found = re.search(r"Receive transid: \t+(\d+)", text)
        assert info.rtransid == (int(found[1]) if found else 0)
    with ioctl.opened_directory(str(room.here)) as descriptor:  # lies in the top level
        info = ioctl.subvolume_info(descriptor)
    assert info.tree_id == 5 and not info.read_only and not info.parent_uuid


def test_outside_of_btrfs_there_is_no_subvolume():
    with ioctl.opened_directory("/proc") as descriptor:
        with pytest.raises(OSError):
            ioctl.subvolume_info(descriptor)


def test_a_symlink_to_a_directory_is_not_followed(room):
    (room.here / "link").symlink_to(room.there)
    with pytest.raises(OSError):
        with ioctl.opened_directory(str(room.here / "link")):
            raise AssertionError("opened")


def test_nested_subvolumes_are_those_right_below(room):
    source = room.source()
    names = ["a", "dir/b", "dir/deep er/c\nd", "caf\udce9"]
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        places.command("btrfs", "-q", "subvolume", "create", source / name)
    places.command("btrfs", "-q", "subvolume", "create", source / "a/below")
    with ioctl.opened_directory(str(source)) as descriptor:
        found = ioctl.nested_subvolumes(descriptor)
    assert sorted(found) == sorted(map(os.fsencode, names))


def test_many_nested_subvolumes_are_all_found(room):
    source = room.source()
    make_snapshots(room.source("other"), source, COUNT)
    with ioctl.opened_directory(str(source)) as descriptor:
        found = ioctl.nested_subvolumes(descriptor)
    assert sorted(found) == sorted(b"p-%d" % (n + 1) for n in range(COUNT))


def test_a_root_item_shows_whether_its_subvolume_was_changed(room):
    source = room.source()
    make_snapshots(source, room.here, 2)
    ids = [places.show(room.here / f"p-{number}").tree_id for number in (1, 2)]
    with ioctl.opened_directory(str(room.here)) as descriptor:
        assert look_closely(descriptor, ids) is Integrity.INTACT
        places.tamper(room.here / "p-2")
        assert look_closely(descriptor, ids[:1]) is Integrity.INTACT
        assert look_closely(descriptor, ids) is Integrity.CHANGED
        assert ioctl.read_root_item(descriptor, 2**40) is None
        found = ioctl.read_root_item(descriptor, ids[0])
    shown = places.show(room.here / "p-1")
    assert found and found[0] and found[2] == shown.made


@contextmanager
def ssh_host(server: Sshd) -> Iterator[SshHost]:
    """Log in as the program does."""
    location = parse_location(
        places.ssh_place(server, "/", user="root"), working_directory="/"
    )
    options = SshOptions(options=tuple(server.ssh_options))
    with SSHMasterManager(location, options) as master:
        with closing(SshHost(master, forced_sudo=False)) as host:
            yield host


def test_a_listing_of_many_is_what_btrfs_lists_here_and_behind_ssh(btrfs, sshd):
    filesystem = btrfs()
    source, directory = filesystem.subvolume("source"), filesystem.path / "snapshots"
    directory.mkdir()
    make_snapshots(source, directory, COUNT)
    received = filesystem.path / "received"
    received.mkdir()
    twin = places.send_and_receive(directory / "p-7", received)
    places.send_and_receive(directory / "p-7", directory.parent)
    copy = received / "p-8"
    places.send_and_receive(directory / "p-8", received, parent=directory / "p-7")
    (received / "plain").mkdir()
    (received / "link").symlink_to("p-7")
    places.command("btrfs", "-q", "subvolume", "snapshot", source, received / "rw")

    text = places.command("btrfs", "subvolume", "list", "-puqRcg", filesystem.path)
    lines = re.findall(
        r"^ID (\d+) gen \d+ cgen (\d+) .*? parent_uuid (\S+) +received_uuid (\S+) +"
        r"uuid (\S+) path (.*)$",
        text,
        re.MULTILINE,
    )
    with ssh_host(sshd) as remote:
        for where in directory, received:
            wanted = {
                Path(path).name: (UUID(own), none_or(parent), none_or(came), int(made))
                for _, made, parent, came, own, path in lines
                if Path(path).parent.name == where.name and Path(path).name != "rw"
            }
            for host in LocalHost(), remote:
                listing, _ = host.listing(str(where), f"{where}/state", "file")
                found = {
                    s.name: (s.uuid, s.parent_uuid, s.received_uuid, s.generation)
                    for s in listing.snapshots
                }
                assert found == wanted
                assert listing.names == frozenset(os.listdir(where))
                ids = {path: int(number) for number, *_, path in lines}
                origin = UUID(places.show(directory / "p-7").uuid)
                assert sorted(listing.carriers[origin]) == sorted(
                    [ids["received/p-7"], ids["p-7"]]
                )
                assert len(listing.carriers) == 2
    with ioctl.opened_directory(str(directory)) as descriptor:
        assert len(read_listing(descriptor).snapshots) == COUNT
    assert places.show(twin).received_uuid == str(origin)
    assert places.show(copy).parent_uuid == places.show(twin).uuid
