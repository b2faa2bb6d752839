"""A start imports only the modules that it needs."""

import subprocess
import sys

import pytest

from tests.support.filesystems import Filesystem
from tests.support.program import CHECKOUT, Argument, environment
from tests.support.scene import Scene

#: Without ``site``, which may import anything of the machine.
SCRIPT = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from btrfs_backup_ng.__main__ import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print(*sys.modules)
"""
#: Of the standard library, what takes long and is needed by few calls. ``dataclasses``
#: alone was half of a start.
SLOW = set(
    "bz2 dataclasses difflib email hashlib http importlib.resources inspect lzma"
    " pathlib random shutil socket ssl tempfile urllib zipfile zoneinfo".split()
)
#: How many modules of the program a local run, and a list, may import.
LARGEST_RUN, LARGEST_LIST = 110, 90
#: What --version needs less than any other call.
NOT_FOR_VERSION = set("argparse ctypes json logging subprocess threading uuid".split())


def imported(*words: Argument) -> set[str]:
    """Run the program; return the imported modules, its own without the package."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", SCRIPT, CHECKOUT, *words],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    names = done.stdout.splitlines()[-1].split()
    return {name.removeprefix("btrfs_backup_ng.") for name in names}


def folders(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def commands(names: set[str]) -> set[str]:
    return {name.split(".")[2] for name in names if name.startswith("cli.commands.")}


def own(names: set[str]) -> set[str]:
    """Return the modules of the program."""
    paths = (
        (CHECKOUT / "btrfs_backup_ng").joinpath(*name.split(".")) for name in names
    )
    return {
        path.name
        for path in paths
        if path.is_dir() or path.with_suffix(".py").is_file()
    }


@pytest.mark.parametrize("word", ["--help", "--no-such-option"])
def test_no_action_is_imported_to_answer_from_the_words_alone(word):
    names = imported(word)
    assert "cli" in names
    assert not folders(names) & {"actions", "transfer", "place", "session", "endpoint"}


def test_the_version_needs_neither_parser_nor_log():
    names = imported("--version")
    assert not names & (SLOW | NOT_FOR_VERSION)
    assert len(own(names)) <= 12 and "core.value" not in names


def test_a_command_imports_no_other():
    assert commands(imported("list", "--help")) == {"list"}


def test_a_run_with_nothing_to_do_and_a_list_import_little(
    disks: tuple[Filesystem, Filesystem],
):
    scene = Scene(*disks, is_small=True)
    scene.back_up()
    not_here = {"cli.help", "host.ssh", "sshutil.master"}
    run = imported(*scene.words("-S"))
    assert commands(run) == {"backup"}
    assert not run & (SLOW | not_here)
    assert len(own(run)) <= LARGEST_RUN
    listed = imported("list", scene.destination)
    assert commands(listed) == {"list"}
    assert not listed & (SLOW | not_here)
    assert "transfer" not in folders(listed)
    assert len(own(listed)) <= LARGEST_LIST
