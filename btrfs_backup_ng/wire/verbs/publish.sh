# publish STATE ID NAME DIRECTORY TARGET CHECK [OTHER...]: make a received snapshot appear under its final name,
# durably, and delete it in staging, with the other names there.
#   CHECK  1: look at it under its final name; 0: only if others can write to the directory
# Answer: `btrfs subvolume show` of it then.
# Exit status: exists or astray, see appear.

work_long
go "$1" && exec 5<. && staged "$2" || finish 1
name=$3
target=$5
check=$6
go "$4" || finish 1
appear "/proc/$$/fd/9/$name" "$target" r || finish 1
if [ "$check" = 1 ] || ! is_private; then
    show "./$target" || finish 1
fi
id=$2
shift 6
cd -P "/proc/$$/fd/9" && erase "$name" "$@"
status=$?
unstage "$id" 2>/dev/null
finish $status
