"""What is published is complete, small, and runs with nothing else installed."""

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from docs.generate.__main__ import files
from tests.support.filesystems import Filesystem
from tests.support.places import ssh_words
from tests.support.program import CHECKOUT, environment
from tests.support.scene import Scene
from tests.support.sshd import Sshd
from tests.support.trees import describe, differences

NOT_SOURCE = (
    ".git", ".venv", "build", "dist", "_build", "api", "*.egg-info", "__pycache__",
    "*.pyc", ".*_cache", ".hypothesis",
)  # fmt: skip

_TARGETS = {
    ".1": "share/man/man1",
    ".fish": "share/fish/vendor_completions.d",
    "": "share/bash-completion/completions",
}
#: Where man and the shells find the pages and completions, in a prefix.
SHARED = {
    f"{'share/zsh/site-functions' if path.name[0] == '_' else _TARGETS[path.suffix]}"
    f"/{path.name}"
    for path in files()
}

# One worker builds for all of these tests.
pytestmark = pytest.mark.xdist_group("packaging")


def source_files(top: Path, *below: str) -> set[str]:
    return {
        path.relative_to(top).as_posix()
        for name in below
        for path in [top / name, *(top / name).rglob("*")]
        if path.is_file()
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    copy = tmp_path_factory.mktemp("source") / "copy"
    shutil.copytree(CHECKOUT, copy, ignore=shutil.ignore_patterns(*NOT_SOURCE))
    return copy


@pytest.fixture(scope="module")
def built(source, tmp_path_factory):
    """Build the sdist from the source, and the wheel from the sdist."""
    directory = tmp_path_factory.mktemp("built")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "build",
            "--no-isolation",
            "--outdir",
            directory,
            source,
        ],
        check=True,
    )
    return directory


@pytest.fixture(scope="module")
def wheel(built):
    (path,) = built.glob("*.whl")
    return path


def test_nothing_is_needed_at_run_time(wheel):
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert project["dependencies"] == []
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
    needed = metadata.get_all("Requires-Dist") or []
    assert all(re.search(r"; extra == ['\"]dev['\"]$", line) for line in needed)
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "MIT"


def test_the_wheel_holds_the_package_and_nothing_else(source, wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if ".dist-info/" not in n}
    others = {"scripts/btrfs-ssh-send", *(f"data/{name}" for name in SHARED)}
    data = f"{'-'.join(wheel.name.split('-')[:2])}.data"
    package = source_files(source, "btrfs_backup_ng")
    assert names == package | {f"{data}/{name}" for name in others}
    assert "btrfs_backup_ng/py.typed" in names


def test_the_sdist_holds_what_the_tests_read(source, built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {n.partition("/")[2] for n in archive.getnames()}
    wanted = source_files(
        source, "btrfs_backup_ng", "tests", "docs", "benchmarks", ".ci", "check",
        "btrfs-ssh-send",
        "pyproject.toml", "MANIFEST.in", ".flake8", ".gitignore",
        "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE",
    )  # fmt: skip
    assert not wanted - names


def test_the_wheel_runs_where_nothing_else_is_installed(wheel, tmp_path):
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", venv / "bin/python", "install"]
        + ["--quiet", "--no-deps", "--no-index", wheel],
        check=True,
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    version = wheel.name.split("-")[1]
    for argv in (
        ["btrfs-backup-ng"],
        ["python", "-m", "btrfs_backup_ng"],
        ["btrfs-ssh-send"],
    ):
        said = subprocess.check_output(
            [venv / "bin" / argv[0], *argv[1:], "--version"],
            env=env,
            cwd=tmp_path,
            text=True,
        )
        assert version in said.split()
    assert source_files(venv, "share") >= SHARED
    manual = {**env, "MANPATH": str(venv / "share/man")}
    for name in ("btrfs-backup-ng", "btrfs-backup-ng-list", "btrfs-ssh-send"):
        found = subprocess.check_output(["man", "-w", name], env=manual, text=True)
        assert found == f"{venv}/share/man/man1/{name}.1\n"


def test_one_file_of_it_all_backs_up_lists_and_restores(
    source: Path, tmp_path: Path, disks: tuple[Filesystem, Filesystem], sshd: Sshd
):
    readme = (CHECKOUT / "README.md").read_text()
    (line,) = re.findall(r"^ +(mkdir .* -m zipapp .*)$", readme, re.MULTILINE)
    subprocess.run(["sh", "-c", line], cwd=source, check=True)
    program = shutil.copy(source / "btrfs-backup-ng.pyz", tmp_path / "bbng")
    scene = Scene(*disks, is_small=True)
    there = f"ssh://{sshd.host}:{sshd.port}{scene.destination}"
    env = {k: v for k, v in environment().items() if k != "PYTHONPATH"}
    target = disks[0].path / "back"
    target.mkdir()
    for words in (
        ("-p", "x-", "--checkpoint-interval", "1M", scene.source, there),
        ("-p", "x-", scene.source, "shell://cat >/dev/null"),
        ("list", there),
        ("restore", there, "--to", target),
    ):
        ssh = ssh_words(sshd) if there in words else []
        argv = [program, *words, *ssh]
        done = subprocess.run(argv, env=env, cwd="/", capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), words
    (restored,) = target.iterdir()
    assert not differences(describe(scene.source), describe(restored))


def test_the_program_by_which_ssh_asks_is_in_that_file(source: Path, tmp_path: Path):
    archive = shutil.make_archive(str(tmp_path / "all"), "zip", source)
    script = "import sys; sys.path.insert(0, sys.argv[1]);"
    script += " from btrfs_backup_ng.__util__ import read_packaged as read;"
    script += " import btrfs_backup_ng.sshutil.master as module;"
    script += " print(read(module.__package__, 'askpass.sh'), end='')"
    argv = [sys.executable, "-I", "-c", script, archive]
    said = subprocess.check_output(argv, text=True)
    assert said == (CHECKOUT / "btrfs_backup_ng/sshutil/askpass.sh").read_text()
