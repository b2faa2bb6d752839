"""What btrfs-progs and stat print: recorded outputs, and names that imitate them."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btrfs_backup_ng.btrfs.listing import parse_listing, parse_nested
from btrfs_backup_ng.btrfs.parse import (
    OutputNotUnderstood,
    explain,
    format_show,
    is_garbled,
    judge_integrity,
    parse_extent,
    parse_root_items,
    parse_show,
    parse_uuid,
    parse_version,
)
from btrfs_backup_ng.core.model import Integrity, Privilege
from btrfs_backup_ng.core.record import ANSWERS, LIMIT_BYTES, TOO_LARGE
from btrfs_backup_ng.host.facts import is_same_filesystem, parse_facts

HOME = UUID("5ab6c868-5b71-5d48-9424-8b704433ccde")
S1 = UUID("e601afcd-e30e-da45-9ac6-f6ee390a0641")
S2 = UUID("28854aa8-ac76-564d-a470-a9354af106c4")
COPY = UUID("e746cf3f-741d-ae43-906c-ab5239506c64")
FAKE = UUID("11111111-1111-1111-1111-111111111111")

#: btrfs-progs 6.2, recorded: a snapshot, a received one, a writable one with snapshots
SHOW_SNAPSHOT = f"""{{name}}
\tName: \t\t\t{{name}}
\tUUID: \t\t\t{S1}
\tParent UUID: \t\t{HOME}
\tReceived UUID: \t\t-
\tCreation time: \t\t2026-11-23 06:59:07 +0000
\tSubvolume ID: \t\t257
\tGeneration: \t\t9
\tGen at creation: \t9
\tParent ID: \t\t5
\tTop level ID: \t\t5
\tFlags: \t\t\treadonly
\tSend transid: \t\t0
\tSend time: \t\t2026-11-23 06:59:07 +0000
\tReceive transid: \t0
\tReceive time: \t\t-
\tSnapshot(s):
"""
SHOW_RECEIVED = f"""dest/s1
\tName: \t\t\ts1
\tUUID: \t\t\t{COPY}
\tParent UUID: \t\t-
\tReceived UUID: \t\t{S1}
\tCreation time: \t\t2026-11-23 06:59:07 +0000
\tSubvolume ID: \t\t259
\tGeneration: \t\t13
\tGen at creation: \t11
\tParent ID: \t\t5
\tTop level ID: \t\t5
\tFlags: \t\t\treadonly
\tSend transid: \t\t8
\tSend time: \t\t2026-11-23 06:59:07 +0000
\tReceive transid: \t12
\tReceive time: \t\t2026-11-23 06:59:07 +0000
\tSnapshot(s):
"""
SHOW_HOME = f"""home
\tName: \t\t\thome
\tUUID: \t\t\t{HOME}
\tParent UUID: \t\t-
\tReceived UUID: \t\t-
\tCreation time: \t\t2026-11-23 06:59:07 +0000
\tSubvolume ID: \t\t256
\tGeneration: \t\t10
\tGen at creation: \t7
\tParent ID: \t\t5
\tTop level ID: \t\t5
\tFlags: \t\t\t-
\tSend transid: \t\t0
\tSend time: \t\t2026-11-23 06:59:07 +0000
\tReceive transid: \t0
\tReceive time: \t\t-
\tSnapshot(s):
\t\t\t\ts1
\t\t\t\td/two words
\t\t\t\tx
\tUUID: \t\t\t{FAKE}
\tFlags: \t\t\treadonly
"""
#: btrfs-progs before 5.7 had no lines about sending and receiving
SHOW_OLD = f"""/mnt/s1
\tName: \t\t\ts1
\tUUID: \t\t\t{S1}
\tParent UUID: \t\t{HOME}
\tReceived UUID: \t\t{COPY}
\tCreation time: \t\t2018-03-01 06:59:07 +0100
\tSubvolume ID: \t\t257
\tGeneration: \t\t9
\tGen at creation: \t8
\tParent ID: \t\t5
\tTop level ID: \t\t5
\tFlags: \t\t\treadonly
\tSnapshot(s):
"""


def test_show_tells_of_a_snapshot():
    shown = parse_show(SHOW_SNAPSHOT.format(name="s1"))
    assert (shown.uuid, shown.received_uuid, shown.read_only) == (S1, None, True)
    assert (shown.generation, shown.made, shown.received) == (9, 9, 0)


def test_show_tells_of_a_received_one():
    shown = parse_show(SHOW_RECEIVED)
    assert (shown.uuid, shown.received_uuid, shown.read_only) == (COPY, S1, True)
    assert (shown.generation, shown.made, shown.received) == (13, 11, 12)


def test_show_tells_of_a_writable_one_with_snapshots_of_any_name():
    shown = parse_show(SHOW_HOME)
    assert (shown.uuid, shown.received_uuid, shown.read_only) == (HOME, None, False)
    assert (shown.generation, shown.made) == (10, 7)


@pytest.mark.parametrize("text", ["snapshot", "received", "home"])
def test_show_is_written_so_that_it_reads_the_same(text):
    texts = {"snapshot": SHOW_SNAPSHOT, "received": SHOW_RECEIVED, "home": SHOW_HOME}
    shown = parse_show(texts[text])
    assert parse_show(format_show(shown)) == shown


def test_show_of_old_and_new_versions_is_read_too():
    shown = parse_show(SHOW_OLD)
    assert (shown.uuid, shown.received_uuid, shown.received) == (S1, COPY, 0)
    with_quota = SHOW_SNAPSHOT.format(name="s1") + "\tQuota group:\t\tn/a\n"
    assert parse_show(with_quota) == parse_show(SHOW_SNAPSHOT.format(name="s1"))


BLOCK = SHOW_OLD.partition("\n")[2].replace(str(S1), str(FAKE))


@pytest.mark.parametrize(
    "name",
    ["a b", "a\nb", "\n", " ", "\t", "a\n", "Name: x", "\udcff", "ü", "x\tUUID: \t\ty"]
    + [f"x\n\tUUID: \t\t\t{FAKE}", f"x\n\tUUID: \t\t\t{FAKE}\n\tFlags: \t\t\t-\n"],
)
def test_a_name_in_show_may_hold_anything(name):
    plain = parse_show(SHOW_SNAPSHOT.format(name="s1"))
    assert parse_show(SHOW_SNAPSHOT.format(name=name)) == plain


@pytest.mark.parametrize(
    "name", ["a\tSnapshot(s):", "a\n\tSnapshot(s):\n", f"x\n{BLOCK}", f"x\n{BLOCK}\ty"]
)
def test_a_name_that_imitates_all_of_show_is_never_believed(name):
    try:
        shown = parse_show(SHOW_SNAPSHOT.format(name=name))
    except OutputNotUnderstood:
        return
    assert shown == parse_show(SHOW_SNAPSHOT.format(name="s1"))


@pytest.mark.parametrize("field", ["UUID", "Received UUID", "Flags", "Generation"])
def test_show_without_a_field_is_not_understood(field):
    lines = SHOW_RECEIVED.splitlines(keepends=True)
    text = "".join(line for line in lines if not line.startswith(f"\t{field}:"))
    with pytest.raises(OutputNotUnderstood):
        parse_show(text)


@given(st.text() | st.from_regex(r"(\t(UUID|Flags|Generation): \t+\w*\n)+"))
def test_any_text_is_shown_or_not_understood(text):
    with pytest.raises(OutputNotUnderstood):
        parse_show(text)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("btrfs-progs v6.2\n", (6, 2)),
        ("btrfs-progs v6.6.3 \n-EXPERIMENTAL -INJECT\n", (6, 6)),
        ("btrfs-progs v4.15.1\n", (4, 15)),
        ("btrfs-progs v6.14", (6, 14)),
        ("", None),
        ("sh: btrfs: not found", None),
    ],
)
def test_the_version_is_read(text, version):
    assert parse_version(text) == version


def test_a_dash_is_no_uuid():
    assert parse_uuid(" - ") is None and parse_uuid(f"{S1}\n") == S1
    with pytest.raises(ValueError):
        parse_uuid("")


# What ``list`` answers. The records are btrfs-progs 6.2's, recorded.

RECORD = (
    "ID {id} gen {gen} cgen {made} top level 5 parent_uuid {parent:<36} "
    "received_uuid {received:<36} uuid {uuid} path {path}\n"
)
RECEIVED = "ID {id} gen {gen} top level 5 received_uuid {received:<36} path {path}\n"
OLD_RECORD = RECORD.replace(":<36", "")
#: of a directory ``d`` in the top level subvolume
FACTS = [
    dict(id=257, gen=9, made=9, parent=HOME, received="-", uuid=S1, path="s1"),
    dict(id=258, gen=12, made=10, parent=HOME, received="-", uuid=S2, path="d/a b"),
    dict(id=259, gen=11, made=11, parent="-", received=S1, uuid=COPY, path="d/s1"),
]


def answer(
    facts=FACTS,
    *,
    names=("a b", "s1", "file"),
    path="",
    relative="./d",
    record=RECORD,
    holds=b"",
    tree=5,
):
    """Put together what ``list`` answers: each list forwards and backwards."""
    texts = [
        "".join(form.format(**{k: str(v) for k, v in f.items()}) for f in order)
        for form in (record, RECEIVED)
        for order in (facts, facts[::-1])
    ]
    listed = "".join(f"{name}\0" for name in names) + "\0"
    words = [f"{tree}", f"{path}\n", f"{relative}\n", *texts]
    raw = listed + "\0".join(words) + "\0"
    return raw.encode(errors="surrogateescape") + holds + b"\0"


def found(raw):
    return {s.name: s for s in parse_listing(raw, 1)[0].snapshots}


@pytest.mark.parametrize("record", [RECORD, OLD_RECORD], ids=["6.2", "unpadded"])
def test_a_listing_is_read(record):
    listing, (holds,) = parse_listing(answer(record=record), 1)
    assert listing.names == {"a b", "s1", "file"} and holds is None
    snapshots = {s.name: s for s in listing.snapshots}
    assert set(snapshots) == {"a b", "s1"}
    made = snapshots["a b"]
    assert (made.uuid, made.parent_uuid, made.received_uuid) == (S2, HOME, None)
    assert (made.generation, made.integrity, made.created) == (
        10,
        Integrity.UNKNOWN,
        None,
    )
    copy = snapshots["s1"]
    assert (copy.uuid, copy.origin, copy.integrity) == (COPY, S1, Integrity.INTACT)
    assert listing.carriers == {S1: (259,)}


def test_holds_come_with_the_listing_whatever_is_in_them():
    for holds in (b"", b"{}", b"\1\1\n", b"x" * 9999):
        assert parse_listing(answer(holds=b"1" + holds), 1)[1] == (holds,)


def test_a_record_that_another_machine_did_not_read_is_not_no_record():
    for word, content in ANSWERS.items():
        raw = b"2" + word + b"\0" + b"1x"
        assert parse_listing(answer(holds=raw), 2)[1] == (content, b"x")
    large = b"1" + b" " * (LIMIT_BYTES + 1)
    assert parse_listing(answer(holds=large), 1)[1] == (TOO_LARGE,)


@pytest.mark.parametrize("raw", [b"2", b"2new word", b"3link", b"x", b"1a\0b"])
def test_an_answer_about_a_record_that_is_not_understood_is_an_error(raw):
    with pytest.raises(OutputNotUnderstood):
        parse_listing(answer(holds=raw), 1)


def test_several_files_come_with_the_listing():
    for contents in ((b"{}", b"x"), (None, b""), (b"", None), (None, None)):
        raw = b"\0".join(b"" if c is None else b"1" + c for c in contents)
        assert parse_listing(answer(holds=raw), 2)[1] == contents
    with pytest.raises(OutputNotUnderstood):
        parse_listing(answer(holds=b"1a\0b\0001c"), 2)


def test_an_empty_directory_is_read():
    listing, (holds,) = parse_listing(answer([], names=()), 1)
    assert (listing.snapshots, listing.names, holds) == ((), frozenset(), None)


@pytest.mark.parametrize(
    "name",
    [
        "a\nb",
        "\n",
        "a\n",
        "\na",
        " ",
        " a ",
        "x path y",
        "path ",
        "ID 1 gen 1",
        "\nID 5",
        "\udcff\udcfe",
        "ü",
        "*",
        "-rf",
        "\x1b[31m",
        "x\nID 999 gen 1 cgen 1 top level 5",
        f"x\nID 999 gen 1 top level 5 received_uuid {FAKE} path y",
    ],
)
def test_a_name_in_the_listing_may_hold_anything(name):
    facts = [*FACTS, dict(FACTS[1], id=300, uuid=FAKE, path=f"d/{name}")]
    snapshots = found(answer(facts, names=("a b", "s1", name)))
    assert snapshots[name].uuid == FAKE and len(snapshots) == 3


@pytest.mark.parametrize("tail", ["", "\n"])
def test_a_record_inside_a_name_is_never_believed(tail):
    """Either the name is read as it is, or the listing is not understood."""
    fake = dict(FACTS[0], id=999, uuid=FAKE, path="z").items()
    inside = RECORD.format(**{key: str(value) for key, value in fake}).rstrip("\n")
    name = f"x\n{inside}{tail}"
    facts = [*FACTS, dict(FACTS[1], id=300, path=f"d/{name}")]
    for names in (["s1", name], ["s1", name, "z"], ["s1", "x", name]):
        try:
            snapshots = found(answer(facts, names=names))
        except OutputNotUnderstood:
            continue
        assert FAKE not in {s.uuid for s in snapshots.values()}


def test_a_record_in_a_name_elsewhere_is_never_believed_either():
    """Any user may make subvolumes where he may write; here is one in ``x?ID...``."""
    fake = dict(FACTS[2], id=999, uuid=FAKE, received=S2, path="d/file").items()
    inside = RECORD.format(**{key: str(value) for key, value in fake}).rstrip("\n")
    facts = [*FACTS, dict(FACTS[1], id=300, path=f"tmp/x\n{inside}")]
    try:
        snapshots = found(answer(facts))
    except OutputNotUnderstood:
        return
    assert "file" not in snapshots


def test_what_lies_elsewhere_in_the_subvolume_is_left_out():
    facts = [dict(FACTS[0], path=path) for path in ("s1", "dd/s1", "d2/s1", "x/d/s1")]
    assert found(answer(facts)) == {}
    facts = [dict(FACTS[0], path="d/s1/deeper"), dict(FACTS[1], path="d")]
    assert found(answer(facts)) == {}


@pytest.mark.parametrize(
    ("path", "relative", "full"),
    [
        ("", "", "s1"),
        ("", "./d/e f", "d/e f/s1"),
        ("@data", "", "@data/s1"),
        ("@data", "./d", "@data/d/s1"),
        ("a\nb", "./c\nd", "a\nb/c\nd/s1"),
    ],
)
def test_paths_are_taken_from_the_top_of_the_filesystem(path, relative, full):
    facts = [dict(FACTS[0], path=full)]
    raw = answer(facts, path=path, relative=relative, names=("s1",))
    assert found(raw)["s1"].uuid == S1


def test_another_subvolumes_records_are_not_understood():
    with pytest.raises(OutputNotUnderstood):
        parse_listing(answer(tree=256), 1)
    with pytest.raises(OutputNotUnderstood):
        parse_listing(answer(path="@data"), 1)


@pytest.mark.parametrize(
    "record",
    [
        "ID {id} gen {gen} top level 5 path {path}\n",
        "{id}\t{gen}\t5\t{path}\n",
        "ERROR: not a btrfs filesystem\n",
        "ID {id} gen {gen} cgen {made} top level 5 otime 1 path {path}\n",
    ],
)
def test_another_form_of_the_list_is_not_understood(record):
    with pytest.raises((OutputNotUnderstood, ValueError)):
        parse_listing(answer(record=record), 1)


@given(st.data())
def test_a_listing_that_was_cut_is_not_understood(data):
    raw = answer()
    cut = raw[: data.draw(st.integers(0, raw.rindex(b"\0") - 1))]
    with pytest.raises((OutputNotUnderstood, ValueError)):
        parse_listing(cut, 1)


@given(st.binary())
def test_any_bytes_are_a_listing_or_not_understood(raw):
    try:
        parse_listing(raw, 1)
    except ValueError:  # OutputNotUnderstood is one
        pass


def backwards(*records: bytes) -> tuple[bytes, bytes]:
    return b"".join(records), b"".join(reversed(records))


def test_nested_subvolumes_are_named_relative_to_the_one_they_are_in():
    records = (
        b"ID 260 gen 13 top level 256 path home/nested\n",
        b"ID 261 gen 13 top level 256 path home/sub/ne sted\n",
        b"ID 262 gen 13 top level 256 path home/a\nb\xff\n",
    )
    names = ("nested", "sub/ne sted", "a\nb\udcff")
    assert parse_nested(*backwards(*records), b"home") == names
    at_the_top = [record.replace(b"home/", b"") for record in records]
    assert parse_nested(*backwards(*at_the_top), b"") == names
    assert parse_nested(b"", b"", b"home") == ()


def test_a_nested_subvolume_is_not_invented_by_the_name_of_another():
    records = (
        b"ID 260 gen 13 top level 256 path home/a\n"
        b"ID 999 gen 13 top level 256 path home/b\n",
        b"ID 261 gen 13 top level 256 path home/c\n",
    )
    forged = "a\nID 999 gen 13 top level 256 path home/b"
    assert parse_nested(*backwards(*records), b"home") == (forged, "c")


# Extents, seals, facts.


@pytest.mark.parametrize(
    ("line", "size"),
    [
        ("inode 257 file offset 0 len 3 disk start 0 offset 0 gen 8 flags INLINE f", 3),
        ("inode 258 file offset 0 len 1048576 disk start 13631488 offset 0 gen 7"
         " flags PREALLOC pre", 0),
        ("inode 259 file offset 0 len 1048576 disk start 14680064 offset 0 gen 8"
         " flags NONE big", 1048576),
        ("inode 259 file offset 4096 len 8192 disk start 1 offset 0 gen 8"
         " flags COMPRESS a b", 8192),
        ("inode 260 file offset 0 len 5 disk start 0 offset 0 gen 8 flags"
         " COMPRESS|INLINE x flags PREALLOC y", 5),
        ("inode 261 file offset 0 len 7 disk start 0 offset 0 gen 8 flags NONE ", 7),
        ("transid marker was 13", None),
        ("", None),
        ("b", None),
    ],
)  # fmt: skip
def test_an_extent_counts_unless_it_holds_no_data(line, size):
    found = parse_extent(f"{line}\n".encode())
    assert (found and found.size) == size


#: btrfs-progs 6.2, recorded: a writable subvolume, its snapshot, a received copy
ROOT_ITEMS = f"""\
\titem 14 key (256 ROOT_ITEM 0) itemoff 12895 itemsize 439
\t\tgeneration 13 root_dirid 256 bytenr 31195136 byte_limit 0 bytes_used 16384
\t\tlast_snapshot 10 flags 0x0(none) refs 1
\t\tdrop_progress key (0 UNKNOWN.0 0) drop_level 0
\t\tlevel 0 generation_v2 13
\t\tuuid {HOME}
\t\tparent_uuid 00000000-0000-0000-0000-000000000000
\t\treceived_uuid 00000000-0000-0000-0000-000000000000
\t\tctransid 13 otransid 7 stransid 0 rtransid 0
\titem 18 key (257 ROOT_ITEM 9) itemoff 12385 itemsize 439
\t\tgeneration 9 root_dirid 256 bytenr 30785536 byte_limit 0 bytes_used 16384
\t\tlast_snapshot 9 flags 0x1(RDONLY) refs 1
\t\tdrop_progress key (0 UNKNOWN.0 0) drop_level 0
\t\tlevel 0 generation_v2 9
\t\tuuid {S1}
\t\tparent_uuid {HOME}
\t\treceived_uuid 00000000-0000-0000-0000-000000000000
\t\tctransid 8 otransid 9 stransid 0 rtransid 0
\titem 22 key (259 ROOT_ITEM 0) itemoff 11460 itemsize 439
\t\tgeneration 13 root_dirid 256 bytenr 31227904 byte_limit 0 bytes_used 16384
\t\tlast_snapshot 0 flags 0x1(RDONLY) refs 1
\t\tuuid {COPY}
\t\tparent_uuid 00000000-0000-0000-0000-000000000000
\t\treceived_uuid {S1}
\t\tctransid 12 otransid 11 stransid 8 rtransid 12
"""


def test_root_items_tell_what_a_seal_rests_on():
    items = parse_root_items(ROOT_ITEMS)
    assert items == {
        256: (False, 13, 7, 0),
        257: (True, 8, 9, 0),
        259: (True, 12, 11, 12),
    }
    assert parse_root_items("") == {}


@pytest.mark.parametrize(
    ("transactions", "seal"),
    [
        ((True, 8, 9, 0), Integrity.INTACT),  # a snapshot
        ((True, 9, 9, 0), Integrity.INTACT),
        ((True, 10, 9, 0), Integrity.CHANGED),  # changed after it was made
        ((False, 8, 9, 0), Integrity.CHANGED),  # writable now
        ((True, 12, 11, 12), Integrity.INTACT),  # received in place by another tool
        ((True, 20, 21, 12), Integrity.INTACT),  # published by us
        ((True, 22, 21, 12), Integrity.CHANGED),  # published by us, then changed
    ],
)
def test_a_seal_is_judged_by_its_transactions(transactions, seal):
    assert judge_integrity(*transactions) is seal


HELLO = {
    "uid": "0",
    "privilege": "root",
    "btrfs": "btrfs-progs v6.2",
    "flock": "/usr/bin/flock",
    "protocol": "2",
    "exists": "1",
    "directory": "1",
    # of the directory, and of /
    "stat": "9123683e 9cf0c0cce228620e 4096 131072 128776 109568"
    " ef53 5e2a01c8b6f3d4aa 4096 1 1 1",
    "where": "/mnt/with space",
    "mounts": "29 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
    "90 29 0:41 / /mnt/with\\040space rw,relatime - btrfs /dev/loop4 rw,subvol=/\n",
    "empty": "",
    "writable": "1",
    "leftovers": "20261123T065907Z-0123abcd\n20261123T065908Z-0123abcd",
    "state": "1",
    "containing": "/mnt",
}


def test_facts_are_read_from_what_hello_says():
    facts = parse_facts(HELLO)
    assert facts.privilege is Privilege.ROOT and facts.btrfs_version == (6, 2)
    assert facts.send_protocol == 2 and facts.is_directory and facts.exists
    assert facts.is_btrfs and facts.filesystem == "9cf0c0cce228620e"
    assert facts.size_used == (131072 - 128776) * 4096
    assert facts.size_free == 109568 * 4096
    assert not facts.on_system_disk and not facts.is_empty and facts.is_writable
    assert facts.has_state and len(facts.leftovers) == 2
    assert not facts.is_subvolume and facts.uuid is None


def test_facts_of_a_subvolume_are_read():
    more = {
        "show": SHOW_HOME,
        "path": "home",
        "nested": "ID 260 gen 13 top level 256 path home/b\n"
        "ID 261 gen 13 top level 256 path home/a b",
        "nestedback": "ID 261 gen 13 top level 256 path home/a b\n"
        "ID 260 gen 13 top level 256 path home/b",
        "stat": HELLO["stat"] + " 9123683e 9cf0c0cce2286 4096 1 1 1",
    }
    facts = parse_facts({**HELLO, **more})
    assert facts.is_subvolume and facts.uuid == HOME and facts.received_uuid is None
    assert (
        facts.nested == ("a b", "b") and facts.folder_filesystem == "0009cf0c0cce2286"
    )


@pytest.mark.parametrize(
    ("above", "known"),
    [
        ("", ""),
        ("/mnt/with space", "/mnt/with space"),
        ("/mnt", ""),  # above the mount: another filesystem
    ],
)
def test_a_destination_above_counts_in_its_own_mount(above, known):
    assert parse_facts({**HELLO, "destination_above": above}).destination_above == known


def test_a_read_only_mount_or_subvolume_is_not_writable():
    mounts = HELLO["mounts"].replace("rw,relatime - btrfs", "ro,relatime - btrfs")
    assert not parse_facts({**HELLO, "mounts": mounts}).is_writable
    show = SHOW_SNAPSHOT.format(name="s1")
    more = {"show": show, "path": "s1", "nested": "", "nestedback": ""}
    assert not parse_facts({**HELLO, **more}).is_writable


def test_what_is_no_directory_has_no_further_facts():
    said = {"privilege": "none", "btrfs": "", "exists": "1"}
    facts = parse_facts(said)
    assert facts.exists and not facts.is_directory and facts.btrfs_version is None
    assert facts.privilege is Privilege.NONE and facts.send_protocol == 1


@pytest.mark.parametrize("text", ["", "9123683e", "9123683e 1 2 3 4", "a b c d e f"])
def test_another_form_of_stat_is_not_understood(text):
    with pytest.raises(ValueError):
        parse_facts({**HELLO, "stat": text})


def test_the_filesystem_id_has_sixteen_digits_as_here():
    stat = HELLO["stat"].replace("9cf0", "cf0")
    stat = stat.replace("5e2a01c8b6f3d4aa", "cf0c0cc00000001")
    facts = parse_facts({**HELLO, "stat": stat})
    assert facts.filesystem == "0cf0c0cce228620e"
    assert facts.on_system_disk


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("9cf0c0cce228620e", "9cf0c0cce228620e", True),
        ("9cf0c0cce228620e", "9cf0c0cce2286301", True),  # another subvolume
        ("9cf0c0cce228620e", "9cf0c0cde228620e", False),
        ("0000000000000000", "0000000000000000", False),  # they have none
    ],
)
def test_the_first_half_of_the_id_is_the_filesystem(one, other, same):
    assert is_same_filesystem(one, other) is same


@given(st.dictionaries(st.sampled_from(sorted(HELLO)), st.text()))
def test_any_answer_is_facts_or_an_error_that_the_host_reports(changes):
    try:
        parse_facts({**HELLO, **changes})
    except (ValueError, KeyError):
        pass


@pytest.mark.parametrize(
    ("stderr", "meaning"),
    [
        ("ERROR: send ioctl failed with -28: No space left on device", "full"),
        ("ERROR: cannot find parent subvolume", "parent"),
        ("ERROR: unexpected EOF in stream", "too early"),
        ("sudo: a password is required", "password"),
        ("ERROR: can't perform the search: Operation not permitted", "root"),
        ("ERROR: cannot snapshot '/x': Text file busy", "swap file"),
        ("ERROR: something new", ""),
        ("", ""),
    ],
)
def test_what_btrfs_says_is_explained(stderr, meaning):
    said = explain(stderr)
    assert (meaning in said) if meaning else said == ""


@pytest.mark.parametrize(
    ("said", "ahead"),
    [("1700000000", 100), ("1699999800", -100), ("", None), ("soon", None)]
    + [("9" * 13, None), ("-5", None), ("٣", None)],
)
def test_the_clock_of_another_machine_is_compared_with_ours(said, ahead):
    answer = {**HELLO, "clock": said}
    assert parse_facts(answer, 1699999900.0).clock_ahead_s == ahead
    assert parse_facts(answer).clock_ahead_s is None


def test_a_stream_that_is_cut_off_is_not_one_that_begins_again() -> None:
    damaged = "ERROR: the stream is damaged at byte 9: "
    assert is_garbled(damaged + "unknown command 99")
    assert is_garbled("ERROR: crc32 mismatch in command")
    assert not is_garbled(damaged + "it ends before its END command")
    assert not is_garbled("ERROR: unexpected EOF in stream")
