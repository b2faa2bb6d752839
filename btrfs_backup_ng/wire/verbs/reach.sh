# reach SUBVOLUME POINT ID...: print the paths of subvolumes below the mount point of their filesystem: btrfs send finds
# a parent only there.
#   POINT  the mount point of SUBVOLUME
# Answer: each path, or nothing, with a NUL behind it.

# path_of ID: set $found to the path of a subvolume from the top of the filesystem, "" for the top.
path_of() {
    found=$($btrfs inspect-internal subvolid-resolve "$1" . 2>/dev/null && printf x)
    found=/${found%?x}
    found=${found%/}
}

work_long
go "$1" || finish 1
point=${2%/}
shift 2
path_of "$($btrfs inspect-internal rootid .)"
top=${found%"${PWD#"$point"}"} # what is mounted
for number; do
    path_of "$number"
    case $found in
    "$top/"*)
        found=$point${found#"$top"}
        if is_subvolume "$found" && [ "$($btrfs inspect-internal rootid "$found")" = "$number" ]; then
            printf %s "$found"
        fi
        ;;
    esac
    printf '\0'
done
finish 0
