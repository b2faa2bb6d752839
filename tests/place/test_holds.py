"""The recorded holds: what is not fully understood is never taken as "nothing"."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btrfs_backup_ng.core.record import Unreadable
from btrfs_backup_ng.place.holds import (
    HeldPlace,
    Hold,
    Why,
    format_holds,
    parse_holds,
    parse_record,
    recorded_locations,
    why_unknown,
)
from tests.core.making import uid

TEXT = st.text() | st.binary().map(lambda raw: raw.decode(errors="surrogateescape"))
HOLDS = st.frozensets(
    st.builds(Hold, st.uuids(), TEXT, st.sampled_from(Why)), min_size=1, max_size=4
)
RECORDS = st.dictionaries(
    st.builds(HeldPlace, TEXT, TEXT, TEXT, TEXT), HOLDS, max_size=4
)
EXAMPLE = {
    HeldPlace("/mnt/usb", "0123456789abcdef"): frozenset(
        {Hold(uid(1), "home-1", Why.BASE), Hold(uid(2), "home-2", Why.SENDING)}
    ),
    HeldPlace("ssh://nas/x"): frozenset({Hold(uid(1), "home-1", Why.UNKNOWN)}),
}


@given(RECORDS, st.dictionaries(st.tuples(TEXT, TEXT), TEXT, max_size=3))
def test_what_is_recorded_survives_being_written(records, policies):
    content = format_holds(records, policies)
    assert parse_holds(content) == records
    assert parse_record(content).policies == policies
    assert parse_record(format_holds(records)).policies == {}


@pytest.mark.parametrize(
    "wrong", [{}, [7], [{}], [{"folder": "", "prefix": "x-", "policy": 3}]]
)
def test_policies_of_another_shape_are_unreadable(wrong):
    for parse in (parse_holds, parse_record):
        with pytest.raises(Unreadable):
            parse(
                json.dumps({**json.loads(format_holds({})), "policies": wrong}).encode()
            )


@pytest.mark.parametrize("wrong", [{}, [7], "/boot"])
def test_mounts_of_another_shape_make_the_needs_unknown(wrong):
    """Otherwise the record would be moved aside, and the run would delete by none."""
    content = json.dumps({**json.loads(format_holds({})), "mounts": wrong}).encode()
    assert why_unknown(content, "holds.json", [])


@given(RECORDS, st.randoms())
def test_the_same_holds_are_written_the_same_way(records, random):
    items = list(records.items())
    random.shuffle(items)
    assert format_holds(dict(items)) == format_holds(records)


def test_a_place_without_holds_is_not_written():
    assert parse_holds(format_holds({HeldPlace("/a"): frozenset()})) == {}


def test_it_is_a_text_file_that_a_person_can_read():
    text = format_holds(EXAMPLE)
    assert text.isascii() and text.endswith(b"}\n") and b"last common" in text


@given(st.binary())
def test_any_bytes_are_holds_or_unreadable(content):
    with pytest.raises(Unreadable):
        parse_holds(content)


@given(RECORDS.filter(bool), st.data())
def test_a_file_that_was_cut_is_unreadable(records, data):
    content = format_holds(records).rstrip()
    length = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(Unreadable):
        parse_holds(content[:length])


@given(RECORDS.filter(bool), st.data())
def test_a_changed_byte_raises_nothing_but_unreadable(records, data):
    content = bytearray(format_holds(records))
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(
        st.integers(0, 255)
    )
    try:
        parse_holds(bytes(content))
    except Unreadable:
        pass


def paths(value, at=()):
    """Name every place in a JSON document."""
    yield at
    if isinstance(value, (dict, list)):
        keys = list(value) if isinstance(value, dict) else range(len(value))
        for key in keys:
            yield from paths(value[key], (*at, key))


def document(at, value=None, *, drop=False):
    """Return the example with one part replaced or dropped."""
    whole = {"": copy.deepcopy(json.loads(format_holds(EXAMPLE)))}
    part: Any = whole
    keys = ["", *at]
    for key in keys[:-1]:
        part = part[key]
    last = keys[-1]
    if drop:
        del part[last]
    else:
        part[last] = value
    return json.dumps(whole[""]).encode()


EVERYWHERE = [at for at in paths(json.loads(format_holds(EXAMPLE))) if at]
WRONG: list[object] = [None, True, 7, 1.5, "wrong", [], {}, [[]], [{}], ["x"], {"x": 1}]


def kind(value):
    return type(value).__name__


@pytest.mark.parametrize("at", EVERYWHERE, ids=lambda at: ".".join(map(str, at)))
def test_a_value_of_another_type_is_unreadable(at):
    part = json.loads(format_holds(EXAMPLE))
    for key in at:
        part = part[key]
    for value in WRONG:
        if kind(value) != kind(part):
            with pytest.raises(Unreadable):
                parse_holds(document(at, value))
                pytest.fail(f"{at} = {value!r} was taken")


@pytest.mark.parametrize(
    "at",
    [at for at in EVERYWHERE if isinstance(at[-1], str)],
    ids=lambda at: ".".join(map(str, at)),
)
def test_a_missing_value_is_unreadable(at):
    with pytest.raises(Unreadable):
        parse_holds(document(at, drop=True))


@pytest.mark.parametrize("version", [0, 2, -1, "1", 1.5, None, 10**30])
def test_another_version_is_unreadable_and_named(version):
    with pytest.raises(Unreadable, match="version"):
        parse_holds(document(("version",), version))


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (("destinations", 0, "holds", 0, "origin"), "not-a-uuid"),
        (("destinations", 0, "holds", 0, "why"), "just because"),
    ],
)
def test_a_word_that_means_nothing_is_unreadable(at, value):
    with pytest.raises(Unreadable):
        parse_holds(document(at, value))


def test_holds_of_a_place_that_is_written_twice_are_not_lost():
    whole = json.loads(format_holds(EXAMPLE))
    first = whole["destinations"][0]
    for hold in first["holds"]:
        whole["destinations"].append({**first, "holds": [hold]})
    try:
        records = parse_holds(json.dumps(whole).encode())
    except Unreadable:
        return
    assert records == EXAMPLE


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"1",
        b'"x"',
        b"\xff\xfe",
        b"\0" * 4096,
        b'{"version": 1}',
        b'{"version": 1, "destinations": null}',
        b'{"version": 1, "destinations": ""}',
        b'{"version": 1, "destinations": {}}',
        b"[" * 100_000,
        b'{"version": ' + b"1" * 5000 + b"}",
    ],
)
def test_damage_is_unreadable(content):
    with pytest.raises(Unreadable):
        parse_holds(content)


def test_the_places_that_holds_are_recorded_for_are_listed():
    assert recorded_locations(format_holds(EXAMPLE)) == ["/mnt/usb", "ssh://nas/x"]
    assert recorded_locations(None) == []
