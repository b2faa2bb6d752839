# remove DIRECTORY ID: delete a subvolume of that filesystem, durably, wherever it is.

work_long
go "$1" || finish 1
find_subvolume || finish 1
$btrfs subvolume delete -c -i "$2" -- "$whole" >/dev/null
finish $?
