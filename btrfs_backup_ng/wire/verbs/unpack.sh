# unpack STAGE: unpack an archive in it, and flush it to the disk. tar keeps all names in that directory: it refuses
# `..` and does not follow symbolic links.

go "$1" || finish 1
$as tar -x -f - -p --same-owner --xattrs '--xattrs-include=*' --acls --numeric-owner --warning=no-timestamp \
    --delay-directory-restore || finish 1
cat >/dev/null
work_long
$as sync -f .
finish $?
