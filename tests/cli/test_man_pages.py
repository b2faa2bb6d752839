"""The man pages: current, complete, without warnings, with examples that are right."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from importlib import import_module

import pytest

from btrfs_backup_ng.cli.backup_options import parse_task, read_job
from btrfs_backup_ng.cli.commands import VERBS
from btrfs_backup_ng.cli.parser import parse_places
from btrfs_backup_ng.cli.places import read_options
from docs.generate.__main__ import files
from docs.generate.commands import CHECKOUT, Command, commands, sender

PAGES = [*commands(), sender()]
each_page = pytest.mark.parametrize("command", PAGES, ids=lambda one: one.name)


def page_path(command: Command) -> str:
    return str(CHECKOUT / f"docs/man/{command.name}.1")


def test_the_committed_files_are_current():
    for path, text in files().items():
        assert path.read_text() == text, "run:  python -m docs.generate"
    for folder in ("man", "completions"):
        there = {path for path in files() if path.parent.name == folder}
        assert {*(CHECKOUT / "docs" / folder).iterdir()} == there


@each_page
def test_a_page_renders_without_warnings_and_has_every_option(command: Command):
    done = subprocess.run(
        ["man", "--local-file", "--warnings", page_path(command)],
        env={
            **os.environ,
            "MANWIDTH": "80",
            "LC_ALL": "C.UTF-8",
            "MAN_KEEP_FORMATTING": "",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    shown = re.sub(".\b", "", done.stdout)
    described = {
        word.strip(",")
        for line in shown.splitlines()
        if line.startswith("       -")
        for word in line.split()
    }
    for action in command.actions:
        assert {*action.option_strings} <= described
    for heading in (
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "OPTIONS",
        "EXAMPLES",
        "SEE ALSO",
    ):
        assert f"\n{heading}\n" in shown
    assert "EXIT STATUS" in shown
    uncopied = [line for line in shown.splitlines() if "btrfs-" not in line]
    assert max(map(len, uncopied)) <= 80


@each_page
def test_the_examples_of_a_page_are_understood(command: Command):
    (examples,) = (s for s in command.sections() if s.heading == "examples")
    assert examples.entries
    for example in examples.entries:
        words = shlex.split(example.term.partition(" | ")[0])
        prog = command.parser.prog.split()
        assert words[: len(prog)] == prog
        words = [word for word in words[len(prog) :] if not word.startswith("@")]
        if command.verb == "demo" or command.name == "btrfs-ssh-send":
            command.parser.parse_args(words)
        elif command.verb:
            module = import_module(VERBS[command.verb])
            confirmed = ["--yes"] * (command.verb == "prune")
            options = parse_places(module.build_parser(), [*words, *confirmed])
            getattr(module, "read", read_options)(options)
        elif words != ["-q"]:
            read_job(parse_task(words))
