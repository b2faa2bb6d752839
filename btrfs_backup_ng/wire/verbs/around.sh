# around NEW OLD: print the facts that decide whether NEW can replace OLD.
# Answer, each with a NUL behind it: both paths without symbolic links (an x behind each), 1 if OLD exists, the mounts,
# the command line of the kernel, fstab, the default subvolume where OLD is; and if OLD is a subvolume, its path (an x
# behind it) and the subvolumes in it, in two orders.

print_item() {
    printf '%s\0' "$1"
}
real_path() {
    readlink -f -- "$1"
    printf x
}
print_item "$(real_path "$1")"
print_item "$(real_path "$2")"
if is_taken "$2"; then
    print_item 1
else
    print_item ''
fi
print_item "$(cat /proc/self/mountinfo)"
print_item "$(cat /proc/cmdline 2>/dev/null)"
print_item "$(cat /etc/fstab 2>/dev/null)"
print_item "$($btrfs subvolume get-default "$2" 2>/dev/null)"
if is_subvolume "$2" && number=$($btrfs inspect-internal rootid "$2" 2>/dev/null); then
    print_item "$(
        $btrfs inspect-internal subvolid-resolve "$number" "$2" 2>/dev/null
        printf x
    )"
    for order in rootid -rootid; do
        $btrfs subvolume list -o --sort=$order "$2" 2>/dev/null
        print_item ''
    done
fi
finish 0
