"""The ``log`` verb: what happened last night?"""

import json
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from btrfs_backup_ng.session.history import History, Record
from tests.support.command_line import complaint, covers, must
from tests.support.places import STATE, ssh_words
from tests.support.program import run_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd
from tests.support.staged import locked, ssh_way


@covers("--failures")
@pytest.mark.btrfs
def test_what_each_run_did_and_why_it_failed(scene: Scene, sshd: Sshd, tmp_path: Path):
    env = {"BTRFS_BACKUP_NG_STATE": str(tmp_path / "state")}
    scene.back_up(env=env)
    *_, there = ssh_way(sshd)(scene.other_destination("other"))
    second = [*ssh_words(sshd), *scene.words(there), "shell://false SECRET"]
    must(run_program(*second, env=env), 10)
    must(scene.run("-S", env=env))
    with locked(scene.source / STATE):
        must(scene.run(env=env), 3)
    must(scene.run("--dry-run", env=env))
    one, two = scene.snapshot_names
    here = f"{scene.source} -> {scene.destination}"
    shown = must(run_program("log", env=env)).stdout
    size = r"[\d.]+ (B|.iB)"
    for line, expected in zip(
        [line for line in shown.splitlines() if not line.startswith("  ")],
        [
            f"{scene.source}: made snapshot {one}",
            rf"{here}: sent {one}, {size} in full in [\d.]+ s",
            f"{scene.source}: made snapshot {two}",
            rf"{here}: sent {two}, {size} since {one} in [\d.]+ s",
            rf"{scene.source} -> {there}: sent {one}, {size} in full in [\d.]+ s",
            rf"{scene.source} -> {there}: sent {two}, {size} since {one} in [\d.]+ s",
            f"{scene.source} -> shell://: FAILED to send {two}: .*",
            f"{here}: nothing to send",
            f"{scene.source}: FAILED: another run is working on .*",
            f"{here}: FAILED: another run is working on .*",
        ],
        strict=True,
    ):
        when, what = line[:25], line[27:]
        datetime.strptime(when, "%Y-%m-%d %H:%M:%S %z")
        assert re.fullmatch(expected, what), line
    assert "SECRET" not in shown
    only = must(run_program("log", there, "--json", env=env)).stdout
    assert [r["name"] for r in json.loads(only)["records"]] == [one, two]
    failures = must(run_program("log", "--failures", "-q", env=env)).stdout
    assert failures == ""
    failures = must(run_program("log", "--failures", env=env)).stdout
    assert failures.count("FAILED") == 3


@pytest.mark.btrfs
def test_what_was_deleted_and_verified(scene: Scene, tmp_path: Path):
    env = {"BTRFS_BACKUP_NG_STATE": str(tmp_path / "state")}
    for _ in range(3):
        scene.back_up(env=env)
    one, two, three = scene.snapshot_names
    here, there = str(scene.source), str(scene.destination)
    scene.back_up("-N", "2", env=env)  # deletes two of four
    must(run_program("verify", there, env=env))
    words = ("prune", "--keep-at", "latest=2")
    must(run_program(*words, "--dry-run", there, env=env))
    must(run_program(*words, "--yes", there, env=env))
    four = scene.snapshot_names[-1]

    def deeds(*words: str) -> list[str]:
        shown = must(run_program("log", *words, env=env)).stdout.splitlines()
        return [line[27:] for line in shown if " -> " not in line]

    made = [f"{here}: made snapshot {name}" for name in (one, two, three, four)]
    verified = f"{there}: verified 4 snapshots, {one} to {four} (identity)"
    deleted = f"{there}: deleted 2 snapshots, {one} to {two}"
    pruned = f"{here}: deleted 2 snapshots, {one} to {two}"
    assert deeds() == [*made, pruned, verified, deleted]
    assert deeds(there) == [verified, deleted]
    assert deeds("--failures") == [""]  # nothing matches
    document = must(run_program("log", there, "--json", env=env)).stdout
    assert [one["count"] for one in json.loads(document)["deeds"]] == [4, 2]
    status = must(run_program("status", there, env=env)).stdout
    assert "FAILED" not in status


def test_what_a_run_skipped_is_on_record_with_the_condition(
    scene: Scene, tmp_path: Path
):
    config, away = tmp_path / "config.toml", tmp_path / "away"
    config.write_text(f"""\
[targets.usb]
place = "{away}"
optional = true
[volumes.home]
source = "{scene.source}"
to = "usb"
only-if-changed = true
""")
    env = {"BTRFS_BACKUP_NG_STATE": str(tmp_path / "state")}
    for words in ([], ["--dry-run"], []):
        must(run_program("run", "-c", config, *words, env=env))
    (name,) = scene.snapshot_names
    text = f"{away}: away: it does not exist; skipped (optional)"
    made = f"{scene.source}: made snapshot {name}"
    unchanged = f"{scene.source}: not changed since {name}, so no snapshot is made"
    shown = must(run_program("log", env=env)).stdout.splitlines()
    assert sorted(line[27:] for line in shown) == sorted([made, text, unchanged, text])
    assert must(run_program("log", away, env=env)).stdout.count("; skipped") == 2
    failures = must(run_program("log", "--failures", env=env)).stdout
    assert failures == "Nothing on record matches\n"


@covers("--since")
def test_it_looks_back_as_far_as_it_is_told_and_is_safe_to_print(tmp_path: Path):
    env = {"BTRFS_BACKUP_NG_STATE": str(tmp_path)}
    assert must(run_program("log", env=env)).stdout == "No run is on record\n"
    history, now = History(str(tmp_path)), datetime.now(timezone.utc)
    old = Record(now - timedelta(days=3), "/home", "f", "/mnt/usb", error="old")
    history.add(old)
    history.add(Record(now, "/srv", "f", "", error="new\n  then \x1b[31m"))
    first, second = must(
        run_program("log", "--since", "1d", env=env)
    ).stdout.splitlines()
    assert first.endswith("  /srv: FAILED: new")
    assert second == "  then \\x1b[31m"
    done = must(run_program("log", "/mnt/usb", "--since", "1d", env=env))
    assert done.stdout == "Nothing on record matches\n"
    assert "/mnt/usb" in complaint(run_program("log", "/mnt", env=env), 2, "/mnt")
    assert complaint(run_program("log", "--since", "x", env=env), 2, "--since")
    assert complaint(run_program("log", "shell://x", env=env), 2)
    (tmp_path / "history.jsonl").unlink()
    (tmp_path / "history.jsonl").mkdir()
    assert complaint(run_program("log", env=env), 1, "cannot be read")
