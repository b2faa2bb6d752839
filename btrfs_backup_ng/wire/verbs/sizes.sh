# sizes DIRECTORY; paths on stdin as for stat.
# Answer: the bytes of each on the disk, a tab, the path, a NUL; the total comes last.

work_long
go "$1" || finish 1
$as du -s -c -0 -B1 --files0-from=-
finish $?
