# tidy STATE: remove the state directory of a place without backups, if it is empty.

work_long
go "${1%//*}" || finish 1
exec 5<.
remember_here && enter .btrfs-backup-ng && check_entered || finish 1
rmdir -- ./incoming 2>/dev/null
for found in ./* ./.*; do
    case $found in ./. | ./.. | ./holder | ./beat) continue ;; esac
    ! is_taken "$found" || finish 0
done
rm -f -- ./holder ./beat
cd -P "/proc/$$/fd/5" && try_as_root rmdir -- ./.btrfs-backup-ng
finish $?
