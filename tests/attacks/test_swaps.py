"""What is swapped in the middle of a run leads root nowhere: each at a certain moment.

A racer would have to be lucky. Here a program that root runs does the swap first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.attacks.scene import (
    NAMES,
    NEW,
    Arena,
    Attack,
    Done,
    clean,
    hooked,
)
from tests.support import places
from tests.support.places import STATE, is_subvolume
from tests.support.program import Argument

pytestmark = [pytest.mark.btrfs, pytest.mark.xdist_group("attacks")]

PUBLISHING = "btrfs subvolume snapshot"
WAYS = pytest.mark.parametrize("user", ["", "root"], ids=["local", "ssh"])
KINDS = pytest.mark.parametrize(
    ("user", "kind"),
    [
        ("", "link"),
        ("root", "link"),
        ("", "directory"),
        ("root", "subvolume"),
    ],
)
#: At the final name: ``last`` is that of the command line, without directories.
_LAST = '[ -e "{done}" ] || {{ for last; do :; done; last={directory}/${{last##*/}}; '
#: Any user may make a subvolume.
_MADE = {
    "link": 'ln -s "{victim}" "$last"; }}',
    "directory": 'mkdir "$last" && chown {uid} "$last"; }}',
    "subvolume": 'btrfs -q subvolume create "$last" && chown {uid} "$last"; }}',
}


def swapped(path: Path, victim: Path) -> str:
    """Return the shell that puts a link in the place of something, once."""
    stolen = path.with_name(f".stolen-{path.name}")
    return (
        f'[ -L "{path}" ] || [ ! -e "{path}" ] ||'
        f' {{ mv -T "{path}" "{stolen}"; ln -s "{victim}" "{path}"; }}'
    )


def put_back(path: Path) -> None:
    """Undo it, as the owner of the directory would."""
    stolen = path.with_name(f".stolen-{path.name}")
    if path.is_symlink():
        path.unlink()
    if stolen.exists() and not path.exists():
        stolen.rename(path)


def taking(arena: Arena, directory: Path, kind: str = "link") -> tuple[str, Path]:
    """Return the shell that takes the name that comes last, and what has it then.

    :returns: for a link, the victim that it leads to.
    """
    victim = arena.victim_at(directory).path / "empty"
    script = (_LAST + _MADE[kind]).format(
        done=arena.hook.with_suffix(".done"),
        directory=directory,
        victim=victim,
        uid=arena.attacker.uid,
    )
    return script, victim if kind == "link" else directory


def check_noticed(arena: Arena, done: Done, stray: Path) -> None:
    """Check that a stray snapshot was noticed, told and removed.

    Where it was can be told by its path on the filesystem.
    """
    arena.judge(done, [1, 4, 10], may_have_passed=True)
    disks = (arena.here.path, arena.there.path)
    (below,) = (stray.relative_to(d) for d in disks if stray.is_relative_to(d))
    assert str(below) in done.stderr, done.stderr
    if not stray.parent.name.endswith("victim"):
        for path in stray.glob("x-*/*"):
            assert not is_subvolume(path), f"it is still in {path}"
        for path in stray.glob("new-*/*"):
            assert not is_subvolume(path), f"it is still in {path}"


def check_stopped(arena: Arena, done: Done) -> None:
    """Check that nothing appeared anywhere: on this machine, the kernel takes no path.

    A link at a name is a name that is in use.
    """
    arena.judge(done, [1, 10])
    assert "took a name" in done.stderr, done.stderr


def remove_taken(directory: Path) -> None:
    """Take away what has the name."""
    for path in directory.iterdir():
        if path.is_symlink():
            path.unlink()
        elif path.stat().st_uid and is_subvolume(path):
            places.command("btrfs", "-q", "subvolume", "delete", path)
        elif path.stat().st_uid:
            path.rmdir()


@KINDS
def test_what_takes_the_final_name_brings_no_backup_elsewhere(
    arena: Arena, user: str, kind: str
):
    scene = Attack(arena, user)
    script, victim = taking(arena, scene.destination, kind)
    with hooked(arena, script, before=PUBLISHING) as was_done:
        done = scene.run("-S")
        assert was_done.exists()
    if user:
        check_noticed(arena, done, victim)
    else:
        check_stopped(arena, done)
    remove_taken(scene.destination)
    clean(scene.run("-S"), [0])
    assert not scene.missing()


@pytest.mark.parametrize(
    ("user", "options"),
    [
        ("", ()),
        ("root", ()),
        ("", ("--writable",)),
    ],
)
def test_what_takes_the_final_name_brings_no_restored_snapshot_elsewhere(
    arena: Arena, user: str, options: Sequence[str]
):
    scene = Attack(arena, user)
    script, victim = taking(arena, scene.to)
    words: Sequence[Argument]
    words = ("restore", *scene.login, *options, scene.destination, NAMES[0])
    with hooked(arena, script, before=PUBLISHING) as was_done:
        done = arena.run(*words, "--to", scene.at(scene.new_path()))
        assert was_done.exists()
    if user or options:
        check_noticed(arena, done, victim)
    else:
        check_stopped(arena, done)
    clean(arena.run(*words, "--to", scene.at(scene.new_path())), [0])


@KINDS
def test_what_takes_the_name_of_a_new_snapshot_brings_it_nowhere(
    arena: Arena, user: str, kind: str
):
    scene = Attack(arena, user)
    folder = scene.source / "kept"
    folder.mkdir()
    scene.give_away(folder)
    script, victim = taking(arena, folder, kind)
    words = ("-p", "x-", "-f", "kept", *scene.login, scene.at(scene.source))
    with hooked(arena, script, before=PUBLISHING) as was_done:
        done = arena.run(*words, scene.destination)
        assert was_done.exists()
    if user:
        check_noticed(arena, done, victim)
    else:
        check_stopped(arena, done)
    remove_taken(folder)
    clean(arena.run(*words, scene.destination), [0])


def test_what_a_restored_subvolume_holds_is_no_way_out(arena: Arena):
    """It may be the attacker's as soon as it is there, and so may what lies in it."""
    scene = Attack(arena)
    scene.give_away(scene.source)
    to = scene.new_path()
    state, victim = to / STATE, arena.victim_at(to).path
    scene.receive_new()
    script = (
        f'[ -L "{state}" ] || [ ! -d "{to}" ] || {{ rmdir "{state}" 2>/dev/null'
        f' || mv -T "{state}" "{to}/.stolen" 2>/dev/null;'
        f' ln -s "{victim}" "{state}"; }}'
    )
    words = ("restore", "--writable", scene.destination, NEW, "--to", to)
    with hooked(arena, script, before="btrfs subvolume"):
        arena.judge(arena.run(*words), [0, 1, 4])


@pytest.mark.parametrize("link", [STATE, f"{STATE}/snapshots"])
def test_a_link_that_comes_with_a_backup_is_no_way_out(arena: Arena, link: str):
    """A snapshot may hold anything, also what stands where our bookkeeping goes."""
    scene = Attack(arena)
    taken = arena.here.subvolume(f"{scene.source.parent.name}/evil")
    (taken / link).parent.mkdir(exist_ok=True)
    victim = arena.victim_at(scene.to).path
    (taken / link).symlink_to(victim if link == STATE else victim / "snapshots")
    scene.give_away(taken, (taken / link).parent, taken / link)
    name = f"{scene.source.parent.name}/x-20200105-000000"
    places.send_and_receive(arena.here.snapshot(taken, name), scene.destination)
    words = ("restore", "--writable", scene.destination, "x-20200105-000000")
    done = arena.run(*words, "--to", scene.new_path())
    arena.judge(done, [0, 1, 4])


# The state directory, at the moment before each command that works in it.

Words = Callable[[Attack], Sequence[Argument]]


def _backup(scene: Attack) -> Sequence[Argument]:
    words = ("-p", "x-", "-N", "3", "-n", "3", *scene.login)
    return (*words, scene.source, scene.at(scene.destination))


def _pull(scene: Attack) -> Sequence[Argument]:
    words = ("-p", "x-", "-N", "3", "-n", "3", *scene.login)
    return (*words, scene.at(scene.source), scene.destination)


def _restore(scene: Attack) -> Sequence[Argument]:
    words = ("restore", *scene.login, str(scene.destination), NAMES[0], "--to")
    return (*words, scene.at(scene.to))


@WAYS
@pytest.mark.parametrize(
    ("words", "place", "moments"),
    [
        (_backup, "destination", ("receive", "subvolume show", "subvolume snapshot")),
        (_pull, "source", ("subvolume snapshot", "send", "subvolume delete")),
        (_restore, "to", ("receive", "subvolume delete")),
    ],
    ids=["backup", "source", "restore"],
)
def test_a_state_directory_that_is_swapped_meanwhile_leads_nowhere(
    arena: Arena, user: str, words: Words, place: str, moments: Sequence[str]
):
    for moment in moments if not user else moments[:1]:
        scene = Attack(arena, user)
        state = getattr(scene, place) / STATE
        script = swapped(state, arena.victim_at(state).path)
        with hooked(arena, script, before=f"btrfs*{moment}"):
            arena.judge(arena.run(*words(scene)), [0, 1, 4, 10])
    put_back(state)
    for new in scene.to.glob("x-*"):
        places.command("btrfs", "-q", "subvolume", "delete", new)
    clean(arena.run(*words(scene)), [0])


# What is to be deleted.


_THINNED = ("prune", "--keep-at", "latest=1", "--yes", "--force", "-p", "x-")


@WAYS
@pytest.mark.parametrize("verb", ["run", "prune"])
def test_a_link_at_the_name_of_what_is_deleted_costs_no_victim_anything(
    arena: Arena, user: str, verb: str
):
    scene = Attack(arena, user)
    old = scene.destination / NAMES[0]
    script = swapped(old, arena.victim_at(old).path / NAMES[0])
    words = _backup(scene)
    if verb == "prune":
        words = [*_THINNED, *scene.login, scene.at(scene.destination)]
    before = "btrfs*subvolume delete" if verb == "prune" else PUBLISHING
    with hooked(arena, script, before=before):
        arena.judge(arena.run(*words), [0, 1, 4, 10])
    put_back(old)
    clean(arena.run(*words), [0])
    assert not old.exists()


# Single files, below directories that are the attacker's.


def _files_to(scene: Attack) -> Sequence[Argument]:
    words = (
        "restore",
        *scene.login,
        str(scene.destination),
        NEW,
        "--file",
        "a/b/file",
    )
    return (*words, "--to", scene.at(scene.to))


@pytest.mark.parametrize(
    ("user", "kind"),
    [
        ("", "directory"),
        ("", "file"),
        ("", "new"),
        ("", "fifo"),
        ("root", "directory"),
    ],
)
def test_a_link_above_a_restored_file_is_refused(arena: Arena, user: str, kind: str):
    scene = Attack(arena, user)
    scene.receive_new()
    victim = arena.victim_at(scene.to).path
    goals = {"directory": victim, "file": victim / "precious", "new": victim / "new"}
    planted = scene.to / "a"
    if kind == "fifo":
        os.mkfifo(planted)
    else:
        planted.symlink_to(goals[kind])
    scene.give_away(planted)
    done = arena.judge(arena.run(*_files_to(scene)), [4])
    assert "a" in done.stderr and os.path.lexists(planted)
    planted.unlink()
    clean(arena.run(*_files_to(scene)), [0])
    assert (scene.to / "a/b/file").read_text() == "file"


@pytest.mark.parametrize(
    ("user", "moment"),
    [
        ("", "cp"),
        ("", "mkdir"),
        ("", "mv"),
        ("", "ln"),
        ("root", "tar"),
        ("root", "mv"),
    ],
)
def test_a_directory_that_is_swapped_under_a_restored_file_leads_nowhere(
    arena: Arena, user: str, moment: str
):
    scene = Attack(arena, user)
    scene.receive_new()
    (scene.to / "a").mkdir()
    scene.give_away(scene.to / "a")
    script = swapped(scene.to / "a", arena.victim_at(scene.to).path / "directory")
    with hooked(arena, script, before=moment):
        arena.judge(arena.run(*_files_to(scene)), [0, 1, 4])
    put_back(scene.to / "a")
    if not (scene.to / "a/b").exists():
        clean(arena.run(*_files_to(scene)), [0])


@pytest.mark.parametrize(
    ("user", "moment"),
    [
        ("", "cp"),
        ("", "mv"),
        ("", "rm"),
        ("root", "tar"),
    ],
)
def test_the_private_directory_of_a_restore_may_be_swapped(
    arena: Arena, user: str, moment: str
):
    """It is emptied in the end, which has to be this one and no other."""
    scene = Attack(arena, user)
    scene.receive_new()
    victim = arena.victim_at(scene.to).path
    script = (
        f'for d in "{scene.to}"/.[a-z]*; do case $d in */{STATE}|*.stolen) continue;;'
        f' esac; [ -L "$d" ] || [ ! -d "$d" ] || {{ mv -T "$d" "{scene.to}/$$.stolen";'
        f' ln -s "{victim}" "$d"; }}; done'
    )
    with hooked(arena, script, before=moment):
        arena.judge(arena.run(*_files_to(scene)), [0, 1, 4])
    for name in os.listdir(scene.to):
        if (scene.to / name).is_symlink():
            (scene.to / name).unlink()
    if not (scene.to / "a/b/file").exists():
        clean(arena.run(*_files_to(scene)), [0])
