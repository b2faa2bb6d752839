# waiting STATE ID...: show the staging of interrupted transfers. Changes nothing.
# Answer, for each that exists: its id, 1 if a process works on it, the names in it, an empty name.

work_long
go "$1" && enter incoming && check_entered || finish 0
exec 6<.
shift
for id; do
    cd -P "/proc/$$/fd/6" && remember_here || finish 1
    [ -d "./$id" ] && [ ! -L "./$id" ] && [ -r "./$id" ] && step "$id" && is_private || continue
    exec 7<.
    running=1
    flock -n -s 7 && running=0
    exec 7<&-
    printf '%s\0%s\0' "$id" $running
    names_here
done
finish 0
