# drop STAGE KIND; paths on stdin, each as ./PATH with a NUL behind it: delete these in a private directory, made by
# stage. The caller has checked that no link leads out of it.
#   KIND  files, or directories: those that are empty

go "$1" || finish 1
if [ "$2" = files ]; then
    $as xargs -0 rm -f --
    finish $?
fi
$as xargs -0 rmdir -- 2>/dev/null
finish 0
