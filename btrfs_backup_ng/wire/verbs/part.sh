# This text runs behind common.sh in verbs that ask whether a mount contains the whole filesystem.

# is_part MOUNTINFO: is only a part of the filesystem mounted, a subvolume or a folder? Descriptor 9 is a directory of
# that mount. Sets $device to a device of the filesystem, and $of_folder to 1 for a folder (mount --bind).
is_part() {
    device=
    of_folder=
    mount_id=
    while read -r mount_key mount_value; do
        [ "$mount_key" != mnt_id: ] || mount_id=$mount_value
    done </proc/self/fdinfo/9
    set -f
    IFS=$newline
    for mount in $1; do
        case $mount in "$mount_id "*) break ;; esac
        mount=
    done
    unset IFS
    set -- $mount
    set +f
    [ "${4:-/}" != / ] || return 1
    mount_root=$4
    shift $(($# - 2)) # proc_pid_mountinfo(5): of all words, which differ in number, its device and its options
    device=$1
    case ,$2, in
    *,subvol="$mount_root",*) ;;
    *,subvol=*) of_folder=1 ;;
    esac
}

# can_mount: may this user mount a filesystem for one process alone?
can_mount() {
    $root unshare -m mount --version >/dev/null 2>&1
}
