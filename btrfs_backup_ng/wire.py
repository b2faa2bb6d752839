"""Own the words spoken to a shell: one form, a closed set of verbs.

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
_END = 'e() { printf "bbng1 %s\\n" "$1" >&2; exit "$1"; }; '
#: ``b`` runs btrfs with the privilege named by the first argument, ``x`` runs
#: anything as it is and, if that fails, with that privilege; ``own`` makes a directory
#: that the user there can work in (another run may make it at the same moment).
_COMMON = _END + (
    "shift; m=$1; shift; case $m in"
    ' sudo) p="sudo -n";; doas) p="doas -n";; *) p=;; esac; b="$p btrfs";'
    ' x() { "$@" 2>/dev/null || $p "$@"; };'
    ' own() { [ -d "$1" ] || x mkdir -- "$1" || [ -d "$1" ] || return; [ -w "$1" ] ||'
    ' $p chown "$(id -u)" "$1"; }; '
)
#: ``each DIRECTORY`` prints every name in it.
_EACH = (
    'each() { for f in "$1"/* "$1"/.*; do case ${f##*/} in .|..) continue;; esac;'
    ' [ -e "$f" ] || [ -L "$f" ] || continue; printf "%s\\0" "${f##*/}"; done;'
    ' printf "\\0"; }; '
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
            :data:`KEEP`): all of the verb is to run as root.
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
_KEEPER = "d=${TMPDIR:-/tmp}/bbng-$1;"
#: TOKEN, SCRIPT, WORDS of its own: run the script as root, by a sudo that wants a
#: password. sudo remembers it for what the same shell starts next and for nothing
#: else, so it is told in every session; never on the session's stdin, where a stream
#: may come. A pipe that is open in both directions blocks nobody who opens it.
_ELEVATE = (
    f"{_END}{_KEEPER} shift; s=$1; shift; f=$d/$$;"
    ' t=; command -v timeout >/dev/null && t="timeout 30";'
    ' [ -p "$d/ask" ] && mkfifo "$f" && exec 5<>"$f" && echo $$ 1<>"$d/ask" || e 1;'
    ' w=$($t head -n 1 <&5); exec 5>&-; rm -f "$f";'
    ' printf "%s\\n" "$w" | sudo -S -v -p "" || e 77; w=;'
    ' sudo -n sh -c "$s" "$@"; e $?'
)
#: TOKEN; a password as the only line on stdin: keep it, in memory alone, for the
#: sessions of this connection that ask for it -> ``kept``. Ends with stdin.
KEEP = Verb(
    "keep",
    f'IFS= read -r w || e 1; {_KEEPER} mkdir -m 700 -- "$d" && mkfifo "$d/ask" || e 1;'
    ' exec 3<>"$d/ask" 6<&0; { cat <&6 >/dev/null; rm -rf -- "$d"; kill $$; } &'
    ' echo kept; while IFS= read -r i <&3; do [ -p "$d/$i" ] &&'
    ' printf "%s\\n" "$w" 1<>"$d/$i"; done; e 0',
)

#: Where sudo looks for a command, however PATH is: secure_path of Debian and Fedora,
#: sudoers(5). What it finds is what a rule has to name.
_SECURE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: NONCE, DIRECTORY, SNAPSHOT FOLDER (may not exist; "" if none) -> facts, NUL-separated
#: ``key=value``. The privilege word may be ``auto``: find out.
HELLO = Verb(
    "hello",
    'f() { printf "%s=%s\\0" "$1" "$2"; }; printf "%s\\0" "$1"; u=$(id -u); f uid "$u";'
    ' try() { t=$("$@" -n btrfs --version 2>&1) && v=$t || { w="$w$t "; false; }; };'
    " v=; w=;"
    ' case $m in auto) if [ "$u" = 0 ]; then m=root; elif try sudo; then m=sudo;'
    " elif try doas; then m=doas; else m=none; fi;;"
    " sudo|doas) try $m || m=none;; esac;"
    ' case $m in sudo|doas) p="$m -n";; *) p=; v=$(btrfs --version 2>/dev/null);; esac;'
    ' b="$p btrfs"; f privilege "$m"; f why "$w"; f btrfs "$v";'
    ' f user "$(id -un)"; f program "$(command -v btrfs)";'
    f' f granted "$(PATH={_SECURE_PATH}:$PATH; command -v btrfs)";'
    ' f flock "$(command -v flock)"; f aes "$(grep -cw aes /proc/cpuinfo)";'
    ' f sudo "$(command -v sudo)"; f doas "$(command -v doas)";'
    ' f zstd "$(command -v zstd)";'
    ' f lz4 "$(command -v lz4)"; f clock "$(date +%s)";'
    ' f protocol "$(cat /sys/fs/btrfs/features/send_stream_version 2>/dev/null)";'
    ' d=$2; if [ -e "$d" ] || [ -L "$d" ]; then f exists 1; fi;'
    ' cd -P -- "$d" 2>/dev/null || e 0; f directory 1;'
    ' s=$3; [ -z "$s" ] || $b filesystem sync . >/dev/null 2>&1;'
    ' f stat "$(stat -f -c "%t %i %S %b %f %a" . 2>/dev/null)";'
    ' f where "$PWD"; f mounts "$(cat /proc/self/mountinfo)";'
    ' f root "$(stat -f -c %i / 2>/dev/null)";'
    ' k=1; for g in * .*; do case $g in .|..) ;; *) [ -e "$g" ] || [ -L "$g" ] && k=;;'
    ' esac; done; f empty "$k";'
    " if [ -w . ] || $p test -w . 2>/dev/null; then f writable 1; fi;"
    " l=.btrfs-backup-ng; [ -w $l ] && f state 1;"
    ' f leftovers "$(ls $l/incoming 2>/dev/null || $p ls $l/incoming 2>/dev/null)";'
    ' if [ -n "$s" ]; then if [ -d "$s" ] || $p test -d "$s" 2>/dev/null; then'
    " f hasfolder 1; fi;"
    ' while [ -n "$s" ]; do [ -d "$s" ] && break; s=${s%/*}; done;'
    ' f folder "$(stat -f -c %i -- "${s:-/}" 2>/dev/null)"; fi;'
    " i=$(stat -c %i . 2>/dev/null);"
    ' if [ "$i" = 256 ]; then f show "$($b subvolume show . 2>/dev/null)";'
    " j=$($b inspect-internal rootid . 2>/dev/null);"
    ' f path "$($b inspect-internal subvolid-resolve "$j" . 2>/dev/null; printf x)";'
    ' if [ -n "$3" ]; then f nested "$($b subvolume list -o . 2>/dev/null; printf x)";'
    ' f nestedback "$($b subvolume list -o --sort=-rootid . 2>/dev/null; printf x)";'
    " fi; fi;"
    ' q=$PWD; until [ -z "$q" ] || [ "$(stat -c %i "$q/." 2>/dev/null)" = 256 ];'
    ' do q=${q%/*}; done; f containing "${q:-/}"; e 0',
)

#: ``ready STATE KIND FOLDER`` makes the directory of our bookkeeping (KIND is
#: subvolume or directory) and a snapshot folder ("" if none), and lets the user there
#: work in them, if they are root's.
_READY = (
    'ready() { case $2 in subvolume) [ -d "$1" ] ||'
    ' btrfs subvolume create -- "$1" >/dev/null 2>&1 ||'
    ' $b subvolume create -- "$1" >/dev/null || [ -d "$1" ] || return 1;; esac;'
    ' own "$1" || return 1;'
    ' [ -z "$3" ] || { x mkdir -p -- "${3%/*}" && own "$3"; }; }; '
)
#: STATE, KIND, FOLDER: make them ready.
PREPARE = Verb("prepare", _READY + 'ready "$@"; e $?')

#: STATE, SECONDS TO WAIT, WHO and, if they are to be made ready, KIND, FOLDER ->
#: ``locked``, or ``busy`` and who has it. Holds the
#: lock until stdin ends or nothing came on it for 30 s: after a cut the other end may
#: never learn of it. A line on stdin replaces what is known about the holder. Each
#: one changes ``beat``: who finds the lock held by another machine waits for that,
#: and if it does not come, for the end of the lock.
LOCK = Verb(
    "lock",
    _READY
    + '[ $# -lt 5 ] || ready "$1" "$4" "$5" || e 1; [ -d "$1" ] && [ -r "$1" ] || e 1;'
    ' exec 9<"$1"; w=$2; h=$1/holder;'
    " g=$1/beat; x=225; o=;"
    ' until flock -n 9; do if [ "$w" -le 0 ]; then b=$(cat "$g" 2>/dev/null);'
    ' o=${o:-$b}; [ -n "$b" ] && [ "$b" = "$o" ] && [ $x -gt 0 ] ||'
    ' { echo busy; cat "$h" 2>/dev/null; e 75; }; x=$((x-1));'
    " sleep 0.2 2>/dev/null || sleep 1; else sleep 1; w=$((w-1)); fi; done;"
    ' l=$3; i=0; t=; command -v timeout >/dev/null && t="timeout 30";'
    ' n() { i=$((i+1)); printf %s "$l" 2>/dev/null >"$h";'
    ' echo "$$ $i" 2>/dev/null >"$g"; }; n; echo locked;'
    ' while l=$($t head -n 1); [ -n "$l" ]; do n; done; rm -f "$g"; e 0',
)

#: DIRECTORY, STATE, FILE NAME -> names, an empty name, then: id and path of the
#: containing subvolume, the directory in it, its read-only subvolumes, the received
#: UUIDs of the whole filesystem (both lists in two orders), that file of our
#: bookkeeping (``1`` and its content, if it is there).
LIST = Verb(
    "list",
    _EACH + 'cd -P -- "$1" || e 1; each .; i=$($b inspect-internal rootid .) || e 1;'
    ' printf "%s\\0" "$i"; $b inspect-internal subvolid-resolve "$i" . || e 1;'
    ' printf "\\0"; j=$(stat -c %i .); [ "$j" = 256 ] ||'
    ' $b inspect-internal inode-resolve "$j" . || e 1; printf "\\0";'
    " for o in rootid -rootid; do"
    ' $b subvolume list -o -r -uqRcg --sort=$o . || e 1; printf "\\0"; done;'
    " for o in rootid -rootid; do"
    ' $b subvolume list -R --sort=$o . || e 1; printf "\\0"; done;'
    ' if [ -e "$2/$3" ] || [ -L "$2/$3" ]; then printf 1;'
    ' [ -f "$2/$3" ] && x cat "$2/$3"; fi;'
    " e 0",
)

#: DIRECTORY, SUBVOLUME ID ... -> their entries in the root tree, the only place from
#: which a command tells ``ctransid``; nothing if the device cannot be read. The
#: first line of ``device stats`` is ``[/dev/sda1].write_io_errs  0``.
ITEMS = Verb(
    "items",
    'cd -P -- "$1" || e 1; shift; $b filesystem sync . >/dev/null || e 1; s=;'
    ' for i; do s="$s /key ($i ROOT_ITEM/,/ctransid/p;"; done;'
    ' v=$($b device stats . | sed -n "1s/].*//p");'
    ' $b inspect-internal dump-tree -t root "${v#?}" 2>/dev/null | sed -n "$s"; e 0',
)

#: STATE, FILE NAME; content on stdin: replace a small file atomically and durably.
PUT = Verb(
    "put",
    'f=$1/$2; if [ -w "$1" ]; then q=; else q=$p; fi;'
    ' $q dd of="$f.new" conv=fsync 2>/dev/null && $q mv -f -- "$f.new" "$f" || e 1;'
    ' $b filesystem sync "$1" >/dev/null; e $?',
)

#: STATE, FILE NAME, NEW NAME: move a file of our bookkeeping aside.
ASIDE = Verb("aside", 'x mv -f -- "$1/$2" "$1/$3"; e $?')

#: SOURCE, FOLDER, NAME, STATE, IDENTITY (keep or fresh), ID: take a read-only
#: snapshot. A fresh identity drops the received UUID that a restored source still
#: carries: a writable snapshot loses it, and the read-only one of that has none.
#: -> what btrfs shows of it.
SNAPSHOT = Verb(
    "snapshot",
    "t=$2/$3;"
    ' if [ -e "$t" ] || [ -L "$t" ]; then e 73; fi;'
    ' if [ "$5" = keep ]; then $b subvolume snapshot -r -- "$1" "$t" >/dev/null || e 1;'
    ' else c=$4/incoming/$6; own "$4/incoming" && own "$c" || e 1;'
    ' $b subvolume snapshot -- "$1" "$c/$3" >/dev/null &&'
    ' $b property set -ts "$c/$3" ro true &&'
    ' $b subvolume snapshot -r -- "$c/$3" "$t" >/dev/null &&'
    ' $b subvolume delete -c -- "$c/$3" >/dev/null && x rmdir -- "$c" || e 1; fi;'
    ' $b subvolume show -- "$t"; e $?',
)

#: Goes on if ``$r`` is 0. It holds the statuses of the two ends of a pipe, the one that
#: ended first in front; that of the (de)compressor only if it failed, behind a z.
_FIRST = (
    ' [ "$r" = 0 ] || { set -- $r; case ${1:-1} in z*|0)'
    ' echo "ERROR: (de)compressing failed" >&2; e 74;; *) e "${1:-1}";; esac;'
    " }; "
)
#: PROTOCOL, PARENT (or ""), SNAPSHOT, CODEC (see ``codecs``): a send stream on
#: stdout. Protocol ``2c`` is 2 with compressed data as it lies on the disk; an ``n``
#: before the number leaves all data out.
SEND = Verb(
    "send",
    "r=$1; a=$2; t=$3; c=$4; set --;"
    " case $r in n*) set -- --no-data; r=${r#n};; esac;"
    ' case $r in 2c) set -- "$@" --proto 2 --compressed-data;;'
    ' 2) set -- "$@" --proto 2;; esac;'
    ' [ -z "$a" ] || set -- "$@" -p "$a"; set -- "$@" -- "$t";'
    ' case $c in zstd:*) c="zstd -q -c -T2 -${c#*:}";; lz4) c="lz4 -q -c";;'
    ' *) $b send -q "$@"; e $?;; esac;'
    ' exec 4>&1; r=$( { { $b send -q "$@" 3>&-; echo $? >&3; } |'
    ' { $c >&4 3>&-; z=$?; [ $z = 0 ] || echo "z$z" >&3; }; } 3>&1 ); exec 4>&-;'
    + _FIRST
    + "e 0",
)

#: ``flush DIRECTORY`` writes to the disk, every second until stdin ends, what came
#: so far: the disk works while the stream comes, and little is left to do at the end.
_FLUSH = (
    "flush() { if command -v timeout >/dev/null; then"
    ' until timeout 1 cat; do sync -f "$1" 2>/dev/null || break; done; fi; cat; }; '
)
#: STATE, ID, NAME, CODEC: receive the stream on stdin into a staging directory of its
#: own, which stays locked meanwhile -> names in it, an empty name, what btrfs shows of
#: it. The statuses come by descriptor 3, that of the cause first; a line on stderr
#: says that the stream is taken, and what takes time then is the disk.
RECEIVE = Verb(
    "receive",
    _EACH + _FLUSH + 'd=$1/incoming/$2; n=$3; own "$1/incoming" && own "$d" || e 1;'
    ' exec 9<"$d"; flock -n 9 || e 75; case $4 in zstd*) z="zstd -q -dc";;'
    ' lz4) z="lz4 -q -dc";; *) z=;; esac;'
    ' q() { { $b receive -C -q -- "$d" >&4 3>&-; echo $? >&3;'
    ' echo "bbng1 received" >&2; } | flush "$d"; };'
    ' exec 4>&1; r=$( { if [ -z "$z" ]; then q; else'
    ' { $z 3>&-; k=$?; [ $k = 0 ] || echo "z$k" >&3; } | q; fi; } 3>&1 ); exec 4>&-;'
    + _FIRST
    + 'each "$d"; $b subvolume show -- "$d/$n"; e $?',
)

#: STATE, ID, NAME, DIRECTORY, TARGET, CHECK (1 or 0): make what was received appear
#: under its final name, durably -> what btrfs shows of it then.
PUBLISH = Verb(
    "publish",
    'f=$1/incoming/$2/$3; t=$4/$5; if [ -e "$t" ] || [ -L "$t" ]; then e 73; fi;'
    ' $b subvolume snapshot -r -- "$f" "$t" >/dev/null || e 1;'
    ' if [ "$6" = 1 ]; then $b subvolume show -- "$t" || e 1; fi;'
    ' $b subvolume delete -c -- "$f" >/dev/null && x rmdir -- "$1/incoming/$2"; e $?',
)

#: STATE, ID ...: drop what unfinished transfers left; not one that still runs.
#: -> the ids that still run.
DISCARD = Verb(
    "discard",
    's=$1; shift; r=0; own "$s/incoming" || e 1; for i; do d=$s/incoming/$i;'
    ' [ -d "$d" ] || continue; own "$d" || e 1; exec 9<"$d";'
    ' flock -n 9 || { printf "%s\\0" "$i"; continue; };'
    ' for f in "$d"/* "$d"/.*; do case ${f##*/} in .|..) continue;; esac;'
    ' if [ -L "$f" ]; then x rm -f -- "$f" || r=1; continue; fi;'
    ' [ -e "$f" ] || continue; if [ "$(stat -c %i "$f")" = 256 ]; then'
    ' $b subvolume delete -c -- "$f" >/dev/null || r=1;'
    ' else x rm -rf -- "$f" || r=1; fi; done;'
    ' x rmdir -- "$d" || r=1; done; e $r',
)

#: DIRECTORY; names on stdin, each as ``./NAME`` NUL: delete these subvolumes.
DELETE = Verb(
    "delete",
    'cd -P -- "$1" || e 1; xargs -0 $b subvolume delete -c -- >/dev/null; e $?',
)

#: DIRECTORY, NAME ...: make these subvolumes writable.
UNSEAL = Verb(
    "unseal",
    'd=$1; shift; r=0; for n; do $b property set -f -ts "$d/$n" ro false'
    " || r=1; done; e $r",
)

#: DIRECTORY: wait until deleted subvolumes are gone and their space is free.
SYNC = Verb("sync", '$b subvolume sync -- "$1" >/dev/null; e $?')

#: SUBVOLUME, GENERATION: the extents written since, one a line.
SIZE = Verb("size", '$b subvolume find-new -- "$1" "$2"; e $?')

#: Take whatever comes, to see how fast it does.
SINK = Verb("sink", "cat >/dev/null; e $?")

#: -> ``ready``. Keeps a session open until stdin ends.
WAIT = Verb("wait", "echo ready; cat >/dev/null; e 0")

VERBS = (
    HELLO,
    KEEP,
    PREPARE,
    LOCK,
    LIST,
    ITEMS,
    PUT,
    ASIDE,
    SNAPSHOT,
    SEND,
    RECEIVE,
    PUBLISH,
    DISCARD,
    DELETE,
    UNSEAL,
    SYNC,
    SIZE,
    SINK,
    WAIT,
)
