# hello NONCE DIRECTORY FOLDER: facts about this machine and a directory. Changes nothing.
#   FOLDER  for the snapshots of a source (it may not exist), or ""
# Answer: the nonce, then facts as key=value, each with a NUL behind it. The privilege may be `auto`: find out.

print_item() {
    printf '%s=%s\0' "$1" "$2"
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
sudo | doas) root="$privilege -n" ;;
*)
    root=
    version=$(btrfs --version 2>/dev/null)
    ;;
esac
btrfs="$root btrfs"
print_item privilege "$privilege"
print_item why "$complaint"
print_item btrfs "$version"
print_item user "$(id -un)"

# Programs. sudo looks for a command in secure_path, sudoers(5), not in PATH; a rule has to name the one it finds.
secure_path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
print_item program "$(command -v btrfs)"
print_item granted "$(PATH=$secure_path:$PATH && command -v btrfs)"
for program in flock sudo doas zstd lz4; do
    print_item "$program" "$(command -v "$program")"
done
missing=
for program in cat dd head id ls mkdir mv rm rmdir sleep stat tr xargs; do
    command -v "$program" >/dev/null || missing="$missing $program"
done
print_item missing "$missing"
print_item aes "$(grep -cw aes /proc/cpuinfo)"
print_item clock "$(date +%s)"
print_item protocol "$(cat /sys/fs/btrfs/features/send_stream_version 2>/dev/null)"

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
print_item stat "$(stat -f -c '%t %i %S %b %f %a' . 2>/dev/null)"
print_item where "$PWD"
print_item mounts "$(cat /proc/self/mountinfo)"
print_item mounted "$(grep -sH . /sys/fs/btrfs/*-*/metadata_uuid /sys/fs/btrfs/*-*/temp_fsid)"
if [ -r . ] && exec 9<. && is_part && can_mount; then
    print_item mountable 1
fi
print_item root "$(stat -f -c %i / 2>/dev/null)"
empty=1
for found in ./* ./.*; do
    case $found in ./. | ./..) continue ;; esac
    if is_taken "$found"; then
        empty=
        break
    fi
done
print_item empty "$empty"
if [ -w . ] || $root test -w . 2>/dev/null; then
    print_item writable 1
fi

# The state directory in it: whether it exists and is of this user, and the interrupted transfers.
state=$directory//.btrfs-backup-ng
if is_taken ./.btrfs-backup-ng; then
    for part in "$state" "$state/incoming" "$state/snapshots"; do
        trouble=$(
            refuse() {
                printf %s "$1"
                exit 0
            }
            go "$part" 2>/dev/null
        )
        [ -z "$trouble" ] || break
    done
    print_item trouble "$trouble"
    if is_stub ./.btrfs-backup-ng; then
        print_item stub 1
    elif (go "$state" && [ -O . ] && [ -w . ]) >/dev/null 2>&1; then
        print_item state 1
    fi
    print_item leftovers "$( (go "$state/incoming" && ls) 2>/dev/null)"
fi

# The folder for the snapshots of a source.
if [ -n "$folder" ]; then
    if ! is_stub "$folder" && { (go "$folder") >/dev/null 2>&1 || $root test -d "$folder" 2>/dev/null; }; then
        print_item hasfolder 1
    fi
    case $folder in
    *//*)
        trouble=$(
            refuse() {
                printf %s "$1"
                exit 0
            }
            go "$folder" 2>/dev/null
        )
        ;;
    *) trouble= ;;
    esac
    nearest=$folder
    while [ -n "$nearest" ] && [ ! -d "$nearest" ]; do
        if [ -z "$trouble" ] && is_taken "$nearest"; then
            trouble="${nearest##*/} is not a directory"
        fi
        nearest=${nearest%/*}
    done
    print_item foldertrouble "$trouble"
    print_item folder "$(stat -f -c %i -- "${nearest:-/}" 2>/dev/null)"
fi

# The subvolume.
if [ "$(stat -c %i . 2>/dev/null)" = 256 ]; then
    print_item show "$(show . 2>/dev/null)"
    number=$($btrfs inspect-internal rootid . 2>/dev/null)
    print_item path "$(
        $btrfs inspect-internal subvolid-resolve "$number" . 2>/dev/null
        printf x
    )"
    if [ -n "$folder" ]; then
        print_item nested "$(
            $btrfs subvolume list -o . 2>/dev/null
            printf x
        )"
        print_item nestedback "$(
            $btrfs subvolume list -o --sort=-rootid . 2>/dev/null
            printf x
        )"
    fi
fi
containing=$PWD
until [ -z "$containing" ] || [ "$(stat -c %i "$containing/." 2>/dev/null)" = 256 ]; do
    containing=${containing%/*}
done
print_item containing "${containing:-/}"

# The nearest directory that is on record as a destination, if this user may look.
destination_above=$PWD
until [ -z "$destination_above" ] || (go "$destination_above//.btrfs-backup-ng" && is_taken ./sources.json) 2>/dev/null; do
    destination_above=${destination_above%/*}
done
print_item destination_above "$destination_above"
finish 0
