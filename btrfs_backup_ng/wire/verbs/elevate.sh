# elevate TOKEN SCRIPT WORD...: run another verb as root, if sudo wants a password. sudo remembers it only for the next
# commands of the same shell, so every session gets it; never on stdin, which belongs to a stream. A pipe that is opened
# in both directions blocks no process.
# Exit status: that of the verb; password_refused.

directory=${TMPDIR:-/tmp}/bbng-$1
script=$2
shift 2
limit=
! command -v timeout >/dev/null || limit='timeout 30'
pipe=$directory/$$
[ -p "$directory/ask" ] && mkfifo "$pipe" && exec 5<>"$pipe" && echo $$ 1<>"$directory/ask" || finish 1
password=$($limit head -n 1 <&5)
exec 5>&-
rm -f -- "$pipe"
printf '%s\n' "$password" | sudo -S -v -p '' || finish "$password_refused"
password=
sudo -n sh -c "$script" "$0" "$@"
finish $?
