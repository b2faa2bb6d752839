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
#: Prints what is compiled while a module is imported.
COMPILING = """
import builtins, importlib, re, sys
sys.path.insert(0, sys.argv[1])
compile, compile_pattern = builtins.compile, re.compile
def note(source, *others, **named):
    if isinstance(source, str):
        print("text", source)
    return compile(source, *others, **named)
def note_pattern(pattern, *flags):
    if sys._getframe(1).f_globals["__name__"].startswith("btrfs_backup_ng"):
        print("pattern", pattern)
    return compile_pattern(pattern, *flags)
builtins.compile, re.compile = note, note_pattern
importlib.import_module(f"btrfs_backup_ng.cli.{sys.argv[2]}")
"""
#: Of the standard library, what takes long and is needed by few calls. ``dataclasses``
#: alone was half of a start.
SLOW = set(
    "base64 bz2 concurrent.futures dataclasses difflib email glob hashlib http"
    " importlib.resources inspect lzma pathlib random shutil socket ssl tempfile urllib"
    " zipfile zoneinfo".split()
)
#: Of the program, what only a transfer needs, or another machine, or several tasks.
SENDING = set(
    "actions.backup.deliveries actions.backup.shipment actions.backup.sizes"
    " process.fan_out process.pipeline process.relay session.side_by_side"
    " transfer.attempt transfer.delivery transfer.full_disk transfer.probe"
    " transfer.size".split()
)
ELSEWHERE = {"host.control", "host.ssh", "sshutil"}
#: What a backup never needs: the views of other commands.
VIEWS = {"core.choose", "place.contents", "place.forecast", "place.verified"}
#: How many modules of the program a local run, a list, and a status may import.
LARGEST_RUN, LARGEST_LIST, LARGEST_STATUS = 90, 87, 92
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
    paths = {
        name: (CHECKOUT / "btrfs_backup_ng").joinpath(*name.split("."))
        for name in names
    }
    return {
        name
        for name, path in paths.items()
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
    not_here = SLOW | SENDING | ELSEWHERE | {"cli.help"}
    run = imported(*scene.words("-S"))
    assert commands(run) == {"backup"}
    assert not run & (not_here | VIEWS)
    assert folders(run) >= {"transfer"} and "sendstream.format" not in run
    assert len(own(run)) <= LARGEST_RUN, len(own(run))
    for verb, largest in (("list", LARGEST_LIST), ("status", LARGEST_STATUS)):
        listed = imported(verb, scene.destination)
        assert commands(listed) == {verb}
        assert not listed & not_here
        assert "transfer" not in folders(listed)
        assert "actions.prune" not in listed
        assert len(own(listed)) <= largest


@pytest.mark.parametrize("module", ["commands.backup", "commands.list", "help"])
def test_a_start_compiles_neither_a_text_nor_a_pattern(module):
    """The first ``compile()`` of a process takes as long as ten modules.

    ``typing`` calls it for a name in quotes, as in ``TypeVar("T", bound="Value")``. A
    pattern is compiled when it is used, as few calls use it.
    """
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", COMPILING, CHECKOUT, module],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
