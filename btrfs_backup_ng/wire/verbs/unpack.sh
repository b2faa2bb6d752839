# unpack STAGE: unpack an archive there, and write it to the disk. tar lets no name leave that directory, neither by
# `..` nor through a symbolic link.

go "$1" || finish 1
$as tar -x -f - -p --same-owner --xattrs '--xattrs-include=*' --acls --numeric-owner --warning=no-timestamp \
    --delay-directory-restore || finish 1
cat >/dev/null
work_long
$as sync -f .
finish $?
