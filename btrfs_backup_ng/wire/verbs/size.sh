# size SUBVOLUME GENERATION: print the extents written since, one a line.

work_long
go "$1" || finish 1
$btrfs subvolume find-new -- . "$2"
finish $?
