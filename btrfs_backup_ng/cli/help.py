"""The help of commands: sections of text, and the options, at any width.

A text of a parser is written as it reads. At the left margin stand paragraphs and, with
a colon at the end, headings. Below a heading, indented by two columns, stand paragraphs
and entries: a term, at least two spaces, and its meaning; further lines of that are
indented further. The man pages are made of the same sections.
"""

import argparse
import re
import textwrap
from collections.abc import Iterable, Sequence

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.cli.stdout import columns
from btrfs_backup_ng.core.value import Value

#: Commands -> their meanings, in the order of the help.
COMMANDS = {
    "run": "back up all that is configured, or a part of it",
    "snapshot": "make the snapshots of all that is configured, and no more",
    "send": "send what the configured targets are missing, and no more",
    "config": "check the configuration, or write a first one",
    "timer": "back up by itself, every hour or when a disk is mounted",
    "list": "list snapshots, backups and interrupted transfers",
    "status": "show the state of each place in one word",
    "log": "show what past runs did, and what failed",
    "restore": "restore a snapshot, or files from it",
    "versions": "show every version of a file",
    "diff": "show what changed between two snapshots",
    "prune": "delete old snapshots and backups, or interrupted transfers",
    "verify": "check stored snapshots and backups, or test a restore",
    "doctor": "check that backups to and from places will work",
    "demo": "try it all on throw-away filesystems",
}
#: Groups of options that several commands share -> their line in a short help.
SHARED = {
    "ssh": "keys, passwords, sudo and time limits on other machines",
    "display": "-q, -v, -d, --progress, --json, --version",
}
#: Options of the classic form in its short help.
COMMON = (
    *("--num-snapshots", "--num-backups", "--keep", "--keep-at", "--dry-run"),
    *("--retries", "--wait", "--ssh-identity-file", "--sudo", "--quiet"),
)

#: The end of the short help of the classic form.
CLASSIC_EPILOG = f"""\
places:
  /path  SOURCE: a subvolume; DESTINATION: a directory on btrfs
  ssh://[user@]host[:port]/path  the same on another machine
  shell://COMMAND  DESTINATION only: a command that reads the stream

more:
  {PROGRAM} help COMMAND  the options of a command
  {PROGRAM} --help-all  all options, argument files, exit statuses
  man {PROGRAM}  all of it, with examples; each command has a page, too
"""

#: Longer lines are hard to read.
_WIDEST = 100
_NARROWEST = 30
#: Column of the meanings, unless all terms are shorter.
_MEANINGS = 24


class Definition(Value):
    """A term and its meaning; a paragraph has no term."""

    term: str
    meaning: str


class Section(Value):
    """A part of a text; a paragraph at the left margin has no heading."""

    heading: str
    entries: list[Definition]


def read_sections(text: str) -> list[Section]:
    """Read the sections of a text."""
    found: list[Section] = []
    is_open = False  # the next line may continue the last entry
    for line in text.splitlines():
        is_indented = line.startswith(" ")
        if not line.strip():
            is_open = False
        elif not is_indented and line.endswith(":"):
            found.append(Section(line[:-1], []))
            is_open = False
        elif is_open and _continues(line, found[-1].entries[-1]):
            last = found[-1].entries.pop()
            meaning = f"{last.meaning} {line.strip()}"
            found[-1].entries.append(Definition(last.term, meaning))
        else:
            if not is_indented:
                found.append(Section("", []))
            found[-1].entries.append(_entry(line))
            is_open = True
    return found


def _continues(line: str, last: Definition) -> bool:
    """Return whether a line continues an entry, or the paragraph above it."""
    indent = len(line) - len(line.lstrip(" "))
    return indent > 2 if last.term else not re.search(r"\S  +\S", line)


def _entry(line: str) -> Definition:
    term, *meaning = re.split("  +", line.strip(), maxsplit=1)
    return Definition(term, meaning[0]) if meaning else Definition("", term)


class Text:
    """Lines of a help of a certain width."""

    def __init__(self, width: int) -> None:
        self._width = max(width, _NARROWEST)
        self._lines: list[str] = []

    def __str__(self) -> str:
        return "\n".join(self._lines).rstrip("\n") + "\n"

    def add_usage(self, usages: Iterable[str]) -> None:
        """Add the ways to call a command; no optional part is broken."""
        start = "usage: "
        for usage in usages:
            whole = re.sub(r"\[.*?\]", lambda part: part[0].replace(" ", "\0"), usage)
            program = len(start) + len(re.split(" [^a-z]", usage)[0]) + 1
            if program > self._width * 2 // 3:
                program = len(start) + 2
            self._lines += self._wrap(whole, start, " " * program)
            start = " " * len(start)
        self._lines.append("")

    def add(self, section: Section) -> None:
        """Add a section."""
        indent = ""
        if section.heading:
            self._lines.append(f"{section.heading}:")
            indent = "  "
        terms = [len(entry.term) for entry in section.entries if entry.term]
        column = min(max(terms, default=0) + 4, _MEANINGS)
        for entry in section.entries:
            if not entry.term:
                self._lines += self._wrap(entry.meaning, indent, indent)
                continue
            start = f"{indent}{entry.term}  "
            if len(start) > column:
                self._lines += self._wrap(_only_at_commas(entry.term), indent, "    ")
                start = ""
            margin = " " * column
            self._lines += self._wrap(entry.meaning, start.ljust(column), margin)
        self._lines.append("")

    def _wrap(self, text: str, start: str, margin: str) -> list[str]:
        """Return the lines of a text, which is not broken at NULs."""
        lines = textwrap.wrap(
            text,
            self._width,
            initial_indent=start,
            subsequent_indent=margin,
            break_long_words=False,
            break_on_hyphens=False,
        )
        return [line.replace("\0", " ") for line in lines]


def _only_at_commas(term: str) -> str:
    """Return a term that may be a list, which is not broken in other places."""
    return re.sub("(?<!,) ", "\0", term)


def terminal_columns() -> int:
    """Return the width of a help: a bit less than that of the terminal."""
    return min(columns(), _WIDEST) - 2


def write(
    parser: argparse.ArgumentParser,
    verb: str,
    usages: Iterable[str],
    *,
    everything: bool,
) -> str:
    """Return the help of a command.

    :param verb: "" for the classic form.
    :param everything: with all options.
    """
    shown = options = list_options(parser)
    if not everything:
        shown = (command_help if verb else classic_help)(options)
    text = Text(terminal_columns())
    text.add_usage(usages)
    for section in (*read_sections(parser.description or ""), *shown):
        text.add(section)
    is_short = not (everything or verb)
    for section in read_sections(CLASSIC_EPILOG if is_short else parser.epilog or ""):
        text.add(section)
    return str(text)


def list_options(parser: argparse.ArgumentParser) -> list[Section]:
    """Return a section for each group of options, without the hidden ones."""
    sections = []
    for group in parser._action_groups:
        shown = [
            describe_option(action, parser.prog)
            for action in group._group_actions
            if action.option_strings and action.help != argparse.SUPPRESS
        ]
        if shown:
            sections.append(Section(group.title or "", shown))
    return sections


def describe_option(action: argparse.Action, prog: str) -> Definition:
    """Return the entry of an option."""
    term = ", ".join(action.option_strings) + _value(action)
    return Definition(term, (action.help or "") % {**vars(action), "prog": prog})


def _value(action: argparse.Action) -> str:
    """Return how the value of an option is written, with a space in front."""
    if action.nargs == 0:
        return ""
    if isinstance(action.metavar, tuple):
        return " " + " ".join(action.metavar)
    name = action.metavar or "{" + ",".join(map(str, action.choices or ())) + "}"
    return f" {name} [{name} ...]" if action.nargs == "+" else f" {name}"


def classic_help(options: Sequence[Section]) -> list[Section]:
    """Return the sections of the short help of the classic form.

    :param options: a section for each group of options.
    """
    found = [
        (word, entry)
        for section in options
        for entry in section.entries
        for word in entry.term.replace(",", "").split()
        if word in COMMON
    ]
    common = [entry for _, entry in sorted(found, key=lambda one: COMMON.index(one[0]))]
    commands = [Definition(*each) for each in COMMANDS.items()]
    return [Section("commands", commands), Section("options used most", common)]


def command_help(options: Sequence[Section]) -> list[Section]:
    """Return the sections of the short help of a command: its own options first.

    :param options: a section for each group of options.
    """
    own = [section for section in options if section.heading not in SHARED]
    shared = [Definition(s.heading, SHARED[s.heading]) for s in options if s not in own]
    if shared:
        own.append(Section("further options, which --help-all lists", shared))
    return own
