# prepare STATE KIND FOLDER: make the directories of a place ready.
#   KIND    subvolume or directory: what STATE is made as
#   FOLDER  for the snapshots of a source, or ""

work_long
ready "$1" "$2" "$3"
finish $?
