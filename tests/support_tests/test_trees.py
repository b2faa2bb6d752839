"""Trees are described whole, and every difference is seen."""

import os
import subprocess

import pytest

from tests.support import trees, variety


@pytest.fixture
def tree(btrfs):
    top = btrfs().subvolume("tree")
    variety.fill(top, 1)
    return top


def test_a_filled_tree_has_one_of_everything(tree):
    described = trees.describe(tree)
    entries = described.values()
    assert {entry.type for entry in entries} == set(trees.type_names.values())
    assert len({entry.uid for entry in entries}) > 3
    assert any(entry.mode & 0o4000 for entry in entries)
    xattrs = {name for entry in entries for name in entry.xattrs}
    assert xattrs >= {
        "user.large",
        "trusted.hidden",
        "security.capability",
        "system.posix_acl_access",
        "system.posix_acl_default",
    }
    assert all(b"names/" + name in described for name in variety.HOSTILE_NAMES)
    assert any(entry.mtime_ns % 1000 for entry in entries)
    assert described[b"links/original"].links == {
        b"links/original",
        b"links/hard link",
        b"deep/hard link",
    }
    assert len(described[b"special/holes"].data) == 3
    assert described[b"special/holes"].blocks < 20_000
    assert described[b"special/nothing but hole"].data == ()
    clones = tree / "links/original", tree / "links/clone"
    assert trees.shares_extents(*clones) and trees.shared_bytes(*clones) >= 200_000
    assert not trees.shares_extents(tree / "links/original", tree / "sizes/65537")


def test_a_seed_makes_the_same_tree_everywhere(two_filesystems):
    one, other = [filesystem.subvolume("tree") for filesystem in two_filesystems]
    for top in one, other:
        variety.fill(top, 7)
        variety.change(top, 8)
        variety.change(top, 9)
    assert trees.differences(trees.describe(one), trees.describe(other)) == []
    first = trees.describe(one)
    variety.change(one, 10)
    assert len(trees.differences(first, trees.describe(one))) > 50


def test_btrfs_itself_carries_filled_and_changed_trees_whole(two_filesystems):
    here, there = two_filesystems
    here.subvolume("tree")
    variety.fill(here.path / "tree", 3)
    parent: list[str] = []
    for number in range(3):
        snapshot = here.snapshot("tree", f"snapshot-{number}")
        with subprocess.Popen(
            ["btrfs", "-q", "send", *parent, snapshot], stdout=subprocess.PIPE
        ) as send:
            subprocess.run(
                ["btrfs", "-q", "receive", there.path], stdin=send.stdout, check=True
            )
        assert send.returncode == 0
        received = there.path / snapshot.name
        ignore = trees.LAYOUT if parent else ("blocks",)
        assert not trees.differences(
            trees.describe(snapshot), trees.describe(received), ignore=ignore
        )
        parent = ["-p", str(snapshot)]
        variety.change(here.path / "tree", number)


def write(path):
    with open(path / "sizes/4095", "r+b") as file:
        file.seek(2000)
        file.write(b"!")
    os.utime(path / "sizes/4095", ns=(5, 5))


@pytest.mark.parametrize(
    ("spoil", "seen"),
    [
        (lambda top: os.chmod(top / "sizes", 0o123), "mode"),
        (lambda top: os.lchown(top / "links/dangling", 77, -1), "uid"),
        (lambda top: os.lchown(top / "special/null", -1, 77), "gid"),
        (lambda top: os.utime(top / "empty", ns=(0, 1)), "mtime_ns"),
        (lambda top: os.setxattr(top / "special/holes", "user.x", b""), "xattrs"),
        (lambda top: os.truncate(top / "special/holes", 3), "size"),
        (lambda top: trees.punch_hole(b"%b" % bytes(top / "sizes/65537"), 0, 4096),
         "data"),
        (lambda top: (top / "empty/new").touch(), "only in the second: b'empty/new'"),
        (lambda top: (top / "links/clone").unlink(), "only in the first"),
        (lambda top: (top / "links/hard link").unlink(), "links"),
        (write, "sha256"),
    ],
)  # fmt: skip
def test_every_difference_is_seen(tree, spoil, seen):
    before = trees.describe(tree)
    spoil(tree)
    found = trees.differences(before, trees.describe(tree), ignore=())
    assert any(seen in sentence for sentence in found)
    assert not trees.differences(before, before)


def test_what_does_not_matter_can_be_left_out(tmp_path):
    (tmp_path / "file").touch()
    before = trees.describe(tmp_path)
    os.utime(tmp_path / "file", ns=(1, 1))
    after = trees.describe(tmp_path)
    assert trees.differences(before, after)
    assert not trees.differences(before, after, ignore=("mtime_ns", "blocks"))
