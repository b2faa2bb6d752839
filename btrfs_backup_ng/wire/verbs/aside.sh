# aside STATE NAME NEW: rename a file in the state directory.
# Exit status: exists, if NEW is a directory.

act_as_owner "$1" "$@"
work_long
go "$1" || finish 1
[ ! -d "./$3" ] || finish "$exists"
try_as_root mv -f -- "./$2" "./$3"
finish $?
