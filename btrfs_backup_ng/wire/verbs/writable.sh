# writable STATE ID NAME DIRECTORY TARGET CHECK [OTHER...]: like publish, but a writable subvolume appears under the
# final name, with a read-only snapshot in it, which the next backup needs.
#   CHECK  as in publish; or alone: without that snapshot
# Answer: `btrfs subvolume show` of that snapshot, or else of the subvolume.
# Exit status: exists or astray, see appear.

work_long
go "$1" && staged "$2" || finish 1
id=$2
name=$3
target=$5
check=$6
from=/proc/$$/fd/9/$name
[ ! -L "$from/.btrfs-backup-ng" ] || refuse '.btrfs-backup-ng in the snapshot is a symbolic link'
go "$4" || finish 1
remember_here || finish 1
appear "$from" "$target" || finish 1

# The stub of a nested subvolume is an empty directory, which is in the way.
make_inside() {
    try_as_root rmdir -- "$1" 2>/dev/null
    is_taken "$1" || $btrfs subvolume create -- "$1" >/dev/null
}
# snapshot_inside: make the read-only snapshot in the new subvolume, the current directory.
snapshot_inside() {
    make_inside ./.btrfs-backup-ng && enter .btrfs-backup-ng && check_entered || finish 1
    is_taken ./snapshots || mkdir -- ./snapshots || finish 1
    enter snapshots && check_entered || finish 1
    try_as_root rmdir -- "./$name" 2>/dev/null
    appear "$from" "$name" r || finish 1
    [ "$check" != 1 ] || show "./$name" || finish 1
}
# The same for a user who may run btrfs as root, but not enter a directory of another user. It uses paths, so no other
# user may be able to exchange them.
snapshot_by_path() {
    is_private || refuse "$target belongs to another user; log in as root"
    state=./$target/.btrfs-backup-ng
    make_inside "$state" || finish 1
    if is_stub "$state"; then
        echo "ERROR: the parent left a stub in $target, which the user here may not remove" >&2
        finish 1
    fi
    make_inside "$state/snapshots" || finish 1
    try_as_root rmdir -- "$state/snapshots/$name" 2>/dev/null
    $btrfs subvolume snapshot -r -- "$from" "$state/snapshots/$name" >/dev/null || finish 1
    [ "$check" != 1 ] || show "$state/snapshots/$name" || finish 1
}
if [ "$check" = alone ]; then
    show "./$target"
elif (step "$target" && [ -w . ]) 2>/dev/null; then
    (step "$target" && snapshot_inside)
else
    (snapshot_by_path)
fi
status=$?
if [ "$status" != 0 ]; then
    number=$($btrfs inspect-internal rootid "./$target") && is_subvolume "./$target" && find_subvolume &&
        $btrfs subvolume delete -c -i "$number" -- "$whole" >/dev/null
    finish "$status"
fi
try_as_root touch -r "$from" -- "./$target" 2>/dev/null
shift 6
cd -P "/proc/$$/fd/9" && erase "$name" "$@"
status=$?
unstage "$id" 2>/dev/null
finish $status
