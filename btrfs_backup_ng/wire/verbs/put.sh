# put STATE NAME: replace a file in the state directory with stdin, in one step and durably.

act_as_owner "$1" "$@"
work_long
go "$1" && replace "$2" || finish 1
$btrfs filesystem sync . >/dev/null
finish $?
