# Functions of send and receive; this text runs behind common.sh.

# judge STATUS...: go on only if both ends of a pipe ended well. The statuses of the two ends come as they ended, the
# first one in front; those of the stages between them only if they failed, behind a z ((de)compressor) or a k (filter
# for checkpoints). The cause is one that failed for another reason than want of a reader (141).
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
        echo 'ERROR: (de)compressing failed' >&2
        finish "$codec_failed"
        ;;
    *) finish "${1:-1}" ;;
    esac
}
