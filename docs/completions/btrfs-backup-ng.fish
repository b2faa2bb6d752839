# Completion of btrfs-backup-ng for fish.
# Made by "python -m docs.generate". Do not edit.

function _btrfs_backup_ng_ask
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

function _btrfs_backup_ng_file
    __fish_complete_path (commandline -ct)
end

function _btrfs_backup_ng_place
    _btrfs_backup_ng_ask places
    __fish_complete_directories (commandline -ct) Directory
end

function _btrfs_backup_ng_snapshot
    _btrfs_backup_ng_ask snapshots (_btrfs_backup_ng_words)[2]
    printf '%s\n' latest yesterday
end

function _btrfs_backup_ng_beside
    _btrfs_backup_ng_ask snapshots (string replace -r '/[^/]*$' '' -- (_btrfs_backup_ng_words)[2])
end

# Print the options of a command that have a value.
function _btrfs_backup_ng_valued
    switch $argv[1]
        case none
            printf '%s\n' -N --num-snapshots -n --num-backups --keep --keep-at --keep-zone -f --snapshot-folder -p --snapshot-prefix --incremental --rate --compress --retries --checkpoint-interval --max-size --staging-max-age --ssh-opt --ssh-identity-file --ssh-username --ssh-password-file --ssh-auth-sock --ssh-host-key-policy --sudo-password-file --stall-timeout --wait --disk --fs-checks --safety-margin --jobs
        case run
            printf '%s\n' -c --config --only -N --num-snapshots -n --num-backups --keep --keep-at --keep-zone -f --snapshot-folder -p --snapshot-prefix --incremental --rate --compress --retries --checkpoint-interval --max-size --staging-max-age --ssh-opt --ssh-identity-file --ssh-username --ssh-password-file --ssh-auth-sock --ssh-host-key-policy --sudo-password-file --stall-timeout --wait --disk --fs-checks --safety-margin --jobs
        case snapshot
            printf '%s\n' -c --config -N --num-snapshots -n --num-backups --keep --keep-at --keep-zone -f --snapshot-folder -p --snapshot-prefix --incremental --rate --compress --retries --checkpoint-interval --max-size --staging-max-age --ssh-opt --ssh-identity-file --ssh-username --ssh-password-file --ssh-auth-sock --ssh-host-key-policy --sudo-password-file --stall-timeout --wait --disk --fs-checks --safety-margin --jobs
        case send
            printf '%s\n' -c --config --only -N --num-snapshots -n --num-backups --keep --keep-at --keep-zone -f --snapshot-folder -p --snapshot-prefix --incremental --rate --compress --retries --checkpoint-interval --max-size --staging-max-age --ssh-opt --ssh-identity-file --ssh-username --ssh-password-file --ssh-auth-sock --ssh-host-key-policy --sudo-password-file --stall-timeout --wait --disk --fs-checks --safety-margin --jobs
        case config
            printf '%s\n' -c --config -o --output
        case timer
            printf '%s\n' -c --config --oncalendar --on-mount
        case list
            printf '%s\n' -c --config -f --snapshot-folder --ssh-opt --ssh-identity-file --ssh-username --ssh-password-file --ssh-auth-sock --ssh-host-key-policy --sudo-password-file --stall-timeout
        case status
            printf '%s\n' --max-age --warn --crit --metrics --html -c --config -f --snapshot-folder --ssh-opt --ssh-identity-file --ssh-username --ssh-password-file --ssh-auth-sock --ssh-host-key-policy --sudo-password-file --stall-timeout
        case log
            printf '%s\n' --since
        case restore
            printf '%s\n' --to --replaces --file --files-from --id --number --from -p --snapshot-prefix --wait --rate --compress --retries --checkpoint-interval --max-size -f --snapshot-folder --ssh-opt --ssh-identity-file --ssh-username --ssh-password-file --ssh-auth-sock --ssh-host-key-policy --sudo-password-file --stall-timeout
        case versions
            printf '%s\n' --at --diff -f --snapshot-folder --ssh-opt --ssh-identity-file --ssh-username --ssh-password-file --ssh-auth-sock --ssh-host-key-policy --sudo-password-file --stall-timeout
        case diff
            printf '%s\n' --ssh-opt --ssh-identity-file --ssh-username --ssh-password-file --ssh-auth-sock --ssh-host-key-policy --sudo-password-file --stall-timeout
        case prune
            printf '%s\n' -c --config --keep --keep-at --keep-zone -f --snapshot-folder -p --snapshot-prefix --simulate --every --id --wait --ssh-opt --ssh-identity-file --ssh-username --ssh-password-file --ssh-auth-sock --ssh-host-key-policy --sudo-password-file --stall-timeout
        case verify
            printf '%s\n' --source --from -p --snapshot-prefix --scratch --subset -c --config -f --snapshot-folder --ssh-opt --ssh-identity-file --ssh-username --ssh-password-file --ssh-auth-sock --ssh-host-key-policy --sudo-password-file --stall-timeout
        case doctor
            printf '%s\n' -c --config --ssh-opt --ssh-identity-file --ssh-username --ssh-password-file --ssh-auth-sock --ssh-host-key-policy --sudo-password-file --stall-timeout
        case demo
    end
end

# Print the command, or none, and the operands before the cursor.
function _btrfs_backup_ng_words
    set -l command none
    set -l operands
    set -l valued (_btrfs_backup_ng_valued none)
    set -l is_value no
    for word in (commandline -opc)[2..-1]
        if test $is_value = yes
            set is_value no
        else if contains -- $word $valued
            set is_value yes
        else if string match -q -- '-*' $word
            continue
        else if test $command = none; and test -z "$operands"; and contains -- $word run snapshot send config timer list status log restore versions diff prune verify doctor demo help
            set command $word
            set valued (_btrfs_backup_ng_valued $word)
        else
            set -a operands $word
        end
    end
    printf '%s\n' $command $operands
end

# Are these words of one of these commands?
function _btrfs_backup_ng_in
    contains -- (_btrfs_backup_ng_words)[1] $argv
end

# Is it the operand of that number (N+: or a later one) of a command?
function _btrfs_backup_ng_at
    set -l words (_btrfs_backup_ng_words)
    test $words[1] = $argv[2]; or return
    set -l number (string trim -r -c + $argv[1])
    test (count $words) -eq $number; and return
    string match -q '*+' $argv[1]; and test (count $words) -gt $number
end

complete -c btrfs-backup-ng -f
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_at 1 none' -a run -d 'back up all that is configured, or a part of it'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_at 1 none' -a snapshot -d 'make the snapshots of all that is configured, and no more'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_at 1 none' -a send -d 'send what the configured targets are missing, and no more'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_at 1 none' -a config -d 'check the configuration, or write a first one'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_at 1 none' -a timer -d 'back up by itself, every hour or when a disk is mounted'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_at 1 none' -a list -d 'list snapshots, backups and interrupted transfers'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_at 1 none' -a status -d 'show the state of each place in one word'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_at 1 none' -a log -d 'show what past runs did, and what failed'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_at 1 none' -a restore -d 'restore a snapshot, or files from it'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_at 1 none' -a versions -d 'show every version of a file'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_at 1 none' -a diff -d 'show what changed between two snapshots'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_at 1 none' -a prune -d 'delete old snapshots and backups, or interrupted transfers'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_at 1 none' -a verify -d 'check stored snapshots and backups, or test a restore'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_at 1 none' -a doctor -d 'check that backups to and from places will work'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_at 1 none' -a demo -d 'try it all on throw-away filesystems'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_at 1 none' -a help -d 'show the options of a command'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in help' -a 'run snapshot send config timer list status log restore versions diff prune verify doctor demo'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_at 1+ none' -a '(_btrfs_backup_ng_place)'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_at 1 config' -a 'check init'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_at 1 timer' -a 'install show remove'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_at 1+ list' -a '(_btrfs_backup_ng_place)'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_at 1+ status' -a '(_btrfs_backup_ng_place)'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_at 1+ log' -a '(_btrfs_backup_ng_place)'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_at 1 restore' -a '(_btrfs_backup_ng_place)'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_at 2+ restore' -a '(_btrfs_backup_ng_snapshot)'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_at 1+ versions' -a '(_btrfs_backup_ng_file)'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_at 1 diff' -a '(_btrfs_backup_ng_place)'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_at 2+ diff' -a '(_btrfs_backup_ng_beside)'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_at 1+ prune' -a '(_btrfs_backup_ng_place)'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_at 1 verify' -a '(_btrfs_backup_ng_place)'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_at 2+ verify' -a '(_btrfs_backup_ng_snapshot)'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_at 1+ doctor' -a '(_btrfs_backup_ng_place)'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send config timer list status log restore versions diff prune verify doctor demo' -s h -l help -d 'print the usual options'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send config timer list status log restore versions diff prune verify doctor demo' -l help-all -d 'print all options'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send' -s N -l num-snapshots -x -d 'keep the latest N snapshots at the source, and those that a destination still needs'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send' -s n -l num-backups -x -d 'keep the latest N backups at each destination'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send prune' -l keep -x -d 'retention policy for the snapshots at the source'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send prune' -l keep-at -x -d 'the same for the backups at each destination'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send prune' -l keep-zone -x -d 'time zone in which its days begin'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run' -s S -l no-snapshot -d 'make no snapshot'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run' -s T -l no-transfer -d 'send nothing'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run' -l no-prune -d 'delete nothing, whatever the policies say'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send list status restore versions prune verify' -s f -l snapshot-folder -x -a '(_btrfs_backup_ng_file)' -d 'where the source keeps its snapshots'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send' -s p -l snapshot-prefix -x -d 'prefix of the snapshots\' names'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send' -s s -l sync -d 'after deleting, wait until the space is free'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send' -s w -l convert-rw -d 'make snapshots writable before deleting them'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send' -s I -l no-incremental -d 'always send in full'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send' -l incremental -x -a 'auto required' -d 'required'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send restore' -l rate -x -d 'limit to SIZE bytes a second'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send restore' -l compress -x -a 'none auto zstd lz4' -d 'compress on the way through ssh'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send restore' -l retries -x -d 'resume an interrupted transfer up to N times in this run'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send restore' -l checkpoint-interval -x -d 'save a resume point every SIZE bytes, over ssh and in large local transfers'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send restore' -l max-size -x -d 'stop and discard a transfer larger than SIZE'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send' -l no-checkpoints -d 'after an interruption, send again from the start'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send' -l staging-max-age -x -d 'delete interrupted transfers that were not resumed for AGE'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send' -l no-fan-out -d 'read a snapshot again for each destination, one destination after the other'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send' -l use-mbuffer -d 'buffer with mbuffer'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send' -l no-mbuffer -d 'never use mbuffer'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send' -l verify-transfer -l no-verify-transfer -d 'check each backup again after publishing it'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send list status restore versions diff prune verify doctor' -l ssh-opt -x -d 'passed to ssh -o'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send list status restore versions diff prune verify doctor' -l ssh-sudo -d 'use sudo on the other machine'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send list status restore versions diff prune verify doctor' -l ssh-identity-file -x -a '(_btrfs_backup_ng_file)' -d 'log in with this private key'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send list status restore versions diff prune verify doctor' -l ssh-username -x -d 'log in as U if the place names no user'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send list status restore versions diff prune verify doctor' -l no-password-auth -d 'never ask for a password'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send list status restore versions diff prune verify doctor' -l ssh-password-file -x -a '(_btrfs_backup_ng_file)' -d 'the first line of F is the password or passphrase for ssh'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send list status restore versions diff prune verify doctor' -l ssh-auth-sock -x -a '(_btrfs_backup_ng_file)' -d 'socket of your ssh agent, which sudo hides'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send list status restore versions diff prune verify doctor' -l ssh-host-key-policy -x -a 'accept-new strict' -d 'unknown hosts'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send list status restore versions diff prune verify doctor' -l sudo-password-file -x -a '(_btrfs_backup_ng_file)' -d 'the first line of F is the password for sudo on the other machine'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send list status restore versions diff prune verify doctor' -l stall-timeout -x -d 'stop a transfer without progress, and give up a place without an answer, after SPAN'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send' -l dry-run -d 'print what would be done, with sizes'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send restore prune' -l wait -x -d 'wait up to SPAN'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send' -l locked-destinations -d 'also back up to every destination that snapshots are held for'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send' -l remove-locks -d 'release the snapshots that are held for the given destinations, and do nothing else'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send' -l disk -x -d 'with --remove-locks'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send' -l fs-checks -x -a 'auto strict skip' -d 'suspicious filesystems'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send' -l skip-fs-checks -d 'the same as --fs-checks skip'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send restore' -l no-check-space -d 'skip the free-space check'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send' -l safety-margin -x -d 'also leave PCT percent of the transfer free, and at least 100 MiB'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send' -l backfill -d 'also send missing snapshots that are older than the newest backup'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send' -l force -d 'continue although the space check fails, the source keeps backups, or a policy would delete more than half'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send' -l jobs -x -d 'run up to N tasks'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send config timer list status log restore versions diff prune verify doctor demo' -l sudo -d 'if not root, run this command again through sudo'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send config timer list status log restore versions diff prune verify doctor' -s q -l quiet -d 'print nothing but failures'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send config timer list status log restore versions diff prune verify doctor' -s v -l verbose -d 'print more'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send config timer list status log restore versions diff prune verify doctor' -s d -l debug -d 'the same as -vv'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send config timer list status log restore versions diff prune verify doctor' -l progress -l no-progress -d 'show progress'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send config timer list status log restore versions diff prune verify doctor' -l json -d 'print a JSON document instead of lines'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in none run snapshot send config timer list status log restore versions diff prune verify doctor' -l version -d 'print the version'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in run snapshot send config timer list status prune verify doctor' -s c -l config -x -a '(_btrfs_backup_ng_file)' -d 'read this configuration'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in run send' -l only -x -d 'send to this target only, and leave out the volumes that do not go there'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in config' -s o -l output -x -a '(_btrfs_backup_ng_file)' -d 'import'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in config' -l notify -d 'send a test through each notifier of [notify]'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in timer' -l hourly -d 'every hour'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in timer' -l daily -d 'every day'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in timer' -l oncalendar -x -a 'minutely hourly daily weekly monthly' -d 'at these times, as systemd writes them'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in timer' -l on-mount -x -d 'whenever the disk of this target is mounted'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in timer' -l user -d 'as this user, not as root'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in timer' -s n -l dry-run -d 'print what would be written or removed'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in timer prune' -s y -l yes -d 'do not ask for confirmation'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in list' -l latest -d 'list only the newest complete snapshot or backup of each prefix and source'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in list' -l size -d 'measure how much each holds, and how much deleting it frees'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in status' -l max-age -x -d 'a newest snapshot or backup older than SPAN'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in status' -l check -d 'print one line with the ages, for Nagios and its kin'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in status' -l warn -x -d 'with --check'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in status' -l crit -x -d 'with --check'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in status' -l watch -d 'look again every 2 seconds until Ctrl-C, on a terminal in place'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in status' -l metrics -x -a '(_btrfs_backup_ng_file)' -d 'also write FILE, in one step, for the textfile collector of Prometheus'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in status' -l html -x -a '(_btrfs_backup_ng_file)' -d 'also write FILE, in one step'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in status' -l forget -d 'drop the records of this machine about these places, which will not come back'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in log' -l since -x -d 'only runs that began within the last SPAN'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in log' -l failures -d 'only failures, with the reason'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in restore' -l to -x -a '(_btrfs_backup_ng_place)' -d 'where to restore'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in restore' -l writable -d 'make a writable subvolume, ready to be used and backed up'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in restore' -l replaces -x -a '(_btrfs_backup_ng_file)' -d 'with --writable'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in restore' -l file -x -a '(_btrfs_backup_ng_file)' -d 'restore only these files and folders, by their paths in the snapshot'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in restore' -l files-from -x -a '(_btrfs_backup_ng_file)' -d 'the same, with the paths in the file LIST, one a line'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in restore' -l id -l number -x -d 'restore version ID'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in restore' -l from -x -a '(_btrfs_backup_ng_place)' -d 'if PLACE has backups of several sources'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in restore' -s 0 -l null -d 'each path in LIST ends with a NUL byte'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in restore' -s p -l snapshot-prefix -x -d 'latest, yesterday and dates mean snapshots with this prefix'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in restore' -l force -d 'restore a snapshot that was changed after it was made, as it is now'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in restore' -s n -l dry-run -d 'print what would be done, with sizes'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in restore' -s I -l no-incremental -d 'send all of the snapshot, so that it shares no data with what the filesystem of PATH has'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in versions' -l at -x -a '(_btrfs_backup_ng_place)' -d 'search there instead of the places on record'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in versions' -l diff -x -d 'show the difference between versions A and B'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in diff' -l no-times -d 'ignore files of which only timestamps changed'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in prune' -s p -l snapshot-prefix -x -d 'only names that start with P'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in prune' -l simulate -x -d 'show which snapshots a policy keeps after SPAN'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in prune' -l every -x -d 'with --simulate'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in prune' -l staging -d 'discard interrupted transfers'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in prune' -l one-source -d 'record that all backups that start with P are of one source, so that a policy may delete them'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in prune' -l id -x -d 'with --staging'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in prune' -s n -l dry-run -d 'print what would be deleted or discarded'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in prune' -l force -d 'continue although a plan looks dangerous, by the clock of this machine'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in verify' -l source -l from -x -a '(_btrfs_backup_ng_place)' -d 'the source these backups were made from'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in verify' -s p -l snapshot-prefix -x -d 'with --source'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in verify' -l data -d 'compare all files with those of the source'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in verify' -l restore-test -d 'restore a snapshot, compare it, remove it'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in verify' -l scratch -x -a '(_btrfs_backup_ng_file)' -d 'a directory on btrfs with room for a restored snapshot'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in verify' -l subset -x -d 'check part K of N'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in doctor' -l sudoers -d 'print only the line that lets the user there run btrfs as root, for /etc/sudoers.d/btrfs-backup-ng'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in demo' -l install-missing -d 'install btrfs-progs if it is missing'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in demo' -l slow -d 'pause after each line, to read along'
complete -c btrfs-backup-ng -n '_btrfs_backup_ng_in demo' -l keep -d 'keep the two filesystems mounted, to look around'
