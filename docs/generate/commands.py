"""The commands, as their parsers describe them, and the prose that only pages have."""

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.cli import backup_options
from btrfs_backup_ng.cli.commands import VERBS
from btrfs_backup_ng.cli.help import (
    COMMANDS,
    Definition,
    Section,
    list_options,
    read_sections,
)
from btrfs_backup_ng.cli.parser import Parser
from tests.support.embedded import load

CHECKOUT = Path(__file__).resolve().parents[2]
PROSE = Path(__file__).parent / "prose"
SENDER = "btrfs-ssh-send"


@dataclass(frozen=True, slots=True)
class Command:
    """A command.

    :ivar name: of its page.
    :ivar verb: "" for a program itself.
    :ivar meaning: in one line.
    """

    name: str
    verb: str
    meaning: str
    usages: tuple[str, ...]
    description: str
    epilog: str
    parser: argparse.ArgumentParser

    @property
    def actions(self) -> list[argparse.Action]:
        """Return its options, without the hidden ones."""
        actions = self.parser._actions
        return [a for a in actions if a.option_strings and a.help != argparse.SUPPRESS]

    def sections(self) -> Iterator[Section]:
        """Yield the sections of its page behind the synopsis."""
        described = [Section("description", [])]
        later: list[Section] = []
        prose = (PROSE / f"{self.name}.txt").read_text(encoding="utf-8")
        for section in read_sections(f"{self.description}\n\n{self.epilog}\n\n{prose}"):
            same = [one for one in later if one.heading == section.heading]
            if same:
                same[0].entries.extend(section.entries)
            elif section.heading:
                later.append(section)
            else:
                (later or described)[-1].entries.extend(section.entries)
        yield from described
        if self.name == PROGRAM:
            commands = [
                Definition(f"{PROGRAM}-{verb}(1)", meaning)
                for verb, meaning in COMMANDS.items()
            ]
            yield Section("commands", commands)
            later = [section for section in later if section.heading != "commands"]
        yield from list_options(self.parser)
        yield from later


def commands() -> list[Command]:
    """Return all commands of the program: first the program itself."""
    classic = backup_options.build_parser()
    meaning = "incremental backups of btrfs subvolumes"
    found = [_command(PROGRAM, classic, meaning)]
    for verb, line in COMMANDS.items():
        parser = import_module(VERBS[verb]).build_parser()
        found.append(_command(f"{PROGRAM}-{verb}", parser, line))
    return found


def _command(name: str, parser: Parser, meaning: str) -> Command:
    return Command(
        name=name,
        verb=parser.verb,
        meaning=meaning,
        usages=tuple(parser.usages),
        description=parser.description or "",
        epilog=parser.epilog or "",
        parser=parser,
    )


def sender() -> Command:
    """Return btrfs-ssh-send."""
    parser: argparse.ArgumentParser = load().build_parser()
    return Command(
        name=SENDER,
        verb="",
        meaning="send one btrfs snapshot over ssh",
        usages=(parser.usage or "",),
        description=parser.description or "",
        epilog="",
        parser=parser,
    )


def release() -> tuple[str, str]:
    """Return the version, and the date of its release; "" before that."""
    text = (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8")
    version = import_module("btrfs_backup_ng").__version__
    found = re.search(rf"^## \[{re.escape(version)}\] - (\S+)", text, re.MULTILINE)
    return version, found[1] if found else ""
