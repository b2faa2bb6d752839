"""A place at which one verb does something else than it should."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from btrfs_backup_ng.wire.protocol import MAGIC
from tests.support import processes
from tests.support.program import environment

#: A limit on silence is as short as a test says, and the longest answer takes so long.
LIMIT_S, LONGEST_S = 2, 5
_PROGRAM = """
import sys
from btrfs_backup_ng.process import child as process
from btrfs_backup_ng.process import command
from btrfs_backup_ng.sshutil import master
from btrfs_backup_ng.host import ssh as host
command.LEAST_S, command.LONGEST_S = 0, {longest_s}
process.WORDS_AT_MOST = 1 << 26
host.BEATLESS_S, master.LOGIN_S = {least_s}, {least_s}
from btrfs_backup_ng.__main__ import entry
entry()
"""
#: What a verb does instead. It answers nothing that means anything.
PLAYS = {
    "silent": "exec sleep 600",
    "closed": "exec >&-; exec sleep 600",
    "slow": "while :; do printf x; sleep 0.3; done",
    "works": f"while :; do echo {MAGIC} working >&2; sleep 0.3; done",
    "endless": "exec cat /dev/zero",
    "loud": "exec cat /dev/zero >&2",
}


class Stage:
    """A directory with a ``sh`` in it that plays a verb, if one is to be played.

    It stands in front of the ``PATH``, of this machine or of a server.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = f"{directory}:{os.environ['PATH']}"
        self._verb, self._seen = directory / "verb", directory / "seen"
        shell = directory / "sh"
        shell.write_text(f"""\
#!/bin/sh
[ "$1" = -c ] && read -r verb play 2>/dev/null <{self._verb} && [ "$4" = "$verb" ] ||
    exec {shutil.which("sh")} "$@"
: >{self._seen}
. {directory}/$play
""")
        shell.chmod(0o755)
        for name, text in PLAYS.items():
            (directory / name).write_text(f"{text}\n")

    def play(self, verb: str, how: str) -> None:
        """Let a verb do something else from now on."""
        self._seen.unlink(missing_ok=True)
        self._verb.write_text(f"{verb} {how}\n")

    def stop(self) -> None:
        """Let all verbs be what they are, and end what was played."""
        self._verb.unlink(missing_ok=True)
        processes.kill(self.playing())

    def playing(self) -> list[processes.Process]:
        """List what is being played."""
        found = []
        for process in processes.everything():
            words = f"PATH={self.directory}:".encode()
            try:
                inside = Path(f"/proc/{process.pid}/environ").read_bytes()
            except OSError:
                continue
            if words in inside and process.argv[:1] in (("sleep",), ("cat",)):
                found.append(process)
        return found

    @property
    def was_played(self) -> bool:
        """Tell whether the verb was called."""
        return self._seen.exists()


def run_impatient(
    *words: object, path: str = "", longest_s: int = LONGEST_S, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run the program with a limit on silence that is as short as the words say.

    :param longest_s: limit on the time of an answer.
    """
    program = _PROGRAM.format(longest_s=longest_s, least_s=LONGEST_S)
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        env=environment({"PATH": path} if path else {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
