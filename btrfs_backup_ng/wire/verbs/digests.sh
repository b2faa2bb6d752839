# digests; paths of regular files on stdin, with a NUL behind each.
# Answer: the SHA-256 and the path of each that can be read, a line.

as=
if [ -n "$root" ] && $root sha256sum /dev/null >/dev/null 2>&1 </dev/null; then
    as=$root
fi
work_long
xargs -0 -r $as sha256sum --
status=$?
case $status in
0 | 123) finish 0 ;;
esac
finish $status
