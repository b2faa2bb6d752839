"""Completions for bash, zsh and fish."""

import argparse
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from docs.generate.commands import SENDER, Command

_HERE = Path(__file__).parent
_NOTE = '# Made by "python -m docs.generate". Do not edit.'
#: Kinds of words: files, places, snapshots of the place in front, or those beside the
#: snapshot in front, and words that cannot be known.
FILE, PLACE, SNAPSHOT, BESIDE = "@file", "@place", "@snapshot", "@beside"
UNKNOWN = "@none"
#: Names of values -> their kind, or the words to choose from.
VALUES: dict[str, str] = {
    **dict.fromkeys(("DIR", "F", "FILE", "LIST", "PATH"), FILE),
    **dict.fromkeys(("PLACE", "SOURCE"), PLACE),
    "HOW": "none,auto,zstd,lz4",
    **dict.fromkeys(("N", "POLICY", "ZONE", "P", "SIZE", "AGE", "U", "ID"), UNKNOWN),
    **dict.fromkeys(("KEY=VALUE", "SPAN", "PCT", "K/N", "A B", "TARGET"), UNKNOWN),
    "SPEC": "minutely,hourly,daily,weekly,monthly",
}
#: Options the values of which are of another kind than their names say.
OPTIONS = {("btrfs-backup-ng-restore", "--to"): PLACE, (SENDER, "--parent"): FILE}
#: Pages -> the kinds of their operands; the last one repeats.
OPERANDS = {
    "btrfs-backup-ng": (PLACE,),
    "btrfs-backup-ng-run": (UNKNOWN,),
    "btrfs-backup-ng-snapshot": (UNKNOWN,),
    "btrfs-backup-ng-send": (UNKNOWN,),
    "btrfs-backup-ng-config": ("check,init", UNKNOWN),
    "btrfs-backup-ng-timer": ("install,show,remove", UNKNOWN),
    "btrfs-backup-ng-list": (PLACE,),
    "btrfs-backup-ng-status": (PLACE,),
    "btrfs-backup-ng-log": (PLACE,),
    "btrfs-backup-ng-restore": (PLACE, SNAPSHOT),
    "btrfs-backup-ng-versions": (FILE,),
    "btrfs-backup-ng-diff": (PLACE, BESIDE),
    "btrfs-backup-ng-prune": (PLACE,),
    "btrfs-backup-ng-verify": (PLACE, SNAPSHOT),
    "btrfs-backup-ng-doctor": (PLACE,),
    "btrfs-backup-ng-demo": (UNKNOWN,),
    SENDER: (FILE, PLACE),
}


def value_kind(command: Command, action: argparse.Action) -> str:
    """Return the kind of an option's value, or the words to choose from."""
    option = (command.name, action.option_strings[-1])
    if option in OPTIONS:
        return OPTIONS[option]
    if action.choices:
        return ",".join(map(str, action.choices))
    assert action.metavar
    names = action.metavar
    return VALUES[names if isinstance(names, str) else " ".join(names)]


def takes_value(action: argparse.Action) -> bool:
    """Return whether the next word is a value of an option."""
    return action.nargs != 0


def valued_options(command: Command) -> list[str]:
    """Return the options that the next word is a value of."""
    actions = [action for action in command.actions if takes_value(action)]
    return [word for action in actions for word in action.option_strings]


def short_meaning(action: argparse.Action) -> str:
    """Return the meaning of an option in a few words."""
    text = (action.help or "") % vars(action)
    return re.split(r"[;:(]", text.partition(", like ")[0])[0].strip()


def function_name(command: Command) -> str:
    """Return a name for functions of a shell."""
    return "_" + command.name.replace("-", "_")


def _template(name: str, command: Command, **parts: str) -> str:
    """Return a template of a completion with its gaps filled."""
    text = (_HERE / name).read_text(encoding="utf-8")
    parts |= {
        "NOTE": _NOTE,
        "PROGRAM": command.name,
        "FUNCTION": function_name(command),
    }
    return re.sub("@([A-Z]+)@", lambda gap: parts[gap[1]], text)


def _ask() -> str:
    return (_HERE / "ask.sh").read_text(encoding="utf-8")


def bash(commands: Sequence[Command]) -> str:
    """Return the completion for bash of a program and its commands."""
    program, *others = commands
    cases: list[str] = []
    for command in commands:
        words = [
            f"{word}={value_kind(command, action)}" if takes_value(action) else word
            for action in command.actions
            for word in action.option_strings
        ]
        kinds = " ".join(OPERANDS[command.name])
        options = textwrap.fill(
            " ".join(words),
            84,
            initial_indent=" " * 12,
            subsequent_indent=" " * 12,
            break_on_hyphens=False,
            break_long_words=False,
        )
        cases.append(f"    {command.verb or quoted('')})")
        cases.append(f"        operands='{kinds}'")
        cases.append(f"        options='\n{options}'")
        cases.append("        ;;")
    verbs = [command.verb for command in others]
    if verbs:
        cases += ["    help)", f"        operands={','.join(verbs)}"]
        cases += ["        options=--all", "        ;;"]
        verbs.append("help")
    return _template(
        "bash.in",
        program,
        ASK=_ask(),
        COMMANDS=" ".join(verbs),
        CASES="\n".join(cases),
    )


def zsh(commands: Sequence[Command]) -> str:
    """Return the completion for zsh of a program and its commands."""
    program, *others = commands
    meanings = [f"{command.verb}:{command.meaning}" for command in others]
    meanings += ["help:show the options of a command"] * bool(others)
    cases: list[str] = []
    for command in [*others, program]:
        cases.append(f"    {command.verb or quoted('')})")
        cases.append("        specs=(")
        for action in command.actions:
            cases += [" " * 12 + line for line in _zsh_option(command, action)]
        kinds = [kind.strip("@") for kind in OPERANDS[command.name]]
        for number, kind in enumerate(kinds, 1):
            place = "*" if number == len(kinds) else str(number)
            if kind != UNKNOWN.strip("@"):
                function = f"{function_name(program)}_{kind}"
                cases.append(f"            '{place}:{kind}:{function}'")
        cases += ["        )", "        ;;"]
    return _template(
        "zsh.in",
        program,
        ASK=_ask(),
        COMMANDS="\n".join(f"        {quoted(each)}" for each in meanings),
        VALUED=" | ".join(valued_options(program)),
        CASES="\n".join(cases),
    )


def _zsh_option(command: Command, action: argparse.Action) -> list[str]:
    """Return the specifications of _arguments for an option, one for each word."""
    repeats = isinstance(action, argparse._AppendAction | argparse._CountAction)
    words = " ".join(action.option_strings)
    excluded = "*" if repeats else f"({words})"
    meaning = short_meaning(action).replace("[", r"\[").replace("]", r"\]")
    value = ""
    if takes_value(action):
        kind = value_kind(command, action)
        name = kind.strip("@") if kind.startswith("@") else "value"
        value = f":{name}:"
        if not kind.startswith("@"):
            value += f"({kind.replace(',', ' ')})"
        elif kind != UNKNOWN:
            value += f"_{command.parser.prog.split()[0].replace('-', '_')}_{name}"
        value *= action.nargs if isinstance(action.nargs, int) else 1
    found = []
    for word in action.option_strings:
        glue = "" if not value else ("=" if word.startswith("--") else "+")
        glue = "" if isinstance(action.nargs, int) and action.nargs > 1 else glue
        found.append(quoted(f"{excluded}{word}{glue}[{meaning}]{value}"))
    return found


def fish(commands: Sequence[Command]) -> str:
    """Return the completion for fish of a program and its commands."""
    program, *others = commands
    name, function = program.name, function_name(program)
    lines: list[str] = []
    start = f"complete -c {name}"
    first = f"{start} -n '{function}_at 1 none'"
    for other in others:
        lines.append(f"{first} -a {other.verb} -d {fish_quoted(other.meaning)}")
    if others:
        lines.append(f"{first} -a help -d 'show the options of a command'")
        verbs = " ".join(other.verb for other in others)
        lines.append(f"{start} -n '{function}_in help' -a '{verbs}'")
    options: dict[str, list[str]] = {}
    for command in commands:
        verb = command.verb or "none"
        for action in command.actions:
            options.setdefault(_fish_option(command, action), []).append(verb)
        kinds = OPERANDS[command.name]
        for number, kind in enumerate(kinds, 1):
            where = f"{function}_at {number}{'+' * (number == len(kinds))} {verb}"
            if kind != UNKNOWN:
                lines.append(f"{start} -n '{where}' {_fish_value(kind, function)}")
    for text, verbs_of in options.items():
        lines.append(f"{start} -n '{function}_in {' '.join(verbs_of)}' {text}")
    valued: list[str] = []
    for command in commands:
        words = " ".join(valued_options(command))
        valued.append(f"        case {command.verb or 'none'}")
        valued.append(f"            printf '%s\\n' {words}" if words else "")
    return _template(
        "fish.in",
        program,
        ASK=fish_quoted(_ask()),
        COMMANDS=" ".join(
            [*(other.verb for other in others), *["help"] * bool(others)]
        ),
        VALUED="\n".join(filter(None, valued)),
        LINES="\n".join(lines),
    )


def _fish_option(command: Command, action: argparse.Action) -> str:
    words = []
    for word in action.option_strings:
        words.append(f"-l {word[2:]}" if word.startswith("--") else f"-s {word[1:]}")
    if takes_value(action):
        kind = value_kind(command, action)
        function = "_" + command.parser.prog.split()[0].replace("-", "_")
        words.append(f"-x {_fish_value(kind, function)}".rstrip())
    return f"{' '.join(words)} -d {fish_quoted(short_meaning(action))}"


def _fish_value(kind: str, function: str) -> str:
    if kind == UNKNOWN:
        return ""
    if kind.startswith("@"):
        return f"-a '({function}{kind.replace('@', '_')})'"
    return f"-a '{kind.replace(',', ' ')}'"


def quoted(text: str) -> str:
    """Return a word for bash and zsh."""
    return "'" + text.replace("'", "'\\''") + "'"


def fish_quoted(text: str) -> str:
    """Return a word for fish."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
