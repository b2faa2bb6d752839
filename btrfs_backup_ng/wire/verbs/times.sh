# times DIRECTORY NAME: print when the snapshots in a directory were made. The list has no time zone, and is in local
# time if sudo or doas drops TZ; so NAME, one of them, is also shown with its zone.
# Answer: the snapshots with their times in two orders, each with a NUL behind it; `btrfs subvolume show` of NAME.

work_long
go "$1" || finish 1
TZ=UTC0
export TZ
for order in rootid -rootid; do
    $btrfs subvolume list -o -s -u --sort=$order . || finish 1
    printf '\0'
done
show "./$2"
finish $?
