# keep TOKEN; a password as the only line on stdin: keep it, only in memory, for the sessions of this connection that
# ask for it (see elevate). Ends with stdin.
# Answer: "kept".

directory=${TMPDIR:-/tmp}/bbng-$1
IFS= read -r password || finish 1
mkdir -m 700 -- "$directory" && mkfifo "$directory/ask" || finish 1
exec 3<>"$directory/ask" 6<&0
{
    cat <&6 >/dev/null
    rm -rf -- "$directory"
    kill $$
} &
echo kept
while IFS= read -r asking <&3; do
    [ ! -p "$directory/$asking" ] || printf '%s\n' "$password" 1<>"$directory/$asking"
done
finish 0
