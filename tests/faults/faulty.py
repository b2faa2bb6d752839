"""A btrfs that does something else, once, than it was asked to do."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.support.program import ASKING, GO_ON


def faulty_btrfs(directory: Path, calls: str, action: str) -> dict[str, str]:
    """Put a ``btrfs`` in front of the real one that does something else, once.

    :param calls: shell pattern for its arguments, and " in " its working directory; all
        other calls are real. Ioctls of the program are calls, too (``ASKING``).
    :param action: shell commands.  ``real`` runs the real one, ``kill_program`` ends
        the program that started it, by SIGKILL.
    :returns: changes to the environment.
    """
    wrapper = directory / "faulty" / "btrfs"
    wrapper.parent.mkdir()
    wrapper.write_text(f"""\
#!/bin/sh
set -- {shutil.which("btrfs")} "$@"
real() {{ "$@"; }}
kill_program() {{
    victim=$PPID
    until tr '\\0' ' ' <"/proc/$victim/cmdline" | grep -q btrfs_backup_ng; do
        read -r _ _ _ victim _ <"/proc/$victim/stat" || exit 1
    done
    kill -KILL "$victim"
}}
case "$* in $PWD" in
*{calls}) mkdir {wrapper.parent}/done 2>/dev/null && {{ {action}; exit; }} ;;
esac
{GO_ON}
exec "$@"
""")
    wrapper.chmod(0o755)
    return {**ASKING, "PATH": f"{wrapper.parent}:{os.environ['PATH']}"}


def was_faulty(directory: Path) -> bool:
    """Tell whether the call that :func:`faulty_btrfs` waits for came."""
    return (directory / "faulty" / "done").exists()
