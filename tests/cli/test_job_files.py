"""The argument file of a backup, which other verbs take, too."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import complaint, must
from tests.support.places import ssh_place, ssh_words
from tests.support.program import Argument, run_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs


def _places(*words: Argument) -> list[dict[str, Any]]:
    """Return the elements for places of the document of a command."""
    done = must(run_program(*words, "--json"))
    found: list[dict[str, Any]] = json.loads(done.stdout)["places"]
    return found


def test_every_verb_about_places_takes_the_file_of_a_backup(
    scene: Scene, sshd: Sshd, tmp_path: Path
):
    other = ssh_place(sshd, scene.other_destination("other"))
    file = tmp_path / "job"
    login = "\n".join(word.replace("=", " ", 1) for word in ssh_words(sshd))
    both = f"{scene.source}\n{scene.destination}\n{other}\nshell://cat >/dev/null\n"
    options = f"-q\n-p @x-\n-n 3\n--keep latest=2\n-f kept\n--wait 60\n{login}\n"
    file.write_text(options + both)
    at = f"@{file}"
    for _ in range(2):
        must(run_program(at))
    source, local = str(scene.source), str(scene.destination)

    for verb in (["list"], ["status"], ["prune", "--dry-run"]):
        found = _places(*verb, at)
        assert [one["place"] for one in found] == [source, local, other]
    assert [p["snapshots"][0]["name"][:3] for p in _places("list", at)] == ["@x-"] * 3
    examined = run_program("doctor", "--json", at)
    named = [one["place"] for one in json.loads(examined.stdout)["places"]]
    assert named == [source, local, other]

    here, there, _ = (one["policies"] for one in _places("prune", "-n", at))
    assert [one["policy"] for one in here] == ["latest=2"]
    assert [one["policy"] for one in there] == ["latest=3"]
    here, *_ = (one["policies"] for one in _places("prune", "--keep=all", "-n", at))
    assert [one["policy"] for one in here] == ["all"]
    settled = _places("prune", "--one-source", "--dry-run", at)
    assert [(p["place"], p["prefix"]) for p in settled] == [
        (local, "@x-"),
        (other, "@x-"),
    ]
    assert len(_places("prune", "--staging", "--dry-run", at)) == 3

    verified = _places("verify", at)
    assert [(p["place"], p["source"]) for p in verified] == [
        (local, source),
        (other, source),
    ]
    assert all(p["next_backup"]["incremental"] for p in verified)
    newest, _ = (p["snapshots"] for p in _places("verify", at, "latest"))
    assert len(newest) == 1


def test_a_file_of_the_verb_itself_still_is_one(scene: Scene, tmp_path: Path):
    scene.back_up()
    (tmp_path / "own").write_text(f"-n\n--keep-at latest=7\n{scene.destination}\n")
    (found,) = _places("prune", f"@{tmp_path}/own")
    assert found["policies"][0]["policy"] == "latest=7" and found["dry_run"]
    (tmp_path / "own").write_text(f"{scene.destination}\nlatest\n--json\n")
    (found,) = _places("verify", f"@{tmp_path}/own")
    assert len(found["snapshots"]) == 1


def test_an_error_in_a_file_names_file_and_line(tmp_path: Path):
    file = tmp_path / "job"
    for wrong, reason in (
        ("--frobnicate 3", "unrecognized arguments: --frobnicate"),
        ("-n", "-n takes a number here"),
        ("-n x", "-n takes a number here"),
        ("--keep-at bogus", "--keep-at: 'bogus' is not one of"),
        ("ftp://h/b", "unknown kind of location: ftp://"),
        ("/a", "/a is source and destination at once"),
        ("@none", "cannot read @none"),
    ):
        file.write_text(f"# what is backed up\n/a\n\n{wrong}\n/b\n")
        for verb in ([], ["list"], ["verify"]):
            done = run_program(*verb, f"@{file}")
            complaint(done, 2, f"line 4 of {file}: {reason}")
    file.write_text("-N 3\n")
    assert "line" not in complaint(run_program(f"@{file}"), 2, "no source given")


def test_tasks_of_a_file_that_differ_are_not_mixed(tmp_path: Path):
    file = tmp_path / "job"
    file.write_text("-f one\n/a\n::\n-f two\n/b\n")
    complaint(run_program("list", f"@{file}"), 2, "differ in", "Name the places")


def test_a_prefix_may_begin_with_an_at_sign(scene: Scene):
    must(run_program("-p", "@home.", scene.source, scene.destination))
    assert scene.backup_names[0].startswith("@home.2")
