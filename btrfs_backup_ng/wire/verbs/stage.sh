# stage DIRECTORY NAME: make a private directory in it.

go "$1" || finish 1
try_as_root mkdir -m 700 -- "./$2" || finish 1
[ -O "./$2" ] || adopt "$2"
remember_here && enter "$2" && check_entered
finish $?
