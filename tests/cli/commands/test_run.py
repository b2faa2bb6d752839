"""The configuration: run and config check, on real filesystems."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from btrfs_backup_ng.__util__ import Refused
from btrfs_backup_ng.cli.commands import run_words
from btrfs_backup_ng.cli.config import look
from btrfs_backup_ng.cli.config.file import configuration_path, read_configuration
from btrfs_backup_ng.host import power
from tests.conftest import MakesFilesystems
from tests.support.accounts import Account
from tests.support.command_line import NOBODY, complaint, covers, in_conversation, must
from tests.support.places import ssh_place, ssh_words
from tests.support.processes import wait_until
from tests.support.program import Argument, run_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs

Done = subprocess.CompletedProcess[str]


class Configured:
    """A scene, and a second source and destination, with a configuration."""

    def __init__(self, scene: Scene, file: Path) -> None:
        self.scene = scene
        self.file = file
        self.second = scene.subvolume("root")
        (self.second / "file").write_text("root")
        self.other = scene.other_destination("other")
        for place in (scene.destination, self.other):
            for name in ("home", "root"):
                (place / name).mkdir()
        self.write()

    def write(
        self, usb: str = "", home: str = "", more: str = "", top: str = ""
    ) -> str:
        """Write the configuration, with more lines in its sections."""
        text = f"""\
snapshot-prefix = "x-"
{top}

[targets.usb]
place = "{self.scene.place}/{{volume}}"
{usb}

[volumes.home]
source = "{self.scene.source}"
to = ["usb", "{self.other}/{{volume}}"]
{home}

[volumes.root]
source = "{self.second}"
to = "usb"
{more}
"""
        self.file.write_text(text)
        return text

    def run(self, *words: Argument) -> Done:
        return run_program("run", "-c", self.file, *words)

    def count(self, volume: str, place: Path | None = None) -> int:
        """Return how many backups of a volume are at a place."""
        directory = (place or self.scene.destination) / volume
        return len([name for name in os.listdir(directory) if name.startswith("x-")])


@pytest.fixture
def configured(scene: Scene, tmp_path: Path) -> Configured:
    return Configured(scene, tmp_path / "config.toml")


@covers("-c", "--config", "--only", "--rate")
def test_a_run_backs_up_what_is_configured_or_a_part_of_it(configured: Configured):
    other = configured.other
    before = configured.scene.fingerprint()
    dry = must(configured.run("--dry-run", "--json"))
    assert configured.scene.fingerprint() == before
    planned = [e for e in json.loads(dry.stdout)["events"] if e["event"] == "sent"]
    assert len(planned) == 3 and all(event["dry"] for event in planned)

    done = must(configured.run("home", "--only", "usb"))
    assert done.stdout.count("made snapshot") == 1 and not done.stderr
    assert [configured.count("home"), configured.count("home", other)] == [1, 0]
    must(configured.run("--rate", "100M", "root", "home"))
    assert [configured.count("home"), configured.count("home", other)] == [2, 2]
    assert configured.count("root") == 1
    # The same words as in the classic form find nothing to do.
    source, place = configured.scene.source, configured.scene.destination / "home"
    classic = must(run_program("-S", "-p", "x-", source, place))
    assert "nothing to send, all 2 snapshots are there" in classic.stdout

    complaint(configured.run("hom"), 2, "no volume 'hom'", "Did you mean:  home")
    complaint(configured.run("--only", "ubs"), 2, "no target 'ubs'", "mean:  usb")
    only = ["--only", f"{other}/{{volume}}"]
    complaint(configured.run("root", *only), 2, "none of these volumes goes to")
    complaint(run_program("run", source, place), 2, "is a place", "needs no command")
    found = complaint(run_program("run", "-c", f"{configured.file}2"), 2, "there is no")
    assert "config.toml2" in found


def test_an_error_anywhere_ends_the_run_before_anything_is_changed(
    configured: Configured,
):
    text = configured.write(more="retires = 3")
    line = text.splitlines().index("retires = 3") + 1
    before = configured.scene.fingerprint()
    where = f"line {line} of {configured.file}: volumes.root.retires: unknown key"
    complaint(configured.run("home"), 2, where, "Did you mean:  retries")
    document = json.loads(configured.run("--json").stdout)
    assert document["exit_status"] == 2 and where in document["error"]["message"]
    assert configured.scene.fingerprint() == before


def test_a_target_that_is_away_costs_the_others_nothing(configured: Configured):
    scene, other = configured.scene, configured.other
    must(configured.run())
    away = scene.destination.rename(scene.destination.with_name("away"))
    failed = must(configured.run("home"), 10)
    assert f"{scene.destination}/home does not exist" in failed.stderr
    assert configured.count("home", other) == 2

    configured.write(usb="optional = true", top="keep = 'latest=1'")
    for _ in range(2):
        scene.add("more")
        done = must(configured.run())
        place = f"{scene.destination}/home"
        note = f"note: {place}: away: it does not exist; skipped (optional)"
        assert note in done.stderr and done.stderr.count("note: ") == 2
    assert configured.count("home", other) == 4
    away.rename(scene.destination)
    done = must(configured.run("home", "--incremental=required"))
    assert not done.stderr and configured.count("home") >= 2


@pytest.mark.parametrize("kind", ["here", "behind a link", "ssh"])
def test_a_look_at_a_source_is_no_change_of_it(
    kind: str, btrfs: MakesFilesystems, sshd: Sshd, tmp_path: Path
):
    file, disk = tmp_path / "file", btrfs(mount_options=("strictatime",)).path
    source, link = disk / "home", tmp_path / "link"
    subprocess.run(["btrfs", "-q", "subvolume", "create", source], check=True)
    link.symlink_to(source)
    there = ssh_place(sshd, source, user="root")
    place = {"here": source, "behind a link": link, "ssh": there}[kind]
    file.write_text(f"""\
ssh-opt = {json.dumps(sshd.ssh_options)}
only-if-changed = true
[volumes.home]
source = "{place}"
""")
    for words in ("made snapshot", "not changed since", "not changed since"):
        done = must(run_program("run", "-c", file))
        assert words in done.stdout + done.stderr


@pytest.mark.parametrize("sudoers", ["", "{name} ALL=(root) NOPASSWD: /usr/bin/btrfs"])
def test_a_source_behind_ssh_that_did_not_change_gets_no_snapshot(
    sudoers: str,
    scene: Scene,
    sshd: Sshd,
    account: Callable[..., Account],
    tmp_path: Path,
):
    user, file = "root", tmp_path / "file"
    if sudoers:
        new = account(sudoers=sudoers)
        user = new.name
        os.chown(scene.source, new.uid, new.gid)
    place = ssh_place(sshd, scene.source, user=user)
    file.write_text(f"""\
ssh-opt = {json.dumps(sshd.ssh_options)}
only-if-changed = true
[volumes.home]
source = "{place}"
to = "{scene.destination}"
""")
    for change, words in (
        (lambda: None, "made snapshot"),
        (lambda: None, "not changed since"),
        (lambda: scene.add("more"), "made snapshot"),
        (lambda: scene.source.chmod(0o700), "made snapshot"),
        (lambda: None, "not changed since"),
    ):
        change()
        done = must(run_program("run", "-c", file))
        assert words in done.stdout + done.stderr
    assert len(scene.snapshots) == len(scene.backups) == 3


def test_the_right_disk_must_be_there(configured: Configured):
    scene, disk = configured.scene, configured.scene.destination_disk
    other_disk = scene.source_disk
    configured.write(usb=f"filesystem = '{disk.uuid}'\nrequire-mount = '{disk.path}'")
    must(configured.run())
    before = scene.fingerprint()
    for line, reason in (
        (
            f"filesystem = '{other_disk.uuid}'",
            f"not on the filesystem {other_disk.uuid}",
        ),
        (f"require-mount = '{scene.destination}'", "nothing is mounted at"),
    ):
        configured.write(usb=line)
        found = must(configured.run("root", "--dry-run"), 10)
        place = f"{scene.destination}/root"
        assert f"{place}: " in found.stderr and reason in found.stderr
        configured.write(usb=f"{line}\noptional = true")
        done = must(configured.run("root", "--dry-run"))
        assert reason in done.stderr and "skipped (optional)" in done.stderr
    assert scene.fingerprint() == before

    configured.write(usb="min-free = '900T'\noptional = true")
    done = must(configured.run("root"), 10)
    assert "are free, and min-free asks for 900.0 TiB" in done.stderr
    assert configured.count("root") == 1
    failures = must(run_program("log", "--failures", f"{scene.destination}/root"))
    assert "min-free asks for" in failures.stdout
    configured.write(usb="min-free = '1M'")
    must(configured.run("root"))
    assert configured.count("root") == 3


def test_conditions_of_a_source(configured: Configured):
    scene = configured.scene
    must(configured.run())  # makes the directory of the snapshots in the source
    configured.write(top="only-if-changed = true")
    must(configured.run())
    count = len(scene.snapshots)
    done = must(configured.run())
    assert len(scene.snapshots) == count
    assert done.stderr.count("not changed since x-") == 2, done.stderr
    assert done.stdout.count("nothing to send") == 3
    scene.add("more")
    done = must(configured.run())
    assert done.stdout.count("made snapshot") == 1
    assert done.stderr.count("not changed since") == 1
    assert len(scene.snapshots) == count + 1

    missing = configured.second.with_name("missing")
    configured.second.rename(missing)
    failed = must(configured.run("--dry-run"), 10)
    assert f"{configured.second} does not exist" in failed.stderr
    configured.write(more="optional = true")
    done = must(configured.run("--dry-run"))
    assert f"{configured.second}: away: it does not exist" in done.stderr
    configured.write(more=f"require-mount = '{missing}'")
    failed = must(configured.run("--dry-run", "root"), 4)
    assert f"{configured.second}: nothing is mounted at {missing}" in failed.stderr
    missing.rename(configured.second)
    configured.write(more="min-free = '900T'")
    failed = must(configured.run("--dry-run", "root"), 4)
    assert "min-free asks for" in failed.stderr


def test_a_pattern_backs_up_every_subvolume_that_it_matches(configured: Configured):
    scene = configured.scene
    (scene.source.parent / "plain").mkdir()
    for name in ("home", "root"):
        (configured.other / "all" / name).mkdir(parents=True)
    pattern = f"{scene.source.parent}/*"
    text = (
        f"[volumes.all]\nsource = '{pattern}'\nto = '{configured.other}/{{volume}}'\n"
    )
    configured.file.write_text(f"snapshot-prefix = 'x-'\n{text}")
    must(configured.run())
    assert configured.count("all/home", configured.other) == 1
    assert configured.count("all/root", configured.other) == 1
    configured.file.write_text(text.replace(pattern, f"{pattern}/no"))
    complaint(configured.run(), 2, "line 2 of ", "no subvolume matches")
    configured.file.write_text(
        text.replace(pattern, f"{pattern}/no") + "optional = true"
    )
    done = must(configured.run())
    assert done.stdout == "all: no subvolume now; skipped (optional)\n"


@pytest.mark.ssh
def test_a_host_that_does_not_answer_is_fine_if_it_need_not(
    configured: Configured, new_sshd
):
    server: Sshd = new_sshd()
    scene = configured.scene
    place = ssh_place(server, configured.other, user="root")
    words = ssh_words(server)
    file = configured.file
    target = f"[targets.nas]\nplace = '{place}/{{volume}}'\nwhen-reachable = true\n"
    volume = f"[volumes.home]\nsource = '{scene.source}'\nto = 'nas'\n"
    file.write_text(f"snapshot-prefix = 'x-'\n{target}{volume}")
    must(run_program("run", "-c", file, *words))
    assert configured.count("home", configured.other) == 1
    server.stop()
    done = must(run_program("run", "-c", file, *words))
    assert f"note: {place}/home: away: " in done.stderr
    assert "skipped (when-reachable)" in done.stderr
    assert len(scene.snapshots) == 2
    file.write_text(file.read_text().replace("when-reachable = true\n", ""))
    must(run_program("run", "-c", file, *words), 10)


def test_a_configuration_that_others_can_write_is_refused(
    configured: Configured, public_path: Path
):
    file = configured.file
    for mode in (0o664, 0o646):
        file.chmod(mode)
        found = complaint(configured.run(), 4, "can be written by other users")
        assert f"chmod go-w {file}" in found
    file.chmod(0o600)
    os.chown(file, NOBODY, -1)
    complaint(configured.run(), 4, f"belongs to another user ({NOBODY})")
    os.chown(file, 0, -1)
    must(configured.run("--dry-run"))

    directory = public_path / "theirs"
    (directory / "below").mkdir(parents=True)
    shutil.copy(file, directory / "below" / "config.toml")
    os.chown(directory, NOBODY, -1)
    link = file.with_name("link.toml")
    link.symlink_to(directory / "below" / "config.toml")
    for path in (directory / "below" / "config.toml", link):
        found = complaint(
            run_program("run", "-c", path), 4, "who could put another file there"
        )
        assert str(directory) in found


@covers("--config")
def test_config_check_says_where_each_setting_comes_from(configured: Configured):
    text = configured.write(
        usb="keep-at = '7d 4w'\noptional = true",
        home="[volumes.home.at.usb]\nrate = '5M'",
        more="keep = '2d'\n[targets.nas]\nplace = '/nas'",
        top="retries = 3\nfs-checks = 'auto'",
    ).splitlines()

    def at(start: str) -> str:
        number = 1 + next(n for n, line in enumerate(text) if line.startswith(start))
        return f"line {number}"

    done = must(run_program("config", "check", "-c", configured.file))
    found = [" ".join(line.split()) for line in done.stdout.splitlines()]
    place = configured.scene.place
    assert found == [
        f"home: {configured.scene.source}",
        f"snapshot-prefix x- {at('snapshot-prefix')}",
        f"to usb: {place}/home",
        f"retries 3 {at('retries')}",
        f"keep-at 7d 4w [targets.usb], {at('keep-at')}",
        f"rate 5M [volumes.home.at.usb], {at('rate')}",
        f"optional true [targets.usb], {at('optional')}",
        f"to {configured.other}/{{volume}}: {configured.other}/home",
        f"retries 3 {at('retries')}",
        f"root: {configured.second}",
        f"snapshot-prefix x- {at('snapshot-prefix')}",
        f"keep 2d [volumes.root], {at('keep =')}",
        f"to usb: {place}/root",
        f"retries 3 {at('retries')}",
        f"keep-at 7d 4w [targets.usb], {at('keep-at')}",
        f"optional true [targets.usb], {at('optional')}",
        "note: no volume goes to the target nas",
        "What a run would do now: btrfs-backup-ng run --dry-run"
        f" -c {configured.file}",
    ]
    done = must(run_program("config", "check", "root", "-c", configured.file, "--json"))
    document = json.loads(done.stdout)
    assert document["unused_targets"] == ["nas"]
    (volume,) = document["volumes"]
    (target,) = volume["targets"]
    assert (volume["volume"], target["target"]) == ("root", "usb")
    assert volume["settings"][1]["section"] == "volumes.root"
    complaint(run_program("config"), 2, "no action", "config check")
    complaint(run_program("config", "chek"), 2, "'chek' is no action", "config check")


def test_the_configuration_of_a_user_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    name = "btrfs-backup-ng/config.toml"
    assert configuration_path() == f"{tmp_path}/.config/{name}"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    file = tmp_path / name
    assert configuration_path() == str(file)
    file.parent.mkdir(mode=0o777)
    file.write_text("[volumes.home]\nsource = '/home'\n")
    for owner in (0, NOBODY):
        os.chown(file, owner, -1)
        assert "home" in read_configuration(str(file)).volumes
    for changes in ({"mode": 0o622}, {"owner": 1}):
        file.chmod(changes.get("mode", 0o600))
        os.chown(file, changes.get("owner", NOBODY), -1)
        with pytest.raises(Refused):
            read_configuration(str(file))


def _supply(directory: Path, name: str, **files: str) -> None:
    (directory / name).mkdir(exist_ok=True)
    for key, value in files.items():
        (directory / name / key).write_text(f"{value}\n")


def test_a_machine_is_on_its_battery_if_that_is_discharging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(power, "SUPPLIES", str(tmp_path / "none"))
    assert not power.is_on_battery()
    monkeypatch.setattr(power, "SUPPLIES", str(tmp_path))
    _supply(tmp_path, "BAT0", type="Battery", status="Discharging")
    assert power.is_on_battery()
    _supply(tmp_path, "AC", type="Mains", online="1")
    assert not power.is_on_battery()
    _supply(tmp_path, "AC", online="0")
    assert power.is_on_battery()
    _supply(tmp_path, "BAT0", status="Full")
    _supply(tmp_path, "mouse", type="Battery", status="Discharging", scope="Device")
    assert not power.is_on_battery()


def test_nothing_is_done_on_battery_if_power_is_asked_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("BTRFS_BACKUP_NG_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(power, "SUPPLIES", str(tmp_path))
    _supply(tmp_path, "BAT0", type="Battery", status="Discharging")
    file = tmp_path / "config.toml"
    text = f"[volumes.home]\nsource = '{tmp_path}/no'\n"
    file.write_text(f"only-on-ac = true\n{text}")
    assert run_words(["run", "-c", str(file)]) == 0
    assert "runs on its battery; skipped (only-on-ac)" in capfd.readouterr().err
    file.write_text(text)
    assert run_words(["run", "-c", str(file)]) == 4
    assert "does not exist" in capfd.readouterr().err


@covers("-c")
def test_config_init_writes_a_configuration_that_can_be_used(
    scene: Scene, tmp_path: Path
):
    file, disk = tmp_path / "new" / "config.toml", scene.destination_disk.path
    words: list[Argument] = ["config", "init", "-c", file]
    answers = {
        "Volumes [": f"{scene.source}",
        "Where to": f"{disk}",
        "always there": "yes",
        "Snapshots to keep": "latest=2",
        "Backups to keep": "",
    }
    done = in_conversation(*words, answers=answers)
    assert done.returncode == 0, done.stdout
    assert file.stat().st_mode & 0o777 == 0o600
    name = str(scene.source).strip("/").replace("/", "-")
    assert f"Made the directories of the backups:  {disk}/{name}" in done.stdout
    must(run_program("run", "-c", file))
    assert len(scene.snapshots) == 1 and len(os.listdir(disk / name)) == 2
    document = json.loads(
        must(run_program("config", "check", "-c", file, "--json")).stdout
    )
    (volume,) = document["volumes"]
    (target,) = volume["targets"]
    found = {each["key"]: each["value"] for each in volume["settings"]}
    found |= {each["key"]: each["value"] for each in target["settings"]}
    assert found == {"keep": "latest=2", "keep-at": "7d 4w 12m 5y"}

    text = file.read_text()
    complaint(run_program(*words), 4, f"{file} exists, and is not replaced")
    assert file.read_text() == text
    other: list[Argument] = ["config", "init", "-c", tmp_path / "other.toml"]
    complaint(run_program(*other, "x"), 2, "init takes no 'x'")
    for question, answer in (("Where to", "nas:/x"), ("Snapshots to keep", "3x")):
        done = in_conversation(
            *other, answers=dict.fromkeys(answers, "") | {question: answer}
        )
        assert done.returncode == 2 and not (tmp_path / "other.toml").exists()
    no_disk = answers | {"Where to": f"{scene.destination}"}  # a directory of one
    third: list[Argument] = ["config", "init", "-c", tmp_path / "third.toml"]
    done = in_conversation(*third, answers=no_disk)
    assert f"mkdir -p {scene.destination}/{name}" in done.stdout
    assert not (scene.destination / name).exists()
    report = json.loads(must(run_program(*other, "--json")).stdout)
    assert report["configuration"] == str(tmp_path / "other.toml")
    must(run_program("config", "check", "-c", tmp_path / "other.toml"))


def test_subvolumes_disks_and_other_programs_are_found(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    disk = scene.source_disk
    fstab, btrbk = tmp_path / "fstab", tmp_path / "btrbk.conf"
    monkeypatch.setattr(look, "FSTAB", str(fstab))
    monkeypatch.setattr(look, "SNAPPER", str(tmp_path / "snapper"))
    monkeypatch.setattr(look, "BTRBK", (f"{btrbk}.no", str(btrbk)))
    assert not list(look.find_remarks())
    uuid = "3f0c0000-0000-4000-8000-000000000001"
    fstab.write_text(
        f"# UUID=x /no btrfs\nUUID={uuid} /mnt/my\\040disk btrfs noauto 0 0\n"
        f"/dev/sdx1 /ext ext4\nUUID=other {disk.path} btrfs\n"
    )
    btrbk.write_text("# volume /no\nvolume /mnt/top\n  subvolume home\nssh_user x\n")
    (tmp_path / "snapper").mkdir()
    (tmp_path / "snapper" / "root").write_text('SUBVOLUME="/"\nFSTYPE="btrfs"\n')
    found = {each.path: each for each in look.find_mounted()}
    assert found[str(disk.path)].filesystem == str(disk.uuid)
    assert found["/mnt/my disk"].filesystem == uuid
    assert "/no" not in found and "/ext" not in found
    remarks = list(look.find_remarks())
    assert remarks == [
        "snapper makes snapshots of / (root).",
        f"btrbk is set up: btrfs-backup-ng config import {btrbk}",
    ]


def test_a_run_verifies_a_part_of_the_backups_and_restores_one_as_a_test(
    configured: Configured,
):
    scene, scratch = configured.scene, configured.scene.other_destination("scratch")
    place = scene.destination / "home"
    upkeep = f'verify = "auto/2"\nrestore-test = "weekly"\nscratch = "{scratch}"'
    configured.write(usb=upkeep)
    first = must(configured.run("home", "--only", "usb")).stdout
    (name,) = sorted(each.name for each in place.iterdir() if each.name[0] == "x")
    assert f"{place}: verified {name}: good\n" in first
    assert f"{place}: restored as a test {name}: good\n" in first
    assert not list(scratch.glob("x-*")) and not list(scratch.glob(".*/incoming/*"))

    # The restore is not tested again, also after its backup is gone.
    for _ in range(2):
        scene.add("more")
        done = must(configured.run("home", "--only", "usb", "--keep-at", "latest=2"))
        assert done.stdout.count(f"{place}: verified x-") == 1
        assert "as a test" not in done.stdout
    assert not (place / name).exists()
    dry = must(configured.run("home", "--dry-run")).stdout
    assert "verified" not in dry

    # A backup that was written to is found by its turn, and the volume fails.
    bad = max(place.glob("x-*"))
    subprocess.run(["btrfs", "property", "set", "-f", bad, "ro", "false"], check=True)
    (bad / "more").write_text("changed")
    subprocess.run(["btrfs", "property", "set", "-f", bad, "ro", "true"], check=True)
    runs: list[Done] = []

    def find_it() -> bool:
        runs.append(configured.run("home", "--only", "usb", "-S"))
        return runs[-1].returncode != 0

    wait_until(find_it)  # two runs, or more within the same second
    assert runs[-1].returncode == 10 and f"{bad.name}: " in runs[-1].stderr
    listed = must(run_program("list", place)).stdout
    assert "found BAD" in listed
    assert bad.name in must(run_program("log", "--failures", place)).stdout

    # A scratch place that is full, or gone, is a failure of this target, too.
    configured.write(usb=upkeep.replace("weekly", "1s").replace(str(scratch), "/proc"))
    done = configured.run("home", "--only", "usb")
    complaint(done, 10, f"{place}: /proc")
