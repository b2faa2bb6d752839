# reap STATE ID NAME: end the processes of an interrupted transfer that still receive into its staging directory.
# Answer: the names in it, an empty name; of NAME and each seal: its name, `btrfs subvolume show`. Nothing if the
# directory is missing.
# Exit status: busy, if a receiver does not end.

work_long
go "$1" || finish 0
is_taken ./incoming || finish 0
make incoming || finish 1
is_taken "./$2" || finish 0
make "$2" && check_entered || finish 1
exec 8<.
name=$3
rounds=0
until flock -n 8; do
    [ $rounds -lt 50 ] || finish "$busy"
    rounds=$((rounds + 1))
    for process in /proc/[0-9]*; do
        # the shell of receive, or a btrfs receive alone, which has changed its root
        [ "$process/fd/9" -ef . ] || [ "$process/root" -ef . ] || continue
        stat=$(cat "$process/stat" 2>/dev/null) || continue
        set -- ${stat##*) } # state, parent, process group
        kill -s KILL -- "-$3" 2>/dev/null
    done
    sleep 0.1 2>/dev/null || sleep 1
done
names_here
for found in "./$name" ./.seal-*; do
    is_subvolume "$found" || continue
    printf '%s\0' "${found#./}"
    show "$found"
    printf '\0'
done
finish 0
