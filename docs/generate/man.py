"""Man pages, in the macros of man(7)."""

from collections.abc import Iterator

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.cli.help import COMMANDS, Definition, list_options
from docs.generate.commands import SENDER, Command, release

#: Characters that troff would replace or interpret -> what prints them as they are.
_ESCAPES = {
    "\\": "\\e",
    "-": "\\-",
    "'": "\\(aq",
    "`": "\\(ga",
    "^": "\\(ha",
    "~": "\\(ti",
    '"': "\\(dq",
}


def man_page(command: Command) -> str:
    """Return the page of a command."""
    return "\n".join(_lines(command)) + "\n"


def _lines(command: Command) -> Iterator[str]:
    version, date = release()
    yield '.\\" Made by "python -m docs.generate". Do not edit.'
    title = escaped(command.name.upper())
    yield f'.TH {title} 1 "{date}" "{PROGRAM} {version}" "{PROGRAM}"'
    yield ".nh"  # no hyphens in words: options could not be copied
    yield ".ad l"
    yield ".SH NAME"
    yield f"{escaped(command.name)} \\- {escaped(command.meaning)}"
    yield ".SH SYNOPSIS"
    name = command.parser.prog
    for usage in command.usages:
        yield ".PP"
        yield f"\\fB{escaped(name)}\\fR{escaped(usage.removeprefix(name))}"
    groups = [section.heading for section in list_options(command.parser)[1:]]
    for section in command.sections():
        if section.heading in groups:
            yield f'.SS "{escaped(section.heading.capitalize())}"'
        else:
            yield f'.SH "{escaped(section.heading.upper())}"'
        for entry in section.entries:
            yield from _entry(entry)
    yield ".SH SEE ALSO"
    others = [PROGRAM, *(f"{PROGRAM}-{verb}" for verb in COMMANDS), SENDER]
    pages = [f"\\fB{escaped(one)}\\fR(1)" for one in others if one != command.name]
    yield ",\n".join([*pages, "\\fBbtrfs\\-send\\fR(8)", "\\fBssh_config\\fR(5)"])


def _entry(entry: Definition) -> Iterator[str]:
    if entry.term:
        yield ".TP"
        yield f"\\fB{escaped(entry.term)}\\fR"
    else:
        yield ".PP"
    yield escaped(entry.meaning)


def escaped(text: str) -> str:
    """Return a text that troff prints as it is."""
    found = "".join(_ESCAPES.get(character, character) for character in text)
    return f"\\&{found}" if found[:1] == "." else found
