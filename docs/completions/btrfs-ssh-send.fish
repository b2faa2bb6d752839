# Completion of btrfs-ssh-send for fish.
# Made by "python -m docs.generate". Do not edit.

function _btrfs_ssh_send_ask
    sh -c '# Answers the questions of the completions; it is a part of each of them.
# Arguments: places, or snapshots PLACE
# Answer: a word a line. It opens no connection, and takes two seconds at most.

# A shell gives other characters a meaning, so such names are not offered.
safe() {
    grep \'^[A-Za-z0-9/:@%+,._-]*$\'
}

case $1 in
places)
    own=${XDG_STATE_HOME:-$HOME/.local/state}/btrfs-backup-ng
    for directory in "${BTRFS_BACKUP_NG_STATE:-$own}" \\
        "${BTRFS_BACKUP_NG_STATE:-/var/lib/btrfs-backup-ng}"; do
        history=$directory/history.jsonl
        [ -r "$history" ] || continue
        tail -c 200000 "$history" | tr , \'\\n\' |
            sed -n \'s/^ "source": "\\([^"\\\\]*\\)"$/\\1/p; s/^ "destination": "\\([^"\\\\]*\\)"$/\\1/p\'
    done | grep \'^/\\|^ssh://\' | safe | sort -u
    if [ -r "$HOME/.ssh/config" ]; then
        sed -n \'s/^[[:space:]]*[Hh]ost[[:space:]]\\{1,\\}//p\' "$HOME/.ssh/config" |
            tr -s \' \\t\' \'\\n\' | safe | sed \'s,.*,ssh://&/,\'
    fi
    ;;
snapshots)
    case $2 in
    \\~/*) place=$HOME/${2#\\~/} ;;
    *:*) exit ;;
    *) place=$2 ;;
    esac
    # A snapshot is a subvolume, the inode of which is 256, with a time in its name.
    digits=\'[0-9][0-9][0-9][0-9][0-9][0-9]\'
    timeout 2 find "$place/" "$place/.btrfs-backup-ng/snapshots/" -mindepth 1 -maxdepth 1 \\
        -inum 256 -name "*[0-9][0-9]$digits-$digits*" -printf \'%f\\n\' | safe | sort -r
    ;;
esac 2>/dev/null
' sh $argv
end

function _btrfs_ssh_send_file
    __fish_complete_path (commandline -ct)
end

function _btrfs_ssh_send_place
    _btrfs_ssh_send_ask places
    __fish_complete_directories (commandline -ct) Directory
end

function _btrfs_ssh_send_snapshot
    _btrfs_ssh_send_ask snapshots (_btrfs_ssh_send_words)[2]
    printf '%s\n' latest yesterday
end

function _btrfs_ssh_send_beside
    _btrfs_ssh_send_ask snapshots (string replace -r '/[^/]*$' '' -- (_btrfs_ssh_send_words)[2])
end

# Print the options of a command that have a value.
function _btrfs_ssh_send_valued
    switch $argv[1]
        case none
            printf '%s\n' -i --identity -p --port -P --parent -s --buffer-size --rate
    end
end

# Print the command, or none, and the operands before the cursor.
function _btrfs_ssh_send_words
    set -l command none
    set -l operands
    set -l valued (_btrfs_ssh_send_valued none)
    set -l is_value no
    for word in (commandline -opc)[2..-1]
        if test $is_value = yes
            set is_value no
        else if contains -- $word $valued
            set is_value yes
        else if string match -q -- '-*' $word
            continue
        else if test $command = none; and test -z "$operands"; and contains -- $word 
            set command $word
            set valued (_btrfs_ssh_send_valued $word)
        else
            set -a operands $word
        end
    end
    printf '%s\n' $command $operands
end

# Are these words of one of these commands?
function _btrfs_ssh_send_in
    contains -- (_btrfs_ssh_send_words)[1] $argv
end

# Is it the operand of that number (N+: or a later one) of a command?
function _btrfs_ssh_send_at
    set -l words (_btrfs_ssh_send_words)
    test $words[1] = $argv[2]; or return
    set -l number (string trim -r -c + $argv[1])
    test (count $words) -eq $number; and return
    string match -q '*+' $argv[1]; and test (count $words) -gt $number
end

complete -c btrfs-ssh-send -f
complete -c btrfs-ssh-send -n '_btrfs_ssh_send_at 1 none' -a '(_btrfs_ssh_send_file)'
complete -c btrfs-ssh-send -n '_btrfs_ssh_send_at 2+ none' -a '(_btrfs_ssh_send_place)'
complete -c btrfs-ssh-send -n '_btrfs_ssh_send_in none' -s h -l help -d 'show this help message and exit'
complete -c btrfs-ssh-send -n '_btrfs_ssh_send_in none' -s i -l identity -x -a '(_btrfs_ssh_send_file)' -d 'private key to log in with'
complete -c btrfs-ssh-send -n '_btrfs_ssh_send_in none' -s p -l port -x -d 'port of the ssh server'
complete -c btrfs-ssh-send -n '_btrfs_ssh_send_in none' -s n -l no-sudo -d 'run btrfs there without sudo'
complete -c btrfs-ssh-send -n '_btrfs_ssh_send_in none' -s P -l parent -x -a '(_btrfs_ssh_send_file)' -d 'send the difference to this one'
complete -c btrfs-ssh-send -n '_btrfs_ssh_send_in none' -s b -l no-buffer -d 'do not use mbuffer'
complete -c btrfs-ssh-send -n '_btrfs_ssh_send_in none' -s s -l buffer-size -x -d 'size of mbuffer\'s buffer'
complete -c btrfs-ssh-send -n '_btrfs_ssh_send_in none' -l rate -x -d 'limit, bytes a second'
complete -c btrfs-ssh-send -n '_btrfs_ssh_send_in none' -s t -l test -d 'check everything, send nothing'
complete -c btrfs-ssh-send -n '_btrfs_ssh_send_in none' -s q -l quiet -d 'print nothing but failures'
complete -c btrfs-ssh-send -n '_btrfs_ssh_send_in none' -s v -l verbose -d 'print every command'
complete -c btrfs-ssh-send -n '_btrfs_ssh_send_in none' -l version -d 'show program\'s version number and exit'
