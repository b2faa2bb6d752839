"""The form of the commands that a shell runs, here and over ssh.

A place needs a POSIX ``sh``, btrfs-progs and ``flock``. ssh hands one string to the
login shell of the host, which may be dash, bash, ash, zsh, fish or tcsh, so it has the
form ``exec sh -c 'DECODER' MAGIC VERB +SCRIPT +PRIVILEGE +ARG ...``: the decoder is the
one constant, and all else holds only bytes without a meaning in any of them. On this
machine the same scripts run with their arguments as they are.

The answer to a verb comes on stdout; it reports on stderr: ``wire/protocol``.
"""

import functools
import re

from btrfs_backup_ng.__util__ import read_packaged
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.wire.protocol import MAGIC

#: The exit statuses that ``verbs/common.sh`` describes.
UNREADABLE, UNAVAILABLE, EXISTS, CODEC_FAILED, BUSY = 66, 69, 73, 74, 75
PASSWORD_REFUSED, NOT_OURS, ASTRAY = 77, 78, 79

#: How each byte of an argument is written; ``+`` starts an escape.
_ENCODED = [
    chr(byte) if re.match(rb"[A-Za-z0-9_./:,@-]", bytes((byte,))) else f"+0{byte:03o}"
    for byte in range(256)
]

#: Decodes all words behind the verb and runs the first of them as a script. Without
#: anything that fish or tcsh would read inside single quotes (a test holds the rule).
DECODER = (
    "verb=$1; shift; left=$#; while [ $left -gt 0 ]; do word=${1#+}x; case $word in"
    ' *+*) word=$(printf %s "$word" | tr + "\\134"); word=$(printf %b "$word");; esac;'
    ' shift; set -- "$@" "${word%x}"; left=$((left-1)); done;'
    ' script=$1; shift; set -- "$verb" "$@"; eval "$script"'
)


class Verb(Value):
    """One command for a place.

    :ivar libraries: further files whose functions its script uses.
    """

    name: str
    libraries: tuple[str, ...] = ()

    @property
    def script(self) -> str:
        """Return the text that a shell runs: the functions, and the verb itself."""
        return "".join(map(read_script, ("common", *self.libraries, self.name)))

    def local_argv(self, arguments: tuple[str, ...]) -> tuple[str, ...]:
        """Return the argv for this machine.

        :param arguments: the privilege first.
        """
        return ("sh", "-c", self.script, MAGIC, self.name, *arguments)

    def remote_command(self, arguments: tuple[str, ...], *, token: str = "") -> str:
        """Return the one string for any login shell.

        :param arguments: the privilege first.
        :param token: of the session that keeps sudo's password (verb ``keep``): the
            whole verb runs as root.
        """
        if token:
            words = ("none", token, self.script, self.name, *arguments)
            return Verb("elevate").remote_command(words)
        words = (self.script, *arguments)
        encoded = " ".join(encode(word) for word in words)
        return f"exec sh -c '{DECODER}' {MAGIC} {self.name} {encoded}"


@functools.cache
def read_script(name: str) -> str:
    """Read a script of the package, without its comments and indentation."""
    text = read_packaged(__package__, f"verbs/{name}.sh")
    lines = [line.strip() for line in text.splitlines()]
    return "".join(f"{line}\n" for line in lines if line and line[0] != "#")


def encode(argument: str) -> str:
    """Return an argument in bytes without a meaning in any login shell."""
    raw = argument.encode(errors="surrogateescape")
    return "+" + "".join(map(_ENCODED.__getitem__, raw))
