"""What an incremental stream changes: recorded and invented streams to changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btrfs_backup_ng.sendstream.changes import (
    Change,
    FileType,
    Sort,
    Touch,
    read_changes,
)
from btrfs_backup_ng.sendstream.format import Attribute, Kind, StreamDamaged
from btrfs_backup_ng.sendstream.reader import StreamCommand

Make = Callable[[int], StreamCommand]


def do(kind: Kind, path: bytes, **attributes: bytes | int) -> Make:
    """Make a command; a number is what most numbers of a stream are: 64 bits."""
    values = {Attribute.PATH: path}
    for name, value in attributes.items():
        if isinstance(value, int):
            value = value.to_bytes(4 if name == "FALLOCATE_MODE" else 8, "little")
        values[Attribute[name]] = value
    return lambda offset: StreamCommand(offset, kind, values)


def rename(path: bytes, to: bytes) -> Make:
    return do(Kind.RENAME, path, PATH_TO=to)


def link(path: bytes, old: bytes) -> Make:
    return do(Kind.LINK, path, PATH_LINK=old)


def extent(path: bytes, offset: int, size: int) -> Make:
    return do(Kind.UPDATE_EXTENT, path, FILE_OFFSET=offset, SIZE=size)


def create(path: bytes, temporary: bytes, kind: Kind = Kind.MKFILE) -> list[Make]:
    return [do(kind, temporary), rename(temporary, path)]


def unlink(path: bytes) -> Make:
    return do(Kind.UNLINK, path)


def utimes(path: bytes) -> Make:
    return do(Kind.UTIMES, path)


def read(*commands: Make) -> list[Change]:
    return list(read_changes(make(offset) for offset, make in enumerate(commands)))


def told(*commands: Make) -> list[tuple[Sort, bytes]]:
    return [(change.sort, change.path) for change in read(*commands)]


def test_a_new_file_has_its_final_name_and_its_size():
    commands = [*create(b"d/f", b"o257-7-0"), extent(b"d/f", 0, 100), utimes(b"d/f")]
    added = Change(
        Sort.ADDED, b"d/f", file_type=FileType.FILE, written=100, size=100
    )  # fmt: skip
    assert read(*commands, utimes(b"d")) == [added]


def test_a_directory_that_is_renamed_at_last_renames_what_came_before():
    commands = [
        extent(b"d/e/f", 0, 10),
        unlink(b"d/e/g"),
        *create(b"d/e/h", b"o300-7-0"),
        rename(b"d/e", b"e"),
        rename(b"d", b"e/d"),
    ]
    changes = read(*commands)
    assert [(change.sort, change.path, change.old_path) for change in changes] == [
        (Sort.DELETED, b"d/e/g", None),
        (Sort.RENAMED, b"e", b"d/e"),
        (Sort.RENAMED, b"e/d", b"d"),
        (Sort.CHANGED, b"e/f", None),
        (Sort.ADDED, b"e/h", None),
    ]


def test_a_link_and_an_unlink_are_a_rename():
    (renamed,) = read(link(b"new", b"d/old"), unlink(b"d/old"), utimes(b"new"))
    assert renamed == Change(Sort.RENAMED, b"new", b"d/old")


def test_what_is_in_the_way_waits_under_another_name():
    commands = [
        rename(b"b", b"o258-7-0"),
        rename(b"a", b"b"),
        rename(b"o258-7-0", b"a"),
        extent(b"a", 0, 5),
    ]
    assert [(c.path, c.old_path, c.touched) for c in read(*commands)] == [
        (b"a", b"b", Touch.DATA),
        (b"b", b"a", Touch(0)),
    ]


def test_what_comes_back_to_its_place_was_not_renamed():
    there_and_back = rename(b"d/a", b"o257-7-0"), rename(b"o257-7-0", b"d/a")
    assert told(*there_and_back) == []
    assert told(*there_and_back, utimes(b"d")) == [(Sort.METADATA, b"d")]


def test_a_directory_waits_under_another_name_for_the_last_entry_to_go():
    commands = [
        rename(b"d", b"o257-7-0"),
        *create(b"d", b"o300-9-0"),
        unlink(b"o257-7-0/x"),
        do(Kind.RMDIR, b"o257-7-0"),
    ]
    changed, deleted = read(*commands)
    assert (changed.sort, changed.path, changed.replaced) == (Sort.CHANGED, b"d", True)
    assert (deleted.sort, deleted.path) == (Sort.DELETED, b"d/x")


def test_a_file_in_the_place_of_another_is_changed_and_not_deleted():
    commands = [unlink(b"f"), *create(b"f", b"o300-9-0"), extent(b"f", 0, 7)]
    (changed,) = read(*commands)
    assert (changed.sort, changed.replaced, changed.size) == (Sort.CHANGED, True, 7)


def test_a_file_that_was_renamed_over_another_one_says_so():
    (renamed,) = read(unlink(b"a"), link(b"a", b"b"), unlink(b"b"))
    assert renamed == Change(Sort.RENAMED, b"a", b"b", replaced=True)


def test_a_name_that_went_on_is_free_for_a_new_file():
    commands = [rename(b"log", b"log.1"), *create(b"log", b"o300-9-0")]
    assert told(*commands) == [(Sort.ADDED, b"log"), (Sort.RENAMED, b"log.1")]


def test_what_came_with_a_renamed_directory_did_not_replace_what_was_deleted():
    commands = [
        unlink(b"d/f"),
        do(Kind.RMDIR, b"d"),
        rename(b"e", b"d"),
        extent(b"d/f", 0, 1),
    ]
    assert told(*commands) == [
        (Sort.RENAMED, b"d"),
        (Sort.DELETED, b"d/f"),
        (Sort.CHANGED, b"d/f"),
    ]


def test_one_more_name_names_the_first():
    more, changed = read(link(b"a", b"b"), utimes(b"b"), extent(b"b", 0, 1))
    assert (more.sort, more.path, more.link_to) == (Sort.ADDED, b"a", b"b")
    assert changed.path == b"b"
    assert told(link(b"a", b"b"), utimes(b"b")) == [(Sort.ADDED, b"a")]


def test_a_new_file_with_two_names_is_new_once():
    commands = [*create(b"d/b", b"o300-9-0"), link(b"a", b"d/b"), rename(b"d", b"c")]
    first, moved, second = read(*commands)
    assert (first.path, first.link_to) == (b"a", None)
    assert (moved.path, moved.old_path) == (b"c", b"d")
    assert (second.path, second.link_to) == (b"c/b", b"a")


def test_times_of_a_directory_are_told_only_if_nothing_in_it_tells_why():
    assert told(utimes(b"d")) == [(Sort.METADATA, b"d")]
    assert told(unlink(b"d/f"), utimes(b"d")) == [(Sort.DELETED, b"d/f")]
    assert told(*create(b"d/f", b"o9-9-0"), utimes(b"d")) == [(Sort.ADDED, b"d/f")]
    moved = [rename(b"d/f", b"e/f"), utimes(b"d"), utimes(b"e")]
    assert told(*moved) == [(Sort.RENAMED, b"e/f")]
    mode = [unlink(b"d/f"), do(Kind.CHMOD, b"d"), utimes(b"d")]
    assert told(*mode) == [(Sort.METADATA, b"d"), (Sort.DELETED, b"d/f")]


def test_temporary_names_at_the_top_are_no_change_of_the_top():
    commands = [*create(b"d/f", b"o300-9-0"), utimes(b"d"), utimes(b"")]
    assert told(*commands) == [(Sort.METADATA, b"."), (Sort.ADDED, b"d/f")]
    assert told(*create(b"f", b"o300-9-0"), utimes(b"")) == [(Sort.ADDED, b"f")]


@pytest.mark.parametrize(
    ("kind", "touched"),
    [
        (Kind.CHMOD, Touch.MODE),
        (Kind.CHOWN, Touch.OWNER),
        (Kind.SET_XATTR, Touch.XATTRS),
        (Kind.REMOVE_XATTR, Touch.XATTRS),
        (Kind.FILEATTR, Touch.FLAGS),
        (Kind.ENABLE_VERITY, Touch.VERITY),
        (Kind.UTIMES, Touch.TIMES),
    ],
)
def test_metadata_is_told_by_its_kind(kind: Kind, touched: Touch):
    assert read(do(kind, b"f"), utimes(b"f")) == [
        Change(Sort.METADATA, b"f", touched=touched)
    ]
    new = read(*create(b"f", b"o9-9-0"), do(kind, b"f"))
    assert [change.touched for change in new] == [Touch(0)]


@pytest.mark.parametrize(
    ("command", "written", "shared", "size"),
    [
        (extent(b"f", 4096, 10), 10, 0, None),
        (do(Kind.WRITE, b"f", FILE_OFFSET=0, DATA=b"abc"), 3, 0, None),
        (do(Kind.ENCODED_WRITE, b"f", FILE_OFFSET=0, UNENCODED_FILE_LEN=9), 9, 0, None),
        (do(Kind.CLONE, b"f", FILE_OFFSET=0, CLONE_LEN=4096), 0, 4096, None),
        (do(Kind.TRUNCATE, b"f", SIZE=17), 0, 0, 17),
        (do(Kind.FALLOCATE, b"f", FALLOCATE_MODE=3), 0, 0, None),
    ],
)
def test_data_is_counted(command: Make, written: int, shared: int, size: int | None):
    assert read(command, utimes(b"f")) == [
        Change(
            Sort.CHANGED,
            b"f",
            touched=Touch.DATA,
            written=written,
            shared=shared,
            size=size,
        )
    ]


def test_room_without_data_is_no_change_of_data():
    room = do(Kind.FALLOCATE, b"f", FALLOCATE_MODE=1)
    assert told(room, utimes(b"f")) == [(Sort.METADATA, b"f")]


def test_the_size_of_a_new_file_is_where_its_data_or_its_hole_ends():
    new = create(b"f", b"o9-9-0")
    sizes = [
        read(*new, *more)[0].size
        for more in (
            [],
            [extent(b"f", 4096, 10)],
            [extent(b"f", 0, 4096), do(Kind.TRUNCATE, b"f", SIZE=10**12)],
        )
    ]
    assert sizes == [0, 4106, 10**12]


def test_changes_come_in_the_order_of_paths_name_by_name():
    paths = [b"a", b"a/b", b"a/b/c", b"a b", b"a-", b"a.b", b"b"]
    commands = [do(Kind.CHMOD, path) for path in reversed(paths)]
    assert [path for _, path in told(*commands)] == sorted(
        paths, key=lambda p: p.split(b"/")
    )
    gone = [unlink(path) for path in (b"b", b"a/c", b"a.c")]
    every = sorted([*paths, b"a/c", b"a.c"], key=lambda p: p.split(b"/"))
    assert [path for _, path in told(*commands, *gone)] == every


@pytest.mark.parametrize(
    "commands",
    [
        [do(Kind.MKDIR, b"d"), do(Kind.CHMOD, b"d/f")],
        [do(Kind.MKFILE, b"f"), do(Kind.MKFILE, b"f/g")],
        [do(Kind.MKFILE, b"f"), do(Kind.CHMOD, b"f/g")],
        [unlink(b"f"), do(Kind.CHMOD, b"f")],
        [rename(b"d", b"e"), do(Kind.CHMOD, b"d/f")],
        [rename(b"d", b"d/e")],
        [rename(b"", b"d")],
        [unlink(b"d/")],
        [do(Kind.MKDIR, b"d"), link(b"d/d", b"d")],
        [link(b"d/d", b"d")],
        [link(b"e", b"d"), do(Kind.CHMOD, b"e/f")],
        [link(b"e", b"d"), do(Kind.MKFILE, b"e/f")],
        [link(b"e", b"")],
    ],
)
def test_what_cannot_be_is_damage_at_its_place(commands: list[Make]):
    with pytest.raises(StreamDamaged) as raised:
        read(*commands)
    assert raised.value.offset == len(commands) - 1


def test_depth_has_no_limit():
    path = b"/".join([b"d"] * 20000)
    assert told(do(Kind.CHMOD, path), rename(b"d", b"e")) == [
        (Sort.RENAMED, b"e"),
        (Sort.METADATA, b"e" + path[1:]),
    ]


_PATHS = st.lists(st.sampled_from([b"a", b"b", b"c", b""]), max_size=4).map(b"/".join)
_KINDS = [Kind.MKFILE, Kind.MKDIR, Kind.UNLINK, Kind.RMDIR, Kind.CHMOD, Kind.UTIMES]
_COMMANDS = st.one_of(
    st.builds(do, st.sampled_from(_KINDS), _PATHS),
    st.builds(rename, _PATHS, _PATHS),
    st.builds(link, _PATHS, _PATHS),
    st.builds(extent, _PATHS, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
)


@given(st.lists(_COMMANDS, max_size=60))
def test_any_stream_is_damaged_or_told(commands: Iterable[Make]):
    """It ends, and in order, whatever a stream says."""
    done = 0

    def some() -> Iterable[StreamCommand]:
        nonlocal done
        for make in commands:
            done += 1
            yield make(done)

    try:
        changes = list(read_changes(some()))
    except StreamDamaged as damaged:
        assert damaged.offset == done
        return
    paths = [change.path.split(b"/") for change in changes if change.path != b"."]
    assert paths == sorted(paths)
    for change in changes:
        assert (change.old_path is not None) == (change.sort is Sort.RENAMED)
