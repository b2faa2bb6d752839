"""A record that is lost or damaged is not known, which is never the same as empty."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.faults.conftest import Disks
from tests.support import processes
from tests.support.many import make_named, make_pairs
from tests.support.places import STATE, show, ssh_place, ssh_words
from tests.support.program import PROGRAM, environment, run_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs

GIB = 1 << 30
#: With what another source may have left under the same prefix.
STRANGER = "x-20200101-000000"
DELETING = ("-S", "-N2", "-n2")


class Places(NamedTuple):
    """A source and a destination with three snapshots, and how a run names them."""

    scene: Scene
    words: list[str]
    source: str
    target: str

    def run(self, *more: str) -> Any:
        """Back up."""
        options = [*self.words, "-p", "x-", *more]
        return run_program(*options, self.source, self.target)

    def verb(self, verb: str, *more: str) -> Any:
        """Ask a verb about both places."""
        return run_program(verb, *self.words, *more, self.source, self.target)

    @property
    def holds(self) -> Path:
        """Name the record of the source."""
        return self.scene.holds

    @property
    def sources(self) -> Path:
        """Name the record of the destination."""
        return self.scene.destination / STATE / "sources.json"

    @property
    def counts(self) -> tuple[int, int]:
        """Count the snapshots and the backups."""
        return len(self.scene.snapshots), len(self.scene.backups)


@pytest.fixture(params=["local", "ssh"])
def places(
    request: pytest.FixtureRequest, disks: Disks, get_sshd: Callable[[], Sshd]
) -> Places:
    """Return two places that were backed up from and to, here or both behind ssh."""
    scene = Scene(*disks)
    scene.snapshot_folder.mkdir(parents=True)
    (scene.destination / STATE).mkdir()
    make_pairs(scene.snapshot_folder, scene.destination, "x-", range(3))
    words: list[str] = []
    source, target = str(scene.source), str(scene.destination)
    if request.param == "ssh":
        sshd = get_sshd()
        words = ssh_words(sshd)
        source, target = (
            ssh_place(sshd, Path(path), user="root") for path in (source, target)
        )
    made = Places(scene, words, source, target)
    # What a run writes, without one.
    uuid = show(scene.source).uuid
    own = source if words else f"{os.uname().nodename}:{source}"
    document = {"version": 1, "prefixes": {"x-": [[uuid, own]]}}
    made.sources.write_text(json.dumps(document))
    made.holds.write_text(json.dumps({"version": 1, "destinations": []}))
    return made


def _missing(record: Path) -> None:
    record.unlink()


def _empty(record: Path) -> None:
    record.write_bytes(b"")


def _truncated(record: Path) -> None:
    record.write_bytes(record.read_bytes()[:-2])


def _garbage(record: Path) -> None:
    record.write_bytes(b"\x1b[31m garbage\n" * 50)


def _not_utf8(record: Path) -> None:
    record.write_bytes(
        record.read_bytes().replace(b'"version"', b'"\xff": 1, "version"')
    )


def _with_nul(record: Path) -> None:
    record.write_bytes(record.read_bytes() + b"\0\0001\0\0")


def _only_nul(record: Path) -> None:
    record.write_bytes(b"\0" * 4096)


def _deep(record: Path) -> None:
    record.write_bytes(b"[" * 100_000)


def _wrong_types(record: Path) -> None:
    fields = json.loads(record.read_bytes())
    record.write_text(json.dumps({key: "text" for key in fields} | {"version": 1}))


def _no_object(record: Path) -> None:
    record.write_text("[]")


def _newer(record: Path) -> None:
    fields = json.loads(record.read_bytes())
    record.write_text(json.dumps({**fields, "version": 2}))


def _link(record: Path) -> None:
    record.rename(record.with_name("elsewhere"))
    record.symlink_to("elsewhere")


def _dangling(record: Path) -> None:
    record.unlink()
    record.symlink_to("nowhere")


def _directory(record: Path) -> None:
    record.unlink()
    record.mkdir()
    (record / "what").write_text("is this")


def _fifo(record: Path) -> None:
    record.unlink()
    os.mkfifo(record)


def _too_large(record: Path) -> None:
    os.truncate(record, 3 * GIB)


DAMAGES = {
    _missing: "is missing",
    _empty: "cannot be read",
    _truncated: "cannot be read",
    _garbage: "cannot be read",
    _not_utf8: "cannot be read ('utf-8' codec",
    _with_nul: "cannot be read",
    _only_nul: "cannot be read",
    _deep: "cannot be read",
    _wrong_types: "instead of a",
    _no_object: "cannot be read",
    _newer: "cannot be read (version 2)",
    _link: "cannot be read (it is a symbolic link)",
    _dangling: "cannot be read (it is a symbolic link)",
    _directory: "cannot be read (it is a directory)",
    _fifo: "cannot be read (it is a special file)",
    _too_large: "cannot be read (it is larger than 8 MiB)",
}


#: Those that the reader finds in the content, wherever that came from.
IN_CONTENT = {_truncated, _garbage, _deep, _wrong_types, _no_object}


@pytest.mark.parametrize(
    ("places", "damage", "said"),
    [
        pytest.param(kind, damage, said, id=f"{kind}-{damage.__name__}")
        for damage, said in DAMAGES.items()
        for kind in ("local", "ssh")
        if kind == "local" or damage not in IN_CONTENT
    ],
    indirect=["places"],
)
def test_where_a_record_is_not_known_nothing_is_deleted_in_that_run(
    places: Places, damage: Callable[[Path], None], said: str
) -> None:
    make_named(None, places.scene.destination, [STRANGER])
    records = (places.holds, places.sources)
    originals = [record.read_bytes() for record in records]
    for record in records:
        damage(record)
    lost = [r.read_bytes() for r in records if damage is _newer]
    policies = ("--keep", "latest", "--keep-at", "latest", "-p", "x-")
    done = places.verb("prune", "--yes", "--force", *policies)
    assert done.returncode == 4, done.stderr
    assert done.stderr.count("nothing is deleted") == 2
    assert done.stderr.count(said) == 2, done.stderr
    if damage in (_missing, _link):
        before = [sorted(os.listdir(record.parent)) for record in records]
        dry = places.run(*DELETING, "--dry-run")
        assert dry.returncode == 0 and "delete" not in dry.stdout
        assert before == [sorted(os.listdir(record.parent)) for record in records]
    done = places.run(*DELETING)
    assert done.returncode == 0, done.stderr
    assert places.counts == (3, 4), "deleted, and nobody knows what must stay"
    assert done.stderr.count("Nothing is deleted") == 2, done.stderr
    assert done.stderr.count(said) == 2, done.stderr
    assert "Traceback" not in done.stderr and "\x1b" not in done.stderr
    done = places.run(*DELETING)
    assert (done.returncode, done.stderr) == (0, ""), "it is told again"
    assert places.counts == (2, 3), "the next run does not thin out what is its own"
    assert (places.scene.destination / STRANGER).exists(), "it may be of another source"
    for record, original in zip(records, originals, strict=True):
        assert json.loads(record.read_bytes())["version"] == 1
        if damage is _newer:
            (aside,) = record.parent.glob(f"{record.name}.version-2-*")
            assert aside.read_bytes() == lost.pop(0), "the newer version needs it"
        elif damage is not _missing:
            (aside,) = record.parent.glob(f"{record.name}.unreadable-*")
        if damage is _link:
            assert record.with_name("elsewhere").exists()
        assert original  # what was there was a record


@pytest.mark.parametrize("damage", [_link, _directory, _too_large, _newer])
@pytest.mark.parametrize("verb", ["list", "verify"])
def test_who_only_looks_says_that_a_record_cannot_be_read(
    places: Places, damage: Callable[[Path], None], verb: str
) -> None:
    verified = places.sources.with_name("verified.json")
    verified.write_text('{"version": 1, "snapshots": {}}')
    for record in (places.holds, places.sources, verified):
        damage(record)
    before = sorted(os.listdir(verified.parent))
    if verb == "list":
        done = places.verb("list")
        assert done.returncode == 0, done.stderr
        for name in ("holds.json", "sources.json", "verified.json"):
            assert f"{name} cannot be read" in done.stderr
        assert sorted(os.listdir(verified.parent)) == before, "a look changes nothing"
        return
    words = [*places.words, places.target, "--source", places.source]
    done = run_program("verify", *words)
    assert done.returncode == 1, (done.stdout, done.stderr)
    for name in ("holds.json", "sources.json", "verified.json"):
        assert f"{name} cannot be read" in done.stdout + done.stderr
    assert json.loads(verified.read_bytes())["snapshots"]


@pytest.mark.parametrize("kind", ["local", "ssh"])
def test_3_gib_of_records_are_not_read_into_memory(
    disks: Disks, get_sshd: Callable[[], Sshd], kind: str
) -> None:
    scene = Scene(*disks, get_sshd() if kind == "ssh" else None)
    scene.back_up()
    names = ("holds.json", "verified.json")
    for path in (scene.holds, scene.destination / STATE / "sources.json"):
        _too_large(path)
    for state in (scene.source / STATE, scene.destination / STATE):
        (state / names[1]).touch()
        _too_large(state / names[1])
    for words in ([*scene.options, "-S"], ["list", *scene.options[2:]]):
        argv = [*PROGRAM, *words, str(scene.source), scene.place]
        cost = processes.measure(*argv, env=environment())
        assert cost.returncode == 0
        assert cost.peak_bytes < 100 << 20, cost


def test_backups_of_an_unknown_source_stay_until_that_is_settled(
    places: Places,
) -> None:
    """The history of this machine is lost, too, and the source kept less."""
    scene = places.scene
    gone = ["x-20200101-000001", "x-20200101-000002"]
    make_named(None, scene.destination, [STRANGER, *gone])
    places.sources.unlink()
    done = places.run(*DELETING)
    assert "The source of 3 backups that begin with 'x-' is not known" in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "--one-source" in line]
    for _ in range(2):
        done = places.run(*DELETING)
        assert (done.returncode, done.stderr) == (0, "")
    left = {backup.path.name for backup in scene.backups}
    assert {STRANGER, *gone} < left and len(left) == 5
    policy = ("--keep-at", "latest", "--force", "-y", "-p", "x-")
    done = run_program("prune", *policy, *places.words, places.target)
    assert done.returncode == 0 and len(scene.backups) == 4
    assert done.stdout.count("of an unknown source") == 3, done.stdout
    assert "--one-source" in done.stdout
    _, _, words = line.partition("btrfs-backup-ng ")
    assert words == f"prune --one-source -p x- {places.target}"
    before = places.sources.read_bytes()
    for more in (["--dry-run"], []):
        assert places.sources.read_bytes() == before
        done = run_program(*words.split(), *places.words, *more)
        assert done.returncode == 0, done.stderr
        assert "one source for all that begin with 'x-', 4 backups now" in done.stdout
    done = places.run(*DELETING)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(scene.backups) <= 3, "the newest, and the one that arrived last"


def test_what_is_remembered_to_have_been_sent_is_thinned_out_again(
    any_scene: Scene,
) -> None:
    scene = any_scene
    for _ in range(3):
        scene.write()
        scene.back_up("-N1")
    assert (len(scene.snapshots), len(scene.backups)) == (1, 3)
    (scene.destination / STATE / "sources.json").unlink()
    done = scene.back_up("-N1", "-n2")
    assert "sources.json is missing" in done.stderr
    assert "--one-source" not in done.stderr, "all of them are on record here"
    assert len(scene.backups) == 4
    done = scene.back_up("-N1", "-n2")
    assert done.stderr == "" and len(scene.backups) == 2


def test_a_second_source_that_makes_the_record_anew_deletes_nothing_of_the_first(
    scene: Scene, disks: Disks
) -> None:
    other = Scene(*disks)
    for _ in range(3):
        scene.write()
        scene.back_up("-N1")
    firsts = {backup.path for backup in scene.backups}
    (scene.destination / STATE / "sources.json").unlink()
    for number in range(3):
        other.write()
        words = ("-p", "x-", "-N1", "-n1", other.source, scene.destination)
        done = run_program(*words)
        assert done.returncode == 0, done.stderr
        assert ("Nothing is deleted" in done.stderr) == (number == 0)
    assert firsts < {backup.path for backup in scene.backups}
    assert len(scene.backups) == 4, "its own are not thinned out"
    done = scene.run("-n1")
    assert done.returncode == 10 and str(other.source) in done.stderr
    assert firsts < {backup.path for backup in scene.backups}


def test_a_prefix_that_the_record_does_not_name_is_not_known(scene: Scene) -> None:
    scene.back_up()
    make_named(None, scene.destination, ["t-20200101-000000", "t-20200102-000000"])
    words = ("-p", "t-", "-n1", scene.source, scene.destination)
    done = run_program(*words)
    assert done.returncode == 0, done.stderr
    assert "does not name the source of backups that begin with 't-'" in done.stderr
    assert len(scene.backups) == 4
    assert run_program(*words).stderr == ""
    assert (scene.destination / "t-20200101-000000").exists()
    done = run_program("-p", "x-", "-n1", scene.source, scene.destination)
    assert done.stderr == "", "what is known of the other prefix is lost"


@pytest.mark.parametrize(
    "more",
    [
        ("-T",),
        ("-N1", "-n1"),
    ],
)
def test_a_first_run_says_nothing_about_records(
    any_scene: Scene, more: tuple[str, ...]
) -> None:
    scene = any_scene
    for _ in range(2):
        scene.write()
        assert scene.back_up(*more).stderr == ""
    assert scene.holds.exists()


def test_a_run_without_destinations_keeps_a_record_all_the_same(scene: Scene) -> None:
    for _ in range(3):
        done = run_program("-p", "x-", "-N2", scene.source)
        assert (done.returncode, done.stderr) == (0, "")
    assert len(scene.snapshots) == 2
    scene.holds.unlink()
    done = run_program("-p", "x-", "-N2", scene.source)
    assert "holds.json is missing" in done.stderr and len(scene.snapshots) == 3
    done = run_program("-p", "x-", "-N2", scene.source)
    assert done.stderr == "" and len(scene.snapshots) == 2


def test_lost_holds_keep_what_an_absent_destination_needs(scene: Scene) -> None:
    """It is on record on this machine that something was sent there."""
    second = scene.destination.with_name(scene.name + "-second")
    second.mkdir()
    scene.back_up(second)
    (base,) = scene.snapshots
    scene.holds.unlink()
    for _ in range(4):
        scene.write()
        scene.back_up("-N1")
    assert base in scene.snapshots and len(scene.snapshots) == 2
    done = scene.back_up(second, "-N1")
    assert "in full" not in done.stdout
    assert len(scene.snapshots) == 1


def test_destinations_that_cannot_be_read_from_the_record_are_a_failure(
    scene: Scene,
) -> None:
    scene.back_up()
    _garbage(scene.holds)
    done = run_program("-p", "x-", "--locked-destinations", scene.source)
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert "destinations on record are not known" in done.stderr
    assert len(scene.snapshots) == 1
