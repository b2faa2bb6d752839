# preview SOURCE STATE ID NAME: make the snapshot that a run would make, in staging; delete it when stdin ends or a
# signal comes. It leaves no trace, not even a changed time, if a temporary file can be made.
# Answer: "ready" when it exists.
# Exit status: busy, if another process makes the same one.

times=$(mktemp 2>/dev/null) || times=
trap : HUP INT TERM
go "$1" || finish 1
exec 5<.
go "$2" && exec 7<. || finish 1
[ -z "$times" ] || touch -r . "$times" || finish 1
staged "$3" || finish 1
flock -n 9 || finish "$busy"
$btrfs subvolume snapshot -r -- "/proc/$$/fd/5" "./$4" >/dev/null || finish 1
echo ready
cat >/dev/null
erase "$4"
status=$?
unstage "$3"
rmdir -- "/proc/$$/fd/7/incoming" 2>/dev/null
if [ -n "$times" ]; then
    try_as_root touch -r "$times" "/proc/$$/fd/7"
    rm -f -- "$times"
fi
finish $status
