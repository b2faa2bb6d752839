# sync DIRECTORY: wait until deleted subvolumes are gone and their space is free, which it is with the next
# transaction.

work_long
$btrfs subvolume sync -- "$1" >/dev/null && $btrfs filesystem sync "$1" >/dev/null
finish $?
