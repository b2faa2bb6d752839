"""What is configured: a word for each volume at each target, the same in every form."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands.status.test_check import VALUE
from tests.cli.commands.status.test_metrics import of, parse
from tests.cli.commands.status.test_page import Reader
from tests.support.command_line import complaint, covers, must
from tests.support.many import add_history, write_records
from tests.support.places import STATE
from tests.support.program import Argument, run_program
from tests.support.scene import Scene
from tests.support.staged import locked

pytestmark = pytest.mark.btrfs


class World:
    """Two volumes, one target for both, one that may be away, and one that may not."""

    def __init__(self, scene: Scene, directory: Path) -> None:
        self.scene, self.file = scene, directory / "config.toml"
        self.second = scene.subvolume("root")
        self.usb, self.nas = scene.destination, scene.destination.parent / "nas"
        self.env = {"BTRFS_BACKUP_NG_STATE": str(directory / "state")}
        self.write()

    def write(self, *, top: str = "", usb: str = "", nas: str = "") -> None:
        """Write the configuration, with more lines in its sections."""
        self.file.write_text(f"""\
snapshot-prefix = "x-"
{top}
[targets.usb]
place = "{self.usb}"
{usb}
[targets.nas]
place = "{self.nas}"
{nas}
[volumes.home]
source = "{self.scene.source}"
to = ["usb", "nas"]
[volumes.root]
source = "{self.second}"
to = "usb"
snapshot-prefix = "root-"
""")

    def call(self, verb: str, *words: Argument) -> Any:
        return run_program(verb, "-c", self.file, *words, env=self.env)

    def words(self, *more: Argument, status: int = 0) -> dict[str, str]:
        """Return the word of each volume at each target."""
        lines = must(self.call("status", *more), status).stdout.splitlines()
        found = (re.match(r"([A-Z]+) +(\w+ at \w+): ", line) for line in lines)
        return {match[2]: match[1] for match in found if match}


@pytest.fixture
def world(scene: Scene, tmp_path: Path) -> World:
    return World(scene, tmp_path)


def test_each_volume_is_judged_at_each_target_by_its_own_backups(world: World):
    scene = world.scene
    add_history(scene, range(72, 50, -7))
    write_records(scene)
    never = {"home at usb": "OK", "home at nas": "AWAY", "root at usb": "NEVER"}
    assert world.words(status=1) == never
    shown = world.call("status").stdout
    run = f"Back up now:  btrfs-backup-ng run -c {world.file} root --only usb"
    assert run in shown.splitlines()[-1] and f"{world.nas} does not exist" in shown

    world.write(top='max-age = "2d"', nas='max-age = "1d"\noptional = true')
    stale = {"home at usb": "STALE", "home at nas": "AWAY", "root at usb": "NEVER"}
    assert world.words(status=1) == stale
    with locked(world.usb / STATE):
        running = {**stale, "root at usb": "RUNNING"}
        assert world.words(status=1) == running
        assert world.words("--max-age", "9d", status=1)["home at usb"] == "RUNNING"

    world.nas.mkdir()
    must(world.call("run"))
    good = {"home at usb": "OK", "home at nas": "OK", "root at usb": "OK"}
    assert world.words() == good
    assert len(must(world.call("status", "-q")).stdout) == 0
    with locked(scene.source / STATE):
        must(world.call("run", "home"), 3)
    failed = {**good, "home at usb": "FAILED", "home at nas": "FAILED"}
    assert world.words(status=1) == failed
    # Backups of another source, with the same prefix, are not those of the volume.
    third, newest = scene.subvolume("third"), scene.backup_names[-1]
    must(run_program("-p", "x-", third, world.usb))
    shown = must(world.call("status"), 1).stdout
    assert scene.backup_names[-1] not in shown and newest in shown

    world.nas.rename(world.nas.with_name("gone"))
    assert world.words("--max-age", "1h", status=1)["home at nas"] == "AWAY"
    must(world.call("run", "home"))
    assert world.words() == {**good, "home at nas": "AWAY"}  # which is fine
    complaint(world.call("status", world.usb), 2, "-c names all places")


def _listed(world: World) -> dict[tuple[str, str], tuple[str, int]]:
    """Return the newest backup at each place, by prefix, and their number."""
    listed = json.loads(world.call("list", "--json").stdout)["places"]
    found: dict[tuple[str, str], tuple[str, int]] = {}
    for place in listed:
        for one in place["snapshots"]:
            if one["complete"] and one["kind"] == "backup":
                key = place["place"], one["name"].split("-")[0]
                found[key] = one["name"], found.get(key, ("", 0))[1] + 1
    return found


def test_all_forms_agree(world: World):
    world.write(top='max-age = "2d"', nas="optional = true")
    add_history(world.scene, range(72, 60, -3))
    write_records(world.scene)
    must(world.call("run", "root"))
    metrics, html = world.file.with_name("x.prom"), world.file.with_name("x.html")
    words = world.words(status=1)
    files: list[Argument] = ["--metrics", metrics, "--html", html]
    document = must(world.call("status", "--json", *files), 1)
    page = Reader(html.read_text())
    page.check_safe()
    cells = iter(page.texts["span"])
    entries = json.loads(document.stdout)["places"]
    samples, listed = parse(metrics.read_text()), _listed(world)
    line = must(world.call("status", "--check"), 1).stdout
    values = {title: age for title, age, *_ in re.findall(VALUE, line)}
    assert [e["status"] for e in entries] == ["stale", "away", "ok"]
    (sentence,) = page.texts["h1"]
    assert re.match("2 of 3 need you: home at usb has had no new backup for", sentence)
    run = f"btrfs-backup-ng run -c {world.file} home --only usb"
    names = {(e["newest"] or {}).get("name") for e in entries} - {None}
    restores = [f"btrfs-backup-ng restore {world.usb} {n} --to ." for n in names]
    assert {run, *restores} <= {*page.texts["pre"]}
    for one in entries:
        title = f"{one['volume']} at {one['target']}"
        at = one["volume"], one["target"], one["place"]
        assert words[title].lower() == one["status"]
        assert samples[of("state", *at, state=one["status"])] == 1
        assert samples[of("fine", *at)] == one["fine"]
        assert next(c for c in cells if c.isupper()) == one["status"].upper()
        if one["status"] == "away":
            assert values[title] == "U" and of("complete", *at) not in samples
            continue
        prefix = "x" if one["volume"] == "home" else "root"
        name, count = listed[one["place"], prefix]
        assert (one["newest"]["name"], one["complete"]) == (name, count)
        assert samples[of("complete", *at)] == count
        age = one["newest"]["age_s"]
        assert abs(samples[of("newest_age_seconds", *at)] - age) <= 2
        assert abs(int(values[title].removesuffix("s")) - age) <= 10


@covers("--html")
def test_the_page_says_what_prune_would_do_and_which_parent_is_needed(world: World):
    scene = world.scene
    add_history(scene, range(72, 2, -3))
    write_records(scene, policy="latest 2d")
    page = world.file.with_name("x.html")
    words = [scene.source, world.usb]
    must(run_program("status", *words, "--html", page, env=world.env))
    hovers = [h for h in Reader(page.read_text()).texts["title"] if " ago: " in h]
    policies = ["--keep", "latest 2d", "--keep-at", "latest 2d"]
    pruned = json.loads(
        must(run_program("prune", "-n", "--force", "--json", *policies, *words)).stdout
    )
    verdicts = [one for place in pruned["places"] for one in place["snapshots"]]
    assert {one["verdict"] for one in verdicts} == {"keep", "delete"}
    shown = {"keep": ": (kept|needed as parent) ", "delete": ": to be deleted "}
    for verdict, pattern in shown.items():
        found = [hover for hover in hovers if re.search(pattern, f"{hover} ")]
        numbers = [re.match(r"(\d+) of them", hover) for hover in found]
        count = sum(int(number[1]) if number else 1 for number in numbers)
        assert count == sum(one["verdict"] == verdict for one in verdicts)
    assert sum("needed as parent (" in hover for hover in hovers) == 2


def test_max_age_is_inherited_and_checked(world: World):
    world.write(top='max-age = "3d"', usb='max-age = "12h"')
    document = must(world.call("config", "check", "--json")).stdout
    ages = {
        (volume["volume"], target["target"]): each["value"]
        for volume in json.loads(document)["volumes"]
        for target in volume["targets"]
        for each in target["settings"]
        if each["key"] == "max-age"
    }
    assert ages == {
        ("home", "usb"): "12h",
        ("home", "nas"): "3d",
        ("root", "usb"): "12h",
    }
    world.write(usb='max-age = "often"')
    complaint(world.call("status"), 2, "targets.usb.max-age: 'often' is not a duration")
