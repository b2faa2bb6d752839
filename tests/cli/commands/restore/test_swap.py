"""The commands that ``restore`` tells at its end: run for real, on real mounts."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands.restore.test_restore import told
from tests.conftest import MakesFilesystems
from tests.support.command_line import covers, must, on_terminal
from tests.support.filesystems import read_mounts, users_of
from tests.support.places import STATE
from tests.support.processes import wait_until
from tests.support.program import Argument, run_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd
from tests.support.staged import ssh_way

pytestmark = pytest.mark.btrfs


def _run(*argv: object) -> None:
    subprocess.run([str(word) for word in argv], check=True)


def _options(point: Path) -> set[str]:
    """Return how something is mounted, but for which subvolume that is."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if fields[4] == str(point):
            options = [*fields[5].split(","), *after.split()[-1].split(",")]
            return {o for o in options if not o.startswith("subvol")}
    raise AssertionError(f"{point} is not mounted")


def _swapped(swap: dict[str, Any], way: str) -> None:
    """Run the commands as a root shell that stops at the first failure."""
    assert swap["way"] == way
    done = subprocess.run(["sh", "-e"], input="\n".join(swap["commands"]), text=True)
    assert done.returncode == 0, swap


@covers("--writable", "--replaces")
def test_the_commands_put_it_in_place(btrfs: MakesFilesystems, sshd: Sshd):
    disk, backup = btrfs(), btrfs()
    backups, top = backup.path / "backups", disk.path
    backups.mkdir()
    home = disk.subvolume("home")
    (home / "file").write_text("good")
    disk.subvolume("home/vms")  # in no backup
    (home / "vms/disk").touch()
    count = 0

    def back_up(source: Path, *, parent: bool) -> None:
        nonlocal count
        count += 1
        (source / "count").write_text(str(count))
        done = must(run_program("-p", "home-", source, backups))
        assert (" since " in done.stdout) == parent, done.stdout

    def restored(*words: Argument) -> Any:
        done = run_program("restore", *words, "--writable", "--json")
        return told(done)["swap"]

    def check(place: Path, *, nested: bool = True) -> None:
        assert (place / "file").read_text() == "good"
        assert (place / "vms/disk").exists() == nested
        assert (place / "count").read_text() == str(count)
        back_up(place, parent=True)
        (place / "file").write_text("bad")

    back_up(home, parent=False)
    (home / "file").write_text("bad")
    # At a path: the place of the source is known, here and through ssh.
    swap = restored(backups, "--to", top / "home.new")
    _swapped(swap, "rename")
    check(home)
    (old,) = top.glob("home.before-*")
    assert (old / "file").read_text() == "bad"
    _run("sh", "-ec", "\n".join(swap["removal"]))
    assert not (old.exists() or (top / "home.new").exists())

    # A mounted subvolume, and the restored one in it.
    point = top.parent / f"{top.name}.home"
    point.mkdir()
    _run("mount", "-o", "noatime,compress=zstd,subvol=home", disk.device, point)
    try:
        before = _options(point)
        *login, place = ssh_way(sshd)(point / "new")
        words: list[Argument] = [backups, "-p", "home-", "--to", place, *login]
        _run("btrfs", "-q", "subvolume", "snapshot", "-r", home, top / "keep")
        time.sleep(1.1)  # what is moved aside is called by the second
        swap = restored(*words, "--replaces", point)
        # Sessions of ssh end late.
        wait_until(lambda: "no process" in users_of(point)[0], 10)
        _swapped(swap, "rename in the top level")
        assert _options(point) == before >= {"noatime"}
        check(point)
        _run("sh", "-ec", "\n".join(swap["removal"]))
        assert not list(top.glob("home.before-*"))
        assert (home / "file").read_text() == "bad"  # it is the one at home now

        # The default subvolume.
        _run("umount", point)
        _run("btrfs", "subvolume", "set-default", home)
        _run("mount", "-o", "noatime", disk.device, point)
        before = _options(point)
        mine = (backups, "--from", point)  # which counts as another source than home
        swap = restored(*mine, "--to", top / "third", "--replaces", f"{point}/")
        _swapped(swap, "default subvolume")
        assert _options(point) == before
        check(point)
        assert (top / "third/file").read_text() == "bad"

        # Another disk.
        swap = restored(*mine, "--to", backup.path / "new", "--replaces", point)
        _swapped(swap, "mount")
        check(point, nested=False)
        assert "subvol=/third/vms" in "".join(swap["notes"])
        assert (backup.path / "new/file").read_text() == "bad"
    finally:
        if any(mount.point == point for mount in read_mounts()):
            _run("umount", point)


def test_without_writable_the_way_to_something_to_swap_in_is_told(scene: Scene):
    scene.back_up()
    to = scene.source.parent / "read-only"
    done = must(run_program("restore", scene.destination, "--to", to))
    assert "To write to it:" in done.stdout and "mv -- " not in done.stdout
    line = done.stdout.splitlines()[-1].partition("btrfs-backup-ng ")[2]
    done = must(on_terminal(*line.split(), env={"COLUMNS": "60"}))
    shown = done.stdout.replace("\r\n", "\n")
    assert (to.with_name("read-only.rw") / STATE / "snapshots").is_dir()
    assert "nothing to send" in shown
    head, _, rest = shown.partition("  (set -e\n")
    script, _, _ = rest.partition("  )\n")
    assert head and script.startswith("  mv -- \\\n      /")  # it can be copied
    scene.source.rename(to.with_name("away"))  # so the first command fails
    subprocess.run(["sh"], input=f"(set -e\n{script})", text=True)
    assert to.with_name("read-only.rw").exists() and not scene.source.exists()
