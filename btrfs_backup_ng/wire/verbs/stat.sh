# stat DIRECTORY; paths on stdin, each as ./PATH with a NUL behind it.
# Answer: of each that is there mode (hexadecimal), device and path, with a NUL behind it. On stderr any other reason
# why it could not be looked at.

work_long
go "$1" || finish 1
{
    $as xargs -0 stat --printf '%f %d %n\0' -- 2>&1 >&3 |
        sed '/: No such file or directory$/d; /: Not a directory$/d' >&2
} 3>&1
finish 0
