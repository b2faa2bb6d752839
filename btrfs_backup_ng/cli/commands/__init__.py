"""The commands: each has a module, which is imported when it is called."""

from collections.abc import Callable, Sequence
from importlib import import_module

from btrfs_backup_ng.cli.backup_options import parse_backup

_HERE = "btrfs_backup_ng.cli.commands"
#: Verb -> its module.
VERBS = {
    "demo": f"{_HERE}.demo",
    "diff": f"{_HERE}.diff",
    "doctor": f"{_HERE}.doctor",
    "list": f"{_HERE}.list",
    "prune": f"{_HERE}.prune.command",
    "restore": f"{_HERE}.restore.command",
    "status": f"{_HERE}.status",
    "verify": f"{_HERE}.verify",
    "versions": f"{_HERE}.versions",
}


def run_words(words: Sequence[str]) -> int:
    """Run the words of a command line, and return the exit status.

    The first word is a verb, or these are the words of the classic form.

    :raises BackupError: if nothing was done, or a verb failed.
    """
    if words and words[0] in VERBS:
        main: Callable[[Sequence[str]], int] = import_module(VERBS[words[0]]).main
        return main(words[1:])
    parsed = parse_backup(words)
    if parsed is None:
        return 0
    status: int = import_module(f"{_HERE}.backup").run(*parsed)
    return status
