# relatives DIRECTORY: list the subvolumes of the whole filesystem with all their UUIDs.
# Answer: the list of the read-only ones, then that of all, each in two orders; with a NUL behind each.

work_long
go "$1" || finish 1
for kind in -r ''; do
    for order in rootid -rootid; do
        $btrfs subvolume list $kind -uqRcg --sort=$order . || finish 1
        printf '\0'
    done
done
finish 0
