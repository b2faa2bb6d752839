# list DIRECTORY STATE FILE...: all snapshots in a directory, and records of the state directory.
# Answer: the names in the directory, an empty name; then, each with a NUL behind it: id and path of the containing
# subvolume, the directory in it, its read-only subvolumes, the received UUIDs of the whole filesystem (both lists in
# two orders), and of each record: nothing if it is missing; 1 and its content, at most so much that it
# shows that it is too large; or 2 and a word for why it is not read (record.py). A record has no NUL; those of a
# damaged one become \001.

limit=8388609 # record.LIMIT_BYTES, and one byte that shows that there is more

# record NAME: print a record of the current directory.
record() {
    if [ -L "./$1" ]; then
        printf 2link
    elif [ -d "./$1" ]; then
        printf 2directory
    elif [ -f "./$1" ]; then
        if [ -r "./$1" ] || $root test -r "./$1" 2>/dev/null; then
            printf 1
            try_as_root head -c "$limit" "./$1" | tr '\000' '\001'
        else
            printf 2unread
        fi
    elif [ -e "./$1" ]; then
        printf 2special
    fi
}

act_as_owner "$2" "$@"
work_long
go "$1" || finish 1
names_here
number=$($btrfs inspect-internal rootid .) || finish 1
printf '%s\0' "$number"
$btrfs inspect-internal subvolid-resolve "$number" . || finish 1
printf '\0'
inode=$(stat -c %i .)
[ "$inode" = 256 ] || $btrfs inspect-internal inode-resolve "$inode" . || finish 1
printf '\0'
for order in rootid -rootid; do
    $btrfs subvolume list -o -r -uqRcg --sort=$order . || finish 1
    printf '\0'
done
for order in rootid -rootid; do
    $btrfs subvolume list -R --sort=$order . || finish 1
    printf '\0'
done
state=$2
shift 2
# records: print all of them, from the state directory.
records() {
    go "$state" 2>/dev/null || exit 1
    for name; do
        record "$name"
        printf '\0'
    done
    exit 0
}
instead=2unread
if (go "${state%/*}" && ! is_taken "./${state##*/}") 2>/dev/null; then
    instead=
elif (records "$@"); then
    finish 0
fi
for name; do
    printf '%s\0' "$instead"
done
finish 0
