"""The import of set-ups that the real btrbk has run for a while."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.support.btrbk import deleted_by, run_btrbk
from tests.support.command_line import complaint, covers, must, script
from tests.support.places import ssh_words, subvolumes
from tests.support.program import Argument, run_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs

ZONE = "Europe/Berlin"
#: When btrbk ran, in hours before now: from Tuesday to Friday, and from Sunday on.
FROM_TUESDAY, FROM_SUNDAY = (100, 76, 52, 27), (148, 124, 100, 76)


class OfBtrbk:
    """A set-up of btrbk, in a directory for its file."""

    def __init__(self, scene: Scene, directory: Path, config: str) -> None:
        self.scene = scene
        self.directory = directory
        self.file = directory / "config"
        self.file.write_text(config)
        # The next Saturday at noon, so that no period ends during the test.
        today = datetime.now(ZoneInfo(ZONE)).replace(hour=12)
        self.now = today + timedelta(days=(4 - today.weekday()) % 7 + 1)
        shift = (self.now - datetime.now(timezone.utc)).total_seconds()
        self.env = {"BTRFS_BACKUP_NG_CLOCK": f"{shift} synchronised", "TZ": ZONE}
        (scene.source.parent / "snaps").mkdir()

    def run(self, words: Sequence[str], hours_ago: int = 0) -> str:
        moment = self.now - timedelta(hours=hours_ago)
        return run_btrbk(self.directory, words, moment, ZONE)

    def live(self, runs: Sequence[int]) -> None:
        """Let btrbk run as its timer does, with changes between."""
        for hours in runs:
            self.scene.add("file", 5000 + hours)
            self.run(["-q", "run"], hours)

    def kept(self) -> set[str]:
        """Return the paths of all snapshots and backups."""
        places = [self.scene.source.parent / "snaps"]
        places += [self.scene.destination, *self.scene.destination.iterdir()]
        return {str(path) for place in places for path in subvolumes(place)}

    def check_goes_on(self, file: Path, *words: Argument) -> set[str]:
        """Run the imported configuration, and return the paths that it deleted.

        Each transfer has a parent, of btrbk at first, and btrbk would delete the same
        at that moment, or more.
        """
        before = self.kept()
        theirs = deleted_by(self.run(["-n", "-S", "--format=raw", "run"]))
        parents = []
        for number in range(2):
            self.scene.add("file", 6000)
            done = must(run_program("run", "-c", file, *words, env=self.env))
            # The first run only learns whose snapshots there are, which is no trouble.
            is_first = "btrbk's, so this is the first run: it records" in done.stderr
            assert is_first == (number == 0) and "warning" not in done.stderr
            found = re.findall(r": sent \S+, .* since (\S+) in", done.stdout)
            assert found and len(found) == done.stdout.count(": sent "), done.stdout
            parents.append(found)
        assert all("T" in name for name in parents[0]), parents
        assert not any("T" in name for name in parents[1]), parents
        gone = before - self.kept()
        assert gone <= theirs, done.stdout
        return gone


@covers("-o", "--output")
def test_a_local_setup_of_three_levels_goes_on_where_btrbk_stopped(
    scene: Scene, tmp_path: Path
):
    root, there = scene.subvolume("root"), scene.destination
    (root / "file").write_text("root")
    for name in ("pool", "home"):
        (there / name).mkdir()
    config = f"""\
timestamp_format long
snapshot_dir snaps
lockfile {tmp_path}/lock
snapshot_preserve_min latest  # here is a comment
snapshot_preserve 1d
target_preserve_min latest
target_preserve 2d
volume {scene.source.parent}
  preserve_day_of_week friday
  target {there}/pool
    target_preserve 3d 1w
  subvolume home
    group daily
    snapshot_preserve 2d
    target "{there}/home"
      target_preserve no
  subvolume root
    snapshot_name system
    snapshot_preserve_min 1d
"""
    btrbk = OfBtrbk(scene, tmp_path, config)
    btrbk.live(FROM_TUESDAY)
    file = tmp_path / "config.toml"
    done = must(run_program("config", "import", btrbk.file, "-o", file, env=btrbk.env))
    told = re.findall(
        r"^btrfs-backup-ng: note: (line \d+: \w+)", done.stderr, re.MULTILINE
    )
    assert told == ["line 3: lockfile", "line 13: group"]
    assert f"Then:  btrfs-backup-ng config check -c {file}\n" in done.stdout
    assert f"And:   btrfs-backup-ng run --dry-run -c {file}\n" in done.stdout
    assert file.stat().st_mode & 0o777 == 0o600
    text = file.read_text()
    assert f'keep-zone = "{ZONE}"' in text and "#   line 13: group daily: " in text
    checked = must(run_program("config", "check", "-c", file, "--json")).stdout
    found = {
        (volume["volume"], target["target"], setting["key"]): setting["value"]
        for volume in json.loads(checked)["volumes"]
        for target in [{"target": "", **volume}, *volume["targets"]]
        for setting in target["settings"]
    }
    assert found["home", "", "keep"] == "2d"
    assert found["system", "", "keep"] == "min=1d 1d"
    assert found["system", "pool", "keep-at"] == "3d 1w week=friday"
    assert found["home", "home", "keep-at"] == "latest"
    assert found["system", "", "snapshot-prefix"] == "system."

    gone = btrbk.check_goes_on(file)
    assert {Path(path).parent.name for path in gone} >= {"snaps", "home"}
    again = run_program("config", "import", btrbk.file, "-o", file, env=btrbk.env)
    complaint(again, 4, f"{file} exists, and is not replaced")
    assert file.read_text() == text


def test_a_setup_behind_ssh_goes_on_where_btrbk_stopped(
    scene: Scene, sshd: Sshd, tmp_path: Path
):
    script(tmp_path / "ssh", f'exec /usr/bin/ssh -F {sshd.ssh_config} "$@"')
    config = f"""\
timestamp_format long-iso
ssh_identity {sshd.identity}
stream_compress zstd
stream_compress_level 2
snapshot_preserve_min 2d
target_preserve_min no
volume {scene.source.parent}
  snapshot_dir snaps
  snapshot_preserve 4d
  subvolume home
    target ssh://test-server:{sshd.port}{scene.destination}
      target_preserve 3d 2w 12m
      preserve_hour_of_day 5
"""
    btrbk = OfBtrbk(scene, tmp_path, config)
    btrbk.live(FROM_SUNDAY)
    done = must(run_program("config", "import", btrbk.file, env=btrbk.env))
    assert not done.stderr
    file = tmp_path / "config.toml"
    file.write_text(done.stdout)
    assert (
        f'place = "ssh://root@test-server:{sshd.port}{scene.destination}"'
        in done.stdout
    )
    assert f'ssh-identity-file = "{sshd.identity}"' in done.stdout
    assert 'compress = "zstd:2"' in done.stdout
    assert 'keep-at = "3d 2w 12m whole-weeks week=sunday day=5h"' in done.stdout
    gone = btrbk.check_goes_on(
        file,
        f"--ssh-opt=HostName={sshd.host}",
        *ssh_words(sshd, without=["IdentityFile"]),
    )
    assert {Path(path).parent.name for path in gone} == {"snaps", "backups"}
