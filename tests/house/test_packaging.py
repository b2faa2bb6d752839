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

from tests.support.program import CHECKOUT

NOT_SOURCE = (
    ".git", ".venv", "build", "dist", "_build", "api", "*.egg-info", "__pycache__",
    "*.pyc", ".*_cache", ".hypothesis",
)  # fmt: skip

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
    assert names == source_files(source, "btrfs_backup_ng") | {script(wheel)}
    assert "btrfs_backup_ng/py.typed" in names


def script(wheel: Path) -> str:
    """Name the program in the wheel that is installed as it is."""
    return f"{'-'.join(wheel.name.split('-')[:2])}.data/scripts/btrfs-ssh-send"


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
