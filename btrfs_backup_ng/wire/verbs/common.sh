# Functions that all verbs share. This text runs in front of each of them.
#
# In a path TOP//a/b, TOP is a path that the user chose, where links are followed; a and b are entered one at a time,
# and neither may be a link. The program's own directories must belong to its user, and no other user may write to them.
# Once a directory is entered, only names in it are used, since the owner of a directory above may exchange any part of
# a path at any moment.

set -u
umask 077
LC_ALL=C
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export LC_ALL PATH
unset CDPATH

shift # the name of the verb, which is for people to read
privilege=$1
shift
case $privilege in
sudo) root='sudo -n' ;;
doas) root='doas -n' ;;
*) root= ;;
esac
btrfs="$root btrfs"
newline='
'
beating=

# Exit statuses, most of them from sysexits.h. Every verb may also end with 0, with 1 if it failed, and with not_ours,
# as go does; the header of a verb names the others.
unreadable=66  # some files could not be read
unavailable=69 # a program is not installed
exists=73      # the name is taken
codec_failed=74
busy=75
password_refused=77
not_ours=78 # a directory of the program is a link, or belongs to another user
astray=79   # a snapshot did not appear where it was made

# notify WORD: print one of the lines on stderr by which a verb reports (wire/protocol.py).
notify() {
    printf 'bbng2 %s\n' "$1" >&2
}

# finish STATUS: end, and report the status; without a report the outcome is unknown to the other side.
finish() {
    [ -z "$beating" ] || kill "$beating" 2>/dev/null
    notify "$1"
    exit "$1"
}

# refuse TEXT: end, because a directory is not the program's own.
refuse() {
    echo "ERROR: $1" >&2
    finish "$not_ours"
}

# work_long: print a sign of life every few seconds until the verb ends. The process holds no lock and no directory.
work_long() {
    {
        nap=
        cd /
        exec 3>&- 4>&- 5<&- 6<&- 7<&- 8<&- 9<&-
        trap '[ -z "$nap" ] || kill "$nap" 2>/dev/null; exit' TERM
        while kill -0 $$ 2>/dev/null; do
            sleep 5 2>/dev/null &
            nap=$!
            wait "$nap"
            notify working
        done
    } >/dev/null &
    beating=$!
}

# try_as_root COMMAND...: run a command as the user of the verb and, if that fails, as root.
try_as_root() {
    "$@" 2>/dev/null || $root "$@"
}

# show PATH: print `btrfs subvolume show`. That looks for the snapshots of a subvolume, and fails if any subvolume of
# the filesystem is deleted at that moment: then it is asked again.
show() {
    for show_try in 1 2 3 4 5 6 7 8 9 10; do
        if shown=$($btrfs subvolume show -- "$1" 2>&1); then
            printf '%s\n' "$shown"
            return 0
        fi
        case $shown in
        *'Subvolume not found'*) ;;
        *) break ;;
        esac
    done
    printf '%s\n' "$shown" >&2
    return 1
}

# is_taken NAME: does the name exist, even as a dangling link?
is_taken() {
    [ -e "$1" ] || [ -L "$1" ]
}

# is_subvolume NAME: is it a subvolume, and not a link to one?
is_subvolume() {
    [ ! -L "$1" ] && [ "$(stat -c %i -- "$1" 2>/dev/null)" = 256 ]
}

# is_stub NAME: is it a stub? A snapshot has one in place of each subvolume that is nested in its source: an empty
# directory in which nothing can be made. On btrfs only a stub has this number.
is_stub() {
    [ "$(stat -c %i -- "$1" 2>/dev/null)" = 2 ] && [ "$(stat -f -c %t -- "$1")" = 9123683e ]
}

# may_others_write MODE: does a mode, in octal digits, let the group or others write?
may_others_write() {
    case $1 in
    *[2367]? | *[2367]) ;;
    *) return 1 ;;
    esac
}

# is_ours PATH UID: does it belong to the user of the verb, or to root, if the verb acts for root?
is_ours() {
    [ -O "$1" ] || { [ -n "$root" ] && [ "$2" = 0 ]; }
}

# is_private: can no other user write to the current directory?
is_private() {
    looked=$(stat -c '%u %a' .) && ! may_others_write "${looked#* }" &&
        is_ours . "${looked% *}"
}

# remember_here: open the current directory as descriptor 8, for the next step down.
remember_here() {
    [ -r . ] && exec 8<.
}

# step NAME: go down into a real directory. If its parent is the directory before, no link that appeared meanwhile has
# led elsewhere.
step() {
    [ ! -L "./$1" ] || refuse "$1 is a symbolic link"
    [ ! -e "./$1" ] || [ -d "./$1" ] || refuse "$1 is not a directory"
    cd -P -- "./$1" 2>/dev/null || return 1
    [ .. -ef /proc/self/fd/8 ] || refuse "$1 was exchanged while it was entered"
    remember_here
}

# enter NAME: go down into a directory of the program; check_entered must follow before it is used.
entered=
enter() {
    step "$1" && entered="$1 $entered"
}

# check_entered: refuse unless the directories entered last, one below the other, are the program's own.
check_entered() {
    levels=
    level=.
    for part in $entered; do
        levels="$levels $level"
        level=$level/..
    done
    [ -n "$levels" ] || return 0
    looked=$(stat -c '%u %a' $levels) || return 1
    set -- $looked
    level=.
    for part in $entered; do
        ! may_others_write "$2" ||
            refuse "$part may be changed by other users (mode $2)"
        is_ours "$level" "$1" || refuse "$part belongs to the user with id $1"
        shift 2
        level=$level/..
    done
    entered=
}

# adopt NAME: take over a directory of root's, if the verb acts for root.
adopt() {
    if [ -n "$root" ] && [ ! -L "./$1" ] && [ "$(stat -c %u -- "./$1")" = 0 ]; then
        $root chown -h "$(id -u)" -- "./$1"
    fi
}

# make NAME: enter a directory of the program; make it if it is missing (another run may make it at the same moment).
make() {
    is_taken "./$1" || try_as_root mkdir -- "./$1" || is_taken "./$1" || return 1
    [ -O "./$1" ] || adopt "$1"
    enter "$1"
}

# go PATH: enter the directory of a path (see above). It fails if the directory is missing.
go() {
    walk "$1" && check_entered
}

# walk PATH: the same; check_entered must follow.
walk() {
    walk_top=${1%%//*}
    walk_left=${1#"$walk_top"}
    walk_left=${walk_left#//}
    cd -P -- "${walk_top:-/}" || return 1
    [ -z "$walk_left" ] || remember_here || return 1
    entered=
    walked=
    while [ -n "$walk_left" ]; do
        walk_part=${walk_left%%/*}
        walk_left=${walk_left#"$walk_part"}
        walk_left=${walk_left#/}
        [ -n "$walk_part" ] || continue
        walked=$walked/$walk_part
        case $walked in
        /.btrfs-backup-ng/incoming/*/* | /.restoring-*/*) check_entered && step "$walk_part" ;;
        /.btrfs-backup-ng | /.btrfs-backup-ng/snapshots) enter "$walk_part" ;;
        /.btrfs-backup-ng/incoming | /.btrfs-backup-ng/incoming/*) enter "$walk_part" ;;
        /.restoring-*) enter "$walk_part" ;;
        *) check_entered && step "$walk_part" ;; # it may belong to any user
        esac || return 1
    done
}

# act_as_owner STATE ARG...: if only root may enter the state directory, and the verb acts for root, run the whole verb
# again as root, with the arguments. Called before anything is read or printed. $verb and $script come from DECODER
# (grammar.py).
act_as_owner() {
    [ -n "$root" ] || return 0
    if (go "${1%/*}" && [ -d "./${1##*/}" ] && [ ! -x "./${1##*/}" ]) 2>/dev/null && $root true 2>/dev/null; then
        shift
        exec $root sh -c "$script" "$0" "$verb" none "$@"
    fi
}

# staged ID: enter the directory of a transfer from the state directory; make it if it is missing. All directories above
# are checked before. Descriptor 6 is then the directory above it, 9 the directory itself.
staged() {
    if [ -O ./incoming ]; then
        enter incoming
    else
        check_entered && make incoming
    fi && check_entered || return 1
    exec 6<.
    if ! is_taken "./$1" && mkdir -m 700 -- "./$1" 2>/dev/null; then
        step "$1" || return 1 # no other user can have changed it
    else
        make "$1" && check_entered || return 1
    fi
    exec 9<.
}

# unstage ID: remove the directory of a transfer if it is empty.
unstage() {
    rmdir -- "/proc/$$/fd/6/$1"
}

# names_here: print each name in the current directory, with a NUL behind it, and an empty name.
names_here() {
    for found in ./* ./.*; do
        case $found in ./. | ./..) continue ;; esac
        if is_taken "$found"; then
            printf '%s\0' "${found#./}"
        fi
    done
    printf '\0'
}

# is_out_of_reach: can no other user exchange any part of the current directory's path, or a name in it?
is_out_of_reach() {
    reach=$PWD
    [ "$reach" -ef . ] || return 1
    set --
    while [ -n "$reach" ]; do
        set -- "$reach" "$@"
        reach=${reach%/*}
    done
    reach=$(stat -c '%u %a' -- / "$@") || return 1
    set -- $reach
    while [ $# -gt 0 ]; do
        [ "$1" = 0 ] || [ "$1" = "$(id -u)" ] || return 1
        case $2 in
        1???) ;; # sticky: others cannot rename files of this user
        *) ! may_others_write "$2" || return 1 ;;
        esac
        shift 2
    done
}

# find_subvolume: set $whole to a subvolume of the current directory's filesystem, which btrfs wants beside a number:
# the mount point, which no user can exchange, or else the nearest one above. A number means another subvolume in
# another filesystem, so it fails if only a folder is mounted, which has no subvolume above.
find_subvolume() {
    whole=$(stat -c %m . 2>/dev/null) && [ "$(stat -c %i -- "$whole")" = 256 ] && return
    whole=.
    here_id=$(stat -f -c %i .) || return 1
    until [ "$(stat -c %i "$whole")" = 256 ]; do
        [ ! "$whole" -ef / ] || return 1
        whole=$whole/..
        whole_id=$(stat -f -c %i "$whole") || return 1
        # the last eight digits depend on the subvolume, too
        if [ "${whole_id%????????}" != "${here_id%????????}" ]; then
            echo 'ERROR: only a folder of this filesystem is mounted here, and other users may write above it' >&2
            return 1
        fi
    done
}

# erase NAME...: delete subvolumes of a directory of the program, durably. btrfs resolves a path twice, and the owner of
# a directory above may exchange it in between. Where that is possible, they are deleted by number. All become durable
# together: a full disk often has no space for one transaction after another.
erase() {
    [ $# -gt 0 ] || return 0
    if is_out_of_reach; then
        for erased; do
            shift
            set -- "$@" "./$erased"
        done
        $btrfs subvolume delete -c -- "$@" >/dev/null
        return
    fi
    find_subvolume || return 1
    erased=0
    for name_to_erase; do
        if is_subvolume "./$name_to_erase" && erase_id=$($btrfs inspect-internal rootid "./$name_to_erase"); then
            $btrfs subvolume delete -i "$erase_id" -- "$whole" >/dev/null || erased=1
        else
            erased=1
        fi
    done
    $btrfs filesystem sync . >/dev/null || erased=1
    return "$erased"
}

# appear SOURCE NAME [r]: make a snapshot in the current directory, under a free name; read-only with an r. If a link
# appears at that name meanwhile, btrfs follows it, and the snapshot is elsewhere.
appear() {
    ! is_taken "./$2" || finish "$exists"
    $btrfs subvolume snapshot ${3:+-r} -- "$1" "./$2" >/dev/null || return 1
    is_subvolume "./$2" || finish "$astray"
}

# replace NAME: make stdin the content of a file in the current directory, in one step and durably.
replace() {
    [ -O . ] || $root chown "$(id -u)" . || return 1
    for replaced in "$1" "$1.new"; do
        [ ! -d "./$replaced" ] || [ -L "./$replaced" ] ||
            refuse "$replaced is a directory of the user with id $(stat -c %u -- "./$replaced")"
    done
    rm -f -- "./$1.new" || return 1
    if ! said=$(set -C && dd conv=fsync 2>&1 >"./$1.new"); then
        printf '%s\n' "$said" >&2
        return 1
    fi
    [ ! -L "./$1" ] || rm -f -- "./$1" || return 1
    mv -f -- "./$1.new" "./$1"
}
