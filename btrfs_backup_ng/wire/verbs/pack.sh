# pack SNAPSHOT BYTES; on stdin paths of directories, so many bytes, and behind them other paths: the directories alone
# and the others whole, as an archive of GNU tar on stdout.

go "$1" || finish 1
directories=$(mktemp) && head -c "$2" >"$directories" || finish 1
$as tar -c -f - --format=posix --xattrs '--xattrs-include=*' --acls --numeric-owner --sparse --null \
    --no-recursion -T "$directories" --recursion -T -
status=$?
rm -f -- "$directories"
finish $status
