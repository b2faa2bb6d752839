# This text runs behind common.sh in verbs that ask whether a mount contains the whole filesystem.

# is_part: is only a part of the filesystem mounted, a subvolume or a folder? Descriptor 9 is a directory of that mount.
# Sets $device to a device of the filesystem, and $of_folder to 1 for a folder (mount --bind).
is_part() {
    device=
    of_folder=
    mount_id=
    while read -r mount_key mount_value; do
        [ "$mount_key" != mnt_id: ] || mount_id=$mount_value
    done </proc/self/fdinfo/9
    while read -r mount_number mount_parent mount_device mount_root mount_rest; do
        [ "$mount_number" = "$mount_id" ] || continue
        [ "$mount_root" != / ] || return 1
        device=${mount_rest#* - }
        device=${device#* }
        device=${device%% *}
        case ,${mount_rest##* }, in
        *,subvol="$mount_root",*) ;;
        *,subvol=*) of_folder=1 ;;
        esac
        return 0
    done </proc/self/mountinfo
    return 1
}

# can_mount: may this user mount a filesystem for one process alone?
can_mount() {
    $root unshare -m mount --version >/dev/null 2>&1
}
