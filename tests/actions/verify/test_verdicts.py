"""What verifying decides without looking anywhere: identity, parts, the record."""

import json
from datetime import datetime, timedelta, timezone
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btrfs_backup_ng.__util__ import UsageError
from btrfs_backup_ng.actions.verify.identity import (
    Check,
    Reference,
    carried_elsewhere,
    find_duplicates,
    judge_against,
    judge_alone,
    judge_bases,
    judge_common,
    judge_next,
    judge_reference,
    judgeable,
    original_of,
    suspects,
    worst,
)
from btrfs_backup_ng.actions.verify.place import inspect_each
from btrfs_backup_ng.core.choose import is_in_part, pick
from btrfs_backup_ng.core.cleared import parse_cleared
from btrfs_backup_ng.core.model import Integrity, Listing, Result, Snapshot
from btrfs_backup_ng.core.record import Unreadable
from btrfs_backup_ng.core.value import replace
from btrfs_backup_ng.place.verified import (
    Depth,
    Verified,
    format_verified,
    last_verified,
    parse_verified,
)

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=timezone.utc)


def snapshot(number: int, received: UUID | None = None, **changes: object) -> Snapshot:
    made = Snapshot(
        name=f"x-20260101-{number:06}",
        created=NOW + timedelta(seconds=number),
        uuid=uuid4(),
        parent_uuid=None,
        received_uuid=received,
        generation=number,
        tree_id=256 + number,
    )
    return replace(made, **changes)


def pairs(count: int) -> tuple[list[Snapshot], list[Snapshot]]:
    here = [snapshot(number) for number in range(count)]
    return here, [snapshot(n, one.uuid) for n, one in enumerate(here)]


def alone(
    one: Snapshot, *others: Snapshot, **changes: Integrity
) -> set[tuple[Check, Result]]:
    duplicates = find_duplicates(Listing((one, *others)))
    found = judge_alone(one, one.integrity, duplicates, {}, is_backup=True)
    return {(finding.check, finding.result) for finding in found}


def test_a_good_backup_gives_no_finding():
    _, (one, other) = pairs(2)
    assert alone(one, other) == set()


def test_each_damage_of_a_backup_alone_is_found():
    _, (one, other) = pairs(2)
    lost = replace(one, received_uuid=None)
    assert alone(lost, other) == {(Check.RECEIVED_UUID, Result.BAD)}
    broken = replace(one, integrity=Integrity.CHANGED)
    assert alone(broken, other) == {(Check.SEAL, Result.BAD)}
    doubtful = replace(one, integrity=Integrity.UNKNOWN)
    assert alone(doubtful, other) == {(Check.SEAL, Result.UNCHECKED)}
    twin = replace(other, received_uuid=one.received_uuid)
    assert alone(one, twin) == {(Check.DUPLICATE, Result.BAD)}


@pytest.mark.parametrize(
    ("seal", "result"),
    [
        (Integrity.INTACT, Result.GOOD),
        (Integrity.CHANGED, Result.BAD),
        (Integrity.UNKNOWN, Result.UNCHECKED),
    ],
)
def test_who_else_carries_the_received_uuid_counts(seal: Integrity, result: Result):
    _, (one,) = pairs(1)
    assert one.received_uuid
    listing = Listing((one,), carriers={one.received_uuid: (one.tree_id, 999)})
    assert carried_elsewhere(listing) == {one.received_uuid: (999,)}
    others = {one.received_uuid: seal}
    (found,) = judge_alone(one, Integrity.INTACT, {}, others, is_backup=True)
    assert (found.check, found.result) == (Check.DUPLICATE, result)


def against(
    copy: Snapshot, here: list[Snapshot], there: list[Snapshot]
) -> list[Result]:
    reference = Reference.of("/home", here)
    origins = {one.origin for one in there}
    found = judge_against(copy, reference, origins)
    return [finding.result for finding in found]


def test_a_copy_of_something_else_under_the_same_name_is_bad():
    here, there = pairs(2)
    assert against(there[0], here, there) == []
    anew = [snapshot(0), here[1]]
    assert against(there[0], anew, there) == [Result.BAD]
    beside = snapshot(0, anew[0].uuid, name="x-20260101-000000_1")
    assert against(there[0], anew, [*there, beside]) == [Result.GOOD]
    assert against(there[0], here[1:], there) == [Result.GOOD]  # deleted at the source


def test_copies_of_what_shares_a_uuid_are_told_apart_by_name():
    shared = uuid4()
    here = [snapshot(number, shared) for number in range(3)]
    there = [snapshot(number, shared) for number in range(3)]
    reference = Reference.of("/home", here)
    assert original_of(there[1], reference) == [here[1]]
    renamed = replace(there[1], name=f"{here[1].name}_1")
    assert original_of(renamed, reference) == [here[1]]
    stranger = replace(there[1], name="x-20250101-000000")
    assert original_of(stranger, reference) == here
    assert against(stranger, here, there) == [Result.UNCHECKED]
    (finding,) = judge_reference(reference)
    assert finding.result is Result.BAD and str(shared) in finding.text


def test_what_lost_its_received_uuid_is_compared_with_its_namesake():
    here, there = pairs(2)
    lost = replace(there[1], received_uuid=None)
    reference = Reference.of("/home", here)
    assert original_of(lost, reference) == [here[1]]
    assert against(lost, here, there) == []  # that it lost it is said already


def test_a_parent_that_is_missing_is_found():
    here, there = pairs(3)
    base = {here[2].uuid: here[2].name}
    assert list(judge_bases(there, base)) == []
    (found,) = judge_bases(there[:2], base)
    assert found.result is Result.BAD and here[2].name in found.text


def test_copies_of_nothing_at_a_place_are_found():
    here, there = pairs(3)
    reference = Reference.of("/home", here)
    assert list(judge_common(there, reference)) == []
    (found,) = judge_common([snapshot(9, uuid4())], reference)
    assert "no snapshot is common" in found.text and found.result is Result.BAD
    assert list(judge_common([], reference)) == []  # nothing was sent yet


@pytest.mark.parametrize(
    ("is_incremental", "result"),
    [
        (True, None),
        (False, Result.BAD),
        (None, Result.UNCHECKED),
    ],
)
def test_a_next_backup_that_is_full_is_bad_if_it_is_not_the_first(
    is_incremental: bool | None, result: Result | None
):
    told = "as it is"
    found = list(judge_next(is_incremental, "/home", told, has_copies=True))
    assert [one.result for one in found] == ([result] if result else [])
    assert all("the next backup from /home is as it is" in one.text for one in found)
    assert list(judge_next(is_incremental, "/home", told, has_copies=False)) == []


def test_what_is_ours_and_what_only_looks_like_it():
    received = snapshot(0, uuid4(), name="by-me")
    foreign = snapshot(1, name="their own")
    names = frozenset({"by-me", "their own", "x-20260101-000009", "file"})
    listing = Listing((received, foreign), names)
    assert judgeable(listing) == [received]
    assert suspects(listing) == ["x-20260101-000009"]


def test_the_worst_counts_and_nothing_is_good():
    good, bad, unchecked = Result.GOOD, Result.BAD, Result.UNCHECKED
    assert worst([]) is good
    assert worst([good, unchecked]) is unchecked
    assert worst([unchecked, bad, good]) is bad


@given(st.sets(st.integers(0, 40)), st.integers(0, 40))
def test_seals_are_settled_with_few_looks(broken: set[int], count: int):
    looks = 0

    def look(some: object) -> Integrity:
        nonlocal looks
        looks += 1
        assert isinstance(some, list | range)
        return Integrity.CHANGED if broken & set(some) else Integrity.INTACT

    seals = inspect_each(look, range(count))
    assert {i for i, seal in seals.items() if seal is Integrity.CHANGED} == {
        i for i in broken if i < count
    }
    assert set(seals) == set(range(count))
    assert looks <= 1 + 2 * 7 * len(broken)


# Which ones.


def test_words_mean_snapshots():
    _, there = pairs(3)
    assert pick([], there, "/b", NOW) == pick(["all"], there, "/b", NOW) == there
    assert pick(["latest"], there, "/b", NOW) == [there[2]]
    assert pick([there[1].name, there[0].name], there, "/b", NOW) == there[:2]
    for uuid in (there[1].uuid, there[1].received_uuid):
        assert pick([str(uuid)[:9]], there, "/b", NOW) == [there[1]]
        assert pick([str(uuid).upper()], there, "/b", NOW) == [there[1]]
    for word in ("x-2026", "", str(there[1].uuid)[:3], "yesterday"):
        with pytest.raises(UsageError):
            pick([word], there, "/b", NOW)
    with pytest.raises(UsageError):
        pick(["latest"], [], "/b", NOW)


@given(st.lists(st.uuids(), min_size=1, max_size=30, unique=True), st.integers(1, 40))
def test_each_snapshot_is_in_exactly_one_part_wherever_it_is(
    origins: list[UUID], parts: int
):
    for origin in origins:
        here, there = snapshot(0, uuid=origin), snapshot(7, origin)
        numbers = [n for n in range(1, parts + 1) if is_in_part(here, n, parts)]
        assert len(numbers) == 1
        assert is_in_part(there, numbers[0], parts)


def test_parts_are_of_about_one_size():
    sizes = [0] * 10
    for number in range(2000):
        one = snapshot(0, uuid=UUID(int=number))
        sizes[next(n for n in range(10) if is_in_part(one, n + 1, 10))] += 1
    assert 140 < min(sizes) and max(sizes) < 260


# The record.

VERIFIED = st.builds(
    Verified,
    st.sampled_from(Depth),
    st.datetimes(timezones=st.just(timezone.utc)).map(
        lambda time: time.replace(microsecond=0)
    ),
    st.sampled_from([Result.GOOD, Result.BAD]),
)
RECORDS = st.dictionaries(
    st.uuids(),
    st.lists(VERIFIED, min_size=1, max_size=3).map(
        lambda seen: {one.level: one for one in seen}
    ),
    max_size=4,
)


@settings(max_examples=30)
@given(RECORDS)
def test_a_record_is_read_as_it_was_written(record: dict[UUID, dict[Depth, Verified]]):
    cleared = {uuid: number for number, uuid in enumerate(record)}
    content = format_verified(record, cleared)
    assert (parse_verified(content), parse_cleared(content)) == (record, cleared)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"version": 2, "snapshots": {}}',
        b'{"version": true, "snapshots": {}}',
        b'{"version": 1}',
        b'{"version": 1, "snapshots": {"x": {}}}',
        b'{"version": 1, "snapshots": []}',
        json.dumps(
            {
                "version": 1,
                "snapshots": {
                    str(uuid4()): {"data": {"when": "2026-01-01", "result": "good"}}
                },
            }
        ).encode(),
        b"[" * 100_000,
    ],
)
def test_a_damaged_record_is_not_understood(content: bytes):
    with pytest.raises(Unreadable):
        parse_verified(content)


def test_no_record_says_nothing():
    assert parse_verified(None) == {}
    assert last_verified({}, uuid4()) is None


def test_the_most_thorough_counts_and_bad_stays_bad():
    uuid, later = uuid4(), NOW + timedelta(days=3)
    data = Verified(Depth.DATA, NOW, Result.GOOD)
    identity = Verified(Depth.IDENTITY, later, Result.GOOD)
    record = {uuid: {Depth.DATA: data, Depth.IDENTITY: identity}}
    assert last_verified(record, uuid) == data
    bad = replace(data, result=Result.BAD)
    assert last_verified({uuid: {**record[uuid], Depth.DATA: bad}}, uuid) == bad
    spoilt = replace(identity, result=Result.BAD)
    assert last_verified({uuid: {**record[uuid], Depth.IDENTITY: spoilt}}, uuid) == (
        spoilt
    )
