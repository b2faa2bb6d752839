# delete DIRECTORY; on stdin a line with subvolume ids, and their names, each as ./NAME with a NUL behind it: delete
# these subvolumes, durably; by their ids if another user could exchange the names.

work_long
go "$1" || finish 1
read -r ids
if is_out_of_reach; then
    xargs -0 $btrfs subvolume delete -c -- >/dev/null
    finish $?
fi
cat >/dev/null
find_subvolume || finish 1
result=0
for number in $ids; do
    $btrfs subvolume delete -i "$number" -- "$whole" >/dev/null </dev/null || result=1
done
$btrfs filesystem sync . >/dev/null || result=1
finish $result
