# versions; absolute paths on stdin, with a NUL behind each: print the facts about each file.
# Answer: facts and path of each that exists, a line; a NUL; the errors for the others.

as=
if [ -n "$root" ] && $root stat -c %i / >/dev/null 2>&1 </dev/null; then
    as=$root
fi
work_long
exec 4>&1
complaints=$(xargs -0 -r $as stat -c '%f %i %s %Y %Z %y %z %n' -- 2>&1 >&4)
exec 4>&-
printf '\0%s' "$complaints"
finish 0
