# snapshot SOURCE FOLDER NAME STATE IDENTITY ID: take a read-only snapshot.
#   IDENTITY  keep, or fresh: drop the received UUID that a restored source still carries. A writable snapshot loses
#             it, and the read-only one of that has none.
#   ID        names the staging directory for that
# Answer: `btrfs subvolume show` of its parent, if IDENTITY is fresh; a NUL; the same of itself.
# Exit status: exists or astray, see appear.

work_long
go "$1" || finish 1
exec 5<.
from=/proc/$$/fd/5
if [ "$5" = fresh ]; then
    go "$4" && staged "$6" || finish 1
    $btrfs subvolume snapshot -- "$from" "./$3" >/dev/null || finish 1
    $btrfs property set -ts "./$3" ro true || finish 1
    from=/proc/$$/fd/9/$3
fi
go "$2" || finish 1
appear "$from" "$3" r || finish 1
[ "$5" != fresh ] || show "$from" || finish 1
printf '\0'
show "./$3" || finish 1
if [ "$5" = fresh ]; then
    cd -P "/proc/$$/fd/9" && erase "$3" && unstage "$6" || finish 1
fi
finish 0
