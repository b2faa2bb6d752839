# Functions of prepare and lock; this text runs behind common.sh.

# make_subvolume NAME: make a subvolume in the current directory (another run may do so at the same moment).
make_subvolume() {
    btrfs subvolume create -- "./$1" >/dev/null 2>&1 ||
        $btrfs subvolume create -- "./$1" >/dev/null ||
        is_taken "./$1"
}

# replace_stub NAME: make a subvolume in place of a stub, as it was there before a rollback; leave anything else.
replace_stub() {
    is_stub "./$1" || return 0
    try_as_root rmdir -- "./$1" && make_subvolume "$1"
}

# make_state KIND: enter the place's state directory, after making it as a subvolume or a directory.
make_state() {
    replace_stub .btrfs-backup-ng || return 1
    [ "$1" != subvolume ] || is_taken ./.btrfs-backup-ng || make_subvolume .btrfs-backup-ng || return 1
    make .btrfs-backup-ng && check_entered
}

# make_folder FOLDER: make the folder for snapshots, wherever it is.
make_folder() {
    case $1 in
    *//*) ;;
    *)
        nearest=$1
        until [ -z "$nearest" ] || [ -d "$nearest" ]; do
            nearest=${nearest%/*}
        done
        [ -z "$nearest" ] || (go "${nearest%/*}" && replace_stub "${nearest##*/}") || return 1
        [ -d "$1" ] || try_as_root mkdir -p -- "$1"
        return
        ;;
    esac
    go "${1%%//*}" && remember_here || return 1
    rest=${1#*//}
    under=
    while [ -n "$rest" ]; do
        name=${rest%%/*}
        rest=${rest#"$name"}
        rest=${rest#/}
        under=$under/$name
        case $under in
        /.btrfs-backup-ng | /.btrfs-backup-ng/*) make "$name" ;;
        *)
            replace_stub "$name" || return 1
            is_taken "./$name" || try_as_root mkdir -- "./$name"
            check_entered && step "$name" # it may belong to any user
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
