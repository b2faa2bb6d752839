"""Commands without places take those of the configuration."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from btrfs_backup_ng.__util__ import UsageError
from btrfs_backup_ng.cli.commands import list as list_command
from btrfs_backup_ng.cli.config.places import distinct, find_configured
from btrfs_backup_ng.cli.parser import parse_places
from tests.support.command_line import NOBODY, complaint, covers, must
from tests.support.places import ssh_place
from tests.support.program import Argument, run_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd

pytestmark = [pytest.mark.btrfs, pytest.mark.ssh]


class Configured:
    """A volume with a target behind ssh, one that is away, and one here.

    Only the section of the first says how to get there.
    """

    def __init__(self, scene: Scene, sshd: Sshd, file: Path) -> None:
        self.scene, self.file = scene, file
        self.other = scene.other_destination("other")
        self.nas = ssh_place(sshd, scene.destination, user="root")
        self._ssh = json.dumps(sshd.ssh_options)
        self.write()

    def write(self, *, other: str = "", home: str = "") -> None:
        """Write the configuration, with more lines in its sections."""
        self.file.write_text(f"""\
snapshot-prefix = "x-"
[targets.nas]
place = "{self.nas}"
ssh-opt = {self._ssh}
[targets.away]
place = "{self.scene.destination}/away"
optional = true
[targets.other]
place = "{self.other}"
{other}
[volumes.home]
source = "{self.scene.source}"
to = ["nas", "away", "other"]
{home}
""")

    def call(self, verb: str, *words: Argument) -> Any:
        return run_program(verb, "-c", self.file, *words)

    def places(
        self, verb: str, *words: Argument, status: int | None = 0
    ) -> dict[str, Any]:
        """Return the places of a document."""
        done = self.call(verb, "--json", *words)
        if status is not None:
            must(done, status)
        return {one["place"]: one for one in json.loads(done.stdout)["places"]}


@pytest.fixture
def configured(scene: Scene, sshd: Sshd, tmp_path: Path) -> Configured:
    return Configured(scene, sshd, tmp_path / "config.toml")


@covers("-c", "--config")
def test_what_is_configured_is_looked_at_as_it_is_configured(configured: Configured):
    scene, nas, other = configured.scene, configured.nas, str(configured.other)
    must(configured.call("run"))
    listed = must(configured.call("list"))
    away = f"note: {scene.destination}/away: away: it does not exist; skipped"
    assert listed.stderr.count("note: ") == 1 and away in listed.stderr
    found = configured.places("list")
    assert [*found] == [str(scene.source), nas, other]
    for place in found.values():
        assert [one["name"] for one in place["snapshots"]] == scene.snapshot_names
    for place in configured.places("verify", "--data").values():
        assert place["source"] == str(scene.source) and place["result"] == "good"
        assert place["next_backup"]["incremental"]
    examined = configured.places("doctor", status=None)
    assert [*examined] == [str(scene.source), nas, other]
    checks = {each["check"]: each["status"] for each in examined[nas]["findings"]}
    assert checks["login"] == "ok"

    configured.write(other=f"filesystem = '{scene.source_disk.uuid}'")
    error = configured.places("list", status=10)[other]["error"]
    assert "it is not on the filesystem" in error["message"]
    assert configured.places("verify", status=10)[other]["error"] == error
    (finding,) = configured.places("doctor", status=2)[other]["findings"]
    assert finding["check"] == "conditions" and finding["found"] == error["message"]
    complaint(configured.call("list", other), 2, "-c names all places")
    complaint(configured.call("doctor", "--sudoers"), 2, "no place given")


def test_the_own_configuration_counts_if_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    build = list_command.build_parser

    def found(*words: str) -> list[tuple[str, str, str, tuple[str, ...]]]:
        options = parse_places(build(), words)
        return [
            (str(one.location), one.target, one.folder, one.ssh.options)
            for one in distinct(find_configured(options, build(), words))
        ]

    assert found() == []
    with pytest.raises(UsageError):
        found("-c", str(tmp_path / "config.toml"))
    file = tmp_path / "btrfs-backup-ng" / "config.toml"
    file.parent.mkdir()
    file.write_text("""\
ssh-opt = "Port=1"
[targets.nas]
place = "ssh://nas/a"
[targets.pipe]
place = "shell://cat"
[volumes.home]
source = "/home"
to = ["nas", "pipe", "/b"]
at.nas.ssh-opt = "Port=2"
[volumes.b]
source = "/b"
snapshot-folder = "snaps"
""")
    one, two = ("Port=1",), ("Port=2",)
    folder = ".btrfs-backup-ng/snapshots"
    assert found() == [
        ("/home", "", folder, one),
        ("ssh://nas/a", "nas", "", two),
        ("/b", "", "snaps", one),
    ]
    assert {ssh for *_, ssh in found("--ssh-opt", "Port=3")} == {("Port=3",)}


@covers("--no-prune", "--only", "-y")
def test_each_step_of_a_run_can_be_done_alone(configured: Configured):
    scene = configured.scene

    def counts() -> tuple[int, int, int]:
        places = configured.places("list").values()
        source, nas, other = (len(place["snapshots"]) for place in places)
        return source, nas, other

    configured.write(other="keep-at = 'latest=2'", home="keep = 'latest=3'")
    for number in range(4):
        scene.add(f"file {number}")
        done = must(configured.call("snapshot"))
        assert done.stdout.count("made snapshot") == 1 and not done.stderr
    assert counts() == (4, 0, 0)
    must(configured.call("send", "--only", "other"))
    must(configured.call("send", "home"))
    assert counts() == (4, 4, 2)  # no backup is sent that would be deleted at once
    scene.add("more")
    done = must(configured.call("run", "--no-prune", "--json"))
    assert "deleted" not in done.stdout
    assert counts() == (5, 5, 3)
    complaint(configured.call("send", "--no-transfer"), 2, "--no-transfer")
    complaint(configured.call("snapshot", scene.source), 2, "is a place")

    complaint(configured.call("prune"), 2, "cannot ask for confirmation")
    must(configured.call("prune", "--dry-run"))
    complaint(configured.call("prune", "-y", "--keep", "2d"), 2, "-c takes places and")
    source = scene.source.rename(scene.source.with_name("gone"))
    done = must(configured.call("prune", "-y"), 4)
    assert done.stderr.count("cannot be looked at, so nothing is deleted at") == 2
    source.rename(scene.source)
    assert counts() == (5, 5, 3)
    must(configured.call("prune", "--yes"))
    assert counts() == (3, 5, 2)
    done = must(configured.call("run", "--dry-run"))
    assert done.stdout.count(" since ") == 2, done.stdout
