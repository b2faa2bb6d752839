"""The form of the words spoken to a shell, here and behind ssh.

A place needs a POSIX ``sh``, btrfs-progs and ``flock``. ssh hands one string to the
login shell there, which may be dash, bash, ash, zsh, fish or tcsh, so it has the form
``exec sh -c 'DECODER' bbng2 VERB +SCRIPT +PRIVILEGE +ARG ...``: the decoder is the
one constant, and all else holds only bytes that mean nothing to any of them. On this
machine the same scripts run with their arguments as they are.

The answer to a verb comes on stdout; the last line on stderr is ``bbng2 STATUS``.
Without that line it is not known how it went.
"""

import functools
import os
import re
from dataclasses import dataclass

#: Second word of every call and first word of the status line; it names the grammar.
MAGIC = "bbng2"

#: Exit statuses of our own (``verbs/common.sh``), most of them from sysexits.h: some
#: files cannot be read; a program is not installed; the name is taken; a (de)compressor
#: failed; busy; sudo does not take the password; a directory is not ours; a snapshot
#: appeared somewhere else.
UNREADABLE, UNAVAILABLE, EXISTS, CODEC_FAILED, BUSY = 66, 69, 73, 74, 75
PASSWORD_REFUSED, NOT_OURS, ASTRAY = 77, 78, 79

_VERBS = os.path.join(os.path.dirname(__file__), "verbs")

#: What a bare byte of an argument may be; ``+`` starts an escape.
_PLAIN = re.compile(rb"[A-Za-z0-9_./:,@-]")

#: Decodes all words behind the verb and runs the first of them as a script. Without
#: anything that fish or tcsh would read inside single quotes (a test holds the rule).
DECODER = (
    "v=$1; shift; n=$#; while [ $n -gt 0 ]; do a=${1#+}x; case $a in *+*)"
    ' a=$(printf %s "$a" | tr + "\\134"); a=$(printf %b "$a");; esac;'
    ' shift; set -- "$@" "${a%x}"; n=$((n-1)); done;'
    ' s=$1; shift; set -- "$v" "$@"; eval "$s"'
)


@dataclass(frozen=True, slots=True)
class Verb:
    """One thing that can be asked of a place.

    :ivar libraries: further files whose functions its script uses.
    """

    name: str
    libraries: tuple[str, ...] = ()

    @property
    def script(self) -> str:
        """Return the text that a shell runs: the functions, and the verb itself."""
        return "".join(map(read_script, ("common", *self.libraries, self.name)))

    def local_argv(self, arguments: tuple[str, ...]) -> tuple[str, ...]:
        """Return the argv that does it on this machine.

        :param arguments: the privilege first.
        """
        return ("sh", "-c", self.script, MAGIC, self.name, *arguments)

    def remote_command(self, arguments: tuple[str, ...], *, keeper: str = "") -> str:
        """Return the one string that means it to any login shell.

        :param arguments: the privilege first.
        :param keeper: token of the session that keeps sudo's password there (verb
            ``keep``): all of the verb is to run as root.
        """
        if keeper:
            words = ("none", keeper, self.script, self.name, *arguments)
            return Verb("elevate").remote_command(words)
        words = (self.script, *arguments)
        encoded = " ".join(encode(word) for word in words)
        return f"exec sh -c '{DECODER}' {MAGIC} {self.name} {encoded}"


@functools.cache
def read_script(name: str) -> str:
    """Read a script of the package, without its comments and indentation."""
    # importlib.resources would cost every start some 20 ms.
    with open(os.path.join(_VERBS, f"{name}.sh"), encoding="utf-8") as file:
        lines = [line.strip() for line in file]
    return "".join(f"{line}\n" for line in lines if line and line[0] != "#")


def encode(argument: str) -> str:
    """Write an argument in bytes that no login shell gives a meaning."""
    raw = argument.encode(errors="surrogateescape")
    return "+" + "".join(
        chr(byte) if _PLAIN.match(bytes((byte,))) else f"+0{byte:03o}" for byte in raw
    )
