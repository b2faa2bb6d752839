# prepare STATE KIND FOLDER: make the directories of a place.
#   KIND    subvolume or directory: the kind of STATE if it has to be made
#   FOLDER  for the snapshots of a source, or ""

work_long
ready "$1" "$2" "$3"
finish $?
