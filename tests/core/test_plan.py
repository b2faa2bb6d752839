"""What is sent, and from which parent: properties over all kinds of worlds."""

import random
from typing import NamedTuple
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btrfs_backup_ng.core.model import Incremental, Integrity, Listing, Snapshot
from btrfs_backup_ng.core.naming import free_name, stem_of
from btrfs_backup_ng.core.plan import (
    TransferPlan,
    WhyFull,
    plan_transfers,
    plan_whole_stream,
)
from btrfs_backup_ng.core.value import replace
from tests.core.making import copy_of, listing, made, uid, with_transfers

AUTO, NEVER = Incremental.AUTO, Incremental.NEVER


class World(NamedTuple):
    """A source, a destination, and what is wanted of the one at the other.

    ``truth`` is what a close look at the destination finds, for each origin.
    """

    here: Listing
    there: Listing
    wanted: tuple[Snapshot, ...]
    related: frozenset[UUID]
    truth: dict[UUID, Integrity]

    def plan(
        self, there: Listing | None = None, incremental: Incremental = AUTO
    ) -> TransferPlan:
        """Plan as a run does: with a close look wherever one is asked for."""
        seals: dict[UUID, Integrity] = {}
        here, uuids = self.here, {s.uuid for s in self.wanted}
        while True:
            plan = plan_transfers(
                [s for s in here.snapshots if s.uuid in uuids],
                here,
                self.there if there is None else there,
                related=self.related,
                integrity_there=seals,
                incremental=incremental,
            )
            if asked := plan.doubtful_here:
                assert asked.integrity is Integrity.UNKNOWN
                here = replace(
                    here,
                    snapshots=tuple(
                        self.looked_at(s) if s == asked else s for s in here.snapshots
                    ),
                )
            elif plan.doubtful:
                assert plan.doubtful not in seals, "asked twice"
                seals[plan.doubtful] = self.truth.get(plan.doubtful, Integrity.INTACT)
            else:
                return plan

    def looked_at(self, snapshot: Snapshot) -> Snapshot:
        """Return a snapshot of the source as a close look shows it."""
        seal = Integrity.INTACT if snapshot.generation % 2 else Integrity.CHANGED
        return replace(snapshot, integrity=seal)

    def shuffled(self, seed: int) -> "World":
        """Return the same in another order."""

        def mixed(snapshots: tuple[Snapshot, ...]) -> tuple[Snapshot, ...]:
            return tuple(random.Random(seed).sample(snapshots, len(snapshots)))

        return World(
            replace(self.here, snapshots=mixed(self.here.snapshots)),
            replace(self.there, snapshots=mixed(self.there.snapshots)),
            mixed(self.wanted),
            self.related,
            self.truth,
        )


def missing(world: World) -> list[Snapshot]:
    """Tell in other words than the planner's which snapshots are not there."""
    arrived = {s.received_uuid for s in world.there.snapshots if s.received_uuid}
    return [s for s in world.wanted if s.origin not in arrived]


@st.composite
def worlds(draw: st.DrawFn, repeated: bool = False) -> World:
    """Draw a world; ``repeated`` origins are those of a restored, writable source."""
    count = draw(st.integers(0, 7))
    generations = draw(st.permutations(range(1, count + 1)))
    origins = [None, *(uid(n) for n in range(50, 50 + count))]
    sources: list[Snapshot] = []
    seals = st.sampled_from(
        [Integrity.INTACT, Integrity.INTACT, Integrity.UNKNOWN, Integrity.CHANGED]
    )
    for number in range(count):
        received = draw(st.sampled_from(origins))
        if received and not repeated:
            origins.remove(received)
        again = sources and draw(st.sampled_from([False, False, True]))
        name = free_name(sources[-1].name, {s.name for s in sources}) if again else None
        sources.append(
            made(
                number,
                name=name,
                received=received,
                generation=generations[number],
                integrity=draw(seals),
            )
        )
    copies: list[Snapshot] = []
    truth = {}
    for snapshot in sources:
        for place in range(draw(st.sampled_from([0, 0, 1, 1, 1, 2]))):
            name = snapshot.name if place == 0 else f"other-{snapshot.name}"
            copies.append(
                copy_of(
                    snapshot,
                    name=name,
                    integrity=draw(seals),
                    number=snapshot.uuid.int * 10 + place,
                )
            )
        truth[snapshot.origin] = draw(
            st.sampled_from([Integrity.INTACT, Integrity.CHANGED])
        )
    for copy in copies:
        if copy.integrity is Integrity.CHANGED and copy.received_uuid:
            truth[copy.received_uuid] = Integrity.CHANGED
    taken = {copy.name for copy in copies}
    strangers = [
        made(100 + number, name=snapshot.name, received=draw(st.none() | st.uuids()))
        for number, snapshot in enumerate(sources)
        if snapshot.name not in taken and draw(st.booleans())
    ]
    others = draw(st.sets(st.sampled_from([f"{s.name}_1" for s in sources] or ["x"])))
    wanted = [s for s in sources if draw(st.booleans())]
    related = {s.uuid for s in sources if draw(st.booleans())}
    return World(
        listing(sources),
        listing(
            [*copies, *strangers],
            others=others,
            hidden=draw(st.sampled_from([0, 0, 1])),
        ),
        tuple(wanted),
        frozenset(related | {s.uuid for s in wanted}),
        truth,
    )


@given(worlds(), st.sampled_from([AUTO, Incremental.REQUIRED]))
def test_every_parent_is_at_the_destination_when_its_turn_comes(world, incremental):
    arrived = {s.received_uuid for s in world.there.snapshots if s.received_uuid}
    for transfer in world.plan(incremental=incremental).transfers:
        if transfer.parent:
            assert transfer.parent.origin in arrived
        assert (transfer.parent is None) == (transfer.why_full is not None)
        arrived.add(transfer.snapshot.origin)


@given(worlds())
def test_each_missing_snapshot_is_sent_once_in_the_order_of_its_making(world):
    sent = [transfer.snapshot.uuid for transfer in world.plan().transfers]
    by_making = sorted(missing(world), key=lambda s: (s.generation, s.created, s.name))
    assert sent == [snapshot.uuid for snapshot in by_making]
    assert world.plan().present == len(world.wanted) - len(sent)


@given(worlds())
def test_there_is_nothing_to_send_after_a_plan_was_carried_out(world):
    after = with_transfers(world.there, world.plan().transfers)
    again = world.plan(after)
    assert again.transfers == () and again.present == len(world.wanted)


@given(worlds(repeated=True))
def test_there_is_nothing_to_send_twice_with_repeated_origins_either(world):
    after = with_transfers(world.there, world.plan().transfers)
    assert [t.snapshot.name for t in world.plan(after).transfers] == []


@given(worlds(repeated=True), st.integers(0, 9))
def test_the_order_of_the_input_is_irrelevant(world, seed):
    assert world.shuffled(seed).plan() == world.plan()


@given(worlds(repeated=True))
def test_without_incremental_nothing_has_a_parent(world):
    for transfer in world.plan(incremental=NEVER).transfers:
        assert (transfer.parent, transfer.why_full) == (None, WhyFull.ASKED)


@given(worlds())
def test_incremental_or_not_the_same_snapshots_are_sent(world):
    full = world.plan(incremental=NEVER)
    assert [t.snapshot.uuid for t in full.transfers] == [
        t.snapshot.uuid for t in world.plan().transfers
    ]


@given(worlds(repeated=True))
def test_every_target_is_a_name_that_is_free_by_then(world):
    names = set(world.there.names)
    for transfer in world.plan().transfers:
        assert transfer.target not in names
        stem = stem_of(transfer.snapshot.name)
        assert stem_of(transfer.target) == stem
        if stem not in map(stem_of, names):
            assert transfer.target == transfer.snapshot.name
        names.add(transfer.target)


@given(worlds(repeated=True))
def test_no_parent_was_changed_at_either_side(world):
    arrived = {s.received_uuid for s in world.there.snapshots}
    for transfer in world.plan().transfers:
        if (parent := transfer.parent) is None:
            continue
        assert parent.integrity is Integrity.INTACT
        for copy in world.there.snapshots:
            if copy.received_uuid == parent.origin:
                assert copy.integrity is not Integrity.CHANGED
                if copy.integrity is Integrity.UNKNOWN:
                    assert world.truth[parent.origin] is Integrity.INTACT
        if parent.origin in arrived and len(world.there.carriers[parent.origin]) > 1:
            assert world.truth[parent.origin] is Integrity.INTACT


@given(worlds(repeated=True))
def test_no_parent_shares_its_origin_with_another_snapshot(world):
    origins = [s.origin for s in world.here.snapshots]
    for transfer in world.plan().transfers:
        if transfer.parent:
            assert origins.count(transfer.parent.origin) == 1


@given(worlds())
def test_a_parent_is_related_and_is_never_the_snapshot_itself(world):
    for transfer in world.plan().transfers:
        if transfer.parent:
            assert transfer.parent.uuid in world.related
            assert transfer.parent.uuid != transfer.snapshot.uuid


@given(worlds())
def test_the_base_is_the_newest_that_both_places_have(world):
    base = world.plan().base
    arrived = {s.received_uuid for s in world.there.snapshots}
    if base:
        assert base.origin in arrived and base.integrity is not Integrity.CHANGED


@given(worlds(repeated=True))
def test_each_refusal_is_one_line_about_one_snapshot(world):
    refusals = world.plan().refusals
    assert len(set(refusals)) == len(refusals)
    assert not any("\n" in refusal for refusal in refusals)
    names = [refusal.split(" is not used as parent: ")[0] for refusal in refusals]
    assert set(names) <= {s.name for s in world.here.snapshots}


# The worlds below are small and certain.


def plan(
    sources, there, *, wanted=None, integrity_there=None, incremental=AUTO, related=None
) -> TransferPlan:
    return plan_transfers(
        sources if wanted is None else wanted,
        listing(sources),
        there,
        related={s.uuid for s in sources} if related is None else related,
        integrity_there=integrity_there or {},
        incremental=incremental,
    )


def parents(found: TransferPlan) -> dict[str, str | None]:
    return {
        t.snapshot.name: t.parent.name if t.parent else None for t in found.transfers
    }


def test_the_first_backup_is_full_and_the_rest_is_a_chain():
    one, two, three = made(1), made(2), made(3)
    found = plan([three, one, two], listing([]))
    assert parents(found) == {one.name: None, two.name: one.name, three.name: two.name}
    assert found.transfers[0].why_full is WhyFull.FIRST
    assert found.base is None


def test_a_parent_is_the_nearest_older_one():
    snapshots = [made(n) for n in range(5)]
    there = listing([copy_of(snapshots[0]), copy_of(snapshots[2])])
    found = plan(snapshots, there, wanted=[snapshots[3]])
    assert parents(found) == {snapshots[3].name: snapshots[2].name}


def test_a_backfill_goes_from_the_nearest_newer_one():
    snapshots = [made(n) for n in range(4)]
    there = listing([copy_of(snapshots[2]), copy_of(snapshots[3])])
    found = plan(snapshots, there)
    assert parents(found) == {
        snapshots[0].name: snapshots[2].name,
        snapshots[1].name: snapshots[0].name,
    }
    assert found.base == snapshots[3] and found.present == 2


def test_a_snapshot_is_known_by_its_origin_whatever_its_name_there():
    one, two = made(1), made(2)
    there = listing([copy_of(one, name="renamed")])
    found = plan([one, two], there)
    assert parents(found) == {two.name: one.name} and found.present == 1


def test_a_snapshot_made_anew_under_an_old_name_is_new_and_gets_a_free_name():
    old, new = made(1), made(2, name=made(1).name)
    there = listing([copy_of(old)], others=[f"{old.name}_1"])
    found = plan([new], there)
    (transfer,) = found.transfers
    assert (transfer.target, transfer.parent) == (f"{old.name}_2", None)
    assert transfer.why_full is WhyFull.NOTHING_COMMON


def test_a_name_taken_by_something_else_is_left_alone():
    one = made(1)
    (transfer,) = plan([one], listing([], others=[one.name])).transfers
    assert transfer.target == f"{one.name}_1"
    assert transfer.why_full is WhyFull.FIRST


def test_something_of_the_same_name_without_received_uuid_is_no_backup():
    one = made(1)
    stranger = made(7, name=one.name)
    assert len(plan([one], listing([stranger])).transfers) == 1


def test_the_original_itself_at_the_destination_is_no_backup():
    """A destination on the same filesystem, with the snapshots of the source."""
    one = made(1)
    assert len(plan([one], listing([one])).transfers) == 1


def test_snapshots_that_were_restored_are_known_by_what_they_were_before():
    restored = [made(1, received=uid(71)), made(2, received=uid(72)), made(3)]
    there = listing([copy_of(restored[0]), copy_of(restored[1])])
    found = plan(restored, there)
    assert parents(found) == {restored[2].name: restored[1].name}
    assert found.present == 2


def test_repeated_origins_are_matched_by_name_and_are_no_parents():
    sources = [made(n, received=uid(70)) for n in (1, 2, 3)] + [made(4)]
    there = listing([copy_of(sources[0])])
    found = plan(sources, there)
    assert parents(found) == {
        sources[1].name: None,
        sources[2].name: None,
        sources[3].name: None,
    }
    assert found.present == 1 and found.base is None
    assert len(found.refusals) == 3 and all(
        "the same received UUID" in r for r in found.refusals
    )


def test_of_two_snapshots_of_one_second_with_one_origin_each_is_sent():
    """The copy of ``NAME_1`` is not one of ``NAME``."""
    first = made(1, received=uid(70))
    second = made(2, received=uid(70), name=f"{first.name}_1")
    found = plan([first, second], listing([copy_of(second)]))
    assert [t.snapshot for t in found.transfers] == [first]


def test_with_one_origin_nobody_gets_the_name_that_another_has_here():
    """Else the copy would count for that one, and be sent again and again."""
    first = made(1, received=uid(70))
    second = made(2, received=uid(70), name=f"{first.name}_1")
    stranger = listing([], others=[first.name])
    (transfer,) = plan([first, second], stranger, wanted=[first]).transfers
    assert transfer.target == f"{first.name}_2"
    there = with_transfers(stranger, [transfer])
    assert plan([first, second], there, wanted=[first]).transfers == ()


@pytest.mark.parametrize(
    ("source", "copy", "looked", "words"),
    [
        (Integrity.CHANGED, Integrity.INTACT, None, "at the source"),
        (Integrity.INTACT, Integrity.CHANGED, None, "at the destination"),
        (Integrity.INTACT, Integrity.UNKNOWN, Integrity.CHANGED, "at the destination"),
        (Integrity.INTACT, Integrity.INTACT, Integrity.CHANGED, "at the destination"),
    ],
)
def test_a_broken_seal_is_refused_as_parent_with_one_line(source, copy, looked, words):
    one, two, three = made(1), made(2, integrity=source), made(3)
    there = listing([copy_of(one), copy_of(two, integrity=copy)])
    found = plan(
        [one, two, three], there, integrity_there={two.origin: looked} if looked else {}
    )
    assert parents(found) == {three.name: one.name}
    (refusal,) = found.refusals
    assert refusal.startswith(two.name) and words in refusal
    assert found.base == one and found.present == 2


def test_a_snapshot_changed_at_the_source_is_sent_and_is_no_parent_of_the_next():
    one, two = made(1, integrity=Integrity.CHANGED), made(2)
    assert parents(plan([one, two], listing([]))) == {one.name: None, two.name: None}
    (transfer,) = plan([one, two], listing([copy_of(one)])).transfers
    assert transfer.why_full is WhyFull.CHANGED


def test_refusals_are_not_repeated_when_there_is_nothing_to_send():
    one = made(1)
    there = listing([copy_of(one, integrity=Integrity.CHANGED)])
    assert plan([one], there).refusals == ()
    assert plan([one, made(2)], there).refusals
    assert plan([one, made(2)], there, incremental=NEVER).refusals == ()


def test_a_doubtful_parent_is_asked_about_before_it_is_used():
    one, two = made(1), made(2)
    for there in (
        listing([copy_of(one, integrity=Integrity.UNKNOWN)]),
        listing([copy_of(one)], hidden=1),
        listing([copy_of(one), copy_of(one, name="twin", number=5)]),
    ):
        assert plan([one, two], there).doubtful == one.origin
        found = plan([one, two], there, integrity_there={one.origin: Integrity.INTACT})
        assert found.doubtful is None and parents(found) == {two.name: one.name}
        found = plan([one, two], there, integrity_there={one.origin: Integrity.CHANGED})
        assert found.doubtful is None and parents(found) == {two.name: None}
        assert len(found.refusals) == 1


def test_a_doubtful_snapshot_of_the_source_is_asked_about_before_it_is_used():
    one, two = made(1, integrity=Integrity.UNKNOWN), made(2)
    there = listing([copy_of(one)])
    assert plan([one, two], there).doubtful_here == one
    assert plan([one, two], listing([])).doubtful_here == one
    assert plan([one, two], there, incremental=NEVER).doubtful_here is None
    assert plan([one], listing([])).doubtful_here is None


def test_what_nobody_can_look_at_is_no_parent():
    one, two = made(1), made(2)
    there = listing([copy_of(one, integrity=Integrity.UNKNOWN)])
    found = plan([one, two], there, integrity_there={one.origin: Integrity.UNKNOWN})
    assert parents(found) == {two.name: None} and found.doubtful is None
    assert len(found.refusals) == 1


def test_nobody_asks_about_a_doubtful_copy_that_is_no_parent():
    one, two, three = made(1), made(2), made(3)
    there = listing([copy_of(one, integrity=Integrity.UNKNOWN), copy_of(two)])
    assert plan([one, two, three], there).doubtful is None
    assert plan([one, two], there).doubtful is None
    assert plan([one, two, three], there, incremental=NEVER).doubtful is None


def test_a_copy_elsewhere_on_the_destination_of_what_is_sent_now_is_asked_about():
    """``btrfs receive`` may take that one as parent of the next."""
    one, two = made(1), made(2)
    there = replace(listing([]), carriers={one.origin: (300,)})
    assert plan([one, two], there).doubtful == one.origin


def test_snapshots_of_another_subvolume_are_no_parents():
    foreign, ours = made(1, name="other-1"), made(2)
    there = listing([copy_of(foreign)])
    found = plan([foreign, ours], there, wanted=[ours], related={ours.uuid})
    assert parents(found) == {ours.name: None}
    assert found.transfers[0].why_full is WhyFull.NOTHING_COMMON


def test_the_clock_may_jump_back_and_parents_still_follow_the_filesystem():
    one = made(5, generation=1)
    two = made(2, generation=2)  # dated before, made after
    three = made(6, generation=3)
    there = listing([copy_of(one), copy_of(two)])
    assert parents(plan([one, two, three], there)) == {three.name: two.name}


def test_a_stream_for_a_command_is_the_newest_one_in_full():
    snapshots = [made(2), made(3), made(1)]
    found = plan_whole_stream(snapshots)
    (transfer,) = found.transfers
    assert transfer.snapshot == snapshots[1] and transfer.parent is None
    assert transfer.why_full is WhyFull.STREAM
    assert transfer.target == snapshots[1].name
    assert plan_whole_stream([]).transfers == ()
