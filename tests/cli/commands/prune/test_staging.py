"""``prune --staging``: interrupted transfers are discarded, and nothing else."""

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Done, complaint, covers, in_conversation, must
from tests.support.places import STATE
from tests.support.program import Argument, run_program, start_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd
from tests.support.staged import (
    ID,
    NAME,
    OLD_ID,
    both_ways,
    document,
    fill,
    interrupted_transfer,
    locked,
    ssh_way,
)

pytestmark = pytest.mark.btrfs


def prune(*words: Argument, **changes: Any) -> Done:
    """Run it."""
    return run_program("prune", "--staging", *words, **changes)


def staged(scene: Scene) -> list[str]:
    """List what is in staging."""
    return sorted(os.listdir(scene.destination / STATE / "incoming"))


@pytest.fixture
def cut(scene: Scene) -> Scene:
    """Return two transfers that were cut, behind a backup."""
    fill(scene)
    interrupted_transfer(scene)
    interrupted_transfer(scene, OLD_ID, sealed_bytes=0)
    return scene


@covers("--staging", "--yes", "-y")
def test_all_that_waits_is_discarded_and_nothing_else(cut: Scene):
    state = cut.destination / STATE
    (state / "incoming" / "mine").mkdir()
    (state / "sources.json").touch()
    backups = cut.backup_names
    done = must(prune("--yes", cut.destination))
    first, second = done.stdout.splitlines()
    place = cut.destination
    assert first.startswith(f"{place}: discarded {NAME}, 1.2 GiB safe there, since ")
    assert re.search(rf"\(\d+ days\), id {ID}$", first)
    assert "nothing safe there yet, since 2026-02-03 " in second
    assert staged(cut) == ["mine"]
    assert cut.backup_names == backups
    assert sorted(os.listdir(state)) == ["holder", "incoming", "sources.json"]
    again = must(prune("-y", cut.destination))
    assert again.stdout == f"{place}: no interrupted transfers\n"
    cut.back_up()


def test_behind_ssh_the_same(cut: Scene, sshd: Sshd):
    (place,) = document(prune("-y", "--json", *ssh_way(sshd)(cut.destination)))
    assert [one["outcome"] for one in place["transfers"]] == ["dropped"] * 2
    assert staged(cut) == []
    assert len(cut.backup_names) == 1


@covers("--id")
def test_one_of_them_is_discarded_by_its_id(cut: Scene, sshd: Sshd):
    done = prune("--yes", "--id", f"{ID}x", cut.destination)
    complaint(done, 1, f"no interrupted transfer {ID}x at {cut.destination}")
    assert staged(cut) == [ID, OLD_ID]
    done = must(prune("-y", "--id", OLD_ID, *ssh_way(sshd)(cut.destination)))
    assert OLD_ID in done.stdout and ID not in done.stdout
    assert staged(cut) == [ID]


@covers("--dry-run", "-n")
def test_a_dry_run_changes_nothing(cut: Scene, sshd: Sshd):
    before = cut.fingerprint()
    (place,) = document(prune("-n", "--json", *ssh_way(sshd)(cut.destination)))
    assert place["dry_run"] is True
    outcomes = [(one["id"], one["outcome"]) for one in place["transfers"]]
    assert outcomes == [(ID, "would drop"), (OLD_ID, "would drop")]
    done = must(prune("--dry-run", "--id", ID, cut.destination))
    assert f": would discard {NAME}, 1.2 GiB safe there, since 2026-" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert cut.fingerprint() == before


@pytest.mark.parametrize(
    ("answer", "code", "left"),
    [
        ("YES", 0, []),
        ("n", 1, [ID, OLD_ID]),
        ("", 1, [ID, OLD_ID]),
    ],
)
def test_it_asks_at_a_terminal(cut: Scene, answer: str, code: int, left: list[str]):
    words = ["prune", "--staging", str(cut.destination)]
    done = in_conversation(*words, answers={"Discard these 2? [y/N]: ": answer})
    assert done.returncode == code, done.stdout
    shown, asked, after = done.stdout.partition("Discard these 2?")
    assert asked and ID in shown and OLD_ID in shown
    assert "1.2 GiB" in shown and " days)" in shown
    assert ("nothing was discarded" in after) == bool(left)
    assert staged(cut) == left


def test_a_question_can_be_broken_off(cut: Scene):
    words = ["prune", "--staging", "--id", ID, str(cut.destination)]
    done = in_conversation(*words, answers={"Discard it? [y/N]: ": "\x03"})
    assert done.returncode == 130, done.stdout
    assert staged(cut) == [ID, OLD_ID]


def test_nobody_to_ask_is_a_usage_error(cut: Scene):
    complaint(prune(cut.destination), 2, "--yes", "--dry-run")
    assert staged(cut) == [ID, OLD_ID]


@covers("--wait")
def test_a_place_at_which_somebody_works_is_left_alone(cut: Scene, sshd: Sshd):
    before = cut.fingerprint()
    with locked(cut.destination / STATE):
        for way in both_ways(sshd):
            done = prune("--yes", *way(cut.destination))
            complaint(done, 3, "another run is working on", "--wait")
        # Nor is anybody asked in vain.
        words = ["prune", "--staging", str(cut.destination)]
        done = in_conversation(*words, answers={})
        assert done.returncode == 3, done.stdout
        assert "[y/N]" not in done.stdout
        done = prune("--yes", "--wait", "0.5", cut.destination)
        complaint(done, 3, "another run is working on")
    assert staged(cut) == [ID, OLD_ID]
    assert cut.fingerprint() == before
    with locked(cut.destination / STATE):
        words = ["prune", "--staging", "-y", "--wait", "60", str(cut.destination)]
        program = start_program(*words)
        time.sleep(0.5)
    with program:
        assert program.wait(60) == 0
    assert staged(cut) == []


def test_what_still_runs_is_never_discarded(cut: Scene, sshd: Sshd):
    directory = cut.destination / STATE / "incoming" / ID
    with locked(directory):
        done = must(prune("--yes", cut.destination), 10)
        assert f": kept, as it is still running: {NAME}, " in done.stdout
        assert staged(cut) == [ID]
        words = ssh_way(sshd)(cut.destination)
        (place,) = document(prune("--yes", "--json", *words), 3)
        (one,) = place["transfers"]
        assert (one["running"], one["outcome"]) == (True, "stays")
        done = must(prune("-n", cut.destination), 3)
        assert f": kept, as it is still running: {NAME}, " in done.stdout
    assert len(os.listdir(directory)) == 3


def test_each_place_stands_for_itself(cut: Scene):
    other = cut.other_destination("other")
    no = cut.destination / "no"
    done = prune("-y", no, cut.destination, other)
    complaint(done, 10, f"{no} does not exist")
    assert done.stdout.count("discarded") == 2
    assert "other: no interrupted transfers" in done.stdout
    assert os.listdir(other) == [], "bookkeeping was made for nothing"


def test_quiet_says_nothing(cut: Scene):
    done = must(prune("-q", "-y", cut.destination))
    assert (done.stdout, done.stderr) == ("", "")
    assert staged(cut) == []


def test_names_that_could_do_harm_are_shown_safely(scene: Scene):
    name = b"x\n\x1b[31m\xff-20260102-030000"
    directory = interrupted_transfer(scene, name=name)
    done = must(prune("-y", scene.destination))
    assert "discarded x\\n\\x1b[31m\\xff-20260102-030000, 1.2 GiB" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert not directory.exists()


def test_prune_without_staging_says_what_there_is(cut: Scene):
    done = run_program("prune", "--yes", cut.destination)
    text = complaint(done, 2, "--staging")
    assert "--keep " in text and "--keep-at " in text
    assert staged(cut) == [ID, OLD_ID] and len(cut.backup_names) == 1


def test_what_makes_no_sense_is_a_usage_error(tmp_path: Path):
    for words in (["-y"], ["-y", "shell://cat"], ["-y", "--id"]):
        assert complaint(prune(*words), 2)
    shown = must(prune("--help")).stdout
    for word in ("--staging", "--id", "exit status", "--keep", "--force"):
        assert word in shown
