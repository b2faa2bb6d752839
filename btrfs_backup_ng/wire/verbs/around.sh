# around NEW OLD: the facts that count for putting NEW in the place of OLD.
# Answer, each with a NUL behind it: both paths without symbolic links (an x behind each), 1 if OLD exists, the mounts,
# the command line of the kernel, fstab, the default subvolume where OLD is; and if OLD is a subvolume, its path (an x
# behind it) and the subvolumes in it, in two orders.

tell() {
    printf '%s\0' "$1"
}
real_path() {
    readlink -f -- "$1"
    printf x
}
tell "$(real_path "$1")"
tell "$(real_path "$2")"
if is_taken "$2"; then
    tell 1
else
    tell ''
fi
tell "$(cat /proc/self/mountinfo)"
tell "$(cat /proc/cmdline 2>/dev/null)"
tell "$(cat /etc/fstab 2>/dev/null)"
tell "$($btrfs subvolume get-default "$2" 2>/dev/null)"
if is_subvolume "$2" && number=$($btrfs inspect-internal rootid "$2" 2>/dev/null); then
    tell "$(
        $btrfs inspect-internal subvolid-resolve "$number" "$2" 2>/dev/null
        printf x
    )"
    for order in rootid -rootid; do
        $btrfs subvolume list -o --sort=$order "$2" 2>/dev/null
        tell ''
    done
fi
finish 0
