"""The comparing of trees as values: what differs is told, and nothing else."""

import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btrfs_backup_ng.actions.verify.manifest import (
    Aspect,
    Difference,
    Entry,
    Garbled,
    Names,
    compare,
)
from btrfs_backup_ng.actions.verify.remote_tree import (
    join,
    read_digests,
    read_xattrs,
    split,
)
from btrfs_backup_ng.core.value import replace

#: Bytes that come before and after a slash, and what is no text.
NAMES = (
    st.binary(min_size=1, max_size=3)
    .map(lambda raw: raw.replace(b"\0", b"!").replace(b"/", b"-"))
    .filter(lambda name: name not in (b".", b".."))
)
PATHS = st.lists(NAMES, max_size=3).map(lambda names: b"/".join([b".", *names]))
FILE = Entry(
    b"./file", stat.S_IFREG | 0o644, 0, 0, 5, 10**9, digest=bytes(32), xattrs={}
)
KINDS = [
    FILE,
    replace(FILE, mode=stat.S_IFREG | 0o4755),
    replace(FILE, digest=b"\1" * 32),
    replace(FILE, uid=1, mtime_ns=-1),
    replace(FILE, gid=1, xattrs={b"user.a": b"1"}),
    replace(FILE, xattrs={b"user.a": b"2", b"user.b": b""}),
    Entry(b"", stat.S_IFDIR | 0o755, 0, 0, 0, 0, xattrs={}),
    Entry(b"", stat.S_IFLNK | 0o777, 0, 0, 0, 0, target=b"a", xattrs={}),
    Entry(b"", stat.S_IFLNK | 0o777, 0, 0, 0, 0, target=b"b", xattrs={}),
]
TREES = st.dictionaries(PATHS, st.sampled_from(KINDS), max_size=12).map(
    lambda tree: [replace(entry, path=path) for path, entry in sorted(tree.items())]
)


@settings(max_examples=60)
@given(TREES, TREES)
def test_exactly_what_differs_is_told(one: list[Entry], other: list[Entry]):
    told = list(compare(iter(one), iter(other)))
    here, there = ({e.path: e for e in tree} for tree in (one, other))
    differing = {path for path in here | there if here.get(path) != there.get(path)}
    shown = {difference.path for difference in told}
    assert shown == {path[2:] or b"." for path in differing}
    assert [d.path for d in told] == shown_in_order(told)
    alone = {d.path for d in told if d.aspect is Aspect.PRESENCE}
    assert alone == {path[2:] or b"." for path in here.keys() ^ there.keys()}


def shown_in_order(told: list[Difference]) -> list[bytes]:
    """Return the paths as they are told; the top is before all others."""
    return sorted((d.path for d in told), key=lambda path: (path != b".", path))


@settings(max_examples=30)
@given(TREES)
def test_a_tree_is_the_same_as_itself(tree: list[Entry]):
    assert list(compare(iter(tree), iter(tree))) == []


CHANGES = {
    Aspect.TYPE: replace(FILE, mode=stat.S_IFIFO | 0o644, digest=None),
    Aspect.MODE: replace(FILE, mode=stat.S_IFREG | 0o645),
    Aspect.OWNER: replace(FILE, uid=1),
    Aspect.GROUP: replace(FILE, gid=1),
    Aspect.SIZE: replace(FILE, size=6),
    Aspect.MTIME: replace(FILE, mtime_ns=10**9 + 1),
    Aspect.TARGET: replace(FILE, target=b"x"),
    Aspect.DEVICE: replace(FILE, device=(1, 3)),
    Aspect.LINK: replace(FILE, link=b"./another"),
    Aspect.CONTENTS: replace(FILE, digest=b"\1" * 32),
    Aspect.XATTR: replace(FILE, xattrs={b"user.a": b"1"}),
}


@pytest.mark.parametrize("aspect", [a for a in Aspect if a is not Aspect.PRESENCE])
def test_each_aspect_is_told_with_both_values(aspect: Aspect):
    changed = CHANGES[aspect]
    for one, other in ((FILE, changed), (changed, FILE)):
        (told,) = compare([one], [other])
        assert (told.path, told.aspect) == (b"file", aspect)
        assert told.original != told.copy and not told.unclear
    assert told.name == ("user.a" if aspect is Aspect.XATTR else "")


def test_xattrs_that_nobody_can_tell_are_not_compared():
    known = replace(FILE, xattrs={b"user.a": b"1"})
    silent = replace(FILE, xattrs=None)
    assert list(compare([known], [silent])) == list(compare([silent], [known])) == []


def test_what_cannot_be_read_is_a_difference_and_whose_fault_it_is_is_told():
    lost = replace(FILE, digest=None, unreadable="Input/output error")
    (told,) = compare([FILE], [lost])
    assert not told.unclear and "Input/output error" in told.copy
    for copy in (FILE, lost):
        (told,) = compare([lost], [copy])
        assert told.unclear and "Input/output error" in told.original


def test_what_comes_in_disorder_is_refused():
    later = replace(FILE, path=b"./g")
    for tree in ([later, FILE], [FILE, FILE]):
        with pytest.raises(Garbled):
            list(compare(tree, []))
        with pytest.raises(Garbled):
            list(compare([], tree))


def test_names_are_forgotten_once_all_have_come():
    names = Names()
    assert names.first(5) is None
    names.remember(5, b"./a", bytes(32), "", 3)
    for _ in range(2):
        assert names.first(5) == (b"./a", bytes(32), "")
    assert names.first(5) is None


# What another machine answers.


@given(st.lists(st.binary(max_size=5).map(lambda raw: raw.replace(b"\0", b"x"))))
def test_records_are_the_same_however_the_blocks_fall(records: list[bytes]):
    whole = b"".join(record + b"\0" for record in records)
    for size in (1, 2, 7, len(whole) + 1):
        blocks = (whole[at : at + size] for at in range(0, len(whole), size))
        assert list(split(blocks, b"\0")) == records


def test_a_record_without_an_end_is_refused():
    with pytest.raises(Garbled):
        list(split([b"a\0b"], b"\0"))


HEX = "01" * 32
FACTS = b"81a4 0 0 5 1.000000000 257 1 0 0"
LINK = b"a1ff 0 0 5 -0.250000000 258 1 0 0"


def test_an_entry_is_made_of_three_streams():
    fields = [b"./f\nx", FACTS, b"./f\nx", b"./l -> x", LINK, b"./l -> x -> a -> b"]
    digests = read_digests([f"{HEX}  ./f\nx".encode()])
    xattrs = read_xattrs([b"# file: ./f\\012x", b"user.a\\075b=0x00ff", b"c=0x", b""])
    file, link = join(iter(fields), digests, xattrs)
    assert (file.path, file.size, file.mtime_ns) == (b"./f\nx", 5, 10**9)
    assert file.digest == bytes.fromhex(HEX)
    assert file.xattrs == {b"user.a=b": b"\0\xff", b"c": b""}
    assert (link.path, link.target, link.mtime_ns) == (
        b"./l -> x",
        b"a -> b",
        -25 * 10**7,
    )
    assert (link.size, link.digest, link.xattrs) == (0, None, {})


def test_a_file_without_a_digest_could_not_be_read():
    (entry,) = join(iter([b"./f", FACTS, b"./f"]), iter([]), None)
    assert entry.digest is None and entry.unreadable and entry.xattrs is None


@pytest.mark.parametrize(
    ("fields", "digests", "xattrs"),
    [
        ([b"./f", FACTS], [], []),
        ([b"./f", b"81a4 0 0", b"./f"], [], []),
        ([b"./l", LINK, b"./k -> x"], [], []),
        ([], [(b"./f", bytes(32))], []),
        ([], [], [(b"./f", {})]),
        ([b"./g", FACTS, b"./g"], [(b"./f", bytes(32))], []),
    ],
)
def test_streams_that_do_not_fit_together_are_refused(fields, digests, xattrs):
    with pytest.raises(Garbled):
        list(join(iter(fields), digests, xattrs))


@pytest.mark.parametrize(
    "lines",
    [
        [b"user.a=0x00", b""],
        [b"# file: ./f", b"user.a=0x0", b""],
        [b"# file: ./f", b"user.a=0sAAA", b""],
        [b"# file: ./f", b"user.a", b""],
        [b"# file: ./f", b"user.a=0x00"],
    ],
)
def test_what_getfattr_does_not_say_is_refused(lines: list[bytes]):
    with pytest.raises(Garbled):
        list(read_xattrs(lines))


def test_what_sha256sum_does_not_say_is_refused():
    for record in (b"", b"./f", HEX.encode(), f"\\{HEX}  ./f".encode()):
        with pytest.raises(Garbled):
            list(read_digests([record]))
