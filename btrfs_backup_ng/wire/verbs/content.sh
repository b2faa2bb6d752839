# content FILE: print its content.

as=
if [ -n "$root" ] && $root cat /dev/null >/dev/null 2>&1 </dev/null; then
    as=$root
fi
work_long
$as cat -- "$1"
finish $?
