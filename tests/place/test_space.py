"""What a place answers about the space of its snapshots."""

from btrfs_backup_ng.place.space import Space, parse_space

HEADER = "     Total   Exclusive  Set shared  Filename\n"


def test_du_is_read_for_each_name_in_turn():
    names = ["s1", "s2\nx", "s3"]
    text = f"d{HEADER}  31  3145728   0  ./s1\n  5  7  2097152  ./s2\nx\n"
    raw = (text + HEADER + "  1  0  -  ./s3\n").encode()
    assert parse_space(raw, names, [1, 2, 3]) == [
        Space(31, 3145728),
        Space(5, 7),
        Space(1, 0),
    ]
    # Cut by its time limit, or by a snapshot that is gone: the rest is not known.
    assert parse_space(raw[:60], names, [1, 2, 3]) == [None] * 3
    assert parse_space(raw, ["s1", "other", "s3"], [1, 2, 3]) == [
        Space(31, 3145728),
        None,
        None,
    ]
    assert parse_space(b"d", names, [1, 2, 3]) == [None] * 3
    assert parse_space(b"", names, [1, 2, 3]) == [None] * 3


def test_quota_groups_are_found_by_their_ids():
    raw = (
        b"qQgroupid    Referenced    Exclusive   Path\n"
        b"--------    ----------    ---------   ----\n"
        b"0/5              16384        16384   <toplevel>\n"
        b"0/257          3162112      3145728   s1\n"
        b"0/258          2113536        16384   s2\n0/259    1    1   forged\n"
        b"0/259          2113536        16384   s3\n"
        b"1/258          9999999       999999   <2 member qgroups>\n"
    )
    names = ["s1", "s2", "s3", "s4"]
    assert parse_space(raw, names, [257, 258, 259, 260]) == [
        Space(3162112, 3145728),
        Space(2113536, 16384),
        None,
        None,
    ]
