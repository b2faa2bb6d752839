# discard STATE WHICH ID...: delete the staging of unfinished transfers, except those still running.
#   WHICH  all, or unsealed: those that cannot be resumed
# Answer: the ids of running transfers, each with a NUL behind it.

work_long
go "$1" && make incoming && check_entered || finish 1
exec 6<.
which=$2
shift 2
is_sealed() {
    set -- ./.seal-*
    [ -e "$1" ]
}
# Delete all in the current directory, which was checked just now.
empty() {
    set --
    for found in ./* ./.*; do
        case $found in ./. | ./..) continue ;; esac
        if is_subvolume "$found"; then
            set -- "$@" "${found#./}"
        elif is_taken "$found"; then
            try_as_root rm -rf -- "$found" || return 1
        fi
    done
    erase "$@"
}
result=0
for id; do
    cd -P "/proc/$$/fd/6" && remember_here || finish 1
    is_taken "./$id" || continue
    if [ -L "./$id" ]; then
        rm -f -- "./$id" || result=1
        continue
    fi
    [ -O "./$id" ] || adopt "$id"
    enter "$id" && check_entered || finish 1
    if [ "$which" = unsealed ] && is_sealed; then
        continue
    fi
    exec 9<.
    if ! flock -n 9; then
        printf '%s\0' "$id"
        continue
    fi
    empty && unstage "$id" || result=1
done
finish $result
