# space DIRECTORY SECONDS; names on stdin, each as ./NAME with a NUL behind it: the space that is each one's alone.
#   SECONDS  for du; 0: do not ask it; all: however long it takes
# Answer: q and the quota groups, if those are kept and right; else d and the output of du in that time.

work_long
go "$1" || finish 1
groups=$($btrfs qgroup show --raw . 2>&1) && case $groups in
*inconsistent*) ;;
*)
    cat >/dev/null
    printf %s "q$groups"
    finish 0
    ;;
esac
printf d
limit=
case $2 in
0)
    cat >/dev/null
    finish 0
    ;;
all) ;;
*)
    command -v timeout >/dev/null || {
        cat >/dev/null
        finish 0
    }
    limit="timeout $2"
    ;;
esac
$limit xargs -0 $btrfs filesystem du -s --raw -- 2>/dev/null
finish 0
