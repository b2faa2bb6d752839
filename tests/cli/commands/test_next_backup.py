"""What is foretold of the next backup: all say the same, and it comes true."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import public_disks
from tests.support.btrbk import BTRBK
from tests.support.command_line import covers, must
from tests.support.filesystems import Filesystem
from tests.support.places import (
    STATE,
    by_age,
    send_and_receive,
    set_read_only,
    show,
    tamper,
)
from tests.support.program import Argument, run_program
from tests.support.scene import Scene
from tests.support.staged import Way, document, local_way, ssh_way

pytestmark = pytest.mark.btrfs

OURS = f"{STATE}/snapshots"


def btrfs(*words: Argument) -> None:
    subprocess.run(["btrfs", "-q", *words], check=True)


@dataclass
class Chain:
    """Snapshots of a source, and what a place has of them.

    :ivar folder: where the snapshots are.
    :ivar expected: the parent of the next backup, "" for a full one.
    :ivar options: with which it is made.
    :ivar certain: the prefix makes no difference.
    """

    scene: Scene
    folder: Path
    expected: str = ""
    options: tuple[str, ...] = ()
    certain: bool = True

    @property
    def source(self) -> Path:
        return self.scene.source

    @property
    def names(self) -> list[str]:
        return by_age(self.folder)

    def snapshot(self, name: str) -> Path:
        """Change the source, and take a snapshot of it."""
        self.scene.add(f"before {name}")
        btrfs("subvolume", "snapshot", "-r", self.source, self.folder / name)
        return self.folder / name

    def copied(self, *names: str) -> "Chain":
        """Take snapshots, and copy them to the place as other tools do."""
        parent = None
        for name in names:
            taken = self.snapshot(name)
            send_and_receive(taken, self.scene.destination, parent=parent)
            parent = taken
        self.expected = names[-1]
        return self


def apart(scene: Scene) -> Chain:
    """Return a chain with a folder of its own for the snapshots."""
    folder = scene.source.parent / "snapshots"
    folder.mkdir()
    return Chain(scene, folder)


def our_own(scene: Scene) -> Chain:
    for _ in range(2):
        scene.back_up()
    return Chain(scene, scene.source / OURS, scene.snapshot_names[-1], ("-p", "x-"))


def with_btrbk(form: str) -> Callable[[Scene], Chain]:
    def make(scene: Scene) -> Chain:
        chain = apart(scene)
        config = scene.source.parent / "btrbk.conf"
        config.write_text(
            f"timestamp_format {form}\nsnapshot_create always\n"
            "snapshot_preserve_min all\ntarget_preserve_min all\n"
            f"volume {scene.source.parent}\nsnapshot_dir snapshots\n"
            f"subvolume home\ntarget {scene.destination}\n"
        )
        for number in range(2):
            scene.add(f"file {number}")
            subprocess.run([BTRBK, "-q", "-c", config, "run"], check=True)
        chain.expected = chain.names[-1]  # of two in a minute the second has _1
        assert len(chain.names) == 2 and by_age(scene.destination) == chain.names
        return chain

    return make


def by_hand(scene: Scene) -> Chain:
    return apart(scene).copied("monday", "tuesday, late")


def renamed_by_hand(scene: Scene) -> Chain:
    chain = by_hand(scene)
    path = scene.destination / chain.expected
    path.rename(scene.destination / "another name")
    return chain


def received_in_place_with_our_names(scene: Scene) -> Chain:
    folder = scene.source / OURS
    btrfs("subvolume", "create", folder.parent)
    folder.mkdir()
    chain = Chain(scene, folder, options=("-p", "x-"))
    return chain.copied("x-20260101-000000", "x-20260102-000000")


def edited_where_it_was_received(scene: Scene) -> Chain:
    """Change what was received in place: nothing can tell that."""
    chain = by_hand(scene)
    tamper(scene.destination / "tuesday, late")
    return chain


def our_newest_tampered_with(scene: Scene) -> Chain:
    chain = our_own(scene)
    tamper(scene.destination / chain.expected)
    chain.expected = chain.names[0]
    return chain


def all_tampered_with(scene: Scene) -> Chain:
    chain = our_own(scene)
    for name in chain.names:
        tamper(scene.destination / name)
    chain.expected = ""
    return chain


def tampered_with_at_the_source(scene: Scene) -> Chain:
    chain = our_own(scene)
    tampered = chain.folder / chain.expected
    set_read_only(tampered, False)
    (tampered / "evil").touch()
    set_read_only(tampered, True)
    chain.expected = chain.names[0]
    return chain


def several_carriers(scene: Scene) -> Chain:
    chain = our_own(scene)
    elsewhere = scene.other_destination("elsewhere") / "copy"
    copy = scene.destination / chain.expected
    btrfs("subvolume", "snapshot", "-r", copy, elsewhere)
    return chain


def a_carrier_tampered_with(scene: Scene) -> Chain:
    chain = several_carriers(scene)
    tamper(scene.destination.parent / "elsewhere" / "copy")
    chain.expected = chain.names[0]
    return chain


def a_gap(scene: Scene) -> Chain:
    """Let a backup be missing that an older and a newer one are there of."""
    scene.back_up()
    chain = our_own(scene)
    btrfs("subvolume", "delete", scene.destination / chain.names[1])
    return chain


def nothing_in_common(scene: Scene) -> Chain:
    chain = by_hand(scene)
    for name in chain.names:
        btrfs("subvolume", "delete", chain.folder / name)
    chain.expected = ""
    return chain


def another_folder(scene: Scene) -> Chain:
    """Let the next backup look where there are no snapshots."""
    chain = by_hand(scene)
    chain.folder = scene.source / OURS
    chain.expected = ""
    return chain


def made_of_its_snapshot(scene: Scene) -> Chain:
    """Go back to a snapshot, as one does by hand."""
    chain = by_hand(scene)
    btrfs("subvolume", "delete", scene.source)
    btrfs("subvolume", "snapshot", chain.folder / "monday", scene.source)
    chain.expected = "monday"
    return chain


def of_its_prefix_only(scene: Scene) -> Chain:
    """Let nothing but their names tell that snapshots are of the source."""
    chain = apart(scene)
    chain.copied("y-20260101-000000")
    new = scene.source.parent / "new"
    btrfs("subvolume", "create", new)
    subprocess.run(["cp", "-a", "--reflink=never", f"{scene.source}/.", new])
    btrfs("subvolume", "delete", scene.source)
    new.rename(scene.source)
    chain.options, chain.certain = ("-p", "y-"), False
    return chain


MAKERS = {
    "our own": our_own,
    "btrbk": with_btrbk("long"),
    "btrbk, long-iso": with_btrbk("long-iso"),
    "by hand": by_hand,
    "renamed by hand": renamed_by_hand,
    "received in place": received_in_place_with_our_names,
    "edited where it was received": edited_where_it_was_received,
    "tampered with": our_newest_tampered_with,
    "all tampered with": all_tampered_with,
    "tampered with at the source": tampered_with_at_the_source,
    "several carriers": several_carriers,
    "a carrier tampered with": a_carrier_tampered_with,
    "a gap": a_gap,
    "nothing in common": nothing_in_common,
    "another folder": another_folder,
    "made of its snapshot": made_of_its_snapshot,
    "of its prefix only": of_its_prefix_only,
}


def words_of(way: Way, *places: Path) -> list[Argument]:
    """Name places by one way."""
    first, *rest = places
    return [*way(first), *(way(place)[-1] for place in rest)]


def foretold_by_verify(
    chain: Chain, way: Way, source: Path, folder: Path | str, *more: str
) -> dict[str, Any]:
    """Return what verify foretells, and check that its verdict fits."""
    place, other = words_of(way, chain.scene.destination, source)[-2:]
    options = [*words_of(way, source)[:-1], *more]
    done = run_program(
        "verify", "--json", *options, "-f", folder, place, "--source", other
    )
    (seen,) = json.loads(done.stdout)["places"]
    told = seen["next_backup"]
    assert isinstance(told, dict)
    parents = [
        one
        for one in seen["findings"]
        if one["check"] == "parent" and "next" in one["text"]
    ]
    results = {True: [], False: ["bad"], None: ["unchecked"]}
    assert [one["result"] for one in parents] == results[told["incremental"]]
    return told


def foretold_by_list(
    chain: Chain, way: Way, source: Path, folder: Path | str
) -> tuple[set[str], set[str]]:
    """Return the names of what is, and of what perhaps is, the next parent.

    At both places that are the same snapshots.
    """
    places = words_of(way, source, chain.scene.destination)
    here, there = document(run_program("list", "--json", "-f", folder, *places))
    marks = ("next_parent", "perhaps_next_parent")
    sure, perhaps = (
        {
            s["received_uuid"] or s["uuid"]: s["name"]
            for s in here["snapshots"]
            if s[mark]
        }
        for mark in marks
    )
    for mark, found in zip(marks, (sure, perhaps), strict=True):
        assert {s["received_uuid"] for s in there["snapshots"] if s[mark]} == set(found)
    return set(sure.values()), set(perhaps.values())


def backed_up(
    chain: Chain,
    way: Way,
    source: Path,
    folder: Path | str,
    *options: Argument,
) -> list[str]:
    """Run a backup, and give the parent of each snapshot that it sends."""
    places = words_of(way, source, chain.scene.destination)
    done = must(run_program("--json", "-f", folder, *options, *places))
    events = json.loads(done.stdout)["events"]
    return [event["parent"] or "" for event in events if event["event"] == "sent"]


def both_ways(here: Iterable[str], behind_ssh: Iterable[str]) -> pytest.MarkDecorator:
    """Say which chains a test is about on this machine, and which behind ssh.

    Behind ssh looks are coarser: it is for those where that matters.
    """
    cases = [*product(["local"], here), *product(["ssh"], behind_ssh)]
    return pytest.mark.parametrize(("where", "maker"), cases)


@pytest.fixture(scope="module")
def disks() -> Iterator[tuple[Filesystem, Filesystem]]:
    """Make two filesystems without odd names, which btrbk does not understand."""
    with public_disks() as made:
        yield made


@pytest.fixture
def way(where: str, request: pytest.FixtureRequest) -> Way:
    """Return how places are named: those of this machine, or behind ssh."""
    if where == "local":
        return local_way
    return ssh_way(request.getfixturevalue("sshd"))


@covers("--snapshot-prefix")
@both_ways(
    MAKERS,
    [
        "btrbk, long-iso",
        "received in place",
        "tampered with",
        "tampered with at the source",
        "a carrier tampered with",
        "made of its snapshot",
    ],
)
def test_what_is_foretold_of_the_next_backup_comes_true(
    scene: Scene, way: Way, maker: str
):
    chain = MAKERS[maker](scene)
    expected, source, folder = chain.expected, chain.source, chain.folder
    told = foretold_by_verify(chain, way, source, folder)
    sure, perhaps = foretold_by_list(chain, way, source, folder)
    assert told["certain"] is chain.certain
    if chain.certain:
        assert (told["parent"] or "") == expected
        assert told["incremental"] is bool(expected)
        assert (sure, perhaps) == ({expected} - {""}, set())
    else:
        assert told["incremental"] is told["parent"] is None
        cases = {one["prefix"]: one["parent"] for one in told["cases"]}
        assert cases["y-"] == expected and cases[None] is None
        known = foretold_by_verify(chain, way, source, folder, "-p", "y-")
        assert (known["certain"], known["parent"]) == (True, expected)
        assert (sure, perhaps) == (set(), {expected})
        assert backed_up(chain, way, source, folder, "--dry-run")[-1] == ""
    dry = backed_up(chain, way, source, folder, *chain.options, "--dry-run")
    sent = backed_up(chain, way, source, folder, *chain.options)
    assert sent == dry and expected in sent
    assert all(sent) is bool(expected)


@both_ways(
    [
        "our own",
        "btrbk",
        "btrbk, long-iso",
        "by hand",
        "received in place",
        "tampered with",
        "several carriers",
        "a carrier tampered with",
    ],
    ["btrbk, long-iso", "tampered with", "a carrier tampered with"],
)
def test_the_next_backup_of_what_was_restored_is_what_is_foretold(
    scene: Scene, way: Way, maker: str
):
    chain = MAKERS[maker](scene)
    there = by_age(scene.destination)
    name = there[0] if maker == "tampered with" else there[-1]
    new = scene.source.parent / "restored"
    place, to = words_of(way, scene.destination, new)[-2:]
    options = words_of(way, new)[:-1]
    done = must(
        run_program(
            "restore", "--json", "--writable", *options, place, name, "--to", to
        )
    )
    said = json.loads(done.stdout)["next_backup"]
    told = foretold_by_verify(chain, way, new, OURS)
    expected = "" if maker == "a carrier tampered with" else name
    assert said == told and told["certain"]
    assert (told["parent"] or "") == expected
    assert told["incremental"] is bool(expected)
    assert foretold_by_list(chain, way, new, OURS) == ({expected} - {""}, set())
    assert backed_up(chain, way, new, OURS) == [expected]


def test_a_snapshot_on_its_way_makes_what_is_foretold_uncertain(scene: Scene):
    chain = our_own(scene)
    scene.back_up("-T")
    coming = chain.names[-1]
    record = scene.source / STATE / "holds.json"
    known = json.loads(record.read_text())
    origin = show(chain.folder / coming).uuid
    hold = {"origin": origin, "name": coming, "why": "being sent"}
    known["destinations"][0]["holds"].append(hold)
    record.write_text(json.dumps(known))
    told = foretold_by_verify(chain, local_way, chain.source, OURS)
    assert (told["parent"], told["certain"]) == (chain.expected, False)
    assert told["coming"] == [coming]
    found = foretold_by_list(chain, local_way, chain.source, OURS)
    assert found == (set(), {chain.expected})
    done = must(run_program("verify", scene.destination, "--source", scene.source))
    text = " ".join(done.stdout.split())
    assert f"if a transfer under way arrives before it, with parent {coming}" in text
    assert chain.expected in backed_up(chain, local_way, chain.source, OURS, "-px-")


def test_prune_keeps_the_parent_that_the_next_backup_really_has(scene: Scene):
    scene.back_up()
    chain = our_own(scene)
    oldest, parent, newest = chain.names
    tamper(scene.destination / newest)
    options = ["--keep-at=latest=1", "--keep=latest=1", "--yes", "--force"]
    must(run_program("prune", *options, scene.source, scene.destination))
    assert by_age(scene.destination) == [parent, newest]
    assert parent in chain.names and oldest not in chain.names
    assert backed_up(chain, local_way, chain.source, OURS, "-px-") == [parent]
