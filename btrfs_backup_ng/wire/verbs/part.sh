# This text runs behind common.sh in verbs that ask whether all of a filesystem can be reached where they stand.

# is_part: is only a part of the filesystem mounted where we stand, a subvolume or a folder? Descriptor 9 is a directory
# of that mount. $device is a device of the filesystem then, and $of_folder says whether it is a folder (mount --bind).
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

# can_mount: may we mount something that only our own processes see?
can_mount() {
    $root unshare -m mount --version >/dev/null 2>&1
}
