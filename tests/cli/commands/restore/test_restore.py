"""``restore`` of whole snapshots: all of it is back, and the chain goes on."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from btrfs_backup_ng.__util__ import UsageError
from btrfs_backup_ng.cli.commands.restore import command as restore
from btrfs_backup_ng.cli.parser import parse_places
from tests.conftest import MakesFilesystems
from tests.support import places, trees, variety
from tests.support.accounts import SUDO_BTRFS, Account
from tests.support.command_line import Done, complaint, covers, must
from tests.support.places import STATE, fingerprint
from tests.support.processes import descendants, everything, kill, wait_until
from tests.support.program import Argument, run_program, start_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd
from tests.support.staged import Way, both_ways, fill, local_way, locked, ssh_way

pytestmark = pytest.mark.btrfs


def restored(*words: Argument, **changes: Any) -> Done:
    """Run it."""
    return run_program("restore", *words, **changes)


def told(done: Done, status: int = 0) -> dict[str, Any]:
    """Read the document that it printed."""
    document = json.loads(must(done, status).stdout)
    assert (document["version"], document["exit_status"]) == (1, status)
    assert isinstance(document, dict)
    return document


def shown(path: Path) -> dict[str, str]:
    """Return what btrfs tells of a subvolume."""
    done = subprocess.run(
        ["btrfs", "subvolume", "show", path], stdout=subprocess.PIPE, check=True
    )
    lines = done.stdout.decode(errors="surrogateescape").splitlines()
    fields = (line.partition(":") for line in lines)
    said = {key.strip(): value.strip() for key, _, value in fields}
    kept = ("UUID", "Parent UUID", "Received UUID", "Creation time", "Flags")
    return {key: said[key] for key in kept}  # a generation moves where it is a base


# Acceptance: the full circle.


@pytest.mark.parametrize("through", ["here", "ssh"])
def test_a_destroyed_source_comes_back_and_its_chain_goes_on(
    btrfs: MakesFilesystems, sshd: Sshd, through: str
):
    way: Way = ssh_way(sshd) if through == "ssh" else local_way
    old, disk, new = btrfs(), btrfs(), btrfs()
    source, backups = old.subvolume("home"), disk.path / "backups"
    backups.mkdir()
    there, local = way(backups), local_way(backups)
    variety.fill(source, 1)
    for generation in range(5):
        if generation:
            variety.change(source, generation)
        must(run_program("-p", "home-", source, *(there if generation < 2 else local)))
    names = sorted(set(os.listdir(backups)) - {STATE})
    wanted = trees.describe(source)
    before = {name: shown(backups / name) for name in names}
    old.unmount()

    home = new.path / "home"
    done = must(restored(*there, "--to", home, "--writable"))
    assert "in full" in done.stdout
    assert trees.differences(wanted, trees.describe(home)) == []
    assert sorted(os.listdir(new.path)) == ["home"]
    assert os.listdir(home / STATE / "snapshots") == names[-1:]

    runs = 11 if through == "here" else 2
    last = names[-1]
    for number in range(runs):
        (home / "more").write_text(str(number))
        done = must(run_program("-p", "home-", home, *there))
        match = re.search(r"sent (\S+), .* since (\S+) in", done.stdout)
        assert match and match[2] == last, done.stdout
        assert "warning" not in done.stderr
        last = match[1]
    after = sorted(set(os.listdir(backups)) - {STATE})
    assert after[:5] == names and len(after) == 5 + runs
    assert {name: shown(backups / name) for name in names} == before
    assert trees.differences(wanted, trees.describe(backups / names[-1])) == []


# What is chosen, and where it goes.


@covers("--to", "--dry-run", "-n", "-p", "--snapshot-prefix")
def test_words_choose_and_a_dry_run_changes_nothing(scene: Scene, sshd: Sshd):
    names = fill(scene, 3)
    other = scene.source.parent / "new"
    shown_before = scene.fingerprint()
    uuid = shown(scene.destination / names[1])["UUID"]
    for way in both_ways(sshd):
        for word, name in (("latest", names[2]), (uuid[:13], names[1])):
            words: Sequence[Argument]
            words = (*way(scene.destination), word, "--to", other)
            document = told(restored(*words, "--json", "--dry-run"))
            assert document["snapshot"]["name"] == name
            assert document["snapshot"]["kind"] == "backup"
            assert (document["to"], document["dry_run"]) == (str(other), True)
        document = told(restored(*way(scene.source), "--to", other, "-n", "--json"))
        assert document["snapshot"]["kind"] == "snapshot"
        assert (document["snapshot"]["name"], document["to"]) == (names[2], str(other))
    done = restored(*way(scene.destination), "1999-01-01", "--to", other)
    complaint(done, 4, "from '1999-01-01' or before", names[2])
    done = restored(scene.destination, "nonsense", "--to", other)
    complaint(done, 4, "no snapshot", "'nonsense'", names[2])
    text = must(restored(scene.destination, "--to", other, "-n")).stdout
    assert re.search(rf"^snapshot  {names[2]}, 2020", text)
    size = "nothing to send: that filesystem has all of it"
    assert re.search(rf"^size      {size}; \S+ \wiB free", text, re.M)
    assert not other.exists() and scene.fingerprint() == shown_before
    places.delete_all(scene.snapshot_folder)
    text = must(restored(scene.destination, "--to", other, "-n")).stdout
    assert re.search(r"^size      about \d.* B, in full; \S+ \wiB free", text, re.M)

    second = scene.source.parent / "srv"
    subprocess.run(["btrfs", "-q", "subvolume", "create", second], check=True)
    must(run_program("-p", "srv-", second, scene.destination))
    done = restored(scene.destination, "--to", other)
    complaint(done, 4, "several prefixes", "-p 'srv-'", "-p 'x-'")
    for option, prefix in (("-p", "srv-"), ("--snapshot-prefix", "x-")):
        words = (scene.destination, option, prefix, "--to", other, "-n", "--json")
        assert told(restored(*words))["snapshot"]["name"].startswith(prefix)


@covers("--writable", "--to")
def test_what_the_target_has_already_is_not_sent_again(scene: Scene, sshd: Sshd):
    scene.add("large", 3 << 20)
    scene.back_up()
    scene.add("later")
    scene.back_up()
    first, second = scene.backup_names
    places.delete_all(scene.snapshot_folder)
    target = scene.source.parent / "target"
    target.mkdir()
    words = (scene.destination, "--json", "--to")
    document = told(restored(*words, target, first))
    assert (document["parent"], document["sent_bytes"] > 3 << 20) == (None, True)
    assert (target / first / "large").stat().st_size == 3 << 20
    assert not (target / STATE).exists()

    for way in both_ways(sshd):  # the other one is the parent
        document = told(restored(*way(scene.destination), *words[1:], target, second))
        assert (document["parent"], document["sent_bytes"] < 9999) == (first, True)
        copy = target / second
        assert (
            shown(copy)["Received UUID"]
            == shown(scene.destination / second)["Received UUID"]
        )
        assert shown(copy)["Flags"] == "readonly"
        assert (copy / "later").read_bytes() == (scene.source / "later").read_bytes()
        subprocess.run(["btrfs", "-q", "subvolume", "delete", copy], check=True)

    places.tamper(target / first)  # and is none any more
    assert told(restored(*words, target, second))["parent"] is None
    there = trees.describe(target / second)
    assert trees.differences(trees.describe(scene.destination / second), there) == []


@covers("-I", "--no-incremental")
def test_a_snapshot_is_its_own_parent_on_its_own_filesystem(scene: Scene, sshd: Sshd):
    scene.add("large", 3 << 20)
    scene.back_up()
    (name,) = scene.backup_names
    way, target = ssh_way(sshd), scene.source.parent / "target"
    target.mkdir()
    words = (*way(scene.source), name, "--writable", "--json", "--to")
    document = told(restored(*words, way(target / "new")[-1]))
    assert document["parent"] == name and document["sent_bytes"] < 999
    assert (
        trees.differences(trees.describe(scene.source), trees.describe(target / "new"))
        == []
    )
    assert trees.shares_extents(target / "new/large", scene.source / "large")
    kept = target / "new" / STATE / "snapshots" / name
    source = scene.source / STATE / "snapshots" / name
    assert shown(kept)["Received UUID"] == shown(source)["UUID"]
    done = must(run_program("-p", "x-", target / "new", scene.destination))
    assert f"since {name}" in done.stdout

    whole = target / "whole"
    all_of_it = (scene.source, name, "--json", "--no-incremental", "--to", whole)
    planned = told(restored(*all_of_it, "--dry-run"))
    document = told(restored(*all_of_it))
    assert planned["parent"] is document["parent"] is None
    assert planned["size_bytes"] == document["sent_bytes"] > 3 << 20
    assert not trees.shares_extents(whole / "large", scene.source / "large")


@covers("--wait")
def test_nothing_is_overwritten_and_nothing_half_done(scene: Scene, sshd: Sshd):
    names = fill(scene, 2)
    target = scene.source.parent / "target"
    target.mkdir()
    taken = target / "taken"
    taken.write_text("precious")
    link = target / "link"
    link.symlink_to("nowhere")
    (target / names[1]).mkdir()
    before = fingerprint(target)
    for way in both_ways(sshd):
        there = way(scene.destination)
        done = restored(scene.destination, "--to", *reversed(way(link)))
        complaint(done, 4, "already exists; nothing was overwritten")
    for to in (taken, target):
        done = restored(scene.destination, "--to", to)
        complaint(done, 4, "already exists; nothing was overwritten")
    done = restored(*there, "--to", way(target / "no/where")[-1])
    complaint(done, 4, "does not exist", "mkdir -p")
    done = restored(*there, "--to", scene.destination / names[0])
    complaint(done, 4, "is a read-only snapshot")
    done = restored(*there, "--to", way(Path("/proc"))[-1])
    complaint(done, 4, "is proc, and a snapshot can be restored to btrfs only")
    done = restored(scene.destination / names[0], "--to", target / "x")
    complaint(done, 4, "has no snapshots", f"restore {scene.destination} {names[0]}")
    assert fingerprint(target) == before
    (target / STATE).mkdir()
    with locked(target / STATE):
        done = restored(scene.destination, "--to", target / "x")
        complaint(done, 3, "another run is working")
        done = restored(scene.destination, "--to", target / "x", "--wait", "1")
        complaint(done, 3, "another run is working")
    assert sorted(os.listdir(target)) == sorted([STATE, "taken", "link", names[1]])
    must(restored(scene.destination, "--to", target / "x", "--wait", "1"))


@pytest.mark.parametrize(
    "words",
    [
        ["/b"],
        ["/b", "latest", "more", "--to", "/x"],
        ["/b", "--to", "/x", "--writable", "--file", "x"],
        ["/b", "--to", "/x", "--compress", "lz4", "--file", "x"],
        ["/b", "--to", "/x", "-I", "--file", "x"],
        ["--to", "/x"],
        ["--to", "/x", "--id", "1234"],
        ["--to", "/x", "--id", "1234", "--file", "/a", "/b"],
        ["--to", "/x", "--id", "1234", "--file", "/a", "--files-from", "/dev/null"],
        ["/b", "latest", "--to", "/x", "--id", "1234", "--file", "/a"],
        ["/b", "--to", "/x", "--replaces", "/home"],
        ["/b", "--to", "/x", "--writable", "--replaces", "home"],
        ["/b", "--to", "shell://cat"],
        ["shell://cat", "--to", "/x"],
        ["/b", "--to", "/x", "-0"],
        ["/b", "--to", "/x", "--file", "../x"],
        ["/b", "--to", "/x", "--file", "a/../../x"],
        ["/b", "--to", "/x", "--file", "/"],
        ["/b", "--to", "/x", "--file", ""],
        ["/b", "--to", "/x", "--files-from", "/dev/null"],
        ["/b", "--to", "/x", "--files-from", "/does/not/exist"],
    ],
)
def test_words_that_make_no_sense_are_refused(words: list[str]):
    with pytest.raises(UsageError):
        options = parse_places(restore.build_parser(), words)
        restore.read(options)


def test_what_was_changed_is_not_restored_as_what_it_was(scene: Scene):
    scene.back_up()
    name = scene.backup_names[0]
    places.tamper(scene.destination / name)
    backup = scene.destination / name
    words = (scene.destination, name, "--to", scene.source / "new")
    complaint(restored(*words), 4, "was written to after it was made", "--file")
    complaint(restored(*words[:1], *words[2:]), 4, name, "--data", "--force")
    flip = ["btrfs", "property", "set", "-f", "-ts", str(backup), "ro", "false"]
    subprocess.run(flip, check=True)
    complaint(restored(*words), 4, "has no snapshots")
    assert not (scene.source / "new").exists()


@covers("--from")
def test_of_several_sources_with_one_prefix_one_has_to_be_named(
    scene: Scene, sshd: Sshd
):
    home, srv = scene.source, scene.subvolume("srv")
    (srv / "index").touch()
    places_told = [f"{os.uname().nodename}:{path}" for path in (home, srv)]
    assert not scene.back_up().stderr
    run = ("-p", "x-", srv, scene.destination)
    done = must(run_program(*run))
    assert f"keeps backups of {places_told[0]} that begin with 'x-'" in done.stderr
    for _ in range(2):
        (srv / "index").write_text("more")
        assert "will be mixed" not in must(run_program(*run)).stderr
        scene.back_up()
    new = scene.source.parent / "new"
    owners: dict[Path, list[str]] = {home: [], srv: []}
    for way in both_ways(sshd):
        document = told(run_program("list", "--json", *way(scene.destination)))
        for one in document["places"][0]["snapshots"]:
            owner = (home, srv)[places_told.index(one["source"])]
            has_index = (scene.destination / one["name"] / "index").exists()
            assert has_index == (owner == srv)
            owners[owner].append(one["name"])
        for word in ("latest", "2999-01-01"):
            done = restored(*way(scene.destination), word, "--to", new)
            complaint(done, 4, "matches several", *map("--from {}".format, places_told))
        for name in (places_told[1], f"{srv}/"):
            words: list[Argument] = [*way(scene.destination), "--from", name, "--json"]
            document = told(restored(*words, "--to", new, "-n", "--writable"))
            assert document["snapshot"]["name"] == owners[srv][-1]
            assert str(srv) in str(document["swap"]["commands"])
    assert [len(names) for names in owners.values()] == [6, 6]
    wide = {"COLUMNS": "400"}
    listed = must(run_program("list", scene.destination, env=wide)).stdout
    assert all(place in listed for place in places_told)
    complaint(restored(scene.destination, "--from", "/x", "--to", new), 4, *places_told)
    uuid = shown(scene.destination / owners[home][0])["UUID"]
    for word in (uuid, owners[home][0]):
        must(restored(scene.destination, word, "--to", new, "-n"))


@covers("--force")
def test_what_was_changed_is_restored_as_it_is_without_its_identity(
    scene: Scene, sshd: Sshd
):
    scene.back_up()
    scene.back_up()
    older, name = scene.backup_names
    places.tamper(scene.destination / name)
    places.delete_all(scene.snapshot_folder)
    target = scene.source.parent / "target"
    target.mkdir()
    done = must(restored(scene.destination, "--to", target / "other"))
    assert f"{name} is newer, but was written to" in done.stderr
    assert (target / "other").exists() and f"snapshot  {older}" in done.stdout
    for number, way in enumerate(both_ways(sshd)):
        new = target / f"{number}"
        option = "--writable" if number else "--json"
        words: tuple[Argument, ...] = (*way(scene.destination), "-px-", "--force")
        words = (*words, "--to", new, option)
        done = must(restored(*words))
        assert "may not be what was backed up" in done.stderr
        assert (shown(new)["Received UUID"], shown(new)["Flags"]) == ("-", "-")
        assert not (new / STATE).exists()
        wanted = trees.describe(scene.destination / name)
        ignored = ("mtime_ns",)  # of the top
        assert not trees.differences(wanted, trees.describe(new), ignore=ignored)
        done = must(run_program("-p", "y-", new, scene.destination))
        assert "since" not in done.stdout
    words = ("--file", "first", "--to", target)
    must(restored(scene.destination, name, *words))


@covers("--rate", "--checkpoint-interval", "--retries")
def test_a_cut_restore_goes_on_where_it_was_sealed(scene: Scene, sshd: Sshd):
    scene.add("large", 6 << 20)
    scene.back_up()
    places.delete_all(scene.snapshot_folder)
    target = scene.source.parent / "target"
    target.mkdir()
    words = [*ssh_way(sshd)(scene.destination), "--to", str(target / "new")]
    words += ["--writable", "--checkpoint-interval", "1M"]
    with start_program("restore", *words, "--rate", "3M") as program:
        wait_until(lambda: len(list(target.glob(f"{STATE}/*/*/.seal*"))) > 1, 60)
        program.kill()
    assert not (target / "new").exists()
    wait_until(lambda: not any(str(target) in " ".join(p.argv) for p in everything()))
    # The next run is cut, too, and goes on by itself.
    with start_program(
        "restore", *words, "--rate", "2M", "--retries", "1", "--json"
    ) as program:
        before = _offset(target)
        wait_until(lambda: _offset(target) > before, 60)
        kill([p for p in descendants(program.pid) if "-M" in p.argv])
        stdout, stderr = program.communicate(timeout=60)
    assert (program.returncode, "Trying again" in stderr) == (0, True), stderr
    document = json.loads(stdout)
    assert document["resumed_bytes"] >= 2 << 20
    assert document["sent_bytes"] < 6 << 20
    there = trees.describe(target / "new")
    assert trees.differences(trees.describe(scene.source), there) == []
    assert os.listdir(target) == ["new"]
    # The same again would be a second one in the first.
    complaint(restored(*words), 4, "already has this snapshot")


def _offset(target: Path) -> str:
    """Tell how far what is received to a directory has got."""
    bodies = target.glob(f"{STATE}/*/*/.body*")
    return max((body.name.split("-")[1] for body in bodies), default="")


def test_who_may_do_nothing_but_btrfs_as_root_there_can_restore(
    scene: Scene, sshd: Sshd, account: Callable[..., Account]
):
    scene.back_up()
    user = account(sudoers=SUDO_BTRFS)
    target = scene.source.parent / "target"
    target.mkdir()
    os.chown(target, user.uid, user.gid)
    *login, to = ssh_way(sshd)(target / "new")
    there = to.replace("ssh://", f"ssh://{user.name}@")
    done = must(restored(*login, scene.destination, "--to", there, "--writable"))
    assert "left a stub" in done.stderr and "sending in full" in done.stderr
    assert os.listdir(target) == ["new"]
    name = scene.backup_names[0]
    kept = shown(target / "new" / STATE / "snapshots" / name)
    backup = shown(scene.destination / name)
    assert kept["Received UUID"] == backup["Received UUID"]
    assert (target / "new/first").read_bytes() == (scene.source / "first").read_bytes()
    done = must(run_program("-p", "x-", target / "new", scene.destination))
    assert f"since {name}" in done.stdout
    # Files of others are not theirs to read.
    (scene.destination / "out").mkdir()
    scene.destination.chmod(0o755)
    (scene.source / "secret").mkdir(mode=0o700)
    (scene.source / "secret/file").write_text("x")
    scene.back_up()
    place = ssh_way(sshd)(scene.destination)[-1].replace(
        "ssh://", f"ssh://{user.name}@"
    )
    words = [*login, place, "-p", "x-", "--to", str(scene.destination / "out")]
    done = restored(*words, "--file", "secret/file")
    complaint(done, 1, "cannot look at everything", "without --file")
    assert os.listdir(scene.destination / "out") == []
