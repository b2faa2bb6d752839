"""What an attacker has planted leads btrfs-ssh-send nowhere."""

from __future__ import annotations

import os

import pytest

from tests.attacks import planting
from tests.attacks.planting import DIRECTORY, FIFO, FOR_ALL, HARD_LINK, INCOMING, LINK
from tests.attacks.scene import (
    NAMES,
    NEW,
    Arena,
    Attack,
    clean,
    hooked,
    mend,
    names_below,
)
from tests.attacks.test_swaps import check_noticed, put_back, swapped, taking
from tests.support.places import STATE, show

pytestmark = [pytest.mark.btrfs, pytest.mark.xdist_group("attacks")]


@pytest.mark.parametrize(
    ("component", "kind", "user"),
    [
        (STATE, LINK, "root"),
        (STATE, DIRECTORY, "root"),
        (STATE, LINK, "sudo"),
        (STATE, FOR_ALL, "root"),
        (STATE, HARD_LINK, "root"),
        (INCOMING, LINK, "root"),
        (INCOMING, FIFO, "root"),
        (INCOMING, DIRECTORY, "sudo"),
    ],
)
def test_what_is_planted_is_refused(arena: Arena, component: str, kind: str, user: str):
    user = arena.carrier.name if user == "sudo" else user
    scene = Attack(arena, user)
    planted = planting.plant(scene, scene.destination, component, kind, row=0)
    before = names_below(scene.destination)
    done = arena.send(scene.snapshot_folder / NEW, scene.destination, user)
    arena.judge(done, [1])
    if component == STATE:
        assert names_below(scene.destination) == before
    assert os.path.basename(planted) in done.stderr
    mend(arena, done.stderr)
    arena.judge(arena.send(scene.snapshot_folder / NEW, scene.destination, user), [0])
    assert (
        show(scene.destination / NEW).received_uuid
        == show(scene.snapshot_folder / NEW).uuid
    )


@pytest.mark.parametrize("kind", [LINK, DIRECTORY, FIFO])
def test_a_name_that_is_taken_stays(arena: Arena, kind: str):
    scene = Attack(arena, "root")
    planted = planting.plant(scene, scene.destination, NEW, kind, row=0)
    arena.judge(arena.send(scene.snapshot_folder / NEW, scene.destination, "root"), [1])
    assert os.path.lexists(planted)


def test_a_link_at_the_final_name_is_noticed(arena: Arena):
    scene = Attack(arena, "root")
    script, victim = taking(arena, scene.destination)
    with hooked(arena, script, before="btrfs subvolume snapshot") as was_done:
        done = arena.send(scene.snapshot_folder / NEW, scene.destination, "root")
        assert was_done.exists()
    check_noticed(arena, done, victim)
    (scene.destination / NEW).unlink()
    clean(arena.send(scene.snapshot_folder / NEW, scene.destination, "root"), [0])


@pytest.mark.parametrize("moment", ["receive", "subvolume snapshot"])
def test_a_swapped_state_directory_leads_nowhere(arena: Arena, moment: str):
    scene = Attack(arena, "root")
    state = scene.destination / STATE
    script = swapped(state, arena.victim_at(state).path)
    with hooked(arena, script, before=f"btrfs*{moment}") as was_done:
        done = arena.send(scene.snapshot_folder / NEW, scene.destination, "root")
        assert was_done.exists()
    arena.judge(done, [0, 1])
    put_back(state)
    clean(arena.send(scene.snapshot_folder / NEW, scene.destination, "root"), [0])
    assert NAMES[0] in os.listdir(scene.destination)
