# children DIRECTORY: the subvolumes of the whole filesystem with their UUIDs and parent UUIDs.
# Answer: the list in two orders, each with a NUL behind it.

work_long
go "$1" || finish 1
for order in rootid -rootid; do
    $btrfs subvolume list -qu --sort=$order . || finish 1
    printf '\0'
done
finish 0
