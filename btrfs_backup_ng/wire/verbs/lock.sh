# lock STATE SECONDS WHO [KIND FOLDER]: hold the lock of a place until stdin ends, or brings an empty line, or brings
# nothing for 30 s. This side may never notice a lost connection, so each line on stdin is a sign of life. It replaces
# the note about the holder and changes `beat`: a run that finds the lock held by another machine watches `beat`; if it
# stops changing, the run waits for the lock to expire. The end of a connection may come right behind the last sign of
# life, so the run waits for another second after it has seen one; also if there is no `beat`, as it is removed just
# before a lock is released (a holder on this machine has none).
#   SECONDS      to wait for another holder
#   WHO          the note about the holder
#   KIND FOLDER  make the directories before: see prepare
# Answer: "locked", or "busy" and the note of the other holder.
# Exit status: busy then.

patience=$2
note=$3
[ $# -lt 5 ] || ready "$1" "$4" "$5" || finish 1
go "$1" || finish 1
exec 9<.
rounds_left=225 # of 0.2 s: longer than a lock outlives its last sign of life
last_rounds=5
first_beat=
until flock -n 9; do
    notify working
    if [ "$patience" -gt 0 ]; then
        patience=$((patience - 1))
        sleep 1
        continue
    fi
    beat=$(head -c 100 ./beat 2>/dev/null)
    first_beat=${first_beat:-$beat}
    if [ -z "$beat" ] || [ "$beat" != "$first_beat" ]; then
        [ $rounds_left -le $last_rounds ] || rounds_left=$last_rounds
    fi
    if [ $rounds_left = 0 ]; then
        echo busy
        head -c 4096 ./holder 2>/dev/null
        finish "$busy"
    fi
    rounds_left=$((rounds_left - 1))
    sleep 0.2 2>/dev/null || sleep 1
done
rm -f -- ./holder ./beat 2>/dev/null
set -C
# In subshells, as a failed redirection ends a shell: the place may be mounted read-only.
(: >./holder) 2>/dev/null && exec 6<>./holder
(: >./beat) 2>/dev/null && exec 7<>./beat
set +C
count=0
show_signs() {
    count=$((count + 1))
    printf %s "$note" 2>/dev/null >"/proc/$$/fd/6"
    echo "$$ $count" 2>/dev/null 1<>"/proc/$$/fd/7" # in place: it is never seen empty
}
limit=
! command -v timeout >/dev/null || limit='timeout 30'
show_signs
echo locked
# Not head, which may read ahead, and take more than the line from the session.
while note=$($limit sh -c 'IFS= read -r line && printf "%s\n" "$line"') && [ -n "$note" ]; do
    show_signs
done
rm -f -- ./beat 2>/dev/null
finish 0
