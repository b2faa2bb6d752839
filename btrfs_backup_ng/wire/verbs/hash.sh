# hash SUBVOLUME ASPECT: look at each name in a tree, in the order of the bytes of the paths.
# Answer, which depends on ASPECT:
#   ASPECT  tree: path, facts, and path with the target of a symlink, each with a NUL behind it
#           data: the output of `sha256sum -z` for each file by its first name, so that each is read once
#           xattrs: the output of getfattr
# It needs GNU coreutils (8.28) and findutils. Stubs of nested subvolumes (inode 2) and mounts in the tree are left out.
# The status of a pipe does not cover all its parts, so each reports its own on descriptor 3, and all must arrive. When
# stdin ends, the answer has no reader: everything is stopped, even in the middle of a file, if the process group is
# this verb's alone.
# Exit status: unreadable, if some names could not be read; unavailable.

exec 6<&0 </dev/null
{
    cat <&6
    stat=$(cat /proc/$$/stat)
    set -- ${stat##*) } # state, parent, process group
    [ "$3" = $$ ] && $root kill -s TERM -- "-$$"
} >/dev/null 2>&1 &
go "$1" || finish 1
aspect=$2
gnu() {
    $root env LC_ALL=C QUOTING_STYLE=literal "$@"
}
for program in sha256sum sort cut; do
    $program --version >/dev/null 2>&1 || {
        echo "no GNU $program" >&2
        finish "$unavailable"
    }
done
gnu true || finish 1
work_long

report() {
    echo $? >&3
}
list_files() {
    gnu find . -xdev -type d -inum 2 -prune -o "$@"
    report
}
order() {
    sort -z
    report
}
parts=3
case $aspect in
tree)
    paths() {
        list_files -print0
    }
    facts() {
        gnu xargs -0 -r stat --printf '%n\0%f %u %g %s %.9Y %i %h %t %T\0%N\0' --
        report
    }
    ;;
data)
    parts=7
    paths() {
        list_files -type f -links 1 -print0
        list_files -type f -links +1 -printf '%i/%p\0' | order |
            {
                sort -z -s -u -t / -k 1,1
                report
            } | {
            cut -z -d / -f 2-
            report
        }
    }
    facts() {
        gnu xargs -0 -r sha256sum -z --
        report
    }
    ;;
*)
    command -v getfattr >/dev/null || {
        echo 'no getfattr' >&2
        finish "$unavailable"
    }
    paths() {
        list_files -print0
    }
    facts() {
        gnu xargs -0 -r getfattr -h -d -m - -e hex --absolute-names --
        report
    }
    ;;
esac
exec 4>&1
statuses=$({ paths | order | facts >&4; } 3>&1)
exec 4>&-
set -- $statuses
result=0
[ $# = $parts ] || result=1
for status; do
    case $status in
    0) ;;
    123) [ $result != 0 ] || result=$unreadable ;;
    *) result=1 ;;
    esac
done
finish $result
