"""Own the form of the words spoken to a shell, here and behind ssh.

A place needs a POSIX ``sh``, btrfs-progs and ``flock``. ssh hands one string to the
login shell there, which may be dash, bash, ash, zsh, fish or tcsh, so it has the form
``exec sh -c 'SCRIPT' bbng1 VERB +ARG +ARG ...``: the script is a constant, and an
argument holds only bytes that mean nothing to any of them. On this machine the same
scripts run with their arguments as they are.

What a verb answers goes to stdout, NUL-separated; the last line on stderr is
``bbng1 STATUS``. Without that line nobody knows how it went.
"""

import re
from dataclasses import dataclass

#: Second word of every call and first word of the status line; it names the grammar.
MAGIC = "bbng1"

#: Exit statuses of ours, from sysexits.h: it cannot be made because it exists; a
#: (de)compressor failed; busy; sudo does not take the password.
EXISTS, CODEC_FAILED, BUSY, PASSWORD_REFUSED = 73, 74, 75, 77

#: What a bare byte of an argument may be; ``+`` starts an escape.
_PLAIN = re.compile(rb"[A-Za-z0-9_./:,@-]")

_PRELUDE = (
    "set -u; umask 077; LC_ALL=C; export LC_ALL;"
    " PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin; export PATH; "
)
_DECODE = (
    "n=$#; while [ $n -gt 0 ]; do a=${1#+}x; case $a in *+*)"
    ' a=$(printf %s "$a" | tr + "\\134"); a=$(printf %b "$a");; esac;'
    ' shift; set -- "$@" "${a%x}"; n=$((n-1)); done; '
)
#: ``e STATUS`` ends with the status line.
END = 'e() { printf "bbng1 %s\\n" "$1" >&2; exit "$1"; }; '
#: ``b`` runs btrfs with the privilege named by the first argument, ``x`` runs
#: anything as it is and, if that fails, with that privilege; ``own`` makes a directory
#: that the user there can work in (another run may make it at the same moment).
_COMMON = END + (
    "shift; m=$1; shift; case $m in"
    ' sudo) p="sudo -n";; doas) p="doas -n";; *) p=;; esac; b="$p btrfs";'
    ' x() { "$@" 2>/dev/null || $p "$@"; };'
    ' own() { [ -d "$1" ] || x mkdir -- "$1" || [ -d "$1" ] || return; [ -w "$1" ] ||'
    ' $p chown "$(id -u)" "$1"; }; '
)


@dataclass(frozen=True, slots=True)
class Verb:
    """One thing that can be asked of a place.

    :ivar body: POSIX shell, one line; without what fish or tcsh would read inside
        single quotes (a test holds the rule).
    """

    name: str
    body: str

    def local_argv(self, arguments: tuple[str, ...]) -> tuple[str, ...]:
        """Give the argv that does it on this machine."""
        script = _PRELUDE + _COMMON + self.body
        return ("sh", "-c", script, MAGIC, self.name, *arguments)

    def remote_command(self, arguments: tuple[str, ...], *, keeper: str = "") -> str:
        """Give the one string that means it to any login shell.

        :param keeper: token of the session that keeps sudo's password there (see
            ``wire.KEEP``): all of the verb is to run as root.
        """
        script = _PRELUDE + _DECODE + _COMMON + self.body
        words = " ".join(encode(argument) for argument in arguments)
        said = f"'{script}' {MAGIC} {self.name} {words}".rstrip()
        if keeper:
            said = f"'{_PRELUDE + _ELEVATE}' {MAGIC} {keeper} {said}"
        return f"exec sh -c {said}"


def encode(argument: str) -> str:
    """Write an argument in bytes that no login shell gives a meaning."""
    raw = argument.encode(errors="surrogateescape")
    return "+" + "".join(
        chr(byte) if _PLAIN.match(bytes((byte,))) else f"+0{byte:03o}" for byte in raw
    )


#: Where a session that keeps a password is asked for it, by its token.
KEEPER = "d=${TMPDIR:-/tmp}/bbng-$1;"
#: TOKEN, SCRIPT, WORDS of its own: run the script as root, by a sudo that wants a
#: password. sudo remembers it for what the same shell starts next and for nothing
#: else, so it is told in every session; never on the session's stdin, where a stream
#: may come. A pipe that is open in both directions blocks nobody who opens it.
_ELEVATE = (
    f"{END}{KEEPER} shift; s=$1; shift; f=$d/$$;"
    ' t=; command -v timeout >/dev/null && t="timeout 30";'
    ' [ -p "$d/ask" ] && mkfifo "$f" && exec 5<>"$f" && echo $$ 1<>"$d/ask" || e 1;'
    ' w=$($t head -n 1 <&5); exec 5>&-; rm -f "$f";'
    ' printf "%s\\n" "$w" | sudo -S -v -p "" || e 77; w=;'
    ' sudo -n sh -c "$s" "$@"; e $?'
)
