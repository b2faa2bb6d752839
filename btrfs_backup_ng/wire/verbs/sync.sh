# sync DIRECTORY: wait until deleted subvolumes are gone and, after the next transaction, their space is free.

work_long
$btrfs subvolume sync -- "$1" >/dev/null && $btrfs filesystem sync "$1" >/dev/null
finish $?
