"""What an attacker has planted before a run leads root nowhere: the whole table."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.attacks import planting
from tests.attacks.planting import AS_ROOT, BY_SUDO, DIRECTORY, SUBVOLUME, Row
from tests.attacks.scene import (
    REFUSED,
    Arena,
    Attack,
    clean,
    mend,
    names_below,
)
from tests.support.places import STATE
from tests.support.places import subvolumes as list_subvolumes

pytestmark = [pytest.mark.btrfs, pytest.mark.xdist_group("attacks")]

#: With BBNG_ATTACKS=all in the environment all of the table is tried, in some minutes.
IS_ALL = os.environ.get("BBNG_ATTACKS") == "all"
ROWS = list(planting.every_row() if IS_ALL else planting.usual_rows())


def user_of(arena: Arena, way: str) -> str:
    """Return who logs in."""
    return {AS_ROOT: "root", BY_SUDO: arena.carrier.name}.get(way, "")


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_what_is_planted_leads_to_no_victim(arena: Arena, row: Row):
    scene = Attack(arena, user_of(arena, row.way))
    place = row.role.place(scene)
    turn = ROWS.index(row)
    planted = planting.plant(scene, place, row.component, row.kind, row=turn)
    places = [scene.source, scene.destination, scene.to]
    if row.role is planting.SCRATCH:
        places = [scene.source, place]  # that it was not restored is on record
    before = names_below(*places)
    done = None
    try:
        done = arena.run(*row.role.words(scene))
    except subprocess.TimeoutExpired as error:
        planting.release(planted)
        arena.check_victims(None)
        raise error
    arena.check_victims(done)
    if row.role.only_looks:
        clean(done, [0, 1, 2, 3, REFUSED, 10])
        assert names_below(*places) == before
        return
    worked = [0, *row.role.may_end]
    refused = row.role.refuses
    clean(done, [refused] if row.must_be_refused else [refused, *worked])
    if done.returncode == refused:
        said = done.stdout + done.stderr
        assert_names_what_is_wrong(arena, row, planted, said)
        if row.component == STATE:
            assert names_below(*places) == before, "changed before it was refused"
        if row.is_record:
            clean(scene.run("-S"), [0])  # which makes it anew, as the message says
        else:
            mend(arena, said)
        if row.role is planting.PRUNE and row.component == STATE:
            # The record went away with the state directory.
            settle = ("prune", "--one-source", "--yes", "-p", "x-")
            place_name = scene.at(scene.destination)
            clean(arena.run(*settle, *scene.login, place_name), [0])
        done = arena.judge(arena.run(*row.role.words(scene)), worked)
    assert row.role.has_worked(scene, done), done


def assert_names_what_is_wrong(
    arena: Arena, row: Row, planted: os.PathLike[str], said: str
) -> None:
    """Check a refusal: the component, and whose it is if it is like one of ours."""
    assert os.path.basename(planted) in said, said
    if row.kind in (DIRECTORY, SUBVOLUME):
        attacker = arena.attacker
        assert attacker.name in said or str(attacker.uid) in said, said


def test_places_of_another_user_are_as_good_as_any(arena: Arena):
    for user in ("", arena.carrier.name):
        scene = Attack(arena, user)
        clean(scene.run(), [0])
        clean(scene.run("-N", "3", "-n", "3"), [0])
        assert len(list_subvolumes(scene.destination)) == 3
        to = scene.at(scene.new_path())
        clean(arena.run("restore", *scene.login, scene.destination, "--to", to), [0])


def test_a_link_makes_no_process_of_root_end(arena: Arena):
    """What is cut is looked for by the directory that it works in."""
    scene = Attack(arena)
    path = f"{planting.INCOMING}/{planting.RESUMED}"
    planted = planting.plant(scene, scene.destination, path, planting.LINK, row=0)
    victim = os.readlink(planted)
    works = 'exec 9<"$1"; flock -n 9 && echo works && exec sleep 60'
    with subprocess.Popen(
        ["sh", "-c", works, "sh", victim],
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as bystander:
        try:
            assert bystander.stdout and bystander.stdout.readline() == b"works\n"
            done = scene.run("-S")
            assert bystander.poll() is None
            arena.check_victims(done)
        finally:
            bystander.kill()
