"""Records: what is not fully understood is never taken for "nothing"."""

import json
import os
import socket
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btrfs_backup_ng.core.record import (
    ANSWERS,
    DIRECTORY,
    LIMIT_BYTES,
    LINK,
    SPECIAL,
    TOO_LARGE,
    Unread,
    Unreadable,
)
from btrfs_backup_ng.core.value import replace
from btrfs_backup_ng.host.entry import read_record
from btrfs_backup_ng.place.holds import parse_holds
from btrfs_backup_ng.place.sources import (
    Series,
    SourceIdentity,
    format_sources,
    parse_sources,
    why_unknown,
    with_one_source,
    with_source,
)
from btrfs_backup_ng.place.verified import parse_verified
from tests.core.making import uid

TEXT = st.text() | st.binary().map(lambda raw: raw.decode(errors="surrogateescape"))
OWNERS = st.lists(st.builds(SourceIdentity, st.uuids(), TEXT), max_size=3).map(tuple)
SERIES = st.builds(
    Series,
    OWNERS,
    st.frozensets(st.uuids(), max_size=3),
    st.dictionaries(st.uuids(), st.uuids(), max_size=3),
    st.sampled_from(["", "latest=3", "of a newer version"]),
)
SOURCES = st.dictionaries(TEXT, SERIES, max_size=3)
EXAMPLE = {"x-": Series((SourceIdentity(uid(1), "host:/home"),), frozenset({uid(2)}))}
NOW = datetime(2026, 11, 26, 12, tzinfo=timezone.utc)


@given(SOURCES)
def test_sources_survive_being_written(origins):
    assert parse_sources(format_sources(origins)) == origins


@given(st.binary())
def test_any_bytes_are_unreadable(content):
    for parse in (parse_sources, parse_holds, parse_verified):
        with pytest.raises(Unreadable):
            parse(content)


@given(SOURCES, st.data())
def test_a_record_of_sources_that_was_cut_is_unreadable(origins, data):
    content = format_sources(origins).rstrip()
    length = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(Unreadable):
        parse_sources(content[:length])


@pytest.mark.parametrize(
    "change",
    [
        {"prefixes": None},
        {"prefixes": []},
        {"prefixes": {"x-": None}},
        {"prefixes": {"x-": {}}},
        {"prefixes": {"x-": "text"}},
        {"prefixes": {"x-": [["not a UUID", "/home"]]}},
        {"prefixes": {"x-": [[str(uid(1)), 7]]}},
        {"prefixes": {"x-": [[str(uid(1))]]}},
        {"prefixes": {"x-": [[str(uid(1)), "/home", "more"]]}},
        {"prefixes": {"x-": ["ab"]}},
        {"unknown": []},
        {"unknown": {"x-": {}}},
        {"unknown": {"x-": "text"}},
        {"unknown": {"x-": [7]}},
        {"unknown": {"y-": []}},
        {"policies": []},
        {"policies": {"x-": 3}},
        {"policies": {"y-": "latest=3"}},
        {"version": True},
        {"version": 1.0},
        {"version": "1"},
        {"version": 2},
        {"version": 0},
    ],
    ids=json.dumps,
)
def test_sources_of_another_shape_are_unreadable(change):
    fields = json.loads(format_sources(EXAMPLE))
    with pytest.raises(Unreadable):
        parse_sources(json.dumps({**fields, **change}).encode())


@pytest.mark.parametrize("version", [2, 9999, 0, -1, 10_000, 10**4000, "2", 2.0, True])
def test_only_what_a_newer_version_wrote_is_moved_to_where_that_looks(version):
    with pytest.raises(Unreadable) as caught:
        parse_sources(b'{"version": %s}' % json.dumps(version).encode())
    newer = type(version) is int and 1 < version < 10_000
    word = f"version-{version}" if newer else "unreadable"
    name = caught.value.name_aside("sources.json", NOW)
    assert name == f"sources.json.{word}-20261126T120000Z"


def test_what_was_not_read_is_unreadable_with_its_reason():
    for unread in (*ANSWERS.values(), Unread("it is away")):
        for parse in (parse_sources, parse_holds, parse_verified):
            with pytest.raises(Unreadable, match=unread.reason):
                parse(unread)


def _directory(path: Path) -> None:
    path.mkdir()


def _link(path: Path) -> None:
    path.symlink_to("/dev/null")


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def _large(path: Path) -> None:
    path.touch()
    os.truncate(path, LIMIT_BYTES + 1)


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (_directory, DIRECTORY),
        (_link, LINK),
        (_dangling, LINK),
        (os.mkfifo, SPECIAL),
        (_socket, SPECIAL),
        (_large, TOO_LARGE),
    ],
)
def test_what_is_no_small_file_is_not_read(
    tmp_path: Path,
    make: Callable[[Path], None],
    found: Unread,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # as the name of a socket must be short
    make(Path("record"))
    assert read_record("record") == found
    assert read_record("none") is None
    Path("whole").write_bytes(b"\0" * LIMIT_BYTES)
    assert read_record("whole") == b"\0" * LIMIT_BYTES
    assert read_record("whole/record") == Unread(
        "reading failed: Not a directory", True
    )


def test_a_prefix_is_known_only_if_the_record_names_it():
    content = format_sources(EXAMPLE)
    assert why_unknown(content, "/r", "x-") == why_unknown(None, "/r", None) == ()
    assert "does not name the source" in why_unknown(content, "/r", "y-")[0]
    assert "is missing" in why_unknown(None, "/r", "x-")[0]
    assert "cannot be read" in why_unknown(b"", "/r", None)[0]
    assert "it is a symbolic link" in why_unknown(LINK, "/r", "x-")[0]


def test_a_source_that_signs_in_is_the_last_and_there_once():
    first, second = SourceIdentity(uid(1), "/a"), SourceIdentity(uid(2), "/b")
    moved = SourceIdentity(uid(1), "/c")
    series = with_source(with_source(Series(), first), second)
    assert with_source(series, moved) == Series((second, moved))


def test_what_is_settled_is_of_one_source():
    both = Series(
        (SourceIdentity(uid(1), "/a"), SourceIdentity(uid(2), "/b")),
        frozenset({uid(3)}),
    )
    origins = with_one_source({**EXAMPLE, "y-": both}, "y-")
    assert origins == {**EXAMPLE, "y-": Series()}
    one = with_one_source(EXAMPLE, "x-")["x-"]
    assert one == Series((SourceIdentity(uid(1), "host:/home"),))
    assert with_one_source({}, "z-") == {"z-": Series()}
    # A policy was not applied to those whose source was unknown.
    for before, after in ((both, ""), (EXAMPLE["x-"], ""), (one, "latest=3")):
        recorded = {"x-": replace(before, policy="latest=3")}
        assert with_one_source(recorded, "x-")["x-"].policy == after
