# Answers the questions of the completions; it is a part of each of them.
# Arguments: places, or snapshots PLACE
# Answer: a word a line. It opens no connection, and takes two seconds at most.

# A shell gives other characters a meaning, so such names are not offered.
safe() {
    grep '^[A-Za-z0-9/:@%+,._-]*$'
}

case $1 in
places)
    own=${XDG_STATE_HOME:-$HOME/.local/state}/btrfs-backup-ng
    for directory in "${BTRFS_BACKUP_NG_STATE:-$own}" \
        "${BTRFS_BACKUP_NG_STATE:-/var/lib/btrfs-backup-ng}"; do
        history=$directory/history.jsonl
        [ -r "$history" ] || continue
        tail -c 200000 "$history" | tr , '\n' |
            sed -n 's/^ "source": "\([^"\\]*\)"$/\1/p; s/^ "destination": "\([^"\\]*\)"$/\1/p'
    done | grep '^/\|^ssh://' | safe | sort -u
    if [ -r "$HOME/.ssh/config" ]; then
        sed -n 's/^[[:space:]]*[Hh]ost[[:space:]]\{1,\}//p' "$HOME/.ssh/config" |
            tr -s ' \t' '\n' | safe | sed 's,.*,ssh://&/,'
    fi
    ;;
snapshots)
    case $2 in
    \~/*) place=$HOME/${2#\~/} ;;
    *:*) exit ;;
    *) place=$2 ;;
    esac
    # A snapshot is a subvolume, the inode of which is 256, with a time in its name.
    digits='[0-9][0-9][0-9][0-9][0-9][0-9]'
    timeout 2 find "$place/" "$place/.btrfs-backup-ng/snapshots/" -mindepth 1 -maxdepth 1 \
        -inum 256 -name "*[0-9][0-9]$digits-$digits*" -printf '%f\n' | safe | sort -r
    ;;
esac 2>/dev/null
