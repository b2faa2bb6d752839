# sink: read stdin to its end, to measure its speed.

cat >/dev/null
finish $?
