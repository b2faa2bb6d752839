"""A file of the program's own directories is replaced as a whole, or not at all."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from btrfs_backup_ng.__util__ import MIB
from btrfs_backup_ng.host.entry import NotOurs, replace_file
from tests.support.program import environment


@pytest.mark.parametrize("old", [None, b"", b"old" * 999])
@pytest.mark.parametrize("new", [b"", b"new", b"x" * MIB])
def test_a_file_is_replaced_whole(tmp_path, old, new):
    path = tmp_path / "state file"
    if old is not None:
        path.write_bytes(old)
    replace(path, new)
    assert path.read_bytes() == new
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_write_that_fails_half_way_leaves_the_old_content(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    script = """
        import os, resource, signal, sys
        from btrfs_backup_ng.host.entry import replace_file
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        try:
            replace_file(os.open(sys.argv[1], os.O_RDONLY), "f", b"new" * 4000)
        except OSError as error:
            print(error.strerror)
    """
    done = python(script, str(tmp_path))
    assert done.stdout == "File too large\n", done.stderr
    assert path.read_bytes() == b"old"
    replace(path, b"next")
    assert path.read_bytes() == b"next"
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]


def test_a_directory_that_was_deleted_is_an_error(tmp_path):
    (tmp_path / "deleted").mkdir()
    directory = os.open(tmp_path / "deleted", os.O_RDONLY)
    (tmp_path / "deleted").rmdir()
    try:
        with pytest.raises(FileNotFoundError):
            replace_file(directory, "f", b"x")
    finally:
        os.close(directory)
    assert not list(tmp_path.iterdir())


def test_a_link_laid_in_the_way_is_not_followed(tmp_path):
    """Another user of the directory must not make root write elsewhere."""
    victim, path = tmp_path / "victim", tmp_path / "f"
    victim.write_bytes(b"precious")
    (tmp_path / "f.new").symlink_to(victim)
    path.symlink_to(victim)
    replace(path, b"new")
    assert victim.read_bytes() == b"precious"
    assert path.read_bytes() == b"new" and not path.is_symlink()


def test_a_directory_laid_in_the_way_is_refused(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    (tmp_path / "f.new").mkdir()
    with pytest.raises(NotOurs, match="f.new is a directory"):
        replace(path, b"new")
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("call", "after"),
    [
        ("write:signal=SIGKILL:when=1", b"old"),
        ("fsync:signal=SIGKILL:when=1", b"old"),
        ("fsync:error=EIO:when=1", b"old"),
        ("renameat:error=EIO:when=1", b"old"),
        ("fsync:signal=SIGKILL:when=2", b"new" * 10000),
    ],
)
def test_a_kill_or_an_error_at_any_call_leaves_old_or_new(tmp_path, call, after):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    script = """
        import os, sys
        from btrfs_backup_ng.host.entry import replace_file
        replace_file(os.open(sys.argv[1], os.O_RDONLY), "f", b"new" * 10000)
    """
    name = call.split(":")[0]
    watch = ["strace", "-qq", "-o", os.devnull, "-e", f"trace={name}"]
    done = python(script, str(tmp_path), before=[*watch, "-e", f"inject={call}"])
    assert done.returncode != 0, done.stderr
    assert path.read_bytes() == after


def test_content_is_on_the_disk_before_its_name_and_the_name_before_the_end(tmp_path):
    script = """
        import os, sys
        from btrfs_backup_ng.host.entry import replace_file
        replace_file(os.open(sys.argv[1], os.O_RDONLY), "f", b"new")
    """
    log = tmp_path / "log"
    watch = ["strace", "-qq", "-y", "-o", str(log), "-e", "trace=fsync,renameat"]
    assert python(script, str(tmp_path), before=watch).returncode == 0
    calls = [line for line in log.read_text().splitlines() if str(tmp_path) in line]
    assert [call.split("(")[0] for call in calls] == ["fsync", "renameat", "fsync"]
    assert f"<{tmp_path}/f.new>" in calls[0] and f"<{tmp_path}>" in calls[2]


def replace(path: Path, content: bytes) -> None:
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        replace_file(directory, path.name, content)
    finally:
        os.close(directory)


def python(script, *argv, before=()):
    return subprocess.run(
        [*before, sys.executable, "-c", textwrap.dedent(script), *argv],
        env=environment(),
        capture_output=True,
        text=True,
    )
