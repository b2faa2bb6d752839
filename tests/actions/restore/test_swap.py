"""The commands that swap a restored subvolume in fit what is mounted, and how."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from btrfs_backup_ng.actions.restore.swap import (
    Around,
    Swap,
    SwapMethod,
    parse_default,
    plan_swap,
)
from btrfs_backup_ng.core.value import replace

_HOME = "subvolid=257,subvol=/@home"
_OPTIONS = "rw,compress=zstd:3,ssd,space_cache=v2"
#: A laptop with @ and @home, a second disk, and memory.
LAPTOP = f"""\
22 1 0:20 /@ / rw,relatime shared:1 - btrfs /dev/sda2 {_OPTIONS},subvolid=256,subvol=/@
23 22 0:20 /@home /home rw,noatime - btrfs /dev/sda2 {_OPTIONS},{_HOME}
24 22 0:30 / /mnt/my\\040disk rw,relatime - btrfs /dev/sdb rw,subvolid=5,subvol=/
25 22 0:40 / /tmp rw - tmpfs tmpfs rw
26 22 8:1 / /srv rw - ext4 /dev/sdc1 rw
"""


def planned(new: str, old: str, *, mounts: str = LAPTOP, **facts: Any) -> Swap:
    around = Around(new=new, old=old, old_exists=True, mounts=mounts)
    return plan_swap(replace(around, **facts), "T")


def test_what_lies_on_one_mount_is_renamed():
    swap = planned("/mnt/my disk/new", "/mnt/my disk/it's")
    assert swap.way is SwapMethod.RENAME
    assert [shlex.split(line) for line in swap.commands] == [
        ["mv", "--", "/mnt/my disk/it's", "/mnt/my disk/it's.before-T"],
        ["mv", "--", "/mnt/my disk/new", "/mnt/my disk/it's"],
    ]
    gone = planned("/mnt/my disk/new", "/mnt/my disk/old", old_exists=False)
    assert gone.commands == ("mv -- '/mnt/my disk/new' '/mnt/my disk/old'",)


def test_what_was_restored_into_the_old_one_is_found_in_it():
    swap = planned("/mnt/my disk/old/new", "/mnt/my disk/old")
    assert shlex.split(swap.commands[1])[2] == "/mnt/my disk/old.before-T/new"


TOP = (
    "top=$(mktemp -d)",
    'mount -o subvolid=5 /dev/sda2 "$top"',
    """trap 'umount "$top"; rmdir "$top"' EXIT""",
)


def test_a_mounted_subvolume_is_renamed_in_the_top_level_and_mounted_as_it_was():
    swap = planned("/home/new", "/home")
    assert swap.way is SwapMethod.TOP_LEVEL
    assert swap.commands == (
        *TOP,
        "umount /home",  # later than another mount holds its device
        'mv -- "$top"/@home "$top"/@home.before-T',
        'mv -- "$top"/@home.before-T/new "$top"/@home',
        "mount -o rw,noatime,compress=zstd:3,ssd,space_cache=v2,subvol=/@home"
        " /dev/sda2 /home",
    )
    assert not any("subvolid" in note for note in swap.notes)
    fstab = "# <file system>\nUUID=1-2 /home btrfs subvolid=257 0 0\n"
    swap = planned("/home/new", "/home", fstab=fstab)
    assert any("/etc/fstab names it by subvolid=" in note for note in swap.notes)


NESTED: dict[str, Any] = {
    "old_is_subvolume": True,
    "nested": ("it's", "a/b"),
    "has_state": True,
}


def test_nested_subvolumes_move_along_and_the_old_one_can_be_removed_later():
    swap = planned("/mnt/my disk/new", "/mnt/my disk/old", **NESTED)
    aside = "/mnt/my disk/old.before-T"
    moves = [shlex.split(line) for line in swap.commands[2:]]
    assert [words[:5] for words in moves] == [
        ["mv", "-T", "--", f"{aside}/{path}", f"/mnt/my disk/old/{path}"]
        for path in NESTED["nested"]
    ]
    (line,) = swap.removal
    assert shlex.split(line)[4:] == [
        f"{aside}/.btrfs-backup-ng/snapshots/*",
        f"{aside}/.btrfs-backup-ng",
        aside,
    ]
    assert line.count("/snapshots/* ") == 1  # which the shell expands
    plain = planned("/mnt/my disk/new", "/mnt/my disk/old")
    assert plain.removal == (f"rm -r -- '{aside}'",)


def test_nested_subvolumes_move_in_the_top_level_before_it_is_mounted():
    swap = planned("/home/new", "/home", **NESTED)
    assert swap.commands[6].startswith(
        """mv -T -- "$top"'/@home.before-T/it'"'"'s' "$top"'/@home/it'"'"'s' || """
    )
    assert swap.commands[-1].startswith("mount ")
    assert swap.removal[:-1] == TOP


def test_those_of_the_running_root_are_moved_later():
    for default in (0, 256):
        swap = planned("/new", "/", **NESTED, default=default)
        assert not any("mv -T" in line for line in swap.commands)
        assert sum("mv -T" in note for note in swap.notes) == 2


def test_those_on_another_filesystem_are_named_with_the_command_to_copy_them():
    swap = planned("/mnt/my disk/a/new", "/home", **NESTED)
    assert not swap.removal
    assert any("subvol=/@home/a/b /dev/sda2 /mnt" in note for note in swap.notes)
    swap = planned("/mnt/my disk/new", "/srv/www", **NESTED)
    assert any("cp -a -- /srv/www.before-T/a/b /srv/www/a/b" in n for n in swap.notes)


def test_the_running_root_is_not_unmounted():
    swap = planned("/new", "/")
    assert swap.way is SwapMethod.TOP_LEVEL
    assert 'mv -- "$top"/@.before-T/new "$top"/@' in swap.commands
    assert not any(line.startswith("umount /") for line in swap.commands)
    assert not any("subvol=" in line for line in swap.commands)
    assert any("reboot" in note for note in swap.notes)


def test_a_part_of_a_mounted_subvolume_is_renamed_without_unmounting_it():
    swap = planned("/root.new", "/home/me")
    assert swap.way is SwapMethod.TOP_LEVEL
    assert swap.commands == (
        *TOP,
        'mv -- "$top"/@home/me "$top"/@home/me.before-T',
        'mv -- "$top"/@/root.new "$top"/@home/me',
    )


@pytest.mark.parametrize(
    ("old", "facts", "way"),
    [
        ("/", {"default": 256}, SwapMethod.DEFAULT),
        ("/", {"default": 5}, SwapMethod.TOP_LEVEL),
        ("/", {"default": 0}, SwapMethod.TOP_LEVEL),
        (
            "/",
            {"default": 256, "kernel": "ro rootflags=subvol=@"},
            SwapMethod.TOP_LEVEL,
        ),
        (
            "/",
            {"default": 256, "kernel": "rootflags=compress=zstd"},
            SwapMethod.DEFAULT,
        ),
        (
            "/",
            {"default": 256, "fstab": "x / btrfs subvol=/@ 0 0"},
            SwapMethod.TOP_LEVEL,
        ),
        (
            "/",
            {"default": 256, "fstab": "#x / btrfs subvol=/@ 0 0"},
            SwapMethod.DEFAULT,
        ),
        ("/", {"default": 256, "fstab": "x / btrfs defaults 0 0"}, SwapMethod.DEFAULT),
        ("/home", {"default": 256}, SwapMethod.TOP_LEVEL),
        ("/home", {"default": 257}, SwapMethod.DEFAULT),
        ("/home", {"default": 257, "kernel": "rootflags=subvol=@"}, SwapMethod.DEFAULT),
    ],
)
def test_a_default_subvolume_is_set_where_nothing_else_is_asked_for(
    old: str, facts: dict[str, Any], way: SwapMethod
):
    swap = planned("/new", old, **facts)
    assert swap.way is way
    if way is SwapMethod.DEFAULT:
        held = () if old == "/" else TOP  # the device, while nothing else is mounted
        first = "btrfs subvolume set-default /new"
        assert swap.commands[: len(held) + 1] == (*held, first)
        assert (swap.commands == (first,)) == (old == "/")
        assert not any("subvol=" in line for line in swap.commands)


def test_what_is_on_another_filesystem_is_mounted_there():
    swap = planned("/mnt/my disk/a/new", "/home")
    assert swap.way is SwapMethod.MOUNT
    assert swap.commands == (
        "umount /home",
        "mount -o rw,noatime,compress=zstd:3,ssd,space_cache=v2,subvol=/a/new /dev/sdb"
        " /home",
    )
    assert "/dev/sdb and subvol=/a/new" in swap.notes[0]
    swap = planned("/mnt/my disk/new", "/srv")
    assert swap.commands[1] == "mount -o rw,relatime,subvol=/new /dev/sdb /srv"
    swap = planned("/mnt/my disk/new", "/srv/www")
    assert swap.commands[:2] == (
        "mv -- /srv/www /srv/www.before-T",
        "mkdir -- /srv/www",
    )
    assert planned("/mnt/my disk/new", "/").commands == ()
    top = planned("/mnt/my disk/new", "/mnt/my disk")
    assert top.way is SwapMethod.MOUNT  # a top level cannot be renamed


def test_the_default_subvolume_is_read():
    assert parse_default("ID 256 gen 9 top level 5 path @\n") == 256
    assert parse_default("ID 5 (FS_TREE)\n") == 5
    assert parse_default("") == 0
