"""The commands: each has a module, which is imported when it is called."""

from collections.abc import Callable, Sequence
from importlib import import_module

from btrfs_backup_ng import PROGRAM, __version__
from btrfs_backup_ng.__util__ import UsageError
from btrfs_backup_ng.cli.argv import TASKS, join_levels
from btrfs_backup_ng.cli.stdout import print_line

_HERE = "btrfs_backup_ng.cli.commands"
#: Verb -> its module.
VERBS = {
    "config": f"{_HERE}.config.command",
    "demo": f"{_HERE}.demo",
    "diff": f"{_HERE}.diff",
    "doctor": f"{_HERE}.doctor",
    "list": f"{_HERE}.list",
    "log": f"{_HERE}.log",
    "prune": f"{_HERE}.prune.command",
    "restore": f"{_HERE}.restore.command",
    "run": f"{_HERE}.run",
    "send": f"{_HERE}.send",
    "snapshot": f"{_HERE}.snapshot",
    "status": f"{_HERE}.status.command",
    "timer": f"{_HERE}.timer",
    "verify": f"{_HERE}.verify",
    "versions": f"{_HERE}.versions",
}


#: The word that asks for the help of the verb behind it; and the one for all of that.
_HELP, _ALL = "help", "--all"


def run_words(words: Sequence[str]) -> int:
    """Run the words of a command line, and return the exit status.

    There is a verb, or these are the words of the classic form.

    :raises BackupError: if nothing was done, or a verb failed.
    """
    if tuple(words) == ("--version",):
        print_line(f"{PROGRAM} {__version__}")  # without any parser
        return 0
    if words and words[0] == _HELP:
        rest = [word for word in words[1:] if word != _ALL]
        return run_words([*rest, "--help-all" if _ALL in words else "--help"])
    at = _find_verb(words)
    if at is not None:
        main: Callable[[Sequence[str]], int] = import_module(VERBS[words[at]]).main
        return main([*words[:at], *words[at + 1 :]])
    from btrfs_backup_ng.cli.backup_options import parse_backup  # here: see --version

    parsed = parse_backup(words, (*VERBS, _HELP))
    if parsed is None:
        return 0
    status: int = import_module(f"{_HERE}.backup").run(*parsed)
    return status


def _find_verb(words: Sequence[str]) -> int | None:
    """Return the index of the verb: the first word, or the first behind its options."""
    for at, word in enumerate(words):
        if word in VERBS and (at == 0 or _are_options_of(word, words[:at])):
            return at
        if not words[0].startswith("-") or word in ("--", TASKS):
            return None
    return None


def _are_options_of(verb: str, words: Sequence[str]) -> bool:
    """Return whether a verb knows all of these words, and they are options."""
    parser = import_module(VERBS[verb]).build_parser()
    try:
        options = parser.parse_args(join_levels(words))
    except UsageError:
        return False
    return not getattr(options, "places", [])
