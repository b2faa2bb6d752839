# hello NONCE DIRECTORY FOLDER: facts about this machine and a directory. Changes nothing.
#   FOLDER  for the snapshots of a source (it may not exist), or ""
# Answer: the nonce, then facts, each with a NUL behind it: key=value, or key: and the output of a command. The privilege
# may be `auto`: find out.

print_item() {
    printf '%s=%s\0' "$1" "$2"
}

# tell KEY COMMAND...: print what a command prints as an item, without another process for that.
tell() {
    printf '%s:' "$1"
    shift
    "$@" 2>/dev/null
    printf '\0'
}

printf '%s\0' "$1"
directory=$2
folder=$3

# The right to run btrfs as root.
version=
complaint=
try() {
    if said=$("$@" -n btrfs --version 2>&1); then
        version=$said
    else
        complaint="$complaint$said "
        false
    fi
}
uid=$(id -u)
print_item uid "$uid"
case $privilege in
auto)
    if [ "$uid" = 0 ]; then
        privilege=root
    elif try sudo; then
        privilege=sudo
    elif try doas; then
        privilege=doas
    else
        privilege=none
    fi
    ;;
sudo | doas) try "$privilege" || privilege=none ;;
esac
case $privilege in
sudo | doas)
    root="$privilege -n"
    print_item btrfs "$version"
    ;;
*)
    root=
    tell btrfs btrfs --version
    ;;
esac
btrfs="$root btrfs"
print_item privilege "$privilege"
print_item why "$complaint"
[ "$uid" = 0 ] || tell user id -un

# Programs. sudo looks for a command in secure_path, sudoers(5), not in PATH; a rule has to name the one it finds.
secure_path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
tell program command -v btrfs
usual_path=$PATH
PATH=$secure_path:$PATH
tell granted command -v btrfs
PATH=$usual_path
for program in flock sudo doas zstd lz4; do
    tell "$program" command -v "$program"
done
missing=
for program in cat dd head id ls mkdir mv rm rmdir sleep stat tr xargs; do
    command -v "$program" >/dev/null || missing="$missing $program"
done
print_item missing "$missing"
tell aes grep -cw aes /proc/cpuinfo
tell clock date +%s
protocol=
{ read -r protocol </sys/fs/btrfs/features/send_stream_version; } 2>/dev/null
print_item protocol "$protocol"

# The directory.
if is_taken "$directory"; then
    print_item exists 1
fi
cd -P -- "$directory" 2>/dev/null || finish 0
print_item directory 1
if [ -n "$folder" ]; then
    work_long
    if python3 -I -S -c 'import sys; sys.exit(sys.version_info < (3, 7))' 2>/dev/null; then
        print_item python 1
    fi
    $btrfs filesystem sync . >/dev/null 2>&1
fi
nearest=$folder
above_folder= # what is there, but no directory
while [ -n "$nearest" ] && [ ! -d "$nearest" ]; do
    if is_taken "$nearest"; then
        above_folder=${nearest##*/}
    fi
    nearest=${nearest%/*}
done
looked=$(stat -f -c '%t %i %S %b %f %a' . / ${folder:+"${nearest:-/}"} 2>/dev/null)
set -- $looked
print_item stat "$*"
print_item where "$PWD"
mounts=$(cat /proc/self/mountinfo)
print_item mounts "$mounts"
tell mounted grep -sH . /sys/fs/btrfs/*-*/metadata_uuid /sys/fs/btrfs/*-*/temp_fsid
if [ -r . ] && exec 9<. && is_part "$mounts" && can_mount; then
    print_item mountable 1
fi
# Only on the disk of the system, as looking at the entries of a source is a change of it. The last eight digits depend
# on the subvolume, too.
here_id=${2-}
root_id=${8-}
empty=
[ "${here_id%????????}" != "${root_id%????????}" ] || empty=1
if [ -n "$empty" ]; then
    for found in ./* ./.*; do
        case $found in ./. | ./..) continue ;; esac
        if is_taken "$found"; then
            empty=
            break
        fi
    done
fi
print_item empty "$empty"
if [ -w . ] || $root test -w . 2>/dev/null; then
    print_item writable 1
fi
looked=$(stat -c %i . ./.btrfs-backup-ng 2>/dev/null)
set -- $looked
inode=${1-}
state_inode=${2-}

# look_into KEY COMMAND...: run a command that enters directories of the program, and may refuse to; print why.
look_into() {
    (
        key=$1
        refuse() {
            print_item "$key" "$1"
            exit 1
        }
        shift
        "$@" 2>/dev/null
    )
}

# The state directory in it: whether it exists and is of this user, and the interrupted transfers.
look_at_state() {
    go "$state" || return
    is_writable=
    [ ! -O . ] || [ ! -w . ] || is_writable=1
    ! is_taken ./snapshots || go "$state/snapshots"
    if go "$state/incoming"; then
        printf 'leftovers:'
        for found in *; do
            ! is_taken "$found" || printf '%s\n' "$found"
        done
        printf '\0'
    fi
    [ -n "$is_writable" ]
}
state=$directory//.btrfs-backup-ng
if is_taken ./.btrfs-backup-ng; then
    if [ "$state_inode" = 2 ] && is_stub ./.btrfs-backup-ng; then
        print_item stub 1
    elif look_into trouble look_at_state; then
        print_item state 1
    fi
fi

# The folder for the snapshots of a source.
if [ -n "$folder" ]; then
    [ -z "$above_folder" ] || print_item foldertrouble "$above_folder is not a directory"
    if look_into foldertrouble go "$folder" || $root test -d "$folder" 2>/dev/null; then
        is_stub "$folder" || print_item hasfolder 1
    fi
fi

# The subvolume.
if [ "$inode" = 256 ]; then
    tell show show .
    if [ -n "$folder" ]; then
        number=$($btrfs inspect-internal rootid . 2>/dev/null)
        tell path $btrfs inspect-internal subvolid-resolve "$number" .
        tell nested $btrfs subvolume list -o .
        tell nestedback $btrfs subvolume list -o --sort=-rootid .
    fi
fi
containing=$PWD
until [ -z "$containing" ] || [ "$inode" = 256 ]; do
    containing=${containing%/*}
    inode=$(stat -c %i "$containing/." 2>/dev/null)
done
print_item containing "${containing:-/}"

# The nearest directory that is on record as a destination, if this user may look.
is_destination() {
    is_taken "$destination_above/.btrfs-backup-ng" &&
        (go "$destination_above//.btrfs-backup-ng" && is_taken ./sources.json) 2>/dev/null
}
destination_above=$PWD
until [ -z "$destination_above" ] || is_destination; do
    destination_above=${destination_above%/*}
done
print_item destination_above "$destination_above"
finish 0
