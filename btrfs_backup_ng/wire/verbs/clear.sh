# clear DIRECTORY NAME: remove a private directory in it, made by stage; flush the rest to the disk.

work_long
case $2 in
.restoring-*) ;;
*) finish 1 ;;
esac
go "$1" || finish 1
exec 5<.
remember_here && enter "$2" && check_entered || finish 1
for found in ./* ./.*; do
    case $found in ./. | ./..) continue ;; esac
    ! is_taken "$found" || $as rm -rf -- "$found" || finish 1
done
cd -P "/proc/$$/fd/5" && $as rmdir -- "./$2" || finish 1
$as sync -f .
finish $?
