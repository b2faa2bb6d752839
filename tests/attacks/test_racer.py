"""A racer that swaps names for as long as the program runs leads root nowhere."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.attacks.racer import LURE, STOLEN
from tests.attacks.scene import NAMES, NEW, Arena, Attack, Done, clean
from tests.support.places import STATE, command, is_subvolume
from tests.support.program import CHECKOUT, Argument

pytestmark = [pytest.mark.btrfs, pytest.mark.xdist_group("races")]

#: How long each racer runs; 60 find what is rare.
SECONDS = float(os.environ.get("BBNG_RACE_SECONDS", "2"))

Swaps = list[dict[str, str]]
Run = Callable[[], Done]


def swap(path: Path, victim: Path) -> dict[str, str]:
    """Ask the racer to put a link to a victim where something else is."""
    return {"path": str(path), "victim": str(victim)}


@contextlib.contextmanager
def racing(arena: Arena, swaps: Swaps) -> Iterator[None]:
    """Let a racer run, which has to swap something."""
    attacker = arena.attacker
    racer = subprocess.Popen(
        [sys.executable, "-m", "tests.attacks.racer"]
        + [str(attacker.uid), str(attacker.gid), json.dumps(swaps)],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
    )
    try:
        assert racer.stdout
        racer.stdout.readline()
        yield
    finally:
        racer.terminate()
        count, _ = racer.communicate()
    assert int(count) > 0, "the racer swapped nothing"


def race(arena: Arena, swaps: Swaps, runs: Sequence[Run]) -> None:
    """Run all this again and again against a racer; each time look at the victims."""
    end = time.monotonic() + SECONDS
    with racing(arena, swaps):
        for run in itertools.cycle(runs):
            arena.judge(run(), [0, 1, 2, 3, 4, 10], may_have_passed=True)
            if time.monotonic() > end:
                break


def tidy(*directories: Path) -> None:
    """Put things right as a person does: what is not ours goes, ours comes back."""
    for directory in directories:
        for name in os.listdir(directory):
            path = directory / name
            if path.is_symlink():
                path.unlink()
        for name in os.listdir(directory):
            path = directory / name
            if name.startswith((STOLEN, LURE)):
                own = directory / name.removeprefix(STOLEN).removeprefix(LURE)
                if os.path.lexists(own):
                    remove(path)
                else:
                    path.rename(own)


def remove(path: Path) -> None:
    """Remove what a run has left under another name."""
    if is_subvolume(path):
        command("btrfs", "-q", "subvolume", "delete", path)
    else:
        command("rm", "-rf", "--one-file-system", path)


def backing_up(scene: Attack) -> list[Run]:
    """Return what is done at a destination."""
    place = scene.at(scene.destination)

    def run(*words: Argument) -> Run:
        return lambda: scene.arena.run(*words, *scene.login, place)

    thinning = ("prune", "--keep-at", "latest=2", "--yes", "--force", "-p", "x-")
    return [
        lambda: scene.run("-N", "3", "-n", "3"),
        run("prune", "--staging", "--yes"),
        run(*thinning),
        run("verify"),
    ]


def at_destination(scene: Attack) -> Swaps:
    """Return the swaps of who owns a destination."""
    victims = scene.arena.victims[scene.arena.there.path]
    return [
        *(swap(scene.destination / STATE, victim.path) for victim in victims),
        *(swap(scene.destination / "*", victim.path) for victim in victims),
    ]


@pytest.mark.parametrize("user", ["", "root", "sudo"], ids=["local", "ssh", "sudo"])
def test_a_racer_at_a_destination(arena: Arena, user: str):
    scene = Attack(arena, arena.carrier.name if user == "sudo" else user)
    race(arena, at_destination(scene), backing_up(scene))
    tidy(scene.destination)
    # What was renamed for an instant may have been counted as missing, and sent again.
    clean(scene.run(), [0])


@pytest.mark.parametrize("user", ["", "root"], ids=["local", "ssh"])
def test_a_racer_at_a_source(arena: Arena, user: str):
    scene = Attack(arena, user)
    kept = scene.source / "kept"
    kept.mkdir()
    scene.give_away(kept)
    victim = arena.victim_at(kept).path
    swaps = [
        swap(scene.source / STATE, victim),
        swap(kept, victim / "snapshots"),
        swap(kept / "*", victim),
    ]
    words = ["-p", "x-", "-N", "3", *scene.login]
    places = [scene.at(scene.source), str(scene.destination)]
    runs: list[Run] = [
        lambda: arena.run(*words, *places),
        lambda: arena.run(*words, "-f", "kept", *places),
        lambda: arena.run(*words, "--dry-run", *places),
        lambda: arena.run(
            *("prune", "--keep", "latest=1", "--yes", "--force", "-p", "x-"),
            *(*scene.login, places[0]),
        ),
    ]
    race(arena, swaps, runs)
    tidy(scene.source, kept)
    clean(arena.run(*words, *places), [0])


@pytest.mark.parametrize("user", ["", "root"], ids=["local", "ssh"])
def test_a_racer_at_the_target_of_a_restore(arena: Arena, user: str):
    scene = Attack(arena, user)
    scene.receive_new()
    (scene.to / "a").mkdir()
    scene.give_away(scene.to / "a")
    victim = arena.victim_at(scene.to).path
    swaps = [
        swap(scene.to / STATE, victim),
        swap(scene.to / "a", victim / "directory"),
        swap(scene.to / "*", victim),
    ]

    def restored(*words: Argument, to: Path | None = None) -> Done:
        if (done := scene.to / "a/b").is_dir() and not (scene.to / "a").is_symlink():
            with contextlib.suppress(OSError):
                done.rename(scene.new_path())
        place = scene.at(to or scene.new_path())
        source = [*scene.login, str(scene.destination)]
        return arena.run("restore", *source, *words, "--to", place)

    scratch = [
        "--restore-test",
        "--scratch",
        scene.at(scene.to),
        str(scene.destination),
    ]
    files = (NEW, "--file", "a/b/file")
    runs: list[Run] = [
        lambda: restored(*files, to=scene.to),
        lambda: restored(NAMES[0]),
        lambda: restored(*files, to=scene.to),
        lambda: restored(NEW, "--writable"),
        lambda: arena.run("verify", *scene.login, *scratch, NAMES[0]),
    ]
    race(arena, swaps, runs)
    tidy(scene.to)
    clean(restored(NAMES[0]), [0])


def test_a_racer_at_the_destination_of_btrfs_ssh_send(arena: Arena):
    scene = Attack(arena, "root")
    rounds = iter(range(10_000))

    def send() -> Done:
        """Send what is not there yet."""
        name = f"x-sent-{next(rounds)}"
        command("btrfs", "-q", "subvolume", "snapshot", "-r", scene.source,
                scene.source.parent / name)  # fmt: skip
        return arena.send(scene.source.parent / name, scene.destination, scene.user)

    race(arena, at_destination(scene), [send])
    tidy(scene.destination)
    clean(send(), [0])
