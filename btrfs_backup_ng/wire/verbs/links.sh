# links; paths of symbolic links on stdin, with a NUL behind each.
# Answer: the target of each, and a line break.

as=
if [ -n "$root" ] && $root readlink /proc/self/exe >/dev/null 2>&1 </dev/null; then
    as=$root
fi
work_long
xargs -0 -r -n 1 $as readlink --
finish $?
