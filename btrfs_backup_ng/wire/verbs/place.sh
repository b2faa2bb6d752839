# place STAGE FROM DIRECTORY; names on stdin, each as ./NAME with a NUL behind it: move them from the directory FROM in
# the stage to DIRECTORY; names that exist there stay.

work_long
go "$3" || finish 1
exec 5<.
go "$1/$2" || finish 1
$as xargs -0 mv -n -t "/proc/$$/fd/5" --
finish $?
