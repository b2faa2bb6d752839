"""The form of the commands that a shell runs, here and over ssh.

A place needs a POSIX ``sh``, btrfs-progs and ``flock``. ssh hands one string to the
login shell of the host, which may be dash, bash, ash, zsh, fish or tcsh, so it has the
form ``exec sh -c 'DECODER' MAGIC VERB +SCRIPT +PRIVILEGE +ARG ...``: the decoder is the
one constant, and all else holds only bytes without a meaning in any of them. On this
machine the same scripts run with their arguments as they are.

A session of the verb ``loop`` reads the same as lines, ``NONCE BYTES SCRIPT VERB
+PRIVILEGE +ARG ...``, and runs one verb after the other (``host/control``). SCRIPT then
is a list of the numbers of its pieces, each of which is sent once in a session.

The answer to a verb comes on stdout; it reports on stderr: ``wire/protocol``.
"""

import functools
import re
from collections.abc import Iterable, Sequence

from btrfs_backup_ng.__util__ import read_packaged
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.wire.protocol import MAGIC

#: The exit statuses that ``verbs/common.sh`` describes.
UNREADABLE, UNAVAILABLE, EXISTS, CODEC_FAILED, BUSY = 66, 69, 73, 74, 75
PASSWORD_REFUSED, NOT_OURS, ASTRAY = 77, 78, 79

#: Behind each piece of a script; ``verbs/loop.sh`` splits there.
_END = "\36"
#: In place of the size of its stdin: a verb reads the rest of that of the session.
OPEN = "-"

#: Decodes all words behind the verb. Without anything that fish or tcsh would read
#: inside single quotes (a test holds the rule), as the next two.
DECODE = (
    'verb=$1; shift; slash=$(printf "\\134"); left=$#; while [ $left -gt 0 ]; do'
    " word=${1#+}x; case $word in *+*)"
    ' word=$(IFS=+; set -f; set -- $word; IFS=$slash; printf %b "$*");; esac;'
    ' shift; set -- "$@" "${word%x}"; left=$((left-1)); done'
)
#: Runs the first decoded word as a script.
RUN = 'script=$1; shift; set -- "$verb" "$@"; eval "$script"'
DECODER = f"{DECODE}; {RUN}"
#: The same where the words are decoded already.
RUN_DECODED = f"verb=$1; shift; {RUN}"


class Verb(Value):
    """One command for a place.

    :ivar libraries: further files whose functions its script uses.
    """

    name: str
    libraries: tuple[str, ...] = ()

    @property
    def pieces(self) -> tuple[str, ...]:
        """Return the parts of its script: the functions, and the verb itself."""
        return tuple(map(read_script, ("common", *self.libraries, self.name)))

    @property
    def script(self) -> str:
        """Return the text that a shell runs."""
        return "".join(self.pieces)

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
        encoded = _encoded((self.script, *arguments))
        return f"exec sh -c '{DECODER}' {MAGIC} {self.name} {encoded}"

    def request(
        self,
        arguments: tuple[str, ...],
        *,
        nonce: str,
        numbers: Sequence[int],
        size: str,
    ) -> bytes:
        """Return the line that runs it in a session of the verb ``loop``.

        :param arguments: the privilege first.
        :param numbers: of the pieces of its script, see :func:`remember`.
        :param size: of its stdin, which follows, or :data:`OPEN`.
        """
        script = ",".join(map(str, numbers))
        line = f"{nonce} {size} {script} {self.name} {_encoded(arguments)}\n"
        return line.encode()


def remember(number: int, pieces: Sequence[str]) -> bytes:
    """Return the request that gives pieces of scripts numbers in a session.

    :param number: of the first one.
    """
    text = "".join(f"{piece}{_END}" for piece in pieces)
    raw = text.encode(errors="surrogateescape")
    return b"scripts %d %d\n%s" % (number, len(raw), raw)


@functools.cache
def read_script(name: str) -> str:
    """Read a script of the package, without its comments and indentation."""
    text = read_packaged(__package__, f"verbs/{name}.sh")
    lines = [line.strip() for line in text.splitlines()]
    return "".join(f"{line}\n" for line in lines if line and line[0] != "#")


def _encoded(words: Iterable[str]) -> str:
    return " ".join(map(encode, words))


def encode(argument: str) -> str:
    """Return an argument in bytes without a meaning in any login shell."""
    raw = argument.encode(errors="surrogateescape")
    return "+" + "".join(map(_codes().__getitem__, raw))


@functools.cache
def _codes() -> list[str]:
    """Return how each byte of an argument is written; ``+`` starts an escape."""
    plain = rb"[A-Za-z0-9_./:,@-]"
    return [
        chr(byte) if re.match(plain, bytes((byte,))) else f"+0{byte:03o}"
        for byte in range(256)
    ]
