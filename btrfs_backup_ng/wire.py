"""Own the closed set of verbs that a place understands; ``grammar`` has their form."""

from btrfs_backup_ng import wire_files
from btrfs_backup_ng.appraisal import SPACE, TIMES
from btrfs_backup_ng.grammar import KEEPER, Verb
from btrfs_backup_ng.wire_hash import HASH
from btrfs_backup_ng.wire_versions import CONTENT, DIGESTS, LINKS, STATS

#: ``each DIRECTORY`` prints every name in it.
_EACH = (
    'each() { for f in "$1"/* "$1"/.*; do case ${f##*/} in .|..) continue;; esac;'
    ' [ -e "$f" ] || [ -L "$f" ] || continue; printf "%s\\0" "${f##*/}"; done;'
    ' printf "\\0"; }; '
)
#: TOKEN; a password as the only line on stdin: keep it, in memory alone, for the
#: sessions of this connection that ask for it -> ``kept``. Ends with stdin.
KEEP = Verb(
    "keep",
    f'IFS= read -r w || e 1; {KEEPER} mkdir -m 700 -- "$d" && mkfifo "$d/ask" || e 1;'
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
    ' if [ -n "$3" ] && python3 -I -S -c "import sys; sys.exit(sys.version_info<(3,7))"'
    " 2>/dev/null; then f python 1; fi;"
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

#: STATE -> nothing, or if somebody holds its lock, ``1`` and who. It makes nothing, and
#: a shared lock for an instant disturbs no other look.
HELD = Verb(
    "held",
    '[ -d "$1" ] || e 0; if [ -r "$1" ]; then exec 9<"$1"; flock -s -n 9; r=$?;'
    ' else $p test -r "$1" || e 1; $p flock -s -n "$1" true; r=$?; fi;'
    ' case $r in 0) e 0;; 1) printf 1; x cat "$1/holder" 2>/dev/null; e 0;; esac; e 1',
)

#: DIRECTORY, STATE, FILE NAMES -> names, an empty name, then: id and path of the
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
    ' d=$2; shift 2; for f; do f=$d/$f; if [ -e "$f" ] || [ -L "$f" ]; then printf 1;'
    ' [ -f "$f" ] && x cat "$f"; fi; printf "\\0"; done; e 0',
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
#: ended first in front; those of what is between only if they failed, behind a z (the
#: (de)compressor) or a k (checkpoints). What failed for another reason than want of a
#: reader (141) is the cause.
_FIRST = (
    ' [ "$r" = 0 ] || { set -- $r; for q; do case $1,$q in 0,k*|k*,k*) e "${q#k}";;'
    " *,z141) ;; *,z*) set -- z;; esac; done; case ${1:-1} in z*|0)"
    ' echo "ERROR: (de)compressing failed" >&2; e 74;; *) e "${1:-1}";; esac;'
    " }; "
)
#: PROTOCOL, PARENT (or ""), SNAPSHOT, CODEC (see ``codecs``) and, for checkpoints,
#: what ``checkpoints`` wants to know: a send stream on stdout. Protocol ``2c`` is 2
#: with compressed data as it lies on the disk; an ``n`` in front leaves the data out.
SEND = Verb(
    "send",
    "r=$1; a=$2; t=$3; c=$4; d=; shift 4; i=$*; set --;"
    " case $r in n*) d=--no-data; r=${r#n};; esac;"
    " case $r in 2c) set -- --proto 2 --compressed-data;; 2) set -- --proto 2;; esac;"
    ' [ -z "$a" ] || set -- "$@" -p "$a"; set -- "$@" -- "$t";'
    ' case $c in zstd:*) c="zstd -q -c -T2 -${c#*:}";; lz4) c="lz4 -q -c";;'
    ' *) c=; [ -n "$i" ] || { $b send -q $d "$@"; e $?; };; esac;'
    ' s() { $b send -q $d "$@" 3>&-; echo $? >&3; };'
    ' z() { $c 3>&-; z=$?; [ $z = 0 ] || echo "z$z" >&3; };'
    ' exec 4>&1; r=$( { case "$i,$c" in ,*) s "$@" | z;; *,) s "$@" | k;;'
    ' *) s "$@" | k | z;; esac >&4; } 3>&1 ); exec 4>&-;' + _FIRST + "e 0",
)


def send_with_checkpoints(code: str) -> Verb:
    """Give :data:`SEND` with the filter for checkpoints in it, for another machine.

    :param code: Python, packed into one word: ``checkpoints.portable``.
    """
    run = "import base64,sys,zlib;"
    run += "exec(zlib.decompress(base64.b64decode(sys.argv.pop(1))))"
    start = f'k() {{ python3 -I -S -c "{run}" {code} $i 3>&-; k=$?;'
    start += ' [ $k = 0 ] || echo "k$k" >&3; }; '
    return Verb(SEND.name, start + SEND.body)


#: ``flush DIRECTORY`` writes to the disk, every second until stdin ends, what came
#: so far: the disk works while the stream comes, and little is left to do at the end.
_FLUSH = (
    "flush() { if command -v timeout >/dev/null; then"
    ' until timeout 1 cat; do sync -f "$1" 2>/dev/null || break; trim "$1"; done; fi;'
    " cat; }; "
)
#: ``trim DIRECTORY`` deletes what a newer checkpoint replaces: all bodies but the last,
#: all seals but the last two, as the very last may not be finished yet.
_TRIM = (
    'less() { k=$1; shift; while [ $# -gt "$k" ]; do'
    ' $b subvolume delete -- "$1" >/dev/null 2>&1; shift; done; };'
    ' trim() { less 1 "$1"/.body-*; less 2 "$1"/.seal-*; }; '
)
#: STATE, ID, NAME, CODEC, names to be deleted before: receive the stream on stdin into
#: a staging directory of its own, which stays locked meanwhile (by descriptor 9: REAP
#: looks for that) -> names in it, an empty name, what btrfs shows of
#: NAME. The statuses come by descriptor 3, that of the cause first; a line on stderr
#: says that the stream is taken, and what takes time then is the disk.
RECEIVE = Verb(
    "receive",
    _EACH
    + _TRIM
    + _FLUSH
    + 'd=$1/incoming/$2; n=$3; own "$1/incoming" && own "$d" || e 1;'
    ' exec 9<"$d"; flock -n 9 || { sleep 1; flock -n 9; } || e 75;'
    ' case $4 in zstd*) z="zstd -q -dc";; lz4) z="lz4 -q -dc";; *) z=;; esac; shift 4;'
    ' for f; do $b subvolume delete -- "$d/$f" >/dev/null || e 1; done;'
    ' q() { { $b receive -C -q -- "$d" >&4 3>&-; echo $? >&3;'
    ' echo "bbng1 received" >&2; } | flush "$d"; };'
    ' exec 4>&1; r=$( { if [ -z "$z" ]; then q; else'
    ' { $z 3>&-; k=$?; [ $k = 0 ] || echo "z$k" >&3; } | q; fi; } 3>&1 ); exec 4>&-;'
    + _FIRST
    + 'each "$d"; $b subvolume show -- "$d/$n"; e $?',
)

#: STATE, ID, NAME, DIRECTORY, TARGET, CHECK (1 or 0), other names: make what was
#: received appear under its final name, durably, and delete the others in staging
#: -> what btrfs shows of it then.
PUBLISH = Verb(
    "publish",
    'f=$1/incoming/$2/$3; t=$4/$5; if [ -e "$t" ] || [ -L "$t" ]; then e 73; fi;'
    ' $b subvolume snapshot -r -- "$f" "$t" >/dev/null || e 1;'
    ' if [ "$6" = 1 ]; then $b subvolume show -- "$t" || e 1; fi; d=$1/incoming/$2;'
    ' shift 6; for n; do shift; set -- "$@" "$d/$n"; done;'
    ' $b subvolume delete -c -- "$f" "$@" >/dev/null; r=$?;'
    ' x rmdir -- "$d" 2>/dev/null; e $r',
)

#: STATE, WHICH (``all`` or ``unsealed``: those that cannot go on), ID ...: drop what
#: unfinished transfers left; not one that still runs -> the ids that still run.
DISCARD = Verb(
    "discard",
    's=$1; w=$2; shift 2; r=0; own "$s/incoming" || e 1;'
    ' sealed() { [ "$w" = unsealed ] && set -- "$1"/.seal-* && [ -e "$1" ]; };'
    " for i; do d=$s/incoming/$i;"
    ' [ -d "$d" ] || continue; own "$d" || e 1; sealed "$d" && continue; exec 9<"$d";'
    ' flock -n 9 || { printf "%s\\0" "$i"; continue; };'
    ' for f in "$d"/* "$d"/.*; do case ${f##*/} in .|..) continue;; esac;'
    ' if [ -L "$f" ]; then x rm -f -- "$f" || r=1; continue; fi;'
    ' [ -e "$f" ] || continue; if [ "$(stat -c %i "$f")" = 256 ]; then'
    ' $b subvolume delete -c -- "$f" >/dev/null || r=1;'
    ' else x rm -rf -- "$f" || r=1; fi; done;'
    ' x rmdir -- "$d" || r=1; done; e $r',
)

#: STATE, ID, NAME: end whatever still receives into a staging directory, from before a
#: cut -> names in it, an empty name; of NAME and each seal: name, what btrfs shows of
#: it. Nothing if there is no such directory.
REAP = Verb(
    "reap",
    _EACH + 'd=$1/incoming/$2; n=$3; [ -d "$d" ] || e 0; own "$d" || e 1; exec 8<"$d";'
    " i=0; until flock -n 8; do [ $i -lt 50 ] || e 75; i=$((i+1));"
    ' for q in /proc/[0-9]*; do [ "$q/fd/9" -ef "$d" ] || continue;'
    ' s=$(cat "$q/stat" 2>/dev/null) || continue; set -- ${s##*) };'
    ' kill -s KILL -- "-$3" 2>/dev/null; done; sleep 0.1 2>/dev/null || sleep 1; done;'
    ' each "$d"; for f in "$d/$n" "$d"/.seal-*; do'
    ' case $(stat -c %i "$f" 2>/dev/null) in 256) ;; *) continue;; esac;'
    ' printf "%s\\0" "${f##*/}"; $b subvolume show -- "$f"; printf "\\0"; done; e 0',
)

#: STATE, ID ... -> of each that is there: id, 1 if somebody works on it, names in it,
#: an empty name. Changes nothing.
WAITING = Verb(
    "waiting",
    _EACH + 's=$1; shift; for i; do d=$s/incoming/$i; [ -d "$d" ] && [ -r "$d" ] &&'
    ' exec 7<"$d" || continue; flock -n -s 7 && k=0 || k=1; exec 7<&-;'
    ' printf "%s\\0%s\\0" "$i" $k; each "$d"; done; e 0',
)

#: SOURCE, STATE, ID, NAME: make the snapshot that a run would make, in staging
#: -> ``ready``; delete it when stdin ends, or we are told to end. Nothing shows then
#: that it was there, not even a time.
REHEARSE = Verb(
    "rehearse",
    'm=$(mktemp) && touch -r "$2" "$m" || e 1; trap : HUP INT TERM;'
    ' q=$2/incoming; d=$q/$3; t=$d/$4; own "$q" && own "$d" || e 1; exec 9<"$d";'
    ' flock -n 9 || e 75; $b subvolume snapshot -r -- "$1" "$t" >/dev/null || e 1;'
    ' echo ready; cat >/dev/null; $b subvolume delete -- "$t" >/dev/null; r=$?;'
    ' x rmdir -- "$d"; rmdir "$q" 2>/dev/null; x touch -r "$m" "$2"; rm -f "$m"; e $r',
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
    HELD,
    LIST,
    TIMES,
    SPACE,
    ITEMS,
    PUT,
    ASIDE,
    SNAPSHOT,
    SEND,
    RECEIVE,
    PUBLISH,
    DISCARD,
    REAP,
    WAITING,
    REHEARSE,
    DELETE,
    UNSEAL,
    SYNC,
    SIZE,
    SINK,
    WAIT,
    HASH,
    STATS,
    DIGESTS,
    LINKS,
    CONTENT,
    *wire_files.VERBS,
)
