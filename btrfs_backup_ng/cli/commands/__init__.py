"""The list of verbs: a first word of the command line that is one of them."""

import importlib
from collections.abc import Callable, Sequence

#: Verb -> its module, which is imported when it is called: every run starts faster.
VERBS = {
    "demo": "btrfs_backup_ng.cli.commands.demo",
    "diff": "btrfs_backup_ng.cli.commands.diff",
    "doctor": "btrfs_backup_ng.cli.commands.doctor",
    "list": "btrfs_backup_ng.cli.commands.list",
    "prune": "btrfs_backup_ng.cli.commands.prune.command",
    "restore": "btrfs_backup_ng.cli.commands.restore.command",
    "status": "btrfs_backup_ng.cli.commands.status",
    "verify": "btrfs_backup_ng.cli.commands.verify",
    "versions": "btrfs_backup_ng.cli.commands.versions",
}


def run_verb(verb: str, words: Sequence[str]) -> int:
    """Run a verb with the words behind it and give the exit status."""
    main: Callable[[Sequence[str]], int] = importlib.import_module(VERBS[verb]).main
    return main(words)
