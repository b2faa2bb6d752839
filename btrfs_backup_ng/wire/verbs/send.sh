# send PROTOCOL PARENT SNAPSHOT CODEC CODE [WORD...]: write a send stream to stdout.
#   PROTOCOL  1, 2, or 2c: 2 with compressed data as it lies on the disk; an n in front leaves the data out; so does an
#             i, at the lowest priority, and for a second of CPU time at most
#   PARENT    path of the snapshot to build upon, or ""
#   CODEC     the compression of the stream: see codecs.py
#   CODE      the filter for checkpoints as packed Python, or "" for no checkpoints
#   WORD...   arguments of that filter
# Exit status: that of btrfs send, or of the filter; codec_failed.

protocol=$1
parent=$2
snapshot=$3
codec=$4
code=$5
shift 5
words=$*
dry=
case $protocol in
i*)
    # shellcheck disable=SC3045 # dash, bash and busybox know it
    ulimit -t 1
    for program in 'ionice -c 3' 'chrt -i 0'; do
        ! command -v "${program%% *}" >/dev/null || btrfs="$program $btrfs"
    done
    ;;
esac
case $protocol in
[in]*)
    dry=--no-data
    protocol=${protocol#?}
    ;;
esac
case $protocol in
2c) set -- --proto 2 --compressed-data ;;
2) set -- --proto 2 ;;
*) set -- ;;
esac
if [ -n "$parent" ]; then
    go "${parent%/*}" || finish 1
    exec 5<.
    set -- "$@" -p "/proc/$$/fd/5/${parent##*/}"
fi
[ "${parent%/*}" = "${snapshot%/*}" ] || go "${snapshot%/*}" || finish 1
set -- "$@" -- "./${snapshot##*/}"
case $codec in
zstd:*) codec="zstd -q -c -T2 -${codec#*:}" ;;
lz4) codec='lz4 -q -c' ;;
*) codec= ;;
esac
if [ -z "$codec$code" ]; then
    $btrfs send -q $dry "$@"
    finish $?
fi

# Each says its status on descriptor 3, the two in the middle only if they failed.
send() {
    $btrfs send -q $dry "$@" 3>&-
    echo $? >&3
}
filter() {
    python3 -I -S -c 'import base64,sys,zlib;exec(zlib.decompress(base64.b64decode(sys.argv.pop(1))))' \
        "$code" $words 3>&-
    status=$?
    [ $status = 0 ] || echo "k$status" >&3
}
compress() {
    $codec 3>&-
    status=$?
    [ $status = 0 ] || echo "z$status" >&3
}
exec 4>&1
statuses=$({
    case $code,$codec in
    ,*) send "$@" | compress ;;
    *,) send "$@" | filter ;;
    *) send "$@" | filter | compress ;;
    esac >&4
} 3>&1)
exec 4>&-
judge $statuses
finish 0
