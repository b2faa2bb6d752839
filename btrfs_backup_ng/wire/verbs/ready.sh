# Functions of prepare and lock; this text runs behind common.sh.

# make_state KIND: enter the place's state directory, after making it as a subvolume or a directory.
make_state() {
    if [ "$1" = subvolume ] && ! is_taken ./.btrfs-backup-ng; then
        btrfs subvolume create -- ./.btrfs-backup-ng >/dev/null 2>&1 ||
            $btrfs subvolume create -- ./.btrfs-backup-ng >/dev/null ||
            is_taken ./.btrfs-backup-ng || return 1
    fi
    make .btrfs-backup-ng && check_entered
}

# make_folder FOLDER: make the folder for snapshots, wherever it is.
make_folder() {
    case $1 in
    *//*) ;;
    *)
        [ -d "$1" ] || try_as_root mkdir -p -- "$1"
        return
        ;;
    esac
    go "${1%%//*}" && remember_here || return 1
    rest=${1#*//}
    entered=
    while [ -n "$rest" ]; do
        name=${rest%%/*}
        rest=${rest#"$name"}
        rest=${rest#/}
        entered=$entered/$name
        case $entered in
        /.btrfs-backup-ng | /.btrfs-backup-ng/*) make "$name" ;;
        *)
            is_taken "./$name" || try_as_root mkdir -- "./$name"
            step "$name"
            ;;
        esac || return 1
    done
    check_entered
}

# ready STATE KIND FOLDER: make a place's state directory, and the folder for its snapshots ("" if it has none), ready
# for the user here to work in.
ready() {
    go "${1%//*}" && remember_here && make_state "$2" || return 1
    [ -z "$3" ] || make_folder "$3"
}
