"""The filesystems that tests are given are real, and go away."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.support import filesystems, processes, program


def loop_images():
    return [str(image) for image in filesystems.loop_devices().values()]


def test_a_filesystem_is_btrfs_of_its_own_and_gone_afterwards(tmp_path, btrfs):
    with filesystems.btrfs_filesystem(tmp_path, size="200M") as filesystem:
        assert filesystem.path.is_mount()
        assert str(filesystem.image) in loop_images()
        said = subprocess.check_output(
            ["btrfs", "filesystem", "show", filesystem.path], text=True
        )
        assert str(filesystem.uuid) in said and filesystem.device in said
        assert btrfs().path != filesystem.path
    assert not filesystem.path.exists() and not filesystem.image.exists()
    assert str(filesystem.image) not in loop_images()


def test_a_filesystem_can_be_made_read_only_and_taken_away(btrfs):
    filesystem = btrfs(mount_options=("compress=zstd",))
    (filesystem.path / "file").write_text("here")
    filesystem.remount("ro")
    with pytest.raises(OSError):
        (filesystem.path / "other").touch()
    filesystem.remount("rw")
    (filesystem.path / "other").touch()
    filesystem.unmount()
    assert not filesystem.path.is_mount() and not (filesystem.path / "file").exists()
    filesystem.mount("ro")
    assert (filesystem.path / "file").read_text() == "here"


def test_a_full_filesystem_is_full(btrfs):
    filesystem = btrfs(size="160M")
    filesystem.fill_up()
    with pytest.raises(OSError), open(filesystem.path / "more", "wb") as file:
        file.write(b"x" * (4 << 20))
        os.fsync(file.fileno())


def test_mounts_inside_and_elsewhere_go_with_the_filesystem(tmp_path):
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    with filesystems.btrfs_filesystem(tmp_path) as filesystem:
        inside = filesystem.subvolume("inside")
        subprocess.check_call(["mount", "-t", "tmpfs", "tests", inside])
        subprocess.check_call(
            ["mount", "-o", "subvol=inside", filesystem.device, elsewhere]
        )
        assert elsewhere.is_mount()
    assert not elsewhere.is_mount() and not filesystem.path.exists()


def test_a_process_left_on_a_filesystem_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(filesystems, "PATIENCE_S", 0.5)
    with pytest.raises(filesystems.StillBusy, match="sleep 987"):
        with filesystems.btrfs_filesystem(tmp_path) as filesystem:
            process = subprocess.Popen(["sleep", "987"], cwd=filesystem.path)
    assert not filesystem.path.exists()
    process.kill()
    process.wait()
    processes.wait_until(lambda: str(filesystem.image) not in str(loop_images()))


def test_a_busy_filesystem_does_not_hide_why_a_test_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(filesystems, "PATIENCE_S", 0.5)
    with pytest.raises(ZeroDivisionError):
        with filesystems.btrfs_filesystem(tmp_path) as filesystem:
            with open(filesystem.path / "file", "w"):
                process = subprocess.Popen(["sleep", "987"], cwd=filesystem.path)
                raise ZeroDivisionError
    process.kill()
    process.wait()
    processes.wait_until(lambda: str(filesystem.image) not in str(loop_images()))


def test_a_sweep_removes_what_a_killed_run_left_and_nothing_else(tmp_path, btrfs):
    mine = btrfs()
    script = f"""
        import sys, time
        from pathlib import Path
        from tests.support import filesystems
        with filesystems.power_cut(Path({str(tmp_path)!r})) as power:
            power.cut()
            print(power.filesystem.image, flush=True)
            time.sleep(987)
    """
    python = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=program.environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    with processes.killed(python) as process:
        assert process.stdout
        image = process.stdout.readline().strip()
        assert image in loop_images() and image not in str(filesystems.sweep())
    swept = filesystems.sweep()
    assert len(swept) == 3 and image in str(swept)
    assert image not in str(loop_images()) and not Path(image).exists()
    assert mine.path.is_mount()


def test_a_cut_shows_what_was_written_and_the_filesystem_goes_on(power_cut):
    (power_cut.path / "synced").write_text("on disk")
    power_cut.filesystem.sync()
    (power_cut.path / "in memory").write_text("lost")
    began = time.monotonic()
    after = power_cut.cut()
    assert time.monotonic() - began < 5
    assert (after.path / "synced").read_text() == "on disk"
    assert not (after.path / "in memory").exists()
    assert (power_cut.path / "in memory").exists()
    (after.path / "written afterwards").write_text("works")
    power_cut.filesystem.sync()
    assert (power_cut.cut("ro").path / "in memory").read_text() == "lost"
