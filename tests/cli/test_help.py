"""The help: the usual options first, all of them on request, no line too long."""

from __future__ import annotations

from importlib import import_module

import pytest

from btrfs_backup_ng.cli import backup_options
from btrfs_backup_ng.cli.commands import VERBS
from btrfs_backup_ng.cli.help import (
    COMMANDS,
    COMMON,
    SHARED,
    Definition,
    Section,
    Text,
    list_options,
    read_sections,
)
from btrfs_backup_ng.cli.parser import Parser
from tests.support.command_line import covers, must
from tests.support.program import run_program

PARSERS: list[Parser] = [
    backup_options.build_parser(),
    *(import_module(module).build_parser() for module in VERBS.values()),
]
each_parser = pytest.mark.parametrize("parser", PARSERS, ids=lambda one: one.prog)


@pytest.fixture
def shown(capsys, monkeypatch):
    def show(parser: Parser, *, everything: bool, columns: int = 80) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        parser.show_help(everything=everything)
        return str(capsys.readouterr().out)

    return show


def terms(text: str) -> set[str]:
    """Return the options that have an entry in a text."""
    entries = [line for line in text.splitlines() if line.startswith("  -")]
    words = [word for line in entries for word in line.strip().split("  ")[0].split()]
    return {word.strip(",") for word in words if word.startswith("-")}


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
@each_parser
def test_no_line_is_longer_than_the_terminal_or_a_reader_wants(
    shown, parser: Parser, columns: int
):
    for everything in (False, True):
        lines = shown(parser, everything=everything, columns=columns).splitlines()
        uncut = [line for line in lines if "|" not in line]  # to be copied
        assert max(map(len, uncut)) < min(columns, 100)
        assert lines[0].startswith(f"usage: {parser.prog}")


@each_parser
def test_all_options_are_there_on_request(shown, parser: Parser):
    options = {word for action in parser.options for word in action.option_strings}
    assert options - {"--verbosity", "--watch-every"} <= terms(
        shown(parser, everything=True)
    )
    assert "--verbosity" not in shown(parser, everything=True)


@pytest.mark.parametrize("parser", PARSERS[1:], ids=lambda one: one.prog)
def test_the_help_of_a_command_shows_its_own_options(shown, parser: Parser):
    text = shown(parser, everything=False)
    for section in list_options(parser):
        words = {word for entry in section.entries for word in terms(f"  {entry.term}")}
        if section.heading in SHARED:
            assert not words & terms(text)
            assert any(
                line.split()[:1] == [section.heading] for line in text.split("\n")
            )
        else:
            assert words <= terms(text)


def test_the_first_help_fits_on_a_page_and_says_where_the_rest_is(shown):
    text = shown(PARSERS[0], everything=False)
    headings = [line for line in text.splitlines() if line.endswith(":")]
    assert headings == ["commands:", "options used most:", "places:", "more:"]
    for command, meaning in COMMANDS.items():
        assert [command, *meaning.split()] in [
            line.split() for line in text.split("\n")
        ]
    assert {word for word in terms(text) if word.startswith("--")} == {*COMMON}
    assert len(COMMON) == 10
    for word in ("SOURCE", "ssh://", "shell://", "help COMMAND", "--help-all", "man "):
        assert word in text
    assert len(text.splitlines()) < 60


def test_each_command_has_a_line_in_the_help():
    assert {*COMMANDS} == {*VERBS}


@covers("--help-all")
def test_a_help_of_everything_names_places_tasks_and_statuses(shown):
    done = must(run_program("--help-all", env={"COLUMNS": "80"}))
    assert done.stdout == shown(PARSERS[0], everything=True)
    again = must(run_program("help", "--all", env={"COLUMNS": "80"}))
    assert again.stdout == done.stdout
    for word in ("SOURCE", "ssh://", "shell://", "@FILE", "::", "exit status", "70"):
        assert word in done.stdout


def test_the_help_of_a_command_can_name_everything_too(shown):
    done = must(run_program("help", "list", "--all", env={"COLUMNS": "80"}))
    (parser,) = (one for one in PARSERS if one.verb == "list")
    assert done.stdout == shown(parser, everything=True)


def test_a_text_has_paragraphs_headings_and_entries():
    assert read_sections(
        "A line\nand another.\n\nA paragraph.\n"
        "places:\n  /path  a place,\n    or two\n  /other   one\n  A note\n  on it.\n"
        "\nThe end.\n"
    ) == [
        Section("", [Definition("", "A line and another.")]),
        Section("", [Definition("", "A paragraph.")]),
        Section(
            "places",
            [
                Definition("/path", "a place, or two"),
                Definition("/other", "one"),
                Definition("", "A note on it."),
            ],
        ),
        Section("", [Definition("", "The end.")]),
    ]


def test_a_long_term_has_a_line_of_its_own_and_a_usage_breaks_between_its_parts():
    text = Text(40)
    text.add_usage(["program [options] PLACE [--file FILE ...]", "program help"])
    text.add(
        Section("all", [Definition("a", "b"), Definition("a term of many words", "c")])
    )
    assert str(text) == (
        "usage: program [options] PLACE\n"
        "               [--file FILE ...]\n"
        "       program help\n\n"
        "all:\n"
        "  a                     b\n"
        "  a term of many words  c\n"
    )
