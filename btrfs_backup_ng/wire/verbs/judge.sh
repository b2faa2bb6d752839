# Functions of send and receive; this text runs behind common.sh.

# judge STATUS...: finish unless both ends of a pipe succeeded. The statuses of the two ends come in the order in which
# they ended; those of the stages between them only if they failed, after a z ((de)compressor) or a k (checkpoint
# filter). A stage is to blame if it failed for another reason than a lost reader (141).
judge() {
    [ "$*" != 0 ] || return 0
    for status; do
        case $1,$status in
        0,k* | k*,k*) finish "${status#k}" ;;
        *,z141) ;;
        *,z*) set -- z ;;
        esac
    done
    case ${1:-1} in
    z* | 0)
        echo 'ERROR: (de)compression failed' >&2
        finish "$codec_failed"
        ;;
    *) finish "${1:-1}" ;;
    esac
}
