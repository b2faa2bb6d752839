"""The versions of this program, and of those it needs."""

import os
import sys
from contextlib import suppress

from btrfs_backup_ng import PROGRAM, __version__
from btrfs_backup_ng.process.child import run
from btrfs_backup_ng.process.command import Command, CommandNotStarted


def version_text(*, detailed: bool) -> str:
    """Return the version, and with ``detailed`` those of Python, kernel, btrfs, ssh."""
    lines = [f"{PROGRAM} {__version__}"]
    if detailed:
        lines.append(f"python {sys.version.split()[0]}")
        lines.append(f"kernel {os.uname().release}")
        lines.append(_first_line("btrfs", "--version"))
        lines.append(_first_line("ssh", "-V"))
    return "\n".join(lines)


def _first_line(*argv: str) -> str:
    with suppress(CommandNotStarted):
        done = run(Command(argv, label=argv[0]), check=False)
        text = done.stdout.decode(errors="replace") + done.stderr  # ssh -V: stderr
        return text.strip().partition("\n")[0]
    return f"{argv[0]} is not installed"
