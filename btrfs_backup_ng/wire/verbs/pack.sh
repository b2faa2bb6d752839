# pack SNAPSHOT BYTES; on stdin paths of directories, BYTES long, and then other paths: print an archive of GNU tar with
# the directories alone and the others whole.

go "$1" || finish 1
directories=$(mktemp) && head -c "$2" >"$directories" || finish 1
$as tar -c -f - --format=posix --xattrs '--xattrs-include=*' --acls --numeric-owner --sparse --null \
    --no-recursion -T "$directories" --recursion -T -
status=$?
rm -f -- "$directories"
finish $status
