# loop DECODE RUN: run verbs in one session, one after the other, until stdin ends.
#   DECODE  decodes the words of a request
#   RUN     runs the script of a verb: see grammar.py
# Requests, each a line on stdin:
#   scripts NUMBER BYTES                  remember pieces of scripts, from this number on: the next so many bytes, with
#                                         \036 behind each piece
#   NONCE BYTES NUMBER,... VERB +WORD...  run these pieces as a verb, with the next so many bytes as its stdin; for - it
#                                         reads the rest of the session's
# Answer to the second kind: the nonce and a line break; the answer of the verb; the nonce, a space, its exit status and
# a line break. On stderr, the nonce and a line break end its words. No other user here can know the nonce: it is in no
# command line.
# Exit status: unavailable, if dd cannot read exactly so many bytes.

decode=$1
run=$2
set -f
# take BYTES: pass on exactly so many bytes of stdin.
take() {
    [ "$1" -lt 65536 ] || dd bs=65536 count=$(($1 / 65536)) iflag=fullblock 2>/dev/null
    [ $(($1 % 65536)) = 0 ] || dd bs=$(($1 % 65536)) count=1 iflag=fullblock 2>/dev/null
}
run_verb() {
    sh -c "$run" "$0" "$verb" "$script" "$@"
}
end_of_piece=$(printf '\036')
while IFS= read -r line; do
    set -- $line
    case ${1-} in
    scripts)
        number=$2
        pieces=$(take "$3")
        [ -n "$pieces" ] || finish "$unavailable"
        IFS=$end_of_piece
        for piece in $pieces; do
            eval "piece_$number=\$piece"
            number=$((number + 1))
        done
        unset IFS
        continue
        ;;
    '' | *[!0-9a-f]*) finish 1 ;; # not a request, so the next one may be none either
    esac
    [ $# -ge 4 ] || finish 1
    case $2,$3 in
    *[!0-9,-]*) finish 1 ;; # they are evaluated
    esac
    nonce=$1
    size=$2
    numbers=$3,
    shift 3
    eval "$decode"
    script=
    while [ -n "$numbers" ]; do
        eval "script=\$script\$piece_${numbers%%,*}"
        numbers=${numbers#*,}
    done
    printf '%s\n' "$nonce"
    case $size in
    -) run_verb "$@" ;;
    0) run_verb "$@" </dev/null ;;
    *)
        take "$size" | {
            run_verb "$@"
            status=$?
            cat >/dev/null # the rest of its stdin
            exit $status
        }
        ;;
    esac
    status=$?
    printf '%s\n' "$nonce" >&2
    printf '%s %s\n' "$nonce" "$status"
done
finish 0
