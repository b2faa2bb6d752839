"""Own the list of verbs: a first word of the command line that is one of them."""

from collections.abc import Callable, Sequence

import btrfs_backup_ng.cli.commands.demo as demo

#: Verb -> what runs it with the words behind it, and gives the exit status.
VERBS: dict[str, Callable[[Sequence[str]], int]] = {"demo": demo.main}
