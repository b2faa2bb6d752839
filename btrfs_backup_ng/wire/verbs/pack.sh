# pack SNAPSHOT BYTES; on stdin paths of directories, BYTES long, and then other paths: print an archive of GNU tar with
# the directories alone and the others whole. A file that cannot be read is left out, or filled up with zeros; then the
# words of tar on stderr name it. tar opens the second list by a name, which a pipe has, and a socket has not.

go "$1" || finish 1
pack='
LC_ALL=C
export LC_ALL
exec 3<&0
dd bs=1 count="$1" 2>/dev/null |
    tar -c -f - --format=posix --xattrs "--xattrs-include=*" --acls --numeric-owner --sparse --null \
        --no-recursion -T - --recursion -T /proc/self/fd/3
'
exec 4>&1
words=$(cat | $as sh -c "$pack" sh "$2" 2>&1 >&4)
status=$?
exec 4>&-
[ -z "$words" ] || printf '%s\n' "$words" >&2
# 1: some files were shorter than they should be; 2: some could not be read. A fatal error leaves the archive without
# an end.
case $status,$words in
*'Error is not recoverable: exiting now') ;;
1,* | 2,*)
    echo "tar: status $status" >&2
    status=0
    ;;
esac
finish $status
