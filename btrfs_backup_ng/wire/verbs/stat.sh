# stat DIRECTORY; paths on stdin, each as ./PATH with a NUL behind it.
# Answer: mode (hexadecimal), device and path of each that exists, with a NUL behind it. On stderr, other errors.

work_long
go "$1" || finish 1
{
    $as xargs -0 stat --printf '%f %d %n\0' -- 2>&1 >&3 |
        sed '/: No such file or directory$/d; /: Not a directory$/d' >&2
} 3>&1
finish 0
