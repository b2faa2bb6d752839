"""Own the verbs of a restore: what a place does beyond taking a stream."""

from btrfs_backup_ng.grammar import Verb

#: As ``wire.PUBLISH``: STATE, ID, NAME, DIRECTORY, TARGET, CHECK (1 or 0), other names:
#: make what was received appear as a writable subvolume under its final name, and in
#: that a read-only snapshot, as the next backup of it needs one; delete the others in
#: staging -> what btrfs shows of the snapshot. What stands in a snapshot for a nested
#: subvolume is an empty directory, and in the way.
WRITABLE = Verb(
    "writable",
    'f=$1/incoming/$2/$3; n=$3; t=$4/$5; if [ -e "$t" ] || [ -L "$t" ]; then e 73; fi;'
    ' $b subvolume snapshot -- "$f" "$t" >/dev/null || e 1; q=$t/.btrfs-backup-ng;'
    ' x rmdir -- "$q" 2>/dev/null; [ -d "$q" ] ||'
    ' $b subvolume create -- "$q" >/dev/null || e 1; s=$q/snapshots;'
    ' [ -d "$s" ] || x mkdir -- "$s" 2>/dev/null ||'
    ' $b subvolume create -- "$s" >/dev/null || e 1;'
    ' x rmdir -- "$s/$n" 2>/dev/null;'
    ' $b subvolume snapshot -r -- "$f" "$s/$n" >/dev/null || e 1;'
    ' x touch -r "$f" -- "$t" 2>/dev/null;'
    ' if [ "$6" = 1 ]; then $b subvolume show -- "$s/$n" || e 1; fi; d=$1/incoming/$2;'
    ' shift 6; for i; do shift; set -- "$@" "$d/$i"; done;'
    ' $b subvolume delete -c -- "$f" "$@" >/dev/null; r=$?;'
    ' x rmdir -- "$d" 2>/dev/null; e $r',
)

#: STATE: take away the bookkeeping of a place that keeps nothing, if nothing is in it.
TIDY = Verb(
    "tidy",
    'x rmdir -- "$1/incoming" 2>/dev/null; for f in "$1"/* "$1"/.*; do'
    " case ${f##*/} in .|..|holder|beat) continue;; esac;"
    ' [ -e "$f" ] || [ -L "$f" ] || continue; e 0; done;'
    ' x rm -f -- "$1/holder" "$1/beat"; x rmdir -- "$1"; e $?',
)

#: NEW, OLD -> both as they are without symbolic links (an x behind each), ``1`` if OLD
#: exists, the mounts, the command line of the kernel, fstab, the default subvolume
#: where OLD is.
AROUND = Verb(
    "around",
    'k() { printf "%s\\0" "$1"; }; k "$(readlink -f -- "$1"; printf x)";'
    ' k "$(readlink -f -- "$2"; printf x)"; if [ -e "$2" ] || [ -L "$2" ]; then k 1;'
    ' else k ""; fi; k "$(cat /proc/self/mountinfo)";'
    ' k "$(cat /proc/cmdline 2>/dev/null)"; k "$(cat /etc/fstab 2>/dev/null)";'
    ' k "$($b subvolume get-default "$2" 2>/dev/null)"; e 0',
)

#: ``q`` in front of a command gives it root's rights, where they go beyond btrfs.
_ALL = 'q=$p; [ -z "$p" ] || $p true 2>/dev/null || q=; '

#: DIRECTORY; paths on stdin, each as ``./PATH`` NUL -> of each that is there: mode
#: (hexadecimal), device and path, NUL. On stderr what kept it from looking.
STAT = Verb(
    "stat",
    _ALL + 'cd -P -- "$1" || e 1; { $q xargs -0 stat --printf "%f %d %n\\0" -- 2>&1 >&3'
    ' | sed "/: No such file or directory$/d; /: Not a directory$/d" >&2; } 3>&1; e 0',
)

#: DIRECTORY; paths on stdin as above -> what they take on the disk in bytes,
#: each a number, a tab, the path, NUL; behind them the total.
SIZES = Verb(
    "sizes",
    _ALL + 'cd -P -- "$1" || e 1; $q du -s -c -0 -B1 --files0-from=-; e $?',
)

#: -> the version of tar.
TAR = Verb("tar", "tar --version; e 0")

#: DIRECTORY, NAME: make a private directory in it.
STAGE = Verb("stage", _ALL + '$q mkdir -m 700 -- "$1/$2"; e $?')

#: SNAPSHOT, STAGE, paths: copy them with the directories above them, sharing data.
COPY = Verb(
    "copy",
    's=$2; cd -P -- "$1" || e 1; shift 2; cp -dR --parents --reflink=auto'
    ' --preserve=mode,ownership,timestamps,links,xattr -t "$s" -- "$@" || e 1;'
    ' sync -f "$s"; e $?',
)

#: What tar keeps beyond the usual.
_KEPT = '--xattrs "--xattrs-include=*" --acls --numeric-owner'
#: SNAPSHOT, BYTES; on stdin paths of directories, so many bytes, and then what is
#: wanted: the directories alone and the rest whole, as an archive of GNU tar.
PACK = Verb(
    "pack",
    _ALL + 'cd -P -- "$1" || e 1; f=$(mktemp) && head -c "$2" >"$f" || e 1;'
    f" $q tar -c -f - --format=posix {_KEPT} --sparse --null --no-recursion"
    ' -T "$f" --recursion -T -; r=$?; rm -f "$f"; e $r',
)

#: STAGE: unpack an archive there, and write it to the disk. tar lets no name leave that
#: directory, neither by ``..`` nor through a symbolic link.
UNPACK = Verb(
    "unpack",
    f'{_ALL}$q tar -x -f - -C "$1" -p --same-owner {_KEPT} --warning=no-timestamp'
    ' --delay-directory-restore || e 1; cat >/dev/null; $q sync -f "$1"; e $?',
)

#: DIRECTORY; absolute paths on stdin, NUL: move them there; what exists stays.
PLACE = Verb("place", _ALL + '$q xargs -0 mv -n -t "$1" --; e $?')

#: STAGE, DIRECTORY: remove a directory of STAGE; write the other one to the disk.
CLEAR = Verb(
    "clear",
    _ALL + 'case ${1##*/} in .restoring-*) $q rm -rf -- "$1" || e 1;; *) e 1;; esac;'
    ' $q sync -f "$2"; e $?',
)

VERBS = (
    WRITABLE,
    TIDY,
    AROUND,
    STAT,
    SIZES,
    TAR,
    STAGE,
    COPY,
    PACK,
    UNPACK,
    PLACE,
    CLEAR,
)
