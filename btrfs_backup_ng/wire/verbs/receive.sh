# receive STATE ID NAME CODEC [USELESS...]: receive the stream on stdin into a staging directory of its own, which is
# locked meanwhile, by descriptor 9: see reap.
#   CODEC       the compression to undo first: see codecs.py
#   USELESS...  names that an earlier attempt left there; deleted first
# Answer: the names in it, an empty name, `btrfs subvolume show` of NAME if it is one of them. A line on stderr reports that all of the
# stream is taken; from then on the disk takes the time.
# Exit status: that of btrfs receive; codec_failed; busy, if another process receives there; unavailable, if only a
# folder is mounted, and this user may not mount the rest.

name=$3
walk "$1" && staged "$2" || finish 1
flock -n 9 || { sleep 1 && flock -n 9; } || finish "$busy"
case $4 in
zstd*) codec='zstd -q -dc' ;;
lz4) codec='lz4 -q -dc' ;;
*) codec= ;;
esac
shift 4
[ $# = 0 ] || erase "$@" || finish 1

# trim KEEP NAME...: delete all of these but the last so many, with one commit.
trim() {
    excess=$(($# - 1 - $1))
    shift
    for name_to_trim; do
        shift
        [ $excess -le 0 ] || set -- "$@" "$name_to_trim"
        excess=$((excess - 1))
    done
    erase "$@"
}
# Delete all that a newer checkpoint replaces: all bodies but the last, all seals but the last two, as the very last may
# not be finished yet.
trim_all() {
    trim 1 ./.body-*
    trim 2 ./.seal-*
}
# Find the file in which the kernel counts the bytes of data of this filesystem that wait in memory to be written. It
# lies in a directory that is named by the UUID, of which the first word of the filesystem's id is made.
find_unwritten() {
    unwritten=
    id=$(stat -f -c %i .)
    while [ ${#id} -lt 16 ]; do
        id=0$id
    done
    for counter in /sys/fs/btrfs/*-*-*-*-*/allocation/data/bytes_may_use; do
        [ -r "$counter" ] || continue
        uuid=${counter#/sys/fs/btrfs/}
        uuid=${uuid%%/*}
        third_word=${uuid#*-*-*-}
        third_word=${third_word%????????}
        third_word=${third_word%-*}${third_word#*-}
        [ $((0x${uuid%%-*} ^ 0x$third_word)) != $((0x${id%????????})) ] || unwritten=$counter
    done
}
# Flush the data received so far whenever that much of it waits, until stdin ends: the disk works while the stream comes,
# and little is left to do at the end. Never by the clock: each flush commits, and with many small files that takes
# longer than it saves.
flush_from=$((128 << 20))
flush() {
    unwritten=unknown
    while command -v timeout >/dev/null; do
        ! timeout 1 cat || return
        trim_all
        [ "$unwritten" != unknown ] || find_unwritten
        waiting=0
        [ -z "$unwritten" ] || read -r waiting <"$unwritten" || break
        [ "$waiting" -lt $flush_from ] || sync -f . || break
    done 2>/dev/null
    cat
}
# btrfs receive looks for a parent by its path from the top of the filesystem, below the mount that it stands in. Where
# that is a part of the filesystem, it misses parents that lie outside of it; where it is a folder, it misses all, or
# takes another subvolume that happens to be at that path. So all of it is mounted here, for this one process.
from_top='
exec 8<. && mount -n -t btrfs -o subvolid=5 -- "$1" . 2>/dev/null &&
    cd -P -- "$(pwd -P)" && cd -P -- "./$2" && [ . -ef /proc/self/fd/8 ] &&
    exec 8<&- && exec btrfs receive -C -q -- .
exit "$3"'
inner=
if is_part "$(cat /proc/self/mountinfo)"; then
    if can_mount; then
        inner=$($btrfs inspect-internal inode-resolve "$(stat -c %i .)" .) || finish 1
        number=$($btrfs inspect-internal rootid .) || finish 1
        inner=$($btrfs inspect-internal subvolid-resolve "$number" .)/${inner#./}
    elif [ -n "$of_folder" ]; then
        echo "ERROR: only a folder of this filesystem is mounted here, through which btrfs receive finds no parents" >&2
        finish "$unavailable"
    fi
fi
receive_here() {
    received=$unavailable
    if [ -n "$inner" ]; then
        $root unshare -m sh -c "$from_top" sh "$device" "$inner" "$unavailable"
        received=$?
    fi
    [ "$received" = "$unavailable" ] || return "$received"
    [ -z "$of_folder" ] || return 1
    $btrfs receive -C -q -- .
}
receive() {
    {
        receive_here >&4 3>&-
        echo $? >&3
        notify received
    } | flush
}
decompress() {
    $codec 3>&-
    status=$?
    [ $status = 0 ] || echo "z$status" >&3
}
exec 4>&1
statuses=$({
    if [ -z "$codec" ]; then
        receive
    else
        decompress | receive
    fi
} 3>&1)
exec 4>&-
judge $statuses
work_long
names_here
is_taken "./$name" || finish 0
show "./$name"
finish $?
