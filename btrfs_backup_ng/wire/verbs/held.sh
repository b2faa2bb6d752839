# held STATE: is the lock of a place held? Changes nothing; a shared lock for an instant disturbs no other look.
# Answer: nothing, or "1" and the note of the holder.

state=./${1##*/}
go "${1%/*}" || finish 0
is_taken "$state" || finish 0
remember_here || finish 1
if (step "$state" && [ -r . ]) 2>/dev/null; then
    step "$state"
    exec 9<.
    flock -s -n 9
else
    [ -n "$root" ] && [ ! -L "$state" ] || finish 1
    $root flock -s -n "$state" true
fi
case $? in
0) finish 0 ;;
1)
    printf 1
    [ -L ./holder ] || try_as_root head -c 4096 ./holder
    finish 0
    ;;
esac
finish 1
